"""The audit: the record of all runs in PostgreSQL, in the schema `runbook`. What the journal has, it has too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from runbook.database.connect import Connection, ServerError, translated
from runbook.engine.judge import EXIT_CODES
from runbook.engine.ports import Confirmation
from runbook.language.problems import RunbookError
from runbook.language.values import Jsonb
from runbook.records.journal import Line, chain

_SQL = Path(__file__).parent / "sql"
STATEMENT_MS = 60_000
LOCK_MS = 30_000
_MIGRATION_LOCK = 0x72756E626F6F6B


class AuditError(RunbookError):
    """The audit cannot be opened; the message has the cure."""


class Identity(NamedTuple):
    """What the row of a run holds besides its events."""

    run_id: str
    runbook: str
    title: str
    lock: str
    operator: str
    host: str
    pid: int
    started_at: Any
    sha256: str
    params: Mapping[str, Any]


@lru_cache(maxsize=1)
def queries() -> dict[str, str]:
    """The named queries of `sql/queries.sql`."""
    parts = (_SQL / "queries.sql").read_text(encoding="utf-8").split("-- name: ")[1:]
    return {name.strip(): text.strip() for name, _, text in (part.partition("\n") for part in parts)}


def schema_sql() -> str:
    """Every migration in order: what a DBA may run where the role of runs may not create a schema."""
    return "\n".join(path.read_text(encoding="utf-8") for path in _migrations())


def _migrations() -> list[Path]:
    return sorted(_SQL.glob("[0-9]*.sql"))


class Audit:
    """Writes one run. Lines wait here until they are flushed; the journal has them already."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connection: Connection | None = None
        self._reconnect = connect
        self._waiting: list[Line] = []
        self._identity: Identity | None = None
        self._epoch = 0
        self._last: Line | None = None

    def open(self, identity: Identity) -> None:
        """Brings the schema up to date and takes the lease. Raises AuditError or ServerError."""
        connection = self._ready()
        self._migrate(connection)
        values = [identity.lock, identity.run_id, identity.host, identity.pid, identity.operator]
        with translated():
            row = connection.execute(queries()["take_lease"], values).fetchone()
        assert row is not None
        self._identity, self._epoch = identity, row[0]

    def _migrate(self, connection: Connection) -> None:
        newest = int(_migrations()[-1].name.split("_")[0])
        current = _version(connection)
        if current > newest:
            raise AuditError(f"the audit is of version {current}, this program knows {newest}: install a newer runbook")
        if current == newest:
            return
        try:
            with translated(), connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock($1)", [_MIGRATION_LOCK])
                fresh = connection.execute("SELECT to_regclass('runbook.migrations')").fetchone() == (None,)
                for path in _migrations()[0 if fresh else _version(connection) :]:
                    connection.execute(path.read_text(encoding="utf-8"))
        except ServerError as error:
            if error.sqlstate not in ("42501", "25006"):
                raise
            raise AuditError(
                f"the role {connection.info.user} may not create the schema `runbook` for the audit ({error}); give the "
                "output of `runbook audit schema` to your DBA, or set audit: {enabled: false} to keep only the journal"
            ) from None

    def add(self, line: Line) -> None:
        self._waiting.append(line)
        self._last = line

    def flush(self) -> None:
        """Sends the lines that wait, with the run's row before the first. Raises ServerError."""
        if not self._waiting:
            return
        connection = self._ready()
        with translated(), connection.transaction():
            self._send(connection)
        self._waiting.clear()

    def _send(self, connection: Connection) -> None:
        run, epoch = self._identity, self._epoch
        assert run is not None
        if self._waiting and self._waiting[0].event.seq == 1:
            values = [
                run.run_id,
                run.runbook,
                run.title,
                run.lock,
                run.operator,
                run.host,
                run.pid,
                run.started_at,
                epoch,
            ]
            connection.execute(queries()["insert_run"], [*values, run.sha256, Jsonb(_storable(run.params))])
        fence = connection.execute(queries()["fence"], [run.lock, epoch]).fetchone()
        if fence is None or not fence[0]:
            raise ServerError("another run has taken this lock since: nothing more is written under the old one")
        events = [line.event for line in self._waiting]
        columns: list[Any] = [
            [event.seq for event in events],
            [event.at for event in events],
            [event.kind for event in events],
            [line.text for line in self._waiting],
            [line.previous for line in self._waiting],
            [line.hash for line in self._waiting],
        ]
        connection.execute(queries()["insert_events"], [run.run_id, epoch, *columns])

    def rows(self, statements: list[tuple[str, list[Any]]]) -> Any:
        """Runs the user's own statements in one transaction; the first value of the last one that returns any."""
        return user_rows(self._ready(), statements)

    def close_run(
        self, closing: Mapping[str, Any], statements: list[tuple[str, list[Any]]], trouble: str = ""
    ) -> Confirmation:
        """The user's rows, the last events and the closing record in one transaction; then its chain's head.

        `trouble` says why the user's rows cannot even be tried.
        """
        if trouble:
            return self._close_without(closing, trouble)
        try:
            return Confirmation("confirmed", self._close_run(closing, statements))
        except ServerError as error:
            if not error.lost:
                return (
                    self._close_without(closing, str(error)) if statements else Confirmation("pending", "", str(error))
                )
            return self._confirm_later(closing, statements, str(error))

    def _close_run(self, closing: Mapping[str, Any], statements: list[tuple[str, list[Any]]]) -> str:
        connection, run, last = self._ready(), self._identity, self._last
        assert run is not None and last is not None
        with translated(), connection.transaction():
            _first_value(connection, statements)
            self._send(connection)
            connection.execute(queries()["chain_lock"])
            row = connection.execute(queries()["chain_head"]).fetchone()
            number, previous = (row[0] + 1, row[1]) if row else (1, "0" * 64)
            head = chain(previous, f"{run.run_id} {last.hash}")
            values = [run.run_id, closing["verdict"], closing["exit_code"], closing["finished_at"], closing["duration"]]
            connection.execute(
                queries()["insert_closing"], [number, *values, last.event.seq, last.hash, previous, head]
            )
        self._waiting.clear()
        return head

    def _close_without(self, closing: Mapping[str, Any], because: str) -> Confirmation:
        """The closing record alone, where the user's own row cannot be written."""
        if closing["verdict"] == "passed":
            closing = {**closing, "verdict": "errored", "exit_code": EXIT_CODES["errored"]}
        try:
            head = self._close_run(closing, [])
        except ServerError as error:
            return Confirmation("pending", "", str(error))
        return Confirmation("failed", head, f"audit.finished: {because}")

    def _confirm_later(
        self, closing: Mapping[str, Any], statements: list[tuple[str, list[Any]]], because: str
    ) -> Confirmation:
        """After a lost connection: whether the commit arrived is looked up; if it did not, once more."""
        assert self._identity is not None
        try:
            row = self._ready().execute(queries()["closing"], [self._identity.run_id]).fetchone()
            return Confirmation("confirmed", row[0] if row else self._close_run(closing, statements))
        except (ServerError, psycopg.Error):
            return Confirmation("pending", "", because)

    def _ready(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._reconnect()
            self._bound()
        return self._connection

    def _bound(self) -> None:
        """No statement, the user's own included, may take for ever."""
        assert self._connection is not None
        with translated():
            self._connection.execute(f"SET statement_timeout = {STATEMENT_MS}; SET lock_timeout = {LOCK_MS}")

    def cancel(self) -> None:
        """Breaks off the statement that is running."""
        if self._connection is not None:
            self._connection.cancel()

    def close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()


def _version(connection: Connection) -> int:
    try:
        with translated():
            row = connection.execute(queries()["version"]).fetchone()
    except ServerError as error:
        if error.sqlstate in ("42P01", "3F000"):
            return 0
        raise
    return int(row[0]) if row and row[0] is not None else 0


def user_rows(connection: Connection, statements: list[tuple[str, list[Any]]]) -> Any:
    """Runs statements in one transaction; the first value of the last one that returns any. Raises ServerError."""
    with translated(), connection.transaction():
        return _first_value(connection, statements)


def _first_value(connection: Connection, statements: list[tuple[str, list[Any]]]) -> Any:
    value = None
    for query, values in statements:
        cursor = connection.execute(query, values or None)
        if cursor.description is not None:
            row = cursor.fetchone()
            value = row[0] if row else None
    return value


def _storable(value: Any) -> Any:
    """`value` without NUL characters, which jsonb cannot hold."""
    if isinstance(value, str):
        return value.replace("\x00", "\\u0000")
    if isinstance(value, Mapping):
        return {_storable(key): _storable(item) for key, item in value.items()}
    return [_storable(item) for item in value] if isinstance(value, list) else value
