"""Data and places: what a document holds, and where each part of it was written."""

import string
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from runbook.language.document import Document, Span, Where, dotted, parse_document
from runbook.language.problems import InvalidRunbook, Problem
from runbook.language.source import CARET_LIMIT, SOURCE_WIDTH

SAMPLE = """\
# a comment
name: wf3001
steps:
  load:
    command: [python, run.py, "{{ params.n }}"]
    timeout: 5m
    env: {A: 1, B: two}
    when:
  other:
    - one
    -
"""


def parse(text: str | bytes) -> Document:
    return parse_document(text, "book.yaml")


def problems(text: str | bytes) -> tuple[Problem, ...]:
    with pytest.raises(InvalidRunbook) as caught:
        parse(text)
    return caught.value.problems


def under(document: Document, span: Span) -> str:
    """The characters that a span underlines."""
    line = document.text.replace("\r\n", "\n").split("\n")[span.line - 1]
    return line[span.column - 1 : span.column - 1 + span.width]


def test_data_is_plain_and_keeps_its_order() -> None:
    data = parse(SAMPLE).data
    assert list(data) == ["name", "steps"]
    assert data["steps"] == {
        "load": {
            "command": ["python", "run.py", "{{ params.n }}"],
            "timeout": "5m",
            "env": {"A": 1, "B": "two"},
            "when": None,
        },
        "other": ["one", None],
    }
    assert list(data["steps"]["load"]) == ["command", "timeout", "env", "when"]


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        (("name",), "name", "wf3001"),
        (("steps",), "steps", "load:"),
        (("steps", "load", "command"), "command", '[python, run.py, "{{ params.n }}"]'),
        (("steps", "load", "command", 1), "run.py", "run.py"),
        (("steps", "load", "command", 2), '"{{ params.n }}"', '"{{ params.n }}"'),
        (("steps", "load", "env", "B"), "B", "two"),
        (("steps", "load", "when"), "when", "when"),
        (("steps", "other", 1), "-", "-"),
        (("steps", "load", "missing"), "load", "load"),
        (("steps", "load", "command", 9, "x"), "command", "command"),
        (("steps", "other", -1), "other", "other"),
        (("steps", "load", "timeout", "x"), "timeout", "timeout"),
        (("name", 0), "name", "name"),
        ((), "name: wf3001", "name: wf3001"),
        (("nowhere", "x"), "name: wf3001", "name: wf3001"),
    ],
)
def test_spans_of_keys_and_values(where: Where, key: str, value: str) -> None:
    document = parse(SAMPLE)
    assert under(document, document.key_span(where)) == key
    assert under(document, document.value_span(where)) == value


def test_lines_and_columns_count_characters_from_one() -> None:
    document = parse("été: 1\nb: {ключ: 'значение 🎉', c: 2}\n")
    assert document.key_span(("été",)) == (1, 1, 3)
    assert document.value_span(("été",)) == (1, 6, 1)
    assert document.value_span(("b", "ключ")) == (2, 11, 12)
    assert document.value_span(("b", "c")) == (2, 28, 1)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_counts_as_one(end: str) -> None:
    document = parse(end.join(["a: 1", "", "b:", "  c: |", "    one", "", "    two", ""]).encode())
    assert document.data == {"a": 1, "b": {"c": "one\n\ntwo\n"}}
    assert document.key_span(("b", "c")) == (4, 3, 1)
    assert document.locate(("b", "c"), 5) == (7, 5)
    assert document.problem(("b", "c"), "x", offset=5).source == "    two"


def test_a_byte_order_mark_takes_no_column() -> None:
    document = parse(b"\xef\xbb\xbfname: x\n")
    assert document.data == {"name": "x"}
    assert document.key_span(("name",)) == (1, 1, 4)


def test_the_digest_is_of_the_bytes() -> None:
    assert parse(b"a: 1\r\n").sha256 != parse(b"a: 1\n").sha256
    assert parse("a: é\n").sha256 == parse("a: é\n".encode()).sha256


# --- aliases and merge keys ---------------------------------------------------------------------------------------

ALIASES = """\
base: &base {retry: 3, sql: &sql 'SELECT 1', 'deep': {x: 1}}
first: *base
text: *sql
merged:
  <<: *base
  retry: 4
  own: 5
"""


def test_an_alias_has_a_place_of_its_own_and_its_content_keeps_its_own() -> None:
    document = parse(ALIASES)
    assert document.data["first"] is document.data["base"]
    assert document.value_span(("first",)) == (2, 8, 5)
    assert document.value_span(("first", "retry")) == (1, 21, 1)
    assert document.value_span(("text",)) == (3, 7, 4)
    assert under(document, document.value_span(("base",))).startswith("{retry")
    assert document.locate(("text",), 7) == (1, 42)
    assert document.text.splitlines()[0][41] == "1"


def test_an_empty_value_behind_an_anchor_is_the_anchor() -> None:
    document = parse("a:\n  - &x # comment\n  - b\nc: &y # comment\nd: *x\n")
    assert document.value_span(("a", 0)) == (2, 6, 1)
    assert document.value_span(("c",)) == (4, 1, 1)
    assert document.locate(("d",), 0) == (5, 4)


def test_merged_keys_point_at_where_they_were_written() -> None:
    document = parse(ALIASES)
    assert document.data["merged"] == {"retry": 4, "sql": "SELECT 1", "deep": {"x": 1}, "own": 5}
    assert document.key_span(("merged", "sql")) == (1, 24, 3)
    assert document.key_span(("merged", "retry")) == (6, 3, 5)
    assert document.data["base"]["retry"] == 3


@pytest.mark.parametrize(
    ("text", "merged"),
    [
        ("c: {<<: [*a, *b], z: 0}", {"x": 1, "y": 2, "z": 0}),
        ("c: {<<: [*b, *a]}", {"x": 3, "y": 2}),
        ("c: {x: 9, <<: *a}", {"x": 9}),
        ("c: {<<: {q: 1}}", {"q": 1}),
        ("c: {<<: []}", {}),
        ("c: {'<<': 1}", {"<<": 1}),
        ("c: [<<]", ["<<"]),
        ("c: {<<: {<<: *b, y: 7}}", {"x": 3, "y": 7}),
    ],
)
def test_merge_keys(text: str, merged: Any) -> None:
    assert parse(f"a: &a {{x: 1}}\nb: &b {{x: 3, y: 2}}\n{text}\n").data["c"] == merged


def test_an_anchored_merge_key_is_text_where_an_alias_repeats_it() -> None:
    assert parse("a: {&m <<: {b: 1}}\nc: *m\n").data == {"a": {"b": 1}, "c": "<<"}


# --- offsets inside strings -----------------------------------------------------------------------------------------


def marked(text: str) -> tuple[Document, list[tuple[int, tuple[int, int]]]]:
    """The document of `text`, with what each offset of the value at `v` that is no white space should come to."""
    document = parse(text)
    value = document.data["v"]
    found = [(offset, document.locate(("v",), offset)) for offset, c in enumerate(value) if not c.isspace()]
    return document, found


@pytest.mark.parametrize(
    "text",
    [
        "v: plain words here\n",
        "v: plain words\n   over lines\n\n   and more\nw: 1\n",
        "v: 'single ''quoted'' text'\n",
        "v: 'single\n  ''folded''\n\n  text'\n",
        'v: "double quoted text"\n',
        'v: "double\n  folded\\\n   text"\n',
        "v: |\n  SELECT 1\n    FROM x\n  WHERE y\n",
        "v: |-\n  SELECT\t1\n\n\n  FROM\tx\n",
        "v: |+\n\n\n  leading\n\n\nw: 1\n",
        "v: |2\n      indented first\n  then not\n",
        "v:   |  # with a comment | in it\n        far\n          farther\n",
        "v: &anchor |\n  anchored\n",
        "v: &anchor 'anchored'\n",
        "v: >\n  folded words\n  of two lines\n\n    kept\n  end\n",
        "v: >-  # comment\n  folded\n  words\n",
        "v: |\n  значение 🎉 x\n  é ü\n",
        "v: |\n  last line without an end",
        "{v: flow, w: 1}\n",
    ],
)
def test_offsets_point_at_the_very_character(text: str) -> None:
    for ending in ("\n", "\r\n"):
        document, found = marked(text.replace("\n", ending))
        lines = document.text.split(ending)
        for offset, (line, column) in found:
            assert lines[line - 1][column - 1] == document.data["v"][offset]


def test_offsets_behind_escapes_are_exact() -> None:
    document = parse('v: "a\\tb\\x41\\u00e9\\U0001F389\\"c\\nd\\x20e"\n')
    value = document.data["v"]
    assert value == 'a\tbAé🎉"c\nd e'
    columns = [document.locate(("v",), value.index(character))[1] for character in 'abAé🎉"cde']
    assert columns == [5, 8, 9, 13, 19, 29, 31, 34, 39]


def test_white_space_of_a_literal_block_is_exact_too() -> None:
    document = parse("v: |2\n     a b\n\n    \n  c\n")
    assert document.data["v"] == "   a b\n\n  \nc\n"
    expected = [(2, c) for c in range(3, 10)] + [(3, 1), (4, 3), (4, 4), (4, 5), (5, 3), (5, 4), (5, 4)]
    assert [document.locate(("v",), offset) for offset in range(len(document.data["v"]) + 1)] == expected


def test_an_offset_outside_the_value_is_drawn_in() -> None:
    document = parse("v: |\n  abc\nw: 1\n")
    assert document.locate(("v",), -5) == (2, 3)
    assert document.locate(("v",), 500) == (2, 6)


@pytest.mark.parametrize("where", [("n",), ("m",), ("gone",), ("l", 0)])
def test_an_offset_into_no_text_is_the_value(where: Where) -> None:
    document = parse("n: 12\nm: {a: 1}\nl: [true]\n")
    assert document.locate(where, 3) == document.value_span(where)[:2]


TEXTS = st.text(st.sampled_from(string.ascii_letters + string.digits + " \n'\"\\:#-é🎉{}[],&*!|>%@`\t"), max_size=60)


@given(TEXTS, st.sampled_from(["|", ">", '"', "'", None]), st.integers(20, 200))
def test_offsets_in_whatever_a_dumper_writes(value: str, style: str | None, width: int) -> None:
    value = value if style else f"x{value}"
    text = yaml.dump({"k": [{"v": value}]}, default_style=style, width=width, allow_unicode=True)
    document = parse(text)
    assert document.data["k"][0]["v"] == value
    lines = text.split("\n")
    for offset, character in enumerate(value):
        line, column = document.locate(("k", 0, "v"), offset)
        if not character.isspace() and character not in "\\'\"\t🎉":
            assert lines[line - 1][column - 1] == character


# --- problems -------------------------------------------------------------------------------------------------------


def test_a_problem_says_where() -> None:
    problem = parse(SAMPLE).problem(("steps", "load", "command", 1), "no such file", "look again")
    assert problem == Problem(
        file="book.yaml",
        line=5,
        column=23,
        where="steps.load.command[1]",
        message="no such file",
        hint="look again",
        source='    command: [python, run.py, "{{ params.n }}"]',
        width=6,
    )


def test_a_problem_at_a_key_and_at_an_offset() -> None:
    document = parse("v:\n  sql: |\n    SELECT pendng\n    FROM x\n")
    at_key = document.problem(("v", "sql"), "x", at="key")
    assert (at_key.line, at_key.column, at_key.width) == (2, 3, 3)
    at_word = document.problem(("v", "sql"), "x", offset=7)
    assert (at_word.line, at_word.column, at_word.width, at_word.source) == (3, 12, 6, "    SELECT pendng")
    assert document.problem(("v", "sql"), "x", offset=7, width=2).width == 2
    assert document.problem(("v", "sql"), "x", offset=7, width=99).width == 6
    at_end = document.problem(("v", "sql"), "x", offset=10_000)
    assert (at_end.line, at_end.column, at_end.width) == (4, 10, 1)


@pytest.mark.parametrize("before", [0, 50, 98, 99, 100, 101, 155, 500])
@pytest.mark.parametrize("after", [0, 3, 200])
def test_the_caret_fits_a_long_line(before: int, after: int) -> None:
    text = "v: " + "x" * before + " bad" + " y" * after
    problem = parse(f"{text}\n").problem(("v",), "m", offset=text.index("bad") - 3 if before else 0)
    assert text[problem.column - 1 :].startswith("bad")
    caret = min(problem.column, CARET_LIMIT) - 1
    assert problem.source[caret : caret + problem.width] == "bad"
    assert len(problem.source) <= SOURCE_WIDTH
    assert problem.source.startswith("…") == (problem.column > CARET_LIMIT)
    assert problem.source.endswith("…") == (len(text) - (problem.column - 1 - caret) > SOURCE_WIDTH)


@given(TEXTS, st.integers(-3, 80), st.none() | st.integers(0, 200))
def test_a_caret_never_leaves_its_line(value: str, offset: int, width: int | None) -> None:
    document = parse(yaml.dump({"v": value}, default_style="|", allow_unicode=True))
    problem = document.problem(("v",), "m", offset=offset, width=width)
    assert problem.width >= 1 and problem.column >= 1
    assert problem.column - 1 + problem.width <= max(len(problem.source), 1)


def test_a_source_line_cannot_forge_the_terminal() -> None:
    shown = problems(b"a: \x1b[2Jx\n")[0]
    assert shown.source == "a: ␛[2Jx" and shown.column == 4


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (("steps", "load", "command", 0), "steps.load.command[0]"),
        (("postings.total", "delta"), "postings.total.delta"),
        ((), ""),
        ((3, "a"), "[3].a"),
        (("a" * 50, "b\x1b\n"), "a" * 39 + "….b␛"),
    ],
)
def test_dotted(where: Where, text: str) -> None:
    assert dotted(where) == text
