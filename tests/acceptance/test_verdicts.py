"""Verdicts and exit codes of `runbook exec`, one small runbook each, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Database, Program

HEAD = """\
runbook: 1
name: small
connections:
  db: {type: postgres, env: DATABASE_URL}
state:
  items:
    sql: SELECT count(*) AS total FROM items
"""
STEP = "steps:\n  add:\n    sql: INSERT INTO items SELECT generate_series(1, 3)\n"

CASES = {
    "passed": (0, "expectations:\n  items.total: {delta: 3}\n" + STEP),
    "refuted": (1, "expectations:\n  items.total: {delta: 4}\n" + STEP),
    "blocked": (
        3,
        "preflight:\n  room: {sql: SELECT count(*) FROM items, returns: value, expect: result > 5}\n" + STEP,
    ),
    "failed": (4, "steps:\n  add: {sql: SELECT 1/0}\n"),
    "errored": (
        6,
        "preflight:\n  room: {sql: SELECT count(*) FROM nowhere, returns: value, expect: result > 5}\n" + STEP,
    ),
}


@pytest.mark.parametrize("verdict", CASES)
def test_verdict(verdict: str, database: Database, program: Program, write: Callable[..., Path]) -> None:
    code, body = CASES[verdict]
    database.run("CREATE TABLE items (n integer)")
    write("small.yaml", HEAD + body)
    ended = program("exec", "small.yaml", "--json", env={"DATABASE_URL": database.url})
    assert ended.code == code, ended.err
    assert ended.document["run"]["verdict"] == verdict
    assert ended.document["run"]["exit_code"] == code
    assert database.value("SELECT verdict FROM runbook.closings") == verdict
    assert Path(ended.document["report"]).read_text().startswith("# small\n")
    assert database.value("SELECT count(*) FROM items") == (3 if verdict in ("passed", "refuted") else 0)
