"""Shell scripts as text: how a value stands at each place of a script, so that it is always one word.

The quoting rules are those of POSIX (Shell Command Language, 2.2, 2.6 and 2.7.4).
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Quoting = Literal["bare", "double", "single", "comment", "heredoc", "arithmetic", "escaped"]
_HEREDOC = re.compile(r"<<(-?)[ \t]*(?:'([^'\n]+)'|\"([^\"\n]+)\"|\\?([^\s;&|<>()]+))")


class _Level(NamedTuple):
    """One open construct: what closes it, and how words inside it are quoted."""

    closes: str
    quoting: Quoting


def quotings(script: str, offsets: list[int]) -> list[Quoting]:
    """For each of the ascending `offsets` into `script`, the quoting that is in force there."""
    found: list[Quoting] = []
    levels = [_Level("", "bare")]
    heredocs: list[tuple[str, bool]] = []
    position = 0
    for offset in offsets:
        escaped = False
        while position < offset:
            escaped = script[position] == "\\" and position + 1 == offset and levels[-1].quoting in ("bare", "double")
            position = _advance(script, position, levels, heredocs, offset)
        quoting = "heredoc" if position > offset else levels[-1].quoting
        found.append("escaped" if escaped and quoting in ("bare", "double") else quoting)
    return found


def _advance(script: str, position: int, levels: list[_Level], heredocs: list[tuple[str, bool]], limit: int) -> int:
    """The position after the next piece of the script; a here-document is passed over whole."""
    level, char = levels[-1], script[position]
    if char == "\n" and heredocs and level.quoting != "single":
        if level.quoting == "comment":
            levels.pop()
        return _pass_heredocs(script, position + 1, heredocs)
    if level.quoting == "comment":
        if char == "\n":
            levels.pop()
        return position + 1
    if char == "\\" and level.quoting != "single":
        return min(position + 2, limit)
    if level.closes and script.startswith(level.closes, position):
        levels.pop()
        return position + len(level.closes)
    if level.quoting == "single":
        return position + 1
    return _open(script, position, levels, heredocs)


_OPENINGS: tuple[tuple[str, _Level], ...] = (
    ("$((", _Level("))", "arithmetic")),
    ("$(", _Level(")", "bare")),
    ("${", _Level("}", "double")),
    ("`", _Level("`", "bare")),
    ('"', _Level('"', "double")),
)


def _open(script: str, position: int, levels: list[_Level], heredocs: list[tuple[str, bool]]) -> int:
    quoted = levels[-1].quoting == "double"
    for opening, level in _OPENINGS:
        if script.startswith(opening, position):
            inner = _Level("}", "double" if quoted else "bare") if opening == "${" else level
            levels.append(inner)
            return position + len(opening)
    if quoted:
        return position + 1
    char = script[position]
    if char == "'":
        levels.append(_Level("'", "single"))
    elif char == "(":
        levels.append(_Level(")", levels[-1].quoting))
    elif char == "#" and (position == 0 or script[position - 1] in " \t\n;&|()"):
        levels.append(_Level("", "comment"))
    elif char == "<" and levels[-1].quoting == "bare":
        match = _HEREDOC.match(script, position)
        if match:
            heredocs.append((match[2] or match[3] or match[4], bool(match[1])))
            return match.end()
    return position + 1


def _pass_heredocs(script: str, position: int, heredocs: list[tuple[str, bool]]) -> int:
    while heredocs:
        word, tabs = heredocs.pop(0)
        while position < len(script):
            end = script.find("\n", position)
            end = len(script) if end < 0 else end
            line, position = script[position:end], end + 1
            if (line.lstrip("\t") if tabs else line) == word:
                break
    return min(position, len(script))
