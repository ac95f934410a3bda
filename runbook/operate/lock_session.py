"""What is asked of the server about a lock, in the one session that has it or wants it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from runbook.database.asking import Row, ask
from runbook.database.connect import Connection, ServerError
from runbook.database.pooling import HandedAround, own_session
from runbook.operate.lock import Holder, lock_number
from runbook.records.audit import queries

ANSWER = 5.0  # seconds after which a server that does not answer counts as away
FAREWELL = 2.0  # seconds that giving the lock back may take
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Nothing but the end of its holder may end the session, and that must: also a holder whose machine or network is gone.
_SETTINGS = {
    "idle_in_transaction_session_timeout": "0",
    "statement_timeout": "4s",
    "lock_timeout": "4s",
    "synchronous_commit": "off",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "25s",
}
_FROM_14 = [
    "set_config('idle_session_timeout', '0', false)",
    "CASE WHEN version() LIKE '%linux%' THEN set_config('client_connection_check_interval', '5s', false) END",
]
_TAKE = """
WITH known AS MATERIALIZED (SELECT pg_backend_pid() = $2::integer AS own, {rival} AS rival)
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, own, rival,
  CASE WHEN own AND rival IS NULL THEN pg_try_advisory_lock($1::bigint) END,
  CASE WHEN own THEN concat(set_config('application_name', $3, false), {settings}) END
FROM known
"""
_RIVAL = """(SELECT run_id FROM runbook.leases WHERE lock = $4 AND run_id <> $5 AND run_id <> $6 AND heartbeat > '-infinity'
  AND greatest(heartbeat, pg_postmaster_start_time()) > clock_timestamp() - make_interval(secs => $7::float))"""
_LOOK = """
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, pg_backend_pid() = $1::integer,
  current_setting('transaction_read_only')
"""
_HOLDER = """
SELECT a.pid, a.application_name, to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.granted AND l.classid::bigint = $1::bigint AND l.objid::bigint = $2::bigint AND l.objsubid = 1
"""
_LEASE = """
SELECT run_id, host, pid, operator, to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
FROM runbook.leases WHERE lock = $1
"""


class Try(NamedTuple):
    """How a try to take the lock went: the server's time where it was taken, or whose lease kept it from being tried."""

    moment: datetime | None
    rival: str = ""


class Look(NamedTuple):
    """What was seen: the server's time, who has the lock if somebody has, and whether nothing can be written there."""

    moment: datetime
    holder: Holder | None
    read_only: bool


class LockSession:
    """The lock of `key`, asked about through `connection`; what waits for an answer ends when `ear` can be read.

    `number` is that of the server session which the connection has for itself. Every question raises ServerError.
    """

    def __init__(self, connection: Connection, key: str, ear: int) -> None:
        self.connection = connection
        self.number: int = connection.pgconn.backend_pid
        self._key, self._ear = key, ear

    def take(
        self, holder: Holder, connect: Callable[[], Connection], courtesy: float | None = None, ignored: str = ""
    ) -> Try:
        """Takes the lock where it is free, but only in a session that is this connection's own. Raises HandedAround.

        It is left to a run, other than `ignored`, whose lease had a heartbeat within `courtesy` seconds: that may only have
        lost its session a moment ago, or the server been started.
        """
        for _ in range(2):
            moment, own, rival, taken, _ = self._take(holder, courtesy, ignored)
            if own == "t":
                won = _EPOCH + timedelta(microseconds=int(moment or 0)) if taken == "t" else None
                return Try(won, rival or "")
            self.number = own_session(self.connection, connect, ANSWER, self._ear)
        raise HandedAround

    def _take(self, holder: Holder, courtesy: float | None, ignored: str) -> Row:
        known = [f"set_config('{name}', '{value}', false)" for name, value in _SETTINGS.items()]
        known += _FROM_14 if self.connection.info.server_version >= 140000 else []
        settings = ", ".join(known)
        name = f"runbook {holder.run_id} {holder.pid}@{holder.host} {holder.operator}"
        values = [lock_number(self._key), self.number, name]
        if courtesy is not None:
            try:
                more = [self._key, holder.run_id, ignored, courtesy]
                return self._ask(_TAKE.format(rival=_RIVAL, settings=settings), *values, *more)
            except ServerError as error:  # no audit here, or none that this role may read
                if error.lost:
                    raise
        return self._ask(_TAKE.format(rival="NULL::text", settings=settings), *values)

    def look(self, connect: Callable[[], Connection]) -> Look:
        """Who has the lock, which is left alone. Raises HandedAround where no session could have it for itself."""
        for _ in range(2):
            moment, own, read_only = self._ask(_LOOK, self.number)
            if own == "t":
                number, holder = self.who()
                since = _EPOCH + timedelta(microseconds=int(moment or 0))
                return Look(since, holder if number else None, read_only == "on")
            self.number = own_session(self.connection, connect, ANSWER, self._ear)
        raise HandedAround

    def who(self) -> tuple[int, Holder]:
        """The server session that has the lock, or 0, and its run as far as that can be told."""
        number = lock_number(self._key) & 0xFFFFFFFFFFFFFFFF
        row = self._ask(_HOLDER, number >> 32, number & 0xFFFFFFFF)
        if not row:
            return 0, Holder()
        holder = _named(row[1] or "")._replace(since=row[2] or "")
        lease = self.lease() if holder.run_id else holder
        return int(row[0] or 0), lease if lease.run_id == holder.run_id else holder

    def lease(self) -> Holder:
        """Who took the lease last; empty where there is no lease."""
        try:
            row = self._ask(_LEASE, self._key)
        except ServerError as error:
            if error.lost:
                raise
            return Holder()
        if not row:
            return Holder()
        run_id, host, pid, operator, since = row
        return Holder(run_id or "", host or "", int(pid or 0), operator or "", since or "")

    def holds(self, epoch: int | None, *, heartbeat: bool = False) -> bool:
        """Whether the lease has the number `epoch` still, where it can be read; it may get a heartbeat at that."""
        row: Row = []
        if epoch is not None:
            try:
                row = self._ask(queries()["heartbeat" if heartbeat else "lease_held"], self._key, epoch)
            except ServerError as error:
                if error.lost:
                    raise
        row = row or self._ask("SELECT pg_backend_pid(), true")
        if int(row[0] or 0) != self.number:
            raise ServerError("another server session answers", lost=True)
        return row[1] == "t"

    def end(self, session: int) -> None:
        """Ends another session."""
        self._ask("SELECT pg_terminate_backend($1::integer)", session)

    def give_back(self) -> None:
        """Gives the lock back, and the session as it was. Without an answer, both end with the connection."""
        with suppress(ServerError):
            ask(self.connection, "DISCARD ALL", (), FAREWELL)

    def _ask(self, query: str, *values: object) -> Row:
        return ask(self.connection, query, values, ANSWER, self._ear)


def _named(application: str) -> Holder:
    """What the name of a session tells of the run that has it."""
    word, _, rest = application.partition(" ")
    if word != "runbook":
        return Holder()
    run_id, place, operator = (*rest.split(" ", 2), "", "")[:3]
    pid, _, host = place.partition("@")
    return Holder(run_id, host, int(pid) if pid.isdecimal() else None, operator)
