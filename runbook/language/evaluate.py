"""Evaluation: a walk over Jinja's syntax tree, strict about what is missing or null, every operation bounded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from types import GeneratorType
from typing import Any, NamedTuple

from jinja2 import TemplateError, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context

from runbook.language.problems import RunbookError, did_you_mean
from runbook.language.sandbox import environment
from runbook.language.values import Absent, Output, as_text, brief, exact

MAX_REPEAT = 1_000_000
MAX_BITS = 4096
Scope = Mapping[str, Any]
Chain = tuple[str, ...]


class EvaluationError(RunbookError):
    """An expression has no value: a name is not known, a value is null, or its types do not fit."""


class Missing(EvaluationError):
    """A name or a key does not exist. `default` and `is defined` catch this one."""


class Evaluation(NamedTuple):
    """What one walk over a tree needs."""

    scope: Scope
    nulls: bool


def chain_of(node: nodes.Node) -> Chain:
    keys: list[str] = []
    while True:
        if isinstance(node, nodes.Getattr):
            keys.append(node.attr)
            node = node.node
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            keys.append(node.arg.value)
            node = node.node
        elif isinstance(node, nodes.Name):
            return (node.name, *reversed(keys))
        else:
            return ()


def follow(chain: Chain, evaluation: Evaluation) -> Any:
    value = _root(chain[0], evaluation)
    for depth, key in enumerate(chain[1:], 1):
        value = _member(value, key, ".".join(chain[:depth]))
    return present(value)


def _root(name: str, evaluation: Evaluation) -> Any:
    if name not in evaluation.scope:
        raise Missing(f"`{name}` is not known here")
    return evaluation.scope[name]


def _member(value: Any, key: Any, shown: str) -> Any:
    value = present(value) if not (isinstance(value, Absent) and value.null) else value
    if isinstance(value, Absent):
        return value
    if value is None:
        raise EvaluationError(f"{shown or 'the value'} is null and has no `{key}`")
    env = environment()
    found = env.getattr(value, key) if isinstance(key, str) else env.getitem(value, key)
    if isinstance(found, Undefined):
        raise Missing(_no_member(value, key, shown))
    return exact(found)


def _no_member(value: Any, key: Any, shown: str) -> str:
    message = f"{shown or 'the value'} has no `{key}`"
    if isinstance(value, Mapping):
        hint = did_you_mean(str(key), [str(k) for k in value])
        return f"{message} ({hint})" if hint else message
    return f"{message}: it is {brief(value)}"


def present(value: Any) -> Any:
    if isinstance(value, Absent):
        if value.null:
            return None
        raise EvaluationError(value.because)
    return value


def evaluate(node: nodes.Node, evaluation: Evaluation) -> Any:
    handler = _HANDLERS.get(type(node))
    if handler is None:
        raise EvaluationError(f"{type(node).__name__.lower()} is not part of the expression language")
    try:
        return handler(node, evaluation)
    except SecurityError as error:
        raise EvaluationError(f"not allowed here: {error}") from None
    except (
        TemplateError,
        TypeError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
        AssertionError,
    ) as error:
        raise EvaluationError(_reason(error)) from None


def _reason(error: Exception) -> str:
    if isinstance(error, ZeroDivisionError):
        return "division by zero"
    if isinstance(error, InvalidOperation):
        return "not a number can be neither compared nor reckoned with"
    return str(error) or type(error).__name__


def _value(node: nodes.Node, evaluation: Evaluation) -> Any:
    value = present(evaluate(node, evaluation))
    if callable(value):
        raise EvaluationError(f"`{'.'.join(chain_of(node)) or 'a value'}` is a method: call it with ()")
    return value


def _const(node: Any, evaluation: Evaluation) -> Any:
    return exact(node.value)


def _name(node: Any, evaluation: Evaluation) -> Any:
    return _root(node.name, evaluation)


def _getattr(node: Any, evaluation: Evaluation) -> Any:
    return _member(evaluate(node.node, evaluation), node.attr, ".".join(chain_of(node.node)))


def _getitem(node: Any, evaluation: Evaluation) -> Any:
    base = evaluate(node.node, evaluation)
    if isinstance(node.arg, nodes.Slice):
        parts = [None if p is None else _value(p, evaluation) for p in (node.arg.start, node.arg.stop, node.arg.step)]
        return present(base)[slice(*parts)]
    return _member(base, _value(node.arg, evaluation), ".".join(chain_of(node.node)))


def _call(node: Any, evaluation: Evaluation) -> Any:
    if not isinstance(node.node, nodes.Getattr):
        raise EvaluationError("only methods of a value can be called")
    target = _value(node.node.node, evaluation)
    method = _member(target, node.node.attr, ".".join(chain_of(node.node.node)))
    args, kwargs = _arguments(node, evaluation)
    _bound_growth(node.node.attr, target, args, kwargs)
    env = environment()
    if not callable(method) or not env.is_safe_callable(method):
        raise EvaluationError(f"`{node.node.attr}` cannot be called")
    return _settled(method(*args, **kwargs))


def _arguments(node: Any, evaluation: Evaluation) -> tuple[list[Any], dict[str, Any]]:
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        raise EvaluationError("`*` and `**` are not part of the expression language")
    args = [_value(arg, evaluation) for arg in node.args]
    return args, {pair.key: _value(pair.value, evaluation) for pair in node.kwargs}


def _bound_growth(name: str, target: Any, args: list[Any], kwargs: Mapping[str, Any], times: int = 1) -> None:
    """Refuses what would grow beyond bounds, before it is done; `map` does it to each of its items."""
    given = [*args, *kwargs.values()]
    if name == "map" and isinstance(target, list | tuple) and args and isinstance(args[0], str):
        largest = max(target, key=lambda item: len(item) if isinstance(item, str | list | tuple) else 0, default="")
        _bound_growth(args[0], largest, args[1:], kwargs, max(len(target), 1))
    numbers: list[Any] = [abs(arg) for arg in given if isinstance(arg, int | Decimal) and not isinstance(arg, bool)]
    most = 1000 if name == "round" else MAX_REPEAT
    if name in _GROWING and any(number * (1 if name == "round" else times) > most for number in numbers):
        raise EvaluationError(f"`{name}` with a number that large")
    if name in ("replace", "join", "format", "translate") and isinstance(target, str | list | tuple):
        widths = [len(arg) for arg in given if isinstance(arg, str)] + [1]
        if len(target) * max(widths) * times > 10 * MAX_REPEAT:
            raise EvaluationError(f"`{name}` would make too long a text")
    texts = [part for part in (target, *given) if isinstance(part, str)]
    if name == "format" and any(re.search(r"\d{5}", part) for part in texts):
        raise EvaluationError("a width of five digits in a format")


_GROWING = {
    "center",
    "ljust",
    "rjust",
    "zfill",
    "expandtabs",
    "indent",
    "wordwrap",
    "batch",
    "slice",
    "round",
    "to_bytes",
}


def _filter(node: Any, evaluation: Evaluation) -> Any:
    if node.name in ("default", "d"):
        return _default(node, evaluation)
    value = _value(node.node, evaluation)
    args, kwargs = _arguments(node, evaluation)
    _bound_growth(node.name, value, args, kwargs)
    context = _context()
    return _settled(context.environment.call_filter(node.name, value, args, kwargs, context, context.eval_ctx))


def _default(node: Any, evaluation: Evaluation) -> Any:
    args, kwargs = _arguments(node, evaluation)
    fallback = args[0] if args else kwargs.get("default_value", "")
    try:
        value = _value(node.node, evaluation)
    except Missing:
        return fallback
    either = args[1] if len(args) > 1 else kwargs.get("boolean", False)
    return fallback if either and not value else value


def _test(node: Any, evaluation: Evaluation) -> Any:
    if node.name in ("defined", "undefined"):
        try:
            _value(node.node, evaluation)
        except Missing:
            return node.name == "undefined"
        return node.name == "defined"
    value = _value(node.node, evaluation)
    args, kwargs = _arguments(node, evaluation)
    context = _context()
    return context.environment.call_test(node.name, value, args, kwargs, context, context.eval_ctx)


@lru_cache(maxsize=1)
def _context() -> Context:
    return Context(environment(), {}, None, {})


def _settled(value: Any) -> Any:
    if isinstance(value, GeneratorType | map | filter | zip):
        value = list(value)
    parts = [value, *(value if isinstance(value, list) else ())]
    parts += [inner for part in parts[1:] if isinstance(part, tuple) for inner in part]
    for part in parts:
        if isinstance(part, Undefined):
            name = part._undefined_name
            raise Missing(f"not every item has `{name}`" if name else "the value asked for does not exist")
    if isinstance(value, str) and type(value) not in (str, Output):
        return str.__str__(value)
    return exact(value)


def _binary(node: Any, evaluation: Evaluation) -> Any:
    left, right = _value(node.left, evaluation), _value(node.right, evaluation)
    operator = node.operator
    for side, value in ((node.left, left), (node.right, right)):
        if value is None:
            raise EvaluationError(f"{'.'.join(chain_of(side)) or 'a value'} is null: `{operator}` has no result")
    if operator == "*":
        _bound_product(left, right)
    if operator == "**" and (abs(right) > 1000 or abs(left) > 10**30):
        raise EvaluationError("a power that large is not reckoned")
    if operator == "%" and isinstance(left, str):
        raise EvaluationError("`%` works on numbers; use `~` to join text")
    if operator == "/" and isinstance(left, int) and isinstance(right, int):
        left = Decimal(left)
    result = exact(_BINARY[operator](exact(left), exact(right)))
    if isinstance(result, int) and result.bit_length() > MAX_BITS:
        raise EvaluationError(f"a number of more than {MAX_BITS} bits")
    return result


def _bound_product(left: Any, right: Any) -> None:
    sequence: Any = right if isinstance(left, int) else left
    count: Any = left if isinstance(left, int) else right
    if isinstance(sequence, str | list | tuple) and isinstance(count, int) and len(sequence) * count > MAX_REPEAT:
        raise EvaluationError(f"a repetition longer than {MAX_REPEAT}")


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "**": lambda a, b: a**b,
}


def _compare(node: Any, evaluation: Evaluation) -> Any:
    left_node, left = node.expr, _value(node.expr, evaluation)
    for operand in node.ops:
        right = _value(operand.expr, evaluation)
        if not evaluation.nulls:
            _refuse_nulls(operand.op, (left_node, left), (operand.expr, right))
        if not _COMPARE[operand.op](exact(left), exact(right)):
            return False
        left_node, left = operand.expr, right
    return True


def _refuse_nulls(operator: str, *sides: tuple[nodes.Node, Any]) -> None:
    """In a condition a null is neither equal nor unequal to anything, unless null itself is written beside it."""
    if any(isinstance(node, nodes.Const) and node.value is None for node, _ in sides):
        return
    for side, value in sides[:1] if operator in ("in", "notin") else sides:
        shown = ".".join(chain_of(side)) or "a value"
        if value is None:
            raise EvaluationError(f"{shown} is null: a comparison with it is neither true nor false (use `is none`)")
        if isinstance(value, Decimal) and value.is_nan():
            raise EvaluationError(f"{shown} is not a number (NaN)")


_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "lteq": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "gteq": lambda a, b: a >= b,
    "in": lambda a, b: a in b,
    "notin": lambda a, b: a not in b,
}


def _truth(node: nodes.Node, evaluation: Evaluation) -> bool:
    """Whether an operand is true; in a condition only true and false are either."""
    value = _value(node, evaluation)
    if not evaluation.nulls and not isinstance(value, bool):
        shown = ".".join(chain_of(node)) or "an operand"
        raise EvaluationError(f"{shown} is {brief(value)}, neither true nor false")
    return bool(value)


def _and(node: Any, evaluation: Evaluation) -> Any:
    if evaluation.nulls:
        left = _value(node.left, evaluation)
        return _value(node.right, evaluation) if left else left
    return _truth(node.left, evaluation) and _truth(node.right, evaluation)


def _or(node: Any, evaluation: Evaluation) -> Any:
    if evaluation.nulls:
        left = _value(node.left, evaluation)
        return left if left else _value(node.right, evaluation)
    return _truth(node.left, evaluation) or _truth(node.right, evaluation)


def _condition(node: Any, evaluation: Evaluation) -> Any:
    if _truth(node.test, evaluation):
        return _value(node.expr1, evaluation)
    if node.expr2 is None:
        raise Missing("the condition is false and there is no `else`")
    return _value(node.expr2, evaluation)


def _sequence(node: Any, evaluation: Evaluation) -> list[Any]:
    return [_value(item, evaluation) for item in node.items]


def _dict(node: Any, evaluation: Evaluation) -> dict[Any, Any]:
    return {_value(pair.key, evaluation): _value(pair.value, evaluation) for pair in node.items}


def _concat(node: Any, evaluation: Evaluation) -> str:
    return "".join(as_text(_value(part, evaluation)) for part in node.nodes)


_HANDLERS: dict[type[nodes.Node], Callable[[Any, Evaluation], Any]] = {
    nodes.Const: _const,
    nodes.Name: _name,
    nodes.Getattr: _getattr,
    nodes.Getitem: _getitem,
    nodes.Call: _call,
    nodes.Filter: _filter,
    nodes.Test: _test,
    nodes.Compare: _compare,
    nodes.And: _and,
    nodes.Or: _or,
    nodes.Not: lambda node, evaluation: not _truth(node.node, evaluation),
    nodes.CondExpr: _condition,
    nodes.List: _sequence,
    nodes.Tuple: _sequence,
    nodes.Dict: _dict,
    nodes.Concat: _concat,
    nodes.Neg: lambda node, evaluation: -_value(node.node, evaluation),
    nodes.Pos: lambda node, evaluation: +_value(node.node, evaluation),
    **dict.fromkeys((nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow), _binary),
}
