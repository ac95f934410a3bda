"""The preflight alone: as a table, as a document, again and again; and nothing is left behind."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

from tests.acceptance.helpers import DB, HEAD, ITEMS, Background
from tests.conftest import Database, Program

CHECKS = """\
preflight:
  few: {sql: SELECT count(*) FROM items, returns: value, expect: result < 2, message: too many, remedy: empty}
  many: {sql: SELECT count(*) FROM items, returns: value, expect: result > 5, severity: warn}
  rows: {sql: SELECT n FROM items}
remedies:
  empty: {find: SELECT n FROM items, sql: DELETE FROM items, max_rows: 5}
"""


def test_the_table_says_what_came_and_what_was_expected(
    database: Database, program: Program, write: Callable[..., Path], tmp_path: Path
) -> None:
    database.run(ITEMS)
    write("small.yaml", HEAD + DB + CHECKS)
    ended = program("check", "small.yaml", env={"DATABASE_URL": database.url})
    assert ended.code == 0
    lines = [line.split() for line in ended.err.splitlines()]
    assert ["check", "verdict", "result", "expected", "took"] in lines
    assert ["few", "passed", "0", "result", "<", "2"] in [line[:6] for line in lines]
    assert ["many", "warning:", "refuted", "0", "result", ">", "5"] in [line[:7] for line in lines]
    assert ["rows", "measured", "0", "rows"] in [line[:4] for line in lines]
    assert not (tmp_path / ".runbook").exists() and not (tmp_path / "logs").exists()


def test_a_refuted_check_says_why_and_what_could_be_done(
    database: Database, program: Program, write: Callable[..., Path]
) -> None:
    database.run(f"{ITEMS}; INSERT INTO items VALUES (1), (2)")
    write("small.yaml", HEAD + DB + CHECKS)
    ended = program("check", "small.yaml", env={"DATABASE_URL": database.url})
    assert ended.code == 3 and "blocked" in ended.err
    assert "    too many: result < 2   where result = 2" in ended.err and "remedy: runbook remedy " in ended.err


def test_watching_asks_again_and_tells_what_changed(
    database: Database, write: Callable[..., Path], start: Callable[..., Background]
) -> None:
    database.run(ITEMS)
    write("small.yaml", HEAD + DB + CHECKS)
    arguments = ("check", "small.yaml", "few", "--watch", "--interval", "0.2", "--json")
    background = start(*arguments, env={"DATABASE_URL": database.url})
    assert background.process.stdout is not None
    first = json.loads(background.process.stdout.readline())
    database.run("INSERT INTO items VALUES (1), (2), (3)")
    later = first
    while later["preflight"]["few"]["verdict"] == "passed":
        later = json.loads(background.process.stdout.readline())
    assert (first["run"]["exit_code"], later["run"]["exit_code"]) == (0, 3)
    assert list(later["preflight"]) == ["few"]
    ended = background.end(signal.SIGINT)
    assert ended.code == 3 and "*few" in ended.err
