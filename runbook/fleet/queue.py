"""The queue: procrastinate's, which carries nothing but the ids of runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg

from runbook.database.connect import Connection, ServerError, server_error, translated
from runbook.fleet.schema import ENTER

if TYPE_CHECKING:
    from procrastinate.manager import JobManager

TURN = "runbook.turn"
SILENT = 30.0  # seconds without a sign of life after which a worker's jobs are looked at


class Due(NamedTuple):
    """A run whose turn comes: for which workers, under which lock, and not before when."""

    run_id: str
    label: str
    lock: str
    at: datetime | None = None


def queue_of(label: str) -> str:
    """The name of the queue of the runs that only workers with `label` take."""
    return f"runbook/{label}" if label else "runbook"


def enqueue(connection: Connection, due: Sequence[Due]) -> None:
    """Puts runs into the queue, within the caller's transaction. Raises ServerError.

    Runs with the same lock and label come one after the other: one whose label no worker has holds up no others. One that
    waits for a time has no lock until then, since it would hold up all that come after it: it is put into the queue again when
    its time has come.
    """
    from procrastinate.jobs import Job

    jobs = [
        Job(
            queue=queue_of(item.label),
            task_name=TURN,
            lock=None if item.at else f"{item.label}/{item.lock}",
            queueing_lock=None,
            task_kwargs={"run_id": item.run_id, "waited": item.at is not None},
            scheduled_at=item.at,
        )
        for item in due
    ]
    with _speaking(connection):
        _manager().batch_defer_jobs(jobs, connection=connection)


class Stalled(NamedTuple):
    """A job whose worker gives no sign of life."""

    job: int
    run_id: str


def stalled(connection: Connection) -> list[Stalled]:
    """The jobs of workers that are silent or gone. Raises ServerError."""
    from procrastinate.sql import queries

    with _speaking(connection):
        cursor = connection.execute(
            queries["select_stalled_jobs_by_heartbeat"],
            {"seconds_since_heartbeat": SILENT, "queue": None, "task_name": TURN},
        )
        names = [column.name for column in cursor.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
    return [Stalled(row["id"], row["args"]["run_id"]) for row in rows]


def finish(connection: Connection, job: int) -> None:
    """Takes a job out of the queue for good, and with it what waits for its lock goes on. Raises ServerError."""
    from procrastinate.sql import queries

    with _speaking(connection):
        connection.execute(queries["finish_job"], {"job_id": job, "status": "aborted", "delete_job": True})


def put_back(connection: Connection, job: int) -> None:
    """Has a job taken again. Raises ServerError."""
    from procrastinate.sql import queries

    values: dict[str, Any] = dict.fromkeys(("retry_at", "new_priority", "new_queue_name", "new_lock"))
    with _speaking(connection):
        connection.execute(queries["retry_job"], {"job_id": job, **values})


@contextmanager
def _speaking(connection: Connection) -> Iterator[None]:
    """The connection speaks procrastinate's dialect for a while: its placeholders, and its tables first."""
    from procrastinate.exceptions import ConnectorException

    ours, connection.cursor_factory = connection.cursor_factory, psycopg.Cursor
    try:
        with translated(), connection.transaction():
            connection.execute(ENTER)
            yield
            connection.execute("RESET search_path")
    except ConnectorException as error:
        cause = error.__cause__
        raise (server_error(cause) if isinstance(cause, psycopg.Error) else ServerError(str(error))) from None
    finally:
        connection.cursor_factory = ours


def _manager() -> JobManager:
    from procrastinate import SyncPsycopgConnector
    from procrastinate.manager import JobManager

    return JobManager(SyncPsycopgConnector())
