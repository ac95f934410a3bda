"""The `sql` step: its statements in one transaction, or a single one by itself (so that VACUUM and the like can run)."""

from __future__ import annotations

from typing import Any

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


def prepare(action: Sql, scope: Scope, timeout: float, tools: Tools) -> Prepared:
    """The statements with their values; going, they are committed together."""
    statements = [render_sql(action.text, scope, index) for index in range(len(action.text.spans))]
    what = "; ".join(" ".join(statement.query.split()) for statement in statements)
    return Prepared(what, lambda: _run(action, statements, timeout, tools))


def _run(action: Sql, statements: list[BoundSql], timeout: float, tools: Tools) -> Acted:
    try:
        connection = tools.database(action.connection)
    except ServerError as error:
        return Acted({}, str(error))
    tools.interrupt(connection.cancel)
    try:
        with translated():
            connection.execute(f"SET statement_timeout = {int(timeout * 1000)}; {_MIND_THE_CLIENT}")
            facts = _execute(connection, statements, action.returns)
        return Acted(facts)
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
