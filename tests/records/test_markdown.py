"""Values are inert in markdown: what a renderer makes of them is text."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from runbook.records.markdown import block, code, plain, table, visible

ATTACKS = [
    "# heading",
    "| cell | cell |",
    "a\\|b",
    "``` fence",
    "`tick` ``two``",
    "<script>alert(1)</script>",
    "![x](http://e.example/i.png)",
    "[x](javascript:alert(1))",
    "https://e.example/beacon",
    "www.e.example",
    "- item\n# heading",
    "> quote",
    "1. one",
    "**bold** _it_ ~~no~~",
    "&lt;b&gt;",
    "===",
    "\x1b[31mred\x1b[0m",
    "\u202edcba",
    "\u2028# heading",
]
INERT = {"paragraph_open", "paragraph_close", "inline", "text", "code_inline", "text_special", "softbreak"}
TABLE = {f"{name}_{end}" for name in ("table", "thead", "tbody", "tr", "th", "td") for end in ("open", "close")}


def kinds(markdown: str) -> set[str]:
    parser = MarkdownIt("gfm-like", {"linkify": False}).enable("table")
    tokens = parser.parse(markdown)
    return {token.type for token in tokens} | {child.type for token in tokens for child in token.children or []}


@pytest.mark.parametrize("text", ATTACKS)
def test_plain_text_stays_text(text: str) -> None:
    assert kinds(f"{plain(text)}\n") <= INERT


@pytest.mark.parametrize("text", ATTACKS)
def test_a_cell_stays_one_cell(text: str) -> None:
    rendered = "\n".join(table(("a", "b"), [(code(text, cell=True), "end")]))
    assert kinds(rendered) <= INERT | TABLE
    assert MarkdownIt("gfm-like", {"linkify": False}).render(rendered).count("<td>") == 2


@pytest.mark.parametrize("text", ATTACKS)
def test_a_block_is_closed_by_nothing_in_it(text: str) -> None:
    assert kinds("\n".join(block(f"before\n{text}\nafter"))) == {"fence"}


def test_control_and_bidirectional_characters_are_written_out() -> None:
    assert visible("a\x1b[2J\u202eb\n") == "a\\x1b[2J\\u202eb\\n"
