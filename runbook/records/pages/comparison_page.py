"""The page of a comparison: all runs in a table, two params against each other, and each outcome against each param."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from runbook.engine.judge import number
from runbook.language.values import as_text
from runbook.records.comparison import Comparison, Row, order
from runbook.records.comparison_words import (
    Grid,
    Words,
    called,
    cells,
    common,
    counted,
    differences,
    extremes,
    grid,
    headings,
    reasons,
    title,
    value,
    warnings,
)
from runbook.records.evidence import NOTHING
from runbook.records.pages.axes import Axis, number_axis, number_label, plottable, seconds_axis
from runbook.records.pages.document import anchor, relative, render, to_anchor
from runbook.records.pages.marks import (
    SHAPES,
    SIGNS,
    Chart,
    Mark,
    Plot,
    beside,
    dot,
    line,
    path,
    percent,
    shape_of,
    sign,
)
from runbook.records.pages.shown import Cell, Table, actual_text, cell, cut, length, predicted_text

HEIGHT = 150  # pixels
MAX_RUNS = 1000
MAX_CHARTS = 24
_LABELS = 44  # characters that stand below a plot on a phone
_FAR = 100  # from the smallest to the largest value; from there on a scale is logarithmic
_MANY = 24  # categories that are told by name below a plot


class Scale(NamedTuple):
    """Where the runs stand by the param `name`: `places` by run id, from 0 to 1. `told` is what a reader must know of it."""

    name: str
    places: Mapping[str, float]
    ticks: Sequence[tuple[float, str]]
    told: str
    ordered: bool


class Point(NamedTuple):
    """What one run came to: `value` is None where there is a gap, `expected` what was predicted where that is a number."""

    row: Row
    value: float | None
    told: str
    verdict: str
    expected: float | None = None


def comparison_page(found: Comparison, hrefs: Mapping[str, str]) -> str:
    """One HTML document about a comparison, complete in itself. `hrefs` has the page of each run that has one, by run id.

    Raises ValueError where a link is neither a relative path nor a fragment.
    """
    shown = found._replace(rows=found.rows[:MAX_RUNS])
    links = {row.id: relative(hrefs.get(row.id, "")) or to_anchor(row.id) for row in shown.rows}
    charts = _charts(shown, links)
    square = grid(shown)
    return render(
        "comparison.html.j2",
        title=_capital(title(found)),
        counted=f"{_capital(counted(found))}.",
        extremes=_capital(extremes(found)),
        warnings=warnings(found),
        signs=SIGNS,
        key=[(verdict, count, _symbol(verdict)) for verdict, count in found.counts.items()],
        table=_table(shown, links),
        left=len(found.rows) - len(shown.rows),
        why=_reasons(shown, links),
        grid=square and _grid(square),
        charts=charts[:MAX_CHARTS],
        charts_left=max(0, len(charts) - MAX_CHARTS),
        differs=_pairs("Circumstances that differ, and in how many runs", differences(found)),
        same=_pairs("The same in all runs", common(found)),
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _symbol(verdict: str) -> Mark:
    """The shape that a verdict has in the plots."""
    kind = f"point v-{shape_of(verdict)}" + ("" if verdict in SHAPES else " hollow")
    return Mark("path", {"d": SHAPES.get(verdict, SHAPES["passed"]), "class": kind})


# --- tables -------------------------------------------------------------------------------------------------------


def _table(found: Comparison, links: Mapping[str, str]) -> Table:
    rows = [_cells(found, row, links) for row in found.rows]
    names = {*found.varied, *found.expectations, *found.metrics, *found.postconditions}
    heads = [head if head in names else _capital(head) for head in headings(found)]
    return Table("All runs, by the params that vary", heads, rows, anchors=[anchor(row.id) for row in found.rows])


def _cells(found: Comparison, row: Row, links: Mapping[str, str]) -> list[Cell]:
    every = cells(found, row)
    first = len(found.varied)
    told = [_param(row.params.get(name, NOTHING)) for name in found.varied]
    told.append(Cell(row.verdict, "verdict", note=row.how))
    told += [Cell(words.text, words.kind if words.kind == "number" else "brief") for words in every[first + 1 : -1]]
    return [*told, Cell(row.id, "code", links[row.id])]


def _param(held: Any) -> Cell:
    return Cell("–") if held is NOTHING else cell(held)


def _reasons(found: Comparison, links: Mapping[str, str]) -> Table | None:
    rows = [
        [Cell(row.id, "code", links[row.id]), Cell(row.verdict, "verdict"), Cell(why)] for row, why in reasons(found)
    ]
    return Table("Why runs did not pass", ["Run", "Verdict", "Because"], rows) if rows else None


def _grid(square: Grid) -> Table:
    told = [[Cell(row[0].text, "brief"), *(_square(words) for words in row[1:])] for row in square.rows]
    return Table(_capital(square.caption), [square.corner, *(words.text for words in square.columns)], told)


def _square(words: Words) -> Cell:
    """A verdict in its colour; what was measured stands beside it."""
    if not words.kind:
        return Cell("–")
    return Cell(words.kind, "verdict", note=words.text.removeprefix(words.kind).strip())


def _pairs(caption: str, known: Iterator[tuple[str, Any]]) -> Table | None:
    rows = [[Cell(cut(what)), cell(held)] for what, held in known]
    return Table(caption, ["What", "Value"], rows) if rows else None


# --- scales -------------------------------------------------------------------------------------------------------


def scale(found: Comparison, name: str) -> Scale | None:
    """Where the runs stand by one param: on a numeric scale where all values are numbers, else beside each other."""
    known = {row.id: row.params[name] for row in found.rows if name in row.params}
    if not known:
        return None
    numbers = {run_id: plottable(held) for run_id, held in known.items()}
    if all(at is not None for at in numbers.values()):
        return _numeric(name, {run_id: at for run_id, at in numbers.items() if at is not None})
    return _categories(name, known)


def _numeric(name: str, numbers: Mapping[str, float]) -> Scale:
    low, high = min(numbers.values()), max(numbers.values())
    if low > 0 and high / low >= _FAR:
        return _logarithmic(name, numbers)
    axis = number_axis(numbers.values(), whole=all(at == int(at) for at in numbers.values()))
    ticks = [(_inset(axis.share(tick.value)), tick.label) for tick in axis.ticks]
    return Scale(name, {run_id: _inset(axis.share(at)) for run_id, at in numbers.items()}, ticks, "", True)


def _inset(share: float) -> float:
    """A place that leaves room for a point at either end."""
    return 0.03 + 0.94 * share


def _logarithmic(name: str, numbers: Mapping[str, float]) -> Scale:
    low, high = (math.log10(end(numbers.values())) for end in (min, max))
    places = {run_id: _inset((math.log10(at) - low) / (high - low)) for run_id, at in numbers.items()}
    tenfolds = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
    ticks = [(_inset((power - low) / (high - low)), number_label(10.0**power, 10.0**power)) for power in tenfolds]
    return Scale(name, places, ticks, "The scale across is logarithmic.", True)


def _categories(name: str, known: Mapping[str, Any]) -> Scale:
    """Values side by side; where their names have no room, their numbers, which the text below explains."""
    distinct = {value(held).text: held for held in sorted(known.values(), key=order)}
    names = list(distinct)
    middle = {text: (index + 0.5) / len(names) for index, text in enumerate(names)}
    room = all(len(text) <= _LABELS // len(names) - 1 for text in names)
    ticks = [(middle[text], text if room else str(index)) for index, text in enumerate(names, 1)]
    told = "; ".join(f"{index}: {cut(text, 60)}" for index, text in enumerate(names[:_MANY], 1))
    left = f"; and {len(names) - _MANY} more" if len(names) > _MANY else ""
    places = {run_id: middle[value(held).text] for run_id, held in known.items()}
    return Scale(name, places, ticks, "" if room else f"Across, {told}{left}.", False)


# --- plots --------------------------------------------------------------------------------------------------------


def _charts(found: Comparison, links: Mapping[str, str]) -> list[Chart]:
    """Each metric and the duration against each param that varies."""
    charts: list[Chart | None] = []
    for index, name in enumerate(found.varied):
        across = scale(found, name)
        if across is None:
            continue
        for number_of, metric in enumerate([*found.expectations, *found.metrics]):
            key = f"chart-{index}-{number_of}"
            charts.append(_metric(found, metric, across, links, key))
        charts.append(_durations(found, across, links, f"chart-{index}-duration"))
    return [chart for chart in charts if chart is not None]


def _metric(found: Comparison, metric: str, across: Scale, links: Mapping[str, str], key: str) -> Chart | None:
    of = {item.get("of") for row in found.rows if (item := row.outcome(metric))}
    kind = found.metrics.get(metric, "delta")
    points = [_point(row, metric, kind) for row in found.rows if row.id in across.places]
    known = [at for point in points for at in (point.value, point.expected) if at is not None]
    if not any(point.value is not None for point in points):
        return None
    low, high = min(known), max(known)
    zero = low <= 0 or high - low > 0.4 * high
    up = number_axis(known, zero=zero, whole=all(at == int(at) for at in known))
    told = ["Ring: predicted." if any(point.expected is not None for point in points) else ""]
    told.append("" if zero else f"The scale starts at {up.ticks[0].label}, not at 0.")
    what = f"{metric} afterwards" if of == {"after"} else f"Change of {metric}"
    return _chart(found, (key, f"{what} against {across.name}"), points, across, up, told, links)


def _point(row: Row, metric: str, of: str) -> Point:
    """What one run came to, where that is its change or, of `after`, its value."""
    item = row.outcome(metric)
    if not item or item.get("actual") is None or ("verdict" not in item and item.get("of") != of):
        return Point(row, None, "not measured", row.verdict)
    if "verdict" not in item:
        return Point(row, plottable(number(item["actual"])), f"{actual_text(item)}, {row.verdict}", row.verdict)
    verdict = str(item.get("verdict") or "")
    told = f"{as_text(item['actual'])}, predicted {predicted_text(item)}, {verdict}"
    return Point(row, plottable(item["actual"]), told, verdict, plottable(number(item.get("predicted"))))


def _durations(found: Comparison, across: Scale, links: Mapping[str, str], key: str) -> Chart | None:
    points = [
        Point(row, plottable(row.duration), f"{length(row.duration)}, {row.verdict}", row.verdict)
        for row in found.rows
        if row.id in across.places
    ]
    known = [point.value for point in points if point.value is not None]
    if not known:
        return None
    up = seconds_axis(max(known) * 1.05)
    return _chart(found, (key, f"Duration against {across.name}"), points, across, up, [], links)


def _chart(
    found: Comparison,
    named: tuple[str, str],
    points: Sequence[Point],
    across: Scale,
    up: Axis,
    told: Sequence[str],
    links: Mapping[str, str],
) -> Chart:
    key, caption = named
    drawn = [point for point in points if point.value is not None]
    gaps = len(found.rows) - len(drawn)
    missing = f"{gaps} {'run has' if gaps == 1 else 'runs have'} no value." if gaps else ""

    def high(at: float) -> float:
        return (1 - up.share(at)) * HEIGHT

    marks = [*beside(up, HEIGHT), *_below(across)]
    curves = list(_curves(found, drawn, across, high)) if across.ordered else []
    marks += curves
    above = sorted(drawn, key=lambda point: point.verdict != "passed")  # what missed lies on top of what did not
    marks += [_drawn(found, point, across, high, links) for point in above]
    joined = "A line joins runs that are alike in all else that varies." if curves and len(found.varied) > 1 else ""
    words = " ".join(part for part in (*told, joined, across.told, missing) if part)
    name = f"{caption}, of {len(drawn)} {'run' if len(drawn) == 1 else 'runs'}"
    return Chart(key, caption, Plot(name, words, HEIGHT + 20, marks), words, len(drawn))


def _below(across: Scale) -> Iterator[Mark]:
    """Marked places of the scale across; labels that would meet are left out."""
    last = -1.0
    for x, label in across.ticks:
        yield line(x, HEIGHT - 4, x, HEIGHT, "grid")
        if last < 0 or x - last >= max(0.08, (len(label) + 2) / (_LABELS + 2)):
            end = "start" if x < 0.03 else "end" if x > 0.97 else "middle"
            place: dict[str, str | float] = {"x": percent(x), "y": HEIGHT + 13, "text-anchor": end, "class": "tick"}
            yield Mark("text", place, label)
            last = x


def _curves(
    found: Comparison, points: Sequence[Point], across: Scale, high: Callable[[float], float]
) -> Iterator[Mark]:
    """A line through the runs that are alike in every param but the one across."""
    series: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        place = across.places[point.row.id]
        others = [as_text(point.row.params.get(name)) for name in found.varied if name != across.name]
        series.setdefault("\n".join(others), []).append((place, high(point.value or 0.0)))
    for places in series.values():
        if len({x for x, _ in places}) == len(places) > 1:
            yield path(sorted(places), HEIGHT, "curve thin")


def _drawn(
    found: Comparison, point: Point, across: Scale, high: Callable[[float], float], links: Mapping[str, str]
) -> Mark:
    """One run, in the shape and the colour of its verdict."""
    x, y = across.places[point.row.id], high(point.value or 0.0)
    inside = [dot(x, y, "hit", 9)]
    if point.expected is not None:
        inside += [line(x, high(point.expected), x, y, "stem"), dot(x, high(point.expected), "ring", 3.5)]
    inside.append(sign(x, y, point.verdict))
    return Mark("g", {}, "", inside, links[point.row.id], f"{called(found, point.row)}: {point.told}")
