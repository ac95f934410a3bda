"""What becomes of submitted runs whose worker died, was paused or lost the network: every worker looks after all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from runbook.database.connect import Connection, ServerError, connect, translated
from runbook.fleet.adopt import Here, conclude_unbegun, copy_journal, runbook_here
from runbook.fleet.crew import News
from runbook.fleet.queue import Due, enqueue, finish, put_back, stalled
from runbook.fleet.turns import ATTEMPTS, FAILURES, Submission, Turn, insert, requeue, settle, submission
from runbook.language.problems import RunbookError
from runbook.operate.alive import running
from runbook.operate.circumstances import host
from runbook.operate.lock import Holder, Locked
from runbook.operate.options import new_run_id
from runbook.operate.predecessors import GRACE
from runbook.operate.reaching import audit_target
from runbook.operate.recovery import recover
from runbook.operate.runs import open_runs, outline_of
from runbook.records.audit import queries

EVERY = 10.0  # seconds between two looks
STALE = 10.0  # seconds without a sign of life after which a run's lock is tried
_TURN_OF_ONE = 0x72756E7265736375

_STALE = """
SELECT run_id, epoch, failures, coalesce(stop, '') FROM runbook_fleet.turns WHERE state = 'running'
    AND greatest(seen_at, pg_postmaster_start_time()) < clock_timestamp() - make_interval(secs => $1::float)
"""
_FORGOTTEN = """
SELECT t.run_id FROM runbook_fleet.turns t
WHERE t.state = 'queued' AND t.since < clock_timestamp() - make_interval(secs => $1::float) AND NOT EXISTS (
    SELECT FROM runbook_fleet.procrastinate_jobs j WHERE j.args->>'run_id' = t.run_id AND j.status IN ('todo', 'doing'))
"""
_DONE = """
SELECT j.id FROM runbook_fleet.procrastinate_jobs j JOIN runbook_fleet.turns t ON t.run_id = j.args->>'run_id'
WHERE j.status = 'doing' AND t.state = 'over' AND t.since < clock_timestamp() - make_interval(secs => $1::float)
"""
_OUTDATED = """
SELECT j.id FROM runbook_fleet.procrastinate_jobs j JOIN runbook_fleet.turns t ON t.run_id = j.args->>'run_id'
WHERE j.status = 'doing' AND t.state = 'queued' AND EXISTS (
    SELECT FROM runbook_fleet.procrastinate_jobs n WHERE n.args->>'run_id' = t.run_id AND n.status = 'todo')
"""
_AGAIN = """
SELECT s.run_id FROM runbook.closings c JOIN runbook_fleet.submissions s ON s.run_id = c.run_id
JOIN runbook_fleet.turns t ON t.run_id = c.run_id
WHERE c.verdict = 'lost' AND s.rerun AND s.attempt < $1 AND t.stop IS NULL
    AND NOT EXISTS (SELECT FROM runbook_fleet.submissions n WHERE n.earlier = s.run_id)
"""


class _Stale(NamedTuple):
    """A run that gives no sign of life."""

    run_id: str
    epoch: int
    failures: int
    stop: str


def look_after(connection: Connection, here: Here) -> Iterator[News]:
    """Concludes what nobody else will, and puts right what the queue does not know. Raises ServerError."""
    yield from _of_this_project(here)
    with translated():
        row = connection.execute("SELECT pg_try_advisory_lock($1)", [_TURN_OF_ONE]).fetchone()
    if not row or not row[0]:
        return  # another worker is at it
    try:
        settle(connection)
        with translated():
            found = [_Stale(*row) for row in connection.execute(_STALE, [STALE])]
        for item in found:
            yield from _rescue(connection, here, item)
        _mend_queue(connection)
        yield from _do_again(connection)
    finally:
        with suppress(ServerError), translated():
            connection.execute("SELECT pg_advisory_unlock($1)", [_TURN_OF_ONE])


def _of_this_project(here: Here) -> Iterator[News]:
    """Runs of this project whose process died: their journals are at hand."""
    for folder in open_runs(here.project):
        if running(folder):
            continue
        with suppress(RunbookError):
            known = outline_of(folder)
            if "submitted" not in known["circumstances"] or audit_target(known) != here.target:
                continue
            found = recover(folder, here.way(), lambda record: GRACE)
            if found is not None:
                run = found.record["run"]
                yield News("ended", run["id"], run["runbook"], f"{run['verdict']}: {found.trouble or run['because']}")


def _rescue(connection: Connection, here: Here, stale: _Stale) -> Iterator[News]:
    """Ends one run as lost, unless its lock is held: then it lives, wherever it is."""
    from runbook.operate.database_lock import DatabaseLock

    item = submission(connection, stale.run_id)
    if item is None:
        return
    lock = DatabaseLock(item.lock, lambda: connect(here.url, "runbook rescue"))
    try:
        lock.acquire(Holder(f"rescue-{item.run_id}", host(), os.getpid(), "a worker", ""))
        yield from _conclude(connection, here, item, stale)
    except Locked:
        return
    except RunbookError as error:
        yield News("refused", item.run_id, item.runbook, str(error))
    finally:
        lock.release()


def _conclude(connection: Connection, here: Here, item: Submission, stale: _Stale) -> Iterator[News]:
    """With the run's lock in hand: from here on nothing that it writes is taken."""
    with translated():
        begun = connection.execute("SELECT 1 FROM runbook.runs WHERE run_id = $1", [item.run_id]).fetchone()
        connection.execute(queries()["end_lease"], [item.lock, item.run_id])
    if not begun:
        yield from _start_again(connection, here, Turn(item, stale.epoch, stale.failures, stale.stop))
        return
    query = "UPDATE runbook_fleet.turns SET epoch = epoch + 1 WHERE run_id = $1 AND epoch = $2 RETURNING 1"
    with translated():
        if connection.execute(query, [item.run_id, stale.epoch]).fetchone() is None:
            return
    folder = here.folder(item.run_id)
    if not (folder / "journal.jsonl").exists():
        copy_journal(connection, here, item.run_id)
    target = audit_target(outline_of(folder))
    way = here.way(item.run_id, runbook_here(connection, here, item), target)
    found = recover(folder, way, lambda record: GRACE)
    settle(connection, item.run_id)
    if found is not None:
        run = found.record["run"]
        yield News("ended", item.run_id, item.runbook, f"{run['verdict']}: {found.trouble or run['because']}")


def _start_again(connection: Connection, here: Here, turn: Turn) -> Iterator[News]:
    """A run whose process died before it began has done nothing, and may be started again; a few times."""
    item, because = turn.submission, "its process died before it began"
    if turn.failures + 1 < FAILURES:
        if requeue(connection, turn, because, 0.0, failed=True):
            yield News("waits", item.run_id, item.runbook, because)
        return
    conclude_unbegun(connection, here, turn, "errored", f"{because}, {FAILURES} times")
    settle(connection, item.run_id)
    yield News("ended", item.run_id, item.runbook, f"errored: {because}, {FAILURES} times")


def _mend_queue(connection: Connection) -> None:
    """Jobs whose run is over go; those that a dead worker took and did not begin come back; no queued run is without one."""
    with translated():
        jobs = [*connection.execute(_DONE, [STALE]).fetchall(), *connection.execute(_OUTDATED).fetchall()]
    for (job,) in jobs:
        finish(connection, job)
    for taken in stalled(connection):
        item = submission(connection, taken.run_id)
        state = _state(connection, taken.run_id)
        if item is None or state == "over":
            finish(connection, taken.job)
        elif state == "queued":
            put_back(connection, taken.job)
    with translated():
        forgotten = [row[0] for row in connection.execute(_FORGOTTEN, [STALE])]
    for run_id in forgotten:
        item = submission(connection, run_id)
        if item is not None:
            enqueue(connection, [Due(run_id, item.label, item.lock, item.due_at)])


def _state(connection: Connection, run_id: str) -> str:
    with translated():
        row = connection.execute("SELECT state FROM runbook_fleet.turns WHERE run_id = $1", [run_id]).fetchone()
    return str(row[0]) if row else ""


def _do_again(connection: Connection) -> Iterator[News]:
    """Submits once more what was lost and may be done again from the start."""
    with translated():
        lost = [row[0] for row in connection.execute(_AGAIN, [ATTEMPTS])]
        moment = connection.execute("SELECT clock_timestamp()").fetchone()
    for run_id in lost:
        item = submission(connection, run_id)
        if item is None:
            continue
        now: Any = moment[0] if moment else datetime.now(UTC)
        again = item._replace(
            run_id=new_run_id(now.astimezone(UTC)), attempt=item.attempt + 1, earlier=run_id, due_at=None
        )
        with suppress(ServerError), translated(), connection.transaction():  # another worker may have done so
            insert(connection, [again])
            yield News("waits", again.run_id, again.runbook, f"attempt {again.attempt}: run {run_id} was lost")
