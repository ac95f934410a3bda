"""The fleet's tables and those of its queue, in the schema `runbook_fleet` of the database that has the audit."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from runbook.database.connect import Connection, ServerError, translated
from runbook.language.problems import RunbookError
from runbook.records.audit import FRESH_LOOK, migrate

_SQL = Path(__file__).parent / "sql"
_LOCK = 0x72756E666C656574
_EXTRA = "the fleet needs procrastinate: pip install 'runbook-experiments[fleet]'"
ENTER = "SET LOCAL search_path = runbook_fleet"


class NoFleet(RunbookError):
    """The fleet's tables cannot be made or used; the message has the cure."""


def present(connection: Connection) -> bool:
    """Whether a fleet was ever here. Raises ServerError."""
    with translated():
        found = connection.execute("SELECT to_regclass('runbook_fleet.turns') IS NOT NULL").fetchone()
    return bool(found and found[0])


def prepare(connection: Connection) -> None:
    """Brings audit, fleet and queue up to date. Raises NoFleet, AuditError or ServerError."""
    migrate(connection)
    steps = _steps()
    if not _missing(connection, steps):
        return
    try:
        with translated(), connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock($1)", [_LOCK])
            connection.execute(FRESH_LOOK)
            connection.execute("CREATE SCHEMA IF NOT EXISTS runbook_fleet")
            connection.execute(ENTER)
            for name in _missing(connection, steps):
                connection.execute(steps[name].encode())
                connection.execute("INSERT INTO runbook_fleet.migrations VALUES ($1) ON CONFLICT DO NOTHING", [name])
    except ServerError as error:
        if error.sqlstate not in ("42501", "25006"):
            raise
        raise NoFleet(
            f"the role {connection.info.user} may not make the schema `runbook_fleet` ({error}); give the output of "
            "`runbook audit schema --fleet` to your DBA"
        ) from None


def schema_sql() -> str:
    """What a DBA may run where the role of submitters and workers may not create a schema."""
    steps = _steps()
    parts = ["CREATE SCHEMA IF NOT EXISTS runbook_fleet;", "BEGIN;", f"{ENTER};"]
    for name in _missing(None, steps):
        parts += [steps[name], f"INSERT INTO runbook_fleet.migrations VALUES ('{name}') ON CONFLICT DO NOTHING;"]
    return "\n".join([*parts, "COMMIT;", (_SQL / "roles.sql").read_text(encoding="utf-8")])


def _steps() -> dict[str, str]:
    """Everything that is to be applied, by name and in order: our tables, the queue's as they are now, and its migrations."""
    try:
        queue = resources.files("procrastinate") / "sql"
    except ModuleNotFoundError:
        raise NoFleet(_EXTRA) from None
    ours = {f"fleet {path.stem[:3].lstrip('0')}": path for path in sorted(_SQL.glob("[0-9]*.sql"))}
    steps = {name: path.read_text(encoding="utf-8") for name, path in ours.items()}
    steps["queue"] = (queue / "schema.sql").read_text(encoding="utf-8")
    for path in sorted((queue / "migrations").iterdir(), key=lambda path: path.name):
        if path.name.endswith(".sql"):
            steps[f"queue {path.name.removesuffix('.sql')}"] = path.read_text(encoding="utf-8")
    return steps


def _missing(connection: Connection | None, steps: dict[str, str]) -> list[str]:
    """The steps that are to be applied. A queue that is made new has what its migrations would do to an older one."""
    known = _applied(connection) if connection is not None else set()
    missing = [name for name in steps if name not in known]
    if "queue" not in missing:
        return missing
    for name in missing:
        if name.startswith("queue "):
            steps[name] = "SELECT 1;"
    return missing


def _applied(connection: Connection) -> set[str]:
    with translated():
        there = connection.execute("SELECT to_regclass('runbook_fleet.migrations') IS NOT NULL").fetchone()
        if not there or not there[0]:
            return set()
        return {row[0] for row in connection.execute("SELECT name FROM runbook_fleet.migrations")}
