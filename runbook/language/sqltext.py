"""SQL as text: where its literals, quoted names and comments lie, its statements, and the columns a query gives.

This is the lexical surface of PostgreSQL only (manual, chapter 4.1); meaning is the server's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = re.compile(
    r"""
      (?P<comment>--[^\n\r]*|/\*)
    | (?P<string>[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)|(?:\b[bBxXnN]|\b[uU]&)?'(?:[^']|'')*(?:'|\Z))
    | (?P<quoted>(?:\b[uU]&)?"(?:[^"]|"")*(?:"|\Z))
    | (?P<dollar>(?<![\w$])\$(?:[^\W\d]\w*)?\$)
    | (?P<argument>\$\d+)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<number>\d[\w.]*)
    | (?P<space>\s+)
    | (?P<sign>::|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BLOCK = re.compile(r"/\*|\*/")


class Token(NamedTuple):
    """A lexical piece: `kind` is comment, string, quoted, dollar, argument, word, number, space or sign."""

    kind: str
    start: int
    end: int
    text: str


def tokens(sql: str) -> Iterator[Token]:
    """Every piece of `sql`, in order and without gaps."""
    position = 0
    while position < len(sql):
        match = _TOKEN.match(sql, position)
        assert match is not None
        kind, end = str(match.lastgroup), match.end()
        if kind == "comment" and match.group() == "/*":
            end = _block_comment_end(sql, end)
        elif kind == "dollar":
            closing = sql.find(match.group(), end)
            end = len(sql) if closing < 0 else closing + len(match.group())
        yield Token(kind, position, end, sql[position:end])
        position = end


def _block_comment_end(sql: str, position: int) -> int:
    depth = 1
    for match in _BLOCK.finditer(sql, position):
        depth += 1 if match.group() == "/*" else -1
        if depth == 0:
            return match.end()
    return len(sql)


def statements(sql: str) -> list[tuple[int, int]]:
    """Start and end of each statement, without the semicolons; empty ones are left out."""
    found: list[tuple[int, int]] = []
    first, last, body, previous = -1, 0, 0, ""
    for token in tokens(sql):
        if token.kind in ("space", "comment"):
            continue
        word = token.text.lower() if token.kind == "word" else token.text
        if previous == "begin" and word == "atomic":
            body = 1
        elif body:
            body += {"case": 1, "end": -1}.get(word, 0)
        previous = word
        if token.kind == "sign" and word == ";" and not body:
            if first >= 0:
                found.append((first, last))
            first = -1
        else:
            first = token.start if first < 0 else first
            last = token.end
    if first >= 0:
        found.append((first, last))
    return found


def query_columns(sql: str) -> list[str] | None:
    """Names of the columns that a SELECT gives, or None where the text alone does not tell."""
    code = [token for token in tokens(sql) if token.kind not in ("space", "comment")]
    items = _select_list(code)
    if items is None:
        return None
    names = [_column_name(item) for item in items]
    return [name for name in names if name is not None] if all(names) else None


_AFTER_LIST = {
    *("from", "where", "group", "having", "order", "limit", "offset", "fetch", "for"),
    *("union", "intersect", "except", "window", "into"),
}


def _select_list(code: list[Token]) -> list[list[Token]] | None:
    depth, seen = 0, False
    items: list[list[Token]] = [[]]
    for token in code:
        word = token.text.lower()
        if not seen:
            depth += {"(": 1, ")": -1}.get(word, 0)
            if depth == 0 and word == "select":
                seen = True
            elif depth == 0 and token is code[0] and word != "with":
                return None
            continue
        if depth == 0 and (word in _AFTER_LIST or word == ";"):
            break
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(word, 0)
        if depth == 0 and word == ",":
            items.append([])
        else:
            items[-1].append(token)
    return items if seen and items[0] and items[0][0].text.lower() not in ("distinct", "all") else None


def _column_name(item: list[Token]) -> str | None:
    if not item or item[-1].kind not in ("word", "quoted"):
        return _function_name(item)
    last = item[-1]
    if len(item) == 1 or item[-2].text == ".":
        plain = all(token.kind in ("word", "quoted") or token.text == "." for token in item)
        return _folded(last) if plain else None
    if item[-2].text.lower() == "as":
        return _folded(last)
    return None


def _function_name(item: list[Token]) -> str | None:
    if len(item) < 3 or item[0].kind != "word" or item[1].text != "(":
        return None
    depth = 0
    for index, token in enumerate(item[1:], 1):
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth == 0:
            rest = item[index + 1 :]
            return _folded(item[0]) if not rest or rest[0].text.lower() in ("filter", "over") else None
    return None


def _folded(token: Token) -> str:
    return token.text[1:-1].replace('""', '"') if token.kind == "quoted" else token.text.lower()
