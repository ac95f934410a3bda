"""Examinations of the lock and the audit, on the server that keeps them: nothing is made there, and nothing stays held."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from runbook.database.connect import Connection, ServerError, translated
from runbook.database.pooling import HandedAround
from runbook.operate.circumstances import host, operator
from runbook.operate.database_lock import look_at
from runbook.operate.examinations import Finding, fail, ok, several, unclear, warn
from runbook.operate.examinations_postgres import Server, asked
from runbook.operate.lock import Holder, Locked, described
from runbook.operate.lock_session import LockSession
from runbook.records.audit import AuditError, outlook, queries
from runbook.records.journal import GENESIS, chain
from runbook.records.ledger import one_moment, read_database, versions

NEWEST = 100  # entries of the chain that are looked at
TOLD = 5
SILENT = 15  # seconds after which a lease without a heartbeat may be a dead run's
_DENIED = "42501"
_GRANT = "GRANT runbook_append TO that role; `runbook audit schema` prints how both roles are made"
_SETTINGS = ("idle_session_timeout", "idle_in_transaction_session_timeout")


def lock(server: Server) -> Iterator[Finding]:
    """Whether a session can have a lock for itself: one is taken, looked at from another session, and given back."""
    key = f"runbook doctor {secrets.token_hex(8)}"
    with closing(server.connect()) as connection:
        session = LockSession(connection, key, -1)
        try:
            taken = session.take(Holder("doctor", host(), os.getpid(), operator()), server.connect)
            if taken.moment is None:
                yield unclear("lock", "a lock that nobody can have was not to be had", "look again")
                return
            yield _seen_from_elsewhere(server, session, key)
        except HandedAround as error:
            because, _, cure = str(error).partition("; ")
            yield fail("lock", because, cure)
            return
        finally:
            session.give_back()


def _seen_from_elsewhere(server: Server, session: LockSession, key: str) -> Finding:
    ended = _ended_early(session.connection)
    if ended:
        return fail(
            "lock", f"the server ends the session that has the lock: {ended}", "let it be 0 for this role or pooler"
        )
    try:
        look_at(key, server.connect)
    except Locked as seen:
        through = (
            ""
            if session.number == session.connection.pgconn.backend_pid
            else " through a pooler that keeps sessions apart"
        )
        return ok(
            "lock", f"a session lock was taken{through}, seen from another session ({seen.holder.host}), and given back"
        )
    cure = "connect to PostgreSQL itself, not through a pooler or a proxy that spreads sessions over servers"
    return fail("lock", "a lock that one session holds is not seen from another", cure)


def _ended_early(connection: Connection) -> str:
    """The timeouts in force in a session that should outlive them all."""
    query = """SELECT string_agg(name || ' ' || setting || unit, ', ') FROM pg_catalog.pg_settings
        WHERE name = ANY ($1::text[]) AND setting <> '0'"""
    return asked(connection, query, "{" + ",".join(_SETTINGS) + "}")[0] or ""


def key(server: Server) -> Iterator[Finding]:
    """Whether the runbook's own lock is free."""
    if not server.key:
        return
    try:
        look_at(server.key, server.connect)
        yield ok("lock's key", f"`{server.key}` is free")
    except HandedAround:
        return
    except Locked as seen:
        cure = "; ".join([*seen.watching, "or wait for it: runbook exec --wait"])
        yield warn("lock's key", f"`{server.key}` is held {described(seen.holder)}", cure)


# --- the audit ----------------------------------------------------------------------------------------------------


def audit(server: Server) -> Iterator[Finding]:
    """What opening the audit would come to."""
    with closing(server.connect()) as connection:
        try:
            found = outlook(connection)
        except AuditError as error:
            because, _, cure = str(error).partition("; ")
            yield fail("audit", because, cure or _GRANT)
            return
        except ServerError as error:
            if error.sqlstate != _DENIED:
                raise
            yield fail("audit", str(error), _GRANT)
            return
        current = schema_version(connection)
    note = f", version {current}" if current else ""
    yield ok("audit", f"{found}{note}")


def schema_version(connection: Connection) -> int:
    """The version of the audit's schema; 0 where there is none, or none that this role may read."""
    try:
        return int(asked(connection, queries()["version"])[0] or 0)
    except ServerError as error:
        if error.lost or error.sqlstate not in (_DENIED, "42P01", "3F000"):
            raise
        return 0


@contextmanager
def _current(server: Server) -> Iterator[Connection | None]:
    """A connection to an audit of this program's version; None where it has another, or there is none."""
    with closing(server.connect()) as connection:
        yield connection if schema_version(connection) == max(versions()) else None


def triggers(server: Server) -> Iterator[Finding]:
    """Whether the server refuses to change or remove what is written."""
    with _current(server) as connection:
        if connection is None:
            return
        with one_moment(connection):
            unguarded = read_database(connection).unguarded
    if unguarded:
        cure = "look with runbook audit verify; then have the owner make them again (runbook audit schema has them)"
        yield fail("triggers", f"gone, switched off, or another one: {', '.join(unguarded)}", cure)
    else:
        yield ok("triggers", "all in force: rows can be added, and neither changed nor removed")


def newest(server: Server) -> Iterator[Finding]:
    """Whether the newest entries of the chain follow one another."""
    query = f"SELECT number, line, previous, head FROM runbook.chain ORDER BY number DESC LIMIT {NEWEST}"
    with _current(server) as connection:
        if connection is None:
            return
        with translated():
            rows = connection.execute(query).fetchall()[::-1]
    broken = broken_link(rows)
    if broken:
        yield fail("chain", broken, "find out what was changed: runbook audit verify")
    elif rows:
        yield ok("chain", f"the newest {several(len(rows), 'entry').replace('entrys', 'entries')} follow one another")
    else:
        yield ok("chain", "it has no entry yet")


def broken_link(rows: Sequence[tuple[Any, ...]]) -> str:
    """What is wrong with entries of the chain (number, line, previous, head), oldest first; empty where nothing is."""
    number, head = (rows[0][0] - 1, rows[0][2]) if rows and rows[0][0] > 1 else (0, GENESIS)
    for entry, line, previous, hashed in rows:
        if entry != number + 1:
            return f"entry {number + 1} is gone: {entry} comes after {number}"
        if previous != head:
            return f"entry {entry} does not follow entry {number}"
        if hashed != chain(previous, line):
            return f"entry {entry} was changed: its head is not that of its text"
        number, head = entry, hashed
    return ""


_LEASES = """
SELECT l.lock, l.run_id, l.host FROM runbook.leases l
WHERE l.heartbeat > '-infinity' AND l.heartbeat < clock_timestamp() - make_interval(secs => $1)
    AND NOT EXISTS (SELECT FROM runbook.closings c WHERE c.run_id = l.run_id)
ORDER BY l.heartbeat DESC LIMIT 50
"""


def leases(server: Server) -> Iterator[Finding]:
    """Leases of runs that were never closed and hold their lock no longer."""
    with _current(server) as connection:
        if connection is None:
            return
        with translated():
            rows = connection.execute(_LEASES, [SILENT]).fetchall()
        dead = [row for row in rows if not LockSession(connection, row[0], -1).who()[0]]
    if not dead:
        yield ok("leases", "none is held by the dead")
        return
    named = ", ".join(f"run {run} on {place} (lock `{name}`)" for name, run, place in dead[:TOLD])
    more = f" and {len(dead) - TOLD} more" if len(dead) > TOLD else ""
    where = {place for _, _, place in dead}
    cure = f"on {', '.join(sorted(where))}: runbook recover {dead[0][1] if len(dead) == 1 else ''}".rstrip()
    yield warn("leases", f"never closed, and their lock is free: {named}{more}", cure)


LOCK: dict[str, Callable[[Server], Iterator[Finding]]] = {"lock": lock, "lock's key": key}
AUDIT: dict[str, Callable[[Server], Iterator[Finding]]] = {
    "audit": audit,
    "triggers": triggers,
    "chain": newest,
    "leases": leases,
}
