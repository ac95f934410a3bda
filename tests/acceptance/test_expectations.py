"""Predictions: judged within their tolerance or bounds, recorded before the first step, and never guessed."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.acceptance.helpers import ADD, DB, ITEMS, NO_AUDIT, STATE, Run, kinds_of, lines_of, log_of
from tests.conftest import Database

SUMS = "state:\n  sums: {sql: SELECT (SELECT n FROM sums) AS n}\n"

# expectation, value before, value after: verdict. SQL gives both values.
JUDGED = {
    "exact": ("{delta: 3}", "10", "13", "passed"),
    "exact missed": ("{delta: 3}", "10", "12", "refuted"),
    "percent, at the edge": ("{delta: 100, tolerance: 5%}", "0", "105", "passed"),
    "percent, below the edge": ("{delta: 100, tolerance: 5%}", "0", "95", "passed"),
    "percent, beyond": ("{delta: 100, tolerance: 5%}", "0", "106", "refuted"),
    "percent is not rounded up": ("{delta: 10, tolerance: 5%}", "0", "11", "refuted"),
    "percent of a fraction": ("{delta: 10, tolerance: 2.5%}", "0", "10.25", "passed"),
    "percent of the magnitude": ("{delta: -100, tolerance: 5%}", "200", "95", "passed"),
    "percent of nothing": ("{delta: 0, tolerance: 50%}", "7", "8", "refuted"),
    "absolute, at the edge": ("{delta: 100, tolerance: 5}", "0", "95", "passed"),
    "absolute, beyond": ("{delta: 100, tolerance: 5}", "0", "94.999999999999999999", "refuted"),
    "decimal tolerance": ("{delta: 0, tolerance: 0.01}", "1.10", "1.11", "passed"),
    "decimals are exact": ("{delta: 0.3}", "0", "0.1 + 0.2", "passed"),
    "removed": ("{delta: -3}", "10", "7", "passed"),
    "at least": ("{at_least: 3}", "10", "13", "passed"),
    "at least missed": ("{at_least: 3}", "10", "12", "refuted"),
    "at most": ("{at_most: 3}", "10", "13", "passed"),
    "at most missed": ("{at_most: 3}", "10", "14", "refuted"),
    "between": ("{at_least: -1, at_most: 1}", "10", "9", "passed"),
    "after": ("{after: 13}", "10", "13", "passed"),
    "after missed": ("{after: 13}", "10", "3", "refuted"),
    "after with tolerance": ("{after: 100, tolerance: 1%}", "0", "99", "passed"),
    "after at least": ("{after: {at_least: 5}}", "0", "5", "passed"),
    "after at most missed": ("{after: {at_most: 5}}", "0", "6", "refuted"),
    "after alone does not need before": ("{after: 5}", "NULL", "5", "passed"),
    "no number before": ("{delta: 5}", "NULL", "5", "unknown"),
    "no number after": ("{delta: 5}", "0", "NULL", "unknown"),
    "NaN after": ("{delta: 5}", "0", "'NaN'", "unknown"),
    "infinity after": ("{at_least: 5}", "0", "'Infinity'", "unknown"),
    "an expression of before": ("{after: before.sums.n * 2}", "21", "42", "passed"),
    "a fraction": ("{delta: before.sums.n / 4}", "10", "12.5", "passed"),
}


@pytest.mark.parametrize("case", JUDGED)
def test_judgement(case: str, database: Database, run: Run) -> None:
    expectation, before, after, verdict = JUDGED[case]
    database.run(f"CREATE TABLE sums (n numeric); INSERT INTO sums VALUES ({before})")
    step = f'steps:\n  s: {{sql: "UPDATE sums SET n = {after}"}}\n'
    record = run(f"{DB}{NO_AUDIT}{SUMS}expectations:\n  sums.n: {expectation}\n{step}", database.url)
    assert record["expectations"]["sums.n"]["verdict"] == verdict
    assert record["run"]["verdict"] == {"unknown": "errored"}.get(verdict, verdict)


def test_actual_is_the_same_quantity_as_predicted(database: Database, run: Run) -> None:
    database.run("CREATE TABLE sums (n numeric); INSERT INTO sums VALUES (10)")
    for form, predicted, actual in (("delta", 3, Decimal(3)), ("after", 13, Decimal(13))):
        database.run("UPDATE sums SET n = 10")
        body = f"expectations:\n  sums.n: {{{form}: {predicted}}}\nsteps:\n  s: {{sql: UPDATE sums SET n = 13}}\n"
        found = run(DB + NO_AUDIT + SUMS + body, database.url)["expectations"]["sums.n"]
        assert (found["of"], found["predicted"], found["actual"]) == (form, predicted, actual)


def test_a_prediction_stands_in_the_journal_before_the_first_step(database: Database, run: Run) -> None:
    database.run(ITEMS)
    record = run(DB + STATE + "expectations:\n  items.total: {delta: 1 + 2, tolerance: 5%}\n" + ADD, database.url)
    kinds = kinds_of(record)
    assert kinds.index("predictions.registered") < kinds.index("step.started")
    registered = next(line for line in lines_of(record) if line["kind"] == "predictions.registered")
    expectation = registered["data"]["expectations"]["items.total"]
    assert (expectation["predicted"], expectation["tolerance"]) == (3, "5%")
    assert "Process ~3 total" in log_of(record)


IMPOSSIBLE = {
    "null": ("{delta: preflight.a}", "SELECT NULL::int"),
    "text": ("{delta: preflight.a}", "SELECT 'x'"),
    "boolean": ("{delta: preflight.a}", "SELECT true"),
    "NaN": ("{delta: preflight.a}", "SELECT 'NaN'::numeric"),
    "null in min": ("{delta: '[preflight.a, 5] | min'}", "SELECT NULL::int"),
    "division": ("{delta: 1 / preflight.a}", "SELECT 0"),
    "bound": ("{at_least: preflight.a}", "SELECT NULL::int"),
    "bound of after": ("{after: {at_most: preflight.a}}", "SELECT 'x'"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_an_impossible_prediction_stops_before_the_first_step(case: str, database: Database, run: Run) -> None:
    expectation, sql = IMPOSSIBLE[case]
    database.run(ITEMS)
    check = f'preflight:\n  a: {{sql: "{sql}", returns: value}}\n'
    record = run(f"{DB}{NO_AUDIT}{STATE}{check}expectations:\n  items.total: {expectation}\n{ADD}", database.url)
    assert record["run"]["verdict"] == "errored"
    assert "items.total could not be predicted" in record["run"]["because"]
    assert record["expectations"]["items.total"]["verdict"] == "unknown"
    assert "step.started" not in kinds_of(record)
    assert database.value("SELECT count(*) FROM items") == 0


def test_a_warning_that_cannot_be_predicted_stops_nothing(database: Database, run: Run) -> None:
    database.run(ITEMS)
    body = "expectations:\n  items.total: {delta: 1 / before.items.total, severity: warn}\n"
    record = run(DB + NO_AUDIT + STATE + body + ADD, database.url)
    assert (record["run"]["verdict"], record["expectations"]["items.total"]["verdict"]) == ("passed", "unknown")


def test_a_state_that_cannot_be_measured_starts_nothing(database: Database, run: Run) -> None:
    for sql in ("SELECT count(*) AS total FROM nowhere", "SELECT 'x' AS total", "SELECT 1 AS total WHERE false"):
        body = f'state:\n  items: {{sql: "{sql}"}}\nsteps:\n  s: {{sql: CREATE TABLE made (n int)}}\n'
        record = run(DB + NO_AUDIT + body, database.url)
        assert record["run"]["verdict"] == "errored", sql
    assert database.value("SELECT to_regclass('made')") is None


OWN: dict[str, tuple[str, str, Any]] = {
    "passed": ("passed", "{delta: 3}", "passed"),
    "refuted": ("refuted", "{delta: 4}", "refuted"),
    "warned": ("passed", "{delta: 4, severity: warn}", "refuted"),
    "of earlier steps": ("passed", "{delta: steps.first.rowcount + 2}", "passed"),
}


@pytest.mark.parametrize("case", OWN)
def test_a_step_may_carry_its_own_expectations(case: str, database: Database, run: Run) -> None:
    verdict, expectation, own = OWN[case]
    database.run(ITEMS)
    body = f"""steps:
  first: {{sql: INSERT INTO items VALUES (0)}}
  second:
    sql: INSERT INTO items SELECT generate_series(1, 3)
    expectations:
      items.total: {expectation}
  third: {{sql: INSERT INTO items VALUES (9)}}
"""
    record = run(DB + NO_AUDIT + STATE + body, database.url)
    assert record["run"]["verdict"] == verdict, record["run"]
    found = record["steps"]["second"]["expectations"]["items.total"]
    assert (found["verdict"], found["actual"]) == (own, 3)
    started = verdict == "passed"
    assert bool(record["steps"]["third"]["tries"]) == started
    assert database.value("SELECT count(*) FROM items") == (5 if started else 4)


def test_a_step_whose_change_cannot_be_predicted_is_not_started(database: Database, run: Run) -> None:
    database.run(ITEMS)
    body = """steps:
  first: {sql: INSERT INTO items VALUES (0)}
  second:
    sql: INSERT INTO items VALUES (1)
    expectations:
      items.total: {delta: steps.first.result.n}
finally:
  last: {sql: INSERT INTO items VALUES (2)}
"""
    record = run(DB + NO_AUDIT + STATE + body, database.url)
    assert record["run"]["verdict"] == "errored"
    assert "steps.second is not started" in record["run"]["because"]
    assert database.rows("SELECT n FROM items ORDER BY n") == [(0,), (2,)]


def test_a_metric_of_an_http_state(site: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB", site.url)
    site.put("/count", {"found": {"n": 3}, "other": "x"})
    body = """connections:
  web: {type: http, env: WEB}
state:
  remote: {http: {get: /count}, select: json.found}
expectations:
  remote.n: {after: 3}
"""
    record = run(body)
    assert (record["run"]["verdict"], record["before"], record["delta"]) == (
        "passed",
        {"remote": {"n": 3}},
        {"remote": {"n": 0}},
    )
