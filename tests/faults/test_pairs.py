"""Two runs with one lock, started at the same time: exactly one runs, the other says at once which one."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.acceptance.helpers import until
from tests.conftest import Database
from tests.faults.parts import HANG, MANY, SOON, TABLES, Figures, Project, untrue

PAIRS = max(MANY // 4, 1)
STEP = "steps:\n  work: {shell: 'echo $RUNBOOK_RUN_ID work >> $STARTS; until test -e $GO; do sleep 0.02; done'}\n"


@pytest.mark.parametrize("lock", ["postgres", "flock"])
def test_one_pair(lock: str, database: Database, tmp_path: Path) -> None:
    _pairs(lock, 1, database, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("lock", ["postgres", "flock"])
def test_many_pairs(lock: str, database: Database, tmp_path: Path) -> None:
    _pairs(lock, PAIRS, database, tmp_path)


def _pairs(lock: str, rounds: int, database: Database, tmp_path: Path) -> None:
    """In one folder, and in two that share what the lock is kept in."""
    database.run(TABLES)
    figures = Figures(f"{rounds} pairs started at the same time ({lock})")
    here, there = (_project(tmp_path, name, lock, database) for name in ("here", "there"))
    for number in range(rounds):
        other = there if number % 2 else here
        _pair(figures, (here, other), number, f"pair {number + 1}{'' if other is here else ', two folders'}")
    figures.close(
        f"{figures.count['one']} times exactly one ran, {figures.count['both']} times both, {figures.count['none']} times none; "
        f"{figures.count['named']} losers named the winner, {figures.count['late']} were late"
    )


def _project(tmp_path: Path, name: str, lock: str, database: Database) -> Project:
    (tmp_path / name).mkdir()
    project = Project(tmp_path / name, database if lock == "postgres" else None, tmp_path)
    head, _, rest = (project.folder / "small.yaml").read_text().partition("connections:\n")
    connections = "connections:\n" + rest.partition("state:\n")[0]
    project.write("small.yaml", head + (connections if lock == "postgres" else "") + STEP)
    return project


def _pair(figures: Figures, projects: tuple[Project, Project], number: int, where: str) -> None:
    go = projects[0].outside / f"go{number}"
    before, began = len(projects[0].began()), time.monotonic()
    both = [
        project.start(
            "exec", "small.yaml", "--json", env={"GO": str(go)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for project in projects
    ]
    loser = until(lambda: next((one for one in both if one.process.poll() is not None), None), HANG)
    took = time.monotonic() - began
    figures.took("the loser", took)
    (winner,) = [one for one in both if one is not loser]
    _let_go(projects[0], go, before)
    lost, won = loser.end(timeout=HANG), winner.end(timeout=HANG)
    if sorted((lost.code, won.code)) != [0, 7]:
        kind = "both" if lost.code == won.code == 0 else "none" if 0 not in (lost.code, won.code) else "other"
        figures.fault(kind, where, f"codes {lost.code} and {won.code}: {lost.err} {won.err}")
        return
    figures.count["one"] += 1
    run_id = won.document["run"]["id"]
    if lost.document["problems"][0]["holder"]["run_id"] != run_id or run_id not in lost.err:
        figures.fault("unnamed", where, lost.err)
    else:
        figures.count["named"] += 1
    if took > SOON:
        figures.fault("late", where, f"{took:.1f} s")
    project = projects[both.index(winner)]
    for kind, what in untrue(project, run_id):
        figures.fault(kind, where, what)


def _let_go(project: Project, go: Path, before: int) -> None:
    """Only when the winner is in its step, so that what is seen is not one run after the other."""
    with suppress(AssertionError):  # where nobody comes to a step, both have ended, and their codes are looked at
        until(lambda: len(project.began()) > before, 4 * SOON)
    go.touch()
