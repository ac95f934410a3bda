"""What becomes of submitted runs whose worker died, was paused or lost the network: every worker looks after all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from runbook.database.connect import Connection, ServerError, connect, translated
from runbook.fleet.adopt import Here, conclude_unbegun, copy_journal, has_begun, runbook_here
from runbook.fleet.crew import News
from runbook.fleet.queue import Due, enqueue, finish, put_back, stalled
from runbook.fleet.turns import ATTEMPTS, Submission, Turn, insert, requeue, settle, submission
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
from runbook.records.imports import end_sessions

EVERY = 10.0  # seconds between two looks
SOON = 5.0  # the same, while a run is suspected
DEATHS = 10  # of a run's process before the run has begun; then it may be the run that kills its workers
STALE = 10.0  # seconds without a sign of life after which a run is suspected

_STALE = """
SELECT t.run_id, t.epoch, t.failures, coalesce(t.stop, ''), t.because FROM runbook_fleet.turns t
WHERE greatest(t.seen_at, pg_postmaster_start_time()) < clock_timestamp() - make_interval(secs => $1::float)
    AND (t.state = 'running' OR t.state = 'queued' AND EXISTS (SELECT FROM runbook.runs r WHERE r.run_id = t.run_id))
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
_GIVE_UP = """
UPDATE runbook_fleet.turns SET epoch = epoch + 1, state = 'running', seen_at = clock_timestamp() WHERE run_id = $1 AND epoch = $2
RETURNING epoch
"""


class _Stale(NamedTuple):
    """A run that gives no sign of life."""

    run_id: str
    epoch: int
    failures: int
    stop: str
    because: str


class Rescue:
    """Concludes what nobody else will, and puts right what the queue does not know.

    A run is given up only after two looks over one session with the server: after a crash of the server all locks are free for a
    moment, and it must not be taken for the silence of the runs.
    """

    def __init__(self, here: Here) -> None:
        self._here = here
        self._suspects: dict[tuple[str, int], float] = {}
        self._session = 0

    @property
    def pause(self) -> float:
        """Seconds until the next look."""
        return SOON if self._suspects else EVERY

    def look_after(self, connection: Connection) -> Iterator[News]:
        """Raises ServerError."""
        yield from _of_this_project(connection, self._here)
        settle(connection)
        with translated():
            found = [_Stale(*row) for row in connection.execute(_STALE, [STALE])]
        for item in self._confirmed(connection.info.backend_pid, found):
            yield from _rescue(connection, self._here, item)
        _mend_queue(connection)
        yield from _do_again(connection)

    def _confirmed(self, session: int, found: list[_Stale]) -> list[_Stale]:
        """Those that were suspected for long enough in this session."""
        now = time.monotonic()
        earlier = self._suspects if session == self._session else {}
        self._session = session
        self._suspects = {(item.run_id, item.epoch): earlier.get((item.run_id, item.epoch), now) for item in found}
        return [item for item in found if now - self._suspects[item.run_id, item.epoch] >= SOON - 1]


def _of_this_project(connection: Connection, here: Here) -> Iterator[News]:
    """Runs of this queue whose journals are at hand and that nobody executes: those of dead processes, and unfinished copies."""
    try:
        folders = open_runs(here.project)
    except RunbookError as error:
        yield News("refused", "", "", f"the runs of this project cannot be looked after: {error}")
        return
    for folder in folders:
        with suppress(RunbookError, OSError):
            if running(folder):
                continue
            if not has_begun(folder):
                recover(folder, here.way(), lambda record: GRACE)  # which takes its mark away, in time
                continue
            known = outline_of(folder)
            if "submitted" not in known["circumstances"] or submission(connection, folder.name) is None:
                continue
            found = recover(folder, here.way(target=audit_target(known)), lambda record: GRACE)
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
    except (RunbookError, OSError) as error:
        yield News("refused", item.run_id, item.runbook, str(error))
    finally:
        lock.release()


def _conclude(connection: Connection, here: Here, item: Submission, stale: _Stale) -> Iterator[News]:
    """With the run's lock in hand: what its sessions still do is ended, and nothing that it writes is taken any more."""
    with suppress(ServerError):  # sessions of another role cannot be ended, and a dead host's end by themselves
        end_sessions(connection, f"runbook {item.run_id}", GRACE)
    with translated():
        row = connection.execute(_GIVE_UP, [item.run_id, stale.epoch]).fetchone()
        if row is None:
            return  # somebody else was quicker
        connection.execute(queries()["end_lease"], [item.lock, item.run_id])
        begun = connection.execute("SELECT 1 FROM runbook.runs WHERE run_id = $1", [item.run_id]).fetchone()
    if not begun:
        yield from _start_again(connection, here, Turn(item, row[0], stale.failures, stale.stop, stale.because))
        return
    folder = here.folder(item.run_id)
    if not has_begun(folder):
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
    item, because = turn.submission, turn.because or "its process died before it began"
    if turn.failures + 1 < DEATHS:
        if requeue(connection, turn, because, 0.0, failed=True):
            yield News("waits", item.run_id, item.runbook, because)
        return
    conclude_unbegun(connection, here, turn, "errored", f"{because} ({DEATHS} starts came to nothing)")
    settle(connection, item.run_id)
    yield News("ended", item.run_id, item.runbook, f"errored: {because}")


def _mend_queue(connection: Connection) -> None:
    """Jobs whose run is over go; those that a dead worker took and did not begin come back; no queued run is without one."""
    with translated():
        jobs = [*connection.execute(_DONE, [STALE]).fetchall(), *connection.execute(_OUTDATED).fetchall()]
    for (job,) in jobs:
        with suppress(ServerError):  # its own worker may just have finished it
            finish(connection, job)
    for taken in stalled(connection):
        item = submission(connection, taken.run_id)
        state = _state(connection, taken.run_id)
        with suppress(ServerError):
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
