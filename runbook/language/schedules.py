"""When a runbook is to run by itself: the five fields of cron and the time zone, judged without a clock and without a driver."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from runbook.language.document import Where
from runbook.language.fields import Fields
from runbook.language.model import Schedule
from runbook.language.problems import RunbookError, did_you_mean
from runbook.language.schema import param_errors, schema_trouble

NICKNAMES = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *"}
_ORDER = "the order is minute hour day month weekday"
_DIGITS = re.compile(r"[0-9]{1,4}")
_LONGEST_MONTH = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}
# Names that the time zone database has on some machines only, or that mean another zone on each.
_OF_A_MACHINE = re.compile(r"(posix|right)/|(localtime|posixrules|Factory)$")
_PART = re.compile(r"(?:(?P<all>\*)|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\w+))?")


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("weekday", 0, 7, _DAYS),
)


class CronProblem(RunbookError):
    """What is wrong with a cron text: `width` characters at `offset`, and the cure."""

    def __init__(self, message: str, offset: int, width: int, hint: str) -> None:
        super().__init__(message)
        self.message, self.offset, self.width, self.hint = message, offset, width, hint


class Cron(NamedTuple):
    """The minutes, hours, days, months and weekdays (0 is Sunday) at which a schedule comes.

    Where both days and weekdays are narrowed, one of the two suffices.
    """

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]


def parse_cron(text: str) -> Cron:
    """The five fields of `text`, or what a nickname such as `@daily` stands for. Raises CronProblem."""
    words = list(re.finditer(r"\S+", NICKNAMES.get(text.strip(), text)))
    if text.strip().startswith("@") and text.strip() not in NICKNAMES:
        hint = did_you_mean(text.strip(), NICKNAMES)
        raise CronProblem(f"`{text.strip()}` is not known here", 0, len(text.strip()), hint)
    if len(words) != len(_FIELDS):
        hint = "minute hour day month weekday, as in 0 2 * * *"
        raise CronProblem(f"cron has five fields, and these are {len(words)}", 0, max(len(text), 1), hint)
    minutes, hours, days, months, weekdays = (
        frozenset(number for start, part in _parts(word) for number in _numbers(part, start, field))
        for word, field in zip(words, _FIELDS, strict=True)
    )
    weekdays = frozenset(day % 7 for day in weekdays)
    given = [words[index].group() != "*" for index in (2, 4)]
    if all(given) and (len(days) == 31 or len(weekdays) == 7):
        days, weekdays = frozenset(range(1, 32)), frozenset(range(7))
    if given == [True, False] and min(days) > max(_LONGEST_MONTH.get(month, 31) for month in months):
        start = words[2].start()
        message = f"this day never comes: no month of `{words[3].group()}` has a day {min(days)}"
        raise CronProblem(message, start, words[3].end() - start, "the last days of a month are 28 to 31")
    return Cron(minutes, hours, days, months, weekdays)


def _parts(word: re.Match[str]) -> Iterator[tuple[int, str]]:
    start = word.start()
    for part in word.group().split(","):
        yield start, part
        start += len(part) + 1


def _numbers(part: str, start: int, field: _Field) -> range:
    """The numbers that one item of a field's list means. Raises CronProblem."""
    found = _PART.fullmatch(part)
    if found is None:
        hint = "*, 5, 1-5, */10, 1-30/5, or several of them with commas"
        raise CronProblem(f"{field.name} `{part}` cannot be read", start, max(len(part), 1), hint)
    if found["all"]:
        first, last = field.low, min(field.high, 6) if field.name == "weekday" else field.high
    else:
        first = _number(found["first"], start, field)
        last = first if found["last"] is None else _number(found["last"], start + found.start("last"), field)
    if first > last:
        hint = f"two ranges: {found['first']}-{field.high},{field.low}-{found['last']}"
        raise CronProblem(f"{field.name} {found['first']}-{found['last']} runs backwards", start, len(part), hint)
    return range(first, last + 1, _step(found, start, field))


def _number(word: str, start: int, field: _Field) -> int:
    if word.lower() in field.names:
        return field.names.index(word.lower()) + field.low
    if not _DIGITS.fullmatch(word):
        letters = field.name == "day" and not word[-1].isdecimal()
        hint = "L and W are not offered; a 28th is in every month" if letters else _ORDER
        hint = did_you_mean(word.lower(), field.names) if field.names else hint
        also = f", nor one of {field.names[0]} to {field.names[-1]}" if field.names else ""
        raise CronProblem(f"{field.name} `{word}` is not a number{also}", start, len(word), hint)
    if not field.low <= int(word) <= field.high:
        hint = "write 0" if field.name == "hour" and word == "24" else _ORDER
        raise CronProblem(f"{field.name} {word} is not {field.low}-{field.high}", start, len(word), hint)
    return int(word)


def _step(found: re.Match[str], start: int, field: _Field) -> int:
    word = found["step"]
    if word is None:
        return 1
    at, most = start + found.start("step"), field.high - field.low
    if not _DIGITS.fullmatch(word) or not 1 <= int(word) <= most:
        message = f"a step of `{word}` {field.name}s is not 1-{most}"
        raise CronProblem(message, at, len(word), f"a step counts within the {field.low}-{field.high} of its field")
    if found["first"] and found["last"] is None:
        hint = f"write {found['first']}-{field.high}/{word}"
        raise CronProblem(f"{field.name} `{found.group()}` says no range", start, len(found.group()), hint)
    return int(word)


def zone_trouble(name: str) -> tuple[str, str] | None:
    """What is wrong with the name of a time zone, and the cure; None where there is such a zone."""
    from zoneinfo import ZoneInfo, available_timezones

    if name == "UTC":
        return None
    try:
        if not _OF_A_MACHINE.match(name):
            ZoneInfo(name)
            return None
    except (KeyError, ValueError, OSError):
        pass  # not found, no name of a file, or a folder of zones
    known = {zone for zone in available_timezones() if not _OF_A_MACHINE.match(zone)}
    if not known:
        return "there is no database of time zones on this machine", "pip install tzdata"
    city = [zone for zone in known if zone.rpartition("/")[2].lower() == name.rpartition("/")[2].lower()]
    return "no such time zone", did_you_mean(name, city or known) or "a name such as Europe/Berlin, or UTC"


def schedule_of(fields: Fields) -> Schedule | None:
    """`schedule` of a runbook; what is wrong goes to the problems of `fields`."""
    item: Mapping[str, Any] | None = fields.data.get("schedule")
    if item is None:
        return None
    where: Where = ("schedule",)
    try:
        parse_cron(item["cron"])
    except CronProblem as problem:
        place: Where = (*where, "cron")
        fields.problems.append(
            fields.document.problem(place, problem.message, problem.hint, offset=problem.offset, width=problem.width)
        )
    timezone = item.get("timezone", "UTC")
    trouble = zone_trouble(timezone)
    if trouble is not None:
        fields.wrong((*where, "timezone"), *trouble)
    given = item.get("params") or {}
    _check_params(fields, (*where, "params"), given)
    return Schedule(item["cron"], timezone, given, item.get("on_overlap", "skip"), where)


def _check_params(fields: Fields, where: Where, given: Mapping[str, Any]) -> None:
    declared: Mapping[str, Mapping[str, Any]] = fields.data.get("params") or {}
    for name in given:
        if name not in declared:
            hint = did_you_mean(name, declared) or ("" if declared else "this runbook has no params")
            fields.wrong((*where, name), f"there is no param `{name}`", hint, at="key")
    for name, schema in declared.items():
        if name not in given and "default" not in schema:
            message = f"the param `{name}` is required, and nobody is there to give it"
            fields.wrong(where, message, f"params: {{{name}: …}}", at="key")
    known = {name: value for name, value in given.items() if name in declared and not schema_trouble(declared[name])}
    for name, message in param_errors(declared, known).items():
        fields.wrong((*where, name), message, declared[name].get("description", "") or "its schema stands in params")
