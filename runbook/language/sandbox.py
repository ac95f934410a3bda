"""Jinja's sandbox as this language uses it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runbook.language.filters import FILTERS, TESTS
from runbook.language.values import Output


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
    env.filters.update(FILTERS)
    env.tests.update(TESTS)
    return env
