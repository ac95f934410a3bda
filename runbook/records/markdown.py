"""Markdown in which values are inert: they can add no heading, row, link, image, HTML or fence, and reverse no text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from runbook.language.values import as_text

_SPECIAL = re.compile(r"([\\`*\[\]<|~$@]|(?<![^\W_])_|_(?![^\W_])|&(?=[#\w])|(?<=:)/(?=/)|(?<=www)\.)", re.IGNORECASE)
MAX_CELL = 300
_COMMON = 0x600  # code points whose writing is kept


def visible(text: str, *, keep: str = "") -> str:
    """`text` with control, format and line-separating characters written out, except those in `keep`."""
    if text.isprintable():
        return text
    return text.translate(_table(keep))


class _Table(dict[int, str]):
    """What is written for a character; the common ones are kept, so that gigabytes pass through at speed."""

    def __init__(self, keep: str) -> None:
        self._keep = keep

    def __missing__(self, code: int) -> str:
        char = chr(code)
        found = char if char in self._keep or _is_harmless(char) else _written(char)
        if code < _COMMON:
            self[code] = found
        return found


_table = lru_cache(maxsize=8)(_Table)


def _is_harmless(char: str) -> bool:
    return unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _written(char: str) -> str:
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char) or (
        f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"
    )


def plain(value: Any) -> str:
    """Text as it stands in a heading, a label or a sentence."""
    text = _SPECIAL.sub(r"\\\1", visible(as_text(value)))
    return re.sub(
        r"^(\s*)([-+=>#]|\d+(?=[.)]))", lambda m: m[1] + (m[2] + "\\" if m[2][0].isdigit() else "\\" + m[2]), text
    )


def number(value: Any) -> str:
    """A number as it is; anything else as code."""
    return as_text(value) if isinstance(value, int) and not isinstance(value, bool) else code(value)


def code(value: Any, *, cell: bool = False) -> str:
    """A value as a code span; null and numbers bare. In a table cell the pipes are escaped."""
    if value is None or isinstance(value, bool) or not isinstance(value, str | list | dict):
        return as_text(value)
    text = visible(as_text(value))
    if len(text) > MAX_CELL:
        text = f"{text[:MAX_CELL]}… ({len(text) - MAX_CELL} more characters)"
    if not text.strip():
        return "(empty)" if not text else f"({len(text)} spaces)"
    if cell:
        text = re.sub(r"(\\*)\|", r"\1\1\\|", text)
    fence = "`" * (max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
    pad = " " if text[0] in "` " or text[-1] in "` " else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def block(text: str) -> list[str]:
    """Text of several lines as a fenced block that nothing in it can close."""
    shown = visible(text, keep="\n\t")
    fence = "`" * max(3, max((len(run) for run in re.findall(r"`+", shown)), default=0) + 1)
    return [f"{fence}text", *shown.split("\n"), fence]


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table of cells that are markdown already."""
    lines = [f"| {' | '.join(headings)} |", f"|{'|'.join(' --- ' for _ in headings)}|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]
