"""Bringing the audit up to a journal whose run is over: what the run itself could no longer send."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from runbook.database.connect import Connection, Dumped, ServerError, execute_dumped, translated
from runbook.engine.record import Record
from runbook.language.problems import RunbookError
from runbook.language.values import Jsonb
from runbook.records.audit import add_closing, columns_of, migrate, queries, storable
from runbook.records.journal import Line

PAUSE = 0.1  # seconds between two looks


class Diverged(RunbookError):
    """The audit holds another history of this run than its journal."""


def import_run(
    connection: Connection, record: Record, lines: Sequence[Line], rows: Sequence[Dumped]
) -> tuple[str, bool]:
    """The run's row, its events, the user's own closing rows and the closing record, in one transaction.

    The chain's head, and whether the closing record was there already: then nothing is written. Raises ServerError or Diverged.
    """
    migrate(connection)
    with translated():
        known = connection.execute(queries()["closing"], [record["run"]["id"]]).fetchone()
    if known:
        return str(known[0]), True
    with translated(), connection.transaction():
        _compare(connection, record["run"]["id"], lines)
        connection.execute(queries()["insert_run"], _row(record))
        values = [record["run"]["id"], record["run"]["epoch"], *columns_of(lines)]
        connection.execute(queries()["insert_events"], values)
        for row in rows:
            execute_dumped(connection, row)
        return add_closing(connection, record["run"], lines[-1]), False


def end_sessions(connection: Connection, name: str, patience: float) -> None:
    """Ends what a dead runner's sessions still do on this server, and waits so many seconds for their end. Raises ServerError."""
    deadline = time.monotonic() + patience
    with translated():
        while connection.execute(queries()["end_sessions"], [name]).fetchall():
            if time.monotonic() > deadline:
                raise ServerError(f"a statement of the dead run goes on (sessions named `{name}`)")
            time.sleep(PAUSE)


def _compare(connection: Connection, run_id: str, lines: Sequence[Line]) -> None:
    ours = {line.event.seq: line.hash for line in lines}
    for seq, found in connection.execute(queries()["event_hashes"], [run_id]):
        if ours.get(seq) != found:
            raise Diverged(f"event {seq} of run {run_id} is another one in the audit than in the journal")


def _row(record: Record) -> list[Any]:
    run = record["run"]
    sha256 = record["circumstances"]["versions"]["runbook file"].removeprefix("sha256 ")
    names = ("id", "runbook", "title", "lock", "operator", "host", "pid", "started_at", "epoch")
    known: Any = run
    return [*(known[name] for name in names), sha256, Jsonb(storable(record["params"]))]
