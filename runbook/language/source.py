"""The text of an untrusted file: read in bounded time, decoded strictly, and addressed by line and column."""

from __future__ import annotations

import os
import re
import stat
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

from runbook.language.problems import InvalidRunbook, Problem

Where = tuple[str | int, ...]

MAX_BYTES = 1024 * 1024
MAX_PROBLEMS = 100
CARET_LIMIT = 100
SOURCE_WIDTH = 160

_LINE_END = re.compile(r"\r\n|\r|\n")
_UNFIT = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_MARKS = ((b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))
_ZEROES = {b"\0\0\0.": "UTF-32", b".\0\0\0": "UTF-32", b"\0.\0.": "UTF-16", b".\0.\0": "UTF-16"}


class Span(NamedTuple):
    """Where something stands: `line` and `column` count characters from 1, `width` is at least 1, within the line."""

    line: int
    column: int
    width: int


def dotted(where: Where) -> str:
    """`where` as people write it: `steps.load.command[0]`; a key that is long or unprintable is shortened."""
    words = (f"[{part}]" if isinstance(part, int) else f".{brief(part)}" for part in where)
    return "".join(words).removeprefix(".")


def brief(text: str, limit: int = 40) -> str:
    """`text` for a message: on one line, without control characters, at most `limit` characters."""
    shown = showable(" ".join(text[: 4 * limit].split()))
    return shown if len(shown) <= limit and len(text) <= 4 * limit else shown[: limit - 1] + "…"


def showable(text: str) -> str:
    """`text` with a visible character for each one that a terminal would obey; the length stays."""
    return _UNSHOWABLE.sub(lambda match: _picture(ord(match.group())), text)


def _picture(code: int) -> str:
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else "\ufffd"


class Entry(NamedTuple):
    """Where a value stands and, in a mapping, its key, as character indexes (`key_end` 0: there is no key).

    `inner` has the entries of a collection's items; of a scalar that an alias brought here, where that was written. `source` is
    the text that it and all within it stand in, where that is another file's.
    """

    key_start: int
    key_end: int
    start: int
    end: int
    inner: dict[str, Entry] | list[Entry] | tuple[int, int] | None
    source: Source | None = None


class Source:
    """A text, the name that its file has in messages, and the lines in it (LF, CRLF and CR end one)."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(match.end() for match in _LINE_END.finditer(self.text))]

    def position(self, index: int) -> tuple[int, int]:
        """Line and column of the character `index`, both from 1."""
        line = bisect_right(self._starts, index)
        return line, index - self._starts[line - 1] + 1

    def bounds(self, line: int) -> tuple[int, int]:
        """The indexes at which the content of `line` starts and ends, its line end excluded."""
        start = self._starts[line - 1]
        end = self._starts[line] if line < len(self._starts) else len(self.text)
        while end > start and self.text[end - 1] in "\r\n":
            end -= 1
        return start, end

    def span(self, start: int, end: int) -> Span:
        """The part of `start` to `end` on its first line; where nothing is, the last visible character before it."""
        if start >= end or start >= len(self.text):
            start = max(len(self.text[:start].rstrip()) - 1, 0)
            end = start + 1
        line, column = self.position(start)
        first = self.text[start : min(end, self.bounds(line)[1])]
        return Span(line, column, max(len(first.rstrip()), 1))

    def problem(self, span: Span, message: str, hint: str = "", where: Where = ()) -> Problem:
        """What is wrong at `span`, with the line that it stands on.

        In a long line `source` is cut to a part around the span: the caret belongs under character
        `min(column, CARET_LIMIT)` of it.
        """
        start, end = self.bounds(span.line)
        column = max(min(span.column, end - start), 1)
        shift = max(column - CARET_LIMIT, 0)
        line = self.text[start + shift : min(end, start + shift + SOURCE_WIDTH)]
        if shift:
            line = "…" + line[1:]
        if start + shift + SOURCE_WIDTH < end:
            line = line[:-1] + "…"
        width = max(min(span.width, len(line) - (column - shift) + 1), 1)
        return Problem(self.file, span.line, column, dotted(where), message, hint, showable(line), width)

    def refuse(self, start: int, end: int, message: str, hint: str = "") -> InvalidRunbook:
        """The exception for one problem at `start` to `end`."""
        return InvalidRunbook([self.problem(self.span(start, end), message, hint)])


class Files(Protocol):
    """Where loading takes what it reads from."""

    def read(self, path: Path, shown: str) -> bytes:
        """The bytes of the file at `path`. Raises InvalidRunbook, which calls it `shown`."""

    def has(self, path: Path) -> bool:
        """Whether the file is there, as far as can be told."""


class Disk:
    """Files where they stand."""

    def read(self, path: Path, shown: str) -> bytes:
        return read_bytes(path, shown)

    def has(self, path: Path) -> bool:
        return path.is_file()


class Submitted:
    """Files that came along with a text, by absolute path; nothing is looked for on this disk."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self._contents = {os.path.abspath(path): content for path, content in contents.items()}

    def read(self, path: Path, shown: str) -> bytes:
        content = self._contents.get(os.path.abspath(path))
        if content is None:
            raise whole_file(shown, "the file was not submitted")
        return content

    def has(self, path: Path) -> bool:
        """True: scripts of embedded servers do not travel, and are looked for where the server is made."""
        return True


def read_bytes(path: Path, shown: str) -> bytes:
    """The bytes of the regular file `path`, without ever waiting for a pipe, a device or a writer.

    Raises InvalidRunbook if it is missing, unreadable, no regular file or larger than MAX_BYTES.
    """
    try:
        return _read_regular(path, shown)
    except FileNotFoundError:
        raise whole_file(shown, "the file does not exist", "check the path") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise whole_file(shown, f"the file cannot be read: {reason[:1].lower()}{reason[1:]}") from None
    except ValueError as error:
        raise whole_file(shown, f"the file cannot be read: {error}", "check the path") from None


def _read_regular(path: Path, shown: str) -> bytes:
    # Asked before the open as well, which would wake a writer that waits on a pipe.
    _expect_regular(os.stat(path), shown)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with open(descriptor, "rb", buffering=0) as file:
        _expect_regular(os.fstat(descriptor), shown)
        chunks: list[bytes] = []
        room = MAX_BYTES + 1
        while room and (chunk := file.read(room)):
            chunks.append(chunk)
            room -= len(chunk)
    if not room:
        raise _too_large(shown)
    return b"".join(chunks)


def _expect_regular(facts: os.stat_result, shown: str) -> None:
    if not stat.S_ISREG(facts.st_mode):
        kind = next((name for test, name in _KINDS if test(facts.st_mode)), "no regular file")
        raise whole_file(shown, f"this is {kind}, not a file", "name a file")


def _too_large(shown: str) -> InvalidRunbook:
    return whole_file(shown, f"the file is larger than {MAX_BYTES} bytes", "put long texts into files of their own")


def whole_file(shown: str, message: str, hint: str = "") -> InvalidRunbook:
    """The exception for what is wrong with a file as a whole."""
    return InvalidRunbook([Problem(shown, 0, 0, "", message, hint)])


def decode(data: str | bytes, shown: str) -> Source:
    """The text of a file, without its byte order mark.

    Raises InvalidRunbook if it is too large, not UTF-8, or holds control characters other than tab, LF and CR.
    """
    if len(data) > MAX_BYTES:
        raise _too_large(shown)
    text = data if isinstance(data, str) else _decode_utf8(data, shown)
    source = Source(shown, text.removeprefix("\ufeff"))
    if _UNFIT.search(source.text):
        raise InvalidRunbook(islice(_unfit_characters(source), MAX_PROBLEMS))
    return source


def _decode_utf8(data: bytes, shown: str) -> str:
    if encoding := _other_encoding(data):
        raise whole_file(shown, f"the file is {encoding}, not UTF-8", "save it as UTF-8")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        source = Source(shown, data.decode("utf-8", "replace").removeprefix("\ufeff"))
        index = len(data[: error.start].decode("utf-8").removeprefix("\ufeff"))
        message = f"the byte 0x{data[error.start]:02X} is not UTF-8"
        raise source.refuse(index, index + 1, message, "save the file as UTF-8") from None


def _other_encoding(data: bytes) -> str | None:
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    return _ZEROES.get(bytes(0 if byte == 0 else ord(".") for byte in data[:4]))


def _unfit_characters(source: Source) -> Iterator[Problem]:
    for match in _UNFIT.finditer(source.text):
        name, hint = _describe(ord(match.group()))
        message = f"{name} (U+{ord(match.group()):04X}) cannot stand in a file"
        yield source.problem(source.span(match.start(), match.end()), message, hint)


def _describe(code: int) -> tuple[str, str]:
    if 0xD800 <= code <= 0xDFFF:
        return "half of a surrogate pair", "write the whole character"
    if code in (0x2028, 0x2029):
        return "an invisible line separator", f'remove it; inside double quotes it is written "\\u{code:04x}"'
    if code == 0xFEFF:
        return "a byte order mark after the start", "remove it"
    if code == 0 or code >= 0xFFFE:
        return ("a NUL byte" if code == 0 else "a character that means nothing"), "remove it"
    return "a control character", f'remove it; inside double quotes it is written "\\x{code:02x}"'
