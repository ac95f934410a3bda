"""What a runbook says of running by itself; what is wrong with it is in tests/golden."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runbook.language.load import load_text
from runbook.language.model import Schedule
from runbook.language.problems import InvalidRunbook
from runbook.language.schedules import CronProblem, parse_cron, zone_trouble
from tests.conftest import ROOT

HEAD = "runbook: 1\nname: nightly\nparams: {day: {type: string, default: today}}\n"


def schedule(text: str) -> Schedule | None:
    return load_text(HEAD + text, Path("/nowhere/nightly.yaml")).schedule


def test_defaults() -> None:
    assert schedule("") is None
    assert load_text(HEAD, Path("/nowhere/nightly.yaml")).rerun is False
    assert load_text(f"{HEAD}rerun: true\n", Path("/nowhere/nightly.yaml")).rerun is True
    assert schedule("schedule: {cron: 0 2 * * *}\n") == Schedule("0 2 * * *", "UTC", {}, "skip", ("schedule",))


def test_all_that_may_be_said() -> None:
    text = "schedule: {cron: '@daily', timezone: Asia/Kathmandu, params: {day: '2025-01-01'}, on_overlap: queue}\n"
    assert schedule(text) == Schedule("@daily", "Asia/Kathmandu", {"day": "2025-01-01"}, "queue", ("schedule",))


@pytest.mark.parametrize(
    ("text", "at", "found"),
    [
        ("*/20 * * * *", "minutes", {0, 20, 40}),
        ("10-30/10,5 * * * *", "minutes", {5, 10, 20, 30}),
        ("0 22-23,0-2 * * *", "hours", {22, 23, 0, 1, 2}),
        ("0 0 * JAN-mar,12 *", "months", {1, 2, 3, 12}),
        ("0 0 * * 5-7", "weekdays", {5, 6, 0}),
        ("0 0 * * */2", "weekdays", {0, 2, 4, 6}),
        ("0 0 1-31 * mon", "weekdays", set(range(7))),
        ("0 0 13 * fri", "days", {13}),
        (" 0\t0 1 * * ", "days", {1}),
    ],
)
def test_fields(text: str, at: str, found: set[int]) -> None:
    assert getattr(parse_cron(text), at) == found


@pytest.mark.parametrize(
    ("text", "offset", "message"),
    [
        ("0 0 0 * *", 4, "day 0 is not 1-31"),
        ("0 0 * 13 *", 6, "month 13 is not 1-12"),
        ("0 0 * * 8", 8, "weekday 8 is not 0-7"),
        ("0 0 * * 1,8", 10, "weekday 8 is not 0-7"),
        ("0 0 * foo *", 6, "month `foo` is not a number, nor one of jan to dec"),
        ("0 0 5L * *", 4, "day `5L` is not a number"),
        ("0 0 ? * *", 4, "day `?` cannot be read"),
        ("0 0 * * 5#2", 8, "weekday `5#2` cannot be read"),
        ("*/0 * * * *", 2, "a step of `0` minutes is not 1-59"),
        ("5-1 * * * *", 0, "minute 5-1 runs backwards"),
        ("00000 * * * *", 0, "minute `00000` is not a number"),
        ("٣ * * * *", 0, "minute `٣` is not a number"),
        (",5 * * * *", 0, "minute `` cannot be read"),
        ("0 0 30,31 2 *", 4, "this day never comes: no month of `2` has a day 30"),
    ],
)
def test_what_is_refused_and_where(text: str, offset: int, message: str) -> None:
    with pytest.raises(CronProblem) as caught:
        parse_cron(text)
    assert (caught.value.offset, caught.value.message) == (offset, message)


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5"])
def test_zones(name: str) -> None:
    assert zone_trouble(name) is None


@pytest.mark.parametrize(
    "name", ["Europe", "localtime", "posix/Europe/Berlin", "../../etc/passwd", "/etc/passwd", "", "a\0b"]
)
def test_what_is_no_zone(name: str) -> None:
    assert zone_trouble(name)


def test_a_machine_without_zones_knows_utc_and_says_what_it_lacks() -> None:
    code = (
        "import sys\nsys.modules['tzdata'] = None\n"
        "from runbook.language.schedules import zone_trouble\n"
        "print(zone_trouble('UTC'), zone_trouble('Europe/Berlin'))\n"
    )
    env = {**os.environ, "PYTHONTZPATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "None ('there is no database of time zones on this machine', 'pip install tzdata')\n"


def test_params_whose_own_schema_is_wrong_are_told_once() -> None:
    text = (
        "runbook: 1\nname: x\nparams: {a: {type: string, pattern: '['}}\nschedule: {cron: '@daily', params: {a: b}}\n"
    )
    with pytest.raises(InvalidRunbook) as caught:
        load_text(text, Path("/nowhere/x.yaml"))
    assert [problem.where for problem in caught.value.problems] == ["params.a.pattern"]
