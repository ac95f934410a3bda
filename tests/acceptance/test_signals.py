"""Ctrl-C, SIGTERM and SIGHUP wherever a run can be: it ends `cancelled` with 130, and its records are complete."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.acceptance.helpers import DB, HEAD, ITEMS, STATE, Background, Site, until
from tests.conftest import Database

SLEEP = "{sql: SELECT pg_sleep(300), timeout: 400s}"
PLACES = {
    "preflight": (
        "preflight:\n  a: {sql: SELECT pg_sleep(300), timeout: 400s}\nsteps:\n  s: {command: [touch, ran]}\n",
        0,
    ),
    "until": (
        "preflight:\n  a: {sql: SELECT 1, returns: value, expect: result == 2, until: {every: 50ms, timeout: 300s}}\n"
        "steps:\n  s: {command: [touch, ran]}\n",
        0,
    ),
    "command": ("steps:\n  s: {command: [sleep, '300']}\n  t: {command: [touch, ran]}\n", 1),
    "sql": (f"steps:\n  s: {SLEEP}\n  t: {{command: [touch, ran]}}\n", 1),
    "http": ("steps:\n  s: {http: {connection: web, get: /slow}}\n  t: {command: [touch, ran]}\n", 1),
    "retry": (
        "steps:\n  s: {command: ['false'], retry: {attempts: 5, delay: 300s}}\n  t: {command: [touch, ran]}\n",
        1,
    ),
    "postcondition": (
        "steps:\n  s: {sql: SELECT 1}\npostconditions:\n  p: {sql: SELECT pg_sleep(300), timeout: 400s}\n",
        1,
    ),
    "finally": (f"steps:\n  s: {{sql: SELECT 1}}\nfinally:\n  f: {SLEEP}\n", 2),
}
ENTERED = {
    "preflight": '"stage": "preflight"',
    "until": '"stage": "preflight"',
    "postcondition": '"which": "after"',
    "finally": '"step": "f"',
    "retry": '"step.ended"',
}
NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("place", PLACES)
def test_a_signal_ends_the_run_with_its_record(
    place: str, database: Database, site: Site, start: Callable[..., Background], write: Callable[..., Path]
) -> None:
    body, started = PLACES[place]
    number = NUMBERS[list(PLACES).index(place) % 3]
    database.run(ITEMS)
    web = DB + "  web: {type: http, env: WEB_URL}\n"
    path = write("small.yaml", HEAD + web + STATE + body)
    background = start("exec", "small.yaml", "--json", env={"DATABASE_URL": database.url, "WEB_URL": site.url})
    background.reached(ENTERED.get(place, '"step.started"'))
    if place in ("preflight", "postcondition", "sql", "finally"):
        asleep = (
            f"SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '{'SELECT pg_sleep'}%'"
        )
        until(lambda: database.rows(asleep))
    ended = background.end(number)
    assert ended.code == 130, ended.err
    record = ended.document
    assert (record["run"]["verdict"], record["run"]["exit_code"], record["run"]["audit"]) == (
        "cancelled",
        130,
        "confirmed",
    )
    assert {signal.SIGINT: "Ctrl-C"}.get(number, number.name) in record["run"]["because"]
    assert Path(record["report"]).read_text().count("**cancelled** (exit code 130)") == 1
    assert database.rows("SELECT verdict, exit_code FROM runbook.closings") == [("cancelled", 130)]
    lines = [json.loads(line) for line in Path(record["journal"]).read_text().splitlines()]
    assert [line["kind"] for line in lines][-3:] == ["run.finished", "audit.closed", "report.written"]
    assert len([line for line in lines if line["kind"] == "step.started"]) == started
    assert not (path.parent / "ran").exists()
    left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'SELECT pg_sleep%'"
    until(lambda: database.value(left) == 0)


def test_a_stop_ends_grandchildren_too_and_a_stubborn_child(
    start: Callable[..., Background], write: Callable[..., Path], tmp_path: Path
) -> None:
    script = (
        "trap '' TERM; (setsid sleep 301 & echo $! > grandchild); sleep 302 & echo $! > child; touch up; wait; wait"
    )
    write("small.yaml", f'{HEAD}steps:\n  s:\n    shell: "{script}"\n')
    background = start("exec", "small.yaml", "--json")
    until((tmp_path / "up").exists)
    pids = [int((tmp_path / name).read_text()) for name in ("child", "grandchild")]
    background.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    ended = background.end(signal.SIGTERM)
    assert ended.code == 130
    assert ended.document["steps"]["s"]["verdict"] == "cancelled"
    for pid in pids:
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_cancelled_run_still_tidies_up(
    database: Database, start: Callable[..., Background], write: Callable[..., Path], tmp_path: Path
) -> None:
    database.run(ITEMS)
    body = "steps:\n  s: {command: [sleep, '300']}\non_failure:\n  undo: {sql: INSERT INTO items VALUES (1)}\n"
    write("small.yaml", HEAD + DB + body + "finally:\n  tidy: {sql: INSERT INTO items VALUES (2)}\n")
    background = start("exec", "small.yaml", "--json", env={"DATABASE_URL": database.url})
    background.reached('"step.started"')
    ended = background.end(signal.SIGINT)
    assert ended.code == 130, ended.err
    assert database.rows("SELECT n FROM items") == [(2,)]
    assert ended.document["steps"]["tidy"]["verdict"] == "passed"


def test_cancelled_before_the_first_step_is_cancelled_even_when_a_check_is_refuted(
    database: Database, start: Callable[..., Background], write: Callable[..., Path]
) -> None:
    body = (
        "preflight:\n  a: {sql: SELECT 1, returns: value, expect: result == 2}\n"
        "  b: {sql: SELECT pg_sleep(300)}\nsteps:\n  s: {sql: SELECT 1}\n"
    )
    write("small.yaml", HEAD + DB + body)
    background = start("exec", "small.yaml", "--json", env={"DATABASE_URL": database.url})
    background.reached('"name": "a"')
    ended = background.end(signal.SIGTERM)
    assert ended.code == 130
    assert ended.document["preflight"]["a"]["verdict"] == "refuted"
    assert ended.document["preflight"]["b"]["verdict"] == "unknown"


def test_sighup_that_nohup_ignores_is_ignored(start: Callable[..., Background], write: Callable[..., Path]) -> None:
    write("small.yaml", HEAD + "steps:\n  s: {shell: 'until test -e go; do sleep 0.05; done'}\n")
    background = start("exec", "small.yaml", "--json", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    background.reached('"step.started"')
    background.process.send_signal(signal.SIGHUP)
    (background.folder / "go").touch()
    assert background.end().code == 0
