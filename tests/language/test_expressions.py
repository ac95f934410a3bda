"""Expressions: what they give, what they refuse, which names they read."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from runbook.language.expressions import EvaluationError, ExpressionProblem, parse_expression
from runbook.language.values import Absent

SCOPE: dict[str, Any] = {
    "result": {"pending": 3, "items": 7, "empty": None, "share": Decimal("0.1")},
    "params": {"mode": "batch", "ids": [3, 1, 2]},
    "gone": Absent("the steps were not reached"),
    "later": Absent("nothing was started", null=True),
}

VALUES: dict[str, Any] = {
    "result.pending + 1": 4,
    "result.items": 7,
    "result['pending']": 3,
    "0.1 + 0.2": Decimal("0.3"),
    "result.share * 3": Decimal("0.3"),
    "1 / 4": Decimal("0.25"),
    "7 // 2": 3,
    "2 ** 10": 1024,
    "-result.pending": -3,
    "[result.pending, 5] | min": 3,
    "params.ids | sort": [1, 2, 3],
    "params.ids | map('string') | join(',')": "3,1,2",
    "params.mode.upper()": "BATCH",
    "params.mode[1:3]": "at",
    "params.mode[::-1]": "hctab",
    "params.mode ~ '-' ~ 1": "batch-1",
    "'a' if result.pending > 2 else 'b'": "a",
    "{'a': [1, (2, 3)]}": {"a": [1, [2, 3]]},
    "[1, 2] is subset(params.ids)": True,
    "params.ids is superset([4])": False,
    "'b' in params.mode": True,
    "1 < 2 < 3": True,
    "result.nothing | default(5)": 5,
    "nothing is defined": False,
    "result.empty is none": True,
    "false and nothing": False,
    "later": None,
    "later.x": None,
}


@pytest.mark.parametrize("source", VALUES)
def test_value(source: str) -> None:
    value = parse_expression(source).evaluate(SCOPE)
    assert value == VALUES[source]
    assert type(value) is type(VALUES[source])


ERRORS = {
    "nothing": "`nothing` is not known here",
    "result.pendng": "result has no `pendng` (did you mean `pending`?)",
    "result.pending.x": "result.pending has no `x`: it is 3",
    "result.empty.x": "result.empty is null and has no `x`",
    "result.empty + 1": "result.empty is null: `+` has no result",
    "gone": "the steps were not reached",
    "gone > 1": "the steps were not reached",
    "1 // 0": "division by zero",
    "'a' + 1": 'can only concatenate str (not "int") to str',
    "[] | first": "the value asked for does not exist",
    "1 if false": "the condition is false and there is no `else`",
    "params.mode.__class__": 'params.mode has no `__class__`: it is "batch"',
    "params.ids.append(4)": "params.ids has no `append`: it is [3, 1, 2]",
    "{}.update(a=1)": "the value has no `update`",
    "result.items()": "`items` cannot be called",
}


@pytest.mark.parametrize("source", ERRORS)
def test_no_value(source: str) -> None:
    with pytest.raises(EvaluationError) as error:
        parse_expression(source).evaluate(SCOPE)
    assert str(error.value) == ERRORS[source]


BOMBS = (
    "'a' * 3000000000",
    "[1] * 3000000000",
    "10 ** 100000",
    "'%2000000000d' % 1",
    "'%2000000000d' | format(1)",
    "'{:2000000000}'.format(1)",
    "'a'.center(2000000000)",
    "'a' | center(2000000000)",
    "'a' | indent(2000000000)",
    "'\\t'.expandtabs(2000000000)",
    "[1] | batch(2000000000, 0) | list",
    "('a' * 9999) | replace('a', 'b' * 9999)",
)


@pytest.mark.parametrize("source", BOMBS)
def test_bomb(source: str) -> None:
    with pytest.raises(EvaluationError):
        parse_expression(source).evaluate({})


CONDITIONS = {
    "result.pending == 3": True,
    "result.pending == 4": False,
    "not result.pending == 4": True,
    "result.empty is none": True,
    "result.empty == none": True,
    "result.empty == 1": "result.empty is null: a comparison with it is neither true nor false (use `is none`)",
    "result.pending": "`result.pending` is 3, neither true nor false",
    "params.mode": '`params.mode` is "batch", neither true nor false',
    "result.empty": "`result.empty` is null, neither true nor false",
}


@pytest.mark.parametrize("source", CONDITIONS)
def test_condition(source: str) -> None:
    expected = CONDITIONS[source]
    if isinstance(expected, bool):
        assert parse_expression(source).holds(SCOPE) is expected
        return
    with pytest.raises(EvaluationError) as error:
        parse_expression(source).holds(SCOPE)
    assert str(error.value) == expected


def test_not_a_number_decides_nothing() -> None:
    with pytest.raises(EvaluationError, match="NaN"):
        parse_expression("x == 1").holds({"x": Decimal("NaN")})


EXPLAINED = {
    "result.pending > 5": "result.pending > 5   where result.pending = 3",
    "result.pending > result.items": "result.pending > result.items   where result.pending = 3, result.items = 7",
    "result.pending + result.pending > 9": "result.pending + result.pending > 9   where result.pending = 3",
    "params.mode == 'x'": "params.mode == 'x'   where params.mode = \"batch\"",
    "nothing > 1": "nothing > 1   where nothing: `nothing` is not known here",
    "1 > 2": "1 > 2",
}


@pytest.mark.parametrize("source", EXPLAINED)
def test_explained(source: str) -> None:
    assert parse_expression(source).explain(SCOPE) == EXPLAINED[source]


NAMES = {
    "a.b.c > d": (("a", "b", "c"), ("d",)),
    "a['b'].c": (("a", "b", "c"),),
    "a[b].c": (("a",), ("b",)),
    "a.b.upper()": (("a", "b"),),
    "a | map(attribute='b') | list": (("a",),),
    "a | default(b)": (("a",), ("b",)),
    "{'k': a} | tojson": (("a",),),
    "a[b:c]": (("a",), ("b",), ("c",)),
    "'a.b'": (),
}


@pytest.mark.parametrize("source", NAMES)
def test_names(source: str) -> None:
    assert parse_expression(source).names == NAMES[source]


PROBLEMS = {
    "a = 1": ("the expression goes on after its end: `=`", 2),
    "a b": ("the expression goes on after its end: `b`", 2),
    "{{ a }}": ("this is a bare expression", 0),
    "a | nosuch": ("there is no filter `nosuch`", 4),
    "a is nosuch": ("there is no test `nosuch`", 5),
    "a | random": ("there is no filter `random`", 4),
    "result(1)": ("only methods of a value can be called", 0),
    "params.mode.replace(*params.ids)": ("`*` and `**` are not part of the expression language", 0),
    "(" * 61 + ")" * 61: ("brackets nested more than 60 deep", 60),
    "not " * 3000 + "a": ("the expression is nested too deeply", 0),
    "a" * 20_000: ("an expression of 20000 characters; at most 16384 are read", 0),
}


@pytest.mark.parametrize("source", PROBLEMS, ids=lambda source: source[:20])
def test_unreadable(source: str) -> None:
    with pytest.raises(ExpressionProblem) as problem:
        parse_expression(source)
    assert (problem.value.message, problem.value.offset) == PROBLEMS[source]


@pytest.mark.parametrize("source", ["", "a ==", "(a", "a |", "[x for x in a]", "*a", "{% if a %}", "'", "a @ b", "{a}"])
def test_not_jinja(source: str) -> None:
    with pytest.raises(ExpressionProblem, match="cannot be read"):
        parse_expression(source)
