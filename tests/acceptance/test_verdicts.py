"""Verdicts and exit codes of `runbook exec`: which one, when several apply; warnings, --strict and --override."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.helpers import ADD, DB, HEAD, ITEMS, NO_AUDIT, STATE, Run, kinds_of, log_of
from tests.conftest import Database, Program

REFUTED = "{sql: SELECT count(*) FROM items, returns: value, expect: result > 5}"
UNKNOWN = "{sql: SELECT count(*) FROM nowhere, returns: value, expect: result > 5}"
WARNED = REFUTED.replace("}", ", severity: warn}")
UNSURE = UNKNOWN.replace("}", ", severity: warn}")
DIES = "steps:\n  add: {sql: SELECT 1/0}\n"
THREE = "expectations:\n  items.total: {delta: 3}\n"
FOUR = "expectations:\n  items.total: {delta: 4}\n"

CASES = {
    "passed": ("passed", 0, THREE + ADD),
    "refuted expectation": ("refuted", 1, FOUR + ADD),
    "refuted postcondition": ("refuted", 1, f"postconditions:\n  room: {REFUTED}\n" + ADD),
    "refuted check": ("blocked", 3, f"preflight:\n  room: {REFUTED}\n" + ADD),
    "unknown check": ("errored", 6, f"preflight:\n  room: {UNKNOWN}\n" + ADD),
    "refuted before unknown, at the gate": ("blocked", 3, f"preflight:\n  a: {UNKNOWN}\n  b: {REFUTED}\n" + ADD),
    "failed": ("failed", 4, DIES),
    "failed before refuted": ("failed", 4, FOUR + DIES),
    "failed before unknown": ("failed", 4, f"postconditions:\n  a: {UNKNOWN}\n" + DIES),
    "refuted before errored": ("refuted", 1, FOUR + f"postconditions:\n  a: {UNKNOWN}\n" + ADD),
    "unknown postcondition": ("errored", 6, THREE + f"postconditions:\n  a: {UNKNOWN}\n" + ADD),
    "warnings": ("passed", 0, f"preflight:\n  a: {WARNED}\n  b: {UNSURE}\npostconditions:\n  c: {WARNED}\n" + ADD),
    "warned expectation": ("passed", 0, "expectations:\n  items.total: {delta: 4, severity: warn}\n" + ADD),
    "failed on the way out": ("failed", 4, THREE + ADD + "finally:\n  tidy: {sql: SELECT 1/0}\n"),
    "failed reaction": ("failed", 4, FOUR + ADD + "on_failure:\n  undo: {sql: SELECT 1/0}\n"),
    "no step at all": ("passed", 0, "preflight:\n  a: {sql: SELECT 1, returns: value, expect: result == 1}\n"),
}


@pytest.mark.parametrize("case", CASES)
def test_which_verdict(case: str, database: Database, run: Run) -> None:
    verdict, code, body = CASES[case]
    database.run(ITEMS)
    record = run(DB + STATE + body, database.url)
    assert (record["run"]["verdict"], record["run"]["exit_code"]) == (verdict, code), record["run"]
    assert database.rows("SELECT verdict, exit_code FROM runbook.closings") == [(verdict, code)]
    assert f"**{verdict}** (exit code {code})" in log_of(record)
    assert bool(record["run"]["because"]) == (verdict != "passed")
    started = "step.started" in kinds_of(record)
    assert started == (verdict not in ("blocked",) and "a: {sql: SELECT 1," not in body and case != "unknown check")
    assert database.value("SELECT count(*) FROM items") == (3 if ADD in body and started else 0)


STRICT = {
    "a refuted check blocks": ("blocked", f"preflight:\n  a: {WARNED}\n" + ADD),
    "an unknown one makes it errored": ("errored", f"preflight:\n  a: {UNSURE}\n" + ADD),
    "an expectation decides": ("refuted", "expectations:\n  items.total: {delta: 4, severity: warn}\n" + ADD),
}


@pytest.mark.parametrize("case", STRICT)
def test_strict_makes_warnings_decide(case: str, database: Database, run: Run) -> None:
    verdict, body = STRICT[case]
    database.run(ITEMS)
    assert run(DB + STATE + NO_AUDIT + body, database.url, strict=True)["run"]["verdict"] == verdict


def test_a_skipped_check_never_counts_as_passed(database: Database, run: Run) -> None:
    database.run(ITEMS)
    body = "preflight:\n  a: {sql: SELECT 1/0, returns: value, when: 1 > 2, expect: result == 1}\n"
    record = run(DB + STATE + NO_AUDIT + body + ADD, database.url)
    assert record["run"]["verdict"] == "passed"
    assert (record["preflight"]["a"]["verdict"], record["preflight"]["a"]["result"]) == ("skipped", None)
    assert "`when` is false: 1 > 2" in record["preflight"]["a"]["because"]


EXITS = {"passed": (0, THREE + ADD), "refuted": (1, FOUR + ADD), "failed": (4, DIES)}


@pytest.mark.parametrize("verdict", EXITS)
def test_the_process_exits_as_the_record_says(
    verdict: str, database: Database, program: Program, write: Callable[..., Path]
) -> None:
    code, body = EXITS[verdict]
    database.run(ITEMS)
    write("small.yaml", HEAD + DB + STATE + body)
    ended = program("exec", "small.yaml", env={"DATABASE_URL": database.url})
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.splitlines()[-1].startswith(verdict)


def test_override_goes_past_one_refuted_check_and_says_who_and_why(
    database: Database, program: Program, write: Callable[..., Path]
) -> None:
    database.run(ITEMS)
    body = f"preflight:\n  room: {REFUTED}\n  space: {WARNED}\n" + THREE + ADD
    write("small.yaml", HEAD + DB + STATE + body)
    given = ("--override", "room", "--reason", "the *boss* knows", "--operator", "Ada", "--json")
    ended = program("exec", "small.yaml", *given, env={"DATABASE_URL": database.url})
    assert ended.code == 0, ended.err
    check = ended.document["preflight"]["room"]
    assert (check["verdict"], check["overridden"]) == ("refuted", "the *boss* knows")
    assert "overridden" not in ended.document["preflight"]["space"]
    assert ended.document["run"]["operator"] == "Ada"
    log = log_of(ended.document)
    assert "gone past: the \\*boss\\* knows" in log and "refuted (gone past)" in log and "**Operator**: Ada" in log
    assert "gone past: the *boss* knows" in ended.err
    line = database.value("SELECT line::jsonb->'data' FROM runbook.events WHERE line LIKE '%\"overridden\"%'")
    assert (line["name"], line["overridden"]) == ("room", "the *boss* knows")
    assert database.rows("SELECT operator FROM runbook.runs") == [("Ada",)]


NOT_OVERRIDDEN = {
    "an unknown check": ("errored", f"preflight:\n  room: {UNKNOWN}\n" + ADD),
    "another check": ("blocked", f"preflight:\n  room: {REFUTED}\n  other: {REFUTED}\n" + ADD),
}


@pytest.mark.parametrize("case", NOT_OVERRIDDEN)
def test_override_excuses_nothing_else(case: str, database: Database, run: Run) -> None:
    verdict, body = NOT_OVERRIDDEN[case]
    database.run(ITEMS)
    record = run(DB + STATE + NO_AUDIT + body, database.url, overrides={"room": "why not"})
    assert record["run"]["verdict"] == verdict


def test_refuted_conditions_show_every_value_in_them(database: Database, run: Run) -> None:
    database.run(ITEMS)
    body = """preflight:
  room:
    sql: SELECT 2 AS two, 3 AS three
    returns: row
    expect: [result.two > params.least, result.three == 4, result.two == 2]
    message: "only {{ result.two }}"
params:
  least: {type: integer, default: 7}
"""
    check = run(DB + STATE + NO_AUDIT + body, database.url)["preflight"]["room"]
    assert "result.two > params.least   where result.two = 2, params.least = 7" in check["because"]
    assert "result.three == 4   where result.three = 3" in check["because"]
    assert "result.two == 2" not in check["because"]
    assert check["message"] == "only 2"
