"""What people get wrong in a file, and what they are told: every line is one mistake."""

import json
import subprocess
import sys

import pytest

from runbook.language.document import parse_document
from runbook.language.problems import InvalidRunbook

# text, line, column, part of the message, part of the hint
MISTAKES = [
    ("a:\n\tb: 1\n", 2, 1, "a tab", "spaces"),
    ("a:\n  b: 1\n\tc: 2\n", 3, 1, "a tab", "spaces"),
    ("a:\n  b: 1\n  \tc: 2\n", 3, 3, "a tab", "spaces"),
    ("name:foo\ntitle: bar\n", 1, 5, "a space is missing after this colon", "name: value"),
    ("a: 1\nname:foo\n", 2, 5, "a space is missing after this colon", "name: value"),
    ("s:\n  - a:foo\n    b: bar\n", 2, 6, "a space is missing after this colon", "name: value"),
    ("s:\n  a: 1\n  b:bar\n", 3, 4, "a space is missing after this colon", "name: value"),
    ('a: {"b":1, c: 2}\nd: 1\nd: 2\n', 3, 1, "`d` is already given", "remove one"),
    ("a: 1\nfoo\nb: 2\n", 2, 1, "a key without a colon", "indent the line"),
    ('a: "foo\nb: 1\n', 1, 4, "never closed", 'add the closing "'),
    ("a: 'foo\nb: 1\n", 1, 4, "never closed", "an apostrophe"),
    ('a: "x\n---\ny"\n', 1, 4, "never closed", 'add the closing "'),
    ('a: "foo\nb: "bar"\n', 2, 5, "text after the closing quote", "opens on line 1"),
    ('a: "foo" bar\n', 1, 10, "text after the closing quote", "the whole value"),
    ('a: "Run: {{ x["y"] }}"\n', 1, 16, "text after the closing quote", "the other kind of quotes"),
    ("a: 'x' || 'y'\n", 1, 8, "text after the closing quote", "the whole value"),
    ("a: 1\nb: [1, 2\nc: 3\n", 2, 4, "this `[` starts a list that is not closed", "add `]`"),
    ("a: {x: 1\nb: 3\n", 1, 4, "this `{` starts a mapping that is not closed", "add `}`"),
    ("a: [1, 2\n", 1, 4, "not closed", "add `]`"),
    ('a: ["b" "c"]\n', 1, 9, "text after the closing quote", "put a comma before it, or quotes"),
    ("a: [[b] c]\n", 1, 9, "a `,` or `]` is missing before this", "quotes"),
    ("a: [\n", 1, 4, "the file ends inside", "close it"),
    ("a: [1,,2]\n", 1, 7, "a value is missing before `,`", "write the value"),
    ("a: ]\n", 1, 4, "a value is missing before `]`", "write the value"),
    ("a: [1]]\n", 1, 7, "`]` without its opening", "remove it"),
    ("a: {{ x }}\n", 1, 4, "`{{` starts a mapping in YAML, not", "put quotes around a value that starts with {{"),
    ("a: {{ x }} foo\n", 1, 4, "`{{` starts a mapping", "put quotes"),
    ("a: {{ x['b'] }}\nc: 1\n", 1, 4, "`{{` starts a mapping", "put quotes"),
    ("a: {{ x | f('y') }}\n", 1, 4, "`{{` starts a mapping", "put quotes"),
    ("a:\n  - {{ x }}/foo\n", 2, 5, "`{{` starts a mapping", "put quotes"),
    ("a: [b, {{ x }}]\n", 1, 8, "`{{` starts a mapping", "put quotes"),
    ("a: [b, {{ x['y'] }}]\n", 1, 8, "`{{` starts a mapping", "put quotes"),
    ("{{ x }}: 1\n", 1, 1, "`{{` starts a mapping", "put quotes"),
    ("a: {% if x %}\n", 1, 4, "`{%` starts a mapping", "put quotes"),
    ("a: foo: bar\n", 1, 7, "`: ` starts another value", "quotes around the whole value"),
    ("a: SELECT 'x: y'\n", 1, 13, "`: ` starts another value", "quotes around the whole value"),
    ("a: {{ x }}: y\n", 1, 4, "`{{` starts a mapping", "put quotes"),
    ("title: Foo, {{ x }}: bar\n", 1, 20, "`: ` starts another value", "quotes around the whole value"),
    ("a: b\n  c: d\n", 2, 4, "the line above already gives a value", "indentation"),
    ("a:\n    b: 1\n  c: 2\n", 3, 3, "the indentation fits no line above", "line 1"),
    ("  a: 1\nb: 2\n", 2, 1, "the indentation fits no line above", "line 1"),
    ("a: |\n   x\n  y\n", 3, 3, "the indentation fits no line above", "line 1"),
    ("a: 1\n- b\n", 2, 1, "a list item fits nothing above it", "indentation"),
    ("a:\n - 1\n b: 2\n", 3, 2, "a key stands among the items of a list", "- "),
    ("a: - b\n", 1, 4, "a list cannot start here", "a line of its own"),
    ("a: ? b\n", 1, 4, "`? ` starts a key", "quotes"),
    (": a\n", 1, 1, "a key is missing", "name: value"),
    ("{: a}\n", 1, 2, "a key is missing", "name: value"),
    ('a: "\\\u202e"\n', 1, 5, "`\\\ufffd` is no escape", "single quotes"),
    ("a: @x\n", 1, 4, "a value cannot start with @", "quotes"),
    ("a: `x`\n", 1, 4, "a value cannot start with `", "quotes"),
    ("a: %x\n", 1, 4, "a value cannot start with %", "quotes"),
    ("a: *.sql\n", 1, 4, "a value cannot start with *", "quotes"),
    ("a: & b\n", 1, 4, "a value cannot start with &", "quotes"),
    ("a: *x\n", 1, 4, "no anchor `&x` stands above", "put quotes around a value that starts with `*`"),
    ("a: &base 1\nb: *bse\n", 2, 4, "no anchor `&bse` stands above", "did you mean `base`?"),
    ("a: &x [1, *x]\n", 1, 11, "the alias `*x` stands inside what it names", "write the value"),
    ("a: &x {b: {c: *x}}\n", 1, 15, "the alias `*x` stands inside what it names", "write the value"),
    ('a: "\\d+"\n', 1, 5, "`\\d` is no escape", "write \\\\ for a backslash"),
    ('a: "\\xzz"\n', 1, 5, "`\\x` is no escape", "single quotes"),
    ('a: "x\\0"\n', 1, 4, "a NUL", "remove the escape"),
    ("a: | foo\n  b\n", 1, 6, "after `|` only", "on the next line"),
    ("a: >0\n b\n", 1, 5, "after `>` only", "on the next line"),
    ("a: !!str 1\n", 1, 4, "tags", "remove the tag"),
    ("a: !!python/object/apply:os.system [x]\n", 1, 4, "tags", "remove the tag"),
    ("a: !x {b: 1}\n", 1, 4, "tags", "remove the tag"),
    ("a: &n !x 1\n", 1, 7, "tags", "remove the tag"),
    ("a: !x!y z\n", 1, 4, "tags", "remove the tag"),
    ("a: ! z\n", 1, 4, "tags", "remove the tag"),
    ("!!map\na: 1\n", 1, 1, "tags", "remove the tag"),
    ("a: 1\nb: 2\na: 3\n", 3, 1, "`a` is already given on line 1", "remove one"),
    ("x:\n  a: 1\n  'a': 3\n", 3, 3, "`a` is already given on line 2", "remove one"),
    ("a: &a {}\nb:\n  <<: *a\n  <<: *a\n", 4, 3, "`<<` is already given on line 3", "<<: [*a, *b]"),
    ("a: {<<: 1}\n", 1, 9, "`<<` takes a mapping", "*anchor"),
    ("a: {<<: [{}, 1]}\n", 1, 9, "`<<` takes a mapping", "*anchor"),
    ("a: {<<: *gone}\n", 1, 9, "no anchor", "quotes"),
    ("a: {<<: [*gone]}\n", 1, 10, "no anchor", "quotes"),
    ("a: &a {x: 1}\nb: {<<: *a, x: 2, x: 3}\n", 2, 19, "`x` is already given on line 2", "remove one"),
    (".inf: a\n", 1, 1, "not a number", "quotes"),
    ("1: a\n", 1, 1, "a key must be text, and `1` is a number", 'write "1"'),
    ("true: a\n", 1, 1, "a key must be text, and `true` is a boolean", 'write "true"'),
    ("a: {null: b}\n", 1, 5, "a key must be text, and `null` is null", 'write "null"'),
    ("[a]: b\n", 1, 1, "a key must be text, and this is a list", "quotes"),
    ("? {a: 1}\n: b\n", 1, 3, "a key must be text, and this is a mapping", "quotes"),
    ("? " + "k" * 300 + "\n: b\n", 1, 3, "a key of 300 characters", "at most 256"),
    ("a: 1\n---\nb: 2\n", 2, 1, "a second document", "split the file"),
    ("---\na: 1\n...\n# and\nb: 2\n", 5, 1, "a second document", "split the file"),
    ("a: 1\n---\n", 2, 1, "a second document", "split the file"),
    ("%TAG ! tag:x,2000:\n---\na: 1\n", 1, 1, "directives", "remove this line"),
    ("# c\n%FOO bar\n---\na: 1\n", 2, 1, "directives", "remove this line"),
    ("%YAML 2.0\n---\na: 1\n", 1, 1, "directives", "remove this line"),
    ("", 1, 1, "the file is empty", "runbook new"),
    ("# only a comment\n\n", 1, 1, "the file is empty", "runbook new"),
    ("---\n...\n", 1, 1, "the file is empty", "runbook new"),
    ("null\n", 1, 1, "the file is empty", "runbook new"),
    ("- a\n", 1, 1, "a runbook is a mapping, and this is a list", "name: value"),
    ("\n name:foo\n", 2, 2, "a runbook is a mapping, and this is text", "a space after the colon"),
    ("12\n", 1, 1, "a runbook is a mapping, and this is a number", "name: value"),
    ("a: x\x00y\n", 1, 5, "a NUL byte (U+0000)", "remove it"),
    ("a: 1 # \x1b[2J\n", 1, 8, "a control character (U+001B)", '"\\x1b"'),
    ("a: \x7f\n", 1, 4, "a control character (U+007F)", '"\\x7f"'),
    ("a: \x85\n", 1, 4, "a control character (U+0085)", '"\\x85"'),
    ("# hidden\u2028a: 1\nb: 1\n", 1, 9, "an invisible line separator (U+2028)", "\\u2028"),
    ("a: \ufeff\n", 1, 4, "a byte order mark", "remove it"),
    ("a: \ud83d\n", 1, 4, "half of a surrogate pair (U+D83D)", "the whole character"),
    ("a: \uffff\n", 1, 4, "a character that means nothing", "remove it"),
]


@pytest.mark.parametrize(("text", "line", "column", "message", "hint"), MISTAKES)
def test_a_mistake_is_explained_where_it_is(text: str, line: int, column: int, message: str, hint: str) -> None:
    with pytest.raises(InvalidRunbook) as caught:
        parse_document(text, "book.yaml")
    [problem] = caught.value.problems
    assert (problem.file, problem.line, problem.column) == ("book.yaml", line, column)
    assert message in problem.message and hint in problem.hint
    assert problem.width >= 1 and problem.column - 1 + problem.width <= max(len(problem.source), 1)


EVERYTHING = """\
name: x
name: y
1: z
steps:
  a: !!str b
  a: {c: .inf, c: 2}
  d: [*gone, {{ e }}]
f: "\\0"
g: @
"""


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(InvalidRunbook) as caught:
        parse_document(EVERYTHING, "f")
    assert [(p.line, p.column, p.where) for p in caught.value.problems] == [
        (2, 1, "name"),
        (3, 1, "1"),
        (5, 6, "steps.a"),
        (6, 3, "steps.a"),
        (6, 10, "steps.a.c"),
        (6, 16, "steps.a.c"),
        (7, 7, "steps.d[0]"),
        (7, 14, "steps.d[1]"),
        (8, 4, "f"),
        (9, 4, ""),
    ]


def test_a_hundred_problems_are_enough() -> None:
    with pytest.raises(InvalidRunbook) as caught:
        parse_document("a: 1\n" * 500, "f")
    assert len(caught.value.problems) == 100
    assert caught.value.problems[-1].message.startswith("100 problems")
    with pytest.raises(InvalidRunbook) as caught:
        parse_document("a: 1\n" * 100, "f")
    assert [p.line for p in caught.value.problems] == list(range(2, 101))


def test_a_colon_that_touches_a_bracket() -> None:
    with pytest.raises(InvalidRunbook) as caught:
        parse_document("params: {limit:{type: integer}}\n", "f")
    assert (caught.value.problems[0].column, caught.value.problems[0].hint) == (15, "write `name: value`")


@pytest.mark.parametrize("text", ["%YAML 1.2\n---\na: 1\n", "---\na: 1\n...\n", "# x\n\n--- # y\na: 1\n...\n# z\n"])
def test_one_document_may_be_marked_as_such(text: str) -> None:
    assert parse_document(text, "f").data == {"a": 1}


WITHOUT_LIBYAML = """\
import json, sys
sys.modules["yaml._yaml"] = None
import yaml
from runbook.language.document import parse_document
from runbook.language.problems import InvalidRunbook
assert not yaml.__with_libyaml__
for text in json.load(sys.stdin):
    try:
        print(json.dumps(parse_document(text, "f").data))
    except InvalidRunbook as error:
        print(json.dumps([problem.as_data() for problem in error.problems]))
"""


def test_the_same_without_libyaml() -> None:
    texts = [text for text, *_ in MISTAKES] + [EVERYTHING, "a: &x {b: [1, 'é', no]}\nc: {<<: *x}\n"]
    ours = []
    for text in texts:
        try:
            ours.append(parse_document(text, "f").data)
        except InvalidRunbook as error:
            ours.append([problem.as_data() for problem in error.problems])
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIBYAML], input=json.dumps(texts), capture_output=True, text=True, check=True
    )
    assert [json.loads(line) for line in run.stdout.splitlines()] == ours
