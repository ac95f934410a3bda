"""Remedies: listed, looked at, done after consent, bounded, and found in the history."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.helpers import until
from tests.conftest import Database, Ended, Program

STUCK = "SELECT count(*) FROM interactions WHERE status = 'processing' AND updated_at < now() - INTERVAL '30 minutes'"
ORPHANS = "SELECT count(*) FROM interactions WHERE status = 'pending' AND workflow_run_id IS NULL"
SMALL = """runbook: 1
name: small
params:
  most: {type: integer, default: 9}
connections:
  db: {type: postgres, env: DATABASE_URL}
state:
  items: {sql: SELECT count(*) AS total FROM items}
preflight:
  few: {sql: SELECT count(*) FROM items, returns: value, expect: result < 2, remedy: empty, severity: warn}
steps:
  go: {command: ['true']}
audit:
  finished: {sql: "INSERT INTO items VALUES (100)"}
remedies:
  empty:
    description: Throw away what is too much
    find: SELECT n FROM items WHERE n > {{ params.most }} ORDER BY n
    sql: DELETE FROM items WHERE n > {{ params.most }}
    max_rows: 5
  broken: {sql: DELETE FROM nowhere, max_rows: 1}
  defines: {sql: CREATE TABLE other (n integer), max_rows: 1}
"""
Ask = Callable[..., Ended]


@pytest.fixture
def small(database: Database, program: Program, write: Callable[..., Path]) -> Ask:
    database.run("CREATE TABLE items AS SELECT generate_series(1, 12) AS n")
    write("small.yaml", SMALL)

    def ask(*arguments: str, **given: Any) -> Ended:
        return program(*arguments, env={"DATABASE_URL": database.url}, **given)

    return ask


def items(database: Database) -> int:
    return int(database.value("SELECT count(*) FROM items"))


def test_the_cookbooks_remedies(example: Database, program: Program) -> None:
    env = {"DATABASE_URL": example.url}
    file = str(Path(__file__).parents[2] / "runbooks" / "wf3001.yaml")
    listed = program("remedy", file, "--json", env=env).document["remedies"]
    stuck, orphans = example.value(STUCK), example.value(ORPHANS)
    assert [(item["name"], item["rows"], item["max_rows"]) for item in listed] == [
        ("reset-stuck", stuck, 500),
        ("delete-orphans", orphans, 500),
        ("redo-summaries", 0, 500),
    ]
    ended = program("remedy", file, "reset-stuck", "--yes", "--note", "they hang", "--json", env=env)
    assert ended.code == 0 and ended.document["applied"], ended.err
    assert (example.value(STUCK), ended.document["run"]["steps"]["reset-stuck"]["rowcount"]) == (0, stuck)
    assert ended.document["run"]["notes"] == ["they hang"]
    assert "nothing to repair" in program("remedy", file, "reset-stuck", "--yes", env=env).err
    ended = program("remedy", file, "delete-orphans", "--yes", env=env)
    assert ended.code == 0 and example.value(ORPHANS) == 0
    runs = program("history", "--json", env=env).document["runs"]
    assert [run["title"] for run in runs] == ["Remedy delete-orphans of wf3001", "Remedy reset-stuck of wf3001"]
    assert program("audit", "verify", env=env).code == 0


def test_looking_changes_nothing(small: Ask, database: Database) -> None:
    ended = small("remedy", "small.yaml", "empty", "--json")
    document = ended.document
    assert (ended.code, document["rows"], document["applied"], document["run"]) == (0, 3, False, None)
    assert [row["n"] for row in document["found"]] == [10, 11, 12]
    assert (document["before"], document["after"]) == ({"items": {"total": 12}}, {"items": {"total": 9}})
    assert "items.total: 12 → 9" in ended.err and "nothing was changed" in ended.err
    assert items(database) == 12 and small("history", "--json").document["runs"] == []


def test_doing_it_is_a_run_with_states_before_and_after(small: Ask, database: Database) -> None:
    ended = small("remedy", "small.yaml", "empty", "--yes", "--operator", "Ada", "-p", "most=10", "--json")
    run = ended.document["run"]
    assert ended.code == 0 and items(database) == 10, "the runbook's own audit rows are not written"
    assert (run["run"]["remedy"], run["run"]["operator"], run["run"]["runbook"]) == ("empty", "Ada", "small")
    assert (run["before"], run["after"], run["delta"]) == (
        {"items": {"total": 12}},
        {"items": {"total": 10}},
        {"items": {"total": -2}},
    )
    assert (run["steps"]["empty"]["rowcount"], run["params"], run["preflight"]) == (2, {"most": 10}, {})
    assert "small (empty)" in small("history").out
    for command in (["exec", "--resume"], ["repro"]):
        refused = small(*command, run["run"]["id"], "--yes")
        assert refused.code in (5, 6) and "was the remedy `empty`" in refused.err


def test_more_rows_than_it_may(small: Ask, database: Database) -> None:
    ended = small("remedy", "small.yaml", "empty", "--yes", "-p", "most=2")
    assert ended.code == 3 and "would touch 10 rows, and may touch 5" in ended.err
    assert items(database) == 12 and small("history", "--json").document["runs"] == []


def test_a_writer_between_looking_and_doing(small: Ask, database: Database) -> None:
    """One row more once the remedy's run has begun, which is after the rows were shown."""
    small("exec", "small.yaml")  # makes the audit's tables
    database.run(
        "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN INSERT INTO public.items VALUES (99); RETURN NULL; END';"
        " CREATE TRIGGER meddle AFTER INSERT ON runbook.runs FOR EACH ROW EXECUTE FUNCTION public.meddle()"
    )
    ended = small("remedy", "small.yaml", "empty", "--yes")
    assert ended.code == 4 and "it touched 5 rows, and 4 were shown" in ended.err, ended.err
    assert items(database) == 14


def test_what_cannot_be_looked_at_is_told(small: Ask, database: Database) -> None:
    listed = {item["name"]: item for item in small("remedy", "small.yaml", "--json").document["remedies"]}
    assert listed["empty"]["rows"] == 3
    assert "nowhere" in listed["broken"]["because"] and "how many rows" in listed["defines"]["because"]
    assert small("remedy", "small.yaml", "broken").code == 6
    unknown = small("remedy", "small.yaml", "emty")
    assert unknown.code == 2 and "did you mean `empty`?" in unknown.err


def test_a_check_that_misses_says_which_command_would_help(small: Ask) -> None:
    ended = small("exec", "small.yaml")
    assert "remedy: runbook remedy " in ended.err and "small.yaml empty" in ended.err
    assert "small.yaml empty`" in small("show", "last").out


def test_a_lock_that_is_held(small: Ask, database: Database) -> None:
    Path("small.yaml").write_text(SMALL.replace("['true']", "[sleep, '30']"))
    running = threading.Thread(target=small, args=("exec", "small.yaml"))
    running.start()
    until(lambda: "small" in small("status").err)
    ended = small("remedy", "small.yaml", "empty", "--yes")
    small("stop", "last")
    running.join()
    assert ended.code == 7 and items(database) in (12, 13)
