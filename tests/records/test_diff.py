"""What differs between two records, and only that."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.engine.record import Record
from runbook.records.diff import MOST, MOST_ROWS, MOST_TEXT, Comparison, compare
from runbook.records.evidence import NOTHING, parts, same
from tests.records.ci import PREDICTED, check, finished, judged, opened, ran, record

TEXT = "runbook: 1\nname: small\nsteps:\n  add: {sql: SELECT 1}\n"
VERSIONS = {"runbook file": "sha256 aa", "runbook": "0.1.0", "Python": "3.11.7", "git": "c0ffee (clean)"}
AROUND: dict[str, Any] = {
    "file": "/srv/small.yaml",
    "text": TEXT,
    "template": None,
    "command_line": ["exec", "small.yaml"],
    "versions": VERSIONS,
    "connections": {"db": "shop on db1 as etl"},
    "embedded": [],
    "made": [],
    "warnings": [],
    "locale": "C.UTF-8",
    "time_zone": "Etc/UTC",
    "schema": {"db": {"fingerprint": "f", "relations": {"public.items": "aaaa", "public.users": "bbbb"}}},
    "models": {"ollama": {"llama3:8b": "sha256:11"}},
    "servers": {"db": {"encoding": "UTF8", "time_zone": "UTC"}},
}
DECLARED: dict[str, Any] = {
    "preflight": {"waiting": check(3), "queue": check(4, None)},
    "expectations": {"items.n": {"description": "", "line": 5}},
    "steps": {"add": {"stage": "steps", "description": "", "line": 6}},
}


def a_run(
    run_id: str = "r1",
    *,
    around: dict[str, Any] | None = None,
    params: dict[str, Any] | None = None,
    before: Any = 1,
    after: Any = 4,
    results: dict[str, Any] | None = None,
    step: dict[str, Any] | None = None,
    verdict: str = "passed",
    duration: str = "10.5",
    **of_run: Any,
) -> Record:
    """A whole small run; each part may be another one."""
    kind, opening = opened({"id": run_id, **of_run}, params or {"limit": 500}, **DECLARED)
    opening["circumstances"] = {**AROUND, **(around or {})}
    opening["circumstances"] = {key: item for key, item in opening["circumstances"].items() if item is not NOTHING}
    read = {"waiting": 7, "queue": [{"status": "done", "count": 2}, {"status": "new", "count": 5}], **(results or {})}
    ending = finished(verdict)
    ending[1]["duration"] = Decimal(duration)
    return record(
        (kind, opening),
        ("snapshot.measured", {"which": "before", "state": {"items": {"n": before}}, "errors": {}}),
        *(judged(name, result=result) for name, result in read.items()),
        ("predictions.registered", {"expectations": {"items.n": PREDICTED}}),
        *ran("add", **(step or {})),
        ("snapshot.measured", {"which": "after", "state": {"items": {"n": after}}, "errors": {}}),
        (
            "expectation.judged",
            {"name": "items.n", "verdict": "passed", "actual": after - before, "because": "", "message": None},
        ),
        ending,
    )


def told(found: Comparison) -> set[tuple[str, str, Any, Any]]:
    return {(item.section, item.what, item.left, item.right) for item in found.differences}


def test_ids_and_moments_are_no_differences() -> None:
    other = a_run("r2", started_at="2026-01-01T00:00:00+00:00", stamp="20260101_000000", pid=77, title="r2")
    assert compare(a_run(), other) == Comparison([], [], [], {})


def with_versions(**changes: str) -> dict[str, Any]:
    return {"versions": {**VERSIONS, **changes}}


SINGLE: dict[str, tuple[dict[str, Any], tuple[str, str, Any, Any]]] = {
    "param": ({"params": {"limit": 10}}, ("params", "limit", 500, 10)),
    "null param": ({"params": {"limit": None}}, ("params", "limit", 500, None)),
    "python": ({"around": with_versions(Python="3.12.1")}, ("versions", "Python", "3.11.7", "3.12.1")),
    "masked text": (
        {"around": with_versions(**{"runbook file": "sha256 bb"})},
        ("text", "runbook file", "sha256 aa", "sha256 bb"),
    ),
    "commit": (
        {"around": with_versions(git="f00 (clean)")},
        ("code", "git commit", "c0ffee (clean)", "f00 (clean)"),
    ),
    "model": (
        {"around": {"models": {"ollama": {"llama3:8b": "sha256:22"}}}},
        ("models", "ollama: llama3:8b", "sha256:11", "sha256:22"),
    ),
    "schema": (
        {"around": {"schema": {"db": {"fingerprint": "g", "relations": {"public.items": "cccc"}}}}},
        ("schema", "db: public.items", "aaaa", "cccc"),
    ),
    "server": (
        {"around": {"connections": {"db": "shop on db2 as etl"}}},
        ("servers", "db", "shop on db1 as etl", "shop on db2 as etl"),
    ),
    "encoding": (
        {"around": {"servers": {"db": {"encoding": "LATIN1", "time_zone": "UTC"}}}},
        ("servers", "db: encoding", "UTF8", "LATIN1"),
    ),
    "host": ({"host": "there"}, ("circumstances", "host", "here", "there")),
    "operator": ({"operator": "Bob"}, ("circumstances", "operator", "Ada", "Bob")),
    "locale": ({"around": {"locale": "de_DE"}}, ("circumstances", "locale", "C.UTF-8", "de_DE")),
    "time zone": ({"around": {"time_zone": "Asia/Tokyo"}}, ("circumstances", "time zone", "Etc/UTC", "Asia/Tokyo")),
    "command line": (
        {"around": {"command_line": ["exec", "a b"]}},
        ("circumstances", "command line", "exec small.yaml", "exec 'a b'"),
    ),
    "strict": ({"strict": True}, ("circumstances", "strict", False, True)),
    "result": ({"results": {"waiting": 8}}, ("results", "preflight.waiting", 7, 8)),
    "exit code": ({"step": {"exit_code": 3}}, ("verdicts", "steps.add: exit code", 0, 3)),
    "rows": ({"step": {"rowcount": 9}}, ("verdicts", "steps.add: rows", NOTHING, 9)),
    "duration": ({"duration": "20"}, ("durations", "run", "10.5 s", "20.0 s")),
}


@pytest.mark.parametrize("name", SINGLE)
def test_one_difference_is_told_alone(name: str) -> None:
    changed, wanted = SINGLE[name]
    assert told(compare(a_run(), a_run(**changed))) == {wanted}
    section, what, left, right = wanted
    assert told(compare(a_run(**changed), a_run())) == {(section, what, right, left)}


@pytest.mark.parametrize("duration", ["10.55", "10.9", "10.501"])
def test_a_duration_that_nobody_calls_another_is_none(duration: str) -> None:
    assert told(compare(a_run(), a_run(duration=duration))) == set()


def test_metrics_before_and_after() -> None:
    found = told(compare(a_run(), a_run(before=2, after=6)))
    assert found == {("before", "items.n", 1, 2), ("after", "items.n", 4, 6), ("delta", "items.n", 3, 4)}


def test_a_state_that_could_not_be_measured_says_why() -> None:
    left, right = a_run(), a_run()
    right["before"], right["unmeasured"] = {}, {"before.items": "no such table"}
    found = told(compare(left, right))
    assert ("before", "items.n", 1, NOTHING) in found
    assert ("before", "items", NOTHING, "not measured: no such table") in found


def test_the_text_as_a_unified_diff_with_little_around() -> None:
    long = "\n".join(f"# {number}" for number in range(100))
    left = a_run(around={"text": f"{TEXT}{long}\n# end\n"})
    changed = {"text": f"{TEXT}{long}\n# END\n", **with_versions(**{"runbook file": "sha256 bb"})}
    found = compare(left, a_run("r2", around=changed))
    assert told(found) == set(), "the text itself says it"
    assert found.text[:2] == ["--- runbook of run r1", "+++ runbook of run r2"]
    assert found.text[3:] == [" # 97", " # 98", " # 99", "-# end", "+# END"]


def test_files_that_differ_from_the_commit() -> None:
    dirty = {**with_versions(git="c0ffee (dirty: 2 files differ)"), "dirty": {"a.py": "sha256 1", "b.py": "deleted"}}
    other = {**with_versions(git="c0ffee (dirty: 1 files differ)"), "dirty": {"a.py": "sha256 2"}}
    found = told(compare(a_run(around=dirty), a_run(around=other)))
    assert {item[1:] for item in found} == {
        ("git commit", "c0ffee (dirty: 2 files differ)", "c0ffee (dirty: 1 files differ)"),
        ("file a.py", "sha256 1", "sha256 2"),
        ("file b.py", "deleted", "as committed"),
    }
    assert {item[:2] for item in told(compare(a_run(), a_run(around=dirty)))} == {
        ("code", "git commit"),
        ("code", "file a.py"),
        ("code", "file b.py"),
    }


def test_what_only_one_record_knows_is_no_difference() -> None:
    lacking = dict.fromkeys(("locale", "time_zone", "schema", "models", "servers", "made"), NOTHING)
    older = a_run(around={**lacking, "versions": {"runbook file": "sha256 aa", "runbook": "0.1.0"}})
    found = compare(older, a_run())
    assert found.differences == []
    assert {item.unknown_to for item in found.unknown} == {"left"}
    assert {"locale", "time zone", "schema", "models", "Python", "git commit"} <= {item.what for item in found.unknown}


def test_a_model_server_that_was_away_is_not_known() -> None:
    found = compare(a_run(), a_run(around={"models": {"ollama": "no answer: refused"}}))
    assert found.differences == [] and [item.what for item in found.unknown] == ["models of ollama"]


@pytest.mark.parametrize("tmp", ["", "_tmp_0123abcd"])
def test_a_throw_away_database_is_known_by_what_it_was_seeded_with(tmp: str) -> None:
    def private(seed: str, folder: str) -> dict[str, Any]:
        return {"connections": {"db": f"shop_{seed}{tmp} on {folder} as owner"}, "embedded": ["db"], "made": ["db"]}

    left = a_run(around={**private("0123456789ab", "/a"), "connections": {"db": "shop_0123456789ab on /a as owner"}})
    assert told(compare(left, a_run(around=private("0123456789ab", "/b")))) == set()
    found = told(compare(left, a_run(around=private("ffffffffffff", "/a"))))
    assert {item[:2] for item in found} == {("servers", "db")}


def test_a_run_that_was_blocked_beside_one_that_passed() -> None:
    kind, opening = opened(None, {"limit": 500}, **DECLARED)
    opening["circumstances"] = AROUND
    blocked = record(
        (kind, opening),
        judged("waiting", verdict="refuted", result=0, because="result > 5   where result = 0"),
        finished("blocked", "nothing waits"),
    )
    found = told(compare(a_run(), blocked))
    assert ("verdicts", "run", "passed", "blocked") in found
    assert ("verdicts", "run: because", NOTHING, "nothing waits") in found
    assert ("verdicts", "preflight.waiting", "passed", "refuted") in found
    assert ("verdicts", "preflight.queue", "passed", "not asked") in found
    assert ("verdicts", "steps.add", "passed", "not started") in found
    assert ("verdicts", "expectations.items.n", "passed", "not judged") in found
    assert ("delta", "items.n", 3, NOTHING) in found
    assert not any(item[:2] == ("results", "preflight.queue") for item in found), "what was not asked has no result"


# --- results of checks ------------------------------------------------------------------------------------------------

ROWS = [{"status": "done", "count": 2}, {"status": "new", "count": 5}]
PARTS: dict[str, tuple[Any, Any, list[tuple[str, Any, Any]]]] = {
    "the same": (ROWS, list(ROWS), []),
    "a number": (7, 8, [("", 7, 8)]),
    "true is not one": (1, True, [("", 1, True)]),
    "equal numbers": (Decimal("1.0"), Decimal("1.00"), []),
    "a key of a map": ({"a": 1, "b": 2}, {"a": 1, "b": 3}, [("b", 2, 3)]),
    "a key of one": ({"a": 1}, {"a": 1, "b": None}, [("b", NOTHING, None)]),
    "a cell": (ROWS, [ROWS[0], {"status": "new", "count": 6}], [("status=new.count", 5, 6)]),
    "a row of one": (ROWS, ROWS[:1], [("status=new", {"count": 5}, NOTHING)]),
    "rows moved": (ROWS, ROWS[::-1], [("order", "the same rows", "in another order")]),
    "rows without a key": (
        [{"s": 1, "c": 1}, {"s": 1, "c": 2}],
        [{"s": 1, "c": 1}, {"s": 1, "c": 3}],
        [("row", {"s": 1, "c": 2}, NOTHING), ("row", NOTHING, {"s": 1, "c": 3})],
    ),
    "a column": (["a", "b"], ["b", "c"], [("row", "a", NOTHING), ("row", NOTHING, "c")]),
    "a column moved": (["a", "b"], ["b", "a"], [("order", "the same rows", "in another order")]),
    "a line": ("a\nb\nc", "a\nB\nc", [("line 2", "b", "B")]),
    "a line of one": ("a\nb", "a\nb\nc", [("line 3", NOTHING, "c")]),
    "an end of line": ("a\n", "a", [("line 2", "", NOTHING)]),
    "another kind": ([], {"a": 1}, [("", [], {"a": 1})]),
    "nothing then": (None, ROWS, [("", None, ROWS)]),
}


@pytest.mark.parametrize("name", PARTS)
def test_results_part_by_part(name: str) -> None:
    left, right, wanted = PARTS[name]
    assert [tuple(part) for part in parts(left, right)] == wanted


def test_few_lines_of_one_check_and_how_many_more() -> None:
    left, right = ([{"k": number, "v": value} for number in range(100)] for value in (1, 2))
    found = compare(a_run(results={"queue": left}), a_run(results={"queue": right}))
    assert len(found.differences) == MOST and found.omitted == {"preflight.queue": 80}


def test_everything_is_bounded() -> None:
    many = {f"p{number}": number for number in range(1000)}
    text = "\n".join(f"# {number}" for number in range(5000))
    found = compare(a_run(), a_run(params=many, around={"text": text}))
    assert len(found.differences) == MOST_ROWS and found.omitted["params"] == 801
    assert len(found.text) == MOST_TEXT and found.omitted["text"] > 3000


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(_PLAIN, _PLAIN)
def test_whatever_was_read_can_be_compared(left: Any, right: Any) -> None:
    assert parts(left, left) == []
    assert bool(parts(left, right)) == bool(parts(right, left)) == (not same(left, right))
