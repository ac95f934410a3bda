"""Bringing the audit up to a journal whose run is over: what the run itself could no longer send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runbook.database.connect import Connection, Dumped, execute_dumped, translated
from runbook.engine.record import Record
from runbook.language.problems import RunbookError
from runbook.language.values import Jsonb
from runbook.records.audit import add_closing, columns_of, migrate, queries, storable
from runbook.records.journal import Line


class Diverged(RunbookError):
    """The audit holds another history of this run than its journal."""


def import_run(connection: Connection, record: Record, lines: Sequence[Line], rows: Sequence[Dumped]) -> str:
    """The run's row, its events, the user's own closing rows and the closing record, in one transaction; the chain's head.

    What is there already stays. Raises ServerError or Diverged.
    """
    migrate(connection)
    with translated():
        known = connection.execute(queries()["closing"], [record["run"]["id"]]).fetchone()
    if known:
        head: str = known[0]
        return head
    with translated(), connection.transaction():
        _compare(connection, record["run"]["id"], lines)
        connection.execute(queries()["insert_run"], _row(record))
        values = [record["run"]["id"], record["run"]["epoch"], *columns_of(lines)]
        connection.execute(queries()["insert_events"], values)
        for row in rows:
            execute_dumped(connection, row)
        return add_closing(connection, record["run"], lines[-1])


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
