"""A check that could not be measured is unknown, never false and never true; what is absent is never put anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.helpers import DB, NO_AUDIT, Run, Site, kinds_of, verdicts_of
from tests.conftest import Database

# name: (check, verdict, what its `because` says); all in one run, so that they cost one run.
CHECKS = {
    "holds": ("{sql: SELECT 1, returns: value, expect: result == 1}", "passed", ""),
    "holds_not": ("{sql: SELECT 1, returns: value, expect: result == 2}", "refuted", "result = 1"),
    "null_equals": ("{sql: SELECT NULL::int, returns: value, expect: result == 0}", "unknown", "null"),
    "null_differs": ("{sql: SELECT NULL::int, returns: value, expect: result != 0}", "unknown", "null"),
    "null_less": ("{sql: SELECT NULL::int, returns: value, expect: result < 5}", "unknown", "null"),
    "null_added": ("{sql: SELECT NULL::int, returns: value, expect: result + 1 > 0}", "unknown", "null"),
    "null_bare": ("{sql: SELECT NULL::bool, returns: value, expect: result}", "unknown", "null"),
    "null_not": ("{sql: SELECT NULL::bool, returns: value, expect: not result}", "unknown", "null"),
    "null_and_false": ("{sql: SELECT NULL::bool, returns: value, expect: result and false}", "unknown", "null"),
    "null_in": ("{sql: SELECT NULL::int, returns: value, expect: 'result in [1, 2]'}", "unknown", "null"),
    "null_not_in": ("{sql: SELECT NULL::int, returns: value, expect: 'result not in [1]'}", "unknown", "null"),
    "null_asked": ("{sql: SELECT NULL::int, returns: value, expect: result is none}", "passed", ""),
    "null_beside": ("{sql: SELECT 1, returns: value, expect: result != none}", "passed", ""),
    "nan": ("{sql: 'SELECT ''NaN''::numeric', returns: value, expect: result > 1}", "unknown", "NaN"),
    "nan_float": ("{sql: 'SELECT ''NaN''::float8', returns: value, expect: result == result}", "unknown", "NaN"),
    "infinity": ("{sql: 'SELECT ''Infinity''::float8', returns: value, expect: result > 1}", "passed", ""),
    "no_row": ("{sql: SELECT 1 WHERE false, returns: value, expect: result == 1}", "unknown", "0 came"),
    "two_rows": ("{sql: 'SELECT generate_series(1, 2)', returns: value, expect: result == 1}", "unknown", "2 came"),
    "two_columns": ("{sql: 'SELECT 1 AS a, 2 AS b', returns: value, expect: result == 1}", "unknown", "a, b"),
    "row_none": ("{sql: SELECT 1 AS a WHERE false, returns: row, expect: result.a == 1}", "unknown", "0 came"),
    "number": ("{sql: SELECT 1, returns: value, expect: result}", "unknown", "neither true nor false"),
    "text": ("{sql: 'SELECT ''False''', returns: value, expect: result}", "unknown", "neither true nor false"),
    "rows_bare": ("{sql: SELECT 1 AS a, expect: result}", "unknown", "neither true nor false"),
    "undefined": ("{sql: SELECT 1 AS a, returns: row, expect: result.b == 1}", "unknown", "no `b`"),
    "all_are_evaluated": (
        "{sql: SELECT NULL::int AS a, returns: row, expect: [result.a > 1, 1 > 2]}",
        "refuted",
        "result.a > 1: ",
    ),
    "zero_division": ("{sql: SELECT 0, returns: value, expect: 1 / result > 0}", "unknown", "zero"),
    "int_text": ("""{sql: "SELECT ' 12 '", returns: value, expect: result | int == 12}""", "passed", ""),
    "int_words": ("""{sql: "SELECT 'twelve'", returns: value, expect: result | int == 0}""", "unknown", "twelve"),
    "int_default": ("""{sql: "SELECT 'twelve'", returns: value, expect: result | int(7) == 7}""", "passed", ""),
    "float_text": ("""{sql: "SELECT '0.10'", returns: value, expect: result | float == 0.1}""", "passed", ""),
    "float_words": ("""{sql: "SELECT 'n/a'", returns: value, expect: result | float < 1}""", "unknown", "n/a"),
    "decimal": ("{sql: 'SELECT 0.1::numeric + 0.2', returns: value, expect: result == 0.3}", "passed", ""),
    "refused_by_server": ("{sql: SELECT 1/0, returns: value, expect: result == 1}", "unknown", "division by zero"),
    "skipped": ("{sql: SELECT 1, returns: value, when: 1 > 2, expect: result == 1}", "skipped", "1 > 2"),
    "when_unclear": ("{sql: SELECT 1, returns: value, when: preflight.skipped == 1}", "unknown", "skipped"),
    "of_skipped": ("{expect: preflight.skipped == 1}", "unknown", "preflight.skipped was skipped"),
    "of_skipped_not": ("{expect: preflight.skipped is none}", "unknown", "preflight.skipped was skipped"),
    "of_unknown": ("{expect: preflight.no_row != 3}", "unknown", "preflight.no_row is unknown"),
    "of_later": ("{expect: preflight.last == 1}", "unknown", "comes after"),
    "probeless": ("{expect: 1 < 2}", "passed", ""),
    "probeless_refuted": ("{expect: params.n > 2}", "refuted", "params.n = 1"),
    "of_probeless": ("{expect: preflight.probeless}", "passed", ""),
    "of_refuted": ("{expect: not preflight.probeless_refuted}", "passed", ""),
    "last": ("{sql: SELECT 1, returns: value}", "passed", ""),
}


def test_every_kind_of_not_knowing(database: Database, run: Run) -> None:
    lines = [f"  {name}: {body[:-1]}, severity: warn}}" for name, (body, _, _) in CHECKS.items()]
    head = DB + NO_AUDIT + "params:\n  n: {type: integer, default: 1}\npreflight:\n"
    record = run(head + "\n".join(lines) + "\n", database.url)
    assert verdicts_of(record["preflight"]) == {name: verdict for name, (_, verdict, _) in CHECKS.items()}
    for name, (_, verdict, said) in CHECKS.items():
        because = record["preflight"][name]["because"]
        assert said in because and bool(because) == (verdict != "passed"), name


ABSENT = {
    "skipped": "{sql: SELECT 1, returns: value, when: 1 > 2}",
    "unknown": "{sql: SELECT 1/0, returns: value, severity: warn}",
}
USES = {
    "sql": "{sql: 'INSERT INTO seen SELECT {{ preflight.a }}::int'}",
    "jsonb": "{sql: 'INSERT INTO seen SELECT {{ {''a'': preflight.a} | jsonb }} IS NULL'}",
    "argv": "{command: [touch, '{{ preflight.a }}']}",
    "shell": "{shell: 'touch {{ preflight.a }}'}",
    "env": "{command: [touch, file], env: {A: '{{ preflight.a }}'}}",
    "stdin": "{command: [tee, file], stdin: '{{ preflight.a }}'}",
    "url": "{http: {connection: web, post: '/x/{{ preflight.a }}'}}",
    "body": "{http: {connection: web, post: /x, json: {a: '{{ preflight.a }}'}}}",
    "when": "{command: [touch, file], when: preflight.a != 1}",
    "default": "{command: [touch, '{{ preflight.a | string }}']}",
}


@pytest.mark.parametrize("absent", ABSENT)
def test_what_is_absent_is_put_nowhere(
    absent: str, database: Database, site: Site, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.run("CREATE TABLE seen (a text)")
    monkeypatch.setenv("WEB", site.url)
    for name, step in USES.items():
        body = DB + "  web: {type: http, env: WEB}\n" + NO_AUDIT
        record = run(f"{body}preflight:\n  a: {ABSENT[absent]}\nsteps:\n  s: {step}\n", database.url)
        assert record["run"]["verdict"] == "failed", name
        assert (
            f"preflight.a {'was skipped' if absent == 'skipped' else 'is unknown'}" in record["steps"]["s"]["because"]
        )
        assert "step.started" not in kinds_of(record), name
    assert site.asked == []
    assert database.rows("SELECT * FROM seen") == []
    assert {path.name for path in tmp_path.iterdir()} <= {"small.yaml", ".runbook", "logs", "state"}


def test_an_absent_value_in_a_check_makes_that_check_unknown(database: Database, run: Run) -> None:
    body = """preflight:
  a: {sql: SELECT 1, returns: value, when: 1 > 2}
  b: {sql: "SELECT {{ preflight.a }}::int", returns: value, severity: warn}
  c: {sql: "SELECT {{ preflight.z }}::int", returns: value, severity: warn}
  d: {command: [echo, "{{ preflight.a }}"], severity: warn}
  e: {file: "{{ preflight.a }}", severity: warn}
  z: {sql: SELECT 1, returns: value}
"""
    record = run(DB + NO_AUDIT + body, database.url)
    expected = {"a": "skipped", **dict.fromkeys("bcde", "unknown"), "z": "passed"}
    assert verdicts_of(record["preflight"]) == expected


def test_null_is_a_value_that_may_be_sent(database: Database, run: Run) -> None:
    body = "preflight:\n  a: {sql: 'SELECT NULL::int', returns: value}\n"
    step = "steps:\n  s: {sql: 'INSERT INTO seen SELECT {{ preflight.a }}::text'}\n"
    database.run("CREATE TABLE seen (a text)")
    assert run(DB + NO_AUDIT + body + step, database.url)["run"]["verdict"] == "passed"
    assert database.rows("SELECT * FROM seen") == [(None,)]


SHAPES = {
    "rows": ("SELECT 1 AS a, 'x' AS b UNION ALL SELECT 2, 'y' ORDER BY 1", [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]),
    "row": ("SELECT 1 AS a, 'x' AS b", {"a": 1, "b": "x"}),
    "value": ("SELECT 'x'", "x"),
    "column": ("SELECT generate_series(3, 5)", [3, 4, 5]),
    "map": ("SELECT 'k', 1 UNION ALL SELECT 'l', 2 ORDER BY 1", {"k": 1, "l": 2}),
    "map of rows": ("SELECT 7 AS id, 1 AS a, 2 AS b", {"7": {"a": 1, "b": 2}}),
    "rows none": ("SELECT 1 AS a WHERE false", []),
    "column none": ("SELECT 1 AS a WHERE false", []),
    "map none": ("SELECT 1 AS a, 2 AS b WHERE false", {}),
}
WRONG_SHAPES = {
    "value none": ("SELECT 1 WHERE false", "exactly one row, and 0 came"),
    "row two": ("SELECT generate_series(1, 2) AS a", "exactly one row, and 2 came"),
    "column two": ("SELECT 1 AS a, 2 AS b", "exactly one column, and 2 came: a, b"),
    "map one": ("SELECT 1 AS a", "at least two columns"),
    "map twice": ("SELECT 'k', 1 UNION ALL SELECT 'k', 2", '"k" came twice'),
    "rows twins": ("SELECT 1 AS a, 2 AS a", "two columns are named `a`"),
    "row twins": ("SELECT 1 AS a, 2 AS a", "two columns are named `a`"),
    "map twins": ("SELECT 0 AS k, 1 AS a, 2 AS a", "two columns are named `a`"),
}


def test_returns_gives_the_shape_that_it_names(database: Database, run: Run) -> None:
    cases = {**SHAPES, **WRONG_SHAPES}
    lines = [
        f'  c{number}: {{sql: "{sql}", returns: {name.split()[0]}, severity: warn}}'
        for number, (name, (sql, _)) in enumerate(cases.items())
    ]
    record = run(DB + NO_AUDIT + "preflight:\n" + "\n".join(lines) + "\n", database.url)
    for (name, (_, wanted)), check in zip(cases.items(), record["preflight"].values(), strict=True):
        if name in SHAPES:
            assert (check["verdict"], check["result"]) == ("passed", wanted), name
        else:
            assert check["verdict"] == "unknown" and str(wanted) in check["because"], name


def test_more_rows_than_are_read_are_never_judged(database: Database, run: Run) -> None:
    body = """preflight:
  judged: {sql: "SELECT generate_series(1, 200000) AS a", expect: "result | length > 0", severity: warn}
  evidence: {sql: "SELECT generate_series(1, 200000) AS a"}
"""
    record = run(DB + NO_AUDIT + body, database.url)
    assert verdicts_of(record["preflight"]) == {"judged": "unknown", "evidence": "passed"}
    assert record["preflight"]["evidence"]["dropped"] and "LIMIT" in record["preflight"]["judged"]["because"]
