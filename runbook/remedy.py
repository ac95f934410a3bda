"""Remedies: declared, bounded repairs that a person looks at before they are done, and that are audited like a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from runbook.database.connect import Connection, ServerError, bound, translated
from runbook.database.shapes import shape
from runbook.engine.ports import Inputs
from runbook.engine.record import Event, Record
from runbook.engine.work import initial_scope
from runbook.language.expressions import EvaluationError, Scope
from runbook.language.load import bind_params
from runbook.language.model import STEP_TIMEOUT, Action, Remedy, Retry, Runbook, Sql, State, Step
from runbook.language.problems import RunbookError, did_you_mean
from runbook.language.templates import Template, render_sql
from runbook.language.values import to_data
from runbook.operate.cancel import Cancellation
from runbook.operate.circumstances import operator
from runbook.operate.options import Options
from runbook.operate.servers import CannotStart, project_folder
from runbook.operate.world import World
from runbook.session import execute
from runbook.steps.sql import Repair

if TYPE_CHECKING:
    from psycopg import Cursor

SHOWN = 20  # rows of `find`
_LIMITS = "SET statement_timeout = '60s'; SET lock_timeout = '10s'"


class NoSuchRemedy(RunbookError):
    """The runbook declares no such remedy."""


class TooManyRows(RunbookError):
    """A remedy would touch more rows than it may."""


class Listed(NamedTuple):
    """A remedy, and how many rows it would touch now; where that cannot be told, why."""

    remedy: Remedy
    rows: int | None
    because: str


class Preview(NamedTuple):
    """What a remedy would do now: the first rows of `find` and their number, the rows that the statement touches, and the metrics
    of the states in its database before and after it. All of it was rolled back.
    """

    found: list[dict[str, Any]]
    found_rows: int | None
    rows: int
    before: dict[str, dict[str, Any]]
    after: dict[str, dict[str, Any]]


def find_remedy(runbook: Runbook, name: str) -> Remedy:
    """The remedy of that name. Raises NoSuchRemedy."""
    if name not in runbook.remedies:
        raise NoSuchRemedy(f"{runbook.name} declares no remedy `{name}`; {did_you_mean(name, runbook.remedies)}")
    return runbook.remedies[name]


def list_remedies(runbook: Runbook, params: Mapping[str, Any], database: Mapping[str, str]) -> list[Listed]:
    """The remedies of a runbook, each tried out and rolled back. Raises InvalidRunbook or CannotStart."""
    found = []
    with _world(runbook, params, database) as (world, scope):
        for remedy in runbook.remedies.values():
            try:
                found.append(Listed(remedy, _preview(world, scope, remedy, ()).rows, ""))
            except (ServerError, EvaluationError) as error:
                found.append(Listed(remedy, None, world.masks.text(str(error))))
    return found


def preview(runbook: Runbook, name: str, params: Mapping[str, Any], database: Mapping[str, str]) -> Preview:
    """What a remedy would do now. Raises NoSuchRemedy, InvalidRunbook, CannotStart, or TooManyRows."""
    remedy = find_remedy(runbook, name)
    with _world(runbook, params, database) as (world, scope):
        try:
            seen = _preview(world, scope, remedy, runbook.state)
        except (ServerError, EvaluationError) as error:
            raise CannotStart(f"remedy `{name}`: {world.masks.text(str(error))}") from None
        return Preview(*world.masks.data([to_data(part) for part in seen]))


def check_bound(remedy: Remedy, rows: int) -> None:
    """Raises TooManyRows."""
    if rows > remedy.max_rows:
        raise TooManyRows(
            f"remedy `{remedy.name}` would touch {rows} rows, and may touch {remedy.max_rows} (max_rows): nothing was changed"
        )


def apply(
    runbook: Runbook,
    name: str,
    rows: int,
    *,
    params: Mapping[str, Any],
    options: Options,
    on_event: Callable[[Event], None] | None = None,
    consent: Callable[[str], bool] | None = None,
) -> Record:
    """Does a remedy under the runbook's lock, as a run of its own: states before and after, the statement, all records.

    It commits only if it touches exactly `rows` rows, else the run is failed and nothing was changed. Raises as `execute` does.
    """
    remedy = find_remedy(runbook, name)
    check_bound(remedy, rows)
    step = Step(
        name=name,
        stage="steps",
        where=remedy.where,
        description=remedy.description,
        action=cast(Action, Repair(remedy.sql, rows)),
        timeout=STEP_TIMEOUT,
        retry=Retry(1, 1.0, 1.0),
        when=None,
        expect=(),
        message=None,
        expectations=(),
    )
    bare = runbook._replace(
        title=Template(f"Remedy {name} of {runbook.name}", ()),
        hypothesis=remedy.description,
        preflight=(),
        expectations=(),
        steps=(step,),
        postconditions=(),
        on_failure=(),
        finally_=(),
        report_template=None,
        audit=runbook.audit._replace(started=None, finished=None),
    )
    return execute(bare, params=params, options=options._replace(remedy=name), on_event=on_event, consent=consent)


@contextmanager
def _world(runbook: Runbook, params: Mapping[str, Any], database: Mapping[str, str]) -> Iterator[tuple[World, Scope]]:
    values = bind_params(runbook, params)
    moment = datetime.now(UTC)
    with ExitStack() as stack:
        world = World(runbook, "remedy", project_folder(runbook.path), database, Cancellation(), stack)
        inputs = Inputs(values, world.secrets, "preview", f"{moment:%Y%m%d_%H%M%S}", moment, operator(), runbook.name)
        yield world, initial_scope(runbook, inputs)


def _preview(world: World, scope: Scope, remedy: Remedy, states: tuple[State, ...]) -> Preview:
    """Tries a remedy out in a transaction that is rolled back."""
    connection = world.connect(remedy.sql.connection)
    mine = [s for s in states if isinstance(s.probe, Sql) and s.probe.connection == remedy.sql.connection]
    try:
        with translated():
            connection.execute(_LIMITS)
            connection.execute("BEGIN")
            before = _measured(connection, scope, mine)
            found, found_rows = _found(connection, scope, remedy.find)
            rows = _asked(connection, scope, remedy.sql).rowcount
            if rows < 0:
                raise ServerError(
                    "the statement does not say how many rows it touches: let it update, delete or insert rows"
                )
            return Preview(found, found_rows, rows, before, _measured(connection, scope, mine))
    finally:
        connection.close()  # which rolls back


def _found(connection: Connection, scope: Scope, find: Sql | None) -> tuple[list[dict[str, Any]], int | None]:
    if find is None:
        return [], None
    cursor = _asked(connection, scope, find)
    return _shaped(cursor, SHOWN, "rows"), cursor.rowcount


def _measured(connection: Connection, scope: Scope, states: list[State]) -> dict[str, dict[str, Any]]:
    """The states that can be measured within the transaction."""
    found = {}
    for state in states:
        assert isinstance(state.probe, Sql)
        with suppress(ServerError), translated(), connection.transaction():
            found[state.name] = _shaped(_asked(connection, scope, state.probe), 2, "row")
    return found


def _asked(connection: Connection, scope: Scope, sql: Sql) -> Cursor[Any]:
    statement = render_sql(sql.text, scope, 0)
    return connection.execute(statement.query, bound(statement.values) or None)


def _shaped(cursor: Cursor[Any], most: int, returns: str) -> Any:
    return shape([column.name for column in cursor.description or ()], cursor.fetchmany(most), returns)
