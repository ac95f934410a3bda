"""Checks cannot write: the server enforces it, and here the server is asked afterwards."""

from __future__ import annotations

import json

import pytest

from tests.acceptance.helpers import DB, ITEMS, NO_AUDIT, Run, verdicts_of
from tests.conftest import Database

STATE = "SELECT count(*) AS total FROM items"
ATTACKS = {
    "insert": "INSERT INTO items VALUES (1) RETURNING 1",
    "cte": "WITH w AS (DELETE FROM items RETURNING 1) SELECT count(*) FROM w",
    "commit": "COMMIT",
    "rollback": "ROLLBACK",
    "commit and chain": "COMMIT AND CHAIN",
    "set transaction": "SET TRANSACTION READ WRITE",
    "set off": "SET transaction_read_only = off",
    "set session": "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "release": "RELEASE SAVEPOINT x",
    "set_config": "SELECT set_config('transaction_read_only', 'off', false)",
    "set_config default": "SELECT set_config('default_transaction_read_only', 'off', false)",
    "copy to": "COPY items TO STDOUT",
    "copy from": "COPY items FROM STDIN",
    "copy program": "COPY (SELECT 1) TO PROGRAM 'touch /tmp/runbook-must-not-exist'",
    "do": "DO $$ BEGIN INSERT INTO items VALUES (1); END $$",
    "do commit": "DO $$ BEGIN COMMIT; INSERT INTO items VALUES (1); COMMIT; END $$",
    "function": "SELECT writes()",
    "call": "CALL commits()",
    "create": "CREATE TABLE made (n int)",
    "create temporary": "CREATE TEMPORARY TABLE made (n int)",
    "select into": "SELECT 1 INTO made",
    "truncate": "TRUNCATE items",
    "nextval": "SELECT nextval('numbers')",
    "setval": "SELECT setval('numbers', 500)",
    "for update": "SELECT n FROM items FOR UPDATE",
    "vacuum": "VACUUM items",
    "explain analyze": "EXPLAIN ANALYZE INSERT INTO items VALUES (1)",
    "prepare": "PREPARE p AS INSERT INTO items VALUES (1)",
    "listen": "LISTEN x",
}
OBJECTS = f"""{ITEMS};
CREATE SEQUENCE numbers;
CREATE FUNCTION writes() RETURNS int LANGUAGE sql AS 'INSERT INTO items VALUES (1) RETURNING 1';
CREATE PROCEDURE commits() LANGUAGE plpgsql AS $$ BEGIN COMMIT; INSERT INTO items VALUES (1); END $$;
"""


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_check_writes_and_none_after_it(attack: str, database: Database, run: Run) -> None:
    database.run(OBJECTS)
    body = f"""state:
  items: {{sql: {STATE}}}
preflight:
  attack: {{sql: {json.dumps(ATTACKS[attack])}, severity: warn}}
  after_it: {{sql: INSERT INTO items VALUES (2) RETURNING 1, severity: warn}}
  last: {{sql: "SELECT count(*) FROM items", severity: warn}}
postconditions:
  again: {{sql: {json.dumps(ATTACKS[attack])}, severity: warn}}
  after_again: {{sql: INSERT INTO items VALUES (2) RETURNING 1, severity: warn}}
"""
    record = run(DB + NO_AUDIT + body, database.url)
    assert record["preflight"]["after_it"]["verdict"] == record["postconditions"]["after_again"]["verdict"] == "unknown"
    harmless = attack.startswith("set_config default")
    assert record["preflight"]["attack"]["verdict"] == ("passed" if harmless else "unknown"), record["preflight"]
    assert database.rows("SELECT * FROM items") == []
    assert database.rows("SELECT last_value, is_called FROM numbers") == [(1, False)]
    assert database.value("SELECT to_regclass('made')") is None
    assert database.value("SELECT count(*) FROM pg_largeobject_metadata") == 0


WRITES = {
    "lock table": "DO $$ BEGIN LOCK TABLE items IN ACCESS EXCLUSIVE MODE; END $$",
    "large object": "SELECT lo_create(4711)",
}


@pytest.mark.parametrize("attack", WRITES)
def test_what_a_read_only_transaction_lets_through_is_undone_and_starts_no_step(
    attack: str, database: Database, run: Run
) -> None:
    database.run(ITEMS)
    check = f"preflight:\n  a: {{sql: {json.dumps(WRITES[attack])}, severity: warn}}\n"
    body = check + "steps:\n  s: {sql: INSERT INTO items VALUES (1)}\n"
    record = run(DB + NO_AUDIT + body, database.url)
    assert record["run"]["verdict"] == "errored" and "a check wrote to the database" in record["run"]["because"]
    assert database.rows("SELECT * FROM items") == []
    assert database.value("SELECT count(*) FROM pg_largeobject_metadata") == 0


def test_several_statements_in_one_value_of_a_param_stay_a_value(database: Database, run: Run) -> None:
    database.run(ITEMS)
    body = """params:
  t: {type: string}
preflight:
  a: {sql: "SELECT {{ params.t }}::text", returns: value, expect: result == params.t}
"""
    text = "x'; COMMIT; INSERT INTO items VALUES (1); --"
    assert run(DB + NO_AUDIT + body, database.url, params={"t": text})["run"]["verdict"] == "passed"
    assert database.rows("SELECT * FROM items") == []


LEAKS = {
    "search_path": ("SELECT set_config('search_path', 'nowhere', false)", "SELECT current_setting('search_path')"),
    "local": ("SELECT set_config('search_path', 'nowhere', true)", "SELECT current_setting('search_path')"),
    "time zone": ("SELECT set_config('TimeZone', 'Asia/Tokyo', false)", "SELECT current_setting('TimeZone')"),
    "own": ("SELECT set_config('my.own', 'x', false)", "SELECT coalesce(current_setting('my.own', true), '')"),
    "row security": ("SELECT set_config('row_security', 'off', false)", "SELECT current_setting('row_security')"),
}


@pytest.mark.parametrize("case", LEAKS)
def test_a_setting_does_not_reach_the_next_check(case: str, database: Database, run: Run) -> None:
    attack, question = LEAKS[case]
    body = f"""preflight:
  first: {{sql: "{question}", returns: value}}
  attack: {{sql: "{attack}"}}
  second: {{sql: "{question}", returns: value, expect: result == preflight.first}}
postconditions:
  third: {{sql: "{question}", returns: value, expect: result == preflight.first}}
"""
    record = run(DB + NO_AUDIT + body, database.url)
    assert record["run"]["verdict"] == "passed", record["run"]


def test_advisory_locks_do_not_outlive_the_preflight(database: Database, run: Run) -> None:
    question = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid IN (4711, 4712)"
    body = f"""preflight:
  session: {{sql: SELECT pg_advisory_lock(4711)}}
  transaction: {{sql: SELECT pg_advisory_xact_lock(4712)}}
steps:
  s: {{sql: "{question}", returns: value, expect: result == 0}}
"""
    assert run(DB + NO_AUDIT + body, database.url)["run"]["verdict"] == "passed"


def test_the_lock_of_the_run_cannot_be_given_away_by_a_check(database: Database, run: Run) -> None:
    question = (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    body = f"""preflight:
  attack: {{sql: SELECT pg_advisory_unlock_all()}}
steps:
  s: {{sql: "{question}", returns: value, expect: result == 1}}
"""
    assert run(DB + NO_AUDIT + body, database.url)["run"]["verdict"] == "passed"


def test_checks_share_one_snapshot_and_until_has_its_own(database: Database, run: Run) -> None:
    database.run(ITEMS)
    add = f"psql -qc 'INSERT INTO items VALUES (1)' '{database.url}'"
    body = f"""state:
  items: {{sql: {STATE}}}
preflight:
  writes: {{command: [sh, -c, "{add}"]}}
  shared: {{sql: SELECT count(*) FROM items, returns: value, expect: [result == 0, result == before.items.total]}}
  fresh: {{sql: SELECT count(*) FROM items, returns: value, expect: result == 1, until: {{every: 50ms, timeout: 60s}}}}
"""
    record = run(DB + NO_AUDIT + body, database.url)
    assert record["run"]["verdict"] == "passed", record["run"]


def test_no_transaction_stays_open_across_a_step(database: Database, run: Run) -> None:
    question = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
    body = f"""state:
  one: {{sql: SELECT 1 AS n}}
preflight:
  a: {{sql: SELECT 1}}
steps:
  s: {{sql: "{question}", returns: value, expect: result == 0}}
"""
    assert run(DB + body, database.url)["run"]["verdict"] == "passed"


def test_limits_hold_in_checks(database: Database, run: Run) -> None:
    database.run(ITEMS)
    body = """preflight:
  slow: {sql: SELECT pg_sleep(300), timeout: 200ms, severity: warn}
  next: {sql: SELECT 1, returns: value, expect: result == 1}
  freed: {sql: "SELECT set_config('statement_timeout', '0', false)"}
  slow_still: {sql: SELECT pg_sleep(300), timeout: 200ms, severity: warn}
"""
    record = run(DB + NO_AUDIT + body, database.url)
    wanted = {"slow": "unknown", "next": "passed", "freed": "passed", "slow_still": "unknown"}
    assert verdicts_of(record["preflight"]) == wanted
    assert "timed out" in record["preflight"]["slow"]["because"] or "timeout" in record["preflight"]["slow"]["because"]
