"""From YAML's parser events to plain data and the places of everything in it: one pass, no recursion, hard limits."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import yaml

from runbook.language.problems import InvalidRunbook, Problem, did_you_mean
from runbook.language.scalars import UNSENDABLE, UnusableNumber, events, resolve
from runbook.language.source import MAX_PROBLEMS, Entry, Source, Where, brief
from runbook.language.syntax import NO_KEY, NO_TAGS, QUOTE_TEMPLATE, explain

MAX_DEPTH = 64
MAX_NODES = 100_000
MAX_CHARACTERS = 4 * 1024 * 1024
MAX_SCALAR = 256 * 1024
MAX_KEY = 256

_KINDS = {dict: "a mapping", list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}
_PROPERTIES = re.compile(r"(?:[&!]\S*+(?:[ \t\r\n]|#[^\r\n]*)*+)*+")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*+")
_PROLOGUE = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*|(?<![^\r\n])%YAML[^\r\n]*)*+")


class _Anchor(NamedTuple):
    """A finished value that aliases may name, and what it costs: values, characters, levels."""

    value: Any
    inner: dict[str, Entry] | list[Entry] | tuple[int, int] | None
    nodes: int
    characters: int
    height: int


class _Special:
    """A stand-in for a value that is no data."""


_MERGE, _BROKEN = _Special(), _Special()


class _Frame:
    """A collection that is still open; `key` is the key whose value comes next."""

    def __init__(self, data: Any, inner: Any, start: int, anchor: str | None = None) -> None:
        self.data, self.inner, self.start, self.anchor = data, inner, start, anchor
        self.nodes, self.characters, self.height = 0, 0, 1
        self.in_key = False
        self.key: str | None = None
        self.key_start, self.key_end = 0, 0
        self.keep, self.merging = True, False
        self.merge_start: int | None = None
        self.merged: set[str] = set()


def assemble(source: Source) -> tuple[dict[str, Any], Entry]:
    """The data of a YAML text and where all of it stands. Raises InvalidRunbook with every problem there is to find."""
    return _Assembly(source).run()


class _Assembly:
    """The state of one pass."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.text = source.text
        self.problems: list[Problem] = []
        self.stack = [_Frame([], [], 0)]
        self.anchors: dict[str, _Anchor | None] = {}
        self.nodes = 0
        self.characters = 0

    def run(self) -> tuple[dict[str, Any], Entry]:
        self._refuse_directives()
        self._take_events()
        bottom = self.stack[0]
        if not bottom.data or bottom.data[0] is None:
            self._stop(0, 0, "the file is empty", "`runbook new NAME` writes one to start from")
        data, entry = bottom.data[0], bottom.inner[0]
        if not isinstance(data, dict):
            message = f"a runbook is a mapping, and this is {_kind(data)}"
            self._wrong(entry.start, entry.end, message, "write `name: value`, with a space after the colon")
        if self.problems:
            raise InvalidRunbook(self.problems)
        return data, entry

    def _refuse_directives(self) -> None:
        # The scanner compares each %TAG with all before it, all in one step that no limit could end.
        at = _end_of(_PROLOGUE, self.text, 0)
        if self.text.startswith("%", at):
            self._stop(at, len(self.text), "directives have no use in a runbook", "remove this line")

    def _take_events(self) -> None:
        take: dict[type, Callable[[Any], None]] = {
            yaml.ScalarEvent: self._scalar,
            yaml.AliasEvent: self._alias,
            yaml.MappingStartEvent: self._open_mapping,
            yaml.SequenceStartEvent: self._open_list,
            yaml.MappingEndEvent: self._close,
            yaml.SequenceEndEvent: self._close,
            yaml.DocumentEndEvent: self._end,
        }
        last: Any = None
        try:
            for event in events(self.text):
                last = event
                if handler := take.get(type(event)):
                    handler(event)
        except yaml.YAMLError as error:
            span = (last.start_mark.index, last.end_mark.index) if last else (0, 0)
            fault = explain(error, self.text, span)
            problem = self.source.problem(self.source.span(fault.start, fault.end), fault.message, fault.hint)
            if not any((known.line, known.column) == (problem.line, problem.column) for known in self.problems):
                self.problems.append(problem)
            raise InvalidRunbook(self.problems) from None

    # --- events -----------------------------------------------------------------------------------------------

    def _scalar(self, event: Any) -> None:
        start, end, value = event.start_mark.index, event.end_mark.index, event.value
        length = len(value)
        self._count(1, length, start, end)
        if event.tag is not None or event.anchor is not None:
            start = min(self._after_properties(event), end)
        frame = self.stack[-1]
        if event.implicit[0]:
            awaits_key = frame.key is None and type(frame.data) is dict
            value = _MERGE if value == "<<" and awaits_key else self._resolve(value, start, end)
        elif UNSENDABLE.search(value):
            self._wrong(start, end, "this text holds a NUL or half of a surrogate pair", "remove the escape")
        if length > MAX_SCALAR:
            self._wrong(start, end, f"a value of {length} characters", f"at most {MAX_SCALAR}; put it into a file")
        if event.anchor is not None:
            named = event.value if value is _MERGE else value
            self.anchors[event.anchor] = _Anchor(named, (start, end), 1, length, 0)
        self._attach(value, start, end, None, 0)

    def _resolve(self, text: str, start: int, end: int) -> Any:
        try:
            return resolve(text)
        except UnusableNumber as error:
            self._wrong(start, end, str(error), "put quotes around it if it is text")
            return _BROKEN

    def _alias(self, event: Any) -> None:
        start, end, name = event.start_mark.index, event.end_mark.index, event.anchor
        anchor = self.anchors.get(name)
        if anchor is None:
            if name in self.anchors:
                self._wrong(start, end, f"the alias `*{brief(name)}` stands inside what it names", "write the value")
            else:
                few = len(name) <= MAX_KEY and len(self.anchors) <= MAX_KEY
                hint = (few and did_you_mean(name, self.anchors)) or "put quotes around a value that starts with `*`"
                self._wrong(start, end, f"no anchor `&{brief(name)}` stands above this alias", hint)
            anchor = _Anchor(_BROKEN, None, 1, 0, 0)
        self._count(anchor.nodes, anchor.characters, start, end)
        if len(self.stack) - 1 + anchor.height > MAX_DEPTH:
            self._too_deep(start, end)
        self._attach(anchor.value, start, end, anchor.inner, anchor.height)

    def _open_mapping(self, event: Any) -> None:
        self._open(event, _Frame({}, {}, event.start_mark.index, event.anchor))

    def _open_list(self, event: Any) -> None:
        self._open(event, _Frame([], [], event.start_mark.index, event.anchor))

    def _open(self, event: Any, frame: _Frame) -> None:
        parent = self.stack[-1]
        if len(self.stack) > MAX_DEPTH:
            self._too_deep(frame.start, frame.start + 1)
        frame.nodes, frame.characters = self.nodes, self.characters
        self._count(1, 0, frame.start, frame.start + 1)
        if event.tag is not None or event.anchor is not None:
            frame.start = self._after_properties(event)
        frame.in_key = parent.in_key or (parent.key is None and type(parent.data) is dict)
        if frame.anchor is not None:
            self.anchors[frame.anchor] = None
        self.stack.append(frame)

    def _close(self, event: Any) -> None:
        frame = self.stack.pop()
        if frame.anchor is not None:
            cost = self.nodes - frame.nodes, self.characters - frame.characters, frame.height
            self.anchors[frame.anchor] = _Anchor(frame.data, frame.inner, *cost)
        self._attach(frame.data, frame.start, event.end_mark.index, frame.inner, frame.height)

    def _end(self, event: Any) -> None:
        at = _end_of(_BLANK, self.text, event.end_mark.index)
        if at < len(self.text) and (event.explicit or self.text.startswith(("---", "%"), at)):
            hint = "a runbook is one document: remove the line, or split the file"
            self._stop(at, len(self.text), "a second document starts here", hint)

    # --- data -------------------------------------------------------------------------------------------------

    def _attach(self, value: Any, start: int, end: int, inner: Any, height: int) -> None:
        frame = self.stack[-1]
        if height >= frame.height:
            frame.height = height + 1
        if type(frame.data) is list:
            frame.data.append(value)
            frame.inner.append(Entry(0, 0, start, end, inner))
        elif frame.key is None:
            frame.key_start, frame.key_end = start, end
            frame.key, frame.keep, frame.merging = self._key(frame, value, start, end)
        else:
            if frame.merging:
                self._merge(frame, value, start, end, inner)
            elif frame.keep:
                frame.data[frame.key] = value
                frame.inner[frame.key] = Entry(frame.key_start, frame.key_end, start, end, inner)
                frame.merged.discard(frame.key)
            frame.key = None

    def _key(self, frame: _Frame, value: Any, start: int, end: int) -> tuple[str, bool, bool]:
        """The key as text, whether its value is kept, and whether it merges."""
        if value is _MERGE:
            if frame.merge_start is not None:
                self._twice("<<", frame.merge_start, "give one list: `<<: [*a, *b]`")
            frame.merge_start = start
            return "<<", False, True
        if type(value) is str and len(value) <= MAX_KEY:
            if value not in frame.data or value in frame.merged:
                return value, True, False
            self._twice(value, frame.inner[value].key_start, "rename or remove one of the two")
        elif not frame.in_key and value is not _BROKEN:
            self._wrong_key(value, start, end)
        return value if type(value) is str else brief(self.text[start:end]), False, False

    def _twice(self, key: str, first: int, hint: str) -> None:
        frame, line = self.stack[-1], self.source.position(first)[0]
        self._wrong(frame.key_start, frame.key_end, f"`{brief(key)}` is already given on line {line}", hint, (key,))

    def _wrong_key(self, value: Any, start: int, end: int) -> None:
        written = brief(self.text[start:end])
        if type(value) is str:
            self._wrong(start, end, f"a key of {len(value)} characters", f"at most {MAX_KEY}")
        elif "{{" in self.text[max(start - 1, 0) : start + 2]:
            start -= 1 if self.text.startswith("{{", start - 1) else 0
            self._wrong(start, end + 1, "`{{` starts a mapping in YAML, not a template", QUOTE_TEMPLATE)
        elif isinstance(value, dict | list):
            self._wrong(start, end, f"a key must be text, and this is {_kind(value)}", "put quotes around it")
        elif not written:
            self._wrong(start, end, *NO_KEY)
        else:
            message = f"a key must be text, and `{written}` is {_kind(value)}"
            self._wrong(start, end, message, f'write "{written}"', (written,))

    def _merge(self, frame: _Frame, value: Any, start: int, end: int, inner: Any) -> None:
        """Adds the keys of one mapping or several that `frame` does not have; the first to give a key wins."""
        parts: list[tuple[Any, Any]] = [(value, inner)]
        if type(value) is list:
            parts = [(item, entry.inner) for item, entry in zip(value, inner, strict=True)]
        if any(item is _BROKEN for item, _ in parts):
            return
        if not all(type(item) is dict for item, _ in parts):
            self._wrong(start, end, "`<<` takes a mapping or a list of mappings", "name them as `*anchor`")
            return
        for item, entries in parts:
            for key in item:
                if key not in frame.data:
                    frame.data[key], frame.inner[key] = item[key], entries[key]
                    frame.merged.add(key)

    # --- limits and problems ----------------------------------------------------------------------------------

    def _after_properties(self, event: Any) -> int:
        """Where the value of `event` starts, behind its anchor; a tag is a problem."""
        start = int(event.start_mark.index)
        if event.tag is not None:
            at = max(self.text.find("!", start), start)
            tag = re.match(r"!\S*", self.text[at : at + 100])
            self._wrong(at, at + (tag.end() if tag else 1), *NO_TAGS)
        return _end_of(_PROPERTIES, self.text, start)

    def _count(self, nodes: int, characters: int, start: int, end: int) -> None:
        self.nodes += nodes
        self.characters += characters
        if self.nodes > MAX_NODES:
            self._stop(start, end, f"more than {MAX_NODES} values, aliases counted in full", "split the file")
        if self.characters > MAX_CHARACTERS:
            message = f"more than {MAX_CHARACTERS} characters, aliases counted in full"
            self._stop(start, end, message, "use fewer aliases")

    def _too_deep(self, start: int, end: int) -> NoReturn:
        self._stop(start, end, f"more than {MAX_DEPTH} levels of nesting", "use fewer brackets or less indentation")

    def _wrong(self, start: int, end: int, message: str, hint: str, tail: Where = ()) -> None:
        if len(self.problems) == MAX_PROBLEMS - 1:
            message, hint = f"{MAX_PROBLEMS} problems: the rest of the file was not read", "mend these first"
        self.problems.append(self.source.problem(self.source.span(start, end), message, hint, self._where() + tail))
        if len(self.problems) == MAX_PROBLEMS:
            raise InvalidRunbook(self.problems)

    def _stop(self, start: int, end: int, message: str, hint: str) -> NoReturn:
        self._wrong(start, end, message, hint)
        raise InvalidRunbook(self.problems)

    def _where(self) -> Where:
        open_collections = self.stack[1:]
        parts = [len(frame.data) if type(frame.data) is list else frame.key for frame in open_collections]
        return tuple(part for part in parts if part is not None)


def _end_of(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return found.end() if found else start


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "null")
