"""Throw-away copies of a database, on the server where it is: named `runbook_copy_<run id>`, and dropped at the end.

A copy is made by `CREATE DATABASE … TEMPLATE` where no other session is on the source, else by dump and restore. It comes
without the audit: what is done in a copy has a history of its own, which goes with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from psycopg import sql
from psycopg.conninfo import make_conninfo

from runbook.database.connect import Connection, ServerError, translated
from runbook.database.copies import (
    COMMENT,
    IN_USE,
    PATIENCE,
    PAUSE,
    PREFIX,
    adjust,
    base_name,
    by_hand,
    copies_of,
    drop,
    end_makers,
    lasting,
    maintenance,
    take_name,
)
from runbook.database.dump import Reach, find_dump_programs, pour
from runbook.database.source import AUDIT, Source, empty_like, grants, known_password, look, renamed, settings

__all__ = ["Copy", "Plan", "copied", "drop_leftovers", "leftovers", "plan_copy", "renamed"]

AS_FILES = 100_000_000  # bytes from which two checkpoints cost less than writing every page to the WAL
WAYS = {"template": "CREATE DATABASE … TEMPLATE", "dump": "dump and restore"}
# For estimates: seconds to begin with, and bytes a second.
PACE = {"template": (0.2, 200e6), "dump": (0.5, 30e6)}
LEAST_LIMIT, LIMIT = 900.0, 20  # dump and restore may take so many seconds, or so many times the estimate
_VIEWS_ON_THE_AUDIT = """
SELECT DISTINCT v.oid::regclass::text FROM pg_class t JOIN pg_depend d ON d.refobjid = t.oid
JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class v ON v.oid = r.ev_class
WHERE t.relnamespace = $1::text::regnamespace AND v.relnamespace <> t.relnamespace ORDER BY 1
"""


class Plan(NamedTuple):
    """How a database would be copied: `how` is "template" or "dump", for the reason that `because` gives.

    `size` is in bytes, `seconds` an estimate; `notes` say what a copy does not keep apart from the source.
    """

    source: str
    how: str
    because: str
    size: int
    seconds: float
    notes: tuple[str, ...]

    @property
    def text(self) -> str:
        """The plan in one line."""
        size = f"{self.size / 1e9:.1f} GB" if self.size >= 1e9 else f"{self.size / 1e6:.1f} MB"
        return f"copy database {self.source} ({size}) by {WAYS[self.how]}: {self.because}; about {self.seconds:.2g} s"


class Copy(NamedTuple):
    """A copy that can be used: URLs like the source's, its name, "template" or "dump", the seconds that it took.

    `notes` say in what it differs from the source, beside the audit that it does not have.
    """

    url: str
    read_url: str
    name: str
    how: str
    seconds: float
    notes: tuple[str, ...]


def plan_copy(url: str, *, read_url: str = "") -> Plan:
    """How the database of `url` can be copied. Raises ServerError where it cannot be, with the cure."""
    return _plan(look(url, read_url))


@contextmanager
def copied(
    url: str,
    run_id: str,
    *,
    read_url: str = "",
    on_plan: Callable[[Plan], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> Iterator[Copy]:
    """A copy of the database of `url`, dropped when the block is left, however it is.

    `on_plan` hears how it will be made before anything is, and may raise; it hears again where a session comes to use the
    source meanwhile. A copy that cannot be dropped is told to `warn`, or raised as ServerError: the text has the statement
    to run by hand. Raises ServerError.
    """
    base = base_name(run_id)
    source = look(url, read_url)
    plan = _plan(source)
    tell = on_plan or (lambda plan: None)
    tell(plan)
    comment = f"{COMMENT}{source.name} for run {run_id}, made at {datetime.now(UTC).isoformat()}"
    with closing(maintenance(url, base, source.password)) as keeper:
        making = _Making(keeper, url, read_url, source, take_name(keeper, base), comment)
        try:
            yield _make(making, plan, tell)
        finally:
            keeper.close()
            _clear_away(making, warn)


def leftovers(url: str, run_id: str = "") -> list[str]:
    """Names of copies on the server of `url` that nobody uses: those of one run, or of all. Raises ServerError."""
    with closing(maintenance(url, "runbook", known_password(url))) as connection:
        return [name for name, in_use in copies_of(connection, run_id) if not in_use]


def drop_leftovers(url: str, run_id: str = "") -> list[str]:
    """Drops the copies that killed runs left on the server of `url`; the names of those that were dropped.

    With `run_id` it is the caller who knows that the run is dead: what it left is dropped whoever still uses it. Raises
    ServerError where one cannot be dropped, after the others; the text has the statement to run by hand.
    """
    dropped: list[str] = []
    failed: list[str] = []
    with closing(maintenance(url, "runbook", known_password(url))) as connection:
        if run_id:
            end_makers(connection, f"^{base_name(run_id)}(_[0-9]+)?$")
        for name in [name for name, in_use in copies_of(connection, run_id) if run_id or not in_use]:
            try:
                drop(connection, renamed(url, name), name)
                dropped.append(name)
            except ServerError as error:
                failed.append(by_hand(name, error))
    if failed:
        raise ServerError("; ".join(failed))
    return dropped


# --- making one -----------------------------------------------------------------------------------------------------


class _Making(NamedTuple):
    """What a copy is made with: a session on another database, and how the copy is to be known."""

    keeper: Connection
    url: str
    read_url: str
    source: Source
    name: str
    comment: str


def _plan(source: Source) -> Plan:
    how, because = "template", "no other session is on it, and new ones wait until the copy is made"
    if source.users:
        named, many = ", ".join(sorted(set(source.users))[:3]), len(source.users)
        how, because = "dump", f"{many} other session{'s' if many > 1 else ''} on it ({named})"
    notes = []
    if source.foreign_servers:
        servers = ", ".join(source.foreign_servers)
        notes.append(f"foreign tables lead out of the copy, to the same place as in {source.name}: {servers}")
    return _estimated(Plan(source.name, how, because, source.size, 0, tuple(notes)), source)


def _estimated(plan: Plan, source: Source) -> Plan:
    """The plan with its seconds. Raises ServerError where it needs a dump, and there is nothing to make one with."""
    if plan.how == "dump":
        try:
            find_dump_programs(source.version)
        except ServerError as error:
            cure = f"{error}; or end what uses it"
            raise ServerError(f"{source.name} can only be copied by a dump ({plan.because}), and {cure}") from None
    begin, pace = PACE[plan.how]
    return plan._replace(seconds=begin + plan.size / pace)


def _make(making: _Making, plan: Plan, tell: Callable[[Plan], None]) -> Copy:
    began = time.monotonic()
    plan = _create(making, plan, tell)
    with translated():
        for statement in grants(making.keeper, making.source, making.name):
            making.keeper.execute(statement)
    url, connection = _enter(making)
    with closing(connection):
        if plan.how == "dump":
            _fill(making, plan, connection)
        notes = [*plan.notes, *(_without_audit(connection) if making.source.audit_owner else [])]
    notes += _settings(making)
    is_read = making.read_url and making.read_url != making.url
    read_url = renamed(making.read_url, making.name) if is_read else url
    return Copy(url, read_url, making.name, plan.how, time.monotonic() - began, tuple(notes))


def _create(making: _Making, plan: Plan, tell: Callable[[Plan], None]) -> Plan:
    """The database, full or still empty; the plan that came true."""
    source = making.source
    if plan.how == "template":
        strategy = f" STRATEGY {'FILE_COPY' if source.size >= AS_FILES else 'WAL_LOG'}" if source.version >= 15 else ""
        try:
            _create_marked(making, sql.SQL("TEMPLATE {}" + strategy).format(sql.Identifier(source.name)))
            return plan
        except ServerError as error:
            if error.sqlstate != IN_USE:
                raise
        plan = _estimated(plan._replace(how="dump", because="another session has just come to use it"), source)
        tell(plan)
    _create_marked(making, empty_like(source))
    return plan


def _create_marked(making: _Making, options: sql.Composed) -> None:
    """Creates the database and marks it as ours in one message, so that it is marked even if this process is killed."""
    name, owner = sql.Identifier(making.name), sql.Identifier(making.source.owner)
    keeper = making.keeper
    try:
        with translated(), keeper.pipeline():
            keeper.execute(sql.SQL("CREATE DATABASE {} OWNER {} {}").format(name, owner, options))
            keeper.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(name, sql.Literal(making.comment)))
    except ServerError as error:
        # The file system of the server may be one that cannot clone files.
        if error.sqlstate[:2] not in ("58", "XX", "0A") or not adjust(keeper, "file_copy_method", "copy"):
            raise
        _create_marked(making, options)


def _enter(making: _Making) -> tuple[str, Connection]:
    """The copy's URL, and a session on it. The URL has the password where a password file has it for the source alone."""
    url = renamed(making.url, making.name)
    password = making.source.password
    try:
        try:
            return url, lasting(url, making.name)
        except ServerError as error:
            if "password" not in str(error) or not password:
                raise
            url = make_conninfo(url, password=password)
            return url, lasting(url, making.name)
    except ServerError as error:
        raise ServerError(
            f"the copy {making.name} was made, and cannot be connected to: {error}; where pg_hba.conf or a pooler lists"
            f" databases by name, let it admit {PREFIX}… too"
        ) from None


def _fill(making: _Making, plan: Plan, connection: Connection) -> None:
    """Dumps the source and restores it into the copy, which is still empty."""
    source, password = making.source, making.source.password
    database = sql.Identifier(making.name)
    alter = sql.SQL("ALTER DATABASE {} {}")
    with translated():
        # What is lost by a crash of the server is only a copy.
        connection.execute(alter.format(database, sql.SQL("SET synchronous_commit = off")))
        if not source.has_public:
            connection.execute("DROP SCHEMA IF EXISTS public")
    reach = [
        Reach(make_conninfo(url, application_name=making.name), password)
        for url in (making.url, renamed(making.url, making.name))
    ]
    limit = max(LEAST_LIMIT, LIMIT * plan.seconds)
    without_rows = AUDIT if source.audit_owner is not None else ""
    try:
        pour(find_dump_programs(source.version), source.version, *reach, without_rows=without_rows, seconds=limit)
    except ServerError as error:
        raise ServerError(
            f"{source.name} could not be dumped and restored as role {source.role}: {error}; as a superuser, or with nobody"
            f" else on {source.name}, it can be copied whatever is in it"
        ) from None
    with translated():
        connection.execute("ANALYZE")
        connection.execute(alter.format(database, sql.SQL("RESET synchronous_commit")))


def _without_audit(connection: Connection) -> list[str]:
    """Drops the audit's schema from the copy; what went with it."""
    with translated():
        views = [str(name) for (name,) in connection.execute(_VIEWS_ON_THE_AUDIT, [AUDIT]).fetchall()]
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(AUDIT)))
    return [f"the copy is without the views on the audit: {', '.join(views)}"] if views else []


def _settings(making: _Making) -> list[str]:
    """Carries over what ALTER DATABASE … SET says; what this role may not carry over."""
    left = []
    with translated():
        statements = list(settings(making.keeper, making.source, making.name))
    for statement in statements:
        try:
            with translated():
                making.keeper.execute(statement)
        except ServerError as error:
            if error.lost:
                raise
            left.append(f"a setting is not carried over: {statement.as_string(making.keeper)} ({error})")
    return left


def _clear_away(making: _Making, warn: Callable[[str], None] | None) -> None:
    """Drops what was made, as far as it was."""
    try:
        try:
            _drop_marked(making)
        except KeyboardInterrupt:
            _drop_marked(making)
            raise
    except ServerError as error:
        message = by_hand(making.name, error)
        if warn is None:
            raise ServerError(message) from None
        warn(message)


def _drop_marked(making: _Making) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connection = maintenance(making.url, "runbook", making.source.password)
            break
        except ServerError as error:
            if not error.lost or time.monotonic() > deadline:
                raise
        time.sleep(PAUSE)
    with closing(connection):
        end_makers(connection, f"^{making.name}$")
        with translated():
            query = "SELECT shobj_description(oid, 'pg_database') = $2 FROM pg_database WHERE datname = $1"
            found = connection.execute(query, [making.name, making.comment]).fetchone()
        if found == (True,):
            drop(connection, renamed(making.url, making.name), making.name)
