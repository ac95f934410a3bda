"""Ticks of schedules, on a real server whose clock decides: each is seen to once, and none is dropped."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from runbook.database.connect import Connection, ServerError, connect
from runbook.fleet.schedules import Tick, disable, enable, fire_due, listing
from runbook.fleet.schema import prepare
from runbook.fleet.turns import Submission, insert
from runbook.language.problems import RunbookError
from tests.conftest import Database, Program

TEXT = b"runbook: 1\nname: nightly\n"
MINUTE = timedelta(minutes=1)


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with closing(connect(database.url, "test")) as connection:
        prepare(connection)
        yield connection


def now(connection: Connection) -> datetime:
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    return row[0].astimezone(UTC)


def facts(**given: Any) -> dict[str, Any]:
    return {
        "name": "nightly",
        "file": "runbooks/nightly.yaml",
        "sha256": hashlib.sha256(TEXT).hexdigest(),
        "files": {},
        "cron": "0 2 * * *",
        "timezone": "UTC",
        "params": {"day": "2025-01-01"},
        "on_overlap": "skip",
        "options": {},
        "label": "",
        "lock": "nightly",
        "rerun": False,
        "operator": "anna",
        "host": "here",
    } | given


def due(connection: Connection, ago: timedelta, first: timedelta = timedelta(), **given: Any) -> datetime:
    """Enables a schedule of one tick a day, the last so long ago and the first that nobody saw to earlier still; the last."""
    last = (now(connection) - ago).replace(second=0, microsecond=0)
    enable(connection, facts(cron=f"{last.minute} {last.hour} * * *", **given), [TEXT])
    query = "UPDATE runbook_fleet.schedules SET next_tick = $1 WHERE name = $2"
    connection.execute(query, [last - first, given.get("name", "nightly")])
    return last


def submit_to(connection: Connection) -> Callable[[Mapping[str, Any], datetime], str]:
    """Submits as the fleet does, and gives run ids that tell the tick."""

    def submit(schedule: Mapping[str, Any], tick: datetime) -> str:
        run_id = f"{tick.astimezone(UTC):%Y%m%d_%H%M%S}-000-{schedule['name'][:4]}"
        names = ("file", "sha256", "files", "params", "options", "label", "lock", "rerun", "operator", "host")
        known = {name: schedule[name] for name in names}
        item = Submission(
            run_id=run_id,
            experiment="",
            runbook=schedule["name"],
            varied=[],
            schedule=schedule["name"],
            tick=tick,
            **known,
        )
        insert(connection, [item])
        return run_id

    return submit


def fire(connection: Connection) -> list[tuple[str, str]]:
    return [(tick.outcome, tick.because) for tick in fire_due(connection, "here", submit_to(connection))]


def stored(connection: Connection) -> list[tuple[Any, ...]]:
    query = "SELECT tick, outcome, run_id, because FROM runbook_fleet.ticks ORDER BY tick"
    return connection.execute(query).fetchall()


# --- enabling ---------------------------------------------------------------------------------------------------------


def test_a_schedule_is_in_force_from_now_on(connection: Connection) -> None:
    first = enable(connection, facts(timezone="Europe/Berlin", params={"day": "x\0y"}), [TEXT])
    (item,) = listing(connection)
    assert timedelta() < first - now(connection) <= timedelta(days=1)
    assert (item["next_tick"], item["enabled"], item["ticks"]) == (first, True, [])
    assert (item["timezone"], item["params"], item["operator"]) == ("Europe/Berlin", {"day": "x\\u0000y"}, "anna")
    assert fire(connection) == []


def test_enabling_again_begins_anew_and_misses_nothing(connection: Connection) -> None:
    due(connection, timedelta(hours=1), timedelta(days=9))
    disable(connection, "nightly")
    enable(connection, facts(cron="@monthly", operator="bob"), [TEXT])
    (item,) = listing(connection)
    assert (item["cron"], item["operator"], item["enabled"]) == ("@monthly", "bob", True)
    assert item["next_tick"] > now(connection) - MINUTE
    assert fire(connection) == [] and stored(connection) == []


def test_a_disabled_schedule_rests(connection: Connection) -> None:
    due(connection, 3 * MINUTE)
    assert disable(connection, "nightly")
    assert not disable(connection, "nightly")
    assert not disable(connection, "other")
    assert fire(connection) == [] and stored(connection) == []


# --- ticks ------------------------------------------------------------------------------------------------------------


def test_a_due_tick_is_submitted_once(connection: Connection) -> None:
    last = due(connection, 3 * MINUTE)
    (tick,) = fire_due(connection, "here", submit_to(connection))
    assert tick == Tick("nightly", last, "submitted", f"{last:%Y%m%d_%H%M%S}-000-nigh", "")
    assert fire(connection) == []
    (item,) = listing(connection)
    assert item["next_tick"] == last + timedelta(days=1)
    assert [(k["tick"], k["outcome"], k["run_id"], k["state"], k["verdict"]) for k in item["ticks"]] == [
        (last, "submitted", tick.run_id, "queued", None)
    ]


def test_what_nobody_was_there_for_is_missed_but_for_the_newest(connection: Connection) -> None:
    last = due(connection, 3 * MINUTE, timedelta(days=3))
    assert fire(connection) == [("missed", "no worker was there")] * 3 + [("submitted", "")]
    assert [row[0] for row in stored(connection)] == [last - timedelta(days=days) for days in (3, 2, 1, 0)]


@pytest.mark.parametrize(("late", "outcome"), [(8, "submitted"), (12, "missed")])
def test_ten_minutes_late_is_too_late(connection: Connection, late: int, outcome: str) -> None:
    due(connection, late * MINUTE)
    assert [found for found, _ in fire(connection)] == [outcome]
    assert fire(connection) == []


def test_a_day_of_missed_minutes_is_one_row_that_counts_them(connection: Connection) -> None:
    enable(connection, facts(cron="* * * * *"), [TEXT])
    first = now(connection).replace(second=0, microsecond=0) - timedelta(days=1)
    connection.execute("UPDATE runbook_fleet.schedules SET next_tick = $1", [first])
    fire(connection)
    missed, submitted = stored(connection)
    count = (submitted[0] - first) // MINUTE
    until = f"{(submitted[0] - MINUTE).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    assert count >= 1440 and missed[:3] == (first, "missed", None)
    assert missed[3] == f"no worker was there for {count} ticks, from this one up to {until}"


def test_a_tick_that_is_recorded_already_is_left_alone(connection: Connection) -> None:
    last = due(connection, 3 * MINUTE)
    fire(connection)
    connection.execute("UPDATE runbook_fleet.schedules SET next_tick = $1", [last])
    assert fire(connection) == []
    assert len(stored(connection)) == 1


# --- overlap ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_overlap", ["skip", "queue"])
def test_a_tick_while_an_earlier_run_goes_on(connection: Connection, on_overlap: str) -> None:
    last = due(connection, 3 * MINUTE, on_overlap=on_overlap)
    earlier = submit_to(connection)(facts(), last - timedelta(days=1))
    connection.execute("UPDATE runbook_fleet.turns SET state = 'running'")
    (tick,) = fire_due(connection, "here", submit_to(connection))
    skipped = ("skipped", earlier, f"run {earlier} was not over")
    assert tick[2:] == (skipped if on_overlap == "skip" else ("submitted", f"{last:%Y%m%d_%H%M%S}-000-nigh", ""))


def test_a_run_that_is_over_or_of_another_schedule_is_no_overlap(connection: Connection) -> None:
    last = due(connection, 3 * MINUTE)
    submit_to(connection)(facts(), last - timedelta(days=1))
    connection.execute("UPDATE runbook_fleet.turns SET state = 'over'")
    submit_to(connection)(facts(name="other"), last - timedelta(days=1))
    assert fire(connection) == [("submitted", "")]


# --- trouble ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_submitted_is_on_record_and_holds_up_nothing(connection: Connection) -> None:
    due(connection, 3 * MINUTE, name="able")
    due(connection, 4 * MINUTE, name="broken")

    def submit(schedule: Mapping[str, Any], tick: datetime) -> str:
        run_id = submit_to(connection)(schedule, tick)
        if schedule["name"] == "broken":
            raise RunbookError("its params do not fit")
        return run_id

    found = [(tick.schedule, tick.outcome, tick.because) for tick in fire_due(connection, "here", submit)]
    assert found == [
        ("broken", "missed", "it could not be submitted: its params do not fit"),
        ("able", "submitted", ""),
    ]
    assert connection.execute("SELECT schedule FROM runbook_fleet.submissions").fetchall() == [("able",)]


def test_a_server_that_goes_away_meanwhile_leaves_the_tick_to_the_next_look(
    connection: Connection, database: Database
) -> None:
    due(connection, 3 * MINUTE)
    with closing(connect(database.url, "another")) as another:

        def submit(schedule: Mapping[str, Any], tick: datetime) -> str:
            run_id = submit_to(another)(schedule, tick)
            with psycopg.connect(database.url, autocommit=True) as killer:
                killer.execute("SELECT pg_terminate_backend(%s)", [another.info.backend_pid])
            return run_id

        with pytest.raises(ServerError):
            fire_due(another, "there", submit)
    assert stored(connection) == []
    assert fire(connection) == [("submitted", "")]


def test_eight_workers_at_once_submit_a_tick_once(connection: Connection, database: Database) -> None:
    for name in ("one", "two", "three"):
        due(connection, 3 * MINUTE, timedelta(days=2), name=name)
    start, found = threading.Barrier(8), []

    def work() -> None:
        with closing(connect(database.url, "worker")) as own:
            start.wait()
            for _ in range(4):
                found.extend(fire_due(own, "here", submit_to(own)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(tick.outcome for tick in found) == ["missed"] * 6 + ["submitted"] * 3
    assert len(stored(connection)) == 9
    assert connection.execute("SELECT count(*) FROM runbook_fleet.submissions").fetchall() == [(3,)]


# --- the command ------------------------------------------------------------------------------------------------------

NIGHTLY = """
runbook: 1
name: nightly
params:
  day: {type: string, default: today}
connections:
  db: {type: postgres, env: DATABASE_URL}
schedule:
  cron: 30 2 * * *
  timezone: Europe/Berlin
  params: {day: yesterday}
preflight:
  up: {sql: {file: up.sql}, expect: "result[0].up == 1"}
"""


@pytest.fixture
def enabled(program: Program, write: Callable[..., Any], database: Database) -> dict[str, str]:
    write("runbooks/nightly.yaml", NIGHTLY)
    write("runbooks/up.sql", "SELECT 1 AS up")
    env = {"DATABASE_URL": database.url}
    ended = program("schedule", "enable", "nightly", "--label", "big", "--operator", "anna", env=env)
    assert ended.code == 0, ended.err
    assert "nightly is scheduled in" in ended.err and ("02:30 CE" in ended.err)
    assert ended.err.endswith("no worker is seen: start one with `runbook worker --label big`\n")
    return env


def test_a_schedule_is_enabled_listed_and_disabled(program: Program, enabled: dict[str, str]) -> None:
    (item,) = program("schedule", "list", "--json", env=enabled).document["schedules"]
    assert (item["name"], item["file"], item["cron"]) == ("nightly", "runbooks/nightly.yaml", "30 2 * * *")
    assert (item["params"], item["label"], item["operator"]) == ({"day": "yesterday"}, "big", "anna")
    assert item["next_tick"].endswith("+00:00") and 0 < item["until"] <= 25 * 3600 and not item["changed"]
    listed = program("schedule", "list", env=enabled)
    assert listed.code == 0 and "nightly  30 2 * * *  Europe/Berlin  next " in listed.out and "02:30 CE" in listed.out
    assert "\n    label big  day=yesterday\n" in listed.out
    assert program("schedule", "disable", "nightly", env=enabled).err.startswith("nightly is disabled in ")
    assert program("schedule", "disable", "nightly", env=enabled).err.startswith("nightly is already disabled in ")
    assert "disabled since" in program("schedule", "list", env=enabled).out
    (item,) = program("schedule", "list", "--json", env=enabled).document["schedules"]
    assert (item["enabled"], item["next_tick"], item["until"]) == (False, None, None)


def test_a_worker_that_is_seen_will_run_it(program: Program, enabled: dict[str, str], database: Database) -> None:
    columns = "(host, pid, folder, labels, concurrency, version, operator)"
    database.run(f"INSERT INTO runbook_fleet.workers {columns} VALUES ('far', 1, '/', '{{big}}', 1, '1', 'o')")
    assert "no worker is seen" not in program("schedule", "enable", "nightly", "--label", "big", env=enabled).err
    assert "no worker is seen" in program("schedule", "enable", "nightly", "--label", "tape", env=enabled).err


def test_the_list_tells_ticks_and_what_has_changed_since(
    program: Program, enabled: dict[str, str], write: Callable[..., Any], database: Database
) -> None:
    with closing(connect(database.url, "test")) as connection:
        last = due(connection, 3 * MINUTE, timedelta(days=1), timezone="UTC")
        query = "UPDATE runbook_fleet.schedules SET sha256 = $1, files = $2"
        content = write("runbooks/nightly.yaml", NIGHTLY).read_bytes()
        connection.execute("INSERT INTO runbook_fleet.files VALUES ($1, $2) ON CONFLICT DO NOTHING", ["0" * 64, b""])
        connection.execute(query, [hashlib.sha256(content).hexdigest(), '{"runbooks/up.sql": "0"}'])
        fire(connection)
    out = program("schedule", "list", env=enabled).out
    assert "! runbooks/nightly.yaml, or what it reads, has changed since: what runs is what was enabled" in out
    assert f"{last:%Y-%m-%d %H:%M} UTC  queued     run {last:%Y%m%d_%H%M%S}-000-nigh" in out
    assert f"{last - timedelta(days=1):%Y-%m-%d %H:%M} UTC  missed     no worker was there" in out


def test_what_cannot_be_scheduled(program: Program, enabled: dict[str, str], write: Callable[..., Any]) -> None:
    write("runbooks/plain.yaml", "runbook: 1\nname: plain\n")
    ended = program("schedule", "enable", "plain", env=enabled)
    assert ended.code == 5 and "this runbook has no schedule" in ended.err
    ended = program("schedule", "disable", "nightli", env=enabled)
    assert ended.code == 2 and "there is no schedule `nightli`: did you mean `nightly`?" in ended.err


def test_no_schedules_anywhere(program: Program, database: Database) -> None:
    ended = program("schedule", "list", "--json", env={"DATABASE_URL": database.url})
    assert (ended.code, ended.document) == (0, {"schedules": [], "problems": []})
    assert "runbook schedule enable FILE" in program("schedule", "list").err
