"""Judgements: what was predicted or expected, beside what was measured. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from runbook.engine.ports import Answer
from runbook.language.expressions import EvaluationError, Expression, NotYet, Scope
from runbook.language.model import Expectation, Severity, Tolerance
from runbook.language.values import Absent, as_text, brief

Verdict = Literal["passed", "refuted", "unknown", "skipped"]
RunVerdict = Literal["passed", "refuted", "blocked", "failed", "errored", "cancelled"]
EXIT_CODES: dict[str, int] = {
    "passed": 0,
    "refuted": 1,
    "blocked": 3,
    "failed": 4,
    "errored": 6,
    "locked": 7,
    "cancelled": 130,
}
Number = int | Decimal


class Judgement(NamedTuple):
    """A verdict and, unless it passed, the reason with the values in it; `later` where it only cannot be known yet."""

    verdict: Verdict
    because: str = ""
    later: bool = False


class Prediction(NamedTuple):
    """What is predicted of one metric: a number, or bounds; `because` where it could not be computed, or not yet (`later`)."""

    predicted: Number | None = None
    at_least: Number | None = None
    at_most: Number | None = None
    because: str = ""
    later: bool = False

    def data(self) -> Any:
        """As records hold it: the number, or the bounds by name."""
        bounds = {"at_least": self.at_least, "at_most": self.at_most}
        given = {name: bound for name, bound in bounds.items() if bound is not None}
        return given or self.predicted


def recorded_prediction(data: Mapping[str, Any]) -> Prediction:
    """The prediction that a record holds."""
    predicted = data["predicted"]
    if isinstance(predicted, Mapping):
        return Prediction(None, predicted.get("at_least"), predicted.get("at_most"), data["because"])
    return Prediction(predicted, because=data["because"])


def number(value: Any) -> Number | None:
    """`value` if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    return value if isinstance(value, int) or value.is_finite() else None


def judge_conditions(expect: Iterable[Expression], scope: Scope) -> Judgement:
    """All conditions, always: refuted if one is false, else unknown if one has no value."""
    false, unclear, later = [], [], True
    for condition in expect:
        try:
            if not condition.holds(scope):
                false.append(condition.explain(scope))
        except EvaluationError as error:
            unclear.append(f"{condition.source}: {error}")
            later = later and isinstance(error, NotYet)
    if false:
        return Judgement("refuted", "; ".join(false + unclear))
    return Judgement("unknown", "; ".join(unclear), later) if unclear else Judgement("passed")


def names_any(expect: Iterable[Expression], name: str) -> bool:
    """Whether a condition names `name`, itself or as `result.name`."""
    return any(chain[0] == name or chain[:2] == ("result", name) for item in expect for chain in item.names)


def judge_answer(answer: Answer, expect: tuple[Expression, ...], scope: Scope) -> Judgement:
    """The verdict on a probe's answer; an answer with trouble is none unless a condition names what excuses it."""
    if answer.trouble and not (answer.excuse and names_any(expect, answer.excuse)):
        return Judgement("unknown", answer.trouble)
    if answer.dropped and expect:
        return Judgement("unknown", f"the query gives {answer.dropped} rows more than are read: aggregate or LIMIT it")
    return judge_conditions(expect, scope)


def predict(expectation: Expectation, scope: Scope) -> Prediction:
    """The prediction over what is known before the first step."""
    values: dict[str, Number | None] = {}
    for name in ("predicted", "at_least", "at_most"):
        expression: Expression | None = getattr(expectation, name)
        if expression is None:
            continue
        try:
            value = expression.evaluate(scope)
        except EvaluationError as error:
            return Prediction(because=f"{expression.source}: {error}", later=isinstance(error, NotYet))
        values[name] = number(value)
        if values[name] is None:
            return Prediction(because=f"`{expression.source}` is {brief(value)}, not a number")
    return Prediction(values.get("predicted"), values.get("at_least"), values.get("at_most"))


def measured(expectation: Expectation, before: Any, after: Any) -> tuple[Number | None, str]:
    """The quantity that is judged, from the two snapshots; or None and why there is none."""
    sides = [("after", after)] if expectation.of == "after" else [("before", before), ("after", after)]
    found: list[Number] = []
    for side, snapshot in sides:
        value, why = _metric(snapshot, expectation.state, expectation.metric)
        if value is None:
            return None, f"{expectation.name} {side}: {why}"
        found.append(value)
    return (found[0] if len(found) == 1 else found[1] - found[0]), ""


def _metric(snapshot: Any, state: str, metric: str) -> tuple[Number | None, str]:
    row = snapshot.get(state) if isinstance(snapshot, Mapping) else snapshot
    if isinstance(row, Absent):
        return None, row.because
    if not isinstance(row, Mapping) or metric not in row:
        known = ", ".join(row) if isinstance(row, Mapping) else "nothing"
        return None, f"was not measured (measured: {known})"
    value = number(row[metric])
    return value, "" if value is not None else f"is {brief(row[metric])}, not a number"


def judge_prediction(prediction: Prediction, actual: Number, tolerance: Tolerance | None) -> Judgement:
    """Whether `actual` is what was predicted: within the tolerance (inclusive, not rounded), or within the bounds."""
    if prediction.predicted is None:
        low, high = prediction.at_least, prediction.at_most
        if (low is None or actual >= low) and (high is None or actual <= high):
            return Judgement("passed")
        return Judgement("refuted", f"predicted {bounds_text(prediction)}, measured {as_text(actual)}")
    allowed = allowance(prediction.predicted, tolerance)
    off = abs(Decimal(actual) - Decimal(prediction.predicted))
    if off <= allowed:
        return Judgement("passed")
    margin = f" ± {tolerance}" if tolerance else ""
    return Judgement(
        "refuted",
        f"predicted {as_text(prediction.predicted)}{margin}, measured {as_text(actual)}, off by {as_text(off)}",
    )


def allowance(predicted: Number, tolerance: Tolerance | None) -> Decimal:
    """How far from `predicted` is still right."""
    if tolerance is None:
        return Decimal(0)
    return abs(Decimal(predicted)) * tolerance.amount / 100 if tolerance.percent else tolerance.amount


def bounds_text(prediction: Prediction) -> str:
    """`at least 3, at most 5`."""
    parts = [("at least", prediction.at_least), ("at most", prediction.at_most)]
    return ", ".join(f"{word} {as_text(bound)}" for word, bound in parts if bound is not None)


def difference(before: Any, after: Any) -> dict[str, dict[str, Number | None]]:
    """after minus before, metric by metric; null where one of them is no number."""
    changes: dict[str, dict[str, Number | None]] = {}
    for state, row in after.items():
        earlier = before.get(state)
        if not isinstance(row, Mapping) or not isinstance(earlier, Mapping):
            continue
        pairs = {metric: (number(earlier.get(metric)), number(value)) for metric, value in row.items()}
        changes[state] = {m: None if a is None or b is None else b - a for m, (a, b) in pairs.items()}
    return changes


class Tally(NamedTuple):
    """One judgement as the run's verdict sees it."""

    name: str
    verdict: Verdict
    severity: Severity
    because: str = ""
    overridden: bool = False


def decisive(tallies: Iterable[Tally], strict: bool) -> list[Tally]:
    """The judgements that decide: warnings only where `strict`, overridden refutations never."""
    return [tally for tally in tallies if (strict or tally.severity == "error") and not tally.overridden]


def verdicts(tallies: Iterable[Tally], strict: bool) -> set[str]:
    """The verdicts among those that decide."""
    return {tally.verdict for tally in decisive(tallies, strict)}


def conclude(*, cancelled: bool, stopped_at_gate: str, failed: bool, found: set[str]) -> RunVerdict:
    """The verdict of a run: cancelled before all; then blocked or errored at the gate; then failed, refuted, errored."""
    if cancelled:
        return "cancelled"
    if stopped_at_gate:
        return "blocked" if stopped_at_gate == "blocked" else "errored"
    if failed:
        return "failed"
    if "refuted" in found:
        return "refuted"
    return "errored" if "unknown" in found else "passed"
