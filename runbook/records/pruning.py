"""Pruning the audit's detail: the events of old runs go, their hash and who pruned them stay in the chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from runbook.database.connect import Connection, ServerError, translated
from runbook.language.problems import RunbookError
from runbook.records import chain
from runbook.records.audit import migrate, queries

BATCH = 200  # runs in one transaction


class CannotPrune(RunbookError):
    """The audit does not let its events go."""


class Detail(NamedTuple):
    """What the audit has of one closed run: how many events, and the last one's number and hash."""

    run_id: str
    events: int
    last_seq: int
    last_hash: str
    verdict: str
    exit_code: int | None
    finished_at: datetime
    duration: Any
    runbook: str


def prunable(connection: Connection, before: datetime, runbooks: Sequence[str] = ()) -> list[Detail]:
    """The closed runs, of some runbooks or of all, that ended before a moment and still have their events. Raises ServerError."""
    with translated():
        return _details(connection, before, runbooks=list(runbooks) or None)


def _details(
    connection: Connection, before: datetime, names: list[str] | None = None, runbooks: list[str] | None = None
) -> list[Detail]:
    return [Detail(*row) for row in connection.execute(queries()["prunable"], [before, names, runbooks])]


def closed_runs(connection: Connection, run_ids: Sequence[str]) -> set[str]:
    """Those of the runs that the audit has, closed. Raises ServerError."""
    with translated():
        return {row[0] for row in connection.execute(queries()["closed_runs"], [list(run_ids)])}


def prune_detail(connection: Connection, details: Sequence[Detail], facts: Mapping[str, Any]) -> int:
    """Removes the events of runs, each behind an entry in the chain; how many went. Raises CannotPrune or ServerError.

    `facts` say who prunes, from where, when, and how old the runs had to be. It may be broken off and done again.
    """
    migrate(connection)
    gone = 0
    try:
        with translated():
            connection.execute("SET default_transaction_isolation = 'read committed'")
            row = connection.execute("SELECT session_user").fetchone()
        role = str(row[0]) if row else ""
        for start in range(0, len(details), BATCH):
            with translated(), connection.transaction():
                connection.execute(queries()["chain_lock"])  # from here on nobody adds a note to one of them
                names = [detail.run_id for detail in details[start : start + BATCH]]
                for detail in _details(connection, datetime.now(UTC), names):
                    gone += _prune(connection, detail, {**facts, "db_role": role})
    except ServerError as error:
        if error.sqlstate != "42501":
            raise
        raise CannotPrune(
            f"{connection.info.user} may not remove events: prune as the owner of the schema `runbook`"
        ) from None
    return gone


def _prune(connection: Connection, detail: Detail, facts: Mapping[str, Any]) -> int:
    closing = {name: getattr(detail, name) for name in ("verdict", "exit_code", "duration")}
    closing["finished_at"] = chain.moment(detail.finished_at)
    facts = {"closing": closing, **facts}
    known = {"events": detail.events, "last_seq": detail.last_seq, "last_hash": detail.last_hash, **facts}
    connection.execute(queries()["add_to_chain"], ["pruned", detail.run_id, chain.pruned(detail.run_id, known)])
    if connection.execute("SELECT to_regclass('runbook_fleet.output')").fetchone() != (None,):
        connection.execute(queries()["prune_relayed"], [detail.run_id])
    return connection.execute(queries()["prune_events"], [detail.run_id]).rowcount
