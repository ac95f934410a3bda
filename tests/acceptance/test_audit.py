"""The audit: rows that equal the journal, rows of the user's own, and what happens where it cannot be written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.helpers import ADD, DB, HEAD, ITEMS, STATE, Run, lines_of, log_of, until
from tests.conftest import Database, Program

OWN = """audit:
  started:
    sql: INSERT INTO own (run, before) VALUES ({{ run.id }}, {{ before.items.total }}) RETURNING id
  finished:
    sql: UPDATE own SET verdict = {{ run.verdict }}, after = {{ after.items.total }}, delta = {{ delta.items | jsonb }},
      predicted = {{ expectations.items.total.predicted }} WHERE id = {{ audit.started }}
"""
TABLES = (
    f"{ITEMS}; CREATE TABLE own (id serial, run text, before int, after int, delta jsonb, predicted int, verdict text)"
)
EXPECTED = "expectations:\n  items.total: {delta: 3}\n"


@pytest.fixture
def items(database: Database) -> Iterator[Database]:
    database.run(TABLES)
    yield database
    administrators = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'postgres'"
    until(lambda: database.value(administrators) == 0)


@pytest.fixture
def role(database: Database) -> Iterator[tuple[str, Callable[[str], None]]]:
    """The URL of an ordinary role without any rights, and a way to act as the server's administrator."""
    name = f"role_{database.value('SELECT current_database()')}"
    administrator = database.url.replace("runbook_owner@", "postgres@")

    def administer(sql: str) -> None:
        with psycopg.connect(administrator, autocommit=True) as connection:
            connection.execute(sql.replace("NAME", name).encode())

    administer("CREATE ROLE NAME LOGIN")
    try:
        yield database.url.replace("runbook_owner@", f"{name}@"), administer
    finally:
        administer("DROP OWNED BY NAME; DROP ROLE NAME")


def test_the_audit_has_every_line_of_the_journal(items: Database, run: Run) -> None:
    record = run(DB + STATE + EXPECTED + ADD, items.url, operator="Ada", params={})
    lines = lines_of(record)
    rows = items.rows("SELECT seq, kind, line::jsonb, previous, hash FROM runbook.events ORDER BY seq")
    closed = [line for line in lines if line["kind"] not in ("audit.closed", "report.written")]
    wanted = []
    for line in closed:
        plain = {key: line[key] for key in ("seq", "at", "kind", "data")}
        wanted.append((line["seq"], line["kind"], plain, line["previous"], line["hash"]))
    assert rows == wanted
    [(number, last_seq, last_hash)] = items.rows("SELECT number, last_seq, last_hash FROM runbook.closings")
    head = items.value("SELECT head FROM runbook.chain WHERE number = 2")
    assert (number, last_seq, last_hash) == (2, closed[-1]["seq"], closed[-1]["hash"])
    assert record["audit"]["head"] == head and f"confirmed, head `{head}`" in log_of(record)
    found = items.rows("SELECT run_id, runbook, operator, db_role, lock FROM runbook.runs")
    assert found == [(record["run"]["id"], "small", "Ada", "runbook_owner", "small")]
    text = Path(record["journal"]).read_text().splitlines()[0]
    stored = items.value("SELECT line FROM runbook.events WHERE seq = 1")
    assert text.startswith(stored[:-1])


def test_openings_and_closings_are_chained_from_run_to_run(items: Database, run: Run) -> None:
    for _ in range(3):
        run(DB + "steps:\n  s: {command: ['true']}\n", items.url)
    rows = items.rows("SELECT number, kind, previous, head FROM runbook.chain ORDER BY number")
    assert [row[:2] for row in rows] == [(number, ("closed", "opened")[number % 2]) for number in range(1, 7)]
    assert [row[2] for row in rows] == ["0" * 64, *(row[3] for row in rows[:-1])]


def test_the_audit_is_append_only(items: Database, run: Run) -> None:
    run(DB + "steps:\n  s: {command: ['true']}\n", items.url)
    for table in ("runs", "events", "closings", "chain", "migrations"):
        column = "version" if table == "migrations" else "run_id"
        for change in (
            f"UPDATE runbook.{table} SET {column} = {column}",
            f"DELETE FROM runbook.{table}",
            f"TRUNCATE runbook.{table} CASCADE",
        ):
            with pytest.raises(psycopg.Error, match="append-only"):
                items.run(change)


def test_rows_of_ones_own(items: Database, run: Run) -> None:
    record = run(DB + STATE + EXPECTED + OWN + ADD, items.url)
    assert record["run"]["verdict"] == "passed", record["run"]
    rows = items.rows("SELECT id, run, before, after, delta, predicted, verdict FROM own")
    assert rows == [(1, record["run"]["id"], 0, 3, {"total": 3}, 3, "passed")]
    assert record["audit"]["started"] == 1


def test_a_blocked_run_has_its_rows_with_nulls_for_what_was_not_reached(items: Database, run: Run) -> None:
    body = "preflight:\n  a: {expect: 1 > 2}\nexpectations:\n  items.total: {delta: 1 / before.items.total}\n"
    record = run(DB + STATE + body + OWN + ADD, items.url)
    assert record["run"]["verdict"] == "blocked"
    rows = items.rows("SELECT before, after, delta, predicted, verdict FROM own")
    assert rows == [(0, None, None, None, "blocked")]


TROUBLES = {
    "started": (
        "audit:\n  started: {sql: INSERT INTO nowhere VALUES (1)}\n",
        "errored",
        "nowhere",
        0,
    ),
    "started uses what is absent": (
        "preflight:\n  a: {sql: SELECT 1, returns: value, when: 1 > 2}\n"
        "audit:\n  started: {sql: 'INSERT INTO own (before) VALUES ({{ preflight.a }})'}\n",
        "errored",
        "preflight.a was skipped",
        0,
    ),
    "finished": ("audit:\n  finished: {sql: UPDATE own SET nothing = 1}\n", "errored", "nothing", 3),
    "finished uses what is absent": (
        "postconditions:\n  a: {sql: SELECT 1, returns: value, when: 1 > 2}\n"
        "audit:\n  finished: {sql: 'INSERT INTO own (before) VALUES ({{ postconditions.a }})'}\n",
        "errored",
        "postconditions.a was skipped",
        3,
    ),
}


@pytest.mark.parametrize("case", TROUBLES)
def test_a_row_that_cannot_be_written_makes_a_passed_run_errored_in_all_three_records(
    case: str, items: Database, run: Run
) -> None:
    body, verdict, because, added = TROUBLES[case]
    record = run(DB + STATE + body + ADD, items.url)
    assert (record["run"]["verdict"], record["run"]["exit_code"]) == (verdict, 6)
    assert because in record["run"]["because"]
    assert items.rows("SELECT verdict, exit_code FROM runbook.closings") == [("errored", 6)]
    assert "**errored** (exit code 6)" in log_of(record) and because in log_of(record)
    assert items.value("SELECT count(*) FROM items") == added


def test_every_other_verdict_stays_when_a_row_cannot_be_written(items: Database, run: Run) -> None:
    body = "steps:\n  s: {command: ['false']}\naudit:\n  finished: {sql: UPDATE own SET nothing = 1}\n"
    record = run(DB + body, items.url)
    assert (record["run"]["verdict"], record["run"]["audit"]) == ("failed", "failed")
    assert items.rows("SELECT verdict FROM runbook.closings") == [("failed",)]


def test_the_closing_row_and_the_closing_record_are_one_transaction(items: Database, run: Run) -> None:
    items.run("CREATE TABLE once (n int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO once VALUES (1)")
    body = "steps:\n  s: {command: ['true']}\naudit:\n  finished: {sql: INSERT INTO once VALUES (1)}\n"
    record = run(DB + body, items.url)
    assert (record["run"]["verdict"], items.rows("SELECT verdict FROM runbook.closings")) == ("errored", [("errored",)])


def test_a_role_without_rights_is_told_what_to_do_and_can_work_after_it(
    items: Database, role: tuple[str, Callable[[str], None]], program: Program, write: Callable[..., Path]
) -> None:
    url, administer = role
    administer("GRANT SELECT, INSERT ON items TO NAME")
    write("small.yaml", HEAD + DB + STATE + EXPECTED + ADD)
    ended = program("exec", "small.yaml", "--json", env={"DATABASE_URL": url})
    assert ended.code == 6 and "runbook audit schema" in ended.err
    assert "runbook audit schema" in ended.document["run"]["because"]
    assert items.value("SELECT count(*) FROM items") == 0
    schema = program("audit", "schema")
    assert schema.code == 0
    administer(schema.out)
    administer("GRANT USAGE ON SCHEMA runbook TO NAME; GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA runbook TO NAME")
    administer("GRANT UPDATE ON runbook.leases TO NAME")
    ended = program("exec", "small.yaml", "--json", env={"DATABASE_URL": url})
    assert ended.code == 0, ended.err
    assert items.rows("SELECT db_role <> 'runbook_owner' FROM runbook.runs") == [(True,)]


def test_switched_off_it_says_so_everywhere(items: Database, run: Run) -> None:
    record = run(DB + STATE + EXPECTED + "audit: {enabled: false}\n" + ADD, items.url)
    assert (record["run"]["verdict"], record["run"]["audit"]) == ("passed", "disabled")
    assert items.value("SELECT to_regnamespace('runbook')") is None
    assert any("no audit" in warning for warning in record["circumstances"]["warnings"])
    assert "audit: off: the journal is the only record" in log_of(record)


def test_without_any_postgres(program: Program, write: Callable[..., Path], tmp_path: Path) -> None:
    write("small.yaml", HEAD + "steps:\n  s: {command: ['true']}\n")
    ended = program("exec", "small.yaml", "--json")
    assert (ended.code, ended.document["run"]["audit"]) == (0, "disabled")
    assert "no audit in a database: no postgres connection is declared" in ended.err
    assert list((tmp_path / "state").rglob("*.lock"))


def test_a_protected_connection_asks_for_consent(items: Database, program: Program, write: Callable[..., Path]) -> None:
    write("small.yaml", HEAD + DB.replace("}", ", protected: true}") + STATE + EXPECTED + ADD)
    refused = program("exec", "small.yaml", "--json", env={"DATABASE_URL": items.url})
    assert (refused.code, refused.document["run"]["exit_code"]) == (2, 2) and "--yes" in refused.err
    assert items.value("SELECT to_regnamespace('runbook')") is None
    ended = program("exec", "small.yaml", "--yes", env={"DATABASE_URL": items.url})
    assert ended.code == 0
    database = items.value("SELECT current_database()")
    assert f"db: {database} on" in ended.err.split("Preflight")[0]


def test_read_env_gives_the_role_of_all_checks(items: Database, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("READ_URL", items.read_url)
    who = "{sql: SELECT current_user, returns: value, expect: \"result == 'runbook_reader'\"}"
    body = DB.replace("}", ", read_env: READ_URL}") + f"preflight:\n  a: {who}\npostconditions:\n  b: {who}\n" + STATE
    record = run(
        body + "steps:\n  s: {sql: SELECT current_user, returns: value, expect: \"result == 'runbook_owner'\"}\n",
        items.url,
    )
    assert record["run"]["verdict"] == "passed", record["run"]
    assert items.rows("SELECT db_role FROM runbook.runs") == [("runbook_owner",)]


def test_a_superuser_is_told_once_that_the_guard_does_not_bind(
    items: Database, program: Program, write: Callable[..., Path]
) -> None:
    write("small.yaml", HEAD + DB + STATE + EXPECTED + ADD + "postconditions:\n  a: {sql: SELECT 1}\n")
    ended = program(
        "exec", "small.yaml", "--json", env={"DATABASE_URL": items.url.replace("runbook_owner@", "postgres@")}
    )
    assert ended.code == 0, ended.err
    notice = "not enforced: superuser"
    log = log_of(ended.document)
    assert (ended.err.count(notice), log.count(notice), ended.out.count(notice)) == (1, 1, 1)
    assert "read_env" in ended.err
    ordinary = program("exec", "small.yaml", env={"DATABASE_URL": items.url})
    assert "superuser" not in ordinary.err


def test_a_title_with_odd_characters_still_gives_a_row(items: Database, run: Run) -> None:
    body = "title: 'x {{ params.t }}'\nparams:\n  t: {type: string}\nsteps:\n  s: {command: [printf, 'a\\000\\377']}\n"
    record = run(DB + body, items.url, params={"t": "\U0001f600 \u202e \ufffd"})
    assert record["run"]["verdict"] == "passed", record["run"]
    assert items.value("SELECT title FROM runbook.runs") == "x \U0001f600 \u202e \ufffd"
    assert json.loads(items.value("SELECT line FROM runbook.events WHERE kind = 'step.ended'"))
