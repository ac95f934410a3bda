"""What still runs of a run whose runner died: found and ended from any other process.

A process is part of a run by what the run gave its steps (their environment, which their children inherit), or by
descent: from a recorded root, or from the session that one led, where a child had cleared its environment.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from runbook.system.tree import Row, Tree, never, table

RUN = re.compile(rb"\0RUNBOOK_RUN_ID=([^\0]*)")  # in an environment; of two with one name the first counts
STEP = re.compile(rb"\0RUNBOOK_STEP=([^\0]*)")
LONGEST = 200  # characters of a command that are shown

_HAS_PROC = os.path.exists("/proc/self/environ")


class Remnant(NamedTuple):
    """A process that outlived its runner.

    `started` is its `tree.start_time`, `command` what people know it by, `step` the one that its environment names.
    """

    pid: int
    started: float
    command: str
    step: str


class _Mark(NamedTuple):
    """What the environment of a process says of where it comes from."""

    run: str
    step: str


def find_remains(run_id: str, roots: Iterable[tuple[int, float]] = (), step: str = "") -> list[Remnant]:
    """The living processes of a run, the oldest first; never this one or its ancestors.

    These are the ones whose environment names the run (and the step, where one is given), those that descend from
    `roots`, pids with the `start_time` at which they were recorded, and those in a session that such a root led. Where
    a root has gone its number still tells its session, unless a process that has it now, or another run's mark, denies
    that.
    """
    rows = table()
    marks = {pid: mark for pid in rows if (mark := _mark(pid))}
    members = {pid for pid, mark in marks.items() if mark.run == run_id and step in ("", mark.step)}
    strangers = {pid for pid, mark in marks.items() if mark.run != run_id}
    for root, started in roots:
        if root not in rows and root > 0:  # the session 0 is that of all who come from outside of a container
            members |= {pid for pid, row in rows.items() if row.session == root and row.started >= started} - strangers
        elif root in rows and rows[root].started == started:
            members.add(root)
    alive, _ = _tree(rows, members).sift(rows)
    steps = {pid: mark.step for pid, mark in marks.items()}
    found = sorted((row.started, pid) for pid, row in alive.items())
    return [Remnant(pid, at, command, steps.get(pid, "")) for at, pid in found if (command := _command(pid))]


def end_remains(remains: Sequence[Remnant], grace: float) -> list[Remnant]:
    """End them with all their descendants: SIGTERM, then SIGKILL after `grace` seconds; those that could not be ended.

    A pid whose start time is another one by now, this process and its ancestors are not signalled.
    """
    rows = table()
    tree = _tree(rows, {pid for pid, started, _, _ in remains if pid in rows and rows[pid].started == started})
    if not tree.seen:
        return []
    alive, _ = tree.sift(rows)
    # A session that has no other members is theirs, so who turns up in it was started by them.
    others = {row.session for pid, row in rows.items() if pid not in alive and not row.dead}
    for session in {row.session for row in alive.values()} - others - {0}:
        tree.seen[session] = rows[session].started if session in rows else min(tree.seen.values())
    steps = {item.pid: item.step for item in remains}
    left = {pid: _command(pid) or "(has gone, and left others)" for pid in tree.end(grace, never, time.sleep)}
    return [Remnant(pid, tree.seen[pid], command, steps.get(pid, "")) for pid, command in left.items()]


def _tree(rows: dict[int, Row], members: set[int]) -> Tree:
    """The tree of these processes, without this one and its ancestors."""
    spared = _lineage(rows)
    tree = Tree(spared)
    tree.seen = {pid: rows[pid].started for pid in members - spared.keys()}
    tree.started = min(tree.seen.values(), default=None)
    return tree


def _lineage(rows: dict[int, Row]) -> dict[int, Row]:
    """This process and its ancestors, and the first of all processes."""
    found = {1: rows[1]} if 1 in rows else {}
    pid = os.getpid()
    while pid in rows and pid not in found:
        found[pid] = rows[pid]
        pid = rows[pid].parent
    return found


def _mark(pid: int) -> _Mark | None:
    """None where the environment cannot be read, or names no run."""
    text = b"\0" + (_read(pid, "environ") if _HAS_PROC else _environment_by_psutil(pid))
    run, step = RUN.search(text), STEP.search(text)
    return _Mark(os.fsdecode(run[1]), os.fsdecode(step[1]) if step else "") if run and run[1] else None


def _command(pid: int) -> str:
    """Its arguments on one line, or its name where it has none; empty where there is no such process."""
    if not _HAS_PROC:
        return _command_by_psutil(pid)
    text = _read(pid, "cmdline").replace(b"\0", b" ")
    return _line((text if text.strip() else _read(pid, "comm")).decode(errors="replace"))


def _line(text: str) -> str:
    return " ".join(text.split())[:LONGEST]


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb", 0) as file:
            return file.read()
    except OSError:
        return b""


def _environment_by_psutil(pid: int) -> bytes:
    import psutil

    try:
        return os.fsencode("\0".join(f"{name}={value}" for name, value in psutil.Process(pid).environ().items()))
    except (psutil.Error, OSError):
        return b""


def _command_by_psutil(pid: int) -> str:
    import psutil

    try:
        process = psutil.Process(pid)
        return _line(" ".join(process.cmdline())) or process.name()
    except (psutil.Error, OSError):
        return ""
