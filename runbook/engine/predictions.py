"""Predictions: computed and recorded before anything runs, judged when both snapshots are there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from runbook.engine.judge import (
    Judgement,
    Prediction,
    Tally,
    judge_prediction,
    measured,
    predict,
    recorded_prediction,
    verdicts,
)
from runbook.engine.work import Work
from runbook.language.model import Expectation
from runbook.language.values import Absent, to_data


def register(work: Work, expectations: Iterable[Expectation], step: str = "") -> dict[str, Prediction]:
    """Every prediction over what is known now, recorded as one event."""
    kept = work.inputs.resumed.predictions if work.inputs.resumed and not step else {}
    found = {
        item.name: recorded_prediction(kept[item.name]) if item.name in kept else predict(item, work.scope)
        for item in expectations
    }
    data: dict[str, Any] = {
        "expectations": {
            item.name: {
                "of": item.of,
                "predicted": to_data(found[item.name].data()),
                "tolerance": to_data(item.tolerance.data()) if item.tolerance else None,
                "severity": item.severity,
                "because": found[item.name].because,
            }
            for item in expectations
        }
    }
    work.ports.emit("predictions.registered", {**data, "step": step} if step else data)
    return found


def know(work: Work, expectation: Expectation, judgement: Judgement | None = None, actual: Any = None) -> None:
    """Puts what is known of an expectation into the scope, under `expectations.<state>.<metric>`."""
    prediction = work.predictions[expectation.name]
    facts = {
        "predicted": Absent(prediction.because, later=prediction.later) if prediction.because else prediction.data(),
        "tolerance": expectation.tolerance.data() if expectation.tolerance else None,
        "actual": actual if judgement else Absent(f"{expectation.name} is measured after the steps"),
        "verdict": judgement.verdict if judgement else Absent(f"{expectation.name} is judged after the steps"),
        "because": judgement.because if judgement else "",
    }
    work.scope["expectations"].setdefault(expectation.state, {})[expectation.metric] = facts


def judge_all(work: Work) -> None:
    """Judges the run's own expectations over its two snapshots, once."""
    for expectation in work.runbook.expectations:
        if expectation.name not in work.judged:
            work.judged.add(expectation.name)
            prediction = work.predictions[expectation.name]
            judge(work, expectation, prediction, work.scope["before"], work.scope["after"])


def judge(
    work: Work, expectation: Expectation, prediction: Prediction, before: Any, after: Any, step: str = ""
) -> bool:
    """Judges and records one expectation; whether the steps may go on."""
    actual, why = measured(expectation, before, after)
    if prediction.because or actual is None:
        judgement = Judgement("unknown", prediction.because or why)
    else:
        judgement = judge_prediction(prediction, actual, expectation.tolerance)
    name = f"{step}: {expectation.name}" if step else expectation.name
    tally = Tally(name, judgement.verdict, expectation.severity, judgement.because)
    work.tallies.append(tally)
    names = {"predicted": prediction.data(), "actual": actual}
    data: dict[str, Any] = {
        "name": expectation.name,
        "verdict": judgement.verdict,
        "actual": to_data(actual),
        "because": judgement.because,
        "message": work.message(expectation.message, names) if judgement.verdict == "refuted" else None,
    }
    work.ports.emit("expectation.judged", {**data, "step": step} if step else data)
    if not step:
        know(work, expectation, judgement, actual)
    return not verdicts([tally], work.inputs.strict) & {"refuted", "unknown"}
