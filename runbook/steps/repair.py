"""The step of a remedy: its statement in one transaction, committed only if it changed as many rows as were shown."""

from __future__ import annotations

from typing import NamedTuple

from runbook.database.connect import ServerError, bound, translated
from runbook.engine.ports import Acted, Prepared
from runbook.language.expressions import Scope
from runbook.language.model import Sql
from runbook.language.templates import BoundSql, render_sql
from runbook.system.tools import Tools


class Repair(NamedTuple):
    """A remedy's statement, and the number of rows that a person agreed to."""

    sql: Sql
    rows: int


def prepare(action: Repair, scope: Scope, timeout: float, tools: Tools) -> Prepared:
    """The statement with its values; going, it is committed or rolled back."""
    statement = render_sql(action.sql.text, scope, 0)
    return Prepared(" ".join(statement.query.split()), lambda: _run(action, statement, timeout, tools))


def _run(action: Repair, statement: BoundSql, timeout: float, tools: Tools) -> Acted:
    try:
        connection = tools.database(action.sql.connection)
    except ServerError as error:
        return Acted({}, str(error))
    tools.interrupt(connection.cancel)
    try:
        with translated():
            connection.execute(f"SET statement_timeout = {int(timeout * 1000)}")
            connection.execute("BEGIN")
            rows = connection.execute(statement.query, bound(statement.values) or None).rowcount
            if rows != action.rows:
                connection.execute("ROLLBACK")
                why = f"rolled back: it touched {rows} rows, and {action.rows} were shown: another writer was there meanwhile"
                return Acted({"rowcount": 0}, why)
            connection.execute("COMMIT")
        return Acted({"rowcount": rows})
    except ServerError as error:
        stopped = tools.cancelled() is not None
        why = f"{error} (whether it was committed is not known)" if error.lost else str(error)
        return Acted({}, "cancelled" if stopped else why, cancelled=stopped)
    finally:
        tools.interrupt(None)
        connection.close()
