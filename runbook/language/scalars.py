"""What one scalar means: the core schema of YAML 1.2, and nothing of YAML 1.1."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import yaml

Scalar = str | int | float | bool | None

# The C scanner where libyaml is there; both give the same events.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MAX_DIGITS = 40

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NUMBER_STARTS = frozenset("0123456789+-.")
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_BASES = {"0x": 16, "0o": 8}
# Neither a program's argument nor PostgreSQL takes these, however they were written.
UNSENDABLE = re.compile("[\0\ud800-\udfff]")


class UnusableNumber(ValueError):
    """A scalar is a number to YAML, but no number to count with; the text says why."""


def events(text: str) -> Iterator[Any]:
    """The parser events of `text`, one at a time. Raises yaml.YAMLError where it is not YAML."""
    return iter(_LOADER(text).get_event, None)


def resolve(text: str) -> Scalar:
    """The value of a plain (unquoted) scalar.

    `012` is 12; `no`, `on`, `1:30`, `12_000`, `0b1` and `2025-12-10` are strings. Raises UnusableNumber for infinity,
    NaN and numbers of more than MAX_DIGITS digits.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_STARTS:
        return text
    if _INTEGER.fullmatch(text):
        return int(_bounded(text), _BASES.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        number = float(_bounded(text))
        if math.isfinite(number):
            return number
    elif not _NO_NUMBER.fullmatch(text):
        return text
    raise UnusableNumber("not a number that a runbook can use")


def _bounded(text: str) -> str:
    if len(text) > MAX_DIGITS:
        digits = len(text) - 2 if text[:2] in _BASES else sum(map(str.isdigit, text))
        if digits > MAX_DIGITS:
            raise UnusableNumber(f"a number of {digits} digits, where at most {MAX_DIGITS} are of use")
    return text


def parse_scalar(text: str) -> Scalar:
    """The value of one scalar from the command line, plain or in quotes; never a list or a mapping, never an error.

    What is neither a YAML word, a usable number nor one whole quoted scalar is the text itself, as it stands.
    """
    stripped = text.strip(" \t\r\n")
    if stripped[:1] in ("'", '"'):
        inside = _unquoted(stripped)
        return text if inside is None else inside
    try:
        value = resolve(stripped)
    except UnusableNumber:
        return text
    return text if isinstance(value, str) else value


def _unquoted(text: str) -> str | None:
    """What the quoted scalar `text` says, or None if it is not exactly one."""
    try:
        found: list[Any] = list(islice(events(text), 5))
    except (yaml.YAMLError, ValueError):
        return None
    if not isinstance(found[-1], yaml.StreamEndEvent) or not isinstance(found[2], yaml.ScalarEvent):
        return None
    inside, end = str(found[2].value), found[2].end_mark
    return inside if end and end.index == len(text) and not UNSENDABLE.search(inside) else None
