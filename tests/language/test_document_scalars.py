"""What plain text means: YAML 1.2 and nothing else."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.language.document import parse_document, parse_scalar
from runbook.language.problems import InvalidRunbook

MEANINGS: list[tuple[str, Any]] = [
    *((word, None) for word in ("null", "Null", "NULL", "~", "")),
    *((word, True) for word in ("true", "True", "TRUE")),
    *((word, False) for word in ("false", "False", "FALSE")),
    *((word, word) for word in ("no", "NO", "off", "on", "yes", "y", "n", "nULL", "tRUE", "none", "None")),
    *((word, word) for word in ("1:30", "12:30:45", "2025-12-10", "2025-99-99", "2001-12-14t21:59:43.10-05:00")),
    *((word, word) for word in ("12_000", "0b101", "0o8", "0xg", "-0x1F", "0X1F", "1e", "e3", "1.2.3", "5%", ".")),
    *((word, word) for word in ("-", "1 2", "=", "<<", "a:b", "http://x:80/", "x#y", "inf", "NaN", ".Infinity", "٣")),
    ("0", 0),
    ("012", 12),
    ("-7", -7),
    ("+7", 7),
    ("0x1F", 31),
    ("0o17", 15),
    ("9" * 40, int("9" * 40)),
    ("1e3", 1000.0),
    ("1E-3", 0.001),
    ("-1.5", -1.5),
    (".5", 0.5),
    ("1.", 1.0),
    ("+.5e+1", 5.0),
    ("0." + "1" * 39, float("0." + "1" * 39)),
]


@pytest.mark.parametrize(("text", "value"), MEANINGS)
def test_plain_scalars(text: str, value: Any) -> None:
    scalar = parse_scalar(text)
    assert (type(scalar), scalar) == (type(value), value)
    if text != "-":
        in_a_file = parse_document(f"v: {text}\n", "f").data["v"]
        assert (type(in_a_file), in_a_file) == (type(value), value)


@pytest.mark.parametrize("text", ["'12'", '"true"', '"null"', "|\n  12", ">-\n  true", '""', "'no'"])
def test_quoted_and_block_scalars_are_text(text: str) -> None:
    assert isinstance(parse_document(f"v: {text}\n", "f").data["v"], str)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (".inf", "not a number"),
        ("-.Inf", "not a number"),
        ("+.INF", "not a number"),
        (".nan", "not a number"),
        (".NaN", "not a number"),
        ("1e999", "not a number"),
        ("9" * 41, "a number of 41 digits"),
        ("1" * 5000, "a number of 5000 digits"),
        ("-0." + "1" * 40, "a number of 41 digits"),
        ("0x" + "f" * 41, "a number of 41 digits"),
        ("0o" + "7" * 50, "a number of 50 digits"),
        ("1e" + "9" * 60, "a number of 61 digits"),
    ],
)
def test_numbers_nobody_can_use(text: str, said: str) -> None:
    with pytest.raises(InvalidRunbook) as caught:
        parse_document(f"a: 1\nb:\n  - {text}\n", "f")
    [problem] = caught.value.problems
    assert (problem.line, problem.column, problem.where) == (3, 5, "b[0]")
    assert said in problem.message and "quotes" in problem.hint
    assert parse_scalar(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'12'", "12"),
        ('"12"', "12"),
        ('"a\\tb\\u00e9"', "a\tbé"),
        ("'it''s'", "it's"),
        ('""', ""),
        (" 'x' ", "x"),
        (" 12 ", 12),
        ("  spaced text ", "  spaced text "),
        ("   ", None),
    ],
)
def test_command_line_scalars(text: str, value: Any) -> None:
    assert parse_scalar(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        "{a: b}",
        "a: b",
        "# no comment",
        "x # y",
        "*alias",
        "&anchor",
        "!tag",
        "!!str 1",
        "@x",
        "`x`",
        "%x",
        "- a",
        "? a",
        "|",
        "--- a",
        "'a' or 'b'",
        "'it's'",
        '"open',
        '"a" b',
        '"a": [',
        '"a" # b',
        '"\\d+"',
        '"\\ud800"',
        '"\\0"',
        "'a': b",
        "a\nb: c",
        "\t:",
        "\x1b[2J",
        '"\x00"',
        '"\udc80"',
    ],
)
def test_whatever_is_no_scalar_is_the_text_itself(text: str) -> None:
    assert parse_scalar(text) == text


@pytest.mark.parametrize("start", ["", "'", '"a": ', '"a"\n---\n', '"a" '])
def test_long_nonsense_costs_little(start: str) -> None:
    text = start + "[" * 500_000
    started = time.process_time()
    assert parse_scalar(text) == text
    assert time.process_time() - started < 10


@given(st.text(max_size=30))
def test_text_never_fails(text: str) -> None:
    value = parse_scalar(text)
    assert value is None or isinstance(value, str | int | float | bool)
