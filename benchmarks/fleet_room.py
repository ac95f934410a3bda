"""What runs of the fleet take of a server: connections, commits, and bytes that are written and that stay."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from bench import NONE, table
from fleet_place import Place, numbers

WATCHED = 5.0  # seconds for which runs that go on are watched
_SIZES = """
SELECT n.nspname, sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname IN ('runbook', 'runbook_fleet') GROUP BY 1
"""
_WRITTEN = """
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8,
    (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database())::float8
"""
_SESSIONS = """
SELECT application_name FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


# --- (d) room, and what is written -----------------------------------------------------------------------------------


class Room(NamedTuple):
    """Bytes of the tables with their indexes, by schema; bytes of WAL and commits so far, and runs that are over."""

    sizes: dict[str, int]
    wal: float
    commits: float
    runs: int


def room(place: Place) -> Room:
    time.sleep(1.5)  # until every session has told its commits
    [(wal, commits)] = place.value(_WRITTEN)
    [(runs,)] = place.value("SELECT count(*) FROM runbook.closings")
    return Room({name: int(size) for name, size in place.value(_SIZES)}, wal, commits, runs)


def print_written(place: Place, before: Room) -> None:
    """What a run costs in the database: bytes that stay, from those runs on which everything above was measured."""
    short = room(place)
    runs = short.runs - before.runs
    sizes = {name: (short.sizes[name] - before.sizes[name]) / runs / 1024 for name in short.sizes}
    ids = json.loads(place.runbook("submit", "short", "--matrix", f"n={numbers(50)}", "--json"))["runs"]
    alone = room(place)
    place.runbook("worker", "--until-empty", "-c", "2")
    after = room(place)
    wal = (after.wal - alone.wal) / len(ids) / 1024
    commits = (after.commits - alone.commits) / len(ids)
    rows = [[f"stays in `{name}`, of {runs} runs", f"{size:.1f}", ""] for name, size in sizes.items()]
    rows.append(["is written ahead (WAL), of 50", f"{wal:.1f}", f"{commits:.1f}"])
    table(["room for a run of one SQL step", "KiB a run", "commits a run"], rows)


# --- (c) connections -------------------------------------------------------------------------------------------------


def print_sessions(place: Place) -> None:
    with _worker(place, 4):
        _until(lambda: any(name == "runbook rescue" for (name,) in place.value(_SESSIONS)))
        time.sleep(1)
        idle = _counted(place)
        before = room(place)
        time.sleep(WATCHED)
        quiet = room(place)
        place.runbook("submit", "long", "--matrix", f"n={numbers(4)}")
        _until(lambda: place.value("SELECT count(*) FROM runbook.events WHERE kind = 'step.started'")[0][0] >= 4)
        time.sleep(2)
        counted: list[Counter[str]] = []
        deadline = time.monotonic() + WATCHED
        while time.monotonic() < deadline:
            counted.append(_counted(place))
            time.sleep(0.1)
        began = room(place)
        time.sleep(WATCHED)
        ended = room(place)
    most = max(counted, key=lambda found: sum(found.values()))
    each = {name: (most[name] - idle[name]) / 4 for name in most if most[name] > idle[name]}
    seconds = WATCHED + 1.5
    _print_counts(idle, each)
    rows = [
        ["a worker that waits", *_pace(before, quiet, seconds, 1)],
        ["a run that goes on", *_pace(began, ended, seconds, 4)],
    ]
    table(["while nothing happens", "commits/s", "WAL KiB/s"], rows)


def _print_counts(idle: Counter[str], each: Mapping[str, float]) -> None:
    rows = [["a worker", str(sum(idle.values())), _named(idle)], ["a run", f"{sum(each.values()):g}", _named(each)]]
    table(["connections of", "count", "their names"], rows)


def _named(found: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {count:g}" for name, count in sorted(found.items()))


def _pace(before: Room, after: Room, seconds: float, count: int) -> list[str]:
    own = 3  # commits of a look at all this
    commits = (after.commits - before.commits - own) / seconds / count
    return [f"{commits:.1f}", f"{(after.wal - before.wal) / 1024 / seconds / count:.1f}"]


def _counted(place: Place) -> Counter[str]:
    """Sessions by what they say they are, without the ids of runs."""
    names = (name.split() for (name,) in place.value(_SESSIONS))
    kinds = ("the lock" if len(words) > 2 and "@" in words[2] else _kind(words) for words in names)
    return Counter(kinds)


def _kind(words: list[str]) -> str:
    if len(words) == 2 and words[1][:1].isdigit():
        return "of the run"
    return " ".join(words) or "unnamed"


@contextmanager
def _worker(place: Place, concurrency: int) -> Iterator[None]:
    """A worker beside what is measured, which ends its runs in the end."""
    argv = (*place.command, "worker", "-c", str(concurrency))
    with subprocess.Popen(argv, env=place.env, cwd=place.folder, stdin=NONE, stdout=NONE, stderr=NONE) as child:
        try:
            yield
        finally:
            for _ in range(2):
                child.send_signal(signal.SIGTERM)
                time.sleep(0.5)


def _until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        if time.monotonic() > deadline:
            sys.exit("what is waited for does not come")
        time.sleep(0.1)
