"""The page of one run as text: complete, bounded, and nothing but text wherever a value stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from runbook.engine.record import Record
from runbook.language.values import as_text, loads
from runbook.records.pages.history_page import history_page
from runbook.records.pages.run_page import Sibling, run_page
from tests.conftest import ROOT, Database, Program
from tests.pages.builder import ENDINGS, START, Told, plain_run
from tests.pages.reading import Reading

HOSTILE = (
    "</style></pre></title><script>alert(1)</script><img src=x onerror=alert(1)>\"'{{ 7*7 }}&lt;\u202e\x1b[31m\ud800"
)
OTHERS = [
    Sibling("20251201_101500-000-0000", "refuted", "2025-12-01T10:15:00+00:00", Decimal(61), "20251201.html"),
    Sibling("20251203_101500-000-0000", "passed", "2025-12-03T10:15:00+00:00", Decimal(62), "../later/page.html#main"),
    Sibling("20251204_101500-000-0000", None, None, None, ""),
]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_is_a_sound_page_that_names_its_verdict_first(ending: str) -> None:
    record = ENDINGS[ending]()
    page = Reading(run_page(record, siblings=OTHERS))
    assert page.odd == []
    assert len(page.all("h1")) == 1
    word = record["run"]["verdict"] or ("invalid" if ending == "refused" else "unfinished")
    body = page.said.split("Skip to the content", 1)[1]
    assert body.index(f"{word} ") < body.index(f"{record['run'].get('title') or 'broken.yaml'} ")
    assert " ".join((record["run"].get("because") or "").split()) in page.said
    assert_landmarks(page)


def assert_landmarks(page: Reading) -> None:
    tags = [tag for tag, _ in page.elements]
    assert (tags.count("main"), tags.count("header"), tags.count("footer")) == (1, 1, 1)
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels)), levels
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in page.all("a"):
        if attributes["href"].startswith("#"):
            assert attributes["href"][1:] in ids
    assert tags.count("caption") == tags.count("table")
    assert all("scope" in attributes for attributes in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"


def test_a_page_may_fetch_nothing_and_asks_for_nothing() -> None:
    text = run_page(ENDINGS["retried"](), output="see https://example.org/", siblings=OTHERS)
    page = Reading(text)
    policy = next(item["content"] for item in page.all("meta") if item.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    assert not page.all("script")
    assert not re.search(r"url\(|@import", text)
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "poster", "srcset"):
            assert not re.match(r"\s*(\w+:|//)", attributes.get(name, "")) or attributes[name] == "data:,"


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def test_every_number_of_a_real_run_stands_in_its_page_as_text(example: Database, program: Program) -> None:
    ended = program("exec", str(ROOT / "runbooks" / "wf3001.yaml"), "--json", env={"DATABASE_URL": example.url})
    record = loads(ended.out)
    record["declared"] = {}
    page = Reading(run_page(record))
    assert page.odd == []
    numbers = set(re.findall(r"[-+]?\d+(?:\.\d+)?", page.said))
    shown = numbers | {number.lstrip("+") for number in numbers}
    parts = [record[key] for key in ("params", "before", "after", "delta")]
    parts += [item[key] for item in record["expectations"].values() for key in ("predicted", "actual")]
    parts += [check["result"] for section in ("preflight", "postconditions") for check in record[section].values()]
    known = [value for value in leaves(parts) if isinstance(value, int | Decimal) and not isinstance(value, bool)]
    assert len(known) > 40
    assert [value for value in known if as_text(value) not in shown] == []
    assert record["audit"]["head"] in page.said
    assert [span["name"] for span in record["timeline"]] == [
        "preflight",
        "predictions",
        "steps",
        "steps",
        "postconditions",
    ]
    assert all(span["until"] for span in record["timeline"])


def hostile_everywhere(value: Any, kept: tuple[str, ...]) -> Any:
    """The record with hostile text in front of every text, and as a further key of every mapping of the author's."""
    if isinstance(value, dict):
        return {key: item if key in kept else hostile_everywhere(item, kept) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile_everywhere(item, kept) for item in value]
    return HOSTILE + value if isinstance(value, str) else value


def hostile_record() -> Record:
    told = Told().open(params={HOSTILE: HOSTILE}, steps={HOSTILE: "steps"}, expectations=[f"s.{HOSTILE}"], note=HOSTILE)
    told.stage(0.1, "preflight").snapshot(
        0.2, "before", {"s": {HOSTILE: 1}, HOSTILE: {"m": HOSTILE}}, {HOSTILE: HOSTILE}
    )
    evidence = [{HOSTILE: HOSTILE, "n": 1}, {HOSTILE: {HOSTILE: [HOSTILE]}}]
    told.check(0.3, "preflight", HOSTILE, "refuted", evidence, because=HOSTILE, message=HOSTILE)
    told.check(0.3, "preflight", "text", HOSTILE, f"{HOSTILE}\n{HOSTILE}")
    told.stage(0.4, "predictions").predict(0.4, {f"s.{HOSTILE}": 1}).stage(0.5, "steps")
    told.attempt(0.6, 2, 1, HOSTILE, step=HOSTILE)
    told.tell(2, "progress.measured", step=HOSTILE, samples=[[1, {f"s.{HOSTILE}": 1, HOSTILE: HOSTILE}]])
    told.snapshot(3, "after", {"s": {HOSTILE: 2}, HOSTILE: {"m": HOSTILE}}).judge(
        3, f"s.{HOSTILE}", HOSTILE, 1, HOSTILE
    )
    record: Any = told.finish(4, "failed", HOSTILE, HOSTILE).record
    record["handwritten"] = f"{HOSTILE}\nsecond line"
    record["problems"] = [{"message": HOSTILE, "hint": HOSTILE}]
    record["circumstances"] |= {
        "text": HOSTILE,
        "warnings": [HOSTILE],
        "schema": {"db": {"relations": {HOSTILE: HOSTILE}}},
    }
    kept = ("started_at", "finished_at", "at", "until", "what")
    found: Record = hostile_everywhere(record, kept)
    return found


def test_hostile_values_stay_text() -> None:
    record = hostile_record()
    others = [Sibling(HOSTILE, HOSTILE, HOSTILE, HOSTILE, "x.html"), Sibling(HOSTILE, None, None, None, "")]
    for text in (
        run_page(record, output=HOSTILE, siblings=others),
        history_page(HOSTILE, [record, plain_run("a")], {}),
    ):
        page = Reading(text)
        assert page.odd == []
        assert {tag for tag, _ in page.elements} & {"script", "img", "iframe", "object", "form", "base"} == set()
        assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
        assert "<script>alert(1)</script>" in page.said
        assert "{{ 7*7 }}&lt;" in page.said
        assert r"\u202e\x1b[31m\ud800" in page.said
        assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", text)
        text.encode("utf-8")


@pytest.mark.parametrize(
    "href",
    [
        "https://x.org/",
        "//x.org/a",
        "javascript:alert(1)",
        "JaVaScript:alert(1)",
        "data:text/html,x",
        "/etc/passwd",
        " a",
        "a\nb",
        "\\\\x",
    ],
)
def test_a_page_leads_only_to_its_neighbours(href: str) -> None:
    with pytest.raises(ValueError, match="not a relative path"):
        run_page(plain_run("a"), siblings=[OTHERS[0]._replace(href=href)])
    with pytest.raises(ValueError, match="not a relative path"):
        history_page("t", [plain_run("a")], {"a": href})


def test_other_runs_are_linked_or_told_how_to_be_made() -> None:
    page = Reading(run_page(plain_run("own"), siblings=OTHERS))
    assert [item["href"] for item in page.all("a")].count("20251201.html") == 2
    assert "← Earlier run" in page.said
    assert "Later run →" in page.said
    assert "runbook show 20251204_101500-000-0000 --html" in page.said


def test_output_is_shown_from_its_end_and_says_what_is_left_out() -> None:
    page = Reading(run_page(plain_run("a"), output="first\n" + "x" * 300_000 + "\nlast", output_dropped=17))
    assert f"{17 + 300_011 - 200_000} bytes before this are left out" in page.said
    assert "first" not in page.said
    assert page.said.count("last") == 1
    assert "Last output of" not in page.said


def test_tails_stand_in_for_the_output_where_there_is_none() -> None:
    page = Reading(run_page(ENDINGS["retried"]()))
    assert page.said.count("Last output of process") == 3


def test_notes_of_both_kinds_keep_their_lines() -> None:
    record = plain_run("a")
    record["notes"].append("two\nlines")
    record["handwritten"] = "by hand\n\nwith a pen"
    text = run_page(record)
    assert "two\nlines" in text
    assert "by hand\n\nwith a pen" in text


def test_large_records_stay_bounded() -> None:
    rows = [{f"column{number}": number for number in range(60)} for _ in range(2000)]
    told = Told().open(expectations=["s.m"]).stage(0.1, "preflight").snapshot(0.2, "before", {"s": {"m": 0}})
    told.check(0.3, "preflight", "many", "passed", rows, dropped=7)
    told.check(0.3, "preflight", "long", "passed", "word " * 100_000)
    told.stage(1, "steps")
    for number in range(400):
        told.attempt(number + 1, number + 1.5, number + 1, "again")
    samples = [[at, {f"s.m{number}": at for number in range(40)}] for at in range(3000)]
    told.tell(500, "progress.measured", step="process", samples=samples)
    text = run_page(told.finish(501, "failed").record)
    page = Reading(text)
    assert len(text) < 1_500_000
    for mark in ("1900 more rows not shown", "36 more columns", "at least 7 rows more", "more metrics not shown"):
        assert mark in page.said
    assert "more characters not shown" in page.said
    assert "… 322 more not shown" in page.said


def test_what_was_not_measured_is_never_a_number() -> None:
    page = Reading(run_page(ENDINGS["errored"]()))
    assert "predicted +100 ± 5%, actual not measured" in page.said
    assert "the server closed the connection unexpectedly" in page.said
    lost = Reading(run_page(ENDINGS["lost"]()))
    assert "nobody saw it end" in lost.said
    assert "pid 4711: python" in lost.said
    assert "end not seen" in lost.said
    assert "actual 0" not in page.said + lost.said


def test_a_blocked_run_tells_what_stopped_it_and_not_what_it_kept_from_happening() -> None:
    said = Reading(run_page(ENDINGS["blocked"]())).said
    issues = said.split(" Issues ")[2].split(" Predicted and actual ")[0]
    assert "preflight.pending ✗ refuted nothing is waiting: result > 0 where result = 0; remedy: refill" in issues
    assert "postings.done" not in issues


def test_a_running_step_is_unfinished_and_a_dead_ones_outcome_unknown() -> None:
    assert "process ▸ unfinished" in Reading(run_page(ENDINGS["running"]())).said
    assert "process ? unknown" in Reading(run_page(ENDINGS["lost"]())).said


def test_numbers_that_no_plot_can_hold_stay_in_the_tables() -> None:
    huge, tiny = 10**40, Decimal("1e-40")
    told = Told().open(expectations=["s.a", "s.b"]).stage(0.1, "preflight")
    told.snapshot(0.2, "before", {"s": {"a": huge, "b": tiny, "c": "NaN"}}).predict(0.3, {"s.a": huge, "s.b": 2 * tiny})
    told.snapshot(3, "after", {"s": {"a": 2 * huge, "b": 3 * tiny, "c": "Infinity"}})
    told.judge(3, "s.a", "passed", huge).judge(3, "s.b", "passed", 2 * tiny)
    page = Reading(run_page(told.finish(4, "passed").record))
    assert str(2 * huge) in page.said
    assert "Infinity" in page.said


def test_the_day_is_told_in_utc() -> None:
    text = run_page(plain_run("a", START))
    assert "2025-12-02 10:15:00 UTC" in Reading(text).said
    record = plain_run("a")
    record["run"]["started_at"] = "2025-12-02T01:15:00+05:00"
    assert "2025-12-01 20:15:00 UTC" in Reading(run_page(record)).said
