"""A private PostgreSQL for a runbook whose connection variable is not set: one server a folder, many databases.

Whoever uses the server holds a shared lock on `users.lock`, which the kernel takes back however that process ends. The
server belongs to a keeper (`keeper.py`), which holds `keeper.lock` and waits for the users' lock as its only owner: it
has it when everyone is gone, stops the server, and only then lets newcomers in. What is asked is always the server
itself, never a file about it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runbook.database.binaries import EmbeddedError, Place, find_place, find_programs, has_place

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[tuple[object, ...]]

__all__ = ["Embedded", "EmbeddedError", "embedded_database"]

OWNER = "runbook_owner"
READER = "runbook_reader"
START_SECONDS = 120.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.005
LAUNCHES = 2
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")
TEMPORARY = "_tmp_[0-9a-f]{8}$"

ROLES = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{READER}') THEN
        CREATE ROLE {READER} LOGIN IN ROLE pg_read_all_data;
        CREATE ROLE {OWNER} LOGIN CREATEDB IN ROLE {READER};
        ALTER ROLE {READER} SET default_transaction_read_only = on;
    END IF;
END $$
"""
# A temporary database is in use as long as a session bears its name; the others were left by a killed process.
ABANDONED = """
SELECT datname FROM pg_database
WHERE datname ~ %s AND datname NOT IN (SELECT application_name FROM pg_stat_activity)
"""


class Embedded(NamedTuple):
    """A database that can be used: libpq URLs for its owner and for a role that can only read it.

    `version` is the server's, such as `18.6`; `fresh` says that this call created and seeded the database.
    """

    url: str
    read_url: str
    version: str
    fresh: bool


class Script(NamedTuple):
    """One file of SQL."""

    path: Path
    sql: str


@contextmanager
def embedded_database(base: Path, name: str, scripts: Sequence[Path], *, fresh: bool = False) -> Iterator[Embedded]:
    """A database made by `scripts`, on a private server that runs as long as anyone is within such a block.

    `base` is a folder of ours, made where it is missing. `name` and what the scripts say name the database, so it keeps
    its data from call to call until a script changes. With `fresh` it is a new one, dropped at the end.
    Raises EmbeddedError: no programs, a server that does not start, a script that fails (with its file and line).
    """
    import psycopg

    sources = [read_script(path) for path in scripts]
    with _used_place(base) as place:
        admin, database, created = _opened(place, database_name(name, sources), sources, fresh)
        version = (admin.info.parameter_status("server_version") or "").split()[0]
        if not fresh:
            admin.close()
        try:
            yield Embedded(_url(place, OWNER, database), _url(place, READER, database), version, created)
        finally:
            # Where the server has been killed meanwhile, a later call drops it among the abandoned.
            with closing(admin), suppress(psycopg.OperationalError):
                if fresh:
                    admin.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")


@contextmanager
def kept_databases(base: Path) -> Iterator[list[str]]:
    """The URLs of all databases that the private server in `base` keeps; it is started if there is one. Raises EmbeddedError."""
    if not has_place(base):
        yield []
        return
    with _used_place(base) as place, closing(_running_server(place)) as admin:
        names = admin.execute(
            "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres' ORDER BY 1"
        )
        yield [_url(place, OWNER, str(row[0])) for row in names]


def _url(place: Place, role: str, database: str) -> str:
    return f"postgresql://{role}@/{database}?host={place.sockets}&port=5432"


def read_script(path: Path) -> Script:
    """A script, read. Raises EmbeddedError."""
    try:
        sql = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise EmbeddedError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise EmbeddedError(f"{path}:{line}: is not UTF-8: save it as UTF-8") from error
    if "\0" in sql:
        line = sql.count("\n", 0, sql.index("\0")) + 1
        raise EmbeddedError(f"{path}:{line}: has a zero byte, which SQL cannot have: remove it")
    return Script(path, sql)


def database_name(name: str, sources: Sequence[Script]) -> str:
    """The name of the database of a runbook that these scripts make."""
    digest = hashlib.sha256(name.encode())
    for script in sources:
        digest.update(hashlib.sha256(script.sql.encode()).digest())
    word = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:32]
    return f"{'' if word[:1].isalpha() else 'db_'}{word}_{digest.hexdigest()[:12]}"


def _open_lock(path: Path) -> int:
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    except FileExistsError:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    os.fchmod(lock, 0o644)
    return lock


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _used_place(base: Path) -> Iterator[Place]:
    """Be a user of the server, which keeps it from being stopped; waits while it is being stopped."""
    try:
        place = find_place(base)
        users = _open_lock(place.folder / "users.lock")
    except OSError as error:
        raise EmbeddedError(f"the folder of the private PostgreSQL cannot be used: {error}") from error
    try:
        deadline = time.monotonic() + STOP_SECONDS
        while not _lock(users, fcntl.LOCK_SH):
            if time.monotonic() > deadline:
                raise EmbeddedError(f"the private PostgreSQL in {place.folder} is being stopped, and does not stop")
            time.sleep(POLL_SECONDS)
        yield place
    finally:
        os.close(users)


def _running_server(place: Place) -> Connection:
    """A superuser's connection to the server, which is started where it does not run."""
    deadline = time.monotonic() + START_SECONDS
    launches = 0
    while time.monotonic() < deadline:
        keeper = _open_lock(place.folder / "keeper.lock")
        try:
            if _lock(keeper, fcntl.LOCK_EX):
                if launches == LAUNCHES:
                    raise EmbeddedError(f"the private PostgreSQL does not start:\n{_last_words(place)}")
                _launch(place, keeper)
                launches += 1
            elif admin := _connected(place):
                return admin
        finally:
            os.close(keeper)
        time.sleep(POLL_SECONDS)
    raise EmbeddedError(f"the private PostgreSQL does not answer after {START_SECONDS:.0f} s:\n{_last_words(place)}")


def _connected(place: Place) -> Connection | None:
    import psycopg

    if not (place.sockets / ".s.PGSQL.5432").exists():
        return None
    try:
        return _connect(place, "postgres", "postgres")
    except psycopg.OperationalError:
        return None


def _connect(place: Place, role: str, database: str) -> Connection:
    import psycopg

    # What is given here cannot come from the user's PG* variables.
    return psycopg.connect(
        _url(place, role, database),
        hostaddr="",
        options="-c lock_timeout=10min",
        client_encoding="utf8",
        connect_timeout=10,
        autocommit=True,
    )


def _launch(place: Place, keeper: int) -> None:
    """Start a keeper, which inherits the lock that we hold for it."""
    import shutil
    import subprocess

    users = _open_lock(place.folder / "users.lock")
    try:
        for unfinished in place.folder.glob("*.new"):
            shutil.rmtree(unfinished)
        done = subprocess.run(
            _keeper_command(place, users, keeper),
            env={"LC_ALL": "C"} | {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            start_new_session=True,
            pass_fds=(users, keeper),
        )
    except OSError as error:
        raise EmbeddedError(f"the private PostgreSQL cannot be started: {error}") from error
    finally:
        os.close(users)
    # Below zero it was killed: the caller sees that there is no keeper, as after any kill.
    if done.returncode > 0:
        raise EmbeddedError(f"the keeper of the private PostgreSQL does not start: {done.stderr.strip()}")


def _keeper_command(place: Place, users: int, keeper: int) -> list[str]:
    script = Path(__file__).resolve().with_name("keeper.py")
    numbers = [users, keeper, place.account.uid, place.account.gid]
    programs = [part for found in find_programs(place.folder, place.account) for part in (found.major, found.folder)]
    return [sys.executable, "-I", "-S", *map(str, [script, *numbers, place.folder, place.sockets, *programs])]


def _last_words(place: Place) -> str:
    log = place.folder / "server.log"
    try:
        lines = log.read_text(errors="replace").splitlines()[-12:]
    except OSError:
        lines = ["(there is no log)"]
    return "\n".join([f"{log} ends with", *(f"  {line}" for line in lines)])


def _exists(admin: Connection, database: str) -> bool:
    return bool(admin.execute("SELECT FROM pg_database WHERE datname = %s", (database,)).rowcount)


def _opened(
    place: Place, database: str, sources: Sequence[Script], fresh: bool, tries: int = 2
) -> tuple[Connection, str, bool]:
    """An open superuser's connection, the name of the database to use, and whether it was created here.

    A server that has just been killed may still have answered, so one that is lost on the way is asked for again.
    """
    import psycopg

    admin = _running_server(place)
    try:
        return admin, *_provide(admin, place, database, sources, fresh)
    except BaseException as error:
        is_lost = admin.broken
        admin.close()
        if is_lost and tries > 1 and isinstance(error, psycopg.Error | EmbeddedError):
            return _opened(place, database, sources, fresh, tries - 1)
        if isinstance(error, psycopg.Error):
            raise EmbeddedError(f"the private PostgreSQL in {place.folder} makes no database: {error}") from error
        raise


def _provide(
    admin: Connection, place: Place, database: str, sources: Sequence[Script], fresh: bool
) -> tuple[str, bool]:
    if fresh:
        return _create(admin, place, database, sources), True
    if _exists(admin, database):
        return database, False
    # Whoever comes second waits here until the first is done, or gone.
    admin.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (database,))
    if _exists(admin, database):
        return database, False
    admin.execute(f"ALTER DATABASE {_create(admin, place, database, sources)} RENAME TO {database}")
    return database, True


def _create(admin: Connection, place: Place, database: str, sources: Sequence[Script]) -> str:
    """A seeded database under a temporary name, which no one takes for abandoned while `admin` is open."""
    import psycopg

    temporary = f"{database}_tmp_{os.urandom(4).hex()}"
    admin.execute("SELECT pg_advisory_lock(0)")
    admin.execute(ROLES)
    for (abandoned,) in admin.execute(ABANDONED, (TEMPORARY,)).fetchall():
        admin.execute(f"DROP DATABASE IF EXISTS {abandoned} WITH (FORCE)")
    admin.execute("SELECT set_config('application_name', %s, false), pg_advisory_unlock(0)", (temporary,))
    admin.execute(f"CREATE DATABASE {temporary} OWNER {OWNER}")
    try:
        admin.execute(f"REVOKE CREATE, TEMPORARY ON DATABASE {temporary} FROM PUBLIC")
        _seed(place, temporary, sources)
    except BaseException:
        with suppress(psycopg.OperationalError):
            admin.execute(f"DROP DATABASE {temporary} WITH (FORCE)")
        raise
    return temporary


def _seed(place: Place, database: str, sources: Sequence[Script]) -> None:
    import psycopg
    from psycopg.pq import TransactionStatus

    with closing(_connect(place, OWNER, database)) as connection:
        for script in sources:
            try:
                connection.execute(script.sql.encode())
            except psycopg.Error as error:
                raise EmbeddedError(_explained(script, error, connection)) from error
            if connection.info.transaction_status != TransactionStatus.IDLE:
                raise EmbeddedError(f"{script.path}: ends within a transaction: add COMMIT")
            connection.execute("DISCARD ALL")


def _explained(script: Script, error: psycopg.Error, connection: Connection) -> str:
    """The server's message, after the file and, where it can be told, the line."""
    import psycopg

    told = error.diag
    position = (
        int(told.statement_position) - 1 if told.statement_position else _failing_start(script, error, connection)
    )
    line = "" if position is None else f":{script.sql.count(chr(10), 0, position) + 1}"
    parts = [told.message_primary or str(error), told.message_detail, told.message_hint, told.context]
    if isinstance(error, psycopg.ProgrammingError) and re.search(r"^\\|\bFROM\s+STDIN\b", script.sql, re.M | re.I):
        parts.append("psql's own commands and COPY FROM STDIN are not SQL: make dumps with `pg_dump --inserts`")
    return f"{script.path}{line}: " + "\n  ".join(part for part in parts if part)


def _failing_start(script: Script, error: psycopg.Error, connection: Connection) -> int | None:
    """Where the statement starts that fails like `error`, which tells no position: found by running them one by one."""
    import psycopg

    from runbook.language.sqltext import statements

    start = 0
    try:
        connection.execute("ROLLBACK")
        connection.execute("BEGIN")
        for start, end in statements(script.sql):
            connection.execute(script.sql[start:end].encode())
    except psycopg.Error as again:
        return start if again.diag.message_primary == error.diag.message_primary is not None else None
    return None
