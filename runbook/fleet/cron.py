"""The moments at which a schedule comes: cron's fields on the clock of a time zone. Pure; needs the extra `[fleet]`.

Where the clock jumps forward, a time that it leaves out comes as much later as the clock jumped (02:30 in Berlin, at the end of
March: 03:30 there, 01:30 UTC). Where it jumps back, a time that comes twice is taken the first time only, save by schedules of
every hour, which know no doubled hours: they come in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from heapq import heappop, heappush
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

from runbook.language.problems import RunbookError
from runbook.language.schedules import Cron, parse_cron

_A_DAY = timedelta(hours=26)  # more than any clock has ever jumped


class NoZone(RunbookError):
    """This machine does not know a time zone."""


def zone_of(timezone: str) -> tzinfo:
    """The time zone of that name. Raises NoZone."""
    try:
        return UTC if timezone == "UTC" else ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):
        raise NoZone(f"this machine knows no time zone {timezone}: pip install -U tzdata") from None


def ticks(cron: str, timezone: str, after: datetime, until: datetime, limit: int = 1000) -> list[datetime]:
    """The first `limit` ticks later than `after`, up to and including `until`; all in UTC. Raises CronProblem or NoZone."""
    return list(islice(takewhile(lambda tick: tick <= until, _ticks(cron, timezone, after)), limit))


def next_tick(cron: str, timezone: str, after: datetime) -> datetime:
    """The first tick later than `after`, in UTC. Raises CronProblem or NoZone."""
    return next(_ticks(cron, timezone, after))


def _ticks(cron: str, timezone: str, after: datetime) -> Iterator[datetime]:
    fields = parse_cron(cron)
    zone = zone_of(timezone)
    both = len(fields.hours) == 24
    waiting: list[datetime] = []
    last = after.astimezone(UTC)
    for local in _readings(fields, last.replace(tzinfo=None) + min(_offsets(zone, last)) - timedelta(minutes=1)):
        first, second = ((local.replace(tzinfo=zone, fold=fold)).astimezone(UTC) for fold in (0, 1))
        for moment in {first, second} if both and second > first else {first}:
            heappush(waiting, moment)
        # What is read later from the clock may come earlier, but not by more than the clock jumps about here.
        offsets = _offsets(zone, first)
        while waiting and waiting[0] <= first - (max(offsets) - min(offsets)):
            moment = heappop(waiting)
            if moment > last:
                last = moment
                yield moment


def _offsets(zone: tzinfo, moment: datetime) -> list[timedelta]:
    """How far the clock is from UTC around a moment."""
    around = (moment - _A_DAY, moment, moment + _A_DAY)
    return [time.astimezone(zone).utcoffset() or timedelta() for time in around]


def _readings(fields: Cron, start: datetime) -> Iterator[datetime]:
    """The dates and times that the fields name, later than `start`, on a clock that never jumps."""
    from croniter import croniter  # type: ignore[import-untyped]

    spelled = " ".join(map(_list, fields, (60, 24, 31, 12, 7)))
    readings = croniter(spelled, start, ret_type=datetime, max_years_between_matches=50)
    while True:
        yield readings.get_next()


def _list(numbers: Iterable[int], whole: int) -> str:
    """The numbers as a field of cron, so that every spelling of them means the same."""
    found = sorted(numbers)
    return "*" if len(found) == whole else ",".join(map(str, found))
