"""The read-only guard: what a check may ask of a server, and how the server itself enforces it.

One REPEATABLE READ, READ ONLY transaction, pinned by a first statement so that its mode cannot change; one statement a
message (the extended protocol); each between a savepoint and its rollback; the transaction's state looked at after each,
and at the end the server asked whether anything was written. A superuser can leave this guard, and `enforced` says so.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from psycopg import ProgrammingError, capabilities, pq

from runbook.database.connect import Connection, ServerError, bound, connect, translated
from runbook.database.fingerprint import Reads

MAX_ROWS = 10_000
LOCK_TIMEOUT_MS = 10_000
PAUSE = 0.5  # seconds between two tries to reach it
_CHUNK = 1000
_ENDED = "ended the read-only transaction that all checks share"
_OPEN = (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR)


class Rows(NamedTuple):
    """What a query gives: column names, rows, and how many rows were left unread beyond the cap (at least)."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    dropped: int


def enforced(connection: Connection) -> bool:
    """Whether the server binds this connection's role to the guard: not where it is a superuser."""
    return connection.info.parameter_status("is_superuser") != "on"


class Snapshot:
    """One guarded transaction on one connection; all its queries see the same moment."""

    def __init__(self, connection: Connection, timeout: float, reads: Reads | None = None) -> None:
        self._connection, self._reads = connection, reads
        self._timeout = timeout
        self._savepoint = f"check_{secrets.token_hex(8)}"
        self._broken = ""
        with translated():
            connection.execute(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
                f" SELECT set_config('statement_timeout', '{int(timeout * 1000)}', true),"
                f" set_config('lock_timeout', '{LOCK_TIMEOUT_MS}', true),"
                " set_config('idle_in_transaction_session_timeout', '0', true);"
                f" SAVEPOINT {self._savepoint}"
            )

    def query(self, statement: str, values: tuple[Any, ...], timeout: float) -> Rows:
        """Runs one statement read-only. Raises ServerError."""
        if self._connection.info.transaction_status == pq.TransactionStatus.IDLE:
            self._broken = self._broken or _ENDED
        if self._broken:
            raise ServerError(f"not asked: an earlier statement {self._broken}")
        try:
            with translated():
                if timeout != self._timeout:
                    self._connection.execute(f"SET LOCAL statement_timeout = {int(timeout * 1000)}")
                rows = self._stream(statement, bound(values))
        except ServerError:
            self._undo()
            raise
        self._undo(statement)
        if self._broken:
            raise ServerError(f"the statement {self._broken}")
        return rows

    def _stream(self, statement: str, values: list[Any]) -> Rows:
        rows: list[tuple[Any, ...]] = []
        cursor = self._connection.cursor()
        size = _CHUNK if capabilities.has_stream_chunked() else 1
        stream: Any = cursor.stream(statement, values, size=size)
        dropped = 0
        with closing(stream):
            for row in _rows(stream):
                if len(rows) == MAX_ROWS:
                    dropped = 1
                    break
                rows.append(row)
        description = cursor.description or []
        return Rows([column.name for column in description], rows, dropped)

    def _undo(self, succeeded: str = "") -> None:
        """Back to the savepoint, so that nothing a statement set can reach the next one; `succeeded` is one that gave rows."""
        if self._connection.info.transaction_status not in _OPEN:
            self._broken = _ENDED
            return
        rollback = f"ROLLBACK TO SAVEPOINT {self._savepoint}"
        if succeeded and self._reads is not None and self._reads.undo(self._connection, succeeded, rollback):
            return
        try:
            with translated():
                self._connection.execute(rollback.encode())
        except ServerError:
            self._broken = "left the savepoint that was set around it"

    def end(self) -> None:
        """Ends the transaction without a trace. Raises ServerError if anything had been written."""
        if self._connection.closed:
            raise ServerError("the connection was lost", lost=True)
        with translated():
            row = None
            if not self._broken:
                row = self._connection.execute("SELECT txid_current_if_assigned()").fetchone()
            self._connection.execute("ROLLBACK")
            self._connection.execute("DISCARD ALL")
        if self._reads is not None:
            self._reads.ask(self._connection)
        if row is not None and row[0] is not None:
            raise ServerError("a check wrote to the database (a transaction id was assigned); it was rolled back")


def _rows(stream: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    try:
        yield from stream
    except ProgrammingError as error:
        if error.diag.sqlstate is None and "result" in str(error):
            raise ServerError("the statement gives no rows: a check asks, it does not set or change") from None
        raise


class Snapshots:
    """Guarded transactions on the connections that checks use, each begun at its first query.

    Snapshots may be nested; each then has connections of its own. With `traced` it is found out which relations are read.
    """

    def __init__(
        self,
        urls: Callable[[str], str],
        application: str,
        timeout: float,
        opened: Callable[[str, Connection], None],
        interrupt: Callable[[Callable[[], None] | None], None],
        patience: Callable[[], float] = float,
        *,
        traced: bool = False,
    ) -> None:
        self._urls, self._application, self._timeout = urls, application, timeout
        self._opened, self._interrupt = opened, interrupt
        self._connections: dict[tuple[str, int], Connection] = {}
        self._held: Counter[str] = Counter()
        self._met: set[str] = set()
        self._patience, self._traced = patience, traced
        self._reads: defaultdict[str, Reads] = defaultdict(Reads)

    @contextmanager
    def open(self) -> Iterator[Callable[[str, str, tuple[Any, ...], float], Rows]]:
        """A query function (connection name, statement, values, seconds) over one snapshot of each server."""
        begun: dict[str, tuple[Snapshot, Connection]] = {}
        away: dict[str, ServerError] = {}

        def query(name: str, statement: str, values: tuple[Any, ...], timeout: float) -> Rows:
            if name in away:
                raise away[name]
            if name not in begun:
                try:
                    begun[name] = self._begin(name)
                except ServerError as error:
                    away[name] = error
                    raise
            snapshot, connection = begun[name]
            self._interrupt(connection.cancel)
            try:
                return snapshot.query(statement, values, timeout)
            finally:
                self._interrupt(None)

        try:
            yield query
        finally:
            self._end(begun)

    def _begin(self, name: str) -> tuple[Snapshot, Connection]:
        place = name, self._held[name]
        reads = self._reads[name] if self._traced else None
        if reads is not None:
            reads.fetch()
        known = self._connections.get(place)
        snapshot = None
        if known is not None and not known.closed:
            try:
                snapshot = Snapshot(known, self._timeout, reads)
            except ServerError as error:
                if not error.lost:
                    raise
                known.close()
        if known is None or snapshot is None:
            known = self._connections[place] = self._connected(name)
            self._met.add(name)
            self._opened(name, known)
            snapshot = Snapshot(known, self._timeout, reads)
        self._held[name] += 1
        return snapshot, known

    def _connected(self, name: str) -> Connection:
        """A new connection; a server that answered before and is away now (it restarts) is waited for."""
        interrupted: list[bool] = []
        self._interrupt(lambda: interrupted.append(True))
        deadline = time.monotonic() + (self._patience() if name in self._met else 0)
        try:
            while True:
                try:
                    return connect(self._urls(name), self._application)
                except ServerError as error:
                    if not error.lost or interrupted or time.monotonic() > deadline:
                        raise
                time.sleep(PAUSE)
        finally:
            self._interrupt(None)

    def _end(self, begun: dict[str, tuple[Snapshot, Connection]]) -> None:
        failure = None
        for name, (snapshot, connection) in begun.items():
            self._held[name] -= 1
            try:
                snapshot.end()
            except ServerError as error:
                del self._connections[name, self._held[name]]
                connection.close()
                failure = error
        if failure is not None and not failure.lost:
            raise failure

    def read(self) -> dict[str, dict[str, str]]:
        """What was read so far, by connection: the hash of each relation by its name."""
        return {name: found for name, reads in self._reads.items() if (found := reads.fetch())}

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
