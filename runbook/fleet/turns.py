"""Submissions and whose turn they are: what stands in the fleet's tables, and how it may change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from runbook.database.connect import Connection, translated
from runbook.fleet.queue import Due, enqueue
from runbook.language.values import dumps, whole
from runbook.operate.circumstances import host
from runbook.operate.options import Submitted

FAILURES = 3  # starts that may end by themselves before the run has begun
ATTEMPTS = 3  # of a runbook that says `rerun: true`


class Submission(NamedTuple):
    """A run that is asked for, with all that a worker needs. `files` are hashes by place relative to the project."""

    run_id: str
    experiment: str
    runbook: str
    file: str
    sha256: str
    files: Mapping[str, str]
    params: Mapping[str, Any]
    varied: Sequence[str]
    options: Mapping[str, Any]
    label: str
    lock: str
    rerun: bool
    operator: str
    host: str
    submitted_at: datetime | None = None
    due_at: datetime | None = None
    attempt: int = 1
    earlier: str | None = None
    schedule: str | None = None
    tick: datetime | None = None


class Turn(NamedTuple):
    """A run that was claimed: `epoch` is this start's, `stop` says who asked for its end before it began, `because` why an
    earlier start came to nothing."""

    submission: Submission
    epoch: int
    failures: int = 0
    stop: str = ""
    because: str = ""

    @property
    def submitted(self) -> Submitted:
        """What its run is to know of it."""
        item = self.submission
        told: dict[str, Any] = {"by": item.operator, "host": item.host, "at": _iso(item.submitted_at)}
        told |= {"experiment": item.experiment, "varied": list(item.varied), "label": item.label, "rerun": item.rerun}
        told |= {"attempt": item.attempt, "earlier": item.earlier, "schedule": item.schedule, "tick": _iso(item.tick)}
        return Submitted(item.run_id, self.epoch, item.lock, {**told, "epoch": self.epoch})


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="milliseconds") if moment else None


_COLUMNS = ", ".join(Submission._fields)
_GIVEN = [name for name in Submission._fields if name not in ("submitted_at", "due_at")]
_SUBMIT = f"""
INSERT INTO runbook_fleet.submissions ({", ".join(_GIVEN)}, due_at)
VALUES ({", ".join(f"${index}" for index in range(1, len(_GIVEN) + 1))},
    coalesce(${len(_GIVEN) + 1}::timestamptz, clock_timestamp()))
"""
_CLAIM = """
UPDATE runbook_fleet.turns SET state = 'running', epoch = epoch + 1, worker = $2, host = $3, since = clock_timestamp(),
    seen_at = clock_timestamp(), doing = NULL
WHERE run_id = $1 AND state = 'queued' AND NOT EXISTS (SELECT FROM runbook.runs r WHERE r.run_id = $1)
RETURNING epoch, failures, coalesce(stop, ''), because
"""
_HOLD = "SELECT 1 FROM runbook_fleet.turns WHERE run_id = $1 AND epoch = $2 AND state = 'running' FOR UPDATE"
_REQUEUE = """
UPDATE runbook_fleet.turns SET state = 'queued', epoch = epoch + 1, worker = NULL, since = clock_timestamp(), doing = NULL,
    failures = failures + $2, because = $3
WHERE run_id = $1 AND NOT EXISTS (SELECT FROM runbook.runs r WHERE r.run_id = $1) RETURNING clock_timestamp()
"""
_CLOSED = """
UPDATE runbook_fleet.turns t SET state = 'over', since = c.finished_at, doing = NULL
FROM runbook.closings c WHERE c.run_id = t.run_id AND t.state <> 'over' AND ($1::text IS NULL OR t.run_id = $1)
"""


def keep_files(connection: Connection, contents: Iterable[bytes]) -> None:
    """Keeps texts by their hash, within the caller's transaction."""
    for content in contents:
        digest = hashlib.sha256(content).hexdigest()
        query = "INSERT INTO runbook_fleet.files VALUES ($1, $2) ON CONFLICT DO NOTHING"
        connection.execute(query, [digest, content])


def kept_files(connection: Connection, digests: Iterable[str]) -> dict[str, bytes]:
    """The texts of some hashes. Raises ServerError."""
    with translated():
        query = "SELECT sha256, content FROM runbook_fleet.files WHERE sha256 = ANY($1)"
        return {row[0]: bytes(row[1]) for row in connection.execute(query, [list(digests)])}


def insert(connection: Connection, items: Sequence[Submission]) -> None:
    """Submits runs, within the caller's transaction. Raises ServerError."""
    with translated():
        for item in items:
            values = {**item._asdict(), "varied": list(item.varied)}
            for name in ("files", "params", "options"):
                values[name] = dumps(whole(values[name]))
            connection.execute(_SUBMIT, [*(values[name] for name in _GIVEN), item.due_at])
        ids = [item.run_id for item in items]
        connection.execute("INSERT INTO runbook_fleet.turns (run_id) SELECT unnest($1::text[])", [ids])
    enqueue(connection, [Due(item.run_id, item.label, item.lock, item.due_at) for item in items])


def submission(connection: Connection, run_id: str) -> Submission | None:
    """A submission, where there is one. Raises ServerError."""
    with translated():
        query = f"SELECT {_COLUMNS} FROM runbook_fleet.submissions WHERE run_id = $1"
        row = connection.execute(query.encode(), [run_id]).fetchone()
    return Submission(*row) if row else None


def claim(connection: Connection, run_id: str, worker: int | None) -> Turn | None:
    """Takes a queued run: nobody else may start it. None where it is not queued. Raises ServerError."""
    with translated():
        row = connection.execute(_CLAIM, [run_id, worker, host()]).fetchone()
    item = submission(connection, run_id) if row else None
    return Turn(item, *row) if row and item else None


def requeue(connection: Connection, turn: Turn, because: str, seconds: float, *, failed: bool) -> bool:
    """Puts a run that has not begun into the queue again, not to be taken for so many seconds; whether that was possible.

    Whoever started it under the old epoch writes nothing any more. Raises ServerError.
    """
    item = turn.submission
    with translated(), connection.transaction():
        if not is_held(connection, turn):
            return False
        row = connection.execute(_REQUEUE, [item.run_id, int(failed), because]).fetchone()
        if row is None:
            return False
        enqueue(connection, [Due(item.run_id, item.label, item.lock, row[0] + timedelta(seconds=seconds))])
    return True


def is_held(connection: Connection, turn: Turn) -> bool:
    """Whether this start counts still; within a transaction it does so to the end of it. Raises ServerError."""
    with translated():
        return connection.execute(_HOLD, [turn.submission.run_id, turn.epoch]).fetchone() is not None


def admit(connection: Connection, run_id: str) -> None:
    """Puts a run whose time has come into the queue under its lock. Raises ServerError."""
    item = submission(connection, run_id)
    if item is not None:
        enqueue(connection, [Due(item.run_id, item.label, item.lock)])


def give_back(connection: Connection, run_id: str) -> None:
    """Puts a run that was not claimed into the queue again, for another worker or for later. Raises ServerError."""
    item = submission(connection, run_id)
    if item is None:
        return
    with translated(), connection.transaction():
        row = connection.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None
        enqueue(connection, [Due(run_id, item.label, item.lock, row[0] + timedelta(seconds=1))])


def settle(connection: Connection, run_id: str | None = None) -> None:
    """Marks as over what the audit has the end of: one run, or all. Raises ServerError."""
    with translated():
        connection.execute(_CLOSED, [run_id])


def ask_to_end(connection: Connection, run_id: str, by: str) -> None:
    """Writes down who first asked for the end of a run: whoever has it next heeds it. Raises ServerError."""
    with translated():
        connection.execute("UPDATE runbook_fleet.turns SET stop = $2 WHERE run_id = $1 AND stop IS NULL", [run_id, by])


def see(connection: Connection, run_id: str, epoch: int) -> bool:
    """A sign of life of a start that has no relay yet; False where it was given up meanwhile. Raises ServerError."""
    query = "UPDATE runbook_fleet.turns SET seen_at = clock_timestamp() WHERE run_id = $1 AND epoch = $2 AND state = 'running'"
    with translated():
        return connection.execute(f"{query} RETURNING true", [run_id, epoch]).fetchone() is not None
