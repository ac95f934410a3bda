"""Steps that print gigabytes, or what is no text: bounded memory and a bounded log; and what a runner takes that waits."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from runbook.operate.output import MAX_LOG
from tests.conftest import Database
from tests.faults.parts import Figures, Project, ending

MB = 1 << 20
PRINTING = 100 * MB  # the most that a runner may take whose step prints
WAITING = 60 * MB
KINDS = {
    "lines": "yes 'a line as a program prints it, neither short nor long, with 80 characters in it' | head -c {size}",
    "no newline": "head -c {size} /dev/zero | tr '[:cntrl:]' x",
    "NULs": "head -c {size} /dev/zero",
    "invalid UTF-8": "head -c {size} /dev/zero | tr '[:cntrl:]' '[\\377*]'",
    "random bytes": "head -c {size} /dev/urandom",
    "escape sequences": "yes \"$(printf '\\033[31m\\033]0;title\\007\\033[2J')\" | head -c {size}",
}


@pytest.fixture
def printing(tmp_path: Path) -> Callable[[str, int], Project]:
    """A project whose only step prints so many bytes of a kind; no database."""

    def make(kind: str, size: int) -> Project:
        project = Project(tmp_path, None)
        text = KINDS[kind].format(size=size).replace("\n", " ")
        project.write(
            "small.yaml", f"runbook: 1\nname: small\nsteps:\n  print:\n    shell: |\n      {text}\n    timeout: 1h\n"
        )
        return project

    return make


def test_a_little_of_anything(printing: Callable[[str, int], Project]) -> None:
    figures = Figures("256 KB of anything")
    for kind in ("random bytes", "escape sequences"):
        _print(figures, printing(kind, MB // 4), kind, MB // 4)
    figures.close(_told(figures))


@pytest.mark.slow
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("kind", ["lines", "no newline"])
def test_two_gigabytes(kind: str, printing: Callable[[str, int], Project]) -> None:
    figures = Figures(f"2 GB ({kind})")
    _print(figures, printing(kind, 2048 * MB), kind, 2048 * MB)
    figures.close(_told(figures))


@pytest.mark.slow
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("kind", list(KINDS)[1:])
def test_two_hundred_megabytes(kind: str, printing: Callable[[str, int], Project]) -> None:
    figures = Figures(f"200 MB ({kind})")
    _print(figures, printing(kind, 200 * MB), kind, 200 * MB)
    figures.close(_told(figures))


def _told(figures: Figures) -> str:
    peaks = ", ".join(f"{kind} {figures.count[kind] / MB:.0f} MB" for kind in figures.slowest)
    return f"peak memory of the runner: {peaks}"


def _print(figures: Figures, project: Project, kind: str, size: int) -> None:
    known = set(project.runs())
    began = time.monotonic()
    background = project.start("exec", "small.yaml", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    figures.count[kind] = peak = _peak(background.process)
    figures.took(kind, time.monotonic() - began)
    (run_id,) = set(project.runs()) - known
    log = project.runs()[run_id] / "output.log"
    if background.process.returncode != 0 or ending(project.journal(run_id)) != "passed":
        figures.fault("untrue ends", kind, f"code {background.process.returncode}, {ending(project.journal(run_id))}")
    if peak > PRINTING:
        figures.fault("memory", kind, f"{peak / MB:.0f} MB")
    if fault := _wrong_log(log, size):
        figures.fault("log", kind, fault)
    log.unlink()


def _wrong_log(log: Path, size: int) -> str:
    kept = log.stat().st_size
    with log.open("rb") as file:
        file.seek(max(0, kept - 200))
        end = file.read().decode(errors="replace")
    if size <= MAX_LOG:
        return "" if kept == size else f"it has {kept} of {size} bytes"
    if not MAX_LOG <= kept < MAX_LOG + 200:
        return f"it has {kept} bytes"
    return "" if "the rest is not kept" in end else f"it ends with {end!r}"


def _peak(process: subprocess.Popen[bytes]) -> int:
    """The most memory that the process had, in bytes, once it has ended."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, _status(process.pid, "VmHWM"))
        time.sleep(0.02)
    return peak


def _status(pid: int, name: str) -> int:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else 0


# --- waiting -------------------------------------------------------------------------------------------------------


@contextmanager
def _detached(project: Project, *arguments: str) -> Iterator[psutil.Process]:
    """A runner that has left the session and waits for its step."""
    started = project.rb("exec", "small.yaml", "--detach", *arguments)
    assert started.code == 0, started.err
    match = re.search(r"PID: +(\d+)", started.err)
    assert match
    runner = psutil.Process(int(match[1]))
    try:
        yield runner
    finally:
        runner.send_signal(signal.SIGTERM)
        psutil.wait_procs([runner], 30)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("where", ["given", "embedded", "none"])
def test_a_detached_runner_that_waits(where: str, database: Database, tmp_path: Path) -> None:
    figures = Figures(f"a detached runner that waits ({where} PostgreSQL)")
    project = Project(tmp_path, database if where == "given" else None)
    connections = "" if where == "none" else "connections:\n  db: {type: postgres, env: DATABASE_URL}\n"
    project.write("small.yaml", f"runbook: 1\nname: small\n{connections}steps:\n  wait: {{command: [sleep, '600']}}\n")
    with _detached(project, *(["--database", "embedded"] if where == "embedded" else [])) as runner:
        time.sleep(10)
        resident, peak = _status(runner.pid, "VmRSS"), _status(runner.pid, "VmHWM")
        used = runner.cpu_times()
        time.sleep(10)
        spent = sum(runner.cpu_times()[:2]) - sum(used[:2])
    if resident > WAITING:
        figures.fault("memory", where, f"{resident / MB:.0f} MB")
    figures.close(f"{resident / MB:.0f} MB resident, {peak / MB:.0f} MB at most, {spent * 10:.1f} % of a processor")
