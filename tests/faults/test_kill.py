"""`kill -9` at random instants: nothing lost, nothing begun twice, no stale lock, nothing left running unseen."""

from __future__ import annotations

import random
import time

import pytest

from tests.faults.parts import (
    MANY,
    SEED,
    SOON,
    Figures,
    Project,
    end_processes,
    ending,
    life_of,
    processes_of,
    untrue,
    wait_opened,
)
from tests.faults.server import Server


def test_a_few_random_instants(project: Project, own_server: Server) -> None:
    _kill(project, own_server, 2, random.Random(SEED))


@pytest.mark.slow
@pytest.mark.timeout(14400)
def test_many_random_instants(project: Project, own_server: Server) -> None:
    _kill(project, own_server, MANY, random.Random(SEED))


def _kill(project: Project, server: Server, rounds: int, chance: random.Random) -> None:
    figures = Figures(f"kill -9 at {rounds} random instants")
    life = life_of(project, min(rounds, 3))
    for number in range(rounds):
        victim = chance.choices(["runner", "runner and step", "runner and database"], [6, 2, 2])[0]
        early = chance.random() < 0.15
        delay = chance.uniform(0, life.opened if early else life.ended)
        where = f"round {number + 1}, {victim}, {delay:.3f} s after {'the start' if early else 'the opening'}"
        _round(project, server, figures, chance, victim, early, delay, where)
    count = figures.count
    figures.close(
        f"{count['lost record']} lost records, {count['double start']} double starts, {count['stale lock']} stale locks, "
        f"{count['orphan']} orphans left unseen, {count['status']} untrue or late answers of status "
        f"({count['lost']} lost, {count['ended']} had ended, {count['unopened']} had not begun; "
        f"with the step {count['runner and step']}, with the database {count['runner and database']}; "
        f"user's rows between effect and record {count['between']})"
    )


def _round(
    project: Project,
    server: Server,
    figures: Figures,
    chance: random.Random,
    victim: str,
    early: bool,
    delay: float,
    where: str,
) -> None:
    known = set(project.runs())
    background = project.start("exec", "small.yaml")
    if not early:
        wait_opened(project, background, known)
    time.sleep(delay)
    background.process.kill()
    run_ids = set(project.runs()) - known
    figures.count[victim] += 1
    figures.count["unopened"] += not run_ids
    if victim == "runner and step":
        for run_id in run_ids:
            end_processes(run_id)
    if victim == "runner and database":
        server.kill()
    background.process.wait()
    away = victim == "runner and database" and chance.random() < 0.5
    if victim == "runner and database" and not away:
        server.start()
    assert len(run_ids) <= 1
    if chance.random() < 0.8:
        _look(project, figures, run_ids, where)
        if away:
            server.start()
        _recover(project, figures, run_ids, where)
    elif away:
        server.start()
    _again(project, figures, where)
    for run_id in run_ids:
        _examine(project, figures, run_id, where)


def _look(project: Project, figures: Figures, run_ids: set[str], where: str) -> None:
    """`status` says lost, or what the journal says, in time; and names what still runs."""
    before = {run_id: ending(project.journal(run_id)) for run_id in run_ids}
    marked = project.open()
    began = time.monotonic()
    ended = project.rb("status", "--json")
    took = time.monotonic() - began
    figures.took("status", took)
    if ended.code != 0 or took > SOON:
        figures.fault("status", where, f"code {ended.code} after {took:.1f} s: {ended.err}")
        return
    told = {record["run"]["id"]: record["run"] for record in ended.document["runs"]}
    for run_id, run in told.items():
        if run["verdict"] is None:
            figures.fault("status", where, f"{run_id} is told to be running")
    for run_id in run_ids & marked:
        if not project.journal(run_id):
            continue
        verdict = told.get(run_id, {}).get("verdict")
        if verdict != (before[run_id] or "lost"):
            figures.fault("status", where, f"{run_id} is told to be {verdict}, it is {before[run_id] or 'lost'}")
        unseen = set(processes_of(run_id)) - {item["pid"] for item in told.get(run_id, {}).get("left") or ()}
        if unseen:
            figures.fault("orphan", where, f"status does not tell of {unseen}")


def _recover(project: Project, figures: Figures, run_ids: set[str], where: str) -> None:
    began = time.monotonic()
    ended = project.rb("recover")
    figures.took("recover", time.monotonic() - began)
    if ended.code != 0:
        figures.fault("lost record", where, f"recover ended with {ended.code}: {ended.err}")
    for run_id in run_ids:
        if project.journal(run_id) and run_id in project.open():
            figures.fault("lost record", where, f"{run_id} is open after recover: {ended.err}")
        if alive := processes_of(run_id):
            figures.fault("orphan", where, f"after recover there are {alive}")


def _again(project: Project, figures: Figures, where: str) -> None:
    """The next run gets the lock and passes."""
    known = set(project.runs())
    began = time.monotonic()
    ended = project.rb("exec", "small.yaml")
    figures.took("the next run", time.monotonic() - began)
    if ended.code != 0:
        figures.fault("stale lock", where, f"the next run ended with {ended.code}: {ended.err}")
    for run_id in set(project.runs()) - known:
        _agree(project, figures, run_id, f"{where}, the next run")


def _examine(project: Project, figures: Figures, run_id: str, where: str) -> None:
    lines = project.journal(run_id)
    outcome = ending(lines)
    figures.count["unopened" if not lines else "lost" if outcome == "lost" else "ended"] += 1
    if alive := processes_of(run_id):
        figures.fault("orphan", where, f"in the end there are {alive}")
        end_processes(run_id)
    _agree(project, figures, run_id, where)


def _agree(project: Project, figures: Figures, run_id: str, where: str) -> None:
    for kind, what in untrue(project, run_id):
        if kind == "row between":
            figures.count["between"] += 1
        else:
            figures.fault(kind, where, what)
