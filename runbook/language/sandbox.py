"""Jinja's sandbox as this language uses it: its environment, and the filters and tests beside Jinja's own."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runbook.language.values import Identifier, Jsonb, Output, as_text, brief, dumps, to_data


class Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which the attributes of a mapping are its keys and nothing else."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Mapping):
            return self.getitem(obj, attribute)
        if isinstance(obj, Output) and attribute in obj.facts:
            return obj.facts[attribute]
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Mapping):
            return obj[argument] if argument in obj else self.undefined(obj=obj, name=argument)
        return super().getitem(obj, argument)


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


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The one environment. Its statement and comment marks cannot be typed: only `{{ }}` means anything in a field."""
    env = Environment(
        block_start_string="\x01%",
        block_end_string="%\x01",
        comment_start_string="\x01#",
        comment_end_string="#\x01",
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
        cache_size=0,
    )
    env.globals.clear()
    for name in ("random", "safe", "forceescape", "xmlattr", "urlize", "pprint"):
        del env.filters[name]
    env.filters.update(
        jsonb=Jsonb,
        identifier=_identifier,
        int=_int,
        float=_float,
        tojson=lambda value: dumps(to_data(value)),
        string=as_text,
    )
    env.tests.update(subset=_subset, superset=_superset)
    return env
