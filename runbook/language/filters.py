"""Filters and tests beside Jinja's own, and the few of Jinja's that most runbooks use, so that those need not import it."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from runbook.language.values import Identifier, Jsonb, as_text, brief, dumps, to_data


def _identifier(value: Any) -> Identifier:
    return Identifier(tuple(map(as_text, value)) if isinstance(value, list | tuple) else (as_text(value),))


_NOT_GIVEN: Any = object()


def _int(value: Any, default: Any = _NOT_GIVEN, base: int = 10) -> Any:
    """A whole number; what is none is an error unless a default is given."""
    try:
        return int(value, base) if isinstance(value, str) else int(value)
    except (TypeError, ValueError, OverflowError):
        return _default(value, default, "whole number")


def _float(value: Any, default: Any = _NOT_GIVEN) -> Any:
    """A number; what is none is an error unless a default is given."""
    try:
        return Decimal(str(value))
    except ArithmeticError:
        return _default(value, default, "number")


def _default(value: Any, default: Any, wanted: str) -> Any:
    if default is _NOT_GIVEN:
        raise ValueError(f"{brief(value)} is not a {wanted}")
    return default


def _subset(value: Any, other: Any) -> bool:
    return all(item in other for item in value)


def _superset(value: Any, other: Any) -> bool:
    return all(item in value for item in other)


FILTERS: dict[str, Callable[..., Any]] = {
    "count": len,
    "length": len,
    "jsonb": Jsonb,
    "identifier": _identifier,
    "int": _int,
    "float": _float,
    "tojson": lambda value: dumps(to_data(value)),
    "string": as_text,
}
TESTS: dict[str, Callable[..., bool]] = {"none": lambda value: value is None, "subset": _subset, "superset": _superset}
