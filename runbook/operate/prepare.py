"""Has the server look at a runbook's statements without running them; what it refuses becomes a problem with a place.

Each is prepared, and planned where that can be done, in a read-only transaction of its own that is rolled back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from psycopg import pq
from psycopg.errors import error_from_result

from runbook.database.connect import Connection, Dumped, ServerError, bound, connect, dumped, server_error, translated
from runbook.language.document import read_text
from runbook.language.expressions import EvaluationError, Scope
from runbook.language.model import Runbook, Sql
from runbook.language.problems import Problem, did_you_mean
from runbook.language.templates import BoundSql, Hole, render_sql
from runbook.language.values import Absent
from runbook.operate.servers import CannotStart, Servers

_UNDECIDED = ("42P18", "42804", "42725")
_DENIED = "42501"
_ELSEWHERE = ("", "08", "25", "40", "53", "55", "57", "58", "XX")  # classes of errors that are not the statement's
_DEFINES = ("create", "alter", "drop", "do", "set", "call", "truncate", "vacuum", "analyze", "begin", "commit", "copy")
_PLANNED = ("select", "insert", "update", "delete", "merge", "with", "values", "table")
_NAMES = re.compile(r"\|\s*identifier\b")
_BEGIN = "BEGIN READ ONLY; SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = '60s'"


class Found(NamedTuple):
    """A statement's place in the runbook, and the state it measures, if it does."""

    sql: Sql
    shown: str
    state: str = ""


class Told(NamedTuple):
    """What a server says of a statement: the `problems` for which it refuses it, or, in `denied`, why it would not run it.

    `unclear` says why it could not be asked; `defines` that it looks at such a statement only when it runs it.
    """

    problems: tuple[Problem, ...] = ()
    denied: str = ""
    unclear: str = ""
    defines: bool = False


def prepare_all(runbook: Runbook, servers: Servers, notes: list[str]) -> list[Problem]:
    """The problems that the servers have with the runbook's statements. Raises CannotStart where one is away."""
    problems: list[Problem] = []
    connections: dict[str, Connection] = {}
    defining = False
    known = _before_any_run(runbook)
    try:
        for found in _statements(runbook):
            name = found.sql.connection
            if name not in connections:
                connections[name] = _connected(name, servers.urls[name])
            for index in range(len(found.sql.text.spans)):
                if defining:
                    notes.append(f"{found.shown}: not prepared, since an earlier step changes the schema")
                    continue
                told = _asked(runbook, found, index, known, connections[name])
                notes.extend([f"{found.shown}: not prepared, since {told.unclear}"] * bool(told.unclear))
                defining = told.defines and not found.shown.startswith(("state", "preflight"))
                problems += told.problems
    finally:
        for connection in connections.values():
            connection.close()
    return problems


def _connected(name: str, url: str) -> Connection:
    try:
        return connect(url, "runbook validate")
    except ServerError as error:
        raise CannotStart(f"connection `{name}`: {error}") from None


def _asked(runbook: Runbook, found: Found, index: int, known: Scope, connection: Connection) -> Told:
    try:
        return prepare_one(runbook, found, index, known, connection)
    except ServerError as error:
        raise CannotStart(f"{found.shown}: {error}") from None


def _before_any_run(runbook: Runbook) -> dict[str, Any]:
    """What is known without params: their defaults; null stands for all else."""
    defaults = {name: schema.get("default") for name, schema in runbook.params.items()}
    measured = ("run", "before", "after", "delta", "preflight", "expectations", "steps", "postconditions", "audit")
    nothing = Absent("", null=True)
    known: dict[str, Any] = {"params": defaults, "runbook": {"name": runbook.name, "title": runbook.name}}
    return {**dict.fromkeys((*measured, "secrets"), nothing), **known}


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


# --- one statement ------------------------------------------------------------------------------------------------


def prepare_one(
    runbook: Runbook, found: Found, index: int, known: Scope, connection: Connection, *, plan: bool = False
) -> Told:
    """What the server says of statement `index`, its values taken from `known` as far as they are there.

    With `plan` it plans the statement as well, for which it looks at the role's rights and at the values. Raises ServerError
    where it says nothing of the statement itself: it is away, or a table is locked.
    """
    unknown: list[Hole] = []

    def fill(hole: Hole) -> Any:
        try:
            return hole.expression.evaluate(known)
        except EvaluationError:
            if _NAMES.search(hole.expression.source):
                raise EvaluationError(f"`{hole.expression.source}` is not known before a run") from None
            unknown.append(hole)
            return None

    try:
        statement = render_sql(found.sql.text, known, index, fill)
        sent = dumped(statement.query, bound(statement.values))
    except EvaluationError as error:
        return Told(unclear=str(error))
    except ServerError as error:
        return Told(denied=str(error))
    if _first_word(statement) in _DEFINES:
        return Told(defines=True)
    with translated():
        connection.execute(_BEGIN)
        try:
            told = _told(runbook, found, statement, sent, connection)
            if not plan or told.problems or _first_word(statement) not in _PLANNED:
                return told
            return told._replace(denied=_denied(sent, not unknown, connection))
        finally:
            with suppress(ServerError), translated():
                connection.execute("ROLLBACK")


def _first_word(statement: BoundSql) -> str:
    return statement.query.lstrip("( \t\r\n").split(None, 1)[0].lower()


def _told(runbook: Runbook, found: Found, statement: BoundSql, sent: Dumped, connection: Connection) -> Told:
    result = connection.pgconn.prepare(b"", sent.query.encode(), sent.types)
    if result.status != pq.ExecStatus.COMMAND_OK:
        return Told(_refused(runbook, found, statement, result))
    if not found.state:
        return Told()
    described = connection.pgconn.describe_prepared(b"")
    columns = [(described.fname(index) or b"").decode("utf-8", "replace") for index in range(described.nfields)]
    return Told(tuple(_unmeasured(runbook, found.state, columns)))


def _denied(sent: Dumped, complete: bool, connection: Connection) -> str:
    """Why the server would not run a statement. Where its values are not `complete`, only the role's rights count."""
    values = [None if text is None else text.encode() for text in sent.texts]
    result = connection.pgconn.exec_params(b"EXPLAIN " + sent.query.encode(), values, sent.types)
    state = _field(result, pq.DiagnosticField.SQLSTATE)
    if result.status == pq.ExecStatus.TUPLES_OK or (not complete and state != _DENIED):
        return ""
    error = server_error(error_from_result(result))
    if state[:2] in _ELSEWHERE:
        raise error
    return str(error)


def _field(result: pq.abc.PGresult, code: pq.DiagnosticField) -> str:
    return (result.error_field(code) or b"").decode("utf-8", "replace")


def _refused(runbook: Runbook, found: Found, statement: BoundSql, result: pq.abc.PGresult) -> tuple[Problem, ...]:
    state = _field(result, pq.DiagnosticField.SQLSTATE)
    if state[:2] in _ELSEWHERE:
        raise server_error(error_from_result(result))
    if state in _UNDECIDED and any(value is None for value in statement.values):
        return ()
    position = _field(result, pq.DiagnosticField.STATEMENT_POSITION)
    offset = statement.origin(int(position) - 1) if position else found.sql.text.spans[0][0]
    document = read_text(found.sql.file) if found.sql.file else runbook.document
    source = found.sql.text.template.source
    width = 1
    while offset + width < len(source) and (source[offset + width].isalnum() or source[offset + width] in "_."):
        width += 1
    hint = _field(result, pq.DiagnosticField.MESSAGE_HINT)
    where = () if found.sql.file else found.sql.where
    message = _field(result, pq.DiagnosticField.MESSAGE_PRIMARY)
    return (document.problem(where, message, hint, offset=offset, width=width),)


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
