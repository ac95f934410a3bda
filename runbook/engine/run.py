"""The one loop: measure, predict, run, measure, judge. It decides everything and touches nothing but its ports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runbook.engine import predictions
from runbook.engine.judge import EXIT_CODES, RunVerdict, Tally, conclude, decisive, difference, verdicts
from runbook.engine.measure import absent_states, judge_check, measure, unmeasured
from runbook.engine.ports import UNMEASURABLE, CannotTell, Inputs, Ports, Read, Resumed
from runbook.engine.steps import pass_over, run_step
from runbook.engine.work import Work, rounded
from runbook.language.model import Runbook, Sql
from runbook.language.values import Absent, to_data


def run(runbook: Runbook, inputs: Inputs, ports: Ports) -> RunVerdict:
    """One run of `runbook`, from the before snapshot to the closing record. Every fact leaves as an event."""
    work = Work.begin(runbook, inputs, ports)
    begin(work)
    gate = _audit_started(work, _consent(work, _gate(work) or _in_time(work)))
    if not gate and not work.stopping():
        work.started = True
        _steps(work)
        _after(work)
    if work.acted and not work.forsaken:
        _aftermath(work)
    return _finish(work, _conclude(work, gate))


def look(runbook: Runbook, inputs: Inputs, ports: Ports) -> RunVerdict:
    """The before snapshot and the preflight, and what they would mean for a run."""
    work = Work.begin(runbook, inputs, ports)
    _before(work)
    gate = _stopped_by(work, work.tallies)
    return conclude(cancelled=work.stopping(), stopped_at_gate=gate, failed=False, found=set())


def begin(work: Work) -> None:
    """All that comes before anything is written or started: the before snapshot, the preflight, the predictions."""
    _before(work)
    _predict(work)


def _before(work: Work) -> None:
    """The before snapshot and the preflight, in one transaction."""
    work.ports.emit("stage.entered", {"stage": "preflight"})
    resumed = work.inputs.resumed
    if resumed is not None:
        names = {"done": list(resumed.done), "again": list(resumed.again), "forced": resumed.forced}
        work.ports.emit("run.resumed", {"run": resumed.run_id, **names})
    try:
        with work.ports.snapshot() as read:
            work.scope["before"] = measure(work, read, "before") if not resumed else _since(work, read, resumed)
            for check in work.runbook.preflight:
                work.scope["preflight"][check.name] = judge_check(work, check, read)
    except CannotTell as error:
        unmeasured(work, "before", "preflight", str(error))


def _since(work: Work, read: Read, resumed: Resumed) -> Mapping[str, Any]:
    """The earlier run's own before snapshot, beside what is measured now: predictions are judged over the whole."""
    if not resumed.before:
        return measure(work, read, "before")
    data = {"which": "before", "state": resumed.before, "errors": {}, "duration": rounded(0)}
    work.ports.emit("snapshot.measured", data)
    measure(work, read, "resumed")
    return resumed.before


def _consent(work: Work, gate: str) -> str:
    """Where steps would run for a second time, a person has to agree, having seen what was done."""
    resumed = work.inputs.resumed
    if gate or resumed is None:
        return gate
    again = f"run again: {', '.join(resumed.again)}" if resumed.again else "no step that had begun is run again"
    refused = work.ports.go_on(f"go on with run {resumed.run_id} ({again})?")
    if refused:
        work.cancelled_because = refused
        work.ports.emit("run.cancelled", {"because": work.cancelled_because})
    return gate


def _predict(work: Work) -> None:
    work.ports.emit("stage.entered", {"stage": "predictions"})
    work.predictions = predictions.register(work, work.runbook.expectations)
    for expectation in work.runbook.expectations:
        predictions.know(work, expectation)


def _gate(work: Work) -> str:
    """Whether the steps may start: empty, or `blocked` or `errored`."""
    tallies = list(work.tallies)
    for expectation in work.runbook.expectations:
        because = work.predictions[expectation.name].because
        if because:
            work.reasons.append(f"{expectation.name} could not be predicted: {because}")
            tallies.append(Tally(expectation.name, "unknown", expectation.severity))
    return _stopped_by(work, tallies)


def _stopped_by(work: Work, tallies: list[Tally]) -> str:
    found = verdicts(tallies, work.inputs.strict)
    if "refuted" in found:
        return "blocked"
    return "errored" if "unknown" in found or work.unmeasured_states else ""


def _in_time(work: Work) -> str:
    if work.remaining(1) > 0:
        return ""
    work.reasons.append(f"the run's own time limit of {work.runbook.timeout:g} s is over before the first step")
    return "errored"


def _audit_started(work: Work, gate: str) -> str:
    """The user's own opening row; a run whose row cannot be written starts no step."""
    row = work.runbook.audit.started
    if row is None or (work.stopping() and not gate):
        return gate
    work.ports.settle()  # a server that restarted meanwhile is waited for; what stays away is told by the row itself
    try:
        value = work.ports.audit_started(row, work.with_nulls() if gate else work.scope)
    except UNMEASURABLE as error:
        work.ports.emit("audit.row", {"row": "started", "because": str(error)})
        work.reasons.append(f"audit.started: {error}")
        work.scope["audit"] = {"started": Absent(f"audit.started was not written: {error}")}
        return gate or "errored"
    work.scope["audit"] = {"started": value}
    work.row_started = True
    work.ports.emit("audit.row", {"row": "started", "value": to_data(value)})
    return gate


def _steps(work: Work) -> None:
    work.ports.emit("stage.entered", {"stage": "steps"})
    resumed = work.inputs.resumed
    for step in work.runbook.steps:
        if work.stopping():
            break
        trouble = work.ports.settle()
        if trouble:
            work.lost_footing(trouble)
            work.halted = True
            break
        if resumed is not None and step.name in resumed.done:
            pass_over(work, step, resumed.run_id, resumed.done[step.name])
        elif not run_step(work, step):
            break


def _after(work: Work) -> None:
    """The after snapshot, expectations and postconditions, in one transaction; measured also when the run is cancelled."""
    if not work.stopping():
        work.ports.settle()  # a server that restarts is waited for; what stays away is found unmeasurable
    work.ports.heed()
    work.ports.emit("stage.entered", {"stage": "postconditions"})
    try:
        if work.forsaken:
            raise CannotTell(work.forsaken)
        with work.ports.snapshot() as read:
            after = measure(work, read, "after")
            work.scope["after"], work.scope["delta"] = after, _delta(work.scope["before"], after)
            predictions.judge_all(work)
            for check in work.runbook.postconditions:
                work.scope["postconditions"][check.name] = judge_check(work, check, read)
    except CannotTell as error:
        work.scope["after"] = work.scope["delta"] = absent_states(work.runbook, str(error))
        predictions.judge_all(work)
        unmeasured(work, "after", "postconditions", str(error))


def _delta(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = dict(difference(before, after))
    for state in after:
        changes.setdefault(state, Absent(f"{state} was not measured on both sides"))
    return changes


def _aftermath(work: Work) -> None:
    """`on_failure` where due, then `finally`."""
    outcome = _conclude(work, "")
    work.ports.heed()
    work.scope["run"] = {**work.scope["run"], "outcome": outcome}
    for stage, due in (
        (work.runbook.on_failure, outcome in ("failed", "refuted", "errored")),
        (work.runbook.finally_, True),
    ):
        if not due or not stage:
            continue
        trouble = work.ports.settle()
        if trouble:
            work.lost_footing(trouble)
            return
        work.ports.emit("stage.entered", {"stage": stage[0].stage})
        for step in stage:
            if not run_step(work, step) and step.stage == "on_failure":
                break


def _conclude(work: Work, gate: str) -> RunVerdict:
    found = verdicts(work.tallies, work.inputs.strict) | ({"unknown"} if work.unmeasured_states else set())
    if work.halted:
        found -= {"refuted"}  # the steps that were never started had no chance to make it true
    return conclude(
        cancelled=work.stopping() and not work.forsaken,
        stopped_at_gate="" if work.started else gate,
        failed=work.failed,
        found=found,
    )


def _finish(work: Work, verdict: RunVerdict) -> RunVerdict:
    """The verdict on disk, then the closing transaction, then what became of it."""
    finished_at = work.ports.now()
    duration = work.elapsed()
    closing = {"verdict": verdict, "exit_code": EXIT_CODES[verdict], "finished_at": finished_at, "duration": duration}
    outcome = work.scope["run"].get("outcome", verdict)
    work.scope["run"] = {**work.scope["run"], "outcome": outcome, **closing}
    because = work.cancelled_because or "; ".join(dict.fromkeys(_reasons(work, verdict)))
    work.ports.emit("run.finished", {**to_data(closing), "because": because})
    row = _finished_row(work)
    scope = work.with_nulls() if not work.started else work.scope
    confirmation = work.ports.finish(row, scope)
    work.ports.emit("audit.closed", confirmation._asdict())
    if verdict == "passed" and confirmation.status in ("pending", "failed"):
        return "errored"
    return verdict


def _reasons(work: Work, verdict: RunVerdict) -> Iterator[str]:
    """What decided, in the order in which it was found; nothing for a run that passed."""
    if verdict == "passed":
        return
    yield from work.reasons
    wanted = "refuted" if verdict in ("blocked", "refuted", "failed") else "unknown"
    for tally in decisive(work.tallies, work.inputs.strict):
        if tally.verdict == wanted:
            yield f"{tally.name} {tally.verdict}: {tally.because}"


def _finished_row(work: Work) -> Sql | None:
    audit = work.runbook.audit
    if audit.finished is None or (audit.started is not None and not work.row_started):
        return None
    return audit.finished
