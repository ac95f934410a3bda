"""Process trees: finding everything that one process started, and ending it.

A pid proves nothing, since numbers are used again; a pid with its start time does. Nothing here signals a process
whose start time is not the one that was seen before. Descendants are found by parent, by session, and, on Linux, by
adoption: this process takes in the orphans of its children, so that a daemon cannot slip away.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

HURRY = 1.0  # seconds of grace that remain once the end is hastened
TICK = 0.05  # seconds between two looks at a tree that is ending
KILLING = 2.5  # seconds in which the killed must be gone; what is left then sits in the kernel, or is another user's
LOOKS = 10  # looks at a tree of which only the dead are seen
PR_SET_CHILD_SUBREAPER = 36

_HAS_PROC = os.path.exists("/proc/self/stat")
_LISTS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
_TICKS = os.sysconf("SC_CLK_TCK")

_lock = threading.Lock()
_open_trees: set[Tree] = set()
_strays: set[int] = set()  # orphans that outlived their tree: ours to reap, not ours to end


class Row(NamedTuple):
    """What the system says about one process; `dead` is one that ended and was not reaped."""

    parent: int
    group: int
    session: int
    started: float
    dead: bool


def start_time(pid: int) -> float | None:
    """When a process began, or None where there is none.

    Seconds since boot on Linux, which no change of the clock moves; seconds since the epoch elsewhere. Compare for
    equality alone, and only within one boot.
    """
    row = _row(pid)
    return row.started if row else None


def never() -> bool:
    """Nothing hastens the end."""
    return False


def stop_tree(pid: int, started: float | None, grace: float, hasten: Callable[[], bool] = never) -> tuple[int, ...]:
    """End a process and all its descendants, from any process: SIGTERM, then SIGKILL after `grace` seconds.

    `started` is the value of `start_time` when `pid` was recorded; where it is None or no longer true, nothing is
    signalled. Once `hasten` says True at most one second of grace is left. Returns the pids that could not be ended.
    """
    if started is None or start_time(pid) != started:
        return ()
    tree = Tree()
    tree.seen[pid] = started
    tree.root, tree.started = pid, started
    return tree.end(grace, hasten, time.sleep)


class Tree:
    """One process and what it started.

    As a context manager it belongs to a child of this process: enter it, `survey`, spawn, then `plant` the child.
    While several are open, orphans that left their session are nobody's, for nothing tells whose they are.
    """

    def __init__(self, spared: Mapping[int, Row] | None = None) -> None:
        self.root = 0
        self.started: float | None = None
        self.seen: dict[int, float] = {}
        self._strangers: set[int] | None = None  # children of this process that were there before
        self._foreign: set[int] = set()  # their sessions, and this process's own
        self._spared = {os.getpid(), *(spared or ())}  # no members, whatever they descend from
        self._own_groups = {os.getpgrp(), *(row.group for row in (spared or {}).values())}

    def __enter__(self) -> Tree:
        _adopt_orphans(os.getpid())
        with _lock:
            _open_trees.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.reap()
        with _lock:
            _open_trees.discard(self)

    def survey(self) -> None:
        """Note the children that this process has already, which are no part of the tree; OSError where it cannot."""
        with _lock:
            rows = {pid: row for pid in _children() if (row := _row(pid))}
            self._strangers = set(rows)
            self._foreign = {os.getsid(0)} | {row.session for row in rows.values()}
            # Neither in this session nor leading its own, so not started by this process: an orphan.
            _reap(_strays | {pid for pid, row in rows.items() if row.session not in (os.getsid(0), pid)})

    def plant(self, pid: int) -> None:
        """Take a child of this process, which leads a session of its own, as the root."""
        self.root, self.started = pid, start_time(pid)
        if self.started is not None:
            self.seen[pid] = self.started

    def living(self) -> dict[int, Row]:
        """The members that are alive, by pid.

        A look at the table takes time, and what forks and exits meanwhile can be missed: none is left when two looks
        in a row find nobody alive and nobody new, not even dead. Where there is always somebody new, those are given.
        """
        quiet, fresh = 0, dict[int, Row]()
        for _ in range(LOOKS):
            alive, fresh = self._look()
            if alive:
                return alive
            quiet = 0 if fresh else quiet + 1
            if quiet == 2:
                break
        return fresh

    def _look(self) -> tuple[dict[int, Row], dict[int, Row]]:
        """The members that are alive; those that came to light, dead or alive."""
        with _lock:
            rows = table()
            adopting = self._adopts()
        return self.sift(rows, adopting)

    def sift(self, rows: Mapping[int, Row], adopting: bool = False) -> tuple[dict[int, Row], dict[int, Row]]:
        """The members among `rows` that are alive, and those that were not known before, dead or alive."""
        rows = {pid: row for pid, row in rows.items() if pid not in self._spared}
        known = {pid for pid, started in self.seen.items() if pid in rows and rows[pid].started == started}
        sessions = {pid for pid in self.seen if pid in known or pid not in rows}
        found, rest = set(known), rows.keys() - known
        while more := {pid for pid in rest if self._owns(pid, rows[pid], found, sessions, adopting)}:
            rest -= more
            found |= more
            sessions |= more
        self.seen.update((pid, rows[pid].started) for pid in found)
        alive = {pid: rows[pid] for pid in found if not rows[pid].dead}
        return alive, {pid: rows[pid] for pid in found - known}

    def left(self, suspicious: bool) -> tuple[int, ...]:
        """The pids of the members that outlived the root; looks only where an orphan came in, or if `suspicious`."""
        if not suspicious and not self._orphans():
            return ()
        if self.living():
            time.sleep(TICK)  # for those who are just about to exit
        return tuple(sorted(pid for pid in self.living() if pid != self.root))

    def end(self, grace: float, hasten: Callable[[], bool], pause: Callable[[float], object]) -> tuple[int, ...]:
        """As `stop_tree`, for this tree; `pause` passes the seconds between two looks, or fewer."""
        members = self.living()
        self._signal(members, signal.SIGTERM)
        self._signal(members, signal.SIGCONT)  # what is stopped takes its SIGTERM only when it goes on
        limit, hastened = time.monotonic() + grace, False
        while self.living() and (left := limit - time.monotonic()) > 0:
            if not hastened and hasten():
                hastened, limit = True, min(limit, time.monotonic() + HURRY)
            pause(min(TICK, left))
            self.reap()
        return self._kill(pause)

    def _kill(self, pause: Callable[[float], object]) -> tuple[int, ...]:
        limit = time.monotonic() + KILLING
        while (members := self.living()) and time.monotonic() < limit:
            self._signal(members, signal.SIGKILL)
            self._outrun()
            pause(TICK)
            self.reap()  # the dead make every look longer, and a longer look misses more
        return tuple(sorted(members))

    def _outrun(self) -> None:
        """Kill orphans as they come in: who forks and exits is gone before the whole table is read, and never at once."""
        limit, quiet = time.monotonic() + TICK, 0
        with _lock, contextlib.suppress(OSError):
            while quiet < LOOKS and time.monotonic() < limit:
                orphans = self._orphans()
                for pid in orphans:
                    os.kill(pid, signal.SIGKILL)  # not reaped, so the pid is still its own
                _reap(orphans)
                quiet = 0 if orphans else quiet + 1

    def reap(self) -> None:
        """Bury the orphans that have died."""
        with _lock, contextlib.suppress(OSError):  # no descriptor left to look with; a later look will do
            if self._adopts() and _any_dead():
                _reap(self._orphans())

    def _signal(self, members: dict[int, Row], number: signal.Signals) -> None:
        """To a session's first group at one stroke, so that no fork gets away, and one by one to those outside of it."""
        groups = {row.group for row in members.values() if row.group == row.session and self._leads(row.group)}
        for group in groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)
        for pid, row in members.items():
            if row.group not in groups:
                send(pid, row.started, number)

    def _leads(self, group: int) -> bool:
        """Whether the member that gave a group its number still has it, so that nobody else's group can be meant."""
        return group in self.seen and self.seen[group] == start_time(group) and group not in self._own_groups

    def _owns(self, pid: int, row: Row, found: set[int], sessions: set[int], adopting: bool) -> bool:
        if self.started is None or row.started < self.started:
            return False
        return row.parent in found or row.session in sessions or (adopting and self._is_orphan(pid, row))

    def _adopts(self) -> bool:
        return self._strangers is not None and _adopt_orphans(os.getpid()) and _open_trees == {self}

    def _is_orphan(self, pid: int, row: Row) -> bool:
        """A child that this process came to have since the survey, other than by starting it in its own session."""
        mine = row.parent == os.getpid() and pid != self.root
        return mine and pid not in (self._strangers or ()) and row.session not in self._foreign

    def _orphans(self) -> set[int]:
        if not self._adopts():
            return set()
        found = set()
        for pid in _children() - {self.root} - (self._strangers or set()):
            with contextlib.suppress(ProcessLookupError):  # reaped by another thread
                if os.getsid(pid) not in self._foreign:
                    found.add(pid)
        return found


@functools.cache
def _adopt_orphans(pid: int) -> bool:
    """Have this process, whose pid is given since a fork loses the mark, take in its descendants' orphans (Linux)."""
    if sys.platform != "linux" or not _HAS_PROC:
        return False
    import ctypes

    return bool(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def _any_dead() -> bool:
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return False


def _reap(pids: set[int]) -> None:
    for pid in pids:
        _strays.add(pid)
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                continue
        _strays.discard(pid)


def _children() -> set[int]:
    """The pids of this process's children, the dead included."""
    if not _LISTS_CHILDREN:
        return {pid for pid, row in table().items() if row.parent == os.getpid()}
    found: set[int] = set()
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.update(map(int, Path(f"/proc/self/task/{thread}/children").read_bytes().split()))
    return found


def send(pid: int, started: float, number: signal.Signals) -> None:
    """Signal one process, through a descriptor where the system has them: that cannot come to mean another one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        try:
            handle = os.pidfd_open(pid)
        except (AttributeError, OSError):
            if start_time(pid) == started:
                os.kill(pid, number)
            return
        try:
            if start_time(pid) == started:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def table() -> dict[int, Row]:
    """Every process there is, by pid."""
    if _HAS_PROC:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    else:
        import psutil  # type: ignore[import-untyped,unused-ignore]

        pids = psutil.pids()
    return {pid: row for pid in pids if (row := _row(pid)) is not None}


def _row(pid: int) -> Row | None:
    if not _HAS_PROC:
        return _row_by_psutil(pid)
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split()  # the name before it may hold anything, parentheses included
    return Row(int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]) / _TICKS, fields[0] in (b"Z", b"X"))


def _row_by_psutil(pid: int) -> Row | None:
    import psutil

    try:
        process = psutil.Process(pid)
        dead = process.status() == psutil.STATUS_ZOMBIE
        return Row(process.ppid(), os.getpgid(pid), os.getsid(pid), float(process.create_time()), dead)
    except (psutil.Error, OSError):
        return None
