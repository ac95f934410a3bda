"""One step: its attempts, its pauses, its own expectations."""

from __future__ import annotations

from typing import Any

from runbook.engine import predictions
from runbook.engine.judge import Judgement, Prediction, Tally, judge_conditions, names_any, verdicts
from runbook.engine.measure import absent_states, measure
from runbook.engine.ports import Acted, CannotTell
from runbook.engine.work import Work, rounded
from runbook.language.expressions import EvaluationError
from runbook.language.model import Step
from runbook.language.values import Absent, to_data


def run_step(work: Work, step: Step) -> bool:
    """Runs one step to its verdict; whether the next may start."""
    if step.name in work.inputs.passed_over:
        work.scope["steps"][step.name] = Absent(f"steps.{step.name} was skipped")
        return _settle(work, step, "skipped", work.inputs.passed_over[step.name], {}, [])
    try:
        due = step.when is None or step.when.holds(work.scope)
    except EvaluationError as error:
        return _settle(work, step, "failed", f"when: {error}", {}, [])
    if not due:
        work.scope["steps"][step.name] = Absent(f"steps.{step.name} was skipped")
        assert step.when is not None
        return _settle(work, step, "skipped", f"`when` is false: {step.when.explain(work.scope)}", {}, [])
    registered = predictions.register(work, step.expectations, step.name) if step.expectations else {}
    for item in step.expectations:
        because = registered[item.name].because
        if because and verdicts([Tally(item.name, "unknown", item.severity)], work.inputs.strict):
            work.lost_footing(f"{step.stage}.{step.name} is not started: {item.name} could not be predicted: {because}")
            return False
    before = _snapshot(work, f"steps.{step.name}.before") if step.expectations else {}
    facts, because, attempts = _attempts(work, step)
    verdict = "failed" if because else "passed"
    if because and work.interrupted():
        verdict = "cancelled"
    going_on = _settle(work, step, verdict, because, facts, attempts)
    return _own_expectations(work, step, registered, before) and going_on if step.expectations else going_on


def pass_over(work: Work, step: Step, run_id: str, facts: dict[str, Any]) -> None:
    """A step that passed in the run that is resumed: it is not run again."""
    _settle(work, step, "skipped", f"passed in run {run_id}", {}, [])
    work.scope["steps"][step.name] = facts


def _settle(
    work: Work, step: Step, verdict: str, because: str, facts: dict[str, Any], attempts: list[dict[str, Any]]
) -> bool:
    duration = sum((attempt["duration"] for attempt in attempts), rounded(0))
    known = {"exit_code": None, "stdout": "", "json": None, "rowcount": None, **facts}
    known |= {"duration": duration, "attempts": len(attempts), "verdict": verdict}
    if verdict != "skipped":
        work.scope["steps"][step.name] = known
    if verdict == "failed":
        work.failed = True
        work.reasons.append(f"{step.stage}.{step.name}: {because}")
    names = {"result": facts.get("result"), **known}
    data = {
        "step": step.name,
        "stage": step.stage,
        "verdict": verdict,
        "because": because,
        "exit_code": facts.get("exit_code"),
        "rowcount": facts.get("rowcount"),
        "duration": duration,
        "attempts": len(attempts),
        "message": work.message(step.message, names) if verdict == "failed" else None,
    }
    work.ports.emit("step.judged", data)
    return verdict in ("passed", "skipped")


def _attempts(work: Work, step: Step) -> tuple[dict[str, Any], str, list[dict[str, Any]]]:
    """Tries until one attempt holds or all are used up; the last one's facts and why it failed."""
    done: list[dict[str, Any]] = []
    delay = step.retry.delay
    while True:
        facts, because = _attempt(work, step, len(done) + 1, done)
        if not because or len(done) >= step.retry.attempts or work.interrupted():
            return facts, because, done
        work.ports.sleep(delay)
        delay *= step.retry.backoff
        if work.interrupted():
            return facts, because, done


def _attempt(work: Work, step: Step, number: int, done: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    began = work.ports.monotonic()
    limit = work.remaining(step.timeout) if step.stage == "steps" else step.timeout
    try:
        if limit <= 0:
            raise CannotTell(f"the run's own time limit of {work.runbook.timeout:g} s is over")
        prepared = work.ports.prepare(step, work.scope, limit)
        work.ports.emit(
            "step.started", {"step": step.name, "stage": step.stage, "attempt": number, "what": prepared.what}
        )
        work.acted = True
        acted = prepared.go()
    except (CannotTell, EvaluationError) as error:
        acted = Acted({}, str(error))
    judgement = _judge(work, step, acted)
    because = "" if judgement.verdict == "passed" else judgement.because
    duration = rounded(work.ports.monotonic() - began)
    record = {"attempt": number, "duration": duration, "exit_code": acted.facts.get("exit_code"), "because": because}
    done.append(record)
    tail = {name: to_data(acted.facts[name]) for name in ("tail", "left", "result") if acted.facts.get(name)}
    work.ports.emit("step.ended", {"step": step.name, "stage": step.stage, **record, **tail})
    return dict(acted.facts), because


def _judge(work: Work, step: Step, acted: Acted) -> Judgement:
    """Whether an attempt holds: it did not fail, or its failure is what `expect` is about, and all conditions hold."""
    if acted.because and not (acted.excuse and names_any(step.expect, acted.excuse)):
        return Judgement("refuted", acted.because)
    return judge_conditions(step.expect, {**work.scope, **acted.facts, "result": acted.facts.get("result")})


def _snapshot(work: Work, which: str) -> dict[str, Any]:
    try:
        with work.ports.snapshot() as read:
            return measure(work, read, which)
    except CannotTell as error:
        return absent_states(work.runbook, str(error))


def _own_expectations(work: Work, step: Step, registered: dict[str, Prediction], before: dict[str, Any]) -> bool:
    after = _snapshot(work, f"steps.{step.name}.after")
    judged = [
        predictions.judge(work, item, registered[item.name], before, after, step.name) for item in step.expectations
    ]
    return all(judged)
