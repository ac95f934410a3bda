"""The fleet at a glance: what is told of workers, queue, runs and schedules, and how it looks at 80 columns."""

from __future__ import annotations

import json
import re
import time
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from runbook.cli.dashboard import plain
from runbook.cli.fleet_account import fleet_lines
from runbook.database.connect import connect
from runbook.fleet.overview import Fleet, look, progress
from tests.conftest import Database, Program
from tests.fleet.elsewhere import Host, make_fleet, put, submit


@pytest.fixture
def fleet(database: Database) -> Database:
    make_fleet(database)
    return database


def worker(database: Database, host: str, *labels: str, seen: int = 0, **given: Any) -> None:
    known = {"pid": 7, "folder": "/", "concurrency": 4, "version": "1", "operator": "o"}
    put(database, "workers", host=host, labels=[*labels], **known, **given)
    database.run(f"UPDATE runbook_fleet.workers SET seen_at = now() - interval '{seen} s' WHERE host = '{host}'")


def seen(database: Database, **options: Any) -> Fleet:
    with connect(database.url, "test") as connection:
        return look(connection, "here", **options)


def shown(database: Database, width: int = 80) -> str:
    text = plain(fleet_lines(seen(database), width))
    assert max(map(len, text.splitlines())) <= width
    return text


def test_an_empty_fleet(fleet: Database) -> None:
    assert seen(fleet) == {
        "database": "here",
        "workers": [],
        "queue": {"waiting": 0, "locked": 0, "later": 0, "labels": []},
        "running": [],
        "recent": {},
        "schedules": [],
    }
    assert "Workers: none; start one with `runbook worker`" in shown(fleet)


def test_workers(fleet: Database) -> None:
    worker(fleet, "alpha", "gpu", "big")
    worker(fleet, "beta", seen=50)
    worker(fleet, "gamma", state="draining")
    worker(fleet, "delta", state="ended", seen=600)
    worker(fleet, "epsilon", state="ended", seen=7200)
    worker(fleet, "zeta", seen=7200)
    worker(fleet, "eta", seen=310)
    worker(fleet, "theta", seen=310)
    submit(fleet, "run-1", {"state": "running", "host": "alpha", "worker": 1})
    submit(fleet, "run-2", {"state": "running", "host": "theta", "worker": 8})
    found = seen(fleet)["workers"]
    assert [(item["host"], item["running"], item["silent"]) for item in found] == [
        ("alpha", 1, False),
        ("beta", 0, True),
        ("gamma", 0, False),
        ("theta", 1, True),
    ]
    every = [item["host"] for item in seen(fleet, every=True)["workers"]]
    assert every == ["alpha", "beta", "eta", "gamma", "theta", "delta"]
    text = shown(fleet)
    for line in ("  alpha  7    gpu,big  1/4   ", r"not seen for 5\ds", r"draining, \d"):
        assert re.search(line, text), text


def test_the_queue_and_who_could_take_it(fleet: Database) -> None:
    worker(fleet, "alpha", "gpu")
    worker(fleet, "beta", "tape", seen=50)
    for number, label in enumerate(["", "gpu", "gpu", "tape"]):
        submit(fleet, f"run-{number}", label=label)
    submit(fleet, "run-9", label="gpu", due_at="2100-01-01T00:00:00Z")
    submit(fleet, "run-8", {"state": "over"}, label="other")
    queue = seen(fleet)["queue"]
    assert (queue["waiting"], queue["later"]) == (4, 1)
    brief = [(item["label"], item["waiting"], item["later"], item["workers"], item["cure"]) for item in queue["labels"]]
    assert brief == [("", 1, 0, 1, ""), ("gpu", 2, 1, 1, ""), ("tape", 1, 0, 0, "runbook worker --label tape")]
    assert queue["labels"][1]["next"] == "2100-01-01T00:00:00.000+00:00"
    text = shown(fleet)
    assert "  ! 1 run waits for a worker with label `tape`, and there is none\n" in text
    assert "    start one with `runbook worker --label tape`\n" in text


def test_who_waits_behind_a_lock(fleet: Database) -> None:
    submit(fleet, "run-0", {"state": "running", "host": "far"}, lock="a")
    for number, (label, lock) in enumerate([("", "a"), ("gpu", "a"), ("", "b"), ("", "b"), ("gpu", "b"), ("", "")], 1):
        submit(fleet, f"run-{number}", label=label, lock=lock)
    submit(fleet, "run-7", {"because": "the lock `c` is held by run 1"}, lock="c")
    submit(fleet, "run-8", {"because": "its process ended with 1"}, lock="d")
    submit(fleet, "run-9", lock="a", due_at="2100-01-01T00:00:00Z")
    queue = seen(fleet)["queue"]
    assert (queue["waiting"], queue["locked"], queue["later"]) == (8, 4, 1)
    assert [(item["label"], item["waiting"], item["locked"]) for item in queue["labels"]] == [("", 6, 3), ("gpu", 2, 1)]
    text = shown(fleet)
    assert "  label  waiting  behind lock  oldest" in text
    assert re.search(r"\n  \(any\)  6        3   ", text), text


def test_a_queue_without_any_worker(fleet: Database) -> None:
    for number in range(2):
        submit(fleet, f"run-{number}")
    cure = ", and there is none\n    start one with `runbook worker`\n"
    assert f"  ! 2 runs wait for any worker{cure}" in shown(fleet)
    submit(fleet, "run-9", due_at="2100-01-01T00:00:00Z")
    assert f"  ! 2 runs wait and 1 comes later for any worker{cure}" in shown(fleet)
    submit(fleet, "run-8", due_at="2100-01-01T00:00:00Z", label="gpu")
    assert "  ! 1 run comes later for a worker with label `gpu`, and there is none\n" in shown(fleet)


def test_what_runs_where(fleet: Database) -> None:
    doing = {"stage": "steps", "step": "load", "attempt": 2, "done": {"a.b": [10, 40], "c.d": [3, 4], "e.f": [1, None]}}
    submit(
        fleet,
        "run-1",
        {"state": "running", "host": "alpha", "doing": json.dumps(doing), "stop": "ada on here", "worker": 3},
        params=json.dumps({"batch": 10, "model": "m\x1b[31m", "other": 1}),
        varied=["batch", "model"],
        attempt=2,
    )
    submit(fleet, "run-2", {"state": "running", "host": "beta", "doing": json.dumps(["odd"])})
    fleet.run("UPDATE runbook_fleet.turns SET seen_at = now() - interval '50 s', since = now() - interval '2 h'")
    first, second = seen(fleet)["running"]
    assert (first["run"], first["progress"]) == ("run-1", 0.25)
    assert (first["params"], first["shown"]) == ({"batch": 10, "model": "m\x1b[31m", "other": 1}, ["batch", "model"])
    assert (first["stage"], first["step"], first["tries"], first["attempt"]) == ("steps", "load", 2, 2)
    assert (first["stop"], first["silent"], first["worker"]) == ("ada on here", True, 3)
    assert (second["stage"], second["progress"], second["stop"]) == ("", None, None)
    text = shown(fleet)
    assert "  run-1  small (attempt 2) batch=10 model=m\\x1b[31m\n" in text
    assert "    alpha, 2h 00m  ██░░░░░░░░ 25 %  steps load (attempt 2)\n    asked to stop by ada on here\n" in text
    assert re.search(r"    no sign of life for 5\ds\n", text)


def test_params_that_no_experiment_varies(fleet: Database) -> None:
    declared = "{n: {type: integer, default: 1}, rate: {type: number, default: 0.5}, day: {type: string}}"
    text = f"runbook: 1\nname: odd\nparams: {declared}\n"
    params = json.dumps({"n": 2, "rate": 0.50, "day": "x" * 90})
    for number, (digest, content) in enumerate([("a", text), ("b", "runbook: 9")]):
        fleet.run(f"INSERT INTO runbook_fleet.files VALUES ('{digest}', '\\x{content.encode().hex()}')")
        submit(fleet, f"run-{number}", {"state": "running", "host": "far"}, params=params, sha256=digest)
    known, unknown = seen(fleet)["running"]
    assert known["params"] == unknown["params"] == {"n": 2, "rate": Decimal("0.50"), "day": "x" * 90}
    assert (known["shown"], unknown["shown"]) == (["n", "day"], ["n", "rate", "day"])
    assert f"  run-0  small n=2 day={'x' * 56}…\n" in shown(fleet)


@pytest.mark.parametrize(
    ("done", "expected"),
    [
        ({}, None),
        ({"a.b": [1, 0]}, None),
        ({"a.b": [0, 4]}, 0),
        ({"a.b": [-3, -4]}, 0.75),
        ({"a.b": [9, 4]}, 1),
        ({"a.b": [-1, 4]}, 0),
        ({"a.b": "odd", "c.d": [1], "e.f": [1, 2]}, 0.5),
    ],
)
def test_progress(done: dict[str, Any], expected: float | None) -> None:
    assert progress(done) == expected


def test_what_ended_lately(fleet: Database, program: Program, tmp_path: Any) -> None:
    host = Host(tmp_path / "far", fleet)
    worker(fleet, "alpha")
    for turn in (None, {"state": "over"}, {"state": "running", "worker": 1}, {"state": "queued"}):
        run = host.exec(program).document["run"]["id"]
        if turn:
            submit(fleet, run, turn)
    found = seen(fleet)
    assert found["recent"] == {"passed": 3}
    assert (found["running"], found["queue"]["labels"], found["workers"][0]["running"]) == ([], [], 0)
    assert "Ended within 10 min: 3 passed\n" in shown(fleet)


def test_schedules(fleet: Database) -> None:
    blank = dict.fromkeys(("files", "params", "options"), "{}") | dict.fromkeys(("label", "lock"), "")
    known = {
        **blank,
        "file": "f",
        "sha256": "0",
        "timezone": "UTC",
        "on_overlap": "skip",
        "rerun": False,
        "operator": "o",
    }
    fleet.run("INSERT INTO runbook_fleet.files VALUES ('0', '')")
    for name, enabled in (("daily", True), ("off", False)):
        times = {"cron": "0 2 * * *", "next_tick": "2100-01-01T02:00:00Z", "enabled": enabled, "host": "h"}
        put(fleet, "schedules", name=name, **known, **times)
    assert [(item["name"], item["next_tick"], item["enabled"]) for item in seen(fleet)["schedules"]] == [
        ("daily", "2100-01-01T02:00:00.000+00:00", True),
        ("off", None, False),
    ]
    text = shown(fleet)
    assert "2100-01-01 02:00 UTC" in text
    assert "off      0 2 * * *  disabled" in text


def test_a_thousand_queued_runs_are_quick(fleet: Database) -> None:
    columns = "experiment, runbook, file, sha256, files, params, varied, options, label, lock, rerun, operator, host"
    submit(fleet, "run-0")
    with psycopg.connect(fleet.url, autocommit=True) as connection:
        connection.execute(
            f"INSERT INTO runbook_fleet.submissions (run_id, {columns}) SELECT 'q' || n, {columns} "  # type: ignore[arg-type]
            "FROM runbook_fleet.submissions, generate_series(1, 1000) n"
        )
        connection.execute("INSERT INTO runbook_fleet.turns (run_id) SELECT 'q' || n FROM generate_series(1, 1000) n")
    began = time.monotonic()
    assert seen(fleet)["queue"]["waiting"] == 1001
    assert time.monotonic() - began < 1
