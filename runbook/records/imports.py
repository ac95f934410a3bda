"""Bringing the audit up to a journal whose run is over: what the run itself could no longer send."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from runbook.database.connect import Connection, Dumped, ServerError, execute_dumped, translated
from runbook.engine.record import Record
from runbook.language.problems import RunbookError
from runbook.records import chain
from runbook.records.audit import add_closing, add_opening, columns_of, insert_run, migrate, queries, unaudited
from runbook.records.journal import Line

PAUSE = 0.1  # seconds between two looks


class Diverged(RunbookError):
    """The audit holds another history of this run than its journal."""


class Superseded(RunbookError):
    """The run was concluded elsewhere, when it gave no sign of life; the audit has that end of it."""


def import_run(
    connection: Connection, record: Record, lines: Sequence[Line], rows: Sequence[Dumped], trouble: str = ""
) -> tuple[str, bool]:
    """The run's row, its events, the user's own closing rows and the closing record, in one transaction.

    `trouble` says why the user's own rows are not among them: then the run is not closed as passed.
    The chain's head, and whether the closing record was there already: then nothing is written. Raises ServerError, Diverged or
    Superseded.
    """
    migrate(connection)
    with translated():
        known = connection.execute(queries()["closing"], [record["run"]["id"]]).fetchone()
    if known:
        if known[2] not in {line.hash for line in lines}:
            raise Superseded(f"the run was concluded elsewhere, as {known[1]}: that is what the audit has")
        return str(known[0]), True
    run = unaudited(record["run"]) if trouble else record["run"]
    with translated():
        connection.execute("SET default_transaction_isolation = 'read committed'")
    with translated(), connection.transaction():
        _pass_turn(connection, record, lines)
        _compare(connection, record["run"]["id"], lines)
        own = _row(record)
        db_role = insert_run(connection, own)
        connection.execute(queries()["insert_events"], [own["run_id"], own["epoch"], *columns_of(lines)])
        if db_role:
            add_opening(connection, own, db_role, lines[0])
        for row in rows:
            execute_dumped(connection, row)
        return add_closing(connection, run, lines[-1], trouble), False


def _pass_turn(connection: Connection, record: Record, lines: Sequence[Line]) -> None:
    """Of a submitted run, only the start that has begun it may be imported, or that whose turn it is. Raises Superseded."""
    submitted, run_id = record["circumstances"].get("submitted"), record["run"]["id"]
    if not submitted or connection.execute("SELECT to_regclass('runbook_fleet.turns')").fetchone() == (None,):
        return
    turn = connection.execute(queries()["turn"], [run_id]).fetchone()  # from here on nobody makes another start
    first = next((digest for seq, digest in connection.execute(queries()["event_hashes"], [run_id]) if seq == 1), "")
    if first != lines[0].hash and (first or (turn and turn[0] != submitted.get("epoch"))):
        raise Superseded("the run was given up before it began, and started again")


def add_lines(connection: Connection, record: Record, lines: Sequence[Line]) -> tuple[str, bool]:
    """What was added to a closed run since, up to the last of `lines`, in one transaction.

    The chain's head, and whether the run was pruned: then nothing is added to it. What an earlier call added already is not
    added again. Raises ServerError or Diverged.
    """
    migrate(connection)
    run, last = record["run"], lines[-1]
    with translated():
        connection.execute("SET default_transaction_isolation = 'read committed'")
    with translated(), connection.transaction():
        connection.execute(queries()["chain_lock"])  # from here on nobody prunes the run
        row = connection.execute(queries()["last_entry"], [run["id"]]).fetchone()
        seq, head, pruned = row if row else (0, "", False)
        if pruned:
            return str(head), True
        _compare(connection, run["id"], lines)
        if seq >= last.event.seq:
            return str(head), False
        new = [line for line in lines if line.event.seq > seq]
        connection.execute(queries()["insert_events"], [run["id"], run["epoch"], *columns_of(new)])
        text = chain.added(run["id"], new[0].event.seq, last.event.seq, last.hash)
        added = connection.execute(queries()["add_to_chain"], ["added", run["id"], text]).fetchone()
        assert added is not None
        return str(added[1]), False


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


def _row(record: Record) -> dict[str, Any]:
    run: Any = record["run"]
    sha256 = record["circumstances"]["versions"]["runbook file"].removeprefix("sha256 ")
    names = ("runbook", "title", "lock", "operator", "host", "pid", "started_at", "epoch")
    return {"run_id": run["id"], **{name: run[name] for name in names}, "sha256": sha256, "params": record["params"]}
