"""Values of a record as a page shows them: cells, tables that are cut where they are too long, moments and lengths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from runbook.engine.judge import number
from runbook.engine.record import RunDoc
from runbook.language.values import as_text, duration_text, exact

MAX_ROWS = 100
MAX_COLUMNS = 24
MAX_CELL = 400
MAX_BLOCK = 20_000


class Cell(NamedTuple):
    """One cell: `kind` is text, number, code, verdict or time."""

    text: str
    kind: str = "text"
    href: str = ""
    note: str = ""


class Table(NamedTuple):
    """A table whose first column heads its rows; `left` tells what is not shown of it."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    left: str = ""
    anchors: Sequence[str] = ()


def cut(text: str, limit: int = MAX_CELL) -> str:
    """`text`, and how much of it is not shown."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit} more characters)"


def cell(value: Any, href: str = "") -> Cell:
    """A value as it is: a number as number, text and data as code."""
    if number(value) is not None:
        return Cell(cut(as_text(value)), "number", href)
    if isinstance(value, str) and not value.strip():
        return Cell("(empty)" if not value else f"({len(value)} spaces)")
    return Cell(cut(as_text(value)), "text" if value is None or isinstance(value, bool) else "code", href)


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[Cell]], *, also: str = "") -> Table:
    """A table of the first rows, without the columns that are empty; `also` is what else is not shown."""
    every = list(rows)
    left = len(every) - MAX_ROWS
    told = [f"{left} more {'row' if left == 1 else 'rows'} not shown"] if left > 0 else []
    columns = [_aligned([row[index] for row in every]) for index in range(min(map(len, every), default=0))]
    kept = [index for index, column in enumerate(columns) if index == 0 or any(item.text for item in column)]
    shown = [[columns[index][number] for index in kept] for number in range(min(len(every), MAX_ROWS))]
    return Table(caption, [headings[index] for index in kept], shown, "; ".join(told + ([also] if also else [])))


def _aligned(column: Sequence[Cell]) -> Sequence[Cell]:
    """Numbers stand to the right only where nothing but numbers stands."""
    if all(item.kind == "number" or not item.text for item in column):
        return column
    return [item._replace(kind="text") if item.kind == "number" else item for item in column]


def evidence(caption: str, result: Any, dropped: int = 0) -> Table | None:
    """What a check returned, as a table; None for what is no table."""
    if isinstance(result, Mapping):
        return _of_mapping(caption, result)
    if not isinstance(result, list):
        return None
    also = f"at least {dropped} rows more were not read" if dropped else ""
    if result and all(isinstance(row, Mapping) for row in result[:MAX_ROWS]):
        columns = list(dict.fromkeys(key for row in result[:MAX_ROWS] for key in row))
        hidden = len(columns) - MAX_COLUMNS
        also = "; ".join([f"{hidden} more columns not shown"] * (hidden > 0) + [also] * bool(also))
        columns = columns[:MAX_COLUMNS]
        rows = ([cell(row.get(key) if isinstance(row, Mapping) else row) for key in columns] for row in result)
        return table(caption, columns, rows, also=also)
    return table(caption, ["Value"], ([cell(row)] for row in result), also=also)


def _of_mapping(caption: str, result: Mapping[str, Any]) -> Table:
    if result and all(isinstance(value, Mapping) for value in result.values()):
        columns = list(dict.fromkeys(key for row in result.values() for key in row))
        hidden = len(columns) - MAX_COLUMNS + 1
        columns = columns[: MAX_COLUMNS - 1]
        rows = ([cell(name), *(cell(row.get(key)) for key in columns)] for name, row in result.items())
        return table(caption, ["Name", *columns], rows, also=f"{hidden} more columns not shown" if hidden > 0 else "")
    return pairs(caption, "Name", result)


def pairs(caption: str, heading: str, known: Mapping[str, Any]) -> Table:
    """Names and values."""
    return table(caption, [heading, "Value"], ([Cell(cut(name)), cell(value)] for name, value in known.items()))


def word_of(run: RunDoc) -> tuple[str, str]:
    """The verdict of a run, and the same with what kind of run it was."""
    word = run["verdict"] or ("invalid" if run["exit_code"] == 5 else "unfinished")
    how = " (dry run)" if run["dry_run"] else " (rehearsal)" if run.get("rehearsal") else ""
    return word, word + how


def moment(text: str | None, zone: str = " UTC") -> Cell:
    """A moment of UTC, to the second."""
    try:
        at = datetime.fromisoformat(text or "")
    except ValueError:
        return Cell(text or "not known")
    try:
        at = at.astimezone(UTC) if at.tzinfo else at
    except OverflowError:
        return Cell(text or "not known")
    return Cell(f"{at:%Y-%m-%d %H:%M:%S}{zone}", "time", note=text or "")


def length(seconds: Any) -> str:
    """A length of time."""
    found = number(exact(seconds))
    if found is None:
        return "not known"
    return f"{as_text(found)} s" if 0 <= found < 10 else duration_text(float(found))


def signed(value: Any) -> str:
    """A change, with its sign."""
    found = number(value)
    if found is None:
        return "not known"
    return as_text(found) if found < 0 else f"+{as_text(found)}" if found else "0"


def predicted_text(item: Mapping[str, Any]) -> str:
    """What was predicted, with its sign where it is a change, and its tolerance."""
    predicted = item["predicted"]
    if predicted is None:
        return "not predicted"
    if isinstance(predicted, Mapping):
        return ", ".join(f"{bound.replace('_', ' ')} {as_text(value)}" for bound, value in predicted.items())
    shown = as_text(predicted) if item.get("of") == "after" else signed(predicted)
    return shown if item.get("tolerance") is None else f"{shown} ± {as_text(item['tolerance'])}"


def actual_text(item: Mapping[str, Any]) -> str:
    """What was measured of the predicted quantity."""
    actual = item["actual"]
    if actual is None:
        return "not measured"
    return as_text(actual) if item.get("of") == "after" else signed(actual)


def allowed(item: Mapping[str, Any]) -> Decimal:
    """How far from the predicted number is still right; 0 where the tolerance cannot be read."""
    predicted, tolerance = number(item["predicted"]), item.get("tolerance")
    if predicted is None or tolerance is None:
        return Decimal(0)
    try:
        if isinstance(tolerance, str) and tolerance.strip().endswith("%"):
            return abs(Decimal(predicted)) * Decimal(tolerance.strip()[:-1]) / 100
        return abs(Decimal(tolerance))
    except ArithmeticError:
        return Decimal(0)


def off(item: Mapping[str, Any]) -> Decimal | None:
    """Actual minus predicted; of bounds, how far outside of them. None where one of the two is not known."""
    actual, predicted = number(item["actual"]), item["predicted"]
    if actual is None:
        return None
    if isinstance(predicted, Mapping):
        low, high = number(predicted.get("at_least")), number(predicted.get("at_most"))
        under = Decimal(actual) - Decimal(low) if low is not None and actual < low else Decimal(0)
        return under or (Decimal(actual) - Decimal(high) if high is not None and actual > high else Decimal(0))
    expected = number(predicted)
    return None if expected is None else Decimal(actual) - Decimal(expected)
