"""The work in progress of one run: what is known so far, as expressions see it, and what has been judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from runbook.engine.judge import Prediction, Tally
from runbook.engine.ports import Inputs, Ports
from runbook.language.expressions import EvaluationError
from runbook.language.model import Runbook
from runbook.language.templates import Template
from runbook.language.values import Absent


def rounded(seconds: float) -> Decimal:
    """Seconds to the millisecond, as records hold them."""
    return Decimal(f"{seconds:.3f}")


@dataclass(slots=True)
class Work:
    """Mutable on purpose, and private to the engine: events are the only way out.

    `once` asks a check once that a run would ask until it holds.
    """

    runbook: Runbook
    inputs: Inputs
    ports: Ports
    scope: dict[str, Any]
    began: float
    predictions: dict[str, Prediction] = field(default_factory=dict)
    tallies: list[Tally] = field(default_factory=list)
    judged: set[str] = field(default_factory=set)
    reasons: list[str] = field(default_factory=list)
    unmeasured_states: bool = False
    failed: bool = False
    started: bool = False
    halted: bool = False
    acted: bool = False
    row_started: bool = False
    cancelled_because: str | None = None
    forsaken: str = ""
    once: bool = False

    @classmethod
    def begin(cls, runbook: Runbook, inputs: Inputs, ports: Ports) -> Work:
        return cls(runbook, inputs, ports, initial_scope(runbook, inputs), ports.monotonic())

    def elapsed(self) -> Decimal:
        return rounded(self.ports.monotonic() - self.began)

    def remaining(self, limit: float) -> float:
        """The time limit of a step, shortened by what is left of the run's own; not above zero when that is over."""
        if self.runbook.timeout is None:
            return limit
        return min(limit, self.runbook.timeout - (self.ports.monotonic() - self.began))

    def stopping(self) -> bool:
        """Whether somebody asked for the end, or the run lost its lock; once true, always true."""
        if not self.forsaken and (because := self.ports.forsaken()):
            self.forsaken = because
            self.lost_footing(because)
        if self.cancelled_because is None and not self.forsaken:
            self.cancelled_because = self.ports.cancelled()
            if self.cancelled_because is not None:
                self.ports.emit("run.cancelled", {"because": self.cancelled_because})
        return self.cancelled_because is not None or bool(self.forsaken)

    def interrupted(self) -> bool:
        """Whether the end is asked for now; once the steps are over, only what is asked anew."""
        return self.ports.cancelled() is not None and self.stopping()

    def lost_footing(self, because: str) -> None:
        """No further step may start, for a reason that is nobody's verdict on the work itself."""
        self.reasons.append(because)
        self.tallies.append(Tally("run", "unknown", "error", because))
        self.ports.emit("run.halted", {"because": because})

    def with_nulls(self) -> dict[str, Any]:
        """The scope in which facts of stages that were not reached are null."""
        nulls = dict.fromkeys(("after", "delta", "steps", "postconditions"), Absent("", null=True))
        expectations = {
            state: {metric: _nulled(facts) for metric, facts in metrics.items()}
            for state, metrics in self.scope["expectations"].items()
        }
        return {**self.scope, **nulls, "expectations": expectations}

    def message(self, template: Template | None, extra: Mapping[str, Any]) -> str | None:
        """A declared message over what is known, or why it cannot be rendered."""
        if template is None:
            return None
        try:
            return template.render({**self.scope, **extra})
        except EvaluationError as error:
            return f"{template.source} ({error})"


def _nulled(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, Absent) else value for name, value in facts.items()}


def initial_scope(runbook: Runbook, inputs: Inputs) -> dict[str, Any]:
    """The names that expressions see before anything is measured."""
    later = "comes after this check"
    steps = (*runbook.steps, *runbook.on_failure, *runbook.finally_)
    return {
        "params": dict(inputs.params),
        "secrets": dict(inputs.secrets),
        "runbook": {"name": runbook.name, "title": inputs.title},
        "run": {
            "id": inputs.id,
            "stamp": inputs.stamp,
            "started_at": inputs.started_at,
            "operator": inputs.operator,
            "inputs": dict(inputs.params),
        },
        "before": {state.name: Absent(f"before.{state.name} is not measured yet") for state in runbook.state},
        "preflight": {check.name: Absent(f"{check.shown} {later}") for check in runbook.preflight},
        "expectations": {},
        "audit": {"started": Absent("audit.started is not written yet")},
        "steps": {step.name: Absent(f"steps.{step.name} was not run") for step in steps},
        "postconditions": {check.name: Absent(f"{check.shown} {later}") for check in runbook.postconditions},
    }
