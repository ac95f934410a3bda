"""How far a run has come: the way of each metric from its before value to its predicted one, rates, and the time left.

Everything here is computed from what is known; nothing is read. Times are seconds since the epoch by the clock of the run,
lengths are seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from statistics import median
from typing import Any, NamedTuple, TypedDict

from runbook.engine.judge import Number, allowance, number
from runbook.language.model import Tolerance
from runbook.watch.story import Story

WINDOW = 60.0  # seconds over which a rate is taken, at least
CHANGES = 5  # changes of value that a rate is taken over, at least
SLOWEST = 60.0  # seconds between two measurements at most, unless they themselves are slow
RESTRAINT = 10  # a measurement takes at most one part in so many of the time


class Sample(NamedTuple):
    """What was measured at one moment: numbers by metric, `postings.summaries`."""

    at: float
    values: Mapping[str, Number]


class BarDoc(TypedDict):
    """One expectation's way from `before` to `aim`: the value that is predicted, or the bound that is not met yet, else None.

    `standing` is unpredicted, unmeasured, under way, reached, past, astray (the other way), within, unchanged or moved.
    `fraction` is the share of the way, or of the room that bounds leave; `rate` counts per minute; `eta` is None where
    the aim is not being approached.
    """

    name: str
    step: str | None
    of: str
    before: Number | None
    now: Number | None
    aim: Number | None
    predicted: Any
    tolerance: Any
    standing: str
    fraction: float | None
    rate: float | None
    eta: float | None
    verdict: str | None


class MetricDoc(TypedDict):
    """A metric that nothing is predicted of."""

    name: str
    before: Number | None
    now: Number | None
    change: Number | None


class EarlierDoc(TypedDict):
    """What earlier passed runs of the same runbook took; `remaining` is below zero where this one takes longer."""

    runs: int
    median: float
    remaining: float


# --- the way of a metric --------------------------------------------------------------------------------------------


class Goal(NamedTuple):
    """The values that would be right, from `low` to `high` (None: without end), and the one to reach, if it is not there yet."""

    low: Decimal | None
    high: Decimal | None
    aim: Decimal | None

    def allows(self, value: Number) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


def goal_of(item: Mapping[str, Any], before: Number) -> Goal:
    """What an expectation, as records hold it, means for the metric itself, whose value was `before`."""
    base = Decimal(before) if item["of"] == "delta" else Decimal(0)
    predicted = item["predicted"]
    if not isinstance(predicted, Mapping):
        margin = allowance(predicted, _tolerance(item["tolerance"]))
        return Goal(base + predicted - margin, base + predicted + margin, base + predicted)
    bounds: dict[str, Decimal] = {name: base + bound for name, bound in predicted.items()}
    low, high = bounds.get("at_least"), bounds.get("at_most")
    if low is not None and before < low:
        return Goal(low, high, low)
    return Goal(low, high, high if high is not None and before > high else None)


def _tolerance(text: Any) -> Tolerance | None:
    if text is None:
        return None
    share = isinstance(text, str) and text.endswith("%")
    return Tolerance(Decimal(str(text).removesuffix("%")), share)


def standing(goal: Goal, before: Number, now: Number) -> str:
    """Where `now` stands on the way from `before` to the goal."""
    moved = Decimal(now) - Decimal(before)
    if goal.aim is None:
        return "within" if goal.allows(now) else "past"
    ahead = goal.aim - before
    if not ahead:
        return "unchanged" if not moved else "within" if goal.allows(now) else "moved"
    if moved * ahead < 0:
        return "astray"
    if goal.allows(now) and moved:
        return "reached"
    return "past" if abs(moved) > abs(ahead) else "under way"


def bar(
    name: str, step: str | None, item: Mapping[str, Any], before: Any, points: Sequence[tuple[float, Number]]
) -> BarDoc:
    """One expectation beside what is known of its metric: (time, value), oldest first, the before value being the first."""
    now = points[-1][1] if len(points) > 1 else None
    start = number(before)
    facts: BarDoc = {
        "name": name,
        "step": step,
        "of": item["of"],
        "before": start,
        "now": now,
        "aim": None,
        "predicted": item["predicted"],
        "tolerance": item["tolerance"],
        "standing": "unpredicted" if item["predicted"] is None else "unmeasured",
        "fraction": None,
        "rate": None,
        "eta": None,
        "verdict": item["verdict"],
    }
    if item["predicted"] is None or start is None:
        return facts
    goal = goal_of(item, start)
    facts["aim"] = goal.aim
    if now is not None:
        facts["standing"] = standing(goal, start, now)
        facts["fraction"] = fraction(goal, start, now)
        facts["rate"] = rate(points)
        facts["eta"] = None if item["verdict"] else eta(goal, now, facts["rate"])
    return facts


def fraction(goal: Goal, before: Number, now: Number) -> float | None:
    """The share of the way, or of the room within the bounds, that is used; None where there is neither."""
    end = goal.aim
    if end is None:
        end = goal.high if now > before or goal.low is None else goal.low
    if end is None or end == before:
        return None
    return float((Decimal(now) - Decimal(before)) / (end - Decimal(before)))


def rate(points: Sequence[tuple[float, Number]]) -> float | None:
    """Change per minute, over the last minute or longer: until enough changes are in it, else since the first point."""
    if len(points) < 2:
        return None
    at, value = points[-1]
    first, changes, seen = points[0], 0, value
    for when, known in reversed(points[:-1]):
        changes, seen = changes + (known != seen), known
        if at - when >= WINDOW and changes >= CHANGES:
            first = (when, known)
            break
    passed = at - first[0]
    return float(value - first[1]) * 60 / passed if passed > 0 else None


def eta(goal: Goal, now: Number, per_minute: float | None) -> float | None:
    """Seconds until the aim is reached at this rate; None where it is not being approached."""
    if goal.aim is None or not per_minute:
        return None
    left = float(goal.aim - Decimal(now)) / per_minute * 60
    return left if left > 0 else None


# --- all of them ----------------------------------------------------------------------------------------------------


def bars(story: Story, samples: Sequence[Sample]) -> list[BarDoc]:
    """Every expectation that was registered, the run's own first."""
    record = story.record
    found = [_bar(story, samples, "", name, item) for name, item in record["expectations"].items()]
    for step, facts in record["steps"].items():
        found += [_bar(story, samples, step, name, item) for name, item in facts.get("expectations", {}).items()]
    return found


def _bar(story: Story, samples: Sequence[Sample], step: str, name: str, item: Mapping[str, Any]) -> BarDoc:
    before = _metric(story.before.get(step), name)
    since = story.begun.get(step) if step else story.entered.get("steps")
    points: list[tuple[float, Number]] = [] if before is None else [(since or story.last, before)]
    actual = number(item["actual"])
    if actual is not None and before is not None:
        until = story.judged.get(step) or story.entered.get("postconditions") or story.last
        points.append((until, actual if item["of"] == "after" else before + actual))
    elif before is not None and since is not None:
        points += [
            (sample.at, sample.values[name]) for sample in samples if name in sample.values and sample.at >= since
        ]
    return bar(name, step or None, item, before, points)


def metrics(story: Story, samples: Sequence[Sample]) -> list[MetricDoc]:
    """The measured metrics that nothing is predicted of."""
    record = story.record
    told = set(record["expectations"]).union(*(facts.get("expectations", {}) for facts in record["steps"].values()))
    names = [f"{state}.{metric}" for state, row in record["before"].items() for metric in row]
    found: list[MetricDoc] = []
    for name in names:
        if name not in told:
            before = _metric(record["before"], name)
            now = _metric(record["after"], name) if record["after"] else latest(samples, name)
            change = None if before is None or now is None else now - before
            found.append({"name": name, "before": before, "now": now, "change": change})
    return found


def _metric(rows: Mapping[str, Any] | None, name: str) -> Number | None:
    state, _, metric = name.partition(".")
    row = (rows or {}).get(state)
    return number(row.get(metric)) if isinstance(row, Mapping) else None


def latest(samples: Sequence[Sample], name: str) -> Number | None:
    """The last value of a metric."""
    return next((sample.values[name] for sample in reversed(samples) if name in sample.values), None)


def time_left(found: Iterable[BarDoc]) -> float | None:
    """How long the slowest expectation that is under way will take; None where one of them cannot be told."""
    going = [
        item for item in found if not item["verdict"] and (item["eta"] or item["standing"] in ("under way", "astray"))
    ]
    known = [item["eta"] for item in going if item["eta"] is not None]
    return max(known) if known and len(known) == len(going) else None


def earlier(durations: Sequence[float], elapsed: float) -> EarlierDoc | None:
    """What the durations of earlier runs say about this one."""
    if not durations:
        return None
    middle = float(median(durations))
    return {"runs": len(durations), "median": middle, "remaining": middle - elapsed}


def pause(interval: float, took: float, failures: int) -> float:
    """Seconds until the next measurement: longer where the last one was slow, and doubling while they fail."""
    waiting = min(interval * float(2 ** min(failures, 20)), max(SLOWEST, interval))
    return max(waiting, RESTRAINT * took)


# --- words ----------------------------------------------------------------------------------------------------------


def span_text(seconds: float) -> str:
    """A length of time in a few characters: `4.2s`, `45s`, `2m 10s`, `1h 12m`, `3d 4h`."""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f}s"
    whole = round(seconds)
    for size, unit, small, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // small:02d}{smaller}"
    return f"{whole}s"


def rate_text(per_minute: float) -> str:
    """A rate for people: `12.5/min`, or per second where it is fast: `40/s`."""
    fast = abs(per_minute) >= 600
    value = per_minute / 60 if fast else per_minute
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 1 else 2
    text = f"{value:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}{'/s' if fast else '/min'}"
