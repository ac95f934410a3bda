"""The timeline of a record: stages and attempts, told by the times of their events."""

from __future__ import annotations

from tests.pages.builder import ENDINGS, Told


def test_attempts_stand_in_their_stage_with_their_ends() -> None:
    spans = ENDINGS["retried"]()["timeline"]
    assert [(span["what"], span["name"], span.get("attempt"), span.get("verdict")) for span in spans] == [
        ("stage", "preflight", None, None),
        ("stage", "predictions", None, None),
        ("stage", "steps", None, None),
        ("attempt", "steps", 1, "failed"),
        ("attempt", "steps", 2, "failed"),
        ("attempt", "steps", 3, "passed"),
        ("stage", "postconditions", None, None),
    ]
    assert (spans[3]["at"], spans[3]["until"]) == ("2025-12-02T10:15:00.800+00:00", "2025-12-02T10:15:31.000+00:00")
    assert spans[2]["until"] == spans[6]["at"] == "2025-12-02T10:17:51.400+00:00"
    assert spans[6]["until"] == "2025-12-02T10:17:53.000+00:00"


def test_what_nobody_saw_end_has_no_end() -> None:
    for ending in ("running", "lost"):
        spans = ENDINGS[ending]()["timeline"]
        assert [span["until"] for span in spans if span["name"] == "steps"] == [None, None]


def test_a_cancelled_attempt_says_so_and_one_that_never_began_has_no_length() -> None:
    assert next(span for span in ENDINGS["cancelled"]()["timeline"] if "step" in span)["verdict"] == "cancelled"
    told = Told().open().stage(1, "steps")
    where = {"step": "process", "stage": "steps", "attempt": 1}
    told.tell(2, "step.ended", **where, duration=0, exit_code=None, because="there is no such program")
    span = told.record["timeline"][-1]
    assert (span["at"] == span["until"], span["verdict"]) == (True, "failed")
