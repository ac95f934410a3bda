"""A comparison on a terminal: its table as wide as the terminal is, the grid, and what is the same and what differs."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import click

from runbook.cli.listing import COLOURS
from runbook.cli.terminal import fit
from runbook.language.values import as_text
from runbook.records.comparison import Comparison
from runbook.records.comparison_words import (
    MEASURED,
    VERSION,
    Words,
    cells,
    common,
    counted,
    differences,
    extremes,
    grid,
    headings,
    reasons,
    title,
    warnings,
)
from runbook.records.markdown import visible

NARROWEST = 40  # characters of a line, however narrow the terminal
_GAP = 2  # blanks between columns
_LEAST = 9  # characters that a column is cut to before one is left out
_CUT_HASH = 12  # characters of a hash that people look at
Style = Callable[[str, str], str]
_WHOLE = {"verdict": 0, "took": 1, "attempts": 1, "run": 3}  # columns that are never cut, and their ranks
_OUTCOME = 2  # the rank of metrics and postconditions
_ELSEWHERE = "--json, --csv and --html have it"
_CUT = f"what ends with … is cut for want of room; {_ELSEWHERE}"


class _Column(NamedTuple):
    """One column. The highest `rank` is left out first; what is `whole` is never cut; numbers stand to the right."""

    heading: str
    cells: list[Words]
    width: int
    rank: int
    whole: bool
    numeric: bool


def account_here(found: Comparison) -> Iterator[str]:
    """The lines for people: in colour and cut to its width where standard output is a terminal."""
    terminal = sys.stdout.isatty()
    room = max(shutil.get_terminal_size().columns, NARROWEST) if terminal else 0
    return account(found, room, coloured=terminal and "NO_COLOR" not in os.environ)


def account(found: Comparison, room: int, *, coloured: bool) -> Iterator[str]:
    """The lines for people, each of at most `room` characters; 0 is as long as it takes."""
    colour = _style if coloured else _unstyled
    yield from _wrapped(visible(title(found)), room)
    yield from _wrapped(visible(counted(found)), room)
    yield from _wrapped(visible(extremes(found)), room)
    for warning in warnings(found):
        yield from (colour(line, "skipped") for line in _wrapped(f"note: {visible(warning)}", room))
    yield ""
    rows = [cells(found, row) for row in found.rows]
    heads = headings(found)
    yield from _table(heads, rows, {**_WHOLE, **dict.fromkeys(found.varied, 0)}, room, colour)
    yield from _reasons(found, room, colour)
    square = grid(found)
    if square:
        yield from ("", *_wrapped(visible(square.caption), room))
        heads = [square.corner, *(words.text for words in square.columns)]
        yield from _table(heads, square.rows, {square.corner: 0}, room, colour)
    yield from _section("circumstances that differ", [f"{what}: {told}" for what, told in differences(found)], room)
    yield from _section("the same in all", list(_same(found)), room)


def _reasons(found: Comparison, room: int, colour: Style) -> Iterator[str]:
    """Why runs did not pass: a line each, cut where it is longer than the terminal is wide."""
    told = [(visible(row.id), row.verdict, visible(why)) for row, why in reasons(found)]
    if not told:
        return
    ids, words = (max(len(item[index]) for item in told) for index in (0, 1))
    yield from ("", "why runs did not pass")
    whole = True
    for run_id, verdict, why in told:
        line = f"  {run_id.ljust(ids)}  {verdict.ljust(words)}  {why}"
        whole = whole and (not room or len(line) <= room)
        yield colour(fit(line, room) if room else line, verdict)
    if not whole:
        yield from _wrapped(_CUT, room)


def _same(found: Comparison) -> Iterator[str]:
    """What the runs have in common: params, what was measured, the run's own circumstances, versions; a line each."""
    told = {what: _short(what, as_text(held)) for what, held in common(found)}
    prefixes = {"measured": MEASURED, "versions": VERSION}
    parts: dict[str, list[str]] = {"params": [], "measured": [], "": [], "versions": []}
    for what, text in told.items():
        if what in found.same["params"]:
            parts["params"].append(f"{what}={text}")
            continue
        group = next((name for name, prefix in prefixes.items() if what.startswith(prefix)), "")
        parts[group].append(f"{what.removeprefix(prefixes.get(group, ''))} {text}")
    for group, names in parts.items():
        if names:
            yield f"{group}: {', '.join(names)}" if group else ", ".join(names)


def _short(what: str, text: str) -> str:
    return f"{text[:_CUT_HASH]}…" if what == "runbook sha256" and len(text) > _CUT_HASH else text


def _section(heading: str, lines: Sequence[str], room: int) -> Iterator[str]:
    if lines:
        yield from ("", heading)
        for line in lines:
            yield from _wrapped(f"  {visible(line)}", room)


def _wrapped(text: str, room: int) -> list[str]:
    """A sentence in lines of `room` characters; 0 is as long as it takes."""
    if not room or len(text) <= room:
        return [text] * bool(text)
    indent = text[: len(text) - len(text.lstrip())]
    return textwrap.wrap(text.strip(), room, initial_indent=indent, subsequent_indent=f"{indent}  ")


# --- tables -------------------------------------------------------------------------------------------------------


def _table(
    heads: Sequence[str], rows: Sequence[Sequence[Words]], ranks: Mapping[str, int], room: int, colour: Style
) -> Iterator[str]:
    """A table in `room` characters (0: as wide as it is); what is cut or left out for want of room is told below it."""
    columns = [
        _column(head, [row[index] for row in rows], ranks.get(head, _OUTCOME)) for index, head in enumerate(heads)
    ]
    kept, left = _narrowed(columns, room)
    gap = " " * _GAP
    yield gap.join(_padded(_middle(column.heading, column.width), column) for column in kept).rstrip()
    for number in range(len(rows)):
        line = [column.cells[number] for column in kept]
        told = [_padded(fit(words.text, column.width), column) for words, column in zip(line, kept, strict=True)]
        yield gap.join(colour(text, words.kind) for text, words in zip(told, line, strict=True)).rstrip()
    if left:
        names = ", ".join(column.heading for column in columns if column in left)
        yield from _wrapped(f"not shown for want of room: {names}; {_ELSEWHERE}", room)
    if any(
        len(text) > column.width for column in kept for text in (column.heading, *(item.text for item in column.cells))
    ):
        yield from _wrapped(_CUT, room)


def _column(heading: str, found: Sequence[Words], rank: int) -> _Column:
    shown = [Words(visible(words.text), words.kind) for words in found]
    head = visible(heading)
    width = max(len(text) for text in (head, *(words.text for words in shown)))
    numeric = bool(shown) and all(words.kind == "number" or words.text == "–" for words in shown)
    return _Column(head, shown, width, rank, heading in _WHOLE, numeric)


def _narrowed(columns: Sequence[_Column], room: int) -> tuple[list[_Column], list[_Column]]:
    """The columns that fit, the widest made narrower, and those that are left out: the last first."""
    kept, left = list(columns), list[_Column]()
    while room and _total([min(column.width, column.width if column.whole else _LEAST) for column in kept]) > room:
        if len(kept) == 1:
            break
        spare = max(reversed(kept), key=lambda column: column.rank)
        kept.remove(spare)
        left.append(spare)
    while room and _total([column.width for column in kept]) > room:
        widest = max((column for column in kept if not column.whole), key=lambda column: column.width, default=None)
        if widest is None or widest.width <= _LEAST:
            break
        kept[kept.index(widest)] = widest._replace(width=widest.width - 1)
    return kept, left


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _padded(text: str, column: _Column) -> str:
    return text.rjust(column.width) if column.numeric else text.ljust(column.width)


def _middle(text: str, width: int) -> str:
    """A heading in so many characters: without its middle, for its beginning and its end tell most."""
    half = width // 2
    return text if len(text) <= width else f"{text[: width - half - 1]}…{text[-half:]}"


def _style(text: str, kind: str) -> str:
    """A text in the colour of a verdict."""
    colours = {**COLOURS, "queued": "cyan", "running": "cyan", "unknown": "magenta", "skipped": "yellow"}
    return click.style(text, fg=colours[kind]) if kind in colours else text


def _unstyled(text: str, kind: str) -> str:
    return text
