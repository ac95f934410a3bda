"""The values that expressions see, and the plain data that records hold.

Records hold JSON's types with exact numbers: None, bool, int, Decimal, str, list and dict with string keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

MAX_TEXT = 64 * 1024
MAX_ITEMS = 1000


class Jsonb(NamedTuple):
    """Marks a value that goes to SQL as jsonb."""

    value: Any


class Identifier(NamedTuple):
    """Marks names that go to SQL as a quoted identifier, qualified where there are several."""

    names: tuple[str, ...]

    def quoted(self) -> str:
        return ".".join('"' + name.replace('"', '""') + '"' for name in self.names)


class Absent(NamedTuple):
    """Stands where a fact is missing: using it is an error with this reason, or null where `null` says so.

    `later` says that the fact is only not known yet.
    """

    because: str
    null: bool = False
    later: bool = False


class Output(str):
    """The standard output of a command as text, with its exit code and streams as attributes."""

    facts: Mapping[str, Any]

    def __new__(cls, text: str, facts: Mapping[str, Any]) -> Output:
        output = super().__new__(cls, text)
        output.facts = facts
        return output


def exact(value: Any) -> Any:
    """A float as the decimal that it prints as; everything else unchanged."""
    return Decimal(repr(value)) if type(value) is float else value


def to_data(value: Any) -> Any:
    """`value` as a record holds it: exact, bounded, and made of JSON's types only."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float | Decimal):
        number = exact(value)
        return number if number.is_finite() else str(number)
    if isinstance(value, Absent):
        return None
    if isinstance(value, Jsonb):
        return to_data(value.value)
    if isinstance(value, Identifier):
        return value.quoted()
    if isinstance(value, Mapping):
        return {as_text(key): to_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_data(item) for item in list(value)[:MAX_ITEMS]]
    return _text(as_text(value))


def whole(value: Any) -> Any:
    """`value` exact and made of JSON's types like `to_data`, but of any length: what is to be acted on, not only recorded."""
    if isinstance(value, Mapping):
        return {as_text(key): whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [whole(item) for item in value]
    return value if isinstance(value, str) else to_data(value)


def _text(value: str) -> str:
    text = value.encode("utf-8", "backslashreplace").decode() if not value.isascii() else str(value)
    dropped = len(text) - MAX_TEXT
    return text if dropped <= 0 else f"{text[:MAX_TEXT]}… ({dropped} more characters)"


def as_text(value: Any) -> str:
    """`value` as text stands in a command, a message or a URL."""
    if isinstance(value, str):
        return str(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float | Decimal):
        return _plain(exact(value))
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return duration_text(value.total_seconds())
    if isinstance(value, bytes | bytearray | memoryview):
        return "\\x" + bytes(value).hex()
    if isinstance(value, Jsonb | Identifier | Mapping | list | tuple | set | frozenset):
        return dumps(to_data(value))
    return str(value)


def _plain(number: Decimal) -> str:
    return format(number, "f") if number.is_finite() and -30 < number.adjusted() < 30 else str(number)


def duration_text(seconds: float) -> str:
    """A length of time for people: `0.4 s`, `12.3 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def dumps(data: Any) -> str:
    """`data` (as `to_data` gives it) as JSON on one line, ASCII only, decimals digit by digit."""
    if isinstance(data, str):
        return encode_basestring_ascii(data)
    if data is None or isinstance(data, bool):
        return {None: "null", True: "true", False: "false"}[data]
    if isinstance(data, int):
        return int.__repr__(data)
    if isinstance(data, float | Decimal):
        return _json_number(exact(data))
    if isinstance(data, Mapping):
        return "{" + ", ".join(f"{encode_basestring_ascii(str(k))}: {dumps(v)}" for k, v in data.items()) + "}"
    return "[" + ", ".join(map(dumps, data)) + "]"


def _json_number(number: Decimal) -> str:
    return str(number).replace("E+", "E") if number.is_finite() else f'"{number}"'


def loads(text: str | bytes) -> Any:
    """JSON text as data, fractions exact; raises ValueError."""
    return json.loads(text, parse_float=Decimal)


def brief(value: Any, limit: int = 60) -> str:
    """`value` on one line for a message: strings in quotes, long ones cut."""
    text = dumps(to_data(value))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
