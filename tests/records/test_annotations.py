"""A run as GitHub reads it: annotations at lines that no value can forge, and a summary that no value can break out of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from runbook.cli.documents import refusal
from runbook.language.problems import InvalidRunbook, Problem
from runbook.operate.lock import Holder, Locked
from runbook.records.annotations import MAX_SUMMARY, annotate, summary, workflow_command
from tests.records.ci import check, finished, github, judged, opened, ran, record
from tests.records.test_junit import HOSTILE, STEP, suite, whole


def test_the_escaping_is_githubs() -> None:
    line = workflow_command("error", "a%0A\r\nb:,", title="x:y,z%\n", line=0, file="")
    assert line == "::error title=x%3Ay%2Cz%25%0A::a%250A%0D%0Ab:,"
    assert workflow_command("notice", "") == "::notice::"


def test_everything_that_missed_is_told_at_its_line() -> None:
    told = github("\n".join(annotate(whole(), lambda file: f"books/{file}")))
    assert [item.place for item in told] == [
        ("warning", "books/small.yaml", "7"),
        ("error", "books/small.yaml", "10"),
        ("error", "books/small.yaml", "30"),
        ("notice", "books/small.yaml", ""),
    ]
    assert told[0].properties["title"] == "small: preflight.odd refuted"
    assert told[1].message.startswith("predicted 3 ± 5%, measured 4, off by 1\nquantity: delta\n")
    assert told[3].properties["title"] == "small: refuted"
    assert (
        told[3].message
        == "1 of 3 checks and expectations hold, 1 not known, 1 with a warning, 2 skipped, 1 measured only"
    )


def test_a_passed_run_is_one_notice() -> None:
    known = record(opened(preflight={"room": check(5)}), judged("room"), finished("passed"))
    [told] = github(*annotate(known, str))
    assert (told.name, told.message) == ("notice", "1 of 1 checks and expectations hold")


def test_a_run_that_verified_nothing_is_warned_of() -> None:
    told = github(*annotate(record(opened(steps={"add": STEP}), *ran("add"), finished("passed")), str))
    assert [item.name for item in told] == ["warning", "notice"] and "nothing was verified" in told[1].message


def test_a_run_that_did_not_pass_is_an_error_though_nothing_missed() -> None:
    told = github(*annotate(record(opened(), finished("cancelled", "SIGTERM")), str))
    assert (told[0].name, told[0].message) == ("error", "SIGTERM")


@pytest.mark.parametrize("how", ["rehearsal", "dry run"])
def test_what_was_not_done_to_the_real_thing_says_so(how: str) -> None:
    known = record(
        opened({how.replace(" ", "_"): True}, preflight={"room": check(5)}), judged("room"), finished("passed")
    )
    assert github(*annotate(known, str))[0].properties["title"] == f"small: passed ({how})"
    assert summary(known, str).startswith(f"## small: passed ({how})\n")
    assert suite(known).properties["verdict"] == f"passed ({how})"


def test_every_problem_of_a_file_is_told_at_its_place() -> None:
    problems = [Problem("a.yaml", 7, 3, "steps", "no", "do"), Problem("a.yaml", 2, 1, "", "what?")]
    told = github(*annotate(refusal(InvalidRunbook(problems), "a.yaml"), str))
    assert [(*item.place, item.properties["col"], item.message) for item in told] == [
        ("error", "a.yaml", "2", "1", "what?"),
        ("error", "a.yaml", "7", "3", "steps: no (do)"),
    ]


def test_a_lock_is_told_with_its_holder() -> None:
    [told] = github(*annotate(refusal(Locked("k", Holder("r0")), "a.yaml"), str))
    assert told.properties == {"file": "a.yaml", "title": "a.yaml: run locked"} and "by run r0" in told.message


@given(
    HOSTILE | st.sampled_from(["\n::error::x", "\r\n::stop-commands::x", "%0A::error::", ",line=1::x", "##[error]x"])
)
def test_no_value_starts_a_command_of_its_own(text: str) -> None:
    known = record(
        opened(preflight={"a": check(5, text), "b": check(6, text)}, steps={"add": STEP}),
        judged("a", verdict="refuted", because=text, message=text, result=[text]),
        judged("b", verdict="unknown", because=text, message=None, result=None),
        *ran("add", text, because=text, verdict="failed"),
        finished("failed", text),
    )
    known["run"]["runbook"] = text
    lines = annotate(known, lambda file: f"{file}{text}")
    assert all(len(line.splitlines()) == 1 for line in lines)
    assert [item.name for item in github("\n".join(lines))] == ["error", "error", "error", "notice"]


def test_a_long_value_is_cut() -> None:
    long = "y" * 99_999
    known = record(
        opened(preflight={"a": check(5, long)}),
        judged("a", verdict="refuted", because=long, result=long),
        finished("blocked"),
    )
    assert all(len(line) < 4_200 for line in annotate(known, str))


def test_the_summary_has_predicted_beside_actual_and_what_missed() -> None:
    known = whole()
    known["report"] = "logs/small.md"
    text = summary(known, str)
    assert text.startswith("## small: refuted\n")
    assert "| items.n | delta | 3 | ± 5% | 4 | refuted |" in text
    assert "- expectations.items.n: **refuted** (`small.yaml:10`): `predicted 3 ± 5%, measured 4, off by 1`" in text
    assert "- preflight.odd: **refuted** (warning) (`small.yaml:7`)" in text
    assert text.endswith("Run log: `logs/small.md`\n\n")


def test_the_summary_of_a_refusal_lists_the_problems() -> None:
    text = summary(refusal(InvalidRunbook([Problem("a.yaml", 2, 1, "", "what?")]), "a.yaml"), str)
    assert text == "## a.yaml: invalid\n\n### What missed\n- **invalid** (`a.yaml:2`): `what?`\n\n"


@given(
    HOSTILE
    | st.sampled_from(["</details><script>", "| x |\n# y", "[a](http://b)", "![x](y)", "```\n# z", "<img src=x>"])
)
def test_no_value_breaks_out_of_the_summary(text: str) -> None:
    known = record(
        opened({"title": text, "hypothesis": text, "operator": text}, preflight={"a": check(5)}),
        judged("a", verdict="refuted", because=text, message=text),
        finished("blocked", text),
    )
    known["report"] = text
    tokens = MarkdownIt("commonmark").enable("table").parse(summary(known, lambda file: f"{file}{text}"))
    kinds = {child.type for token in tokens for child in (token, *(token.children or ()))}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "fence", "hr", "code_block"}
    assert sum(token.type == "heading_open" for token in tokens) == 2


def test_the_summary_is_bounded() -> None:
    checks = {f"c{number}": check(number + 1) for number in range(2000)}
    missed = [judged(name, verdict="refuted", because="z" * 2000) for name in checks]
    text = summary(record(opened(preflight=checks), *missed, finished("blocked")), str)
    assert len(text.encode()) < MAX_SUMMARY + 200 and "more lines, which are in the run log" in text
