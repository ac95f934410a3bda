"""Many runs beside each other: what stands in the table, what is the same, what else differs, and that values stay inert."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.cli.comparison_account import NARROWEST, account
from runbook.engine.record import Record
from runbook.language.values import Absent
from runbook.records.comparison import NO_RECORD, Comparison, Sought, compare_runs
from runbook.records.comparison_words import (
    cells,
    common,
    counted,
    differences,
    extremes,
    grid,
    headings,
    markdown,
    reasons,
    warnings,
)
from tests.pages.builder import START, Told, errored_run, lost_run, plain_run, running_run


def a_run(name: str, params: dict[str, Any], **given: Any) -> Record:
    record = plain_run(name, START + timedelta(minutes=len(name)), **given)
    record["params"] = {"limit": 500, **params}
    return record


def sought(name: str, params: dict[str, Any], **given: Any) -> Sought:
    return Sought(name, params, record=a_run(name, params, **given))


def lines(found: Comparison) -> list[list[str]]:
    return [[words.text for words in cells(found, row)] for row in found.rows]


def test_a_row_a_run_in_the_order_of_the_params_with_numbers_as_numbers() -> None:
    runs = [
        sought("a", {"n": 100, "mode": "x"}),
        sought("b", {"n": 20, "mode": "x"}, predicted=20, actual=20),
        sought("c", {"n": Decimal("3.5"), "mode": "y"}, duration=5),
        sought("d", {"n": 20, "mode": "b"}, predicted=20, actual=9),
        sought("e", {"n": None, "mode": "b"}),
    ]
    found = compare_runs(runs, experiment="exp", runbook="nightly", varied=["n", "mode"])
    assert [row.id for row in found.rows] == ["e", "c", "d", "b", "a"]
    assert headings(found) == ["n", "mode", "verdict", "postings.done", "postings.total", "took", "run"]
    assert lines(found)[2] == ["20", "b", "refuted", "+9 ✗ (predicted +20 ± 5%)", "0 ✓", "1 min 00 s", "d"]
    assert lines(found)[4] == ["100", "x", "passed", "+100 ✓", "0 ✓", "1 min 00 s", "a"]
    assert found.counts == {"passed": 4, "refuted": 1}
    assert counted(found) == "5 runs: 4 passed, 1 refuted; n and mode vary"


def test_runs_that_wait_or_have_no_record_are_rows_too() -> None:
    running = running_run()
    runs = [
        Sought("queued", {"n": 1}, "queued"),
        Sought("running", {"n": 2}, "running", record=running),
        Sought("gone", {"n": 3}),
        Sought("again", {"n": 4}, "queued", 2),
    ]
    found = compare_runs(runs, varied=["n"])
    assert [row.verdict for row in found.rows] == ["queued", "running", NO_RECORD, "queued"]
    assert found.missing == ["gone"]
    assert any("gone" in warning for warning in warnings(found))
    assert headings(found)[-2:] == ["attempts", "run"]
    assert [line[-2] for line in lines(found)] == ["1", "1", "1", "2"]
    assert lines(found)[1][2:5] == ["–", "–", "1"]
    unknown = compare_runs([Sought("r", {}, record=running)])
    assert [row.verdict for row in unknown.rows] == ["unfinished"]


def test_what_was_predicted_is_told_only_where_it_was_missed() -> None:
    told = Told("r").open(expectations=["s.m", "s.gone"]).snapshot(0.1, "before", {"s": {"m": 1, "gone": 1}})
    told.predict(0.2, {"s.m": {"at_least": 5, "at_most": 9}, "s.gone": 3}, of="after")
    told.snapshot(1, "after", {"s": {"m": 4, "gone": None}})
    told.judge(1, "s.m", "refuted", 4).judge(1, "s.gone", "unknown", None, "null")
    record = told.finish(2, "refuted").record
    record["expectations"]["s.m"]["severity"] = "warn"
    found = compare_runs([Sought("r", {}, record=record)])
    assert lines(found)[0][1:3] == ["4 ✗ (predicted at least 5, at most 9; only warns)", "?"]


def with_check(name: str, verdict: str | None, result: Any = None) -> Sought:
    run = sought(name, {"n": len(name)})
    assert run.record is not None
    for check, found in (
        ("rows", {"verdict": verdict, "result": result}),
        ("dull", {"verdict": "passed", "result": 1}),
    ):
        run.record["postconditions"][check] = found  # type: ignore[assignment]
    return run


def test_a_postcondition_has_a_column_where_it_came_out_differently() -> None:
    found = compare_runs([with_check("a", "passed"), with_check("bb", "refuted", 7), with_check("ccc", None)])
    assert found.postconditions == ["rows"]
    place = headings(found).index("rows")
    assert [line[place] for line in lines(found)] == ["✓", "7 ✗", "–"]
    measured = compare_runs([with_check("a", "passed", Decimal("0.5")), with_check("bb", "passed", Decimal("0.7"))])
    assert [line[place] for line in lines(measured)] == ["0.5 ✓", "0.7 ✓"]
    alike = compare_runs([with_check("a", "passed"), with_check("bb", None), with_check("cc", "passed", ["x"] * 99)])
    assert alike.postconditions == []


def test_params_that_differ_are_found_where_nobody_names_them() -> None:
    runs = [sought("a", {"n": 1, "flag": True}), sought("b", {"n": 1, "flag": 1}), sought("c", {"n": 1})]
    found = compare_runs(runs)
    assert found.varied == ["flag"]
    assert lines(found)[0][0] == "–"
    assert dict(common(found))["n"] == 1 and found.same["params"] == {"limit": 500, "n": 1}
    assert compare_runs(runs[:1]).varied == []


def test_a_run_that_waits_does_not_tell_defaults_and_changes_nothing_in_what_is_the_same() -> None:
    found = compare_runs([sought("a", {"n": 1}), Sought("b", {"n": 2}, "queued")], varied=["n"])
    assert found.varied == ["n"] and found.same["params"] == {"limit": 500}


def around(name: str, n: int, host: str = "one", **circumstances: Any) -> Sought:
    run = sought(name, {"n": n}, host=host)
    assert run.record is not None
    known = run.record["circumstances"]
    versions = {
        "runbook file": "sha256 aa",
        "Python": "3.11.7",
        **known["versions"],
        **circumstances.pop("versions", {}),
    }
    run.record["circumstances"] = {**known, "versions": versions, **circumstances}
    return run


def test_circumstances_that_differ_are_told_with_how_many_runs_had_which() -> None:
    models: dict[str, Any] = {"models": {"ollama": {"llama3": "sha256:11"}}}
    runs = [
        around("a", 1, **models, git="f00 (clean)"),
        around("b", 2, **models, git="f00 (clean)", host="two", versions={"Python": "3.12.1"}),
        around("c", 3, git="bad (clean)", command_line=["exec", "x"]),
        around("d", 4, models={"ollama": {"llama3": "sha256:22"}}, versions={"runbook file": "sha256 bb"}),
    ]
    found = compare_runs(runs, varied=["n"])
    told = dict(differences(found))
    assert told["host"] == "one (3 runs), two (1 run)"
    assert told["versions: Python"] == "3.11.7 (3 runs), 3.12.1 (1 run)"
    assert told["code: git commit"] == "f00 (clean) (2 runs), bad (clean) (1 run)"
    assert told["models: ollama: llama3"] == "sha256:11 (2 runs), sha256:22 (1 run)"
    assert told["text: runbook file"] == "sha256 aa (3 runs), sha256 bb (1 run)"
    assert len(told) == 5
    assert any("circumstances" in warning for warning in warnings(found))
    assert "sha256" not in found.same and "host" not in found.same and "git" not in found.same
    assert found.same["versions"] == {"runbook": "0.1.0", "PostgreSQL (db)": "15.4"}


def test_a_run_that_tells_little_hides_no_difference_between_the_others() -> None:
    little = sought("a", {"n": 0}, host="one")
    assert little.record is not None
    little.record["circumstances"] = {}
    runs = [little, around("b", 1), around("c", 2, versions={"Python": "3.12.1"})]
    assert dict(differences(compare_runs(runs)))["versions: Python"] == "3.11.7 (1 run), 3.12.1 (1 run)"


def test_runs_alike_in_all_differ_in_nothing() -> None:
    found = compare_runs([around("a", 1), around("b", 2)], varied=["n"])
    assert found.differs == [] and warnings(found) == []
    assert found.same["sha256"] == "aa" and found.same["host"] == "one" and found.same["operator"] == "ada"


def test_runs_of_two_runbooks_are_said_to_be() -> None:
    found = compare_runs([sought("a", {"n": 1}), sought("b", {"n": 1}, runbook="other")])
    assert found.runbooks == ["nightly", "other"] and "runbook" not in found.same
    assert warnings(found)[0] == "These are runs of different runbooks."


def test_the_fastest_and_the_slowest_are_of_those_that_passed() -> None:
    runs = [
        sought("a", {"n": 1}, duration=9),
        sought("b", {"n": 2}, duration=4),
        sought("c", {"n": 3}, duration=2, actual=5),
    ]
    found = compare_runs(runs)
    assert extremes(found) == "of the 2 that passed, the fastest took 4 s with n=2, the slowest 9 s with n=1"
    assert extremes(compare_runs(runs[1:])) == ""
    misses = [sought("c", {"n": 3}, actual=5), sought("d", {"n": 4}, actual=5)]
    assert extremes(compare_runs(misses)) == "each of the 2 that were refuted took 1 min 00 s"


def test_two_params_are_a_grid_where_most_pairs_were_tried() -> None:
    runs = [
        sought(f"{mode}{n}", {"n": n, "mode": mode}, predicted=n, actual=n if mode == "x" else 0)
        for n in (2, 10)
        for mode in ("y", "x")
    ]
    square = grid(compare_runs([*runs, runs[0]._replace(id="more")]))
    assert square is not None
    assert square.caption == "verdict and postings.done by n and mode"
    assert square.corner == "n \\ mode" and [words.text for words in square.columns] == ["x", "y"]
    assert [[words.text for words in row] for row in square.rows] == [
        ["2", "passed +2 ✓", "refuted 0 ✗ and 1 more"],
        ["10", "passed +10 ✓", "refuted 0 ✗"],
    ]
    partial = grid(compare_runs(runs[:3]))
    assert partial is not None and partial.rows[1][1].text == ""
    assert grid(compare_runs([runs[0], runs[3]])) is None
    assert grid(compare_runs([sought("a", {"n": 1}), sought("b", {"n": 2})])) is None


def checked(run: Sought, name: str, result: Any, severity: str = "error") -> Sought:
    """The run, made refuted by a postcondition, or only warned."""
    assert run.record is not None
    run.record["postconditions"][name] = {"verdict": "refuted", "result": result, "severity": severity}
    if severity == "error":
        run.record["run"].update({"verdict": "refuted", "because": f"{name} refuted: result < 9"})
    return run


def test_a_cell_of_the_grid_names_what_decided_where_that_is_not_the_metric_above_it() -> None:
    runs = [sought(f"{mode}{n}", {"n": n, "mode": mode}) for n in (1, 2) for mode in ("x", "y")]
    for run, total in zip(runs, (0, 0, 7, 0), strict=True):
        assert run.record is not None
        if total:
            run.record["expectations"]["postings.total"].update({"verdict": "refuted", "actual": total})
            run.record["run"]["verdict"] = "refuted"
    checked(runs[0], "few", 11)
    checked(runs[1], "few", 12, "warn")
    assert runs[3].record is not None
    runs[3].record["expectations"]["postings.total"].update({"verdict": "refuted", "actual": 3, "severity": "warn"})
    wrong = sought("y2-again", {"n": 2, "mode": "y"}, actual=5)
    square = grid(compare_runs([*runs, wrong]))
    assert square is not None and square.caption == "verdict and postings.total by n and mode"
    assert [[words.text for words in row[1:]] for row in square.rows] == [
        ["refuted by few 11 ✗", "passed 0 ✓"],
        ["refuted +7 ✗", "passed +3 ✗ (only warns) and 1 more (refuted)"],
    ]


def explored(name: str, params: dict[str, Any], after: dict[str, Any]) -> Sought:
    """A run of which nothing was expected."""
    before = {"rows": 10, "same": 3, "loss": None}
    told = Told(name).open(params=params).snapshot(0.1, "before", {"s": before})
    return Sought(name, params, record=told.snapshot(1, "after", {"s": {**before, **after}}).finish(2, "passed").record)


def test_a_sweep_that_expects_nothing_has_a_column_for_all_that_was_measured() -> None:
    runs = [
        explored(f"{n}{mode}", {"n": n, "mode": mode}, {"rows": 10 + n, "loss": Decimal("0.5") if n else None})
        for n in (0, 5)
        for mode in ("x", "y")
    ]
    found = compare_runs(runs, varied=["n", "mode"])
    assert headings(found)[2:7] == ["verdict", "s.rows", "s.same", "s.loss", "took"]
    assert lines(found)[0][3:6] == ["0", "0", "–"] and lines(found)[3][3:6] == ["+5", "0", "0.5"]
    square = grid(found)
    assert square is not None and square.caption == "verdict and s.rows by n and mode"
    assert square.rows[1][1].text == "passed +5"
    told = "\n".join(markdown(found))
    assert "| s.rows |" in told and "| 0.5 |" in told


def with_extra(name: str, n: int, delta: int | None, after: int = 7) -> Sought:
    run = sought(name, {"n": n})
    assert run.record is not None
    run.record["after"]["postings"]["extra"], run.record["delta"]["postings"]["extra"] = after, delta
    return run


def test_what_was_not_expected_has_a_column_where_it_varies_and_is_told_once_where_it_does_not() -> None:
    found = compare_runs([with_extra("a", 1, 4), with_extra("b", 2, -4), with_extra("c", 3, None)])
    place = headings(found).index("postings.extra")
    assert place == headings(found).index("postings.total") + 1
    assert [line[place] for line in lines(found)] == ["+4", "-4", "7 afterwards"]
    alike = compare_runs([with_extra("a", 1, 4), with_extra("b", 2, 4)])
    assert "postings.extra" not in headings(alike)
    assert dict(common(alike))["measured postings.extra"] == "+4"
    assert "  measured: postings.extra +4" in account(alike, 0, coloured=False)
    assert "postings.extra" in headings(compare_runs([with_extra("a", 1, 4), sought("b", {"n": 2})]))


def test_each_run_that_did_not_pass_says_why() -> None:
    runs = [
        sought("fine", {"n": 1}),
        sought("wrong", {"n": 2}, actual=5),
        Sought("lost", {"n": 3}, record=lost_run()),
        Sought("failed", {"n": 4}, record=errored_run()),
        Sought("waits", {"n": 5}, "queued"),
        Sought("runs", {"n": 6}, "running", record=running_run()),
    ]
    found = compare_runs(runs, varied=["n"])
    assert {row.id: why for row, why in reasons(found)} == {
        "wrong": "postings.done refuted: predicted 100 ± 5%, measured 5",
        "lost": "the runner (pid 4700 on worker-7) is gone; it died during step process",
        "failed": "postings could not be measured",
    }
    told = list(account(found, 50, coloured=False))
    assert "  wrong   refuted  postings.done refuted: predict…" in told and told.count("") >= 2
    assert any(line.startswith("what ends with … is cut") for line in told[told.index("why runs did not pass") :])
    assert "## Why runs did not pass" in markdown(found)
    assert not list(reasons(compare_runs(runs[:1])))


def test_rows_that_have_the_same_params_are_told() -> None:
    runs = [sought("a", {"n": 1}), sought("b", {"n": 1}), sought("c", {"n": "1"}), Sought("d", {}, "queued")]
    assert warnings(compare_runs(runs)) == ["Some runs have the same params: 2 runs with n=1."]
    assert warnings(compare_runs(runs[:2])) == ["Some runs have the same params: 2 runs with equal params."]


NASTY = "| x | `y` <img src=x onerror=1>\n\n# heading\u202e [a](http://x) @me"


def test_markdown_has_it_all_and_no_value_breaks_out() -> None:
    runs = [
        sought("a", {NASTY: NASTY, "n": "-1"}),
        sought("b", {NASTY: "- item", "n": "2."}),
        Sought("c|c", {}, "queued"),
    ]
    told = list(markdown(compare_runs(runs, experiment=NASTY, runbook="nightly", varied=[NASTY, "n"])))
    assert all("\n" not in line and "\u202e" not in line for line in told)
    assert [line for line in told if line.startswith("#")] == [told[0], *[line for line in told if line[:3] == "## "]]
    table = [line for line in told if line.startswith("| ")][:4]
    heads = [line.replace("\\|", "").count("|") for line in table]
    assert len(set(heads)) == 1
    assert "<img" not in told[0].replace("\\<", "")


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_value_stays_in_its_cell(one: str, other: str) -> None:
    runs = [sought("a", {"n": one}), sought("b", {"n": other})]
    told = list(markdown(compare_runs(runs, varied=["n"])))
    assert all("\n" not in line and "\r" not in line for line in told)
    rows = [line for line in told if line.startswith("| ")][:4]
    widths = {len(_split(line)) for line in rows}
    assert len(widths) == 1, rows


def _split(line: str) -> list[str]:
    """The cells of a row, as GFM splits it: at each pipe that no odd number of backslashes stands before."""
    parts, current, escaped = [], "", False
    for char in line.strip().strip("|"):
        if char == "|" and not escaped:
            parts.append(current)
            current = ""
        else:
            current += char
        escaped = char == "\\" and not escaped
    return [*parts, current]


@given(st.integers(NARROWEST, 160), st.lists(st.text(min_size=1, max_size=30), max_size=4, unique=True))
def test_no_line_is_longer_than_the_terminal_and_what_is_left_out_is_said(room: int, names: list[str]) -> None:
    runs = [
        sought(f"2025_{n}", {**dict.fromkeys(names, f"{n}-{NASTY}"), "n": n, "mode": mode}, actual=n)
        for n in (1, 100)
        for mode in ("x", "y")
    ]
    for varied in (["n", "mode"], [*names, "n", "mode"]):
        found = compare_runs(runs, varied=varied)
        told = list(account(found, room, coloured=False))
        assert max(map(len, told)) <= room
        whole = list(account(found, 0, coloured=False))
        table, narrowed = (every[every.index("") + 1 :][: len(runs) + 1] for every in (whole, told))
        if max(map(len, table)) > room:
            assert "want of room" in "\n".join(told) and table != narrowed
        else:
            assert table == narrowed


@given(st.permutations(range(6)))
def test_the_order_of_the_runs_does_not_matter(order: list[int]) -> None:
    runs = [sought(f"r{n}", {"n": n % 3, "mode": "x" if n < 3 else "y"}) for n in range(6)]
    found, other = compare_runs(runs), compare_runs([runs[index] for index in order])
    assert lines(found) == lines(other) and found.counts == other.counts and found.same == other.same


@pytest.mark.parametrize("runs", [[], [Sought("a", {"n": 1}, "queued")], [Sought("a", {})]])
def test_few_and_empty_runs_are_a_comparison_too(runs: list[Sought]) -> None:
    found = compare_runs(runs, experiment="e", runbook="nightly", varied=["n"])
    assert len(list(markdown(found))) > 4
    assert isinstance(found.rows[0].params.get("n", Absent("")), int | Absent) if runs else found.rows == []
