"""The pages in a real browser: what a person sees, with a phone, at night, on paper, with a keyboard, with a screen reader.

Skipped where there is no Chromium, or no playwright to drive it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runbook.records.pages.history_page import history_page
from runbook.records.pages.run_page import Sibling, run_page
from tests.acceptance.helpers import until
from tests.pages.builder import ENDINGS, HASH, START, Told, many_runs

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the path")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
QUIET += ["--disable-sync", "--no-first-run"]
RUNS = many_runs(14)
LONG = "0123456789" * 40  # a word that nothing breaks


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all; it ends with this file, for its event loop is no other test's business."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of all endings, of a run with long words and wide tables, and of many runs with the pages they lead to."""
    folder = tmp_path_factory.mktemp("pages")
    near = [Sibling("20251201_101500-000-0000", "passed", "2025-12-01T10:15:00+00:00", 61, "passed.html")]
    for name, make in ENDINGS.items():
        (folder / f"{name}.html").write_text(run_page(make(), output="printed\n" * 90, siblings=near), encoding="utf-8")
    (folder / "wide.html").write_text(run_page(wide_run()), encoding="utf-8")
    for record in RUNS:
        (folder / f"{record['run']['id']}.html").write_text(run_page(record), encoding="utf-8")
    hrefs = {record["run"]["id"]: f"{record['run']['id']}.html" for record in RUNS[1:]}
    (folder / "history.html").write_text(history_page("nightly", RUNS, hrefs, more=2), encoding="utf-8")
    return folder


def wide_run() -> Any:
    told = Told(title=f"Wide {LONG}", operator=LONG).open(
        params={LONG: LONG},
        expectations=[f"postings.{LONG}"],
        circumstances={
            "versions": {"PostgreSQL (db)": "15.18 (Debian 15.18-0+deb12u1)"},
            "git": HASH,
            "dirty": {LONG: f"sha256 {LONG}"},
        },
    )
    told.stage(0.1, "preflight").snapshot(0.2, "before", {"postings": {LONG: 10**14}})
    rows = [{f"column_{number}": f"value {number}" for number in range(20)} for _ in range(4)]
    told.check(0.3, "preflight", "wide", "refuted", rows, because=LONG, message=LONG, severity="warn")
    told.check(0.3, "preflight", LONG, "passed", {LONG: LONG})
    told.check(0.3, "preflight", "text", "passed", f"{LONG}\n{LONG}")
    told.predict(0.4, {f"postings.{LONG}": 5}).stage(0.5, "steps").attempt(1, 2, 1, LONG)
    return told.step(2, "failed", 1, 1, LONG).finish(3, "failed", LONG).record


@contextmanager
def seen(browser: Any, file: Path, width: int = 1280, height: int = 800, **how: Any) -> Iterator[Any]:
    """The page as it is shown; that it asks for nothing else and complains of nothing is checked each time."""
    context = browser.new_context(viewport={"width": width, "height": height}, **how)
    page, asked, told = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.goto(file.as_uri())
    yield page
    assert [url for url in asked if not url.startswith((file.parent.as_uri(), "data:"))] == []
    assert sum(not url.startswith("data:") for url in asked) == 1
    assert told == []
    context.close()


OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.parametrize("name", [*ENDINGS, "wide", "history"])
def test_nothing_makes_a_page_scroll_sideways_and_the_verdict_is_seen_first(
    browser: Any, folder: Path, name: str
) -> None:
    with seen(browser, folder / f"{name}.html", 360, 640) as page:
        for width in (360, 768, 1280):
            page.set_viewport_size({"width": width, "height": 640})
            assert page.evaluate(OVERFLOW) <= 0, width
            if name != "history":
                box = page.locator(".word").bounding_box()
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= width
                assert box["y"] >= 0
                assert box["y"] + box["height"] < 200


# The lowest contrast of any text to what is painted behind it, by the formula of WCAG 2.
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const known = new Map(), rgb = colour => known.get(colour) || known.set(colour, painted(colour)).get(colour);
  const painted = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => { for (let at = element; at; at = at.parentElement) {
    const found = rgb(getComputedStyle(at).backgroundColor); if (found[3] === 255) return found; }
    return rgb('white'); };
  let worst = [99, ''];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
    if (!text || ['title', 'desc', 'STYLE'].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const pair = [light(rgb(element instanceof SVGElement ? style.fill : style.color)), light(behind(element))];
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < worst[0]) worst = [ratio, text.slice(0, 40)];
  }
  return worst;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_by_day_and_by_night(browser: Any, folder: Path, scheme: str) -> None:
    shades = set()
    for name in [*ENDINGS, "wide", "history"]:
        with seen(browser, folder / f"{name}.html", color_scheme=scheme) as page:
            ratio, text = page.evaluate(CONTRAST)
            assert ratio >= 4.5, (name, text)
            shades.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert shades == {"rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 27)"}


FOCUS = """() => { const at = document.activeElement, style = getComputedStyle(at);
  const hit = at.querySelector && at.querySelector('.hit');
  const ring = style.outlineStyle !== 'none' || (hit && getComputedStyle(hit).stroke !== 'none');
  const name = at.getAttribute('aria-label') || at.textContent.trim(), role = at.getAttribute('role');
  return {tag: at.tagName.toLowerCase(), role, name, ring, seen: at.getBoundingClientRect().width > 4}; }"""


def tabbed(page: Any, limit: int = 400) -> list[dict[str, Any]]:
    """What the Tab key reaches, one after the other."""
    found: list[dict[str, Any]] = []
    for _ in range(limit):
        page.keyboard.press("Tab")
        found.append(page.evaluate(FOCUS))
        if found[-1]["tag"] == "body":
            break
    return found


def test_the_keyboard_reaches_everything_and_shows_where_it_is(browser: Any, folder: Path) -> None:
    with seen(browser, folder / "retried.html", 360) as page:
        reached = tabbed(page)
        assert reached[0]["name"] == "Skip to the content"
        names = [item["name"] for item in reached]
        assert "Table: Predicted and actual" in names
        assert "Output of the steps" in names
        assert all(item["ring"] and item["seen"] for item in reached[:-1]), reached
        assert page.locator("[role=region]:visible").count() == sum(item["role"] == "region" for item in reached)


def test_the_skip_link_leads_past_the_navigation(browser: Any, folder: Path) -> None:
    with seen(browser, folder / "passed.html") as page:
        page.keyboard.press("Tab")
        box = page.locator(".skip").first.bounding_box()
        assert box["x"] >= 0 and box["width"] > 40
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.querySelector('main').contains(document.activeElement)")


def test_points_of_the_history_lead_to_their_runs_by_key_and_by_mouse(browser: Any, folder: Path) -> None:
    wanted = RUNS[3]["run"]["id"]
    context = browser.new_context()
    page = context.new_page()
    for point in (page.locator(f".strip a[href='{wanted}.html']"), page.locator(f"svg a[href='{wanted}.html']").first):
        page.goto((folder / "history.html").as_uri())
        assert point.get_attribute("aria-label").startswith("2025-12-0")
        point.focus()
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/{wanted}.html")
        assert wanted in page.locator("header").inner_text()
    page.goto((folder / "history.html").as_uri())
    page.locator(f"svg a[href='{wanted}.html'] .hit").first.click()
    page.wait_for_url(f"**/{wanted}.html")
    page.goto((folder / "history.html").as_uri())
    page.locator(f".strip a[href='#run-{RUNS[0]['run']['id']}']").click()
    assert page.locator("tr:target").inner_text().startswith(RUNS[0]["run"]["id"])
    context.close()


def test_the_keyboard_reaches_the_points_and_can_pass_them_by(browser: Any, folder: Path) -> None:
    with seen(browser, folder / "history.html") as page:
        reached = tabbed(page)
        points = [item for item in reached if item["tag"] == "a" and "predicted +100" in item["name"]]
        assert len(points) == len([run for run in RUNS if run["run"]["verdict"] != "blocked"])
        assert all(item["ring"] for item in reached[:-1]), [item for item in reached if not item["ring"]]
        skips = [item["name"] for item in reached if item["name"].startswith("Skip ")]
        assert skips[0] == "Skip to the content"
        assert len(skips) >= 5
        page.locator("a.skip", has_text="points of Duration").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert "Skip" in page.evaluate(FOCUS)["name"]
        assert "Duration" not in page.evaluate(FOCUS)["name"]


def test_a_screen_reader_is_told_what_the_plots_show(browser: Any, folder: Path) -> None:
    with seen(browser, folder / "retried.html") as page:
        tree = page.locator("body").aria_snapshot()
        for words in (
            '- heading "Retried" [level=1]',
            'img "postings.done, change: predicted +100 ± 5%, actual +97, passed"',
            'img "done: before 400, after 497"',
            'img "step process, attempt 2: begins at 41 s, 17.0 s, failed"',
            'img "postings.done during the run"',
            'region "Table: Before and after"',
            'rowheader "postings.done"',
            'columnheader "Delta"',
            '- navigation "Sections"',
            "- main",
            "- banner",
            "- contentinfo",
        ):
            assert words in tree, words
        assert 'img ""' not in tree
        assert page.locator("svg[role=img]").count() == tree.count("img ")
    with seen(browser, folder / "history.html") as page:
        tree = page.locator("body").aria_snapshot()
        assert 'group "Duration of 14 runs over time"' in tree
        assert f'link "{START:%Y-%m-%d %H:%M:%S} UTC, refuted: 50.0 s"' in tree


@pytest.mark.parametrize("name", ["retried", "wide", "history", "blocked"])
def test_on_paper_all_sections_are_light_and_whole(browser: Any, folder: Path, name: str) -> None:
    with seen(browser, folder / f"{name}.html", 700, color_scheme="dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        ratio, text = page.evaluate(CONTRAST)
        assert ratio >= 4.5, text
        for section in page.locator("section").all():
            assert section.bounding_box()["height"] > 20
        clipped = """() => [...document.querySelectorAll('pre, .scroll, .narrow, details')]
          .filter(at => at.scrollHeight > at.clientHeight + 1 || at.scrollWidth > at.clientWidth + 1).length"""
        assert page.evaluate(clipped) == 0
        if name == "retried":
            assert page.locator("details table").bounding_box()["height"] > 100
        assert not page.locator("nav").is_visible() if page.locator("nav").count() else True
        assert page.evaluate(OVERFLOW) <= 0


def test_who_wants_no_motion_gets_none(browser: Any, folder: Path) -> None:
    how = "getComputedStyle(document.documentElement).scrollBehavior"
    with seen(browser, folder / "passed.html", reduced_motion="reduce") as page:
        assert page.evaluate(how) == "auto"
        assert page.evaluate("document.getAnimations().length") == 0


def test_wide_tables_scroll_within_themselves(browser: Any, folder: Path) -> None:
    with seen(browser, folder / "wide.html", 360) as page:
        region = page.get_by_role("region", name="Table: What wide returned")
        assert region.evaluate("at => at.scrollWidth > at.clientWidth")
        region.focus()
        page.keyboard.press("ArrowRight")
        assert until(lambda: page.evaluate("document.activeElement.scrollLeft"))
