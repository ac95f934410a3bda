"""Evaluation: a walk over an expression's tree, strict about what is missing or null, every operation bounded.

Jinja is imported when a filter, a test or a method is first used; comparing and reckoning need none of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from types import GeneratorType
from typing import TYPE_CHECKING, Any, NamedTuple

from runbook.language.filters import FILTERS, TESTS
from runbook.language.problems import RunbookError, did_you_mean
from runbook.language.values import Absent, Output, as_text, brief, exact

if TYPE_CHECKING:
    from jinja2.runtime import Context

MAX_REPEAT = 1_000_000
MAX_BITS = 4096
Scope = Mapping[str, Any]
Chain = tuple[str, ...]
# A kind and its parts: ("attribute", node, "name"), ("compare", node, (("eq", node), …)). `trees.py` makes them.
Node = tuple[Any, ...]


class EvaluationError(RunbookError):
    """An expression has no value: a name is not known, a value is null, or its types do not fit."""


class Missing(EvaluationError):
    """A name or a key does not exist. `default` and `is defined` catch this one."""


class NotYet(EvaluationError):
    """An expression has no value yet: what it depends on has not been run."""


class Evaluation(NamedTuple):
    """What one walk over a tree needs."""

    scope: Scope
    nulls: bool


def chain_of(node: Node) -> Chain:
    """The dotted name that a node is, or empty."""
    keys: list[str] = []
    while node[0] in ("attribute", "item"):
        key = node[2] if node[0] == "attribute" else node[2][1] if node[2][0] == "constant" else None
        if not isinstance(key, str):
            return ()
        keys.append(key)
        node = node[1]
    return (node[1], *reversed(keys)) if node[0] == "name" else ()


def _shown(node: Node, otherwise: str) -> str:
    return ".".join(chain_of(node)) or otherwise


def follow(chain: Chain, evaluation: Evaluation) -> Any:
    """The value of a dotted name."""
    value = _root(chain[0], evaluation)
    for depth, key in enumerate(chain[1:], 1):
        value = _member(value, key, ".".join(chain[:depth]))
    return present(value)


def _root(name: str, evaluation: Evaluation) -> Any:
    if name not in evaluation.scope:
        raise Missing(f"`{name}` is not known here")
    return evaluation.scope[name]


def _member(value: Any, key: Any, shown: str) -> Any:
    if isinstance(value, Absent):
        if value.null:
            return value
        raise _absence(value)
    if value is None:
        raise EvaluationError(f"{shown or 'the value'} is null and has no `{key}`")
    if isinstance(value, Mapping):
        if key not in value:
            raise Missing(_no_member(value, key, shown))
        return exact(value[key])
    if isinstance(value, list | tuple) and isinstance(key, int) and -len(value) <= key < len(value):
        return exact(value[key])
    return exact(_foreign_member(value, key, shown))


def _foreign_member(value: Any, key: Any, shown: str) -> Any:
    from jinja2 import Undefined

    from runbook.language.sandbox import environment

    found = environment().getattr(value, key) if isinstance(key, str) else environment().getitem(value, key)
    if isinstance(found, Undefined):
        raise Missing(_no_member(value, key, shown))
    return found


def _no_member(value: Any, key: Any, shown: str) -> str:
    message = f"{shown or 'the value'} has no `{key}`"
    if isinstance(value, Mapping):
        hint = did_you_mean(str(key), [str(k) for k in value])
        return f"{message} ({hint})" if hint else message
    return f"{message}: it is {brief(value)}"


def present(value: Any) -> Any:
    """`value`, unless it stands for a fact that is missing."""
    if isinstance(value, Absent):
        if value.null:
            return None
        raise _absence(value)
    return value


def _absence(value: Absent) -> EvaluationError:
    return (NotYet if value.later else EvaluationError)(value.because)


def evaluate(node: Node, evaluation: Evaluation) -> Any:
    """The value of a node; it may be Absent. Raises EvaluationError."""
    handler = _HANDLERS[node[0]]
    try:
        return handler(node, evaluation)
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, AssertionError) as error:
        raise EvaluationError(_reason(error)) from None


def _reason(error: Exception) -> str:
    if isinstance(error, ZeroDivisionError):
        return "division by zero"
    if isinstance(error, InvalidOperation):
        return "not a number can be neither compared nor reckoned with"
    return str(error) or type(error).__name__


def _value(node: Node, evaluation: Evaluation) -> Any:
    value = present(evaluate(node, evaluation))
    if callable(value):
        raise EvaluationError(f"`{_shown(node, 'a value')}` is a method: call it with ()")
    return value


def _slice(node: Node, evaluation: Evaluation) -> Any:
    parts = [None if part is None else _value(part, evaluation) for part in node[2:]]
    return _value(node[1], evaluation)[slice(*parts)]


def _call(node: Node, evaluation: Evaluation) -> Any:
    from runbook.language.sandbox import environment

    _, owner, name, *given = node
    target = _value(owner, evaluation)
    method = _member(target, name, _shown(owner, ""))
    args, kwargs = _arguments(given, evaluation)
    _bound_growth(name, target, args, kwargs)
    if not callable(method) or not environment().is_safe_callable(method):
        raise EvaluationError(f"`{name}` cannot be called")
    return _by_jinja(lambda: method(*args, **kwargs))


def _arguments(given: list[Any], evaluation: Evaluation) -> tuple[list[Any], dict[str, Any]]:
    args, kwargs = given
    return [_value(arg, evaluation) for arg in args], {name: _value(arg, evaluation) for name, arg in kwargs.items()}


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


def _filter(node: Node, evaluation: Evaluation) -> Any:
    _, name, operand, *given = node
    if name in ("default", "d"):
        return _default(node, evaluation)
    value = _value(operand, evaluation)
    args, kwargs = _arguments(given, evaluation)
    if name in FILTERS:
        return exact(FILTERS[name](value, *args, **kwargs))
    _bound_growth(name, value, args, kwargs)
    context = _context()
    return _by_jinja(lambda: context.environment.call_filter(name, value, args, kwargs, context, context.eval_ctx))


def _default(node: Node, evaluation: Evaluation) -> Any:
    args, kwargs = _arguments(list(node[3:]), evaluation)
    fallback = args[0] if args else kwargs.get("default_value", "")
    try:
        value = _value(node[2], evaluation)
    except Missing:
        return fallback
    either = args[1] if len(args) > 1 else kwargs.get("boolean", False)
    return fallback if either and not value else value


def _test(node: Node, evaluation: Evaluation) -> Any:
    _, name, operand, *given = node
    if name in ("defined", "undefined"):
        try:
            _value(operand, evaluation)
        except Missing:
            return name == "undefined"
        return name == "defined"
    value = _value(operand, evaluation)
    args, kwargs = _arguments(given, evaluation)
    if name in TESTS:
        return TESTS[name](value, *args, **kwargs)
    context = _context()
    return _by_jinja(lambda: context.environment.call_test(name, value, args, kwargs, context, context.eval_ctx))


@lru_cache(maxsize=1)
def _context() -> Context:
    from jinja2.runtime import Context

    from runbook.language.sandbox import environment

    return Context(environment(), {}, None, {})


def _by_jinja(action: Callable[[], Any]) -> Any:
    """What a filter, a test or a method gives, its faults translated and its generators run."""
    from jinja2 import TemplateError, Undefined
    from jinja2.exceptions import SecurityError

    try:
        value = action()
        if isinstance(value, GeneratorType | map | filter | zip):
            value = list(value)
    except SecurityError as error:
        raise EvaluationError(f"not allowed here: {error}") from None
    except TemplateError as error:
        raise EvaluationError(str(error)) from None
    parts = [value, *(value if isinstance(value, list) else ())]
    parts += [inner for part in parts[1:] if isinstance(part, tuple) for inner in part]
    for part in parts:
        if isinstance(part, Undefined):
            name = part._undefined_name
            raise Missing(f"not every item has `{name}`" if name else "the value asked for does not exist")
    if isinstance(value, str) and type(value) not in (str, Output):
        return str.__str__(value)
    return exact(value)


def _binary(node: Node, evaluation: Evaluation) -> Any:
    _, operator, left_node, right_node = node
    left, right = _value(left_node, evaluation), _value(right_node, evaluation)
    for side, value in ((left_node, left), (right_node, right)):
        if value is None:
            raise EvaluationError(f"{_shown(side, 'a value')} is null: `{operator}` has no result")
    if operator == "*":
        _bound_product(left, right)
    if operator == "**" and (abs(right) > 1000 or abs(left) > 10**30):
        raise EvaluationError("a power that large is not reckoned")
    if operator == "%" and isinstance(left, str):
        raise EvaluationError("`%` works on numbers; use `~` to join text")
    if operator in ("/", "//", "%") and right == 0:
        raise EvaluationError("division by zero")
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


def _compare(node: Node, evaluation: Evaluation) -> Any:
    left_node, left = node[1], _value(node[1], evaluation)
    for operator, right_node in node[2]:
        right = _value(right_node, evaluation)
        if not evaluation.nulls:
            _refuse_nulls(operator, (left_node, left), (right_node, right))
        if not _COMPARE[operator](exact(left), exact(right)):
            return False
        left_node, left = right_node, right
    return True


def _refuse_nulls(operator: str, *sides: tuple[Node, Any]) -> None:
    """In a condition a null is neither equal nor unequal to anything, unless null itself is written beside it."""
    if any(node == ("constant", None) for node, _ in sides):
        return
    for side, value in sides[:1] if operator in ("in", "notin") else sides:
        shown = _shown(side, "a value")
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


def _truth(node: Node, evaluation: Evaluation) -> bool:
    """Whether an operand is true; in a condition only true and false are either."""
    value = _value(node, evaluation)
    if not evaluation.nulls and not isinstance(value, bool):
        raise EvaluationError(f"{_shown(node, 'an operand')} is {brief(value)}, neither true nor false")
    return bool(value)


def _and(node: Node, evaluation: Evaluation) -> Any:
    if evaluation.nulls:
        left = _value(node[1], evaluation)
        return _value(node[2], evaluation) if left else left
    return _truth(node[1], evaluation) and _truth(node[2], evaluation)


def _or(node: Node, evaluation: Evaluation) -> Any:
    if evaluation.nulls:
        left = _value(node[1], evaluation)
        return left if left else _value(node[2], evaluation)
    return _truth(node[1], evaluation) or _truth(node[2], evaluation)


def _choice(node: Node, evaluation: Evaluation) -> Any:
    _, test, chosen, otherwise = node
    if _truth(test, evaluation):
        return _value(chosen, evaluation)
    if otherwise is None:
        raise Missing("the condition is false and there is no `else`")
    return _value(otherwise, evaluation)


_HANDLERS: dict[str, Callable[[Node, Evaluation], Any]] = {
    "constant": lambda node, evaluation: exact(node[1]),
    "name": lambda node, evaluation: _root(node[1], evaluation),
    "attribute": lambda node, evaluation: _member(evaluate(node[1], evaluation), node[2], _shown(node[1], "")),
    "item": lambda node, evaluation: _member(
        evaluate(node[1], evaluation), _value(node[2], evaluation), _shown(node[1], "")
    ),
    "slice": _slice,
    "call": _call,
    "filter": _filter,
    "test": _test,
    "compare": _compare,
    "and": _and,
    "or": _or,
    "not": lambda node, evaluation: not _truth(node[1], evaluation),
    "choice": _choice,
    "list": lambda node, evaluation: [_value(item, evaluation) for item in node[1]],
    "mapping": lambda node, evaluation: {_value(k, evaluation): _value(v, evaluation) for k, v in node[1]},
    "concat": lambda node, evaluation: "".join(as_text(_value(part, evaluation)) for part in node[1]),
    "negative": lambda node, evaluation: -_value(node[1], evaluation),
    "positive": lambda node, evaluation: +_value(node[1], evaluation),
    "binary": _binary,
}
