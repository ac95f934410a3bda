"""Single examinations: their judgements, their bounds, and that the guard's would see a hole."""

from __future__ import annotations

import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbook.language.problems import RunbookError
from runbook.operate.examinations import MIB, Finding, amount, examine, fail, ok, room, worst
from runbook.operate.examinations_audit import broken_link
from runbook.operate.examinations_machine import NEEDED, PYTHON, judge_packages
from runbook.operate.examinations_postgres import Server, guard, judge_clock, judge_connections, judge_zone
from runbook.records.journal import GENESIS, chain
from tests.conftest import ROOT, Database


def test_an_examination_has_only_so_long_and_keeps_what_it_found_before() -> None:
    over = threading.Event()

    def slow() -> Iterator[Finding]:
        yield ok("first", "well")
        over.wait(60)

    began = time.monotonic()
    first, second = examine("here", "slow", slow, limit=0.2)
    over.set()
    assert time.monotonic() - began < 5
    assert first == Finding("first", "ok", "well", "", "here")
    assert (second.state, second.found) == ("warn", "could not tell: it took longer than 0.2 s") and second.cure


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RunbookError("no"), "could not tell: no"),
        (ZeroDivisionError("by zero"), "could not tell: ZeroDivisionError: by zero"),
    ],
)
def test_a_fault_of_an_examination_is_a_finding(error: Exception, told: str) -> None:
    def faulty() -> Iterator[Finding]:
        yield fail("first", "bad", "mend it")
        raise error

    found = examine("here", "faulty", faulty)
    assert [(item.what, item.state, item.found) for item in found] == [
        ("first", "fail", "bad"),
        ("faulty", "warn", told),
    ]
    assert worst(found) == "fail" and worst(found[1:]) == "warn" and worst([]) == "ok"


@pytest.mark.parametrize(
    ("skew", "state"), [(0.0, "ok"), (1.9, "ok"), (-2.1, "warn"), (59, "warn"), (-60.5, "fail"), (3600, "fail")]
)
def test_clocks_that_are_apart(skew: float, state: str) -> None:
    found = judge_clock(skew, 0.004)
    assert found.state == state and (" ahead of " in found.found) == (skew > 0) and "± 0.004 s" in found.found


def test_time_zones_that_differ_are_told_and_are_no_fault() -> None:
    assert judge_zone("Etc/UTC", "UTC") == ok("time zone", "Etc/UTC")
    assert (
        judge_zone("Asia/Tokyo", "UTC").state == "ok" and "this host's is UTC" in judge_zone("Asia/Tokyo", "UTC").found
    )


@pytest.mark.parametrize(
    ("row", "state", "told"),
    [
        ([97, 3, None, 3, None, 1], "ok", "95 free (3 of the 97 of the server are in use)"),
        ([97, 95, None, 3, None, 1], "warn", "3 free (95 of the 97 of the server are in use)"),
        ([97, 3, None, 3, 4, 2], "warn", "3 free (2 of the 4 of the role are in use)"),
        ([97, 3, 20, 30, 40, 2], "warn", "0 free (30 of the 20 of the database are in use)"),
    ],
)
def test_room_for_connections(row: list[int | None], state: str, told: str) -> None:
    found = judge_connections(row)
    assert found.state == state and found.found.startswith(told)


def test_packages_that_are_missing_or_too_old() -> None:
    assert judge_packages({**NEEDED, "psycopg": "3.10.0rc1"}).state == "ok"
    found = judge_packages({name: version for name, version in {**NEEDED, "jinja2": "3.1.4"}.items() if name != "rich"})
    assert found.state == "fail" and found.found == "rich is missing; jinja2 is 3.1.4, 3.1.5 or newer is needed"


def test_what_is_needed_is_what_the_project_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = dict(item.replace("[binary]", "").split(">=") for item in project["dependencies"])
    declared["yaml"] = declared.pop("pyyaml")
    assert declared == NEEDED
    assert project["requires-python"] == f">={'.'.join(map(str, PYTHON))}"


def test_room() -> None:
    states = [room("disk", free * MIB, 100 * MIB, 10 * MIB, "in /x", "make room").state for free in (100, 99, 10, 9)]
    assert states == ["ok", "warn", "warn", "fail"]
    assert [amount(size) for size in (5, 2048, 15.5 * MIB, 3 * 1024 * MIB, 4096 * 1024 * MIB)] == [
        "5 B", "2.0 KiB", "16 MiB", "3.0 GiB", "4.0 TiB",
    ]  # fmt: skip


def test_the_newest_entries_of_a_chain() -> None:
    rows, previous = [], GENESIS
    for number in range(1, 6):
        rows.append((number, f"line {number}", previous, chain(previous, f"line {number}")))
        previous = rows[-1][3]
    assert broken_link(rows) == broken_link(rows[2:]) == broken_link([]) == ""
    assert broken_link([*rows[:2], *rows[3:]]) == "entry 3 is gone: 4 comes after 2"
    assert (
        broken_link([*rows[:2], (3, "other", *rows[2][2:])]) == "entry 3 was changed: its head is not that of its text"
    )
    forged = (3, "line 3", GENESIS, chain(GENESIS, "line 3"))
    assert broken_link([*rows[:2], forged]) == "entry 3 does not follow entry 2"
    assert broken_link([(1, "line 1", "0" * 63 + "1", rows[0][3])]) == "entry 1 does not follow entry 0"


def test_a_guard_that_let_something_through_would_be_seen(database: Database) -> None:
    server = Server("db", database.url, database.url)
    (found,) = guard(server)
    assert found.state == "ok", found
    for hole in ("SELECT 1", "SET LOCAL search_path = public", "SELECT txid_current()"):
        (found,) = guard(server, ("CREATE TABLE x (n int)", hole))
        assert found.state == "fail" and f"did not refuse `{hole}`" in found.found
    database.run("CREATE FUNCTION quietly() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM 1; RAISE 'no'; END $$")
    (found,) = guard(server, ("SELECT quietly()",))
    assert found.state == "ok"


def test_a_disk_without_inodes(tmp_path: Path) -> None:
    from runbook.operate.examinations_project import judge_disk

    assert judge_disk(tmp_path).what == "disk"
