"""Snapshots and checks: what is read, and what it is judged to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from runbook.engine.judge import Judgement, Tally, judge_answer, judge_conditions, number
from runbook.engine.ports import UNMEASURABLE, Answer, CannotTell, Read
from runbook.engine.work import Work, rounded
from runbook.language.expressions import EvaluationError, NotYet
from runbook.language.model import Check, Runbook, State
from runbook.language.problems import RunbookError
from runbook.language.values import Absent, brief, duration_text, to_data


def measure(work: Work, read: Read, which: str) -> dict[str, Any]:
    """Every state, each a row of named numbers, or Absent with the reason."""
    began = work.ports.monotonic()
    rows: dict[str, Any] = {}
    for state in work.runbook.state:
        try:
            rows[state.name] = _row(work, read, state)
        except UNMEASURABLE as error:
            later = isinstance(error, NotYet)
            rows[state.name] = Absent(f"{which}.{state.name} could not be measured: {error}", later=later)
            if which in ("before", "after") and not later:
                work.unmeasured_states = True
                work.reasons.append(rows[state.name].because)
    _record(work, which, rows, work.ports.monotonic() - began)
    return rows


def _record(work: Work, which: str, rows: Mapping[str, Any], duration: float) -> None:
    measured = {name: to_data(row) for name, row in rows.items() if not isinstance(row, Absent)}
    errors = {name: row.because for name, row in rows.items() if isinstance(row, Absent)}
    data = {"which": which, "state": measured, "errors": errors, "duration": rounded(duration)}
    work.ports.emit("snapshot.measured", data)


def _row(work: Work, read: Read, state: State) -> dict[str, Any]:
    answer = read(state.probe, work.scope, state.timeout)
    if answer.trouble:
        raise CannotTell(answer.trouble)
    result = answer.result
    if state.select is not None:
        result = state.select.evaluate({**work.scope, **answer.names, "result": result})
    if not isinstance(result, Mapping):
        raise CannotTell(f"gives {brief(result)}, not one row of named numbers")
    for metric, value in result.items():
        if value is not None and number(value) is None:
            raise CannotTell(f"`{metric}` is {brief(value)}, not a number")
    return dict(result)


def absent_states(runbook: Runbook, because: str) -> dict[str, Any]:
    return {state.name: Absent(f"{state.name} could not be measured: {because}") for state in runbook.state}


def unmeasured(work: Work, which: str, section: Literal["preflight", "postconditions"], because: str) -> None:
    """Records that a whole snapshot failed: each state and each check that has no judgement yet is unknown."""
    if work.runbook.state:
        rows = absent_states(work.runbook, because)
        known = work.scope.get(which, {})
        rows = {name: known[name] if isinstance(known.get(name), Mapping) else row for name, row in rows.items()}
        work.scope[which] = rows
        work.unmeasured_states = True
        _record(work, which, rows, 0)
    work.reasons.append(because)
    work.tallies.append(Tally(section, "unknown", "error", because))
    for check in getattr(work.runbook, section):
        if check.shown not in work.judged:
            value = work.scope[section][check.name] = Absent(f"{check.shown} is unknown: {because}")
            _conclude(work, check, Judgement("unknown", because), value, None, 0.0)


def judge_check(work: Work, check: Check, read: Read) -> Any:
    """Asks, judges and records one check; returns what later expressions see of it."""
    began = work.ports.monotonic()
    if check.section == "preflight" and work.stopping():
        value = Absent(f"{check.shown} was not asked: the run was cancelled")
        return _conclude(work, check, Judgement("unknown", "not asked: the run was cancelled"), value, None, 0.0)
    try:
        if check.when is not None and not check.when.holds(work.scope):
            value = Absent(f"{check.shown} was skipped")
            return _conclude(
                work,
                check,
                Judgement("skipped", f"`when` is false: {check.when.explain(work.scope)}"),
                value,
                None,
                0.0,
            )
    except EvaluationError as error:
        judgement, value = _unclear(check, error, "when: ")
        return _conclude(work, check, judgement, value, None, 0.0)
    if check.until is None:
        judgement, value, answer = _attempt(work, check, read)
        attempts = 1
    else:
        judgement, value, answer, attempts = _until(work, check)
    duration = work.ports.monotonic() - began
    return _conclude(work, check, judgement, value, answer, duration, attempts)


def _unclear(check: Check, error: RunbookError, part: str = "") -> tuple[Judgement, Absent]:
    """The judgement that there is none, and what stands for the check's result."""
    later = isinstance(error, NotYet)
    known = "not known yet" if later else "unknown"
    return Judgement("unknown", f"{part}{error}", later), Absent(f"{check.shown} is {known}: {error}", later=later)


def _attempt(work: Work, check: Check, read: Read) -> tuple[Judgement, Any, Answer | None]:
    answer = None
    try:
        if check.probe is None:
            judgement = judge_conditions(check.expect, work.scope)
            unclear = Absent(f"{check.shown} is unknown: {judgement.because}", later=judgement.later)
            return judgement, unclear if judgement.verdict == "unknown" else judgement.verdict == "passed", None
        answer = read(check.probe, work.scope, _limit(work, check))
        scope = {**work.scope, **answer.names, "result": answer.result}
        if check.select is not None and not answer.trouble:
            answer = answer._replace(result=check.select.evaluate(scope))
            scope["result"] = answer.result
        judgement = judge_answer(answer, check.expect, scope)
    except UNMEASURABLE as error:
        return *_unclear(check, error), None
    if judgement.verdict == "unknown" and answer.trouble:
        return judgement, Absent(f"{check.shown} is unknown: {judgement.because}"), answer
    return judgement, answer.result, answer


def _limit(work: Work, check: Check) -> float:
    """Seconds for one attempt: the run's own limit shortens the preflight's; what comes after the steps is always measured."""
    if check.section == "postconditions":
        return check.timeout
    limit = work.remaining(check.timeout)
    if limit <= 0:
        raise CannotTell(f"the run's own time limit of {work.runbook.timeout:g} s is over")
    return limit


def _until(work: Work, check: Check) -> tuple[Judgement, Any, Answer | None, int]:
    """Asks again until the check holds or the time is over, each time in a transaction of its own."""
    assert check.until is not None
    patience = check.until.timeout
    if check.section == "preflight":
        patience = max(work.remaining(patience), 0)
    deadline = work.ports.monotonic() + patience
    attempts = 0
    while True:
        attempts += 1
        try:
            with work.ports.snapshot() as read:
                judgement, value, answer = _attempt(work, check, read)
        except CannotTell as error:
            judgement, value, answer = *_unclear(check, error), None
        left = deadline - work.ports.monotonic()
        if judgement.verdict == "passed" or left <= 0 or work.stopping():
            return judgement, value, answer, attempts
        if work.once:
            why = f"does not hold now ({judgement.because}); a run asks again for {duration_text(patience)}"
            return *_unclear(check, NotYet(why)), None, attempts
        work.ports.sleep(min(check.until.every, left))


def _conclude(
    work: Work,
    check: Check,
    judgement: Judgement,
    value: Any,
    answer: Answer | None,
    duration: float,
    attempts: int = 1,
) -> Any:
    overridden = judgement.verdict == "refuted" and check.section == "preflight" and check.name in work.inputs.overrides
    work.judged.add(check.shown)
    names = {**answer.names, "result": answer.result} if answer else {}
    message = work.message(check.message, names) if judgement.verdict == "refuted" else None
    reason = f"{message} ({judgement.because})" if message else judgement.because
    if not judgement.later:
        work.tallies.append(Tally(check.shown, judgement.verdict, check.severity, reason, overridden))
    data = {
        "section": check.section,
        "name": check.name,
        "verdict": None if judgement.later else judgement.verdict,
        "result": to_data(value),
        "because": judgement.because,
        "message": message,
        "duration": rounded(duration),
        "attempts": attempts,
    }
    if answer is not None and answer.dropped:
        data["dropped"] = answer.dropped
    if overridden:
        data["overridden"] = work.inputs.overrides[check.name]
    work.ports.emit("check.judged", data)
    return value
