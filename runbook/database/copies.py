"""The copies of databases that are on a server: how they are named and marked, who uses them, and how they are dropped.

Whoever makes a copy keeps a session under its name, so a copy without that session was left by a process that was killed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing, suppress

from psycopg import sql

from runbook.database.connect import Connection, ServerError, connect, translated
from runbook.database.source import renamed

PREFIX = "runbook_copy_"
COMMENT = "runbook: throw-away copy of "
RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,46}")  # leaves room for the prefix and for `_999` within a name's 63 bytes
PATIENCE = 10.0  # seconds for what uses a copy to go away before it is dropped
PAUSE = 0.1
IN_USE, FORBIDDEN = "55006", "42501"
# For the session that makes a copy: nothing ends it early, and the server ends it soon when its client is gone.
SESSION = {
    "statement_timeout": "0",
    "lock_timeout": "30s",
    "idle_session_timeout": "0",
    "client_connection_check_interval": "1s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "file_copy_method": "clone",
}

_COPIES = """
SELECT d.datname::text, shobj_description(d.oid, 'pg_database'),
    EXISTS (SELECT FROM pg_stat_activity a WHERE a.application_name = d.datname OR a.datid = d.oid)
FROM pg_database d
WHERE starts_with(d.datname::text, $1) AND starts_with(shobj_description(d.oid, 'pg_database'), $2) ORDER BY 1
"""
_END_MAKERS = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND usename = current_user AND application_name ~ $1
"""


def maintenance(url: str, application: str, password: str) -> Connection:
    """A session on a database of the server that nobody copies. Raises ServerError."""
    known = {"password": password} if password else {}
    try:
        return lasting(renamed(url, "postgres"), application, **known)
    except ServerError as first:
        with suppress(ServerError):
            return lasting(renamed(url, "template1"), application, **known)
        raise ServerError(
            f"the database `postgres`, from where others are created and dropped, cannot be connected to: {first}",
            lost=first.lost,
        ) from None


def lasting(url: str, application: str, **known: str) -> Connection:
    """A session that may last, as its statements may. Raises ServerError."""
    connection = connect(url, application, **known)
    try:
        for name, value in SESSION.items():
            adjust(connection, name, value)
    except BaseException:
        connection.close()
        raise
    return connection


def adjust(connection: Connection, name: str, value: str) -> bool:
    """Changes a setting, where the server knows it and that value; whether it did."""
    query = "SELECT set_config(name, $2, false) FROM pg_settings WHERE name = $1 AND setting <> $2"
    try:
        with translated():
            return connection.execute(query, [name, value]).fetchone() is not None
    except ServerError as error:
        if error.lost:
            raise
        return False


def base_name(run_id: str) -> str:
    """The name of a run's first copy."""
    if not RUN_ID.fullmatch(run_id):
        raise ServerError(f"`{run_id}` is no run's id")
    return PREFIX + run_id


def take_name(keeper: Connection, base: str) -> str:
    """A name that no database has, which the session bears from now on. A run may copy more than one database."""
    with translated():
        found = keeper.execute("SELECT datname::text FROM pg_database WHERE starts_with(datname::text, $1)", [base])
        taken = {str(name) for (name,) in found.fetchall()}
        name = next(name for name in _candidates(base) if name not in taken)
        keeper.execute("SELECT set_config('application_name', $1, false)", [name])
    return name


def _candidates(base: str) -> Iterator[str]:
    yield base
    yield from (f"{base}_{number}" for number in range(2, 1000))


def copies_of(connection: Connection, run_id: str) -> list[tuple[str, bool]]:
    """The databases that are marked as copies (of one run, or of all), and whether someone uses them."""
    of_run = re.compile(f"{base_name(run_id)}(_[0-9]+)?" if run_id else ".*", re.S)
    with translated():
        found = connection.execute(_COPIES, [PREFIX, COMMENT]).fetchall()
    return [
        (name, in_use)
        for name, said, in_use in found
        if of_run.fullmatch(name) and (not run_id or f" for run {run_id}, made at " in said)
    ]


def end_makers(connection: Connection, pattern: str) -> None:
    """Ends the sessions that are making a copy, or have made it: what one of them still creates would be left over."""
    deadline = time.monotonic() + PATIENCE
    with translated():
        while connection.execute(_END_MAKERS, [pattern]).fetchone() != (0,) and time.monotonic() < deadline:
            time.sleep(PAUSE)


def drop(connection: Connection, url: str, name: str) -> None:
    """Drops a database and ends whoever is on it. Raises ServerError."""
    statement = sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name))
    try:
        with translated():
            connection.execute(statement + sql.SQL(" WITH (FORCE)"))
    except ServerError as error:
        if error.sqlstate not in (IN_USE, FORBIDDEN):
            raise
        _loosen(connection, url, name)
        if not _is_left_alone(connection, name):
            raise
        # Without FORCE the server ends autovacuum, which FORCE may not where the role may not end every session.
        with translated():
            connection.execute(statement)


def _is_left_alone(connection: Connection, name: str) -> bool:
    """Whether all sessions on a database have ended, for which it waits."""
    query = "SELECT FROM pg_stat_activity WHERE datname = $1 AND usesysid IS NOT NULL"
    deadline = time.monotonic() + PATIENCE
    with translated():
        while connection.execute(query, [name]).fetchone() is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(PAUSE)
    return True


def _loosen(connection: Connection, url: str, name: str) -> None:
    """Lets nobody into a database any more, and ends the transactions that were prepared in it."""
    with suppress(ServerError), closing(connect(url, "runbook")) as inside, translated():
        query = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        for (gid,) in inside.execute(query).fetchall():
            inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
    with translated():
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))


def by_hand(name: str, error: ServerError) -> str:
    """What to tell of a copy that is still there."""
    statement = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)).as_string(None)
    return f"the copy {name} could not be dropped: {error}; drop it by hand: {statement}"
