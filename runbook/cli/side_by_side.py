"""Two values beside each other, line by line, on a terminal."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from runbook.cli.terminal import fit
from runbook.language.values import Absent, as_text
from runbook.records.markdown import visible

NARROWEST, WIDEST = 80, 160  # characters of a line
_NAMES = 56
_HASH = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{20,}\b")


class Line(NamedTuple):
    """One line: what it is about, and the two values as people read them.

    `kind` colours the second value, and the name too where a `mark` stands before it.
    """

    what: str
    left: str
    right: str
    kind: str = ""
    mark: str = ""


def shown(value: Any) -> str:
    """A value for people, inert; hashes are cut, `-` stands where there is none."""
    if isinstance(value, Absent):
        return "-"
    return _HASH.sub(r"\1…", visible(as_text(value)))


def table(lines: Sequence[Line], style: Callable[[str, str], str], *, indent: int = 2) -> Iterator[str]:
    """The lines in columns, as wide as the terminal allows; `style` colours a text by its kind."""
    width = min(max(shutil.get_terminal_size((120, 24)).columns, NARROWEST), WIDEST) - indent
    most = min(_NAMES, width // 2)
    first = min(max((len(_name(line)) for line in lines), default=0), most)
    room = (width - first - 6) // 2
    pairs = [_fitted(line.left, line.right, room) for line in lines]
    second = max((len(left) for left, _ in pairs), default=0)
    for line, (left, right) in zip(lines, pairs, strict=True):
        name = f"{_middle(_name(line), most):<{first}}"
        if line.kind:
            name, right = style(name, line.kind) if line.mark else name, style(right, line.kind)
        yield f"{' ' * indent}{name}   {left:<{second}} → {right}".rstrip()


def _name(line: Line) -> str:
    return f"{line.mark} {visible(line.what)}" if line.mark else visible(line.what)


def _fitted(left: str, right: str, room: int) -> tuple[str, str]:
    """Two texts cut to `room`, from where they begin to differ if that is further on."""
    if max(len(left), len(right)) > room:
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))
        start = max(alike - 12, 0)
        if start and alike > room - 8:
            left, right = f"…{left[start:]}", f"…{right[start:]}"
    return fit(left, room), fit(right, room)


def _middle(text: str, room: int) -> str:
    """A name without its middle, if it is too long: its beginning and its end tell most."""
    return text if len(text) <= room else f"{text[: room // 2 - 1]}…{text[-(room // 2) :]}"
