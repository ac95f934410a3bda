"""Judgements: pure functions over values."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.engine.judge import (
    EXIT_CODES,
    Judgement,
    Prediction,
    Tally,
    allowance,
    bounds_text,
    conclude,
    decisive,
    difference,
    judge_answer,
    judge_conditions,
    judge_prediction,
    measured,
    names_any,
    number,
    predict,
    verdicts,
)
from runbook.engine.ports import Answer
from runbook.language.expressions import Expression, parse_expression
from runbook.language.model import Expectation, Tolerance
from runbook.language.values import Absent

D = Decimal
NUMBERS = st.integers(-(10**30), 10**30) | st.decimals(
    allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12
)


def conditions(*sources: str) -> tuple[Expression, ...]:
    return tuple(map(parse_expression, sources))


def expectation(of: Any = "delta", **bounds: str) -> Expectation:
    known: dict[str, Any] = {name: parse_expression(source) for name, source in bounds.items()}
    return Expectation(
        state="s",
        metric="m",
        where=(),
        of=of,
        predicted=known.get("predicted"),
        at_least=known.get("at_least"),
        at_most=known.get("at_most"),
        tolerance=None,
        severity="error",
        message=None,
        description="",
    )


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (3, 3),
        (D("1.10"), D("1.10")),
        (0, 0),
        (True, None),
        (None, None),
        ("3", None),
        (D("NaN"), None),
        (D("Infinity"), None),
        ([], None),
    ],
    ids=str,
)
def test_number(value: Any, wanted: Any) -> None:
    assert number(value) == wanted and type(number(value)) is type(wanted)


CONDITIONS: dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    "none": ((), "passed", ()),
    "true": (("n == 1",), "passed", ()),
    "false": (("n == 2",), "refuted", ("n == 2   where n = 1",)),
    "all false ones are told": (("n == 2", "n == 3"), "refuted", ("n == 2", "n == 3")),
    "unclear": (("nothing == 1",), "unknown", ("nothing == 1: ", "null")),
    "false before unclear": (("nothing == 1", "n == 2"), "refuted", ("n == 2", "nothing == 1: ")),
    "unclear before true": (("n == 1", "nothing == 1"), "unknown", ("nothing",)),
    "no truth": (("n",), "unknown", ("neither true nor false",)),
    "absent": (("gone == 1",), "unknown", ("it was skipped",)),
}


@pytest.mark.parametrize("case", CONDITIONS)
def test_conditions(case: str) -> None:
    sources, verdict, parts = CONDITIONS[case]
    found = judge_conditions(conditions(*sources), {"n": 1, "nothing": None, "gone": Absent("it was skipped")})
    assert found.verdict == verdict
    assert all(part in found.because for part in parts) and bool(found.because) == bool(parts)


def test_trouble_is_excused_only_by_a_condition_that_names_it() -> None:
    answer = Answer({"status": 500}, {"status": 500}, trouble="status 500", excuse="status")
    scope = {"status": 500, "result": {"status": 500}, "statuses": 1}
    assert judge_answer(answer, conditions("status == 500"), scope).verdict == "passed"
    assert judge_answer(answer, conditions("status == 200"), scope).verdict == "refuted"
    assert judge_answer(answer, conditions("result.status == 500"), scope).verdict == "passed"
    for sources in ((), ("statuses == 1",), ("1 == 1",)):
        assert judge_answer(answer, conditions(*sources), scope) == Judgement("unknown", "status 500")
    assert judge_answer(answer._replace(excuse=""), conditions("status == 500"), scope).verdict == "unknown"


def test_rows_that_were_not_read_are_not_judged() -> None:
    answer = Answer([1], dropped=3)
    assert judge_answer(answer, conditions("1 == 1"), {}).verdict == "unknown"
    assert judge_answer(answer, (), {}).verdict == "passed"


def test_names_any() -> None:
    assert names_any(conditions("a == 1", "status > 2"), "status") and names_any(
        conditions("result.status > 2"), "status"
    )
    assert not names_any(conditions("a.status == 1", "statuses == 'status'"), "status")


def test_predict() -> None:
    scope = {"n": 2, "nothing": None, "text": "x", "nan": D("NaN"), "gone": Absent("it was skipped")}
    assert predict(expectation(predicted="n * 3"), scope) == Prediction(6)
    assert predict(expectation(at_least="-n", at_most="n / 4"), scope) == Prediction(None, -2, D("0.5"))
    for source, because in (
        ("nothing", "null"),
        ("text", '"x"'),
        ("nan", "NaN"),
        ("n > 1", "true"),
        ("gone", "it was skipped"),
        ("1 / 0", "zero"),
    ):
        found = predict(expectation(predicted=source), scope)
        assert found.predicted is None and because in found.because
        assert predict(expectation(at_least="n", at_most=source), scope).because


@pytest.mark.parametrize(
    ("of", "before", "after", "wanted", "why"),
    [
        ("delta", {"s": {"m": 2}}, {"s": {"m": 5}}, 3, ""),
        ("after", {"s": {"m": 2}}, {"s": {"m": 5}}, 5, ""),
        ("after", {"s": Absent("away")}, {"s": {"m": 5}}, 5, ""),
        ("delta", {"s": {"m": D("0.1")}}, {"s": {"m": D("0.3")}}, D("0.2"), ""),
        ("delta", {"s": {"m": None}}, {"s": {"m": 5}}, None, "s.m before: is null"),
        ("delta", {"s": {"m": 1}}, {"s": {"m": D("NaN")}}, None, "s.m after: is"),
        ("delta", {"s": Absent("away")}, {"s": {"m": 5}}, None, "away"),
        ("after", {"s": {"m": 1}}, Absent("not reached"), None, "not reached"),
        ("delta", {"s": {"m": 1}}, {"s": {"n": 1}}, None, "was not measured (measured: n)"),
        ("delta", {}, {"s": {"m": 1}}, None, "was not measured"),
    ],
)
def test_measured(of: str, before: Any, after: Any, wanted: Any, why: str) -> None:
    value, because = measured(expectation(of, predicted="1"), before, after)
    assert value == wanted and (why in because if why else because == "")


@given(NUMBERS, st.decimals(0, 1000, places=3))
def test_the_allowance_is_inclusive_and_nothing_more(predicted: Any, percent: Decimal) -> None:
    tolerance = Tolerance(percent, True)
    allowed = allowance(predicted, tolerance)
    assert allowed == abs(D(predicted)) * percent / 100
    assert judge_prediction(Prediction(predicted), predicted, tolerance).verdict == "passed"


@given(st.integers(-(10**9), 10**9), st.integers(0, 10**6))
def test_the_edges_of_an_absolute_tolerance(predicted: int, amount: int) -> None:
    tolerance = Tolerance(D(amount), False)
    for sign in (-1, 1):
        assert judge_prediction(Prediction(predicted), predicted + sign * amount, tolerance).verdict == "passed"
        beyond = judge_prediction(Prediction(predicted), predicted + sign * (amount + D("1e-9")), tolerance)
        assert beyond.verdict == "refuted" and "off by" in beyond.because


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_bounds_are_inclusive(low: int, high: int, actual: int) -> None:
    found = judge_prediction(Prediction(None, low, high), actual, None).verdict
    assert found == ("passed" if low <= actual <= high else "refuted")
    assert judge_prediction(Prediction(None, low), low, None).verdict == "passed"
    assert judge_prediction(Prediction(None, None, high), high + 1, None).verdict == "refuted"


def test_words() -> None:
    assert bounds_text(Prediction(None, 3, D("5.50"))) == "at least 3, at most 5.50"
    assert Prediction(None, 0).data() == {"at_least": 0} and Prediction(0).data() == 0
    assert (
        judge_prediction(Prediction(100), 106, Tolerance(D(5), True)).because
        == "predicted 100 ± 5%, measured 106, off by 6"
    )


def test_difference() -> None:
    before = {"a": {"m": 1, "n": None, "o": 1}, "b": Absent("away"), "c": {"m": D("0.3")}}
    after = {"a": {"m": 3, "n": 2, "p": 1}, "b": {"m": 1}, "c": {"m": D("0.1")}, "d": {"m": 1}}
    assert difference(before, after) == {"a": {"m": 2, "n": None, "p": None}, "c": {"m": D("-0.2")}}


def test_what_decides() -> None:
    hard, soft = Tally("a", "refuted", "error"), Tally("b", "unknown", "warn")
    passed_over = Tally("c", "refuted", "error", overridden=True)
    assert decisive([hard, soft, passed_over], False) == [hard]
    assert decisive([hard, soft, passed_over], True) == [hard, soft]
    assert verdicts([hard, soft, passed_over], True) == {"refuted", "unknown"}


@given(
    st.booleans(),
    st.sampled_from(["", "blocked", "errored"]),
    st.booleans(),
    st.sets(st.sampled_from(["passed", "refuted", "unknown", "skipped"])),
)
def test_the_order_of_verdicts(cancelled: bool, gate: str, failed: bool, found: set[str]) -> None:
    order = [
        ("cancelled", cancelled),
        (gate, bool(gate)),
        ("failed", failed),
        ("refuted", "refuted" in found),
        ("errored", "unknown" in found),
        ("passed", True),
    ]
    wanted = next(verdict for verdict, applies in order if applies)
    verdict = conclude(cancelled=cancelled, stopped_at_gate=gate, failed=failed, found=found)
    assert verdict == wanted and verdict in EXIT_CODES


def test_exit_codes() -> None:
    assert EXIT_CODES == {
        "passed": 0,
        "refuted": 1,
        "blocked": 3,
        "failed": 4,
        "errored": 6,
        "locked": 7,
        "cancelled": 130,
    }
