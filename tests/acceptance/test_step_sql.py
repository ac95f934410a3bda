"""`sql` steps: their transaction, their values, their time limit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.helpers import DB, NO_AUDIT, Run, until
from tests.conftest import Database

HEADED = DB + NO_AUDIT


@pytest.fixture
def items(database: Database) -> Database:
    database.run("CREATE TABLE items (n integer UNIQUE, t text, j jsonb)")
    return database


def test_several_statements_share_one_transaction(items: Database, run: Run) -> None:
    body = """steps:
  good:
    sql: |
      INSERT INTO items VALUES (1);  -- one; two
      UPDATE items SET n = n + 1;
      SELECT n FROM items;
    returns: value
    expect: [result == 2, rowcount == 1]
  bad:
    sql: INSERT INTO items VALUES (5); SELECT 1/0
"""
    record = run(HEADED + body, items.url)
    assert (record["steps"]["good"]["verdict"], record["steps"]["bad"]["verdict"]) == ("passed", "failed")
    assert items.rows("SELECT n FROM items") == [(2,)]
    assert "division by zero" in record["steps"]["bad"]["because"]


SINGLE = ["VACUUM items", "CREATE INDEX CONCURRENTLY i ON items (t)", "ANALYZE", "CREATE DATABASE {name}_x"]


@pytest.mark.parametrize("statement", SINGLE)
def test_a_single_statement_runs_by_itself(statement: str, items: Database, run: Run) -> None:
    name = items.value("SELECT current_database()")
    try:
        record = run(f"{HEADED}steps:\n  s: {{sql: {statement.format(name=name)}}}\n", items.url)
        assert record["run"]["verdict"] == "passed", record["run"]
    finally:
        items.run(f"DROP DATABASE IF EXISTS {name}_x")


def test_a_file_with_values(items: Database, run: Run, write: Callable[..., Path]) -> None:
    write(
        "sql/add.sql",
        "-- what's this; not a statement\nINSERT INTO items (n, t) VALUES ({{ params.n }}, {{ params.t }})",
    )
    params = 'params:\n  n: {type: integer, default: 3}\n  t: {type: string, default: "it\'s; 100% :x ?"}\n'
    record = run(HEADED + params + "steps:\n  s: {sql: {file: sql/add.sql}, expect: rowcount == 1}\n", items.url)
    assert record["run"]["verdict"] == "passed"
    assert items.rows("SELECT n, t FROM items") == [(3, "it's; 100% :x ?")]


def test_identifier_and_jsonb(items: Database, run: Run) -> None:
    items.run('CREATE SCHEMA "My S"; CREATE TABLE "My S"."a""b" (n int)')
    body = """params:
  path: {type: array, default: ["My S", 'a"b']}
steps:
  names: {sql: "INSERT INTO {{ params.path | identifier }} VALUES ({{ 7 }})"}
  json: {sql: "INSERT INTO items (j) VALUES ({{ {'a': [1.5, none, 'x'], 'b': params.path} | jsonb }})"}
"""
    assert run(HEADED + body, items.url)["run"]["verdict"] == "passed"
    assert items.rows('SELECT n FROM "My S"."a""b"') == [(7,)]
    assert items.value("SELECT j::text FROM items") == '{"a": [1.5, null, "x"], "b": ["My S", "a\\"b"]}'


def test_percent_signs_casts_and_question_marks_need_no_escaping(items: Database, run: Run) -> None:
    body = """steps:
  s:
    sql: |
      SELECT 1::int AS a, '100%' LIKE '%\\%' AS b, '{"a": 1}'::jsonb ? 'a' AS c, 5 % 3 AS d, '%s' AS e,
             $$ {$} $$ AS f, {{ 4 }}::int AS four
    returns: row
    expect: result.four == 4
"""
    record = run(HEADED + body, items.url)
    assert record["run"]["verdict"] == "passed", record["run"]
    row = record["steps"]["s"]["tries"][0]["result"]
    assert row == {"a": 1, "b": True, "c": True, "d": 2, "e": "%s", "f": " {$} ", "four": 4}


def test_a_time_limit_ends_the_statement_on_the_server(items: Database, run: Run) -> None:
    record = run(HEADED + "steps:\n  s: {sql: SELECT pg_sleep(300), timeout: 200ms}\n", items.url)
    assert "timed out after 0.2 s" in record["steps"]["s"]["because"]
    left = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND datname = current_database()"
    until(lambda: items.value(left) == 0)


def test_a_step_that_dies_with_its_connection_is_failed(items: Database, run: Run) -> None:
    record = run(HEADED + "steps:\n  s: {sql: SELECT pg_terminate_backend(pg_backend_pid())}\n", items.url)
    assert record["run"]["verdict"] == "failed"
    assert "whether it was committed is not known" in record["steps"]["s"]["because"]


def test_a_step_on_another_connection(items: Database, run: Run) -> None:
    body = f"""connections:
  db: {{type: postgres, env: DATABASE_URL}}
  reader: {{type: postgres, default: '{items.read_url}'}}
steps:
  writes: {{sql: INSERT INTO items VALUES (1), connection: db}}
  cannot: {{sql: INSERT INTO items VALUES (2), connection: reader}}
"""
    record = run(NO_AUDIT + body, items.url)
    assert (record["steps"]["writes"]["verdict"], record["steps"]["cannot"]["verdict"]) == ("passed", "failed")
    assert items.rows("SELECT n FROM items") == [(1,)]
