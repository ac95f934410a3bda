"""A runbook as the rest of the program knows it: every field parsed, every duration in seconds, every default filled in."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple

from runbook.language.document import Document, Where
from runbook.language.expressions import Expression
from runbook.language.templates import ShellTemplate, SqlTemplate, Template

CHECK_TIMEOUT = 60.0  # seconds
STEP_TIMEOUT = 24 * 3600.0  # seconds
NOTIFY_TIMEOUT = 10.0  # seconds
Severity = Literal["error", "warn"]
Returns = Literal["rows", "row", "value", "column", "map"]


class Sql(NamedTuple):
    """SQL to run, on the connection of that name. `file` is where it was read from, else it stands in the runbook at `where`."""

    text: SqlTemplate
    connection: str
    returns: Returns
    where: Where
    file: Path | None


class Request(NamedTuple):
    """An HTTP request. `connection` is empty for a full URL; `body` is a template, or JSON whose strings are templates."""

    method: str
    url: Template
    connection: str
    headers: tuple[tuple[str, Template], ...]
    auth: tuple[tuple[str, Expression], ...]
    json: Any
    body: Template | None


class Command(NamedTuple):
    """A program and its arguments, or a script for the shell."""

    argv: tuple[Template, ...]
    shell: ShellTemplate | None
    env: tuple[tuple[str, Template], ...]
    cwd: Template | None
    stdin: Template | None


class File(NamedTuple):
    """A file to look at."""

    path: Template


class Kind(NamedTuple):
    """A kind of probe or step of another package, and what tells whether it is still the same.

    `entry` is where its object is (`module:attribute`), `schema` the SHA-256 of the schema of its keys. A `safe` probe only
    reads.
    """

    room: Literal["probes", "steps"]
    key: str
    package: str
    version: str
    entry: str
    schema: str
    safe: bool


class Extension(NamedTuple):
    """What stands under the key of such a kind: data whose texts are templates, or expressions where its schema says so."""

    kind: Kind
    given: Any


Probe = Sql | Request | Command | File | Extension
Action = Sql | Request | Command | Extension


class Until(NamedTuple):
    """Ask again every so many seconds, for so many seconds."""

    every: float
    timeout: float


class Check(NamedTuple):
    """A probe and what is expected of its result."""

    name: str
    section: Literal["preflight", "postconditions"]
    where: Where
    description: str
    probe: Probe | None
    select: Expression | None
    expect: tuple[Expression, ...]
    message: Template | None
    severity: Severity
    when: Expression | None
    until: Until | None
    remedy: str
    heading: str
    timeout: float

    @property
    def shown(self) -> str:
        return f"{self.section}.{self.name}"


class State(NamedTuple):
    """What is measured before and after: one row of named numbers."""

    name: str
    where: Where
    probe: Probe
    select: Expression | None
    labels: dict[str, str]
    timeout: float


class Tolerance(NamedTuple):
    """How far the actual may be from the predicted: absolute, or a share of the predicted magnitude."""

    amount: Decimal
    percent: bool

    def __str__(self) -> str:
        return f"{self.amount}%" if self.percent else str(self.amount)

    def data(self) -> str | Decimal:
        """As records hold it: `5%`, or the number."""
        return str(self) if self.percent else self.amount


class Expectation(NamedTuple):
    """A predicted change (`of` is delta) or value afterwards (`of` is after) of one metric: a number, or bounds."""

    state: str
    metric: str
    where: Where
    of: Literal["delta", "after"]
    predicted: Expression | None
    at_least: Expression | None
    at_most: Expression | None
    tolerance: Tolerance | None
    severity: Severity
    message: Template | None
    description: str

    @property
    def name(self) -> str:
        return f"{self.state}.{self.metric}"


class Retry(NamedTuple):
    """How often a step is tried, and the pauses between in seconds."""

    attempts: int
    delay: float
    backoff: float


Stage = Literal["steps", "on_failure", "finally"]


class Step(NamedTuple):
    """What acts. `stand_in` is what does in a rehearsal, where that is not to be the action itself."""

    name: str
    stage: Stage
    where: Where
    description: str
    action: Action
    timeout: float
    retry: Retry
    when: Expression | None
    expect: tuple[Expression, ...]
    message: Template | None
    expectations: tuple[Expectation, ...]
    stand_in: Action | Literal["skip"] | None = None


class Connection(NamedTuple):
    """A declared server. `embedded` are the scripts that seed a private one, or None where there is to be none."""

    name: str
    type: Literal["postgres", "http"]
    env: str
    default: str
    embedded: tuple[Path, ...] | None
    read_env: str
    protected: bool


class Remedy(NamedTuple):
    """A declared, bounded repair."""

    name: str
    where: Where
    description: str
    find: Sql | None
    sql: Sql
    max_rows: int


Ending = Literal["passed", "refuted", "blocked", "failed", "errored", "cancelled", "lost"]


class Notification(NamedTuple):
    """Who is told of a run that ended with one of the verdicts in `on`, and how; `timeout` in seconds."""

    name: str
    where: Where
    on: tuple[Ending, ...]
    use: Request | Command
    timeout: float
    when: Expression | None


class AuditRows(NamedTuple):
    """Rows of the user's own, and where audit, lock and clock live (empty: nowhere)."""

    enabled: bool
    connection: str
    started: Sql | None
    finished: Sql | None


class Schedule(NamedTuple):
    """When a runbook is to run by itself: five fields of cron in a time zone, and the params of those runs.

    `on_overlap` says what becomes of a tick while an earlier run of the schedule is not over.
    """

    cron: str
    timezone: str
    params: dict[str, Any]
    on_overlap: Literal["skip", "queue"]
    where: Where


class Runbook(NamedTuple):
    """One runbook, checked. `rerun` says that a run whose worker died may be done again from the start."""

    document: Document
    path: Path
    name: str
    title: Template
    hypothesis: str
    params: dict[str, dict[str, Any]]
    connections: dict[str, Connection]
    secrets: dict[str, str]
    lock: Template
    state: tuple[State, ...]
    preflight: tuple[Check, ...]
    expectations: tuple[Expectation, ...]
    steps: tuple[Step, ...]
    postconditions: tuple[Check, ...]
    on_failure: tuple[Step, ...]
    finally_: tuple[Step, ...]
    report_path: Template
    report_template: str | None
    audit: AuditRows
    remedies: dict[str, Remedy]
    notify: tuple[Notification, ...]
    timeout: float | None
    sha256: str
    files: dict[str, str]
    kinds: tuple[Kind, ...] = ()
    rerun: bool = False
    schedule: Schedule | None = None

    @property
    def folder(self) -> Path:
        """The folder that relative paths of what the runbook reads start from."""
        return self.path.parent
