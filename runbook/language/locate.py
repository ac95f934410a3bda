"""From a character of a string value to the character of the file that it was written as."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

_SPACE = " \t\r\n"
_LINE_END = re.compile(r"\r\n|\r|\n")
_DOUBLE = re.compile(r"\\(?:x.{2}|u.{4}|U.{8}|.)|.", re.DOTALL)
_SINGLE = re.compile(r"''|.", re.DOTALL)
_PLAIN = re.compile(r".", re.DOTALL)
_WHITE_ESCAPES = frozenset(("\\n", "\\t", "\\r", "\\ ", "\\\t", "\\\n", "\\\r"))


def index_of(text: str, start: int, end: int, value: str, offset: int) -> int:
    """The index in `text` of character `offset` of `value`, which the scalar from `start` to `end` stands for.

    Exact for every style but where white space was folded: there it is the right run of white space.
    """
    offset = max(0, min(offset, len(value)))
    style = text[start : start + 1]
    if style == "|":
        return _in_literal(text, start, value, offset)
    if style == '"':
        return _by_words(_tokens(_DOUBLE, text, start + 1, end - 1), value, offset, start + 1)
    if style == "'":
        return _by_words(_tokens(_SINGLE, text, start + 1, end - 1), value, offset, start + 1)
    if style == ">":
        header = _LINE_END.search(text, start, end)
        start = header.end() if header else end
    return _by_words(_tokens(_PLAIN, text, start, end), value, offset, start)


def _in_literal(text: str, start: int, value: str, offset: int) -> int:
    """A line of a literal block ends as the line of its value does, so only its indentation has to be added."""
    offset = min(offset, len(value.rstrip("\n")))
    row, row_start = value.count("\n", 0, offset), value.rfind("\n", 0, offset) + 1
    row_end = value.find("\n", offset)
    length = (len(value) if row_end < 0 else row_end) - row_start
    ends = list(islice(_LINE_END.finditer(text, start), row, row + 2))
    if not ends:
        return start
    line_end = ends[1].start() if len(ends) > 1 else len(text)
    return line_end - length + offset - row_start


def _tokens(pattern: re.Pattern[str], text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The bounds of what stands for each character that is not white space."""
    for match in pattern.finditer(text, start, end):
        token = match.group()
        if token not in _SPACE and not _is_white_escape(token):
            yield match.span()


def _is_white_escape(token: str) -> bool:
    mark, digits = token[:2], token[2:]
    if mark in ("\\x", "\\u", "\\U"):
        return chr(int(digits, 16)) in _SPACE
    return token in _WHITE_ESCAPES


def _by_words(tokens: Iterator[tuple[int, int]], value: str, offset: int, start: int) -> int:
    """Folding touches nothing but white space, so the n-th other character is the n-th in the file too."""
    words = value[:offset].rstrip(_SPACE)
    count = len(words) - sum(words.count(character) for character in _SPACE)
    before = next(islice(tokens, count - 1, None), (start, start)) if count else (start, start)
    after = next(tokens, None)
    if after and value[offset : offset + 1] not in ("", *_SPACE):
        return after[0]
    return before[1] + offset - len(words)
