"""Every type of PostgreSQL keeps its meaning into the record, the journal and the JSON document."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.helpers import DB, HEAD, NO_AUDIT, Run, lines_of, log_of
from tests.conftest import Database, Program

D = Decimal
BIG = "12345678901234567890123456789.000000000000000000123"
TYPES: dict[str, Any] = {
    "9223372036854775807::int8": 9223372036854775807,
    "32767::int2": 32767,
    f"{BIG}::numeric": D(BIG),
    "1e100::numeric": D("1e100"),
    "0.1::numeric + 0.2": D("0.3"),
    "1.10::numeric": D("1.10"),
    "'NaN'::numeric": "NaN",
    "'Infinity'::numeric": "Infinity",
    "'-Infinity'::float8": "-Infinity",
    "0.1::float8": D("0.1"),
    "0.1::float4": D("0.1"),
    "true": True,
    "NULL::int": None,
    "'tab\there ''quoted'''": "tab\there 'quoted'",
    "E'line\\nbreak'": "line\nbreak",
    "'2025-12-10'::date": "2025-12-10",
    "'infinity'::date": "infinity",
    "'0044-03-15 BC'::date": "0044-03-15 BC",
    "'20000-01-01'::date": "20000-01-01",
    "'24:00'::time": "24:00:00",
    "'2025-12-10 14:35:22.123456'::timestamp": "2025-12-10T14:35:22.123456",
    "'-infinity'::timestamptz": "-infinity",
    "interval '1 month 2 days 03:04:05'": "1 mon 2 days 03:04:05",
    "'\\xdeadbeef'::bytea": "\\xdeadbeef",
    "ARRAY[1, NULL, 3]": [1, None, 3],
    "ARRAY[ARRAY['a'], ARRAY['b']]": [["a"], ["b"]],
    "ARRAY[1.50::numeric, 'NaN']": [D("1.50"), "NaN"],
    "'{}'::int[]": [],
    "int4range(1, 5)": "[1,5)",
    "'empty'::int4range": "empty",
    "tstzrange(NULL, NULL)": "(,)",
    "ARRAY[int4range(1, 2)]": ["[1,2)"],
    '\'{"n": 0.10000000000000000000001, "big": 123456789012345678901234567890}\'::jsonb': {
        "n": D("0.10000000000000000000001"),
        "big": 123456789012345678901234567890,
    },
    "'null'::jsonb": None,
    "'[1, null, \"x\"]'::json": [1, None, "x"],
    "'10.0.0.0/8'::cidr": "10.0.0.0/8",
    "'::1'::inet": "::1",
    "'08:00:2b:01:02:03'::macaddr": "08:00:2b:01:02:03",
    "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "B'101'": "101",
    "ROW(1, 'a b')::pair": '(1,"a b")',
    "'sad'::mood": "sad",
    "'(1,2)'::point": "(1,2)",
    "'fat & rat'::tsquery": "'fat' & 'rat'",
    "'pg_class'::regclass": "pg_class",
    "''": "",
}


OWN_TYPES = "CREATE TYPE pair AS (n integer, t text); CREATE TYPE mood AS ENUM ('sad', 'glad')"


def checks_of(types: dict[str, Any]) -> str:
    lines = [f"  c{number}: {{sql: {json.dumps('SELECT ' + sql)}, returns: value}}" for number, sql in enumerate(types)]
    return "preflight:\n" + "\n".join(lines) + "\n"


def exact(value: Any) -> Any:
    """Numbers digit by digit, so that 1.10 and 1.1 differ."""
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [exact(item) for item in value]
    if isinstance(value, Decimal):
        return ("number", f"{value:f}")
    return ("number", str(value)) if type(value) is int else value


def test_every_type_into_the_record(database: Database, run: Run) -> None:
    database.run(OWN_TYPES)
    record = run(DB + NO_AUDIT + checks_of(TYPES), database.url)
    for number, (sql, wanted) in enumerate(TYPES.items()):
        check = record["preflight"][f"c{number}"]
        assert check["verdict"] == "passed", (sql, check["because"])
        assert exact(check["result"]) == exact(wanted), sql
    assert f"| {BIG} |" in log_of(record)


def test_every_type_into_the_json_document_and_the_audit(
    database: Database, program: Program, write: Callable[..., Path]
) -> None:
    database.run(OWN_TYPES)
    write("small.yaml", HEAD + DB + checks_of(TYPES))
    ended = program("exec", "small.yaml", "--json", env={"DATABASE_URL": database.url})
    assert ended.code == 0, ended.err
    document = json.loads(ended.out, parse_float=Decimal, parse_constant=pytest.fail)
    for number, (sql, wanted) in enumerate(TYPES.items()):
        assert exact(document["preflight"][f"c{number}"]["result"]) == exact(wanted), sql
    stored = database.rows("SELECT line::jsonb->'data'->'name' FROM runbook.events WHERE kind = 'check.judged'")
    assert len(stored) == len(TYPES)


def test_metrics_are_exact_and_so_are_their_differences(database: Database, run: Run) -> None:
    database.run("CREATE TABLE sums (n numeric); INSERT INTO sums VALUES (123456789012345678901234567890.01)")
    body = """state:
  sums: {sql: SELECT sum(n) AS total FROM sums}
expectations:
  sums.total: {delta: 0.02}
steps:
  add: {sql: INSERT INTO sums VALUES (0.02)}
"""
    record = run(DB + NO_AUDIT + body, database.url)
    assert record["run"]["verdict"] == "passed", record["run"]
    assert record["before"]["sums"]["total"] == D("123456789012345678901234567890.01")
    assert record["delta"]["sums"]["total"] == D("0.02")


def test_text_that_is_not_utf8_or_has_a_nul_stays_visible(run: Run) -> None:
    body = "steps:\n  s: {command: [printf, 'a\\000b\\377\\303']}\n"
    record = run(body)
    assert record["run"]["verdict"] == "passed"
    tries = record["steps"]["s"]["tries"][0]
    assert tries["result"] == tries["tail"] == "a\\x00b\\xff\\xc3"
    assert lines_of(record)


def test_a_long_text_and_a_long_list_are_cut_visibly(database: Database, run: Run) -> None:
    body = """preflight:
  text: {sql: "SELECT repeat('x', 200000)", returns: value, expect: "result | length == 200000"}
  many: {sql: "SELECT generate_series(1, 5000)", returns: column, expect: "result | length == 5000"}
"""
    record = run(DB + NO_AUDIT + body, database.url)
    assert record["run"]["verdict"] == "passed", record["run"]
    assert "more characters)" in record["preflight"]["text"]["result"][-40:]
    assert len(record["preflight"]["many"]["result"]) <= 5000
    assert len(log_of(record)) < 40_000
