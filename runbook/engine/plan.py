"""A run foreseen: what can be known of it is found out, line by line, and what cannot is said. Nothing that acts is run.

The before snapshot, the preflight and the predictions are a run's own, except that what is not sure to read only is left
out. The rest of the run is gone through in its order, each part examined over what is known by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from runbook.engine import predictions
from runbook.engine.judge import (
    EXIT_CODES,
    Judgement,
    Prediction,
    bounds_text,
    decisive,
    judge_conditions,
    measured,
    number,
)
from runbook.engine.ports import Answer, Examined, Inputs, Obstacle, Part, Ports, Read
from runbook.engine.run import begin
from runbook.engine.work import Work
from runbook.language.document import Where
from runbook.language.expressions import EvaluationError, Expression, NotYet, Scope
from runbook.language.model import (
    Check,
    Expectation,
    Extension,
    File,
    Notification,
    Probe,
    Request,
    Runbook,
    Severity,
    Sql,
    Step,
)
from runbook.language.names import RUN_AFTERWARDS, RUN_AT_START
from runbook.language.values import Absent, as_text, brief, duration_text, to_data

State = Literal["evaluated", "would run", "cannot know"]
# The verdict and the exit code for the gravest of what stands in the way; a file that the server refuses has no verdict.
_ENDS: dict[str, tuple[str | None, int]] = {
    "invalid": (None, 5),
    "blocked": ("blocked", EXIT_CODES["blocked"]),
    "errored": ("errored", EXIT_CODES["errored"]),
}
_IN_CASE = "it runs only where the run does not pass"


def foresee(
    runbook: Runbook,
    inputs: Inputs,
    ports: Ports,
    examine: Callable[[Part, Scope], Examined],
    surroundings: Iterable[tuple[str, Where, Examined]],
) -> None:
    """Goes through `runbook` as a run would, after its surroundings, each with its name and place.

    Every line leaves as an event, what stands in the way as the last one.
    """
    plan = _Plan(runbook, inputs, ports, examine)
    for shown, where, found in surroundings:
        plan.tell(shown, where, found, state="evaluated")
    plan.present()
    if not plan.work.stopping():
        plan.future()
    plan.finish()


def _reads(probe: Probe) -> bool:
    """Whether a probe is sure to read only."""
    safe = isinstance(probe, Extension) and probe.kind.safe
    return safe or isinstance(probe, Sql | File) or (isinstance(probe, Request) and probe.method == "get")


class _Plan:
    """The way through one runbook. `asked` and `examined` are keyed by the identity of a probe."""

    def __init__(
        self, runbook: Runbook, inputs: Inputs, ports: Ports, examine: Callable[[Part, Scope], Examined]
    ) -> None:
        self.runbook, self.ports = runbook, ports
        self.work = Work.begin(runbook, inputs, ports._replace(emit=self._emit, snapshot=self._snapshot))
        self.work.once = True
        self.obstacles: list[Obstacle] = []
        self._examine = examine
        self._parts = {id(part.use): part for part in _readers(runbook)}
        self._asked: set[int] = set()
        self._examined: dict[int, Examined] = {}
        self._explained: set[str] = set()  # what is unknown for a reason that was found in the file

    # --- what is known now ------------------------------------------------------------------------------------

    def present(self) -> None:
        """The before snapshot, the preflight and the predictions, and what they put in the way."""
        begin(self.work)
        for item in self.runbook.expectations:
            self._predicted(f"expectations.{item.name}", item, self.work.predictions[item.name])
        said = set(self.work.reasons)
        for because in dict.fromkeys(self.work.reasons):
            if because not in self._explained:
                self._stands("errored", because, ("state",))
        for tally in decisive(self.work.tallies, self.work.inputs.strict):
            known = tally.name in self._explained or tally.because in said
            if tally.verdict in ("refuted", "unknown") and not known:
                kind: Literal["blocked", "errored"] = "blocked" if tally.verdict == "refuted" else "errored"
                self._stands(kind, f"{tally.name} {tally.verdict}: {tally.because}", tuple(tally.name.split(".")))

    @contextmanager
    def _snapshot(self) -> Iterator[Read]:
        with self.ports.snapshot() as read:
            yield partial(self._read, read)

    def _read(self, read: Read, probe: Probe, scope: Scope, timeout: float) -> Answer:
        if _reads(probe):
            self._asked.add(id(probe))
            return read(probe, scope, timeout)
        part = self._parts[id(probe)]
        self._examined[id(probe)] = self._examine(part, scope)
        raise NotYet(f"{part.shown} is not asked in a dry run")

    def _emit(self, kind: str, data: dict[str, Any]) -> None:
        self.ports.emit(kind, data)
        if kind == "snapshot.measured":
            self._states(data["state"], data["errors"])
        elif kind == "check.judged":
            check = next(item for item in self.runbook.preflight if item.name == data["name"])
            tell = self._judged if data["verdict"] else self._open
            tell(check, data)

    def _states(self, rows: Mapping[str, Any], errors: Mapping[str, str]) -> None:
        for state in self.runbook.state:
            part = self._parts[id(state.probe)]
            found = self._examined.get(id(state.probe))
            if found is not None:
                self.tell(part.shown, part.where, found)
                continue
            refused = self._refused(part) if isinstance(state.probe, Sql) else False
            if state.name in rows:
                values = ", ".join(f"{metric} {as_text(value)}" for metric, value in rows[state.name].items())
                self._line(part.shown, part.where, "evaluated", values)
            else:
                self._line(part.shown, part.where, "evaluated", "could not be measured", errors[state.name])
                self._explained |= {errors[state.name]} if refused else set()

    def _refused(self, part: Part) -> bool:
        """Whether the server refuses a statement as it stands; then the file has the place."""
        found = self._examine(part, self.work.scope)
        invalid = [obstacle for obstacle in found.obstacles if obstacle.kind == "invalid"]
        self.obstacles += invalid
        return bool(invalid)

    def _judged(self, check: Check, data: Mapping[str, Any]) -> None:
        verdict = "measured" if data["verdict"] == "passed" and not check.expect else data["verdict"]
        told = ": " + brief(data["result"]) if verdict in ("measured", "passed", "refuted") else ""
        notes = [data["because"]]
        if data.get("overridden"):
            notes.append(f"gone past: {data['overridden']}")
        elif verdict in ("refuted", "unknown") and not self._decides(check.severity):
            notes.append("a warning, which does not decide")
        self._line(check.shown, check.where, "evaluated", f"{verdict}{told}", *notes)
        if verdict == "unknown" and isinstance(check.probe, Sql) and self._decides(check.severity):
            self._explained |= {check.shown} if self._refused(self._parts[id(check.probe)]) else set()

    def _open(self, check: Check, data: Mapping[str, Any]) -> None:
        """A check that cannot be judged: it was not asked, or what it is judged by is not known yet."""
        because = data["because"]
        if check.probe is None:
            missing = _missing(check.expect, self.work.scope) or because
            self._line(check.shown, check.where, "cannot know", _sources(check.expect), missing)
        elif id(check.probe) in self._asked:
            self._line(check.shown, check.where, "cannot know", brief(data["result"]), because)
        else:
            found = self._examined.get(id(check.probe))
            if found is None:
                found = self._examine(self._parts[id(check.probe)], self.work.scope)._replace(later=because)
            self.tell(check.shown, check.where, found, decides=self._decides(check.severity))

    def _predicted(self, shown: str, item: Expectation, prediction: Prediction) -> None:
        if prediction.later:
            self._line(shown, item.where, "cannot know", _wanted(item), prediction.because)
        elif prediction.because:
            self._line(shown, item.where, "evaluated", "cannot be predicted", prediction.because)
            if self._decides(item.severity):
                self._stands("errored", f"{item.name} could not be predicted: {prediction.because}", item.where)
        else:
            self._line(shown, item.where, "evaluated", f"{item.of} {_quantity(item, prediction)}")
        self._measurable(item)

    def _measurable(self, item: Expectation) -> None:
        """What is no number before has no change, whatever it is afterwards."""
        before = self.work.scope["before"]
        row = before.get(item.state)
        probe = next(state.probe for state in self.runbook.state if state.name == item.state)
        if not isinstance(row, Mapping) or (item.metric not in row and isinstance(probe, Sql)):
            return
        if item.metric not in row or (item.of == "delta" and number(row[item.metric]) is None):
            because = measured(item._replace(of="delta"), before, before)[1]
            if self._decides(item.severity):
                self._stands("errored", because, item.where)

    # --- what comes later -------------------------------------------------------------------------------------

    def future(self) -> None:
        """Everything from the first write on, in the order of a run; remedies, which a person may apply, come last."""
        runbook = self.runbook
        self._look_ahead()
        self._row("audit.started", runbook.audit.started)
        for step in runbook.steps:
            self._step(step)
        if runbook.state:
            self._line("after", ("state",), "would run", ", ".join(state.name for state in runbook.state))
        for check in runbook.postconditions:
            self._postcondition(check)
        for step in (*runbook.on_failure, *runbook.finally_):
            self._step(step)
        self._row("audit.finished", runbook.audit.finished)
        for notification in runbook.notify:
            self._notification(notification)
        for remedy in runbook.remedies.values():
            for key, sql in (("find", remedy.find), ("sql", remedy.sql)):
                if sql is not None:
                    part = Part(f"remedies.{remedy.name}.{key}", (*remedy.where, key), sql, writes=True)
                    found = self._examine(part, self.work.scope)
                    self.tell(part.shown, part.where, found, "a person may apply it", state="evaluated")

    def _look_ahead(self) -> None:
        """Stands for every fact that only a run brings."""
        scope = self.work.scope
        after = _later("it is measured after the steps")
        for metrics in scope["expectations"].values():
            for facts in metrics.values():
                facts |= {"actual": after, "verdict": after}
        scope["steps"] = {name: _later(f"steps.{name} has not run") for name in scope["steps"]}
        checks = self.runbook.postconditions
        scope["postconditions"] = {check.name: _later(f"{check.shown} was not asked") for check in checks}
        scope |= {name: _later(f"`{name}` is measured after the steps") for name in ("after", "delta")}
        scope["audit"] = {"started": _later("audit.started is not written")}
        ends = {fact: _later(f"run.{fact} is known at the end") for fact in RUN_AFTERWARDS if fact not in RUN_AT_START}
        scope["run"] = {**scope["run"], **ends}

    def _row(self, shown: str, sql: Sql | None) -> None:
        if sql is not None:
            part = Part(shown, tuple(shown.split(".")), sql, writes=True)
            self.tell(shown, part.where, self._examine(part, self.work.scope))

    def _step(self, step: Step) -> None:
        shown = f"{step.stage}.{step.name}"
        due, later, notes = self._due(shown, step.where, step.when)
        if not due:
            self.work.scope["steps"][step.name] = Absent(f"{shown} would be skipped")
            return
        if step.expectations:
            registered = predictions.register(self.work, step.expectations, step.name)
            for item in step.expectations:
                self._predicted(f"{shown}.expectations.{item.name}", item, registered[item.name])
        found = self._examine(Part(shown, step.where, step.action, step.name, writes=True), self.work.scope)
        later = later or found.later or (_IN_CASE if step.stage == "on_failure" else "")
        self.tell(shown, step.where, found._replace(later=later), *notes, *_limits(step))

    def _notification(self, item: Notification) -> None:
        shown = f"notify.{item.name}"
        due, later, notes = self._due(shown, item.where, item.when, decides=False)
        if due:
            found = self._examine(Part(shown, item.where, item.use), self.work.scope)
            notes += [f"at the verdicts {', '.join(item.on)}", f"at most {duration_text(item.timeout)}"]
            self.tell(shown, item.where, found._replace(later=later), *notes, decides=False)

    def _postcondition(self, check: Check) -> None:
        blank = {"verdict": None, "result": None, "message": None, "because": "not asked: this is a dry run"}
        self.ports.emit("check.judged", {"section": check.section, "name": check.name, **blank})
        due, later, notes = self._due(check.shown, check.where, check.when)
        if not due:
            return
        if check.until is not None:
            notes.append(f"asked again for {duration_text(check.until.timeout)} until it holds")
        if check.probe is None:
            judgement = judge_conditions(check.expect, self.work.scope)
            later = later or _missing(check.expect, self.work.scope)
            found = Examined(_sources(check.expect))
            self._foregone(check, judgement)
        else:
            found = self._examine(Part(check.shown, check.where, check.probe), self.work.scope)
        found = found._replace(later=later or found.later)
        self.tell(check.shown, check.where, found, *notes, decides=self._decides(check.severity))

    def _foregone(self, check: Check, judgement: Judgement) -> None:
        """A condition over nothing but what is known by now holds or not, whatever the steps do."""
        if judgement.verdict != "passed" and not judgement.later and self._decides(check.severity):
            kind: Literal["blocked", "errored"] = "blocked" if judgement.verdict == "refuted" else "errored"
            self._stands(kind, f"{check.shown} will be {judgement.verdict}: {judgement.because}", check.where)

    def _due(
        self, shown: str, where: Where, when: Expression | None, *, decides: bool = True
    ) -> tuple[bool, str, list[str]]:
        """Whether it would be its turn, why that cannot be known yet, and what is to be said of it."""
        if when is None:
            return True, "", []
        try:
            due = when.holds(self.work.scope)
        except NotYet as error:
            return True, f"when: {error}", []
        except EvaluationError as error:
            if decides:
                self._stands("errored", f"{shown}: when: {error}", where)
            return True, "", [f"when: {error}"]
        if due:
            return True, "", [f"`when` is true: {when.explain(self.work.scope)}"]
        self._line(shown, where, "evaluated", "would be skipped", f"`when` is false: {when.explain(self.work.scope)}")
        return False, "", []

    # --- telling ----------------------------------------------------------------------------------------------

    def _decides(self, severity: Severity) -> bool:
        return severity == "error" or self.work.inputs.strict

    def tell(
        self,
        shown: str,
        where: Where,
        found: Examined,
        *notes: str,
        decides: bool = True,
        state: State = "would run",
    ) -> None:
        """A part that was examined; what stands in its way counts where it `decides`."""
        troubles = [obstacle.message for obstacle in found.obstacles]
        weak = ["a warning, which does not decide"] * (bool(troubles) and not decides)
        known: State = "cannot know" if found.later else state
        self._line(shown, where, known, found.what, found.later, *troubles, *weak, *found.notes, *notes)
        self.obstacles += found.obstacles if decides else ()

    def _line(self, shown: str, where: Where, state: State, what: str, *because: str) -> None:
        line = self.runbook.document.own_line(where)
        known = {"where": shown, "state": state, "what": what, "because": "; ".join(filter(None, because))}
        self.ports.emit("plan.line", {**known, "line": line})

    def _stands(self, kind: Literal["blocked", "errored"], message: str, where: Where) -> None:
        place = self.runbook.document.problem(where, message, at="key").as_data()
        self.obstacles.append(Obstacle(kind, message, place))

    def finish(self) -> None:
        """What a run would come to, as far as that is known."""
        kinds = {obstacle.kind for obstacle in self.obstacles}
        verdict, code = next((end for kind, end in _ENDS.items() if kind in kinds), (None, 0))
        if self.work.stopping():
            verdict, code = "cancelled", EXIT_CODES["cancelled"]
        grave = list(_ENDS)
        found = {(grave.index(o.kind), o.place.get("line", 0), o.message): o for o in self.obstacles}
        data = {
            "verdict": verdict,
            "exit_code": code,
            "because": self.work.cancelled_because or "; ".join(dict.fromkeys(key[-1] for key in sorted(found))),
            "finished_at": self.ports.now(),
            "duration": self.work.elapsed(),
            "obstacles": [
                {**item.place, "message": item.message, "kind": item.kind} for _, item in sorted(found.items())
            ],
        }
        self.ports.emit("plan.finished", to_data(data))


def _readers(runbook: Runbook) -> Iterator[Part]:
    for state in runbook.state:
        yield Part(f"before.{state.name}", state.where, state.probe)
    for check in runbook.preflight:
        if check.probe is not None:
            yield Part(check.shown, check.where, check.probe)


def _later(because: str) -> Absent:
    return Absent(because, later=True)


def _sources(expect: Iterable[Expression]) -> str:
    return "; ".join(condition.source for condition in expect)


def _missing(expect: Iterable[Expression], scope: Scope) -> str:
    """What conditions wait for, said once."""
    reasons: dict[str, None] = {}
    for condition in expect:
        try:
            condition.evaluate(scope)
        except NotYet as error:
            reasons[str(error)] = None
        except EvaluationError:
            continue
    return "; ".join(reasons)


def _wanted(item: Expectation) -> str:
    return _sources(filter(None, (item.predicted, item.at_least, item.at_most)))


def _quantity(item: Expectation, prediction: Prediction) -> str:
    if prediction.predicted is None:
        return bounds_text(prediction)
    return as_text(prediction.predicted) + (f" ± {item.tolerance}" if item.tolerance else "")


def _limits(step: Step) -> Iterator[str]:
    yield f"at most {duration_text(step.timeout)}"
    if step.retry.attempts > 1:
        growing = f", each pause ×{step.retry.backoff:g}" if step.retry.backoff != 1 else ""
        yield f"up to {step.retry.attempts} attempts, {duration_text(step.retry.delay)} apart{growing}"
