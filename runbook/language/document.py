"""A YAML file as plain data that remembers where everything was written."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from runbook.language.locate import index_of
from runbook.language.problems import Problem
from runbook.language.source import Disk, Entry, Files, Source, Span, Where, decode, dotted, whole_file

__all__ = ["Document", "Span", "Where", "dotted", "parse_document", "parse_scalar", "read_document", "read_text"]

_WORD = re.compile(r"\w+")


class Document(NamedTuple):
    """The data of one file (dict, list, str, int, float, bool, None) and the places of all of it.

    Where a path leads nowhere, its nearest ancestor stands in. Aliases share what they name: never change the data.
    """

    source: Source
    data: Any
    sha256: str
    root: Entry

    @property
    def file(self) -> str:
        """The path as the user typed it."""
        return self.source.file

    @property
    def text(self) -> str:
        """The text of the file, without a byte order mark."""
        return self.source.text

    def key_span(self, where: Where) -> Span:
        """The key at `where`; of a list's item and of the whole, the value."""
        entry, _, _, source = self._walk(where)
        return _key(entry, source) or source.span(entry.start, entry.end)

    def value_span(self, where: Where) -> Span:
        """The value at `where`, its first line; the key where the value is empty. An alias is a value of its own."""
        entry, _, found, source = self._walk(where)
        key = _key(entry, source) if not found or entry.start >= entry.end else None
        return key or source.span(entry.start, entry.end)

    def locate(self, where: Where, offset: int) -> tuple[int, int]:
        """Line and column, from 1, of character `offset` of the string at `where`, also through an alias."""
        entry, value, found, source = self._walk(where)
        if not found or not isinstance(value, str):
            return self.value_span(where)[:2]
        if value is self.text:
            return source.position(max(0, min(offset, len(value))))
        start, end = entry.inner if isinstance(entry.inner, tuple) else (entry.start, entry.end)
        return source.position(index_of(source.text, start, end, value, offset))

    def problem(
        self,
        where: Where,
        message: str,
        hint: str = "",
        *,
        at: Literal["value", "key"] = "value",
        offset: int | None = None,
        width: int | None = None,
    ) -> Problem:
        """What is wrong at `where`, or at character `offset` of the string there.

        `width` characters are underlined: by default the key, the value, or the word at `offset`.
        """
        source = self.source_of(where)
        if offset is not None:
            line, column = self.locate(where, offset)
            span = Span(line, column, _word(source, line, column))
        else:
            span = self.key_span(where) if at == "key" else self.value_span(where)
        return source.problem(span if width is None else span._replace(width=width), message, hint, where)

    def source_of(self, where: Where) -> Source:
        """The text in which `where` stands: another one's where it was included from there."""
        return self._walk(where)[3]

    def own_line(self, where: Where) -> int:
        """The line of the key at `where`, from 1; 0 where it stands in another file."""
        return self.key_span(where).line if self.source_of(where) is self.source else 0

    def _walk(self, where: Where) -> tuple[Entry, Any, bool, Source]:
        """The entry and the value at `where`, or of the nearest ancestor and False; and the text in which it stands."""
        entry, value, source = self.root, self.data, self.source
        for part in where:
            child = _child(entry, part)
            if child is None:
                return entry, value, False, source
            entry, value, source = child, value[part], child.source or source
        return entry, value, True, source


def _key(entry: Entry, source: Source) -> Span | None:
    return source.span(entry.key_start, entry.key_end) if entry.key_end else None


def _word(source: Source, line: int, column: int) -> int:
    start, end = source.bounds(line)
    word = _WORD.match(source.text, start + column - 1, end)
    return len(word.group()) if word else 1


def _child(entry: Entry, part: str | int) -> Entry | None:
    inner = entry.inner
    if isinstance(part, str):
        return inner.get(part) if isinstance(inner, dict) else None
    return inner[part] if isinstance(inner, list) and 0 <= part < len(inner) else None


def read_document(path: Path, shown: str | None = None, files: Files | None = None) -> Document:
    """The runbook in the file `path`, which messages call `shown`. Raises InvalidRunbook with every problem of it."""
    name = str(path) if shown is None else shown
    return parse_document((files or Disk()).read(path, name), name)


def parse_document(text: str | bytes, shown: str) -> Document:
    """The runbook in a YAML text that is called `shown` in messages. Raises InvalidRunbook with every problem of it."""
    from runbook.language.assemble import assemble

    try:
        source = decode(text, shown)
        data, root = assemble(source)
    except MemoryError:
        raise whole_file(shown, "the file needs more memory than there is", "split the file") from None
    return Document(source, data, _sha256(text), root)


def read_text(path: Path, shown: str | None = None, files: Files | None = None) -> Document:
    """A file of SQL or the like as a document whose data is the text. Raises InvalidRunbook if it is no UTF-8 text."""
    name = str(path) if shown is None else shown
    raw = (files or Disk()).read(path, name)
    source = decode(raw, name)
    return Document(source, source.text, _sha256(raw), Entry(0, 0, 0, len(source.text), None))


def parse_scalar(text: str) -> Any:
    """One YAML 1.2 scalar, quoted or plain, as for `-p NAME=VALUE`; text that is no scalar is itself."""
    from runbook.language.scalars import parse_scalar

    return parse_scalar(text)


def _sha256(text: str | bytes) -> str:
    raw = text.encode("utf-8") if isinstance(text, str) else text
    return hashlib.sha256(raw).hexdigest()
