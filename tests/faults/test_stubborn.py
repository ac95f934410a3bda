"""Steps that do not want to end: under a timeout and under `runbook stop` they are gone within the grace time and ten seconds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.acceptance.helpers import until
from tests.faults.parts import Figures, Project, end_processes, ending, processes_of

GRACE = 10.0  # seconds between SIGTERM and SIGKILL
SCRIPTS = {
    "ignores SIGTERM": "trap '' TERM INT HUP; touch up; while :; do sleep 1; done",
    "closes its output": "exec >&- 2>&- <&-; touch up; sleep 300",
    "forks away": "(setsid sh -c 'trap \"\" TERM HUP; touch up; while :; do sleep 1; done' &); sleep 300",
    "forks away twice and lets its parent die": "(setsid sh -c '(sleep 301 &) ; exit' &); setsid sleep 302 & touch up; sleep 300",
    "stops itself": "touch up; kill -STOP $$; sleep 300",
    "has a stopped grandchild": "setsid sleep 300 & kill -STOP $!; touch up; wait",
    "starts new ones when it is asked to end": (
        "trap 'setsid sleep 300 & setsid sleep 300 & exit' TERM; touch up; while :; do sleep 0.1; done"
    ),
    "is many": "for i in 1 2 3 4 5 6 7 8 9; do setsid sh -c 'sleep 300 & sleep 300' & done; sleep 0.3; touch up; wait",
}
QUICK = ["closes its output", "stops itself"]


def test_under_stop(tmp_path: Path) -> None:
    figures = Figures("steps that do not want to end, quickly")
    for name in QUICK:
        _stopped(figures, tmp_path, name)
    figures.close(f"{figures.count['left']} processes left, {figures.count['late']} late")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_under_stop_and_timeout(tmp_path: Path) -> None:
    figures = Figures(f"{len(SCRIPTS)} steps that do not want to end, under stop and under a timeout")
    for name in SCRIPTS:
        _stopped(figures, tmp_path, name)
        _timed_out(figures, tmp_path, name)
    figures.close(
        f"{figures.count['left']} processes left, {figures.count['late']} late, {figures.count['untrue']} untrue ends"
    )


def _project(tmp_path: Path, name: str, timeout: str) -> Project:
    project = Project(tmp_path, None)
    (tmp_path / "up").unlink(missing_ok=True)
    project.write(
        "small.yaml",
        f"runbook: 1\nname: small\nsteps:\n  s:\n    shell: |\n      {SCRIPTS[name]}\n    timeout: {timeout}\n",
    )
    return project


def _stopped(figures: Figures, tmp_path: Path, name: str) -> None:
    project = _project(tmp_path, name, "10m")
    known = set(project.runs())
    background = project.start("exec", "small.yaml")
    until((tmp_path / "up").exists)
    began = time.monotonic()
    stopped = project.rb("stop")
    code = background.process.wait(60)
    _judge(
        figures,
        project,
        known,
        f"{name}, under stop",
        time.monotonic() - began,
        (code, stopped.code),
        (130, 0),
        "cancelled",
    )


def _timed_out(figures: Figures, tmp_path: Path, name: str) -> None:
    project = _project(tmp_path, name, "2s")
    known = set(project.runs())
    began = time.monotonic()
    code = project.rb("exec", "small.yaml").code
    _judge(figures, project, known, f"{name}, under a timeout", time.monotonic() - began - 2, (code,), (4,), "failed")


def _judge(
    figures: Figures,
    project: Project,
    known: set[str],
    where: str,
    took: float,
    codes: tuple[int, ...],
    expected: tuple[int, ...],
    verdict: str,
) -> None:
    (run_id,) = set(project.runs()) - known
    figures.took(where.partition(", ")[2], took)
    if codes != expected or ending(project.journal(run_id)) != verdict:
        figures.fault("untrue", where, f"codes {codes}, verdict {ending(project.journal(run_id))}")
    if took > GRACE + 10:
        figures.fault("late", where, f"{took:.1f} s")
    if alive := processes_of(run_id):
        figures.fault("left", where, alive)
        end_processes(run_id)
