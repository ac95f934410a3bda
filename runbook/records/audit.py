"""The audit: the record of all runs in PostgreSQL, in the schema `runbook`. What the journal has, it has too."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psycopg

from runbook.database.connect import Connection, ServerError, translated
from runbook.engine.judge import EXIT_CODES
from runbook.engine.ports import Confirmation
from runbook.language.problems import RunbookError
from runbook.language.values import dumps
from runbook.records import chain
from runbook.records.journal import Line

_SQL = Path(__file__).parent / "sql"
STATEMENT_MS = 60_000
LOCK_MS = 30_000
# What a session holds must not outlive its client by long: neither one that sleeps in a transaction nor one whose host is gone.
MORTAL = (
    "SET idle_in_transaction_session_timeout = '60s'; SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5;"
    " SET tcp_keepalives_count = 3"
)
_MIGRATION_LOCK = 0x72756E626F6F6B
# A session that has waited for an advisory lock may still believe that a schema is not there which was made meanwhile.
FRESH_LOOK = "LOCK TABLE pg_namespace IN ACCESS SHARE MODE"

T = TypeVar("T")


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


def schema_sql(version: int = 0) -> str:
    """What a DBA may run where the role of runs may not create a schema: every migration after `version`, and two roles."""
    parts = [*_migrations()[version:], _SQL / "roles.sql"]
    return "\n".join(path.read_text(encoding="utf-8") for path in parts)


def _migrations() -> list[Path]:
    return sorted(_SQL.glob("[0-9]*.sql"))


class Audit:
    """Writes one run. Lines wait here until they are flushed; the journal has them already. Any thread may flush them.

    `epoch` is the fencing number of the lease; `unclosed` the first line of the run that had the lease before and has no
    closing record; `away` says that the server did not answer when the run was to be closed. `turn` is the epoch of the
    start that this run is, where it was submitted to a fleet.
    """

    def __init__(self, connect: Callable[[], Connection], turn: int | None = None) -> None:
        self._turn = turn
        self._mutex = threading.RLock()
        self._connection: Connection | None = None
        self._reconnect = connect
        self._waiting: list[Line] = []
        self._identity: Identity | None = None
        self.epoch = 0
        self.unclosed = ""
        self.away = False
        self._last: Line | None = None

    def open(self, identity: Identity) -> None:
        """Brings the schema up to date and takes the lease. Raises AuditError or ServerError."""
        connection = self._ready()
        migrate(connection)
        values = [identity.lock, identity.run_id, identity.host, identity.pid, identity.operator]
        with translated(), connection.transaction():
            self._pass_turn(connection, identity.run_id)
            row = connection.execute(queries()["take_lease"], values).fetchone()
        assert row is not None
        self._identity, self.epoch, self.unclosed = identity, row[0], row[1] or ""

    def add(self, line: Line) -> None:
        self._waiting.append(line)
        self._last = line

    def flush(self) -> None:
        """Sends the lines that wait, with the run's row before the first. Raises ServerError."""
        with self._mutex:
            lines = list(self._waiting)
            if not lines:
                return
            connection = self._ready()
            with translated(), connection.transaction():
                self._send(connection, lines)
            del self._waiting[: len(lines)]

    def beside(self, action: Callable[[Connection], T]) -> T:
        """Does something else with the connection, between what is written of the run. Raises ServerError."""
        with self._mutex:
            connection = self._ready()
            with translated(), connection.transaction():
                self._pass_fence(connection)
                return action(connection)

    def _send(self, connection: Connection, lines: Sequence[Line]) -> None:
        run, epoch = self._identity, self.epoch
        assert run is not None
        self._pass_fence(connection)
        opens = lines[0].event.kind == "run.opened"
        db_role = insert_run(connection, {**run._asdict(), "epoch": epoch}) if opens else ""
        if (
            opens
            and not db_role
            and (1, lines[0].hash) not in connection.execute(queries()["event_hashes"], [run.run_id])
        ):
            raise ServerError("the audit has this run already, as somebody else began it")
        connection.execute(queries()["insert_events"], [run.run_id, epoch, *columns_of(lines)])
        if db_role:
            add_opening(connection, {**run._asdict(), "epoch": epoch}, db_role, lines[0])

    def rows(self, statements: list[tuple[str, list[Any]]]) -> Any:
        """Runs the user's own statements in one transaction; the first value of the last one that returns any."""
        return self.beside(lambda connection: _first_value(connection, statements))

    def _pass_fence(self, connection: Connection) -> None:
        """Nobody takes the lease before this transaction ends. Raises ServerError where somebody has taken it already."""
        assert self._identity is not None
        row = connection.execute(queries()["fence"], [self._identity.lock, self.epoch]).fetchone()
        if row is None or not row[0]:
            raise ServerError("another run has taken this lock since: nothing more is written under the old one")
        self._pass_turn(connection, self._identity.run_id)

    def _pass_turn(self, connection: Connection, run_id: str) -> None:
        """Of a submitted run, nobody makes another start before this transaction ends. Raises ServerError where somebody did."""
        if self._turn is None:
            return
        row = connection.execute(queries()["turn_fence"], [run_id, self._turn]).fetchone()
        if row is None or not row[0]:
            raise ServerError("this start of the run was given up: nothing more is written under it")

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
                return self._close_without(closing, str(error)) if statements else self._pending(error)
            return self.confirm(closing, statements)

    def _close_run(self, closing: Mapping[str, Any], statements: list[tuple[str, list[Any]]], trouble: str = "") -> str:
        with self._mutex:
            connection, run, last = self._ready(), self._identity, self._last
            assert run is not None and last is not None
            with translated(), connection.transaction():
                _first_value(connection, statements)
                self._send(connection, self._waiting)
                head = add_closing(connection, {**closing, "id": run.run_id}, last, trouble)
            self._waiting.clear()
        return head

    def _close_without(self, closing: Mapping[str, Any], because: str) -> Confirmation:
        """The closing record alone, where the user's own row cannot be written."""
        trouble = f"audit.finished: {because}"
        try:
            head = self._close_run(unaudited(closing), [], trouble)
        except ServerError as error:
            return self._pending(error)
        return Confirmation("failed", head, trouble)

    def confirm(self, closing: Mapping[str, Any], statements: list[tuple[str, list[Any]]]) -> Confirmation:
        """After a lost connection: whether the commit arrived is looked up; if it did not, once more."""
        assert self._identity is not None
        try:
            with self._mutex, translated():
                row = self._ready().execute(queries()["closing"], [self._identity.run_id]).fetchone()
            if row and self._last is not None and row[2] != self._last.hash:
                return Confirmation("pending", "", f"the run was concluded elsewhere, as {row[1]}")
            return Confirmation("confirmed", row[0] if row else self._close_run(closing, statements))
        except ServerError as error:
            return self._pending(error)

    def _pending(self, error: ServerError) -> Confirmation:
        self.away = error.lost
        return Confirmation("pending", "", str(error))

    def _ready(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._reconnect()
            self._bound()
        return self._connection

    def _bound(self) -> None:
        """No statement, the user's own included, may take for ever."""
        assert self._connection is not None
        with translated():
            self._connection.execute(
                f"SET statement_timeout = {STATEMENT_MS}; SET lock_timeout = {LOCK_MS}; {MORTAL};"
                " SET default_transaction_isolation = 'read committed'"  # the chain's newest entry is read behind its lock
            )

    def cancel(self) -> None:
        """Breaks off the statement that is running."""
        if self._connection is not None:
            self._connection.cancel()

    def close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()


def outlook(connection: Connection) -> str:
    """What opening the audit would come to, for people; nothing is written. Raises AuditError or ServerError."""
    current, newest = _versions(connection)
    if current == 0:
        query = "SELECT has_database_privilege(current_database(), 'CREATE')"
    else:
        tables = "ARRAY['runs', 'events', 'closings', 'leases']"
        query = f"SELECT bool_and(has_table_privilege('runbook.' || name, 'INSERT')) FROM unnest({tables}) AS name"
        query += " WHERE to_regclass('runbook.' || name) IS NOT NULL"
        query = f"SELECT ({query}) AND has_table_privilege('runbook.leases', 'UPDATE')"
        if current < newest:
            owned = "SELECT bool_and(pg_has_role(relowner, 'USAGE')) FROM pg_class"
            query += f" AND ({owned} WHERE relnamespace = to_regnamespace('runbook') AND relkind = 'r')"
    with translated():
        row = connection.execute(query).fetchone()
    if row is None or not row[0]:
        if current == 0:
            raise _not_allowed(connection, "permission denied")
        raise AuditError(f"the role {connection.info.user} may not write into the schema `runbook`")
    if current == 0:
        return "the schema `runbook` would be made"
    if current < newest:
        return f"the schema `runbook` would be brought from version {current} to {newest}"
    return "the schema `runbook` is there"


def _versions(connection: Connection) -> tuple[int, int]:
    """The schema's version, 0 where there is none, and the one that this program makes."""
    newest = int(_migrations()[-1].name.split("_")[0])
    current = _version(connection)
    if current > newest:
        raise AuditError(f"the audit is of version {current}, this program knows {newest}: install a newer runbook")
    return current, newest


def migrate(connection: Connection) -> None:
    """Brings the schema up to date. Raises AuditError or ServerError."""
    current, newest = _versions(connection)
    if current == newest:
        return
    try:
        with translated(), connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock($1)", [_MIGRATION_LOCK])
            connection.execute(FRESH_LOOK)
            fresh = connection.execute("SELECT to_regclass('runbook.migrations')").fetchone() == (None,)
            for path in _migrations()[0 if fresh else _version(connection) :]:
                connection.execute(path.read_text(encoding="utf-8"))
    except ServerError as error:
        if error.sqlstate not in ("42501", "25006"):
            raise
        raise _not_allowed(connection, str(error)) from None


def _not_allowed(connection: Connection, because: str) -> AuditError:
    return AuditError(
        f"the role {connection.info.user} may not create the schema `runbook` for the audit ({because}); give the "
        "output of `runbook audit schema` to your DBA, or set audit: {enabled: false} to keep only the journal"
    )


def columns_of(lines: Sequence[Line]) -> list[Any]:
    """The columns of events that the query `insert_events` takes."""
    return [
        [line.event.seq for line in lines],
        [line.event.at for line in lines],
        [line.event.kind for line in lines],
        [line.text for line in lines],
        [line.previous for line in lines],
        [line.hash for line in lines],
    ]


def unaudited(run: Mapping[str, Any]) -> dict[str, Any]:
    """The closing data of a run whose user's own rows cannot be written: not as passed."""
    if run["verdict"] != "passed":
        return dict(run)
    return {**run, "verdict": "errored", "exit_code": EXIT_CODES["errored"]}


def insert_run(connection: Connection, row: Mapping[str, Any]) -> str:
    """The row of a run; the role that wrote it, or nothing where the row is there already."""
    values = [row[name] for name in (*Identity._fields[:8], "epoch", "sha256")]
    found = connection.execute(queries()["insert_run"], [*values, dumps(storable(row["params"]))]).fetchone()
    return str(found[0]) if found else ""


def add_opening(connection: Connection, row: Mapping[str, Any], db_role: str, first: Line) -> None:
    """The entry of a run's row in the chain, within the transaction that inserted the row."""
    kept = {**row, "params": storable(row["params"])}
    connection.execute(queries()["add_to_chain"], ["opened", row["run_id"], chain.opened(kept, db_role, first.hash)])


def add_closing(connection: Connection, run: Mapping[str, Any], last: Line, trouble: str = "") -> str:
    """The closing record with its entry in the chain, within the caller's transaction; the chain's head."""
    names = ("verdict", "exit_code", "finished_at", "duration")
    row = {"run_id": run["id"], **{name: run[name] for name in names}}
    row |= {"last_seq": last.event.seq, "last_hash": last.hash}
    entry = connection.execute(queries()["add_to_chain"], ["closed", run["id"], chain.closed(row, trouble)]).fetchone()
    assert entry is not None
    number, head = entry
    connection.execute(queries()["insert_closing"], [number, *row.values()])
    return str(head)


def _version(connection: Connection) -> int:
    try:
        with translated():
            row = connection.execute(queries()["version"]).fetchone()
    except ServerError as error:
        if error.sqlstate in ("42P01", "3F000"):
            return 0
        raise
    return int(row[0]) if row and row[0] is not None else 0


def _first_value(connection: Connection, statements: list[tuple[str, list[Any]]]) -> Any:
    value = None
    for query, values in statements:
        cursor = connection.execute(query, values or None)
        if cursor.description is not None:
            row = cursor.fetchone()
            value = row[0] if row else None
    return value


def storable(value: Any) -> Any:
    """`value` without NUL characters, which jsonb cannot hold."""
    if isinstance(value, str):
        return value.replace("\x00", "\\u0000")
    if isinstance(value, Mapping):
        return {storable(key): storable(item) for key, item in value.items()}
    return [storable(item) for item in value] if isinstance(value, list) else value
