"""The drawings of one run: predicted beside actual, before and after, the timeline, and the metrics while it ran."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runbook.engine.record import ExpectationDoc, Record
from runbook.language.values import as_text
from runbook.records.pages.axes import Axis, number_axis, plottable, seconds_axis, seconds_of
from runbook.records.pages.marks import (
    Chart,
    Mark,
    Plot,
    Row,
    Rows,
    bar,
    below,
    beside,
    dot,
    line,
    path,
    shape_of,
    sign,
)
from runbook.records.pages.shown import actual_text, allowed, length, predicted_text, signed

MAX_LINES = 80
MAX_POINTS = 240
MAX_CHARTS = 24
LOW = 150  # pixels: height of a chart


# --- predicted beside actual --------------------------------------------------------------------------------------


OF_PREDICTIONS = "Bar and stroke: predicted, with its tolerance. Point: actual. Each line has a scale of its own."


def predictions(expectations: Mapping[str, ExpectationDoc], caption: str = OF_PREDICTIONS) -> Rows | None:
    """One small scale a metric: the predicted band, and the measured point on it. None where nothing was predicted."""
    rows = [_prediction(name, item) for name, item in list(expectations.items())[:MAX_LINES]]
    left = len(expectations) - len(rows)
    return Rows(caption, rows, left) if rows else None


def _prediction(name: str, item: ExpectationDoc) -> Row:
    predicted, actual = predicted_text(item), actual_text(item)
    verdict = item["verdict"] or "not judged"
    told = (
        f"predicted {predicted}, actual {actual}" if item["predicted"] is not None else f"{predicted}, actual {actual}"
    )
    what = "value afterwards" if item.get("of") == "after" else "change"
    plot = Plot(f"{name}, {what}: {told}, {verdict}", "", 40, _band(item))
    return Row(name, plot, told, verdict)


def _band(item: ExpectationDoc) -> list[Mark]:
    low, high, middle = _expected(item)
    actual = plottable(item["actual"])
    known = [value for value in (low, high, middle, actual) if value is not None]
    if not known:
        return [line(0, 13, 1, 13, "grid")]
    change = item.get("of") != "after"
    if change and not any(known):
        known += [-1.0, 1.0]
    axis = number_axis(known, zero=change, whole=all(value == int(value) for value in known))
    marks = below(axis, 24, 0, zero=0.0)
    if low is not None or high is not None:
        start = 0.0 if low is None else axis.share(low)
        end = 1.0 if high is None else axis.share(high)
        marks.append(bar(start, end, 5, 16, "band"))
    if middle is not None:
        marks.append(line(axis.share(middle), 2, axis.share(middle), 24, "predicted"))
    if actual is not None:
        marks.append(sign(axis.share(actual), 13, item["verdict"] or ""))
    return marks


def _expected(item: ExpectationDoc) -> tuple[float | None, float | None, float | None]:
    """The ends of what is right, and the predicted number itself; None where there is none."""
    predicted: Any = item["predicted"]
    if isinstance(predicted, Mapping):
        return plottable(predicted.get("at_least")), plottable(predicted.get("at_most")), None
    middle, margin = plottable(predicted), plottable(allowed(item))
    if middle is None or margin is None:
        return None, None, middle
    return middle - margin, middle + margin, middle


# --- before and after ---------------------------------------------------------------------------------------------


def changes(record: Record) -> list[Rows]:
    """One figure a state, over one scale: from where to where each metric went."""
    states = list(dict.fromkeys([*record["before"], *record["after"]]))
    return [figure for state in states[:MAX_CHARTS] if (figure := _changes(record, state))]


def _changes(record: Record, state: str) -> Rows | None:
    before, after = record["before"].get(state) or {}, record["after"].get(state) or {}
    metrics = list(dict.fromkeys([*before, *after]))
    known = [value for side in (before, after) for value in map(plottable, side.values()) if value is not None]
    if not known:
        return None
    axis = number_axis(known, zero=True)
    delta = record["delta"].get(state, {})
    rows = [
        _change(metric, before.get(metric), after.get(metric), delta.get(metric), axis)
        for metric in metrics[:MAX_LINES]
    ]
    rows.append(_scale(axis))
    legend = "Ring: before. Disc: after." if after else "Ring: before. Nothing was measured afterwards."
    return Rows(f"{state}. {legend}", rows, len(metrics) - len(rows) + 1)


def _scale(axis: Axis) -> Row:
    """The last line of a figure: what its scale is."""
    return Row("", Plot("", "", 18, below(axis, 3, 0)), "")


def _change(metric: str, before: Any, after: Any, delta: Any, axis: Axis) -> Row:
    first, last = plottable(before), plottable(after)
    marks = [line(axis.share(tick.value), 0, axis.share(tick.value), 26, "grid") for tick in axis.ticks]
    if first is not None and last is not None:
        marks.append(line(axis.share(first), 13, axis.share(last), 13, "way"))
    if first is not None:
        marks.append(dot(axis.share(first), 13, "ring", 5))
    if last is not None:
        marks.append(dot(axis.share(last), 13, "disc", 4))
    told = f"{_known(before)} → {_known(after)}" + (f" ({signed(delta)})" if delta is not None else "")
    return Row(metric, Plot(f"{metric}: before {_known(before)}, after {_known(after)}", "", 26, marks), told)


def _known(value: Any) -> str:
    return "not known" if value is None else as_text(value)


# --- timeline -----------------------------------------------------------------------------------------------------


def timeline(record: Record) -> Rows | None:
    """When the stages and the attempts of steps began and ended, over one scale of time."""
    spans = record["timeline"]
    starts = [at for at in (seconds_of(span["at"]) for span in spans) if at is not None]
    if not starts:
        return None
    run = record["run"]
    ends = [at for at in (seconds_of(span["until"]) for span in spans) if at is not None]
    origin = min([*starts, *filter(None, [seconds_of(run["started_at"])])])
    last = max([*starts, *ends, *filter(None, [seconds_of(run["finished_at"])])])
    axis = seconds_axis(last - origin, wanted=6)
    several = {span["step"] for span in spans if span.get("attempt", 0) > 1}
    rows = [row for span in spans[:MAX_LINES] if (row := _span(span, origin, last, axis, several))]
    rows.append(_scale(axis))
    legend = "A dashed bar, or a stroke at the end: no end is known." if len(ends) < len(spans) else ""
    return Rows("Stages, and the attempts of steps", rows, len(spans) - len(spans[:MAX_LINES]), legend)


def _span(span: Mapping[str, Any], origin: float, last: float, axis: Axis, several: set[str]) -> Row | None:
    at, until = seconds_of(span["at"]), seconds_of(span["until"])
    if at is None:
        return None
    start, end = at - origin, (last if until is None else until) - origin
    attempt = span["what"] == "attempt"
    name = span["step"] if attempt else span["name"].replace("_", " ")
    label = f"{name}, attempt {span['attempt']}" if attempt and span["step"] in several else name
    verdict = span.get("verdict", "") if attempt else ""
    took = "end not seen" if until is None else length(round(end - start, 3))
    marks = [line(axis.share(tick.value), 0, axis.share(tick.value), 26, "grid") for tick in axis.ticks]
    kind = f"span v-{shape_of(verdict)}" if attempt else "span stage"
    marks.append(bar(axis.share(start), axis.share(end), 6, 14, f"{kind}{' open' if until is None else ''}"))
    if end - start < (axis.high - axis.low) / 200:
        marks.append(line(axis.share(start), 5, axis.share(start), 21, "instant"))
    words = f"{'step ' if attempt else 'stage '}{label}: begins at {round(start, 3):g} s, {took}"
    return Row(label, Plot(f"{words}{', ' + verdict if verdict else ''}", "", 26, marks), took, verdict, int(attempt))


# --- the metrics while it ran -------------------------------------------------------------------------------------


def progress(record: Record) -> list[Chart]:
    """One curve a metric: what was measured beside the run, between before and after, with what was predicted."""
    series: dict[str, list[tuple[float, float | None]]] = {}
    for part in record["progress"]:
        for moment, values in part["samples"]:
            for name, value in values.items():
                at = plottable(moment)
                if at is not None:
                    series.setdefault(name, []).append((at, plottable(value)))
    return [_curve(record, f"progress-{index}", name, points) for index, (name, points) in enumerate(series.items())][
        :MAX_CHARTS
    ]


def _curve(record: Record, key: str, name: str, samples: list[tuple[float, float | None]]) -> Chart:
    item = record["expectations"].get(name)
    first, last = _ends(record, name)
    points = [*first, *thinned(samples), *last]
    low, high, middle = _level(item, first[0][1] if first else None) if item else (None, None, None)
    known = [value for value in (low, high, middle, *(value for _, value in points)) if value is not None]
    across, up = seconds_axis(max(at for at, _ in points)), number_axis(known)
    marks = [*beside(up, LOW), *below(across, LOW, LOW - 4)]
    if low is not None or high is not None:
        top = (1 - up.share(high if high is not None else up.high)) * LOW
        foot = (1 - up.share(low if low is not None else up.low)) * LOW
        marks.append(bar(0, 1, top, max(foot - top, 0.5), "band"))
    if middle is not None:
        marks.append(line(0, (1 - up.share(middle)) * LOW, 1, (1 - up.share(middle)) * LOW, "predicted"))
    placed = [None if value is None else (across.share(at), (1 - up.share(value)) * LOW) for at, value in points]
    marks.append(path(placed, LOW, "curve"))
    if len(samples) <= 60:
        marks += [dot(place[0], place[1], "sample", 2) for place in placed if place]
    marks += _final(last, across, up, (item or {}).get("verdict") or "")
    return Chart(
        key,
        name,
        Plot(f"{name} during the run", _told(record, name, item, samples), LOW + 20, marks),
        _told(record, name, item, samples),
    )


def _final(last: Sequence[tuple[float, float | None]], across: Axis, up: Axis, verdict: str) -> Iterator[Mark]:
    for at, value in last:
        if value is not None:
            yield sign(across.share(at), (1 - up.share(value)) * LOW, verdict)


def thinned(samples: Sequence[Any]) -> list[Any]:
    """At most MAX_POINTS of the samples, evenly, with the first and the last."""
    if len(samples) <= MAX_POINTS:
        return list(samples)
    return [samples[round(index * (len(samples) - 1) / (MAX_POINTS - 1))] for index in range(MAX_POINTS)]


def _ends(record: Record, name: str) -> tuple[list[tuple[float, float | None]], list[tuple[float, float | None]]]:
    """The before and the after value, each at the time of its snapshot; empty where it was not measured."""
    state, _, metric = name.partition(".")
    before = plottable((record["before"].get(state) or {}).get(metric))
    after = plottable((record["after"].get(state) or {}).get(metric))
    stages = {span["name"]: seconds_of(span["at"]) for span in record["timeline"] if span["what"] == "stage"}
    origin, later = seconds_of(record["run"]["started_at"]), stages.get("postconditions")
    moment = later - origin if later is not None and origin is not None else plottable(record["run"]["duration"])
    first: list[tuple[float, float | None]] = [] if before is None else [(0.0, before)]
    return first, [] if after is None or moment is None else [(max(moment, 0.0), after)]


def _level(item: ExpectationDoc, before: float | None) -> tuple[float | None, float | None, float | None]:
    """What is predicted as values of the metric: a predicted change counts from before."""
    expected = _expected(item)
    if item.get("of") == "after":
        return expected
    if before is None:
        return None, None, None
    low, high, middle = (None if value is None else value + before for value in expected)
    return low, high, middle


def _told(record: Record, name: str, item: ExpectationDoc | None, samples: Sequence[Any]) -> str:
    state, _, metric = name.partition(".")
    sides = ((record["before"].get(state) or {}).get(metric), (record["after"].get(state) or {}).get(metric))
    count = f"{len(samples)} {'sample' if len(samples) == 1 else 'samples'}"
    predicted = ""
    if item and item["predicted"] is not None:
        what = "afterwards" if item.get("of") == "after" else "as change"
        predicted = f", predicted {what}: {predicted_text(item)}"
    return f"Before {_known(sides[0])}, after {_known(sides[1])}{predicted}; {count}."


def samples_left(record: Record) -> int:
    """How many metrics have no curve for want of room."""
    names = {name for part in record["progress"] for _, values in part["samples"] for name in values}
    return max(0, len(names) - MAX_CHARTS)
