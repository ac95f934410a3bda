"""What the processes of a step use."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypedDict

from runbook.engine.record import Record, under_way
from runbook.operate.alive import boot_id
from runbook.operate.circumstances import host
from runbook.system.tree import Tree

if TYPE_CHECKING:
    import psutil


class UsageDoc(TypedDict):
    """`cpu` is a percentage of one processor since the last look, None at the first; `memory` the resident set in bytes."""

    processes: int
    cpu: float | None
    memory: int


class Usage:
    """Looks at the processes of the step that is under way, found by parent and by session."""

    def __init__(self) -> None:
        self._tree = Tree()
        self._at = 0.0
        self._last: UsageDoc | None = None
        self._known: dict[tuple[int, float], psutil.Process | None] = {}

    def look(self, record: Record, age: float = 0.0) -> UsageDoc | None:
        """What they use now, or used at most `age` seconds ago; None where none are found on this machine."""
        if not age or time.monotonic() - self._at > age:
            self._last, self._at = self._look(record), time.monotonic()
        return self._last

    def _look(self, record: Record) -> UsageDoc | None:
        root = _root(record)
        if root is None:
            return None
        if self._tree.root != root[0] or self._tree.started != root[1]:
            self._tree = Tree()
            self._tree.root, self._tree.started = root
            self._tree.seen[root[0]] = root[1]
        living = self._tree.living()
        first = not self._known
        self._known = {(pid, row.started): self._process(pid, row.started) for pid, row in living.items()}
        found = [facts for process in self._known.values() if (facts := _facts(process)) is not None]
        if not found:
            return None
        cpu = None if first else round(sum(share for share, _ in found), 1)
        return {"processes": len(found), "cpu": cpu, "memory": sum(memory for _, memory in found)}

    def _process(self, pid: int, started: float) -> psutil.Process | None:
        import psutil

        known = self._known.get((pid, started))
        if known is not None:
            return known
        try:
            return psutil.Process(pid)
        except psutil.Error:
            return None


def _root(record: Record) -> tuple[int, float] | None:
    """Pid and start time of the process of the step that is under way, on this very boot of this machine."""
    run, step = record["run"], under_way(record)
    if not step or run.get("host") != host() or run.get("boot_id", "") != boot_id():
        return None
    attempt = record["steps"][step]["tries"][-1]
    started = attempt.get("started")
    return None if started is None else (int(attempt["pid"]), float(started))


def _facts(process: psutil.Process | None) -> tuple[float, int] | None:
    import psutil

    if process is None:
        return None
    try:
        with process.oneshot():
            return process.cpu_percent(None), process.memory_info().rss
    except psutil.Error:
        return None
