"""How far a run has come: what is computed from events, samples and the time, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from runbook.cli.dashboard import frame_lines, plain
from runbook.engine.record import Event
from runbook.watch import progress
from runbook.watch.progress import Sample, bars, goal_of, pause, rate, rate_text, span_text, standing
from runbook.watch.story import Story, stages, worst

START = datetime(2025, 12, 10, 14, 0, 0, tzinfo=UTC).timestamp()


def expectation(predicted: Any, of: str = "delta", tolerance: Any = None, **facts: Any) -> dict[str, Any]:
    return {"of": of, "predicted": predicted, "tolerance": tolerance, "because": "", "severity": "error", **facts}


DECLARED = {
    "preflight": {"a": {"expect": "true", "severity": "error", "section": "preflight"}},
    "postconditions": {"p": {"expect": "true", "severity": "error", "section": "postconditions"}},
    "steps": {
        "load": {"stage": "steps"},
        "check": {"stage": "steps"},
        "mend": {"stage": "on_failure"},
        "tidy": {"stage": "finally"},
    },
}


def story(*events: tuple[float, str, dict[str, Any]]) -> Story:
    """A story of these events, each so many seconds after the start."""
    found = Story()
    for seq, (seconds, kind, data) in enumerate(events, 1):
        at = datetime.fromtimestamp(START + seconds, UTC).isoformat(timespec="milliseconds")
        found.hear(Event(seq, at, kind, data))
    return found


def opened() -> tuple[float, str, dict[str, Any]]:
    run = {"id": "1", "runbook": "small", "title": "t", "started_at": "2025-12-10T14:00:00+00:00", "operator": "o"}
    data = {"run": {**run, "host": "h", "pid": 1}, "params": {}, "circumstances": {}, "labels": {}, "journal": None}
    return 0, "run.opened", {**data, "declared": DECLARED}


def under_way(item: dict[str, Any], before: Any = 100) -> Story:
    """A run whose step `load` began 10 seconds after its start."""
    return story(
        opened(),
        (1, "stage.entered", {"stage": "preflight"}),
        (2, "snapshot.measured", {"which": "before", "state": {"items": {"n": before, "m": 7}}, "errors": {}}),
        (3, "stage.entered", {"stage": "predictions"}),
        (3, "predictions.registered", {"expectations": {"items.n": item}}),
        (10, "stage.entered", {"stage": "steps"}),
        (10, "step.started", {"step": "load", "stage": "steps", "attempt": 1, "what": "load"}),
    )


def samples(*points: tuple[float, Any]) -> list[Sample]:
    return [Sample(START + at, {"items.n": value, "items.m": 9}) for at, value in points]


@pytest.mark.parametrize(
    ("predicted", "of", "tolerance", "before", "now", "expected", "share"),
    [
        (20, "delta", None, 100, 100, "under way", 0.0),
        (20, "delta", None, 100, 110, "under way", 0.5),
        (20, "delta", None, 100, 120, "reached", 1.0),
        (20, "delta", None, 100, 121, "past", 1.05),
        (20, "delta", None, 100, 95, "astray", -0.25),
        (20, "delta", "10%", 100, 118, "reached", 0.9),
        (20, "delta", "10%", 100, 122, "reached", 1.1),
        (20, "delta", "10%", 100, 123, "past", 1.15),
        (20, "delta", 5, 100, 125, "reached", 1.25),
        (-20, "delta", None, 100, 90, "under way", 0.5),
        (-20, "delta", None, 100, 70, "past", 1.5),
        (-20, "delta", None, 100, 101, "astray", -0.05),
        (0, "delta", None, 100, 100, "unchanged", None),
        (0, "delta", None, 100, 103, "moved", None),
        (0, "delta", 5, 100, 103, "within", None),
        (0, "after", None, 100, 25, "under way", 0.75),
        (150, "after", None, 100, 125, "under way", 0.5),
        (Decimal("0.5"), "after", None, 0, Decimal("0.25"), "under way", 0.5),
        ({"at_least": 20}, "delta", None, 100, 110, "under way", 0.5),
        ({"at_least": 20}, "delta", None, 100, 160, "reached", 3.0),
        ({"at_least": 20, "at_most": 40}, "delta", None, 100, 150, "past", 2.5),
        ({"at_most": 40}, "delta", None, 100, 110, "within", 0.25),
        ({"at_most": 40}, "delta", None, 100, 141, "past", 1.025),
        ({"at_most": 50}, "after", None, 100, 75, "under way", 0.5),
        ({"at_most": 50}, "after", None, 100, 50, "reached", 1.0),
        ({"at_least": 0}, "delta", None, 100, 100, "within", None),
        ({"at_least": 0}, "delta", None, 100, 99, "past", None),
    ],
)
def test_where_a_metric_stands(
    predicted: Any, of: str, tolerance: Any, before: Any, now: Any, expected: str, share: float | None
) -> None:
    goal = goal_of(expectation(predicted, of, tolerance), before)
    assert standing(goal, before, now) == expected
    found = progress.fraction(goal, before, now)
    assert found == (None if share is None else pytest.approx(share))


def test_a_bar_goes_from_before_to_predicted_with_rate_and_time_left() -> None:
    (bar,) = bars(under_way(expectation(60)), samples((20, 105), (40, 115)))
    assert (bar["before"], bar["now"], bar["aim"], bar["standing"]) == (100, 115, 160, "under way")
    assert bar["fraction"] == pytest.approx(0.25)
    assert bar["rate"] == pytest.approx(30)  # 15 in the 30 seconds since the steps began
    assert bar["eta"] == pytest.approx(90)


def test_before_anything_is_measured_a_bar_has_no_numbers_of_now() -> None:
    (bar,) = bars(under_way(expectation(60)), [])
    assert (bar["standing"], bar["now"], bar["fraction"], bar["rate"], bar["eta"]) == ("unmeasured", *[None] * 4)


def test_what_could_not_be_predicted_has_no_way() -> None:
    (bar,) = bars(under_way(expectation(None, because="a is null")), samples((20, 105)))
    assert (bar["standing"], bar["aim"], bar["now"], bar["fraction"]) == ("unpredicted", None, 105, None)


def test_a_judged_expectation_stands_where_it_was_judged() -> None:
    told = under_way(expectation(60))
    at = datetime.fromtimestamp(START + 70, UTC).isoformat()
    judged = {"name": "items.n", "verdict": "passed", "actual": 60, "because": "", "message": None}
    told.hear(Event(20, at, "stage.entered", {"stage": "postconditions"}))
    told.hear(Event(21, at, "expectation.judged", judged))
    (bar,) = bars(told, samples((20, 105)))
    assert (bar["now"], bar["standing"], bar["verdict"], bar["eta"]) == (160, "reached", "passed", None)
    assert bar["rate"] == pytest.approx(60)


def test_a_step_of_its_own_expectations_is_measured_from_its_own_snapshot() -> None:
    told = under_way(expectation(60))
    at = datetime.fromtimestamp(START + 10, UTC).isoformat()
    own = {"expectations": {"items.n": expectation(10)}, "step": "load"}
    told.hear(Event(20, at, "predictions.registered", own))
    rows = {"which": "steps.load.before", "state": {"items": {"n": 130}}, "errors": {}}
    told.hear(Event(21, at, "snapshot.measured", rows))
    whole, step = bars(told, samples((20, 135)))
    assert (whole["step"], whole["before"], whole["aim"], whole["now"]) == (None, 100, 160, 135)
    assert (step["step"], step["before"], step["aim"], step["now"]) == ("load", 130, 140, 135)


def test_metrics_without_an_expectation_are_shown_with_their_change() -> None:
    assert progress.metrics(under_way(expectation(60)), samples((20, 105))) == [
        {"name": "items.m", "before": 7, "now": 9, "change": 2}
    ]


def test_the_rate_is_that_of_the_last_minute_once_enough_has_changed() -> None:
    slow_then_fast = [(0.0, 0), *((at, 0) for at in range(10, 600, 10)), *((600.0 + 2 * n, 4 * n) for n in range(60))]
    assert rate(slow_then_fast) == pytest.approx(120)


def test_rare_changes_are_counted_over_a_longer_time() -> None:
    once_in_two_minutes = [(2.0 * n, n // 60) for n in range(1200)]
    assert rate(once_in_two_minutes) == pytest.approx(0.5, rel=0.2)


def test_a_rate_needs_two_points_and_some_time() -> None:
    assert rate([]) is None
    assert rate([(0.0, 5)]) is None
    assert rate([(3.0, 5), (3.0, 9)]) is None


@pytest.mark.parametrize(("now", "per_minute"), [(110, 0.0), (110, None), (110, -5.0), (130, 5.0), (120, 5.0)])
def test_there_is_no_time_left_to_tell_where_the_aim_is_not_approached(now: int, per_minute: float | None) -> None:
    assert progress.eta(goal_of(expectation(20), 100), now, per_minute) is None


def test_the_slowest_expectation_tells_how_long_the_run_takes() -> None:
    (bar,) = bars(under_way(expectation(60)), samples((40, 115)))
    quick = {**bar, "eta": 10.0}
    stuck = {**bar, "eta": None}
    done = {**bar, "eta": None, "standing": "reached"}
    assert progress.time_left([bar, quick, done]) == bar["eta"]  # type: ignore[list-item]
    assert progress.time_left([bar, stuck]) is None  # type: ignore[list-item]
    assert progress.time_left([done]) is None  # type: ignore[list-item]


def test_earlier_runs_tell_how_long_this_one_may_take() -> None:
    assert progress.earlier([], 5) is None
    assert progress.earlier([100, 4000, 60], 30) == {"runs": 3, "median": 100, "remaining": 70}
    found = progress.earlier([100], 130)
    assert found is not None
    assert found["remaining"] == -30


@pytest.mark.parametrize(
    ("took", "failures", "expected"),
    [(0.01, 0, 2), (1.5, 0, 15), (0.1, 1, 4), (0.1, 3, 16), (0.1, 9, 60), (0.1, 5000, 60), (30, 9, 300)],
)
def test_slow_and_failing_measurements_are_repeated_less_often(took: float, failures: int, expected: float) -> None:
    assert pause(2, took, failures) == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0s"),
        (0.04, "0.0s"),
        (4.21, "4.2s"),
        (9.96, "10s"),
        (45.4, "45s"),
        (59.6, "1m 00s"),
        (130, "2m 10s"),
        (4320, "1h 12m"),
        (86399.9, "1d 00h"),
        (3 * 86400 + 4 * 3600, "3d 04h"),
    ],
)
def test_lengths_of_time_are_short(seconds: float, text: str) -> None:
    assert span_text(seconds) == text


@pytest.mark.parametrize(
    ("per_minute", "text"),
    [(0.05, "0.05/min"), (1.25, "1.2/min"), (30.0, "30/min"), (599, "599/min"), (600, "10/s"), (-90000, "-1500/s")],
)
def test_fast_rates_are_told_by_the_second(per_minute: float, text: str) -> None:
    assert rate_text(per_minute) == text


def test_stages_done_and_to_come() -> None:
    told = under_way(expectation(60))
    check = {"section": "preflight", "name": "a", "verdict": "passed", "result": 1, "because": "", "message": None}
    told.hear(Event(20, datetime.fromtimestamp(START + 11, UTC).isoformat(), "check.judged", check))
    found = {stage["stage"]: stage for stage in stages(told, START + 30, "running")}
    shown = {name: (stage["state"], stage["duration"]) for name, stage in found.items()}
    assert shown == {
        "preflight": ("done", 2),
        "predictions": ("done", 7),
        "steps": ("now", 20),
        "postconditions": ("to come", None),
        "on_failure": ("if needed", None),
        "finally": ("to come", None),
    }
    assert (found["preflight"]["verdict"], found["preflight"]["note"]) == ("passed", "1 passed")
    assert [(step["step"], step["state"], step["duration"]) for step in found["steps"]["steps"]] == [
        ("load", "now", 20),
        ("check", "to come", None),
    ]


def test_steps_that_were_passed_by_are_not_to_come() -> None:
    told = under_way(expectation(60))
    facts = {"exit_code": 1, "rowcount": None, "duration": 2, "attempts": 1, "because": "exit code 1", "message": None}
    judged = {"step": "load", "stage": "steps", "verdict": "failed", **facts}
    told.hear(Event(20, datetime.fromtimestamp(START + 12, UTC).isoformat(), "step.judged", judged))
    at = datetime.fromtimestamp(START + 13, UTC).isoformat()
    told.hear(Event(21, at, "stage.entered", {"stage": "postconditions"}))
    found = {stage["stage"]: stage for stage in stages(told, START + 30, "running")}
    assert (found["steps"]["state"], found["steps"]["verdict"], found["steps"]["duration"]) == ("done", "failed", 3)
    assert [(step["step"], step["state"], step["duration"]) for step in found["steps"]["steps"]] == [
        ("load", "done", 2),
        ("check", "not reached", None),
    ]
    assert found["postconditions"]["state"] == "now"


def test_a_lost_run_stands_still_where_it_died() -> None:
    told = under_way(expectation(60))
    told.hear(Event(20, "2025-12-10T15:00:00+00:00", "run.lost", lost()))
    found = {stage["stage"]: stage for stage in stages(told, told.last, "lost")}
    assert (found["steps"]["state"], found["steps"]["duration"]) == ("lost", None)
    assert found["steps"]["steps"][0]["state"] == "lost"
    assert found["finally"]["state"] == "not reached"
    assert told.elapsed(told.last) == 10


def lost() -> dict[str, Any]:
    facts = {"finished_at": "2025-12-10T14:00:10+00:00", "duration": 10, "because": "died", "step": "load"}
    return {**facts, "left": [], "ended": []}


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], None),
        ([("passed", "error"), ("skipped", "error")], "passed"),
        ([("skipped", "error")], "skipped"),
        ([("passed", "error"), ("refuted", "warn")], "warning"),
        ([("unknown", "error"), ("refuted", "error")], "refuted"),
        ([("failed", None), ("passed", None)], "failed"),
        ([(None, None)], None),
    ],
)
def test_the_worst_verdict_stands_for_a_stage(verdicts: list[Any], expected: str | None) -> None:
    assert worst({"verdict": verdict, "severity": severity} for verdict, severity in verdicts) == expected


def test_nothing_that_a_value_says_can_steer_the_terminal() -> None:
    told = under_way(expectation(60))
    told.record["run"]["title"] = "evil\x1b]0;title\x07\nforged"
    frame: Any = {
        "run": {**told.record["run"], "state": "running", "elapsed": 3.0, "stopping": "\x1b[2J", "because": ""},
        "stages": stages(told, START + 30, "running"),
        "expectations": bars(told, samples((20, 105))),
        "metrics": [],
        "measured": {"at": None, "age": None, "because": "bad\x1b[31m"},
        "eta": None,
        "earlier": None,
        "output": ["\x1b[31m"],
        "usage": None,
    }
    text = plain(frame_lines(frame, 80))
    assert "\x1b" not in text
    assert "evil\\x1b]0;title\\x07\\nforged" in text
