"""A run as JUnit XML: what is green was verified, and whatever a value holds, readers can read it."""

from __future__ import annotations

import io
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from junitparser import Error, Failure, JUnitXml, Skipped

from runbook.cli.documents import refusal
from runbook.engine.record import Record
from runbook.language.problems import InvalidRunbook, Problem
from runbook.operate.lock import Holder, Locked
from runbook.operate.servers import CannotStart
from runbook.records.junit import MAX_OUTPUT, junit
from tests.records.ci import (
    MISSES,
    PREDICTED,
    Suite,
    check,
    finished,
    judged,
    measured_after,
    opened,
    ran,
    read_junit,
    record,
)

STEP = {"stage": "steps", "description": "", "line": 20}
EXPECTED = {"items.n": {"description": "", "line": 10}}
NOT_SO = {"name": "items.n", "verdict": "refuted", "actual": 4, "message": None}
JUDGED = ("expectation.judged", {**NOT_SO, "because": "predicted 3 ± 5%, measured 4, off by 1"})
PREDICTIONS = ("predictions.registered", {"expectations": {"items.n": PREDICTED}})


def suite(given: Record) -> Suite:
    return read_junit(junit(given, str))


def whole(verdict: str = "refuted") -> Record:
    return record(
        opened(
            params={"n": 7, "text": "a\nb"},
            preflight={"room": check(5), "seen": check(6, None), "odd": check(7, severity="warn")},
            expectations=EXPECTED,
            steps={"add": STEP, "more": {**STEP, "line": 22}, "mend": {**STEP, "stage": "on_failure", "line": 40}},
            postconditions={"end": check(30)},
        ),
        judged("room"),
        judged("seen", result={"a": 1}),
        judged("odd", **{k: MISSES[k] for k in ("verdict", "because", "message")}),
        PREDICTIONS,
        *ran("add"),
        measured_after(),
        JUDGED,
        judged("end", "postconditions", verdict="unknown", because="no such table"),
        finished(verdict, "items.n refuted"),
    )


def test_every_check_expectation_and_step_is_a_case_with_its_line() -> None:
    found = suite(whole())
    assert found.statuses == {
        "small.preflight.room": "passed",
        "small.preflight.odd": "skipped",
        "small.expectations.items.n": "failure",
        "small.steps.add": "passed",
        "small.steps.more": "skipped",
        "small.postconditions.end": "error",
        "small.on_failure.mend": "skipped",
    }
    assert [case.line for case in found.cases.values()] == [5, 7, 10, 20, 22, 30, 40]
    assert {case.file for case in found.cases.values()} == {"small.yaml"}
    assert (found.cases["small.steps.add"].time, found.cases["small.preflight.room"].time) == (1.5, 0.25)
    assert (found.attributes["name"], found.attributes["time"]) == ("small", "10.500")
    assert found.attributes["timestamp"] == "2025-12-10T14:35:22"


def test_a_case_tells_the_values() -> None:
    cases = suite(whole()).cases
    missed = cases["small.expectations.items.n"]
    assert (missed.type, missed.message) == ("refuted", "predicted 3 ± 5%, measured 4, off by 1")
    assert missed.text.endswith("quantity: delta\npredicted: 3\ntolerance: 5%\nactual: 4")
    assert cases["small.preflight.room"].output == "expected: result > 5\nresult: 1"
    assert cases["small.postconditions.end"].message == "no such table"
    assert cases["small.steps.more"].message == "not started: the run ended refuted: items.n refuted"


def test_a_warning_is_neither_green_nor_red() -> None:
    warned = suite(whole()).cases["small.preflight.odd"]
    assert (warned.status, warned.type) == ("skipped", "warning")
    assert warned.message == "warning: refuted: too few: result > 5   where result = 1"
    assert "result: 1" in warned.output


def test_evidence_is_counted_and_no_case() -> None:
    found = suite(whole())
    assert (found.properties["measured"], found.properties["verified"]) == ("1", "3")
    assert "preflight.seen\nresult: " in found.output and "small.preflight.seen" not in found.cases


def test_the_properties_tell_the_run() -> None:
    known = suite(whole()).properties
    assert {key: known[key] for key in ("run", "verdict", "exit_code", "file", "param.n", "param.text")} == {
        "run": "r1",
        "verdict": "refuted",
        "exit_code": "1",
        "file": "small.yaml",
        "param.n": "7",
        "param.text": "a\nb",
    }


def test_what_was_not_reached_is_skipped() -> None:
    found = suite(
        record(
            opened(
                preflight={"room": check(5)},
                expectations=EXPECTED,
                steps={"add": STEP},
                step_expectations={"add": EXPECTED},
                postconditions={"end": check(30), "seen": check(31, None)},
            ),
            judged("room", **MISSES),
            PREDICTIONS,
            finished("blocked", "room"),
        )
    )
    assert found.statuses == {
        "small.preflight.room": "failure",
        "small.expectations.items.n": "skipped",
        "small.steps.add": "skipped",
        "small.steps.add.items.n": "skipped",
        "small.postconditions.end": "skipped",
        "small.postconditions.seen": "skipped",
    }
    assert found.cases["small.expectations.items.n"].message == "not measured: the run ended blocked: room"


def test_a_prediction_that_could_not_be_made_is_an_error() -> None:
    lacking = {**PREDICTED, "predicted": None, "because": "preflight.a is unknown"}
    found = suite(
        record(
            opened(expectations=EXPECTED),
            ("predictions.registered", {"expectations": {"items.n": lacking}}),
            finished("errored", "items.n"),
        )
    )
    assert found.cases["small.expectations.items.n"][:3] == ("error", "unknown", "preflight.a is unknown")


@pytest.mark.parametrize("stage", ["steps", "finally"])
def test_a_failed_step_shows_the_end_of_its_output(stage: str) -> None:
    printed = "first\n" + "x" * MAX_OUTPUT + "\nlast"
    known = record(
        opened(steps={"add": {**STEP, "stage": stage}}),
        *ran("add", printed, stage, verdict="failed", exit_code=3, because="exit code 3"),
        finished("failed"),
    )
    failed = suite(known).cases[f"small.{stage}.add"]
    assert (failed.status, failed.type, failed.message) == ("failure", "failed", "exit code 3")
    assert failed.output.endswith("x\nlast") and "first" not in failed.output


def test_a_step_of_unknown_outcome_is_an_error() -> None:
    found = suite(record(opened(steps={"add": STEP}), ran("add")[0], finished("errored")))
    assert found.cases["small.steps.add"].message == "its outcome is not known"


@pytest.mark.parametrize(("strict", "status"), [(False, "skipped"), (True, "failure")])
def test_strict_makes_a_warning_a_failure(strict: bool, status: str) -> None:
    known = record(
        opened({"strict": strict}, preflight={"odd": check(7, severity="warn")}),
        judged("odd", **MISSES),
        finished("blocked" if strict else "passed"),
    )
    assert suite(known).statuses == {"small.preflight.odd": status}


def test_a_check_that_somebody_went_past_is_not_green() -> None:
    known = record(
        opened(preflight={"room": check(7)}), judged("room", **MISSES, overridden="the boss knows"), finished("passed")
    )
    case = suite(known).cases["small.preflight.room"]
    assert (case.status, case.type) == ("skipped", "warning") and "gone past: the boss knows" in case.output


@pytest.mark.parametrize("verdict", ["errored", "cancelled"])
def test_a_run_that_did_not_pass_is_red_though_nothing_missed(verdict: str) -> None:
    known = record(opened(preflight={"room": check(5)}), judged("room"), finished(verdict, "the server went away"))
    case = suite(known).cases["small.run"]
    assert (case.status, case.type, case.message) == ("error", verdict, "the server went away")


@pytest.mark.parametrize("declared", [{}, {"preflight": {"seen": check(5, None)}}, {"steps": {"add": STEP}}])
def test_a_run_that_verified_nothing_is_not_green(declared: dict[str, Any]) -> None:
    events = [judged("seen")] if "preflight" in declared else ran("add") if "steps" in declared else []
    found = suite(record(opened(**declared), *events, finished("passed")))
    assert found.cases["small.run"].status == "skipped" and not found.red
    assert "nothing was verified" in found.cases["small.run"].message
    assert found.properties["verified"] == "0"


def test_an_older_record_without_lines_is_told_too() -> None:
    bare = check(0)
    del bare["line"]
    assert suite(record(opened(preflight={"room": bare}), judged("room"), finished("passed"))).cases


def dry(code: int, verdict: str | None, *problems: dict[str, Any]) -> Record:
    """A dry run of a runbook whose check and prediction were looked at, and whose rest was not."""
    not_asked = {"verdict": None, "result": None, "message": None, "because": "not asked: this is a dry run"}
    later = {**PREDICTED, "predicted": None, "because": "steps.add has not run"}
    ending = {"verdict": verdict, "exit_code": code, "because": "x", "finished_at": None, "duration": 1}
    return record(
        opened(
            {"dry_run": True, "id": ""},
            preflight={"room": check(5)},
            expectations={**EXPECTED, "items.m": {"description": "", "line": 11}},
            steps={"add": STEP},
            postconditions={"end": check(30)},
        ),
        judged("room", **(MISSES if code == 3 else {})),
        ("predictions.registered", {"expectations": {"items.n": PREDICTED, "items.m": later}}),
        ("check.judged", {"section": "postconditions", "name": "end", **not_asked}),
        ("plan.finished", {**ending, "obstacles": list(problems)}),
    )


def test_a_dry_run_makes_green_only_what_it_evaluated() -> None:
    found = suite(dry(0, None))
    assert found.statuses == {
        "small.preflight.room": "passed",
        "small.expectations.items.n": "skipped",
        "small.expectations.items.m": "skipped",
        "small.steps.add": "skipped",
        "small.postconditions.end": "skipped",
    }
    assert [found.cases[f"small.{name}"].message for name in ("expectations.items.m", "steps.add")] == [
        "steps.add has not run",
        "not started: a dry run",
    ]
    assert found.properties["verdict"] == "nothing known in the way (dry run)"


def test_what_stands_in_the_way_of_a_run_is_an_error_at_its_line() -> None:
    place = {
        "file": "small.yaml",
        "where": "steps.add.sql",
        "line": 21,
        "column": 9,
        "kind": "invalid",
        "hint": "which?",
    }
    check_itself = {
        "file": "small.yaml",
        "where": "preflight.room",
        "line": 5,
        "kind": "blocked",
        "message": "room refuted",
    }
    found = suite(dry(5, None, {**place, "message": "no column"}, {**place, "message": "no table"}))
    case = found.cases["small.dry_run.steps.add.sql"]
    assert (case.status, case.type, case.line) == ("error", "invalid", 21)
    assert case.message == "no column (which?); no table (which?)"
    assert found.properties["verdict"] == "invalid (dry run)"
    blocked = suite(dry(3, "blocked", check_itself))
    assert [name for name, status in blocked.statuses.items() if status != "skipped"] == ["small.preflight.room"]
    assert blocked.red


REFUSALS = {
    "invalid": (
        InvalidRunbook([Problem("a.yaml", 7, 3, "steps", "no", "do"), Problem("a.yaml", 2, 1, "", "what?")]),
        "invalid: what? (and 1 more)",
        2,
    ),
    "locked": (Locked("k", Holder("r0", "there", 1, "Bo", "noon")), "locked: the lock `k` is held by run r0", 0),
    "errored": (CannotStart("connection `db`: away"), "errored: connection `db`: away", 0),
}


@pytest.mark.parametrize("verdict", REFUSALS)
def test_a_run_that_never_began_is_one_error(verdict: str) -> None:
    error, message, line = REFUSALS[verdict]
    found = suite(refusal(error, "a.yaml"))
    [case] = found.cases.values()
    assert (case.status, case.type, case.file, case.line) == ("error", verdict, "a.yaml", line)
    assert case.message.startswith(message)
    if verdict == "invalid":
        assert case.text.endswith("a.yaml:2:1: what?\na.yaml:7:3: steps: no (do)")


def test_a_reader_of_junit_files_takes_it() -> None:
    read = JUnitXml.fromstring(junit(whole(), str))
    [one] = list(read)
    assert (one.name, one.tests, one.failures, one.errors, one.skipped, one.time) == ("small", 7, 1, 1, 3, 10.5)
    kinds = {case.name: [type(result) for result in case.result] for case in one}
    assert kinds["room"] == [] and kinds["items.n"] == [Failure] and kinds["end"] == [Error]
    assert kinds["odd"] == kinds["more"] == [Skipped]
    assert {item.name: item.value for item in one.properties()}["verdict"] == "refuted"
    again = io.BytesIO()
    read.write(again)
    assert read_junit(again.getvalue()).statuses == suite(whole()).statuses


HOSTILE = st.text(st.characters(codec=None, exclude_categories=()), max_size=40) | st.sampled_from(
    ["]]>", "<![CDATA[", "</testcase>", "&#0;", "\x00\x1b[2J\x85\u2028", "\ud800", "\ufffe\uffff", "\u202e", "\r\n"]
)


@given(HOSTILE, HOSTILE, st.sampled_from(["passed", "refuted", "unknown", "skipped"]))
def test_no_value_breaks_the_xml(text: str, other: str, verdict: str) -> None:
    facts = {"verdict": verdict, "because": text, "message": other or None, "result": [text, {other: Decimal("1.0")}]}
    known = record(
        opened({"host": other}, {text: other}, preflight={"a": check(5, text)}, steps={"add": STEP}),
        judged("a", **facts),
        *ran("add", text, because=other, verdict="failed"),
        finished("failed", text),
    )
    assert read_junit(junit(known, lambda file: f"{file}{text}")).red


def test_the_size_is_bounded() -> None:
    huge = "<" * 1_000_000
    facts = {"verdict": "refuted", "because": huge, "message": huge, "result": huge}
    known = record(
        opened(None, {"n": huge}, preflight={"a": check(5, huge)}, steps={"add": STEP}),
        judged("a", **facts),
        *ran("add", huge, verdict="failed"),
        finished("blocked", huge),
    )
    assert len(junit(known, str)) < 200_000
