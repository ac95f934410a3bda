"""A clock that jumps by a year, back or forth, in the middle of a run: nothing but the clock is changed by it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.acceptance.helpers import until
from tests.faults.parts import Figures, Project, ending, processes_of, untrue

YEAR = 365 * 86400
# Moves the wall clock by as many seconds as the file CLOCK says, and leaves the monotonic one alone.
MOVED = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long moved(void) {
    const char *name = getenv("CLOCK");
    FILE *file = name ? fopen(name, "r") : NULL;
    long seconds = 0;
    if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
    return seconds;
}
int clock_gettime(clockid_t clock, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, at);
    if (clock == CLOCK_REALTIME) at->tv_sec += moved();
    return result;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec; at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


@pytest.fixture
def moved(tmp_path: Path) -> dict[str, str]:
    """The environment of a program whose wall clock the file `clock` moves."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    (tmp_path / "moved.c").write_text(MOVED)
    library = tmp_path / "moved.so"
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", library, tmp_path / "moved.c", "-ldl"], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"the clock cannot be moved here: {done.stderr.decode()}")
    env = {"LD_PRELOAD": str(library), "CLOCK": str(tmp_path / "clock")}
    (tmp_path / "clock").write_text(str(YEAR))
    told = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"], env=env, capture_output=True, check=True
    )
    assert float(told.stdout) > time.time() + YEAR - 60
    (tmp_path / "clock").write_text("0")
    return env


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("years", [1, -1])
@pytest.mark.parametrize("end", ["passes", "is lost"])
def test_the_clock_jumps_during_a_step(
    end: str, years: int, project: Project, moved: dict[str, str], tmp_path: Path
) -> None:
    text = (project.folder / "small.yaml").read_text()
    project.write("small.yaml", text.replace("sleep $PAUSE;", "until test -e go; do sleep 0.02; done;"))
    figures = Figures(f"the clock jumps by {years} year, and the run {end}")
    known = set(project.runs())
    background = project.start("exec", "small.yaml", env=moved)
    until(lambda: project.starts.exists() and "work" in project.starts.read_text())
    (run_id,) = set(project.runs()) - known
    (tmp_path / "clock").write_text(str(years * YEAR))
    if end == "passes":
        (tmp_path / "go").touch()
        if (code := background.process.wait(60)) != 0:
            figures.fault("untrue ends", "in the step", f"code {code}: {project.said('err')}")
    else:
        background.process.kill()
        background.process.wait()
        _recovered(figures, project, moved, run_id)
    _examine(figures, project, run_id)
    figures.close(f"it ended {ending(project.journal(run_id))}")


def _recovered(figures: Figures, project: Project, moved: dict[str, str], run_id: str) -> None:
    for command in ("status", "recover"):
        ended = project.rb(command, env=moved)
        if ended.code:
            figures.fault("open books", command, ended.err)
    if ending(project.journal(run_id)) != "lost" or (alive := processes_of(run_id)):
        figures.fault("untrue ends", "recover", f"{ending(project.journal(run_id))}, alive: {alive}")


def _examine(figures: Figures, project: Project, run_id: str) -> None:
    """The books agree, the run's own times go forward, and it lasted no year."""
    for kind, what in untrue(project, run_id):
        figures.fault(kind, run_id, what)
    lines = project.journal(run_id)
    end = next(line.event for line in lines if line.event.kind in ("run.finished", "run.lost"))
    if not 0 <= end.data["duration"] < 300:
        figures.fault("duration", run_id, end.data["duration"])
    own = [datetime.fromisoformat(line.event.at) for line in lines if line.event.seq < end.seq]
    if own != sorted(own):
        figures.fault("order", run_id, own)
