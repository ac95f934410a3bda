"""The page of a comparison: every run and every outcome against every param, as text and in a real browser."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runbook.records.comparison import Sought, compare_runs
from runbook.records.pages.comparison_page import comparison_page, scale
from tests.pages import test_browser
from tests.pages.builder import ENDINGS, START, Told, plain_run
from tests.pages.reading import Reading
from tests.pages.test_run_page import assert_landmarks

browser = test_browser.browser
LONG = "0123456789" * 30


def sought(name: str, params: dict[str, Any], **given: Any) -> Sought:
    record = plain_run(name, START + timedelta(minutes=1), **given)
    record["params"] = {"limit": 500, **params}
    return Sought(name, params, record=record)


def a_matrix() -> list[Sought]:
    """Twelve runs by two params, of which one is queued and one was tried twice, on two hosts."""
    runs: list[Sought] = []
    for index, mode in enumerate(("batch", "single", "a-mode-with-a-long-name")):
        for n in (50, 100, 500, 1000):
            off = 40 if (index, n) == (2, 500) else 0
            given = {
                "predicted": n,
                "actual": n - off,
                "duration": 10 + n / 20 * (index + 1),
                "host": f"worker-{index % 2}",
            }
            runs.append(sought(f"20251202_1015{len(runs):02d}-1-aaaa", {"n": n, "mode": mode}, **given))
    runs[4] = runs[4]._replace(record=None, state="queued")
    runs[6] = runs[6]._replace(attempts=2)
    return runs


def page_of(runs: list[Sought], varied: list[str], **hrefs: str) -> Reading:
    page = Reading(comparison_page(compare_runs(runs, experiment="exp", runbook="nightly", varied=varied), hrefs))
    assert page.odd == []
    assert_landmarks(page)
    assert not page.all("script")
    policy = [item for item in page.all("meta") if item.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy[0]["content"]
    return page


def test_every_run_is_in_the_table_and_behind_its_points() -> None:
    runs = a_matrix()
    page = page_of(runs, ["n", "mode"], **{runs[0].id: "first.html"})
    links = [item["href"] for item in page.all("a")]
    assert next(item["id"] for item in page.all("tr") if "id" in item) == f"run-{runs[8].id}"
    assert sum("id" in item for item in page.all("tr")) == 12
    assert links.count("first.html") == 1 + 2 * 3
    assert links.count(f"#run-{runs[1].id}") == 1 + 2 * 3
    assert links.count(f"#run-{runs[4].id}") == 1
    assert links.count(f"#run-{runs[10].id}") == 1 + 1 + 2 * 3
    for words in (
        "Change of postings.done against n",
        "Duration against mode",
        "n=500, mode=a-mode-with-a-long-name: 460, predicted +500 ± 5%, refuted",
        "+460 ✗ (predicted +500 ± 5%)",
        "1 run has no value.",
        "A line joins runs that are alike in all else that varies.",
        "Across, 1: a-mode-with-a-long-name; 2: batch; 3: single.",
        "Not only the params differ between these runs",
        "worker-0 (8 runs), worker-1 (3 runs)",
        "Verdict and postings.done by n and mode",
    ):
        assert words in page.said, words


def explored(n: int) -> Sought:
    """A run of which nothing was expected."""
    told = Told(f"r{n}").open(params={"n": n}).snapshot(0.1, "before", {"s": {"rows": 1, "loss": None}})
    told.snapshot(1, "after", {"s": {"rows": 1 + n, "loss": Decimal(n) / 4}})
    return Sought(f"r{n}", {"n": n}, record=told.finish(2, "passed").record)


def test_what_was_measured_and_not_predicted_has_its_columns_and_plots() -> None:
    page = page_of([explored(n) for n in (1, 2, 3)], ["n"])
    for words in (
        "s.rows",
        "Change of s.rows against n",
        "s.loss afterwards against n",
        "n=3: 0.75, passed",
    ):
        assert words in page.said, words
    assert "n=2: +2, passed" in page.said


def test_a_gap_in_the_plot_of_changes_is_no_change() -> None:
    runs = [explored(1), explored(2), explored(3)]
    assert runs[0].record is not None
    runs[0].record["delta"]["s"]["rows"] = None
    page = page_of(runs, ["n"])
    assert "2 afterwards" in page.said and "1 run has no value." in page.said and "n=1: 2, passed" not in page.said


def test_a_page_says_why_runs_did_not_pass() -> None:
    runs = a_matrix()
    page = page_of(runs, ["n", "mode"])
    assert "Why runs did not pass" in page.said
    assert "postings.done refuted: predicted 500 ± 5%, measured 460" in page.said
    assert "Why runs did not pass" not in page_of(runs[:3], ["n"]).said


def test_a_verdict_has_a_shape_of_its_own_in_the_plots() -> None:
    page = page_of(a_matrix(), ["n"])
    drawn = {item["class"]: item["d"] for item in page.all("path") if item.get("class", "").startswith("point v-")}
    assert drawn["point v-passed"] != drawn["point v-refuted"]


@pytest.mark.parametrize(
    ("values", "labels", "ordered"),
    [
        ([1, 2, Decimal("3.5")], ["1", "2", "3", "4"], True),
        ([1, 10, 1000], ["1", "10", "100", "1k"], True),
        (["10", "9"], ["10", "9"], False),
        ([True, False], ["false", "true"], False),
        ([1, "x"], ["1", "x"], False),
        ([5], None, True),
        ([None, "x", LONG], ["1", "2", "3"], False),
    ],
)
def test_numbers_have_a_numeric_scale_and_all_else_stands_side_by_side(
    values: list[Any], labels: list[str] | None, ordered: bool
) -> None:
    runs = [sought(f"r{index}", {"v": value}) for index, value in enumerate(values)]
    found = scale(compare_runs(runs, varied=["v"]), "v")
    assert found is not None and found.ordered is ordered
    assert all(0 <= place <= 1 for place in found.places.values())
    assert len(set(found.places.values())) == len(values)
    assert labels is None or [label for _, label in found.ticks] == labels
    if ordered:
        places = [found.places[f"r{index}"] for index in range(len(values))]
        assert places == sorted(places)


def test_a_logarithmic_scale_says_so() -> None:
    page = page_of([sought(f"r{n}", {"n": n}) for n in (1, 10, 1000)], ["n"])
    assert "The scale across is logarithmic." in page.said


@pytest.mark.parametrize("names", [[], ["refused"], ["running", "lost"], list(ENDINGS)])
def test_few_and_odd_runs_are_a_page_too(names: list[str]) -> None:
    runs = [Sought(name, {"n": 1}, record=ENDINGS[name]()) for name in names]
    page_of([*runs, Sought("gone", {"n": LONG}), Sought("wait", {}, "queued")], ["n"])


def test_values_are_text() -> None:
    page = page_of([sought("r", {"<i>": "<script>alert(1)</script>"}), sought("s", {"<i>": "\u202e"})], ["<i>"])
    assert "<script>alert(1)</script>" in page.said and "\\u202e" in page.said
    with pytest.raises(ValueError, match="not a relative path"):
        comparison_page(compare_runs([sought("r", {})]), {"r": "javascript:alert(1)"})


def test_no_more_plots_than_anybody_looks_at() -> None:
    runs = [sought(f"r{n}", {f"p{index}": n for index in range(20)}) for n in (1, 2)]
    page = page_of(runs, [f"p{index}" for index in range(20)])
    assert "36 more plots not shown" in page.said


# --- in a browser -------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    wide = [sought(f"r{n}", {LONG: f"{n}{LONG}", "n": n}) for n in (1, 2, 3)]
    odd = [Sought(name, {"n": index}, record=make()) for index, (name, make) in enumerate(ENDINGS.items())]
    odd = [run._replace(record={**run.record, "params": {"n": index}}) for index, run in enumerate(odd) if run.record]
    for name, runs in (("matrix", a_matrix()), ("wide", wide), ("odd", odd)):
        (tmp_path / f"{name}.html").write_text(comparison_page(compare_runs(runs), {}), encoding="utf-8")
    return sorted(tmp_path.glob("*.html"))


@test_browser.pytestmark
def test_nothing_scrolls_sideways_and_all_text_stands_out(browser: Any, files: list[Path]) -> None:
    for file in files:
        for scheme in ("light", "dark"):
            with test_browser.seen(browser, file, 360, 640, color_scheme=scheme) as page:
                for width in (360, 768, 1280):
                    page.set_viewport_size({"width": width, "height": 640})
                    assert page.evaluate(test_browser.OVERFLOW) <= 0, (file.name, width)
                ratio, text = page.evaluate(test_browser.CONTRAST)
                assert ratio >= 4.5, (file.name, scheme, text)


@test_browser.pytestmark
def test_on_paper_it_is_light_and_whole(browser: Any, files: list[Path]) -> None:
    clipped = """() => [...document.querySelectorAll('.scroll, .narrow')]
      .filter(at => at.scrollWidth > at.clientWidth + 1).length"""
    for file in files:
        with test_browser.seen(browser, file, 700, color_scheme="dark") as page:
            page.emulate_media(media="print", color_scheme="dark")
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
            assert page.evaluate(clipped) == 0, file.name
            assert page.evaluate(test_browser.OVERFLOW) <= 0, file.name


@test_browser.pytestmark
def test_the_keyboard_reaches_everything_in_order_and_a_point_leads_to_its_run(browser: Any, files: list[Path]) -> None:
    file = next(file for file in files if file.stem == "matrix")
    with test_browser.seen(browser, file) as page:
        reached = test_browser.tabbed(page)
        names = [item["name"] for item in reached]
        assert names[0] == "Skip to the content" and names[1] == "Runs"
        assert all(item["ring"] for item in reached[:-1]), [item for item in reached if not item["ring"]]
        table, plot = "Table: All runs, by the params that vary", "Skip 11 points of Change of postings.done against n"
        assert names.index(table) < names.index(plot)
        page.locator("svg a").first.focus()
        page.keyboard.press("Enter")
        assert page.locator("tr:target").count() == 1
        tree = page.locator("body").aria_snapshot()
        assert 'group "Duration against n, of 11 runs"' in tree and 'img ""' not in tree
