"""A comparison in words: the cells of its table and of its grid, what is the same and what differs, and all of it as markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from runbook.engine.record import CheckDoc, ExpectationDoc
from runbook.language.values import Absent, as_text
from runbook.records.comparison import NO_RECORD, Comparison, Row, order, short_result
from runbook.records.evidence import NOTHING
from runbook.records.markdown import code, plain, table
from runbook.records.pages.shown import actual_text, cut, length, predicted_text

MARKS = {"passed": "✓", "refuted": "✗", "unknown": "?"}
SIGNS = {**MARKS, "failed": "✗", "blocked": "■", "errored": "?", "cancelled": "■", "lost": "?", NO_RECORD: "?"}
LONGEST = 120  # characters of a value in a table
VERSION = "version of "  # what stands before the name of a program
_VALUES = 6  # values of one circumstance that are told
_NAMES = 12  # runs that are told by name


class Words(NamedTuple):
    """What stands in one cell. `kind` is code for a value as somebody gave it, number, or the verdict that colours it."""

    text: str
    kind: str = ""


class Grid(NamedTuple):
    """Two params against each other: `corner` names them, `columns` are values of the second, each row begins with one of the
    first.
    """

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


def change(item: ExpectationDoc | None) -> Words:
    """What was measured of an expectation, and whether that is as predicted: `+12 ✓`, `+9 ✗ (predicted +12)`."""
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
        *(change(row.expectations.get(name)) for name in found.expectations),
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
    """The verdict and the first expectation's change for each pair of values; None where there is no grid."""
    places = placed(found)
    if not places:
        return None
    first, second = found.varied
    down = {words.text: words for row in found.rows if (words := value(row.params.get(first, NOTHING)))}
    known = sorted(found.rows, key=lambda row: order(row.params.get(second, NOTHING)))
    across = {words.text: words for row in known if (words := value(row.params.get(second, NOTHING)))}
    rows = [
        [words, *(_square(found, places.get((text, other), [])) for other in across)] for text, words in down.items()
    ]
    return Grid(f"{first} \\ {second}", list(across.values()), rows)


def _square(found: Comparison, rows: Sequence[Row]) -> Words:
    """One pair of values: the run that tried it, or the first of them and how many more."""
    if not rows:
        return Words("")
    row = rows[0]
    told = verdict_of(row).text
    first = change(row.expectations.get(found.expectations[0])).text if found.expectations else "–"
    told += f" {first.partition(' (')[0]}" if first != "–" else ""
    return Words(told + (f" and {len(rows) - 1} more" if len(rows) > 1 else ""), row.verdict)


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


def common(found: Comparison) -> Iterator[tuple[str, Any]]:
    """What is the same in all runs, by name."""
    yield from found.same["params"].items()
    for name, held in found.same.items():
        if name == "versions":
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
    square = grid(found)
    if square:
        yield from ("", f"## {plain(' against '.join(found.varied))}", "")
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
