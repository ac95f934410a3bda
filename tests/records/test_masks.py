"""No form of a secret leaves, however it is cut."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook.records.masks import Masks, WeakSecret, check_strength

SECRET = 'pa"ss w/örd+1'


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        json.dumps(SECRET)[1:-1],
        quote(SECRET, safe=""),
        *(base64.b64encode(b"x" * n + SECRET.encode()).decode() for n in range(3)),
    ],
)
def test_every_form_is_masked(form: str) -> None:
    masked = Masks([SECRET]).text(f"before {form} after")
    assert masked.startswith("before ")
    assert masked.endswith(" after")
    assert "***" in masked
    assert form not in masked


def test_data_is_masked_in_keys_values_and_numbers() -> None:
    masks = Masks(["123456"])
    assert masks.data({"a123456": [123456, 7, None, True, "x123456y"]}) == {"a***": ["***", 7, None, True, "x***y"]}


def test_lines_of_a_secret_are_masked_each() -> None:
    assert Masks(["first line\nsecond line"]).text("say second line!") == "say ***!"


@given(st.text(max_size=40), st.text(max_size=40), st.lists(st.integers(1, 7), max_size=40))
@settings(max_examples=150, deadline=None)
def test_a_stream_is_masked_wherever_it_is_cut(before: str, after: str, cuts: list[int]) -> None:
    masks = Masks(["canary-42"])
    data = f"{before}canary-42{after}".encode()
    stream, shown, position = masks.stream(), b"", 0
    for cut in [*cuts, len(data)]:
        shown += stream.feed(data[position : position + cut])
        position += cut
    shown += stream.rest()
    assert b"canary-42" not in shown
    assert shown.decode() == f"{before}canary-42{after}".replace("canary-42", "***")


def test_a_stream_holds_nothing_back_that_cannot_begin_a_secret() -> None:
    assert Masks(["canary-42"]).stream().feed(b"progress 1 of 2\n") == b"progress 1 of 2\n"


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(WeakSecret, match="`pin` has 2 characters"):
        check_strength({"pin": "42"})
