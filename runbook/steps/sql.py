"""The `sql` step: its statements in one transaction, or a single one by itself (so that VACUUM and the like can run)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from runbook.database.connect import Connection, ServerError, bound, translated
from runbook.database.shapes import shape
from runbook.engine.ports import Acted, Prepared
from runbook.language.expressions import Scope
from runbook.language.model import Sql
from runbook.language.templates import BoundSql, render_sql
from runbook.system.tools import Tools

MAX_RETURNED = 10_000
# A statement whose client has died is ended, where the server can (from 14, on Linux).
_MIND_THE_CLIENT = """
SELECT CASE WHEN version() LIKE '%linux%' THEN set_config(name, '5s', false) END
FROM pg_settings WHERE name = 'client_connection_check_interval'
"""


class Repair(NamedTuple):
    """A remedy's statement, which is committed only if it touches as many rows as a person agreed to."""

    sql: Sql
    rows: int


def prepare(action: Sql | Repair, scope: Scope, timeout: float, tools: Tools) -> Prepared:
    """The statements with their values; going, they are committed together, a remedy only if it touches what was shown."""
    sql = action.sql if isinstance(action, Repair) else action
    statements = [render_sql(sql.text, scope, index) for index in range(len(sql.text.spans))]
    what = "; ".join(" ".join(statement.query.split()) for statement in statements)

    def use(connection: Connection) -> Acted:
        if isinstance(action, Repair):
            return _repair(connection, statements[0], action.rows)
        return Acted(_execute(connection, statements, sql.returns))

    return Prepared(what, lambda: _run(sql.connection, use, timeout, tools))


def _run(name: str, use: Callable[[Connection], Acted], timeout: float, tools: Tools) -> Acted:
    """What `use` does on a connection of the step's own, bounded in time, and broken off where the end is asked for."""
    try:
        connection = tools.database(name)
    except ServerError as error:
        return Acted({}, str(error))
    tools.interrupt(connection.cancel)
    try:
        with translated():
            connection.execute(f"SET statement_timeout = {int(timeout * 1000)}; {_MIND_THE_CLIENT}")
            return use(connection)
    except ServerError as error:
        stopped = tools.cancelled() is not None
        return Acted({}, "cancelled" if stopped else _why(error, timeout), cancelled=stopped)
    finally:
        tools.interrupt(None)
        connection.close()


def _why(error: ServerError, timeout: float) -> str:
    if error.sqlstate == "57014":
        return f"timed out after {timeout:.4g} s (statement timeout)"
    if error.lost:
        return f"{error} (whether it was committed is not known)"
    return str(error)


def _execute(connection: Connection, statements: list[BoundSql], returns: str) -> dict[str, Any]:
    together = len(statements) > 1
    if together:
        connection.execute("BEGIN")
    for statement in statements:
        cursor = connection.execute(statement.query, bound(statement.values) or None)
    if cursor.description is None:
        facts = {"rowcount": cursor.rowcount, "result": None}
    else:
        columns = [column.name for column in cursor.description]
        facts = {"rowcount": cursor.rowcount, "result": shape(columns, cursor.fetchmany(MAX_RETURNED), returns)}
    if together:
        connection.execute("COMMIT")
    return facts


def _repair(connection: Connection, statement: BoundSql, shown: int) -> Acted:
    connection.execute("BEGIN")
    rows = connection.execute(statement.query, bound(statement.values) or None).rowcount
    if rows != shown:
        connection.execute("ROLLBACK")
        why = f"rolled back: it touched {rows} rows, and {shown} were shown: another writer was there meanwhile"
        return Acted({"rowcount": 0}, why)
    connection.execute("COMMIT")
    return Acted({"rowcount": rows})
