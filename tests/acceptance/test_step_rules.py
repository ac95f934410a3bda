"""What holds for every step: attempts, `when`, `on_failure`, `finally`, and the time limit of the whole run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.acceptance.helpers import DB, NO_AUDIT, Run, kinds_of, lines_of, log_of, verdicts_of
from tests.conftest import Database

COUNT = "shell: 'echo x >> tries; test $(wc -l < tries) -ge {}'"


def test_a_step_is_tried_again_as_declared_with_growing_pauses(run: Run) -> None:
    retry = "retry: {attempts: 4, delay: 100ms, backoff: 2}"
    record = run(f"steps:\n  s: {{{COUNT.format(3)}, {retry}, expect: exit_code == 0}}\n")
    step = record["steps"]["s"]
    assert (step["verdict"], step["attempts"], len(step["tries"])) == ("passed", 3, 3)
    assert [bool(attempt["because"]) for attempt in step["tries"]] == [True, True, False]
    assert record["run"]["duration"] >= 0.3
    assert "- attempt 1: failed after" in log_of(record) and "- attempt 3: held" in log_of(record)
    assert [line["data"]["attempt"] for line in lines_of(record) if line["kind"] == "step.started"] == [1, 2, 3]


def test_attempts_are_used_up(run: Run, tmp_path: Path) -> None:
    record = run(f"steps:\n  s: {{{COUNT.format(9)}, retry: {{attempts: 2, delay: 10ms}}}}\n")
    assert (record["run"]["verdict"], record["steps"]["s"]["attempts"]) == ("failed", 2)
    assert (tmp_path / "tries").read_text() == "x\nx\n"


def test_a_step_that_holds_is_never_tried_again(run: Run, tmp_path: Path) -> None:
    run(f"steps:\n  s: {{{COUNT.format(1)}, retry: {{attempts: 5, delay: 10ms}}}}\n")
    assert (tmp_path / "tries").read_text() == "x\n"


def test_when(run: Run, tmp_path: Path) -> None:
    body = """params:
  mode: {type: string, default: fast}
steps:
  not_due: {command: [touch, ran], when: params.mode == 'slow'}
  due: {command: [touch, due], when: params.mode == 'fast'}
  of_skipped: {command: [touch, ran], when: steps.not_due.exit_code == 0}
  never: {command: [touch, ran]}
"""
    record = run(body)
    assert verdicts_of(record["steps"]) == {
        "not_due": "skipped",
        "due": "passed",
        "of_skipped": "failed",
        "never": None,
    }
    assert "steps.not_due was skipped" in record["steps"]["of_skipped"]["because"]
    assert (tmp_path / "due").exists() and not (tmp_path / "ran").exists()


TOUCH = "  {0}: {{command: [touch, '{0}']}}\n"
AFTERMATH = "on_failure:\n" + TOUCH.format("undo") + "finally:\n" + TOUCH.format("tidy")
ENDINGS = {
    "passed": ("passed", "steps:\n" + TOUCH.format("work"), {"work", "tidy"}),
    "failed": ("failed", "steps:\n  bad: {command: ['false']}\n" + TOUCH.format("work"), {"undo", "tidy"}),
    "refuted": (
        "refuted",
        "steps:\n" + TOUCH.format("work") + "postconditions:\n  p: {expect: 1 > 2}\n",
        {"work", "undo", "tidy"},
    ),
    "errored": (
        "errored",
        "steps:\n" + TOUCH.format("work") + "postconditions:\n  p: {file: nowhere, expect: result.size > 1}\n",
        {"work", "undo", "tidy"},
    ),
    "blocked": ("blocked", "preflight:\n  p: {expect: 1 > 2}\nsteps:\n" + TOUCH.format("work"), set()),
}


@pytest.mark.parametrize("case", ENDINGS)
def test_on_failure_where_due_and_finally_always(case: str, run: Run, tmp_path: Path) -> None:
    verdict, body, touched = ENDINGS[case]
    assert run(body + AFTERMATH)["run"]["verdict"] == verdict
    assert {path.name for path in tmp_path.iterdir()} & {"work", "undo", "tidy"} == touched


def test_finally_knows_the_outcome_and_runs_after_the_measurements(database: Database, run: Run) -> None:
    database.run("CREATE TABLE seen (t text)")
    body = """state:
  seen: {sql: SELECT count(*) AS n FROM seen}
steps:
  s: {sql: INSERT INTO seen VALUES ('s')}
expectations:
  seen.n: {delta: 1}
finally:
  f:
    sql: |
      INSERT INTO seen
      SELECT concat_ws('/', {{ run.outcome }}::text, {{ delta.seen.n }}::int, {{ steps.s.rowcount }}::int)
"""
    record = run(DB + NO_AUDIT + body, database.url)
    assert record["run"]["verdict"] == "passed", record["run"]
    assert database.rows("SELECT t FROM seen") == [("s",), ("passed/1/1",)]
    kinds = kinds_of(record)
    assert kinds.index("expectation.judged") < len(kinds) - 1 - kinds[::-1].index("step.started")


def test_what_a_failed_run_left_is_still_measured(database: Database, run: Run) -> None:
    database.run("CREATE TABLE seen (n int)")
    body = """state:
  seen: {sql: SELECT count(*) AS n FROM seen}
expectations:
  seen.n: {delta: 2}
steps:
  a: {sql: INSERT INTO seen VALUES (1)}
  b: {command: ['false']}
  c: {sql: INSERT INTO seen VALUES (2)}
postconditions:
  p: {sql: SELECT count(*) FROM seen, returns: value, expect: result == 1}
"""
    record = run(DB + NO_AUDIT + body, database.url)
    assert record["run"]["verdict"] == "failed"
    assert verdicts_of(record["steps"]) == {"a": "passed", "b": "failed", "c": None}
    assert (record["expectations"]["seen.n"]["actual"], record["postconditions"]["p"]["verdict"]) == (1, "passed")


def test_the_time_limit_of_the_run_bounds_its_steps_and_still_measures(run: Run, tmp_path: Path) -> None:
    body = "timeout: 2s\nsteps:\n  a: {command: [sleep, '300']}\n" + TOUCH.format("work")
    began = time.monotonic()
    record = run(body + "postconditions:\n  p: {command: [echo, measured]}\n" + AFTERMATH)
    assert time.monotonic() - began < 60
    assert record["run"]["verdict"] == "failed" and "timed out" in record["run"]["because"]
    assert record["postconditions"]["p"]["result"] == "measured"
    assert {path.name for path in tmp_path.iterdir()} & {"work", "undo", "tidy"} == {"undo", "tidy"}


def test_a_preflight_that_takes_all_the_time_starts_no_step(run: Run, tmp_path: Path) -> None:
    body = "timeout: 300ms\npreflight:\n  p: {command: [sleep, '300'], severity: warn}\nsteps:\n" + TOUCH.format("work")
    record = run(body)
    assert record["run"]["verdict"] == "errored" and "time limit" in record["run"]["because"]
    assert not (tmp_path / "work").exists()


def test_a_tidying_that_fails_makes_the_run_failed_and_the_others_still_run(run: Run, tmp_path: Path) -> None:
    body = "steps:\n" + TOUCH.format("work") + "finally:\n  bad: {command: ['false']}\n" + TOUCH.format("tidy")
    record = run(body)
    assert record["run"]["verdict"] == "failed" and "finally.bad" in record["run"]["because"]
    assert (tmp_path / "tidy").exists()
