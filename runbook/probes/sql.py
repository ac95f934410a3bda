"""The `sql` probe: one read-only statement."""

from __future__ import annotations

from runbook.database.connect import ServerError
from runbook.database.shapes import shape
from runbook.engine.ports import Answer, CannotTell
from runbook.language.expressions import Scope
from runbook.language.model import Sql
from runbook.language.templates import render_sql
from runbook.system.tools import Tools


def read(probe: Sql, scope: Scope, timeout: float, tools: Tools) -> Answer:
    """Asks the server, within the open snapshot."""
    bound = render_sql(probe.text, scope)
    try:
        rows = tools.query(probe.connection, bound.query, bound.values, timeout)
        return Answer(shape(rows.columns, rows.rows, probe.returns), dropped=rows.dropped)
    except ServerError as error:
        if error.sqlstate == "57014" and "timeout" in str(error):
            raise CannotTell(f"no answer within {timeout:.4g} s (statement timeout)") from None
        raise CannotTell(str(error)) from error
