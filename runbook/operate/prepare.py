"""Has the server prepare every statement of a runbook without running it; what it refuses becomes a problem with a place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from psycopg import pq

from runbook.database.connect import Connection, ServerError, connect
from runbook.language.document import read_text
from runbook.language.expressions import EvaluationError
from runbook.language.model import Runbook, Sql
from runbook.language.problems import Problem, did_you_mean
from runbook.language.templates import BoundSql, render_sql
from runbook.language.values import Absent, Identifier
from runbook.operate.servers import CannotStart, Servers

_UNDECIDED = ("42P18", "42804", "42725")
_DEFINES = ("create", "alter", "drop", "do", "set", "call", "truncate", "vacuum", "analyze", "begin", "commit", "copy")


class Found(NamedTuple):
    """A statement's place in the runbook, and the state it measures, if it does."""

    sql: Sql
    shown: str
    state: str = ""


def prepare_all(runbook: Runbook, servers: Servers, notes: list[str]) -> list[Problem]:
    """The problems that the servers have with the runbook's statements. Raises CannotStart where one is away."""
    problems: list[Problem] = []
    connections: dict[str, Connection] = {}
    defining = False
    try:
        for found in _statements(runbook):
            name = found.sql.connection
            if name not in connections:
                connections[name] = _connected(name, servers.urls[name])
            for index in range(len(found.sql.text.spans)):
                statement = _probe(runbook, found, index, notes)
                if statement is None or defining:
                    notes.extend([f"{found.shown}: not prepared, since an earlier step changes the schema"] * defining)
                    continue
                if statement.query.split(None, 1)[0].lower() in _DEFINES:
                    defining = defining or not found.shown.startswith(("state", "preflight"))
                    continue
                problems += _prepare(runbook, found, statement, connections[name])
    finally:
        for connection in connections.values():
            connection.close()
    return problems


def _connected(name: str, url: str) -> Connection:
    try:
        return connect(url, "runbook validate")
    except ServerError as error:
        raise CannotStart(f"connection `{name}`: {error}") from None


def _statements(runbook: Runbook) -> Iterator[Found]:
    for state in runbook.state:
        if isinstance(state.probe, Sql):
            yield Found(state.probe, f"state.{state.name}", state.name)
    for check in runbook.preflight:
        if isinstance(check.probe, Sql):
            yield Found(check.probe, check.shown)
    for key, row in (("started", runbook.audit.started), ("finished", runbook.audit.finished)):
        if row is not None:
            yield Found(row, f"audit.{key}")
    for remedy in runbook.remedies.values():
        for sql in (remedy.find, remedy.sql):
            if sql is not None:
                yield Found(sql, f"remedies.{remedy.name}")
    for step in (*runbook.steps, *runbook.on_failure, *runbook.finally_):
        if isinstance(step.action, Sql):
            yield Found(step.action, f"{step.stage}.{step.name}")
    for check in runbook.postconditions:
        if isinstance(check.probe, Sql):
            yield Found(check.probe, check.shown)


def _probe(runbook: Runbook, found: Found, index: int, notes: list[str]) -> BoundSql | None:
    """The statement with a placeholder for each value; none where a name in it is not known before a run."""
    sql = found.sql.text
    defaults = {name: schema.get("default") for name, schema in runbook.params.items()}
    scope = {"params": defaults, "runbook": {"name": runbook.name, "title": runbook.name}}
    for hole in sql.template.holes:
        if "| identifier" not in hole.expression.source and "|identifier" not in hole.expression.source:
            continue
        try:
            if not isinstance(hole.expression.evaluate(scope), Identifier):
                continue
        except EvaluationError:
            notes.append(f"{found.shown}: not prepared, since `{hole.expression.source}` is not known before a run")
            return None
    nothing = Absent("", null=True)
    roots = (
        "run",
        "before",
        "after",
        "delta",
        "preflight",
        "expectations",
        "steps",
        "postconditions",
        "audit",
        "secrets",
    )
    try:
        return render_sql(sql, {**scope, **dict.fromkeys(roots, nothing)}, index)
    except EvaluationError:
        return _blank(found, index)


def _blank(found: Found, index: int) -> BoundSql:
    """The statement with numbered placeholders, whatever their expressions are."""
    start, end = found.sql.text.spans[index]
    source, position = found.sql.text.template.source, start
    query, origins, count = "", [(0, start)], 0
    for hole in (hole for hole in found.sql.text.template.holes if start <= hole.start < end):
        count += 1
        query += f"{source[position : hole.start]}${count}"
        position = hole.end
        origins.append((len(query), hole.end))
    return BoundSql(query + source[position:end], (None,) * count, tuple(origins))


def _prepare(runbook: Runbook, found: Found, statement: BoundSql, connection: Connection) -> list[Problem]:
    result = connection.pgconn.prepare(b"", statement.query.encode())
    if result.status != pq.ExecStatus.COMMAND_OK:
        return _refused(runbook, found, statement, result)
    if not found.state:
        return []
    described = connection.pgconn.describe_prepared(b"")
    columns = [(described.fname(index) or b"").decode("utf-8", "replace") for index in range(described.nfields)]
    return _unmeasured(runbook, found.state, columns)


def _refused(runbook: Runbook, found: Found, statement: BoundSql, result: pq.abc.PGresult) -> list[Problem]:
    def field(code: pq.DiagnosticField) -> str:
        return (result.error_field(code) or b"").decode("utf-8", "replace")

    state = field(pq.DiagnosticField.SQLSTATE)
    if state in _UNDECIDED and statement.values:
        return []
    position = field(pq.DiagnosticField.STATEMENT_POSITION)
    offset = statement.origin(int(position) - 1) if position else found.sql.text.spans[0][0]
    document = read_text(found.sql.file) if found.sql.file else runbook.document
    source = found.sql.text.template.source
    width = 1
    while offset + width < len(source) and (source[offset + width].isalnum() or source[offset + width] in "_."):
        width += 1
    hint = field(pq.DiagnosticField.MESSAGE_HINT)
    where = () if found.sql.file else found.sql.where
    return [document.problem(where, field(pq.DiagnosticField.MESSAGE_PRIMARY), hint, offset=offset, width=width)]


def _unmeasured(runbook: Runbook, state: str, columns: list[str]) -> list[Problem]:
    expectations = [*runbook.expectations, *(item for step in runbook.steps for item in step.expectations)]
    return [
        runbook.document.problem(
            item.where,
            f"state `{state}` does not measure `{item.metric}`",
            did_you_mean(item.metric, columns),
            at="key",
        )
        for item in expectations
        if item.state == state and item.metric not in columns
    ]
