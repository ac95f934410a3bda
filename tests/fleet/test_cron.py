"""When schedules come, beside a reading of the clock minute by minute."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook.fleet.cron import next_tick, ticks
from runbook.language.schedules import CronProblem, parse_cron

MINUTE = timedelta(minutes=1)
RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Kathmandu"]
JUMPS = [
    (utc_day - datetime(2024, 1, 1)).days
    for utc_day in (  # the day before a clock of ZONES jumps
        *(datetime(2024, 3, 9), datetime(2024, 3, 30), datetime(2024, 4, 6), datetime(2024, 10, 5)),
        *(datetime(2024, 10, 26), datetime(2024, 11, 2), datetime(2025, 2, 22), datetime(2025, 4, 5)),
    )
]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def shown(cron: str, timezone: str, after: str, until: str) -> list[str]:
    return [f"{tick:%m-%d %H:%M}" for tick in ticks(cron, timezone, utc(after), utc(until))]


@pytest.mark.parametrize(
    ("cron", "after", "until", "expected"),
    [
        ("30 2 * * *", "2025-03-29", "2025-03-31T12:00", ["03-29 01:30", "03-30 01:30", "03-31 00:30"]),
        ("30 2 * * *", "2025-10-25", "2025-10-27T12:00", ["10-25 00:30", "10-26 00:30", "10-27 01:30"]),
        ("0 2,3 * * *", "2025-03-30", "2025-03-30T12:00", ["03-30 01:00"]),
        ("30 1-3 * * *", "2025-03-29T23:00", "2025-03-30T03:00", ["03-30 00:30", "03-30 01:30"]),
        ("30 * * * *", "2025-03-30", "2025-03-30T03:00", ["03-30 00:30", "03-30 01:30", "03-30 02:30"]),
        ("30 * * * *", "2025-10-25T23:00", "2025-10-26T02:00", ["10-25 23:30", "10-26 00:30", "10-26 01:30"]),
        ("*/30 2 * * *", "2025-10-25T23:00", "2025-10-26T03:00", ["10-26 00:00", "10-26 00:30"]),
    ],
    ids=["left out", "doubled", "two become one", "moved beside", "hourly forward", "hourly back", "within an hour"],
)
def test_the_clock_of_berlin_jumps(cron: str, after: str, until: str, expected: list[str]) -> None:
    assert shown(cron, "Europe/Berlin", after, until) == expected


def test_a_leap_day_comes_every_four_years_and_not_in_2100() -> None:
    found = ticks("0 0 29 2 *", "UTC", utc("2023-01-01"), utc("2105-01-01"))
    assert [tick.year for tick in found][:3] == [2024, 2028, 2032]
    assert [tick.year for tick in found][-3:] == [2092, 2096, 2104]


def test_the_last_days_of_months_are_left_out_where_there_are_none() -> None:
    assert shown("0 0 31 * *", "UTC", "2025-01-01", "2025-08-01") == [
        "01-31 00:00",
        "03-31 00:00",
        "05-31 00:00",
        "07-31 00:00",
    ]


def test_a_tick_is_later_than_after_and_no_later_than_until() -> None:
    assert shown("@hourly", "UTC", "2025-01-01T01:00", "2025-01-01T03:00") == ["01-01 02:00", "01-01 03:00"]
    assert shown("@hourly", "UTC", "2025-01-01T00:59:59.999999", "2025-01-01T01:00") == ["01-01 01:00"]
    assert next_tick("@hourly", "UTC", utc("2025-01-01T01:00")) == utc("2025-01-01T02:00")


def test_no_more_than_the_limit() -> None:
    assert len(ticks("* * * * *", "UTC", utc("2025-01-01"), utc("2026-01-01"))) == 1000
    assert len(ticks("* * * * *", "UTC", utc("2025-01-01"), utc("2026-01-01"), 7)) == 7


@pytest.mark.parametrize(
    ("cron", "day"),
    [("@daily", 2), ("@weekly", 5), ("@monthly", 1), ("0 0 * * 7", 5), ("0 0 * * sun", 5), ("0 0 4 * sun", 4)],
)
def test_nicknames_names_and_either_day(cron: str, day: int) -> None:
    found = next_tick(cron, "UTC", utc("2025-01-01T12:00"))
    assert found == utc(f"2025-02-{day:02}" if cron == "@monthly" else f"2025-01-{day:02}")


def test_a_day_that_the_clock_of_a_place_left_out() -> None:
    # Samoa went from 29 to 31 December 2011.
    assert shown("0 12 * * *", "Pacific/Apia", "2011-12-29", "2012-01-01") == [
        "12-29 22:00",
        "12-30 22:00",
        "12-31 22:00",
    ]


def test_what_half_an_hour_left_out_is_in_order_again() -> None:
    # On Lord Howe 02:00 is followed by 02:30, so that 02:15 comes at 02:45.
    assert shown("15,30 2 * * *", "Australia/Lord_Howe", "2024-10-05", "2024-10-06") == ["10-05 15:30", "10-05 15:45"]


@pytest.mark.parametrize("cron", ["61 * * * *", "* * * *", "0 0 30 2 *", "@yearly", "", "0 0 L * *"])
def test_what_is_no_cron_is_refused(cron: str) -> None:
    with pytest.raises(CronProblem):
        next_tick(cron, "UTC", utc("2025-01-01"))


@given(st.text(alphabet="0123456789*/-,@ LW#?adefilmnorstuy\n", max_size=24))
def test_every_text_is_read_or_refused_at_a_place_in_it(text: str) -> None:
    try:
        fields = parse_cron(text)
    except CronProblem as problem:
        assert 0 <= problem.offset <= max(len(text) - 1, 0)
        assert problem.width >= 1 and problem.message
    else:
        assert all(fields)
        assert next_tick(text, "UTC", utc("2025-01-01")) > utc("2025-01-01")


# --- beside another way to find them ----------------------------------------------------------------------------------


class Minute(NamedTuple):
    """A minute that a clock shows, or leaves out and would have shown had it not jumped; `again` if it was shown before."""

    moment: datetime
    fields: tuple[int, int, int, int, int]
    again: bool = False


def minutes(timezone: str, start: datetime, end: datetime) -> Iterator[Minute]:
    """Every minute of a clock, in the order of time but for those that it leaves out."""
    zone, latest, last = ZoneInfo(timezone), datetime.min, None
    moment = start
    while moment < end:
        local = moment.astimezone(zone).replace(tzinfo=None)
        if last is not None:
            for left_out in range(1, (local - last) // MINUTE):
                yield Minute(moment + (left_out - 1) * MINUTE, reading(last + left_out * MINUTE))
        yield Minute(moment, reading(local), again=local <= latest)
        latest, last, moment = max(latest, local), local, moment + MINUTE


def reading(local: datetime) -> tuple[int, int, int, int, int]:
    return local.minute, local.hour, local.day, local.month, (local.weekday() + 1) % 7


@st.composite
def fields(draw: st.DrawFn, low: int, high: int) -> tuple[str, set[int]]:
    """A field of cron and the numbers that it means, made together."""
    texts, numbers = [], set()
    for _ in range(draw(st.integers(1, 2))):
        form = draw(st.sampled_from(["all", "all", "one", "range", "step", "range and step"]))
        first = draw(st.integers(low, high))
        last = draw(st.integers(first, high))
        step = draw(st.integers(1, high - low))
        text, meant = {
            "all": ("*", range(low, high + 1)),
            "one": (f"{first}", range(first, first + 1)),
            "range": (f"{first}-{last}", range(first, last + 1)),
            "step": (f"*/{step}", range(low, high + 1, step)),
            "range and step": (f"{first}-{last}/{step}", range(first, last + 1, step)),
        }[form]
        texts.append(text)
        numbers |= set(meant)
    return ",".join(texts), numbers


Spelled = tuple[tuple[str, set[int]], ...]
CRONS = st.tuples(*(fields(low, high) for low, high in RANGES))


def compare(timezone: str, spelled: Spelled, start: datetime, end: datetime) -> None:
    texts, numbers = zip(*spelled, strict=True)
    try:
        parse_cron(" ".join(texts))
    except CronProblem as problem:
        assert problem.message.startswith("this day never comes")
        return
    found = set()
    for moment, shown, again in minutes(timezone, start - timedelta(hours=3), end):
        minute, hour, day, month, weekday = shown
        days = (day in numbers[2], weekday in numbers[4])
        comes = minute in numbers[0] and hour in numbers[1] and month in numbers[3]
        comes = comes and (any(days) if texts[2] != "*" and texts[4] != "*" else all(days))
        if comes and start < moment < end and (len(numbers[1]) == 24 or not again):
            found.add(moment)
    assert ticks(" ".join(texts), timezone, start, end - MINUTE, len(found) + 1) == sorted(found)


@settings(max_examples=60)
@given(st.sampled_from(ZONES), CRONS, st.one_of(st.sampled_from(JUMPS), st.integers(0, 728)))
def test_as_the_clock_shows_it_minute_by_minute(timezone: str, spelled: Spelled, day: int) -> None:
    start = utc("2024-01-01T12:00") + timedelta(days=day)
    compare(timezone, spelled, start, start + timedelta(days=2))


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=15)
@given(st.sampled_from(ZONES), CRONS)
def test_as_the_clock_shows_it_through_two_years(timezone: str, spelled: Spelled) -> None:
    compare(timezone, spelled, utc("2024-01-02"), utc("2025-12-30"))
