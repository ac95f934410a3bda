"""Text with holes: what may stand in them, and what a value becomes at each place."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from runbook.language.expressions import EvaluationError, ExpressionProblem
from runbook.language.templates import (
    parse_shell,
    parse_sql,
    parse_template,
    render_argument,
    render_path,
    render_shell,
    render_sql,
    render_text,
    render_url,
)

SCOPE: dict[str, Any] = {
    "n": 5,
    "t": "a b'c",
    "share": Decimal("1E+3"),
    "yes": True,
    "nothing": None,
    "ids": [3, "x"],
    "empty": [],
    "up": "..",
    "nul": "a\0b",
    "data": {"template": "{{ n }}"},
}

TEXTS = {
    "plain": "plain",
    "{{ n }}": "5",
    "{{n}}{{ n }}": "55",
    "a {{ n + 1 }} b": "a 6 b",
    "{{ share }}": "1000",
    "{{ yes }}": "true",
    "{{ ids }}": '[3, "x"]',
    "{{ {'a': {'b': 1}} | tojson }}": '{"a": {"b": 1}}',
    "{{ '}}' }}": "}}",
    "{{ data.template }}": "{{ n }}",
    "{# no comment #}": "{# no comment #}",
    "a }} {% } {": "a }} {% } {",
    " {{ n }}\n": " 5\n",
}


@pytest.mark.parametrize("source", TEXTS)
def test_text(source: str) -> None:
    assert render_text(parse_template(source), SCOPE) == TEXTS[source]


PROBLEMS = {
    "{{ n": ("a {{ is never closed", 0),
    "a {{ n } b": ("this {{ }} cannot be read: unexpected '}'", 2),
    "a {{ n +": ("a {{ is never closed", 2),
    "a {{ b nosuch }}": ("the expression goes on after its end: `nosuch`", 7),
    "a {{  b | nosuch }}": ("there is no filter `nosuch`", 10),
    "{{ n }} {% if n %}": ("`{% if` is not part of the language", 8),
}


@pytest.mark.parametrize("source", PROBLEMS)
def test_unreadable(source: str) -> None:
    with pytest.raises(ExpressionProblem) as problem:
        parse_template(source)
    assert (problem.value.message, problem.value.offset) == PROBLEMS[source]


@pytest.mark.parametrize("source", ["{{ nothing }}", "{{ nul }}", "{{ missing }}", "a {{ n.x }}"])
def test_text_without_value(source: str) -> None:
    with pytest.raises(EvaluationError):
        render_text(parse_template(source), SCOPE)


ARGUMENTS = {
    "{{ t }}": ["a b'c"],
    "--name={{ t }}": ["--name=a b'c"],
    "{{ n }}": ["5"],
    "{{ ids }}": ["3", "x"],
    "x{{ ids }}": ['x[3, "x"]'],
    "{{ empty }}": [],
    "{{ '' }}": [""],
    "a b": ["a b"],
}


@pytest.mark.parametrize("source", ARGUMENTS)
def test_argument(source: str) -> None:
    assert render_argument(parse_template(source), SCOPE) == ARGUMENTS[source]


URLS = {
    "/a/{{ n }}?q={{ t }}": "/a/5?q=a%20b%27c",
    "/{{ 'x/../y?z#f&g=1' }}": "/x%2F..%2Fy%3Fz%23f%26g%3D1",
    "/{{ 'ü' }}": "/%C3%BC",
}


@pytest.mark.parametrize("source", URLS)
def test_url(source: str) -> None:
    assert render_url(parse_template(source), SCOPE) == URLS[source]


PATHS = {
    "logs/{{ n }}.md": "logs/5.md",
    "{{ 'data/in.csv' }}": "data/in.csv",
    "logs/{{ up }}": None,
    "logs/{{ 'a/b' }}": None,
    "logs/{{ '' }}": None,
    "logs/{{ '-rf' }}": None,
    "logs/{{ nul }}": None,
}


@pytest.mark.parametrize("source", PATHS)
def test_path(source: str) -> None:
    if (expected := PATHS[source]) is not None:
        assert render_path(parse_template(source), SCOPE) == expected
        return
    with pytest.raises(EvaluationError):
        render_path(parse_template(source), SCOPE)


def test_strict_path_is_never_a_value_alone() -> None:
    with pytest.raises(EvaluationError):
        render_path(parse_template("{{ 'data/in.csv' }}"), SCOPE, strict=True)


SCRIPTS = {
    "true": "true",
    "echo {{ n }}": '_rb0=5\necho "${_rb0}"',
    'echo "{{ t }}"': "_rb0='a b'\"'\"'c'\necho \"${_rb0}\"",
    "echo {{ n }} {{ t }}": '_rb0=5; _rb1=\'a b\'"\'"\'c\'\necho "${_rb0}" "${_rb1}"',
}


@pytest.mark.parametrize("source", SCRIPTS)
def test_script(source: str) -> None:
    assert render_shell(parse_shell(source), SCOPE) == SCRIPTS[source]


QUERIES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "SELECT 5 % 3, '%', a ? 'b', '{a,b}'": ("SELECT 5 % 3, '%', a ? 'b', '{a,b}'", ()),
    "SELECT {{ n }}::int, {{ t }};": ("SELECT $1::int, $2", (5, "a b'c")),
    "SELECT '%' || {{ t }} -- it's\n": ("SELECT '%' || $1", ("a b'c",)),
    "SELECT * FROM {{ t | identifier }}": ('SELECT * FROM "a b\'c"', ()),
    "SELECT * FROM {{ ['s', 'a\"b'] | identifier }}": ('SELECT * FROM "s"."a""b"', ()),
    "SELECT {{ nothing }}, (ARRAY[1,2])[{{ n }}]": ("SELECT $1, (ARRAY[1,2])[$2]", (None, 5)),
    "SELECT -{{ n }}": ("SELECT -$1", (5,)),
}


@pytest.mark.parametrize("source", QUERIES)
def test_query(source: str) -> None:
    assert render_sql(parse_sql(source), SCOPE)[:2] == QUERIES[source]


def test_each_statement_has_its_own_values() -> None:
    sql = parse_sql("SELECT {{ n }}; SELECT {{ t }}, {{ n }}", single=False)
    assert [render_sql(sql, SCOPE, index)[:2] for index in range(len(sql.spans))] == [
        ("SELECT $1", (5,)),
        ("SELECT $1, $2", ("a b'c", 5)),
    ]


def test_an_offset_in_the_query_leads_back_to_the_source() -> None:
    source = " SELECT {{ n }}, nosuch, {{ t | identifier }}, other"
    bound = render_sql(parse_sql(source), SCOPE)
    for word in ("SELECT", "nosuch", "other"):
        assert bound.origin(bound.query.index(word)) == source.index(word)
    assert bound.origin(bound.query.index("$1")) == source.index("{{ n }}")


MISPLACED = {
    "SELECT '{{ n }}'": "a value cannot stand inside a string literal",
    "SELECT E'\\'{{ n }}'": "a value cannot stand inside a string literal",
    'SELECT "{{ n }}"': "a value cannot stand inside a quoted name",
    "SELECT $$ {{ n }} $$": "a value cannot stand inside a dollar-quoted string",
    "SELECT 1 -- {{ n }}": "a value cannot stand in a comment",
    "SELECT 1 /* /* */ {{ n }} */": "a value cannot stand in a comment",
    "SELECT a{{ n }}": "a value cannot be part of a word",
    "SELECT {{ n }}a": "a value cannot be part of a word",
    "SELECT 1{{ n }}": "a value cannot be part of a word",
    "SELECT {{ n }}{{ n }}": "a value cannot be part of a word",
    "SELECT {{ n }}'a'": "a value cannot be part of a word",
    "SELECT $1, {{ n }}": "`$1` is not used here",
    "SELECT 1; SELECT 2": "only one statement can stand here",
    "-- nothing": "there is no SQL statement here",
}


@pytest.mark.parametrize("source", MISPLACED)
def test_misplaced_in_sql(source: str) -> None:
    with pytest.raises(ExpressionProblem) as problem:
        parse_sql(source)
    assert problem.value.message == MISPLACED[source]


@pytest.mark.parametrize("source", ["echo '{{ n }}'", "echo # {{ n }}", "cat <<A\n{{ n }}\nA", "echo $(({{ n }}))"])
def test_misplaced_in_shell(source: str) -> None:
    with pytest.raises(ExpressionProblem) as problem:
        parse_shell(source)
    assert (problem.value.offset, problem.value.width) == (source.index("{{"), len("{{ n }}"))
