"""Scales of plots: where a value lies, in percent of the width or height, and which round values are marked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

LARGEST = 1e15  # what is larger is told in tables only
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_SECONDS = (
    *(1, 2, 5, 10, 15, 30, _MINUTE, 2 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE),
    *(_HOUR, 2 * _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY, 2 * _DAY, 7 * _DAY, 14 * _DAY),
    *(30 * _DAY, 90 * _DAY, 180 * _DAY, 365 * _DAY),
)


class Tick(NamedTuple):
    """A marked value and what stands beside it."""

    value: float
    label: str


class Axis(NamedTuple):
    """A scale from `low` to `high`, which differ."""

    low: float
    high: float
    ticks: Sequence[Tick]

    def share(self, value: float) -> float:
        """Where `value` lies between the ends, from 0 to 1."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


def plottable(value: Any) -> float | None:
    """`value` as a number of a plot; None where it is none, or too large for one."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    if isinstance(value, float | Decimal) and not Decimal(value).is_finite():
        return None
    return float(value) if -LARGEST <= value <= LARGEST else None


def number_axis(values: Iterable[float], *, zero: bool = False, wanted: int = 4, whole: bool = False) -> Axis:
    """A scale over `values` between round numbers; `zero` is on it where that is asked for."""
    found = [*values, *([0.0] if zero else [])] or [0.0]
    low, high = min(found), max(found)
    if high - low <= max(abs(high) * 1e-12, 1e-10):
        margin = abs(high) * 0.1 if abs(high) > 1e-9 else 1.0
        low, high = (low, high + margin) if zero and low == 0 else (low - margin, high + margin)
    step = round_step((high - low) / wanted)
    step = max(step, 1.0) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [Tick(index * step, number_label(index * step, step)) for index in range(first, last + 1)]
    return Axis(ticks[0].value, ticks[-1].value, ticks)


def round_step(raw: float) -> float:
    """The smallest of 1, 2, 5 and their tenfolds that is not below `raw`, which is above 0."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))


def number_label(value: float, step: float) -> str:
    """A round number, as short as its step allows."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 10 * size or (abs(value) >= size and step >= size / 10):
            return f"{_decimals(value / size, step / size)}{unit}"
    return _decimals(value, step)


def _decimals(value: float, step: float) -> str:
    if value == 0:
        return "0"
    places = max(0, -math.floor(math.log10(step) + 1e-9)) if step < 1 else 0
    text = f"{value:.{places}f}"
    return text.lstrip("-") if float(text) == 0 else text


def seconds_axis(longest: float, wanted: int = 4) -> Axis:
    """A scale of lengths of time from 0; it ends where the longest does."""
    if longest <= 0:
        return Axis(0.0, 1.0, [Tick(0.0, "0")])
    raw = longest / wanted
    step = round_step(raw) if raw < 1 else next((float(size) for size in _SECONDS if size >= raw), round_step(raw))
    count = int(longest / step + 1e-9)
    return Axis(0.0, longest, [Tick(i * step, _length(i * step, step)) for i in range(count + 1)])


def _length(seconds: float, step: float) -> str:
    if seconds == 0:
        return "0"
    if step < _MINUTE:
        return f"{_decimals(seconds, step)} s"
    if step < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.0f} h" if step < _DAY else f"{seconds / _DAY:.0f} d"


def time_axis(moments: Sequence[float], wanted: int = 5) -> Axis:
    """A scale over moments (seconds since the epoch); its marks are whole hours or days of UTC."""
    low, high = (min(moments), max(moments)) if moments else (0.0, 1.0)
    if high - low < 1:
        low, high = low - 1, high + 1
    raw = (high - low) / wanted
    step = next((size for size in _SECONDS if size >= raw), 365 * _DAY)
    origin = _origin(low, step)
    found = [origin + index * step for index in range(math.ceil((high - origin) / step) + 1)]
    return Axis(low, high, [Tick(at, _moment(at, step)) for at in found if low <= at <= high])


def _origin(low: float, step: int) -> float:
    """Where counting starts: the day's beginning, or the month's for steps of days."""
    day = datetime.fromtimestamp(low, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return (day.replace(day=1) if step > _DAY else day).timestamp()


def _moment(at: float, step: int) -> str:
    moment = datetime.fromtimestamp(at, UTC)
    if step >= _DAY:
        return moment.strftime("%Y-%m-%d")
    if step >= 6 * _HOUR:
        return moment.strftime("%m-%d %H:%M")
    return moment.strftime("%H:%M" if step >= _MINUTE else "%H:%M:%S")


def seconds_of(text: str | None) -> float | None:
    """A record's moment in seconds since the epoch; None where there is none."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    if not 1970 <= moment.year < 9990:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
