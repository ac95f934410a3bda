"""What the verifier makes of heads from outside, of journals, and of much that is wrong at once."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from runbook.language.values import loads
from runbook.records import chain as entries
from runbook.records.journal import GENESIS, JournalError, Line, chain
from runbook.records.ledger import Bundle, Ledger, export, read_export
from runbook.records.verify import TOLD, Anchor, verify
from runbook.records.verify_run import Finding, check_run
from tests.records.audits import AT, END, a_ledger, an_audit

HEADS = [entry["head"] for bundle in an_audit(3, 4) for entry in bundle.tables["chain"]]
RUNS = [bundle.run_id for bundle in an_audit(3, 4)]


def changed(*changes: tuple[int, str, int, str, Any]) -> Ledger:
    """An audit in which, of some runs, some rows have another value in some column."""
    bundles = list(an_audit(3, 4))
    for run, table, row, column, value in changes:
        bundles[run].tables[table][row][column] = value  # type: ignore[index]
    return a_ledger()._replace(bundles=iter(bundles))


def test_a_head_from_before_proves_nothing_of_later() -> None:
    report = verify(a_ledger(), [Anchor(head, "--head") for head in HEADS])
    assert report.sound and report.counts["anchors"] == 6 and report.head == HEADS[-1]


def test_the_head_of_an_audit_that_had_none_is_in_every_audit() -> None:
    assert verify(a_ledger(), [Anchor(GENESIS, "--head")]).sound


def test_a_head_that_is_gone_tells_since_when() -> None:
    wrong = Anchor("f" * 64, "a log", RUNS[2])
    (finding,) = verify(a_ledger(), [Anchor(HEADS[1], "--head"), wrong]).findings
    assert (finding.table, finding.run, finding.record) == ("chain", RUNS[2], f"entry 6 (run {RUNS[2]})")
    assert "after entry 2, which another head still proves" in finding.what and "a log" in finding.what
    (finding,) = verify(a_ledger(), [wrong._replace(run="other")]).findings
    assert (finding.run, finding.record) == ("other", "an entry is missing")


def test_an_export_need_not_have_what_came_after_it() -> None:
    made = list(export(a_ledger(), "somewhere"))
    at = loads(made[0])["row"]["at"]
    later, earlier = (Anchor("f" * 64, "a journal", "x", time) for time in ("2999-01-01T00:00:00+00:00", AT))
    assert at > AT
    assert verify(read_export(made)[1], [later]).sound
    assert not verify(read_export(made)[1], [earlier]).sound
    assert not verify(read_export(made)[1], [later._replace(at="")]).sound
    assert not verify(read_export(made)[1], [later._replace(at="soon")]).sound
    assert not verify(a_ledger(), [later]).sound  # a database is of now


def test_findings_beyond_the_first_ones_are_counted() -> None:
    def spoilt() -> Any:
        for bundle in an_audit(150, 4):
            for event in bundle.tables["events"]:
                event["epoch"] = 0  # type: ignore[index]
            yield bundle

    report = verify(a_ledger(150)._replace(bundles=spoilt()))
    assert (len(report.findings), report.more) == (TOLD, 150 * 4 - TOLD)


def test_journals() -> None:
    def spoilt(run: str) -> list[Line] | None:
        if run == RUNS[1]:
            raise JournalError("journal.jsonl:3: this line was changed")
        if run == RUNS[2]:
            raise OSError("File name too long")
        return None

    assert verify(a_ledger(), (), spoilt).findings == [
        Finding("journal", RUNS[1], "its own journal", "journal.jsonl:3: this line was changed")
    ]


SAME = [
    (Decimal("1.50"), Decimal("1.50")),
    (Decimal("1E+30"), 10**30),
    (Decimal("1E-7"), Decimal("0.0000001")),
    (Decimal("-0.0"), Decimal("0.0")),
    ({"a": [1, None], "b": "x"}, {"b": "x", "a": [1, None]}),
]
OTHER = [
    (1, True),
    (1, Decimal("1.0")),
    (1, "1"),
    (None, "null"),
    (Decimal("1.5"), Decimal("1.50")),
    ([1], [True]),
    ({"a": 1}, {"a": 1, "b": None}),
    (Decimal("1E+999999"), Decimal("1E+999998")),
    ([], {}),
]


def as_params(written: Any, stored: Any) -> list[Finding]:
    """What is found where a run was opened with one value, and its row has another."""
    bundle = next(an_audit(1, 4))
    row = dict(bundle.tables["runs"][0])
    text = entries.opened({**row, "params": {"v": written}}, "x", bundle.tables["events"][0]["hash"])
    entry = {**bundle.tables["chain"][0], "line": text, "head": chain(GENESIS, text)}
    closed = dict(bundle.tables["chain"][1])
    closed |= {"previous": entry["head"], "head": chain(entry["head"], closed["line"])}
    tables = {**bundle.tables, "runs": [{**row, "params": {"v": stored}}], "chain": [entry, closed]}
    return list(check_run(Bundle(bundle.run_id, tables)))


@pytest.mark.parametrize(("one", "other"), SAME)
def test_params_that_mean_the_same(one: Any, other: Any) -> None:
    assert as_params(one, other) == []


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_params_that_do_not_mean_the_same(one: Any, other: Any) -> None:
    for written, stored in ((one, other), (other, one)):
        (finding,) = as_params(written, stored)
        assert (finding.table, finding.record) == ("runs", "its row") and "params was changed" in finding.what


@pytest.mark.parametrize("time", ["2026-01-02T04:04:05.678+01:00", "2026-01-02 03:04:05.678+00"])
def test_a_time_is_the_same_in_any_zone(time: str) -> None:
    assert verify(changed((0, "runs", 0, "started_at", time))).sound


@pytest.mark.parametrize("time", ["infinity", "-infinity", "0044-03-15 BC", "0001-01-01T00:00:00+14:00", "", "1"])
def test_a_time_that_is_none(time: str) -> None:
    found = verify(changed((0, "runs", 0, "started_at", time))).findings
    assert {finding.table for finding in found} == {"runs", "closings"}
    assert {finding.run for finding in found} == {RUNS[0]}


def test_an_old_entry_is_no_excuse_for_a_new_run() -> None:
    """The text that entries had before openings were chained tells less; the run's last event tells the rest."""
    line = f"{RUNS[0]} {next(an_audit(1, 4)).tables['events'][3]['hash']}"
    found = verify(changed((0, "chain", 1, "line", line), (0, "closings", 0, "verdict", "failed"))).findings
    assert ("closings", RUNS[0]) in {(finding.table, finding.run) for finding in found}


def ended(verdict: str, *, kept: str = "") -> list[Finding]:
    """What is found where the last event of a run says passed, and closing and chain say `verdict`; `kept` by its pruning."""
    bundle = next(an_audit(1, 4))
    first, last = bundle.tables["chain"]
    closing = {**bundle.tables["closings"][0], "verdict": verdict}
    facts = {name: closing[name] for name in ("run_id", "verdict", "exit_code", "finished_at", "duration", "last_seq")}
    text = entries.closed({**facts, "last_hash": closing["last_hash"]})
    closed = {**last, "line": text, "head": chain(last["previous"], text)}
    found = {**bundle.tables, "closings": [closing], "chain": [first, closed]}
    if kept:
        facts = {"events": 4, "last_seq": 4, "last_hash": closing["last_hash"]}
        text = entries.pruned(bundle.run_id, {**facts, "closing": {**END, "verdict": kept}})
        pruned = {**closed, "number": 3, "kind": "pruned", "line": text, "previous": closed["head"]}
        found |= {"events": [], "chain": [first, closed, {**pruned, "head": chain(closed["head"], text)}]}
    return list(check_run(Bundle(bundle.run_id, found)))


def test_a_verdict_beside_the_last_event() -> None:
    assert ended("passed") == []
    assert ended("errored") == [], "a passed run whose audit could not be written in time"
    (finding,) = ended("failed")
    assert (finding.table, finding.record) == ("chain", "entry 2 (closed)")


def test_a_verdict_beside_what_its_pruning_kept() -> None:
    assert ended("passed", kept="passed") == []
    (finding,) = ended("passed", kept="failed")
    assert (finding.table, finding.record) == ("closings", "its row")
