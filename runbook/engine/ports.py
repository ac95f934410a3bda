"""What the engine asks of the world, as plain callables, and the answers it gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol

from runbook.language.document import Where
from runbook.language.expressions import EvaluationError, Scope
from runbook.language.model import Action, Probe, Sql, Step
from runbook.language.problems import RunbookError


class CannotTell(RunbookError):
    """Something could not be measured: a server is away, a query fails, a file is not there."""


UNMEASURABLE = (CannotTell, EvaluationError)


class Answer(NamedTuple):
    """What a probe found. `names` stand beside `result` in expressions (json, status, exit_code…).

    `trouble` says why this may be no answer at all (HTTP 500, exit code 3); an expectation that names `excuse` accepts it.
    `dropped` counts the rows that were not read.
    """

    result: Any
    names: Mapping[str, Any] = {}
    trouble: str = ""
    excuse: str = ""
    dropped: int = 0


class Acted(NamedTuple):
    """How one attempt of a step ended. `facts` are what `steps.<name>` knows; `because` says why it failed."""

    facts: Mapping[str, Any]
    because: str = ""
    excuse: str = ""
    cancelled: bool = False


class Prepared(NamedTuple):
    """An attempt that is ready: what will be done, for people, and the act itself."""

    what: str
    go: Callable[[], Acted]


class Part(NamedTuple):
    """A part of a runbook that a run would put to use: what it is called, where it stands, what it reads or does.

    `step` is the step that it is the action of; `writes` says that it uses the connections that may write.
    """

    shown: str
    where: Where
    use: Probe | Action
    step: str = ""
    writes: bool = False


class Obstacle(NamedTuple):
    """What is known to stand in the way of a run, what a run would make of it, and its place as problems tell it."""

    kind: Literal["invalid", "blocked", "errored"]
    message: str
    place: Mapping[str, Any] = {}


class Examined(NamedTuple):
    """What a part would do, found out without its being done: for people, and what is to be said of it.

    `later` says why that cannot be told yet.
    """

    what: str
    notes: tuple[str, ...] = ()
    later: str = ""
    obstacles: tuple[Obstacle, ...] = ()


class Confirmation(NamedTuple):
    """What became of the closing record: its chain's head where it is confirmed, else the reason."""

    status: Literal["confirmed", "pending", "failed", "disabled"]
    head: str = ""
    because: str = ""


class Read(Protocol):
    """Reads one probe over a scope, within a time limit in seconds. Raises CannotTell or EvaluationError."""

    def __call__(self, probe: Probe, scope: Scope, timeout: float) -> Answer: ...


class Ports(NamedTuple):
    """The world. `emit` comes first: an event is recorded before the effect that it announces.

    `cancelled` gives the reason for which the end is asked for; after `heed` only what is asked anew counts. `forsaken`
    says for what reason the run may touch nothing any more (its lock is another's now), or nothing. `go_on` asks a
    person whether to go on with an earlier run, and says why not, or nothing.
    """

    emit: Callable[[str, dict[str, Any]], None]
    snapshot: Callable[[], AbstractContextManager[Read]]
    prepare: Callable[[Step, Scope, float], Prepared]
    audit_started: Callable[[Sql, Scope], Any]
    finish: Callable[[Sql | None, Scope], Confirmation]
    settle: Callable[[], str]
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]
    cancelled: Callable[[], str | None]
    heed: Callable[[], None]
    forsaken: Callable[[], str]
    go_on: Callable[[str], str]


class Resumed(NamedTuple):
    """What an earlier run leaves to the one that goes on with it.

    `before` and `predictions` are its own, as recorded; empty where no step had begun. `done` has the facts of the steps
    that passed, which are not run again; `again` names those that had begun and did not pass, which are, by consent.
    `forced` says what is not as it was.
    """

    run_id: str
    before: Mapping[str, Any]
    predictions: Mapping[str, Any]
    done: Mapping[str, Any]
    again: tuple[str, ...]
    forced: str = ""


class Inputs(NamedTuple):
    """What is given to a run. `overrides` maps a preflight check to the reason for going past it, `passed_over` a step to the
    reason for leaving it out.
    """

    params: Mapping[str, Any]
    secrets: Mapping[str, str]
    id: str
    stamp: str
    started_at: datetime
    operator: str
    title: str
    strict: bool = False
    overrides: Mapping[str, str] = {}
    resumed: Resumed | None = None
    passed_over: Mapping[str, str] = {}
