"""What a runbook takes from other files, and the defaults that it gives."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from runbook.language.load import load
from runbook.language.problems import InvalidRunbook, Problem

SHARED = """connections:
  db: {type: postgres, env: DATABASE_URL}
state:
  items:
    sql: SELECT count(*) AS total FROM items
preflight:
  room:
    sql: SELECT 1 AS a
    expect: result[0].a == params.one
remedies:
  empty: {sql: DELETE FROM items, max_rows: 3}
defaults:
  checks: {severity: warn, timeout: 5s}
"""
OWN = """runbook: 1
name: own
params: {one: {type: integer, default: 1}}
include: parts/shared.yaml
preflight:
  mine: {expect: 1 == 1, remedy: empty, severity: error}
steps:
  go: {command: ['true']}
"""
Write = Callable[..., Path]


def problems(path: Path) -> list[Problem]:
    with pytest.raises(InvalidRunbook) as caught:
        load(path)
    return caught.value.problems


def test_parts_of_another_file_belong_to_the_runbook(write: Write) -> None:
    shared = write("parts/shared.yaml", SHARED)
    runbook = load(write("own.yaml", OWN))
    assert [check.name for check in runbook.preflight] == ["room", "mine"]
    assert list(runbook.connections) == ["db"] and runbook.audit.connection == "db"
    assert runbook.state[0].name == "items" and list(runbook.remedies) == ["empty"]
    assert [(check.severity, check.timeout) for check in runbook.preflight] == [("warn", 5.0), ("error", 5.0)]
    assert runbook.files == {str(shared): hashlib.sha256(shared.read_bytes()).hexdigest()}
    assert [runbook.document.own_line(("preflight", name)) for name in ("room", "mine")] == [0, 6]
    assert runbook.sha256 == hashlib.sha256(OWN.encode()).hexdigest()


def test_its_own_entries_go_first_then_those_of_the_file_named_first(write: Write) -> None:
    write("one.yaml", "state:\n  s: {sql: SELECT 1 AS n}\nconnections:\n  db: {type: postgres, env: ONE}\n")
    write("two.yaml", "state:\n  s: {sql: SELECT 2 AS m}\n")
    head = "runbook: 1\nname: own\ninclude: [one.yaml, two.yaml]\nsteps:\n  go: {command: ['true']}\n"
    runbook = load(write("own.yaml", head + "connections:\n  db: {type: postgres, env: OWN}\n"))
    assert runbook.connections["db"].env == "OWN"
    assert "SELECT 1 AS n" in str(runbook.state[0].probe)


def test_defaults_of_steps_and_states(write: Write) -> None:
    text = """runbook: 1
name: own
connections: {db: {type: postgres, env: DATABASE_URL}}
defaults:
  steps: {timeout: 1h, retry: {attempts: 3}}
  states: {timeout: 2s}
state:
  s: {sql: SELECT 1 AS n}
steps:
  a: {command: ['true']}
  b: {command: ['true'], timeout: 5s, retry: {attempts: 1}}
finally:
  c: {command: ['true']}
"""
    runbook = load(write("own.yaml", text))
    assert [(step.timeout, step.retry.attempts) for step in runbook.steps] == [(3600.0, 3), (5.0, 1)]
    assert (runbook.finally_[0].timeout, runbook.state[0].timeout) == (3600.0, 2.0)


@pytest.mark.parametrize(
    ("old", "new", "file", "line", "column", "message"),
    [
        ("params.one", "params.two", "parts/shared.yaml", 9, 35, "`params` has no `two`"),
        ("expect: result[0].a", "expct: result[0].a", "parts/shared.yaml", 9, 5, "unknown key"),
        ("max_rows: 3", "max_rows: many", "parts/shared.yaml", 11, 45, "must be a whole number"),
        ("SELECT 1 AS a", "SELECT '{{ params.one }}'", "parts/shared.yaml", 8, 18, "literal"),
        ("severity: warn", "severity: warm", "parts/shared.yaml", 13, 22, '"warm" is not one of'),
        ("state:\n", "steps: {}\nstate:\n", "parts/shared.yaml", 3, 1, "`steps` cannot be included"),
        ("state:\n", "include: x.yaml\nstate:\n", "parts/shared.yaml", 3, 1, "`include` cannot be included"),
        ("state:\n", "state: [\n", "parts/shared.yaml", 3, 8, "not closed"),
    ],
)
def test_positions_stay_right_across_files(
    write: Write, monkeypatch: pytest.MonkeyPatch, old: str, new: str, file: str, line: int, column: int, message: str
) -> None:
    assert old in SHARED
    write("parts/shared.yaml", SHARED.replace(old, new, 1))
    path = write("own.yaml", OWN)
    monkeypatch.chdir(path.parent)
    found = problems(Path("own.yaml"))[0]
    assert (found.file, found.line) == (file, line), found
    assert message in found.message and found.column == column, found
    assert found.source.strip()


def test_a_file_that_is_not_there(write: Write) -> None:
    (found,) = [item for item in problems(write("own.yaml", OWN)) if "include" in item.where]
    assert (found.line, found.where) == (4, "include") and "parts/shared.yaml: the file does not exist" in found.message


def test_what_is_no_mapping(write: Write) -> None:
    write("parts/shared.yaml", "- a\n")
    assert any("mapping" in item.message for item in problems(write("own.yaml", OWN)))
