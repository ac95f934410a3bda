"""Examinations of a PostgreSQL that a runbook connects to. Each has a connection of its own, and leaves no trace there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from statistics import median
from typing import NamedTuple

from runbook.database.asking import Row, ask
from runbook.database.connect import Connection, ServerError, connect, describe
from runbook.database.guard import Snapshot
from runbook.operate.circumstances import time_zone
from runbook.operate.examinations import Finding, fail, ok, several, warn

WITHIN = 4  # seconds in which a server must take a connection
ANSWER = 5.0  # seconds in which it must answer a question
TRIES = 5
SLOW = 0.05  # seconds of a round trip
SKEWED, BROKEN = 2.0, 60.0  # seconds between the clocks
SUPPORTED = range(13, 19)
NEEDED = 6  # connections that a run may have at a time
# What a guarded transaction must refuse. Each would change nothing, and start no transaction, if it got through.
ATTEMPTS = (
    "CREATE TEMPORARY TABLE runbook_doctor (n integer)",
    "CREATE TABLE runbook_doctor (n integer)",
    "INSERT INTO pg_catalog.pg_description SELECT * FROM pg_catalog.pg_description WHERE false",
    "UPDATE pg_catalog.pg_description SET description = '' WHERE false",
    "DELETE FROM pg_catalog.pg_description WHERE false",
    "WITH gone AS (DELETE FROM pg_catalog.pg_description WHERE false RETURNING 1) SELECT count(*) FROM gone",
    "DO $$ BEGIN DELETE FROM pg_catalog.pg_description WHERE false; END $$",
    "SET TRANSACTION READ WRITE",
    "SELECT set_config('transaction_read_only', 'off', true)",
    "SELECT 1; DELETE FROM pg_catalog.pg_description WHERE false",
)
# What leaves the transaction: the server lets it, and the guard must refuse all that comes after.
LEAVING = ("COMMIT", "ROLLBACK")
_HARMLESS = "SELECT 1"


class Server(NamedTuple):
    """A PostgreSQL as one runbook uses it.

    `url` may write, `read_url` is for checks; `env` and `read_env` name their variables. `keeps` says that the lock and, where
    `audited`, the audit are there; `key` is the lock's key, where it is known.
    """

    name: str
    url: str
    read_url: str
    env: str = ""
    read_env: str = ""
    keeps: bool = False
    audited: bool = False
    key: str = ""

    def connect(self) -> Connection:
        """Raises ServerError."""
        return connect(self.url, "runbook doctor", connect_timeout=WITHIN)

    def connect_to_read(self) -> Connection:
        """Raises ServerError."""
        return connect(self.read_url, "runbook doctor", connect_timeout=WITHIN)

    @property
    def reads_apart(self) -> bool:
        return self.read_url != self.url


def asked(connection: Connection, query: str, *values: object) -> Row:
    """The first row of an answer, as text. Raises ServerError."""
    return ask(connection, query, values, ANSWER)


def reach(server: Server) -> Iterator[Finding]:
    """Whether it takes connections, and how long that takes."""
    where = server.env or f"--database {server.name}=URL"
    ways = [("reachable", server.connect, server.url, where)]
    if server.reads_apart:
        ways.append(("reachable to read", server.connect_to_read, server.read_url, server.read_env))
    for what, open_connection, url, variable in ways:
        began = time.monotonic()
        try:
            target = describe(url)
            with closing(open_connection()):
                yield ok(what, f"{target}; connected in {_ms(time.monotonic() - began)}")
        except ServerError as error:
            yield fail(
                what, str(error), f"does the server run, is {variable} right, does it let this host and role in?"
            )


def pace(server: Server) -> Iterator[Finding]:
    """Round trips, and by the quickest of them how far its clock is from ours."""
    query = "SELECT extract(epoch FROM clock_timestamp())::numeric(20, 6), current_setting('TimeZone')"
    trips: list[tuple[float, float, float]] = []
    with closing(server.connect()) as connection:
        for _ in range(TRIES):
            sent, began = time.time(), time.monotonic()
            row = asked(connection, query)
            trips.append((time.monotonic() - began, sent, float(row[0] or 0)))
    took = median(trip[0] for trip in trips)
    found = f"{_ms(took)} (median of {TRIES})"
    if took > SLOW:
        yield warn("round trip", found, "run nearer to the server; every check and every record waits for it")
    else:
        yield ok("round trip", found)
    least, sent, there = min(trips)
    yield judge_clock(there - (sent + least / 2), least / 2)
    yield judge_zone(str(row[1]), time_zone())


def judge_clock(skew: float, doubt: float) -> Finding:
    """A server's clock that is `skew` seconds before ours, give or take `doubt`."""
    way = "ahead of" if skew > 0 else "behind"
    found = f"the server's is {abs(skew):.3f} s {way} this host's (± {doubt:.3f} s)"
    cure = "let both be set by NTP: records tell the time of the server, and SQL that asks for `now()` another than steps know"
    if abs(skew) > BROKEN:
        return fail("clock", found, cure)
    return warn("clock", found, cure) if abs(skew) > SKEWED else ok("clock", found)


def judge_zone(theirs: str, ours: str) -> Finding:
    """Zones that differ are no fault: records are in UTC."""
    alike = theirs == ours or {theirs, ours} <= {"UTC", "Etc/UTC", "GMT"}
    found = theirs if alike else f"{theirs}, this host's is {ours}: days begin at other times in SQL than in commands"
    return ok("time zone", found)


def version(server: Server) -> Iterator[Finding]:
    with closing(server.connect()) as connection:
        number = connection.info.server_version // 10000
        found = f"PostgreSQL {connection.info.parameter_status('server_version') or number}"
    if number in SUPPORTED:
        yield ok("version", found)
    else:
        cure = f"use PostgreSQL {SUPPORTED[0]} to {SUPPORTED[-1]}: others were not tried"
        yield warn("version", found, cure)


# --- rights -------------------------------------------------------------------------------------------------------

_ROLE = """
SELECT current_user, rolsuper, has_database_privilege(current_database(), 'CREATE'), rolcreatedb,
    has_database_privilege(current_database(), 'TEMPORARY'), rolbypassrls
FROM pg_catalog.pg_roles WHERE rolname = current_user
"""
_MAY = ("create schemas", "create databases (rehearsals)", "make temporary tables", "pass over row security")
_TABLES = """
SELECT count(*), array_to_string((array_agg(n.nspname || '.' || c.relname ORDER BY n.nspname, c.relname))[1:3], ', ')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
"""
_MORE = """
SELECT (SELECT string_agg(nspname, ', ' ORDER BY nspname) FROM pg_catalog.pg_namespace
        WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND has_schema_privilege(oid, 'CREATE')),
    (SELECT string_agg(rolname, ', ' ORDER BY rolname) FROM pg_catalog.pg_roles
     WHERE rolname IN ('pg_execute_server_program', 'pg_write_server_files', 'pg_write_all_data', 'pg_signal_backend')
         AND pg_has_role(oid, 'USAGE')),
    has_database_privilege(current_database(), 'CREATE')
"""


def role(server: Server) -> Iterator[Finding]:
    """Who the runbook is on the server, and who its checks are."""
    with closing(server.connect()) as connection:
        name, above, *may = asked(connection, _ROLE)
    able = (
        ", ".join(right for right, has in zip(_MAY, may, strict=True) if has == "t") or "do nothing beyond its grants"
    )
    if above != "t":
        yield ok("role", f"{name} may {able}")
    elif server.reads_apart:
        yield ok("role", f"{name}, a superuser; checks have a role of their own")
    else:
        yield warn(
            "role", f"{name} is a superuser: it can leave the read-only guard of checks", _cure_superuser(server)
        )
    if server.reads_apart:
        yield from _reader(server)


def _reader(server: Server) -> Iterator[Finding]:
    """Whether the role of `read_env` really only reads."""
    with closing(server.connect_to_read()) as connection:
        name, above, *_ = asked(connection, _ROLE)
        count, tables = asked(connection, _TABLES)
        schemas, roles, creates = asked(connection, _MORE)
    if above == "t":
        yield warn(
            "role of checks", f"{name} is a superuser: it can leave the read-only guard", _cure_superuser(server)
        )
        return
    rights = [f"write to {several(int(count or 0), 'table')} ({tables})"] if int(count or 0) else []
    rights += [f"create in {schemas}"] if schemas else []
    rights += ["create schemas"] if creates == "t" else []
    rights += [f"do what {roles} may"] if roles else []
    if rights:
        cure = f"give {server.read_env} a role with no more than: GRANT pg_read_all_data (or USAGE and SELECT)"
        yield warn("role of checks", f"{name} may {', '.join(rights)}; only the guard keeps it from that", cure)
    else:
        yield ok("role of checks", f"{name} only reads")


def _cure_superuser(server: Server) -> str:
    place = f"connections.{server.name}.read_env" if server.name else "read_env"
    return f"put the URL of an ordinary role into a variable and name it in {place}"


def guard(server: Server, attempts: Sequence[str] = ATTEMPTS) -> Iterator[Finding]:
    """Whether what checks may not do is refused: it is tried, where it could change nothing."""
    with closing(server.connect_to_read()) as connection:
        passed = _first_through(connection, attempts) or next(
            (f"`{leave}`, and then more" for leave in LEAVING if _goes_on(connection, leave)), ""
        )
    if passed:
        cure = "do not run runbooks against this server before it is known why; report it with the server's version"
        yield fail("read-only guard", f"the server did not refuse {passed}", cure)
    else:
        count = len(attempts) + len(LEAVING)
        yield ok(
            "read-only guard", f"{count} ways to write or to leave it were tried, each was refused, none left a trace"
        )


def _first_through(connection: Connection, attempts: Sequence[str]) -> str:
    """The first of `attempts` that the server, and not only our side, let pass."""
    snapshot = Snapshot(connection, ANSWER)
    snapshot.query(_HARMLESS, (), ANSWER)
    for statement in attempts:
        try:
            snapshot.query(statement, (), ANSWER)
        except ServerError as error:
            if error.lost:
                raise
            if error.sqlstate:
                continue
        return f"`{statement}`"
    try:
        snapshot.end()
    except ServerError as error:
        if error.lost:
            raise
        return f"all of it: {error}"
    return ""


def _goes_on(connection: Connection, leave: str) -> bool:
    """Whether the guard still asks after a statement that ends its transaction."""
    snapshot = Snapshot(connection, ANSWER)
    answered = False
    for statement in (leave, _HARMLESS):
        try:
            snapshot.query(statement, (), ANSWER)
            answered = True
        except ServerError as error:
            if error.lost:
                raise
            answered = False
    snapshot.end()
    return answered


# --- what the server allows for -----------------------------------------------------------------------------------


def writes(server: Server) -> Iterator[Finding]:
    """Whether anything can be written there."""
    query = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')"
    with closing(server.connect()) as connection:
        standby, read_only = asked(connection, query)
    if standby == "t":
        cure = f"let {server.env or 'the URL'} lead to the primary (several hosts, and target_session_attrs=read-write)"
        yield fail("primary", "this is a standby: nothing can be written, no lock be taken there that others see", cure)
    elif read_only == "on":
        cure = "ALTER ROLE … SET default_transaction_read_only = off, for the role or for the database"
        yield fail("primary", "the primary, but default_transaction_read_only is on for this role", cure)
    else:
        yield ok("primary", "it takes writes")
    if server.reads_apart:
        with closing(server.connect_to_read()) as connection:
            standby, _ = asked(connection, query)
        if standby == "t":
            cure = "let the reading role connect to the primary too"
            yield warn("reads", "checks ask a standby: what a step wrote may not have arrived there yet", cure)


_TIMEOUTS = """
SELECT string_agg(name || ' ' || setting || unit, ', ' ORDER BY name), max(setting) FILTER (WHERE name = 'transaction_timeout')
FROM pg_catalog.pg_settings WHERE setting <> '0' AND name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout',
    'idle_session_timeout', 'idle_in_transaction_session_timeout')
"""


def timeouts(server: Server) -> Iterator[Finding]:
    """What ends sessions and statements early. The lock, the checks and the audit set most of it for themselves."""
    with closing(server.connect()) as connection:
        found, hard = asked(connection, _TIMEOUTS)
    if hard:
        cure = "ALTER ROLE … SET transaction_timeout = 0"
        yield warn(
            "timeouts", f"{found}: it ends the transactions of checks and steps, whatever their own time limits", cure
        )
    else:
        yield ok("timeouts", f"{found}; a run has its own" if found else "none")


_ROOM = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true), '0')::int,
    (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE usesysid IS NOT NULL),
    (SELECT nullif(datconnlimit, -1) FROM pg_catalog.pg_database WHERE datname = current_database()),
    (SELECT count(*) FROM pg_catalog.pg_stat_activity
     WHERE usesysid IS NOT NULL AND datname = current_database()),
    (SELECT nullif(rolconnlimit, -1) FROM pg_catalog.pg_roles WHERE rolname = current_user),
    (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE usesysid IS NOT NULL AND usename = current_user)
"""


def connections(server: Server) -> Iterator[Finding]:
    """How many more it would take."""
    with closing(server.connect()) as connection:
        row = [None if value is None else int(value) for value in asked(connection, _ROOM)]
    yield judge_connections(row)


def judge_connections(row: Sequence[int | None]) -> Finding:
    """Pairs of a limit, or None, and what is used of it: of the server, the database, the role. One use is the doctor's own."""
    names = ("the server", "the database", "the role")
    pairs = [(name, row[2 * i], row[2 * i + 1] or 0) for i, name in enumerate(names)]
    free = [(most - used + 1, name, used, most) for name, most, used in pairs if most is not None]
    left, name, used, most = min(free)
    found = f"{max(left, 0)} free ({used} of the {most} of {name} are in use)"
    if left >= NEEDED:
        return ok("connections", found)
    return warn("connections", f"{found}; a run may need {NEEDED}", f"end idle sessions, or raise the limit of {name}")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


POSTGRES: dict[str, Callable[[Server], Iterator[Finding]]] = {
    "round trip": pace,
    "version": version,
    "primary": writes,
    "role": role,
    "read-only guard": guard,
    "timeouts": timeouts,
    "connections": connections,
}
