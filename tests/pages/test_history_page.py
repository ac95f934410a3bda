"""The page of many runs as text: every run, honest scales, and gaps where there is no value."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from runbook.records.pages.axes import number_axis, plottable, seconds_axis, time_axis
from runbook.records.pages.history_page import history_page
from tests.pages.builder import ENDINGS, START, Told, many_runs, plain_run
from tests.pages.reading import Reading
from tests.pages.test_run_page import assert_landmarks

RUNS = many_runs(24)
HREFS = {record["run"]["id"]: f"{record['run']['id']}.html" for record in RUNS[1:]}


def test_every_run_is_in_the_table_and_behind_its_points() -> None:
    text = history_page("nightly", list(reversed(RUNS)), HREFS)
    page = Reading(text)
    assert page.odd == []
    assert_landmarks(page)
    links = [item["href"] for item in page.all("a")]
    rows = [item["id"] for item in page.all("tr") if "id" in item]
    assert rows == [f"run-{record['run']['id']}" for record in reversed(RUNS)]
    for record in RUNS[1:]:
        assert links.count(HREFS[record["run"]["id"]]) >= 4
    own = f"#run-{RUNS[0]['run']['id']}"
    assert links.count(own) >= 4
    assert all(item.get("title") or item.get("aria-label") for item in page.all("a") if item["href"].startswith(own))


def test_what_is_left_out_is_said() -> None:
    many = [plain_run(f"r{number}", START + timedelta(hours=number)) for number in range(503)]
    page = Reading(history_page("t", many, {}, more=4))
    assert "500 runs" in page.said
    assert "7 more runs not shown" in page.said
    assert "run-r2" not in {item.get("id") for item in page.all("tr")}
    assert "run-r3" in {item.get("id") for item in page.all("tr")}


def test_prediction_errors_are_relative_unless_nothing_was_predicted() -> None:
    misses = [
        plain_run("a", START, predicted=200, actual=150),
        plain_run("b", START + timedelta(days=1), predicted=0, actual=3),
    ]
    page = Reading(history_page("t", misses, {}))
    assert "off by -25.00 %: predicted +200 ± 5%, actual +150" in page.said
    assert "off by +3: predicted 0 ± 5%, actual +3" in page.said
    assert "postings.done, in percent of predicted" in page.said
    assert "0 of 1 held; half were off by 25.00 % or less" in page.said


def test_bounds_are_off_by_how_far_outside_they_were_missed() -> None:
    told = Told("a").open(expectations=["s.m"]).stage(0.1, "preflight").snapshot(0.1, "before", {"s": {"m": 0}})
    told.predict(0.2, {"s.m": {"at_least": 5, "at_most": 9}}).snapshot(1, "after", {"s": {"m": 2}})
    record = told.judge(1, "s.m", "refuted", 2).finish(2, "refuted").record
    assert "off by -3: predicted at least 5, at most 9, actual +2" in Reading(history_page("t", [record], {})).said


def test_a_missing_value_is_a_gap_and_no_zero() -> None:
    page = Reading(history_page("t", RUNS, HREFS))
    assert "runs have no value: a gap" in page.said
    curves = [item["d"] for item in page.all("path") if item.get("class") == "curve thin"]
    assert all(curve.count("M") == 3 for curve in curves), curves


@pytest.mark.parametrize("records", [[], [ENDINGS["refused"]()], [ENDINGS["running"](), ENDINGS["lost"]()]])
def test_few_and_odd_runs_are_a_page_too(records: list[object]) -> None:
    page = Reading(history_page("odd", records, {}))  # type: ignore[arg-type]
    assert page.odd == []
    assert len(page.all("h1")) == 1


def test_params_that_differ_stand_by_each_run_and_the_others_once() -> None:
    first, second = plain_run("a"), plain_run("b", START + timedelta(days=1))
    first["params"], second["params"] = {"limit": 5, "mode": "batch"}, {"limit": 6, "mode": "batch"}
    said = Reading(history_page("t", [first, second], {})).said
    assert "limit=5" in said
    assert "limit=6" in said
    assert said.count("batch") == 1


def test_metrics_of_two_runbooks_are_drawn_apart() -> None:
    both = [plain_run("a", runbook="first"), plain_run("b", START + timedelta(days=1), runbook="second")]
    page = Reading(history_page("t", both, {}))
    assert_landmarks(page)
    names = [item["aria-labelledby"] for item in page.all("svg") if "aria-labelledby" in item]
    assert len(names) == len(set(names)) == 2 * (1 + 2 + 2)
    assert "second: postings.done of 1 run over time" in page.said
    assert [item for item in page.all("th") if item["scope"] == "col"]
    assert " Runbook " in page.said


# --- scales -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[0], [5], [-3, 8], [0.001, 0.004], [612, 599], [1e15, -1e15], [7, 7], [1e-13]])
@pytest.mark.parametrize("zero", [True, False])
def test_a_scale_holds_its_values_between_round_marks(values: list[float], zero: bool) -> None:
    axis = number_axis(values, zero=zero)
    assert axis.low < axis.high
    assert axis.low <= min(values) <= max(values) <= axis.high
    assert 2 <= len(axis.ticks) <= 8
    assert len({tick.label for tick in axis.ticks}) == len(axis.ticks)
    assert not zero or any(tick.value == 0 for tick in axis.ticks)


def test_lengths_and_moments_are_marked_in_their_own_units() -> None:
    assert [tick.label for tick in seconds_axis(170).ticks] == ["0", "1 min", "2 min"]
    assert [tick.label for tick in seconds_axis(0.8).ticks][:2] == ["0", "0.2 s"]
    days = time_axis([START.timestamp(), (START + timedelta(days=40)).timestamp()])
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", tick.label) for tick in days.ticks)
    hours = time_axis([START.timestamp(), (START + timedelta(hours=5)).timestamp()])
    assert "12:00" in [tick.label for tick in hours.ticks]


@pytest.mark.parametrize("value", [None, True, "5", float("nan"), float("inf"), 10**400, "NaN", [1]])
def test_what_is_no_number_of_a_plot_has_no_place_in_it(value: object) -> None:
    assert plottable(value) is None
