"""A comparison in words: the cells of its table and of its grid, what is the same and what differs, and all of it as markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from runbook.engine.record import CheckDoc, ExpectationDoc
from runbook.language.values import Absent, as_text, dumps, to_data
from runbook.records.comparison import NO_RECORD, Comparison, Row, decides, most_telling, order, short_result
from runbook.records.evidence import NOTHING
from runbook.records.markdown import code, plain, table
from runbook.records.pages.shown import actual_text, cut, length, predicted_text

MARKS = {"passed": "✓", "refuted": "✗", "unknown": "?"}
SIGNS = {**MARKS, "failed": "✗", "blocked": "■", "errored": "?", "cancelled": "■", "lost": "?", NO_RECORD: "?"}
LONGEST = 120  # characters of a value in a table
LONGEST_REASON = 400  # characters of why a run ended as it did
VERSION = "version of "  # what stands before the name of a program
MEASURED = "measured "  # what stands before the name of a metric
_VALUES = 6  # values of one circumstance that are told
_NAMES = 12  # runs that are told by name


class Words(NamedTuple):
    """What stands in one cell. `kind` is code for a value as somebody gave it, number, or the verdict that colours it."""

    text: str
    kind: str = ""


class Grid(NamedTuple):
    """Two params against each other: `corner` names them, `columns` are values of the second, each row begins with one of the
    first. `caption` says what the cells tell.
    """

    caption: str
    corner: str
    columns: list[Words]
    rows: list[list[Words]]


def value(found: Any) -> Words:
    """A param's value; `–` where there is none."""
    if isinstance(found, Absent):
        return Words("–")
    if isinstance(found, str | list | dict):
        return Words(cut(as_text(found), LONGEST) or "(empty)", "code")
    return Words(as_text(found), "" if found is None or isinstance(found, bool) else "number")


def change(item: ExpectationDoc | None, of: str = "delta") -> Words:
    """What was measured of a metric, and whether that is as predicted where it was: `+12 ✓`, `+9 ✗ (predicted +12)`, `+3`.

    Where nothing was predicted, what is not `of` the kind that its column has says so: `7 afterwards`.
    """
    if item and "verdict" not in item:
        if item.get("of") == "delta":
            return Words(actual_text(item), "number")
        return value(item["actual"]) if of == "after" else Words(f"{value(item['actual']).text} afterwards")
    if not item or not item.get("verdict"):
        return Words("–")
    verdict = str(item["verdict"])
    if item.get("actual") is None:
        return Words(MARKS.get(verdict, verdict), verdict)
    told = f"{actual_text(item)} {MARKS.get(verdict, verdict)}"
    if verdict == "refuted":
        told += f" (predicted {predicted_text(item)}{'; only warns' if item.get('severity') == 'warn' else ''})"
    return Words(told, verdict)


def outcome(check: CheckDoc | None) -> Words:
    """What a postcondition came to, with what it read where that is short."""
    if not check or not check.get("verdict"):
        return Words("–")
    verdict, result = str(check["verdict"]), short_result(check)
    mark = MARKS.get(verdict, verdict)
    return Words(mark if result is None else f"{cut(as_text(result), LONGEST)} {mark}", verdict)


def verdict_of(row: Row) -> Words:
    """How a run ended, or where it stands, and what kind of run it was if not the real thing."""
    return Words(f"{row.verdict} ({row.how})" if row.how else row.verdict, row.verdict)


def headings(found: Comparison) -> list[str]:
    """What stands above the columns of the table."""
    several = any(row.attempts > 1 for row in found.rows)
    return [
        *found.varied,
        "verdict",
        *found.expectations,
        *found.metrics,
        *found.postconditions,
        "took",
        *["attempts"] * several,
        "run",
    ]


def cells(found: Comparison, row: Row) -> list[Words]:
    """One line of the table."""
    several = any(other.attempts > 1 for other in found.rows)
    return [
        *(value(row.params.get(name, NOTHING)) for name in found.varied),
        verdict_of(row),
        *(change(row.outcome(name)) for name in found.expectations),
        *(change(row.outcome(name), of) for name, of in found.metrics.items()),
        *(outcome(row.postconditions.get(name)) for name in found.postconditions),
        Words("–" if row.duration is None else length(row.duration), "number"),
        *[Words(str(row.attempts), "number")] * several,
        Words(row.id, "code"),
    ]


def placed(found: Comparison) -> dict[tuple[str, str], list[Row]]:
    """The runs by the two values that they stand for; empty unless two params vary and most of their pairs were tried."""
    places: dict[tuple[str, str], list[Row]] = {}
    if len(found.varied) == 2:
        for row in found.rows:
            first, second = (value(row.params.get(name, NOTHING)).text for name in found.varied)
            places.setdefault((first, second), []).append(row)
    firsts, seconds = ({place[index] for place in places} for index in (0, 1))
    fits = len(firsts) > 1 and len(seconds) > 1 and 2 * len(places) > len(firsts) * len(seconds)
    return places if fits else {}


def grid(found: Comparison) -> Grid | None:
    """The verdict and the most telling metric for each pair of values; None where there is no grid."""
    places = placed(found)
    if not places:
        return None
    first, second = found.varied
    shown = most_telling(found)
    down = {words.text: words for row in found.rows if (words := value(row.params.get(first, NOTHING)))}
    known = sorted(found.rows, key=lambda row: order(row.params.get(second, NOTHING)))
    across = {words.text: words for row in known if (words := value(row.params.get(second, NOTHING)))}
    rows = [
        [words, *(_square(shown, places.get((text, other), [])) for other in across)] for text, words in down.items()
    ]
    caption = f"verdict{f' and {shown}' if shown else ''} by {first} and {second}"
    return Grid(caption, f"{first} \\ {second}", list(across.values()), rows)


def _square(shown: str, rows: Sequence[Row]) -> Words:
    """One pair of values: the run that tried it, or the first of them, how many more, and their verdicts where these differ."""
    if not rows:
        return Words("")
    row = rows[0]
    told = " ".join(filter(None, [verdict_of(row).text, _decided(shown, row)]))
    if len(rows) > 1:
        others = dict.fromkeys(other.verdict for other in rows[1:] if other.verdict != row.verdict)
        told += f" and {len(rows) - 1} more" + (f" ({', '.join(others)})" if others else "")
    return Words(told, row.verdict)


def _decided(shown: str, row: Row) -> str:
    """What made a run refuted, by its name unless it is the metric that is shown; of a run that passed, that metric."""
    item = row.outcome(shown)
    if row.verdict == "passed":
        warns = item is not None and item.get("verdict") == "refuted"
        return _brief(item) + (" (only warns)" if warns else "")
    if row.verdict != "refuted" or (item and decides(row, item)):
        return _brief(item) if row.verdict == "refuted" else ""
    for name, other in row.expectations.items():
        if decides(row, other):
            return f"by {name} {_brief(other)}"
    for name, check in row.postconditions.items():
        if decides(row, check):
            return f"by {name} {outcome(check).text}"
    return ""


def _brief(item: ExpectationDoc | None) -> str:
    """What was measured, without what was predicted."""
    told = change(item, "after").text
    return "" if told == "–" else told.partition(" (predicted ")[0]


# --- sentences ----------------------------------------------------------------------------------------------------


def title(found: Comparison) -> str:
    """What is compared."""
    name = f"experiment {found.experiment} of " if found.experiment else "runs of "
    return f"{name}{', '.join(found.runbooks) or 'no runbook'}"


def counted(found: Comparison) -> str:
    """How many runs there are, how they ended, and what varies."""
    runs = f"{len(found.rows)} {'run' if len(found.rows) == 1 else 'runs'}"
    ended = ", ".join(f"{count} {verdict}" for verdict, count in found.counts.items())
    varies = _listed(found.varied)
    what = f"{varies} {'varies' if len(found.varied) == 1 else 'vary'}" if varies else "no param varies"
    return f"{runs}: {ended}; {what}" if ended else f"{runs}; {what}"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def called(found: Comparison, row: Row) -> str:
    """A run by its varied params, or by its id where none varies."""
    told = [f"{name}={value(row.params.get(name, NOTHING)).text}" for name in found.varied]
    return ", ".join(told) or row.id


def extremes(found: Comparison) -> str:
    """Which run was the fastest and which the slowest; empty where fewer than two are comparable."""
    fast, slow = found.fastest, found.slowest
    if fast is None or slow is None:
        return ""
    count = found.counts[fast.verdict]
    one, other = (f"{length(row.duration)} with {called(found, row)}" for row in (fast, slow))
    if fast.duration == slow.duration:
        return f"each of the {count} that {_ended(fast)} took {length(fast.duration)}"
    return f"of the {count} that {_ended(fast)}, the fastest took {one}, the slowest {other}"


def _ended(row: Row) -> str:
    return "passed" if row.verdict == "passed" else "were refuted"


def reasons(found: Comparison) -> Iterator[tuple[Row, str]]:
    """Why runs did not pass: each that is over and did not, and what its record says of it."""
    for row in found.rows:
        of = row.record["run"] if row.record else {}
        if of.get("verdict") not in (None, "passed"):
            yield row, cut(of.get("because") or "its record does not say why", LONGEST_REASON)


def repeated(found: Comparison) -> str:
    """Which params several runs have: `2 runs with n=1`; empty where none do."""
    places: dict[str, list[Row]] = {}
    for row in found.rows:
        if all(name in row.params for name in found.varied):
            place = dumps([to_data(row.params[name]) for name in found.varied])
            places.setdefault(place, []).append(row)
    several = [rows for rows in places.values() if len(rows) > 1]
    told = [f"{len(rows)} runs with {called(found, rows[0]) if found.varied else 'equal params'}" for rows in several]
    left = len(told) - _NAMES
    return ", ".join(told[:_NAMES]) + (f" and {left} other params" if left > 0 else "")


def common(found: Comparison) -> Iterator[tuple[str, Any]]:
    """What is the same in all runs, by name."""
    yield from found.same["params"].items()
    for name, held in found.same.items():
        if name == "measured":
            yield from ((f"{MEASURED}{metric}", change(item).text) for metric, item in held.items())
        elif name == "versions":
            yield from ((f"{VERSION}{what}", text) for what, text in held.items())
        elif name != "params":
            yield {"sha256": "runbook sha256", "git": "git commit"}.get(name, name), held


def differences(found: Comparison) -> Iterator[tuple[str, str]]:
    """What differs beside the params: the circumstance, and which value it had in how many runs."""
    for item in found.differs:
        told = [f"{_known(held)} ({len(ids)} {'run' if len(ids) == 1 else 'runs'})" for held, ids in item.values]
        left = len(told) - _VALUES
        what = item.what if item.section == "circumstances" else f"{item.section}: {item.what}"
        yield what, ", ".join(told[:_VALUES]) + (f" and {left} other values" if left > 0 else "")


def _known(held: Any) -> str:
    return "none" if isinstance(held, Absent) else cut(as_text(held), LONGEST)


def warnings(found: Comparison) -> list[str]:
    """What makes the comparison less than it seems; each a sentence."""
    told = []
    if len(found.runbooks) > 1:
        told.append("These are runs of different runbooks.")
    if found.differs:
        told.append("Not only the params differ between these runs: the circumstances do too.")
    if repeated(found):
        told.append(f"Some runs have the same params: {repeated(found)}.")
    if found.missing:
        left = len(found.missing) - _NAMES
        names = ", ".join(found.missing[:_NAMES]) + (f" and {left} more" if left > 0 else "")
        count = f"{len(found.missing)} {'run' if len(found.missing) == 1 else 'runs'}"
        told.append(f"No record can be read of {count}: {names}.")
    return told


# --- markdown -----------------------------------------------------------------------------------------------------


def markdown(found: Comparison) -> Iterator[str]:
    """The comparison as markdown, line by line; no value can break out of its place."""
    yield from (f"# Comparison of {plain(title(found))}", "", _sentence(counted(found)))
    if extremes(found):
        yield from ("", _sentence(extremes(found)))
    for warning in warnings(found):
        yield from ("", f"**{plain(warning)}**")
    yield ""
    yield from table(list(map(_inert, headings(found))), (_marked(cells(found, row)) for row in found.rows))
    why = [[code(row.id, cell=True), _inert(row.verdict), _inert(told)] for row, told in reasons(found)]
    if why:
        yield from ("", "## Why runs did not pass", "")
        yield from table(["run", "verdict", "because"], why)
    square = grid(found)
    if square:
        yield from ("", f"## {plain(' against '.join(found.varied))}", "", _sentence(square.caption), "")
        head = [_inert(square.corner), *_marked(square.columns)]
        yield from table(head, map(_marked, square.rows))
    yield from _pairs("Circumstances that differ", {what: _inert(told) for what, told in differences(found)})
    yield from _pairs("The same in all runs", {what: code(held, cell=True) for what, held in common(found)})


def _pairs(heading: str, known: Mapping[str, str]) -> Iterator[str]:
    if known:
        yield from ("", f"## {heading}", "")
        yield from table(["what", "value"], ([_inert(what), told] for what, told in known.items()))


def _marked(row: Sequence[Words]) -> list[str]:
    """Cells of a markdown table."""
    return [code(words.text, cell=True) if words.kind == "code" else _inert(words.text) for words in row]


def _sentence(text: str) -> str:
    return f"{plain(text[:1].upper() + text[1:])}."


def _inert(text: str) -> str:
    """Text in a cell, where nothing begins a list and nothing that would is escaped."""
    return re.sub(r"^(\d*)\\([-+.)])", r"\1\2", plain(text))
