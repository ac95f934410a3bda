"""The drawings of many runs over time: durations, metrics, prediction errors. Each point leads to its run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from statistics import median
from typing import Any, NamedTuple

from runbook.engine.judge import number
from runbook.engine.record import ExpectationDoc, Record
from runbook.language.values import as_text
from runbook.records.pages.axes import Axis, Tick, number_axis, plottable, seconds_axis, time_axis
from runbook.records.pages.marks import Chart, Mark, Plot, below, beside, dot, line, path, sign
from runbook.records.pages.shown import actual_text, length, off, predicted_text, signed

HEIGHT = 150  # pixels


class Run(NamedTuple):
    """One run on the page: `at` is when it started, in seconds since the epoch; `words` say when and how it ended."""

    record: Record
    id: str
    verdict: str
    at: float | None
    href: str
    words: str


class Point(NamedTuple):
    """What one run has at its moment: `value` is None where there is a gap; `told` is it in words."""

    run: Run
    value: float | None
    told: str
    verdict: str
    earlier: float | None = None


def durations(runs: Sequence[Run]) -> list[Chart]:
    """How long each run took, from zero; nothing where that is not known of any."""
    points = [
        Point(run, plottable(run.record["run"]["duration"]), length(run.record["run"]["duration"]), run.verdict)
        for run in runs
    ]
    known = [point.value for point in points if point.value is not None and point.run.at is not None]
    if not known:
        return []
    axis = seconds_axis(max(known) * 1.05)
    told = f"Median {length(_rounded(median(known)))}, longest {length(_rounded(max(known)))}.{_gaps(points)}"
    return [_chart("duration", "Duration", points, axis, told, stems=True)]


def _rounded(value: float) -> Decimal:
    return Decimal(repr(round(value, 3)))


def metric_names(records: Sequence[Record]) -> list[str]:
    """All metrics of all runs, in the order in which they are declared."""
    names: dict[str, None] = {}
    for record in records:
        for side in (record["before"], record["after"]):
            for state, row in side.items():
                names.update(dict.fromkeys(f"{state}.{metric}" for metric in row or {}))
    return list(names)


def metrics(runs: Sequence[Run], most: int) -> list[Chart]:
    """The first metrics before and after, over time."""
    names = metric_names([run.record for run in runs])[:most]
    found = (_metric(f"metric-{index}", name, runs) for index, name in enumerate(names))
    return [chart for chart in found if chart is not None]


def _metric(key: str, name: str, runs: Sequence[Run]) -> Chart | None:
    points = [_both(run, name) for run in runs]
    placed = [point for point in points if point.run.at is not None]
    known = [value for point in placed for value in (point.value, point.earlier) if value is not None]
    if not known:
        return None
    low, high = min(known), max(known)
    zero = low <= 0 or high - low > 0.4 * high
    axis = number_axis(known, zero=zero, whole=all(value == int(value) for value in known))
    told = "Ring: before. Point: after." + ("" if zero else f" The scale starts at {axis.ticks[0].label}, not at 0.")
    return _chart(key, name, points, axis, told + _gaps(points))


def _both(run: Run, name: str) -> Point:
    state, _, metric = name.partition(".")
    before, after, delta = (
        (side.get(state) or {}).get(metric) for side in (run.record["before"], run.record["after"], run.record["delta"])
    )
    if before is None and after is None:
        return Point(run, None, "not measured", run.verdict)
    sides = ["not known" if value is None else as_text(value) for value in (before, after)]
    change = "" if delta is None else f" ({signed(delta)})"
    return Point(run, plottable(after), f"before {sides[0]}, after {sides[1]}{change}", run.verdict, plottable(before))


# --- how well do we predict? --------------------------------------------------------------------------------------


class Error(NamedTuple):
    """How far one prediction was off: relative, in percent of what was predicted, or absolute."""

    run: Run
    relative: bool
    value: Decimal
    item: ExpectationDoc


def errors(runs: Sequence[Run], most: int) -> list[Chart]:
    """Actual minus predicted of each metric: in percent where the prediction is not 0, else as a number."""
    series: dict[tuple[str, bool], list[Error]] = {}
    for run in runs:
        for name, item in _predicted(run.record):
            error = _error(run, item)
            if error is not None:
                series.setdefault((name, error.relative), []).append(error)
    found = sorted(series.items(), key=lambda pair: not pair[0][1])[:most]
    return [
        _off(f"error-{index}", name, is_relative, items, runs)
        for index, ((name, is_relative), items) in enumerate(found)
    ]


def _predicted(record: Record) -> Iterator[tuple[str, ExpectationDoc]]:
    yield from record["expectations"].items()
    for step, facts in record["steps"].items():
        for name, item in facts.get("expectations", {}).items():
            yield f"{step}: {name}", item


def _error(run: Run, item: ExpectationDoc) -> Error | None:
    value, predicted = off(item), number(item["predicted"])
    if value is None:
        return None
    if predicted:
        return Error(run, True, value * 100 / abs(Decimal(predicted)), item)
    return Error(run, False, value, item)


def _off(key: str, name: str, is_relative: bool, items: Sequence[Error], runs: Sequence[Run]) -> Chart:
    known = {id(item.run.record): item for item in items}
    points = [_point(run, known.get(id(run.record))) for run in runs]
    values = [point.value for point in points if point.value is not None] or [0.0]
    axis = number_axis(values if any(values) else [-1.0, 1.0], zero=True, wanted=3)
    held = sum(item.item["verdict"] == "passed" for item in items)
    size = _shown(median(abs(item.value) for item in items), is_relative)
    told = f"{held} of {len(items)} held; half were off by {size} or less. 0: exactly as predicted."
    axis = axis._replace(ticks=[Tick(tick.value, f"{tick.label} %") for tick in axis.ticks]) if is_relative else axis
    return _chart(
        key, f"{name}, {'in percent of predicted' if is_relative else 'in numbers'}", points, axis, told, stems=True
    )


def _point(run: Run, error: Error | None) -> Point:
    if error is None:
        return Point(run, None, "not predicted or not measured", run.verdict)
    item = error.item
    size = _shown(error.value, error.relative, sign=True)
    told = f"off by {size}: predicted {predicted_text(item)}, actual {actual_text(item)}"
    return Point(run, plottable(error.value), told, item["verdict"] or "")


def _shown(value: Any, is_relative: bool, *, sign: bool = False) -> str:
    if is_relative:
        return f"{value:{'+' if sign and value else ''}.2f} %" if value else "0 %"
    return signed(value) if sign else as_text(value)


# --- drawing ------------------------------------------------------------------------------------------------------


def _gaps(points: Sequence[Point]) -> str:
    missing = sum(point.value is None for point in points)
    return f" {missing} {'run has' if missing == 1 else 'runs have'} no value: a gap." if missing else ""


def _chart(key: str, caption: str, points: Sequence[Point], up: Axis, told: str, *, stems: bool = False) -> Chart:
    placed = [point for point in points if point.run.at is not None]
    across = time_axis([point.run.at for point in placed if point.run.at is not None])

    def high(value: float) -> float:
        return (1 - up.share(value)) * HEIGHT

    marks = [*beside(up, HEIGHT), *below(across, HEIGHT, HEIGHT - 4)]
    if not stems:
        marks.append(path((_place(point, across, high) for point in placed), HEIGHT, "curve thin"))
    drawn = [point for point in placed if point.value is not None or point.earlier is not None]
    marks += [mark for point in drawn for mark in _drawn(point, across, high, stems)]
    name = f"{caption} of {len(drawn)} {'run' if len(drawn) == 1 else 'runs'} over time"
    return Chart(key, caption, Plot(name, told, HEIGHT + 20, marks), told, len(drawn))


def _place(point: Point, across: Axis, high: Callable[[float], float]) -> tuple[float, float] | None:
    if point.value is None or point.run.at is None:
        return None
    return across.share(point.run.at), high(point.value)


def _drawn(point: Point, across: Axis, high: Callable[[float], float], stems: bool) -> Iterator[Mark]:
    x = across.share(point.run.at or 0.0)
    inside: list[Mark] = []
    top = [value for value in (point.value, point.earlier) if value is not None]
    inside.append(dot(x, high(top[0]), "hit", 9))
    if stems:
        inside.append(line(x, high(0.0), x, high(top[0]), "stem"))
    elif len(top) == 2:
        inside.append(line(x, high(top[1]), x, high(top[0]), "stem"))
    if point.earlier is not None:
        inside.append(dot(x, high(point.earlier), "ring", 3.5))
    if point.value is not None:
        inside.append(sign(x, high(point.value), point.verdict))
    yield Mark("g", {}, "", inside, point.run.href, f"{point.run.words}: {point.told}")
