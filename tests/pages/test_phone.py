"""What a phone shows of a page, and how rows line up on a desk; in a real browser, as in test_browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runbook.records.pages.history_page import history_page
from runbook.records.pages.run_page import run_page
from tests.pages import test_browser
from tests.pages.builder import ENDINGS, many_runs

pytestmark = test_browser.pytestmark
browser = test_browser.browser
HIDDEN = "nodes => nodes.map(node => node.scrollWidth - node.clientWidth)"
HEIGHTS = "nodes => nodes.map(node => Math.round(node.getBoundingClientRect().height))"


@pytest.fixture
def refuted(tmp_path: Path) -> Path:
    """The page of a run of which two things missed."""
    record = ENDINGS["refuted"]()
    long = "returned 12 rows where none was expected: company_id is null"
    item = {"verdict": "refuted", "because": long, "result": None, "message": None, "severity": "error"}
    record["postconditions"] = {"every_posting_has_its_company": item}  # type: ignore[dict-item]
    (tmp_path / "run.html").write_text(run_page(record), encoding="utf-8")
    return tmp_path / "run.html"


def test_a_phone_shows_the_whole_head_and_why_it_missed(browser: Any, refuted: Path) -> None:
    with test_browser.seen(browser, refuted, 390, 844) as page:
        assert max(page.locator(".facts dd").evaluate_all(HIDDEN)) <= 0
        assert max(page.locator("[aria-labelledby=issues] .scroll").evaluate_all(HIDDEN)) <= 0


def test_predictions_take_a_line_each(browser: Any, refuted: Path) -> None:
    with test_browser.seen(browser, refuted) as page:
        heights = page.locator("[aria-labelledby=predicted] .rows .value:has(.verdict)").evaluate_all(HEIGHTS)
        assert len(heights) == 2 and len(set(heights)) == 1


def test_the_rows_of_a_history_stay_low_on_a_phone(browser: Any, tmp_path: Path) -> None:
    runs = many_runs(4)
    for number, record in enumerate(runs):
        record["params"] = {
            "source": f"several of them and more {number}",
            "since": f"2025-12-0{number + 1}",
            "n": number,
        }
    (tmp_path / "history.html").write_text(history_page("t", runs, {}), encoding="utf-8")
    with test_browser.seen(browser, tmp_path / "history.html", 390, 844) as page:
        assert max(page.locator("table.many tbody tr").evaluate_all(HEIGHTS)) < 62
