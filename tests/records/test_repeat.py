"""A run beside its repetition: what counts as the same, and what only is told."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.language.values import as_text
from runbook.records.evidence import NOTHING
from runbook.records.repeat import Judged, Repetition, circumstances, repetition
from tests.records.ci import check, finished, judged, opened, ran, record
from tests.records.test_diff import AROUND, DECLARED, VERSIONS, a_run

READS = Judged(used=frozenset(), read=frozenset({"preflight.waiting", "preflight.queue", "postconditions.left"}))
NONE = Judged(frozenset(), frozenset())


def differing(found: Repetition) -> dict[str, list[str]]:
    return {
        "outcomes": [pair.what for pair in found.outcomes if not pair.same],
        "inputs": [pair.what for pair in found.inputs if not pair.same],
        "evidence": [part.name for part in found.evidence],
    }


def test_the_same_again() -> None:
    found = repetition(a_run(), a_run("r2", duration="99"), READS)
    assert found.same and found.inputs_same and found.evidence == []
    assert found.answer(as_text) == "same inputs, same outputs"
    assert [pair.what for pair in found.outcomes] == [
        "run",
        "preflight.waiting",
        "preflight.queue",
        "expectations.items.n",
        "steps.add",
        "after.items.n",
        "delta.items.n",
    ]
    assert [pair.what for pair in found.inputs] == ["before.items.n", "preflight.waiting"]


def test_both_refuted_is_the_same() -> None:
    assert repetition(a_run(verdict="refuted"), a_run(verdict="refuted"), READS).same


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "a verdict": ({"verdict": "refuted"}, "same inputs, other outputs: run passed → refuted"),
    "a metric after": (
        {"after": 5},
        'same inputs, other outputs: delta.items.n 3 → 4, expectations.items.n {"verdict": "passed", "actual": 3, "predicted": 3}'
        ' → {"verdict": "passed", "actual": 4, "predicted": 3}, after.items.n 4 → 5',
    ),
    "a metric before": (
        {"before": 2, "after": 5},
        "other inputs: before.items.n 1 → 2; other outputs: after.items.n 4 → 5",
    ),
    "a number that preflight judges": (
        {"results": {"waiting": 8}},
        "other inputs: preflight.waiting 7 → 8; same outputs",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_answer_names_what_was_another(name: str) -> None:
    changed, answer = CHANGES[name]
    assert repetition(a_run(), a_run(**changed), READS).answer(as_text) == answer


def test_a_long_answer_is_cut() -> None:
    then, now = a_run(), a_run()
    then["delta"]["items"], now["delta"]["items"] = ({f"m{n}": value for n in range(9)} for value in (1, 2))
    answer = repetition(then, now, READS).answer(as_text)
    assert answer.count("→") == 4 and answer.endswith("and 5 more")


QUEUE = [{"status": "done", "count": 3}, {"status": "new", "count": 5}]


def test_evidence_is_told_and_does_not_count() -> None:
    found = repetition(a_run(), a_run(results={"queue": QUEUE, "waiting": 8}), NONE)
    assert found.same and found.inputs_same
    assert differing(found)["evidence"] == ["preflight.waiting", "preflight.queue.status=done.count"]


def test_what_another_expression_names_is_an_input_part_by_part() -> None:
    used = READS._replace(used=frozenset({"preflight.queue"}))
    found = repetition(a_run(), a_run(results={"queue": QUEUE}), used)
    assert differing(found) == {"outcomes": [], "inputs": ["preflight.queue.status=done.count"], "evidence": []}


@pytest.mark.parametrize(
    ("then", "now", "counts"),
    [(3, 4, True), (True, True, False), ([1], [2], False), ("x", "y", False), (3, None, True)],
)
def test_a_number_that_a_postcondition_judges_is_an_outcome(then: Any, now: Any, counts: bool) -> None:
    declared = {**DECLARED, "postconditions": {"left": check(9)}}

    def run(result: Any) -> Any:
        kind, opening = opened(None, {}, **declared)
        opening["circumstances"] = AROUND
        return record((kind, opening), judged("left", "postconditions", result=result), finished("passed"))

    found = repetition(run(then), run(now), READS)
    assert found.same is not counts
    assert bool(found.evidence) == (not counts and then != now)
    assert repetition(run(then), run(now), NONE).same, "a program's or a site's answer is evidence"


@pytest.mark.parametrize(
    ("step", "wanted"),
    [({"exit_code": 2}, "exit code"), ({"rowcount": 3}, "rows"), ({"verdict": "failed"}, "verdict")],
)
def test_how_a_step_ended_is_an_outcome(step: dict[str, Any], wanted: str) -> None:
    found = repetition(a_run(), a_run(step=step), READS)
    pair = next(pair for pair in found.outcomes if pair.what == "steps.add")
    assert not pair.same and pair.then.get(wanted) != pair.now[wanted]


def test_one_more_attempt_is_another_outcome() -> None:
    kind, opening = opened(None, {}, **DECLARED)
    failed, again = ran("add", because="no luck")[:2], ran("add")
    for _, data in again:
        data["attempt" if "attempt" in data else "attempts"] = 2
    once = record((kind, opening), *ran("add"), finished("passed"))
    twice = record((kind, opening), *failed, *again, finished("passed"))
    assert differing(repetition(once, twice, READS))["outcomes"] == ["steps.add"]


def test_a_lost_run_knows_less() -> None:
    kind, opening = opened(None, {}, **DECLARED)
    lost = record(
        (kind, opening),
        ("step.started", {"step": "add", "stage": "steps", "attempt": 1, "what": "do it"}),
        ("run.lost", {"finished_at": "", "duration": 1, "because": "died", "left": [], "step": "add"}),
    )
    found = repetition(lost, a_run(), READS)
    assert not found.same and not found.inputs_same
    facts = {pair.what: (pair.then, pair.now) for pair in found.outcomes}
    assert facts["run"] == ("lost", "passed") and facts["delta.items.n"] == (NOTHING, 3)
    assert facts["steps.add"][0]["verdict"] == "outcome unknown"


def test_circumstances_that_differ_by_name() -> None:
    around = {
        "versions": {**VERSIONS, "Python": "3.12.0", "httpx": "1", "file query.sql": "sha256 1"},
        "models": {"ollama": {"llama3:8b": "sha256:22"}},
        "schema": {"db": {"fingerprint": "", "relations": {"public.items": "cc", "public.new": "dd"}}},
        "connections": {"db": "copy on db2 as etl"},
        "command_line": ["repro", "last"],
        "file": "/elsewhere/small.yaml",
    }
    found = [tuple(item) for item in circumstances(a_run(), a_run(around=around, operator="Bob"))]
    assert found == [
        ("file query.sql", NOTHING, "sha256 1"),
        ("Python", "3.11.7", "3.12.0"),
        ("model ollama: llama3:8b", "sha256:11", "sha256:22"),
        ("schema of db: public.items", "aaaa", "cc"),
        ("connection db", "shop on db1 as etl", "copy on db2 as etl"),
        ("operator", "Ada", "Bob"),
    ]
