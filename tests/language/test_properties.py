"""Laws that hold for every value and every file: a value is data at its place, and nothing but InvalidRunbook is raised."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import runbook
from runbook.database.connect import ServerError, bound, connect
from runbook.language.expressions import EvaluationError, ExpressionProblem, parse_expression
from runbook.language.problems import InvalidRunbook
from runbook.language.sqltext import tokens
from runbook.language.templates import (
    parse_shell,
    parse_sql,
    parse_template,
    render_argument,
    render_shell,
    render_sql,
    render_url,
)
from tests.conftest import ROOT, Database

modest = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
thorough = settings(modest, max_examples=200)

NASTY = (
    "",
    "'; DROP TABLE items; --",
    '"; DROP TABLE items; --',
    "$$; $1 %s %(x)s",
    "\\' /* -- */",
    "$(id) `id` ${HOME} \"'\\ * ~ #",
    "-rf",
    "{{ params }} {% raw %}",
    "\n\r\t",
    "a/../b?c=d&e#f%2F",
    "ü€😀\u202e",
)
texts = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40),
    st.text("'\"\\$`{}%;-/*# \n", max_size=40),
)
values = st.recursive(
    st.one_of(texts, st.integers(), st.booleans(), st.none(), st.decimals(allow_nan=False)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)

# --- SQL ----------------------------------------------------------------------------------------------------------

SOUND = (
    "{{ x }}::text",
    "('{' || {{ x }}::text)",
    "'it''s'",
    r"E'a\'b --'",
    r"'\'",
    "$$ it's $$",
    '$fn$ $$ " $fn$',
    "U&'\\0061'",
    "'a'\n  'b'",
    "1 /* ' /* \" */ $$ */",
    "1 -- '\n",
    '1 AS "a""b\' --"',
    "5 % 3",
    "'%s' || '?'",
    "('{\"a\": 1}'::jsonb ?| array['a'])",
    "('{\"a\": 1}'::jsonb ->> 'a')",
    "('{a,b}'::text[])[1:2]",
)
UNSOUND = (
    "'{{ x }}'",
    r"E'\'{{ x }}'",
    r"E'\' || {{ x }} || '",
    "U&'{{ x }}'",
    "'a' 'b{{ x }}'",
    "$$ {{ x }} $$",
    "$a$ $$ {{ x }} $a$",
    "1 -- {{ x }}\n",
    "1 /* /* */ {{ x }} */",
    '1 AS "{{ x }}"',
    "a{{ x }}",
    "{{ x }}{{ x }}",
    "$1",
)


@modest
@given(st.lists(st.sampled_from(SOUND), min_size=1, max_size=6), values)
def test_the_text_of_a_query_does_not_depend_on_values(parts: list[str], value: Any) -> None:
    query = parse_sql(f"SELECT {{{{ x }}}}, {', '.join(parts)}")
    rendered = render_sql(query, {"x": value})
    assert rendered.query == render_sql(query, {"x": 1}).query
    assert rendered.values == (value,) * len(query.template.holes)


@modest
@given(
    st.lists(st.sampled_from(SOUND), max_size=4), st.sampled_from(UNSOUND), st.lists(st.sampled_from(SOUND), max_size=4)
)
def test_a_value_inside_other_text_is_refused(before: list[str], wrong: str, after: list[str]) -> None:
    with pytest.raises(ExpressionProblem):
        parse_sql("SELECT {{ x }}, " + ", ".join([*before, wrong, *after]))


@modest
@given(st.lists(texts, min_size=1, max_size=3))
def test_a_name_is_one_piece_of_the_query(names: list[str]) -> None:
    rendered = render_sql(parse_sql("SELECT a FROM {{ x | identifier }} WHERE b"), {"x": names})
    qualified = [*["quoted", "sign"] * (len(names) - 1), "quoted"]
    found = [token.kind for token in tokens(rendered.query) if token.kind != "space"]
    assert found == ["word", "word", "word", *qualified, "word", "word"]


def test_the_server_sees_as_many_values_and_gives_them_back(database: Database) -> None:
    with connect(database.url, "tests") as connection:

        @modest
        @given(st.lists(st.sampled_from(SOUND), min_size=1, max_size=6), texts)
        def law(parts: list[str], value: str) -> None:
            query = render_sql(parse_sql("SELECT {{ x }}::text, " + ", ".join(parts)), {"x": value})
            row = connection.execute(query.query, bound(query.values)).fetchone()
            assert row is not None
            given_back = [row[0], *(row[index] for index, part in enumerate(parts, 1) if part == SOUND[0])]
            assert given_back == [value] * len(given_back)
            assert len(row) == len(parts) + 1

        law()


def test_a_name_from_a_value_names_that_column(database: Database) -> None:
    with connect(database.url, "tests") as connection:

        @modest
        @given(texts.filter(lambda text: 0 < len(text.encode()) < 64))
        def law(name: str) -> None:
            query = render_sql(parse_sql("SELECT 1 AS {{ x | identifier }}"), {"x": name})
            description = connection.execute(query.query).description
            assert description is not None
            assert [column.name for column in description] == [name]

        law()


@modest
@given(texts, texts)
def test_a_text_with_nul_is_an_error(before: str, after: str) -> None:
    query = render_sql(parse_sql("SELECT {{ x }}::text"), {"x": f"{before}\0{after}"})
    with pytest.raises(ServerError, match="NUL"):
        bound(query.values)


# --- commands, shell, URLs ----------------------------------------------------------------------------------------

SCRIPT = """\
printf '%s\\0' {{ x }}
printf '%s\\0' "{{ x }}"
printf '%s\\0' "a{{ x }}b" a{{ x }}b
printf '%s\\0' ${nothing:-{{ x }}} "${nothing:-{{ x }}}"
v={{ x }}; printf '%s\\0' "$v"   # it's a comment
case {{ x }} in *) printf '%s\\0' {{ x }} ;; esac
printf '%s\\0' "$(printf '%s.' {{ x }})" "$(printf '%s.' "{{ x }}")"
"""


@modest
@given(texts)
def test_any_text_is_one_word_of_a_script(value: str) -> None:
    script = render_shell(parse_shell(SCRIPT), {"x": value})
    printed = subprocess.run(["/bin/sh", "-e", "-c", script], capture_output=True, check=True).stdout
    inside = f"a{value}b"
    expected = [value, value, inside, inside, value, value, value, value, f"{value}.", f"{value}."]
    assert printed.decode() == "".join(f"{word}\0" for word in expected)


@modest
@given(texts, texts)
def test_a_value_with_nul_is_no_word(before: str, after: str) -> None:
    scope = {"x": f"{before}\0{after}"}
    with pytest.raises(EvaluationError):
        render_shell(parse_shell("echo {{ x }}"), scope)
    with pytest.raises(EvaluationError):
        render_argument(parse_template("{{ x }}"), scope)


@modest
@given(texts)
def test_one_argument_stays_one(value: str) -> None:
    scope = {"x": value}
    assert render_argument(parse_template("{{ x }}"), scope) == [value]
    assert render_argument(parse_template("--a={{ x }} b"), scope) == [f"--a={value} b"]
    assert render_argument(parse_template("{{ [x, x] }}"), scope) == [value, value]


@modest
@given(texts.filter(lambda text: text not in (".", "..")))
def test_a_value_stays_in_its_part_of_a_url(value: str) -> None:
    url = render_url(parse_template("https://host.test/a/{{ x }}/b?q={{ x }}&r=1#f"), {"x": value})
    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc, parts.fragment) == ("https", "host.test", "f")
    assert [unquote(segment) for segment in parts.path.split("/")] == ["", "a", value, "b"]
    assert parse_qs(parts.query, keep_blank_values=True) == {"q": [value], "r": ["1"]}


# --- expressions --------------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    return text.split()


FILTERS = words(
    "abs capitalize center(5) count default(1) dictsort escape filesizeformat first float indent int items "
    "join(',') jsonb last length list lower map('upper') map(attribute='a',default=0) max min reject('none') replace('a','b') "
    "reverse round round(2) select('number') selectattr('a') slice(2) sort string sum title tojson trim truncate(9) "
    "unique upper urlencode wordcount wordwrap(3) batch(2) identifier"
)
TESTS = words("defined none number string mapping divisibleby(3) in([1]) subset([1]) superset([1]) even eq(1) lt(2)")
ATOMS = words(
    "a b list text nothing a.b a.c.d a['x'] list[0] list[9] none true 0 1 -1 2.5 1e400 'text' '' [] {} [1,'a',none] {'a':1} "
    "[{'a':1}] a.b.upper() text.split(',') text[1:] text[::-1] list.index(1)"
)
OPERATORS = [*words("+ - * / // % ** ~ == != < <= > >= and or in"), "not in"]
expressions = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(OPERATORS), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
        st.tuples(inner, st.sampled_from(FILTERS)).map(lambda p: f"({p[0]} | {p[1]})"),
        st.tuples(inner, st.sampled_from(TESTS)).map(lambda p: f"({p[0]} is {p[1]})"),
        st.tuples(inner, inner, inner).map(lambda p: f"({p[0]} if {p[1]} else {p[2]})"),
        st.tuples(inner, inner).map(lambda p: f"{p[0]}[{p[1]}]"),
        inner.map(lambda p: f"(not {p})"),
        st.lists(inner, max_size=3).map(lambda p: f"[{', '.join(p)}]"),
    ),
    max_leaves=8,
)
SCOPE = {"a": {"b": 5, "c": None, "x": "y"}, "b": 3, "list": [1, 2, {"a": 1}], "text": "one,two"}


@thorough
@given(expressions)
def test_an_expression_has_a_value_or_an_evaluation_error(source: str) -> None:
    expression = parse_expression(source)
    for attempt in (expression.evaluate, expression.holds):
        try:
            attempt(SCOPE)
        except EvaluationError as error:
            assert str(error)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@thorough
@given(st.text("ab12.+-*/%()[]{}|~<>=!,:'\"\\ \n", max_size=30))
def test_any_text_is_an_expression_or_a_problem(source: str) -> None:
    try:
        expression = parse_expression(source)
    except ExpressionProblem as problem:
        assert 0 <= problem.offset <= len(source)
        return
    try:
        expression.evaluate({"a": 1})
    except EvaluationError:
        return


# --- files --------------------------------------------------------------------------------------------------------

SOURCE = (ROOT / "runbooks" / "wf3001.yaml").read_text(encoding="utf-8")
MODEL: dict[str, Any] = yaml.safe_load(SOURCE)
JUNK: tuple[Any, ...] = (
    *(None, True, 5, -1.5, [], {}, ["x"], [[]], [None], {"x": 1}, {"sql": "SELECT 1"}, {"file": "/"}),
    *(
        "",
        "x",
        "a b",
        "{{",
        "{{ x }}",
        "{{ params.limit }}",
        "}}",
        "{% if %}",
        "result",
        "(",
        "'",
        "$1",
        "5m",
        "9" * 50,
    ),
    "/dev/null",
)


def load(folder: Path, content: bytes) -> None:
    """Loads `content`; anything but InvalidRunbook, with a problem that has a place, fails the test."""
    path = folder / "fuzzed.yaml"
    path.write_bytes(content)
    try:
        runbook.load(path)
    except InvalidRunbook as error:
        assert error.problems
        for problem in error.problems:
            assert problem.message
            assert problem.line >= 0 and problem.column >= (1 if problem.line else 0)


@thorough
@given(st.binary(max_size=200))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    load(tmp_path_factory.getbasetemp(), content)


@thorough
@given(st.text("ab:-?[]{},#&*!|>'\"%@`\\ \n\t1.<=~", max_size=60))
def test_any_text_like_yaml(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    load(tmp_path_factory.getbasetemp(), f"runbook: 1\nname: x\n{content}".encode())


@modest
@given(st.integers(0, len(SOURCE)), st.integers(0, 40), st.sampled_from(JUNK).map(str) | st.text(max_size=8))
def test_any_damage_to_a_good_file(
    tmp_path_factory: pytest.TempPathFactory, start: int, length: int, junk: str
) -> None:
    damaged = SOURCE[:start] + junk + SOURCE[start + length :]
    load(tmp_path_factory.getbasetemp(), damaged.encode("utf-8", "surrogatepass"))


def places(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [at, *(place for key, item in items for place in places(item, (*at, key)))]


@thorough
@given(st.sampled_from(places(MODEL)[1:]), st.sampled_from(JUNK))
def test_any_value_in_any_place(tmp_path_factory: pytest.TempPathFactory, place: tuple[Any, ...], junk: Any) -> None:
    data = copy.deepcopy(MODEL)
    node = data
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = junk
    load(tmp_path_factory.getbasetemp(), json.dumps(data).encode())
