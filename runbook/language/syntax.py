"""What a person has to change when a text is not YAML: the parser's complaint, read with the text around it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import yaml

from runbook.language.source import brief, showable

NO_TAGS = ("tags have no use in a runbook", "remove the tag, or put quotes around a value that starts with `!`")
NO_SPACE = ("a space is missing after this colon", "write `name: value`")
NO_KEY = ("a key is missing before `:`", "write `name: value`")
QUOTE_TEMPLATE = "put quotes around a value that starts with {{"
QUOTE_WHOLE = "put quotes around the whole value"

# How much of a line is looked at: it bounds the time that a hostile line can cost.
_REACH = 500

_GLUED = re.compile(r"[ ]*(?:- +)*[\w.-]+(:)(?=[^\s:/])")
_TEMPLATE = re.compile(r"(?:^[ ]*|[:-][ ]+)(\{[{%#])")
_TEMPLATE_IN_FLOW = re.compile(r"(?:[\[,{:][ ]*)(\{[{%#])")
_QUOTED = re.compile(r"(?:^|[:,-][ ]|[\[{])[ ]*(?:\"[^\"]*\"|'[^']*')[ ]*$")


class Fault(NamedTuple):
    """What is wrong between two character indexes of the text."""

    start: int
    end: int
    message: str
    hint: str


class Case(NamedTuple):
    """A complaint of the parser: its words, where it stopped, where what it was reading starts, the last thing read."""

    text: str
    says: str
    at: int
    begin: int
    last: tuple[int, int]

    def line_start(self, index: int) -> int:
        """Where the line of `index` starts."""
        return max(self.text.rfind("\n", 0, index), self.text.rfind("\r", 0, index)) + 1

    def line(self, index: int) -> str:
        """The first part of the line of `index`."""
        start = self.line_start(index)
        return re.split(r"[\r\n]", self.text[start : start + _REACH], maxsplit=1)[0]

    def before(self, index: int) -> str:
        """The line of `index` up to there, or the last part of that."""
        return self.text[max(self.line_start(index), index - _REACH) : index]

    def line_number(self, index: int) -> int:
        """The number of the line of `index`, from 1."""
        return 1 + len(re.findall(r"\r\n|\r|\n", self.text[:index]))


def explain(error: yaml.YAMLError, text: str, last: tuple[int, int]) -> Fault:
    """What to tell about `error`, which the parser raised for `text` after an event that spans `last`."""
    case = _case(error, text, last)
    for words, diagnose in _DIAGNOSES:
        if any(word in case.says for word in words) and (fault := diagnose(case)):
            return fault._replace(message=showable(fault.message))
    reason = brief(str(getattr(error, "problem", None) or error), 80)
    return _here(case, f"this is not YAML: {reason}", "look at quotes, colons and indentation, here and above")


def _case(error: yaml.YAMLError, text: str, last: tuple[int, int]) -> Case:
    if isinstance(error, yaml.MarkedYAMLError):
        at = error.problem_mark.index if error.problem_mark else last[1]
        begin = error.context_mark.index if error.context_mark else at
        says = f"{error.context or ''}: {error.problem or ''}"
        return Case(text, says, min(at, len(text)), min(begin, len(text)), last)
    return Case(text, str(error), last[1], last[1], last)


def _here(case: Case, message: str, hint: str) -> Fault:
    return Fault(case.at, case.at + 1, message, hint)


def _there(case: Case, message: str, hint: str) -> Fault:
    return Fault(case.begin, case.begin + 1, message, hint)


def _tab(case: Case) -> Fault | None:
    start = case.line_start(case.at)
    indent = re.compile(r"[ ]*\t").match(case.text, start)
    if not indent and case.text[case.at : case.at + 1] != "\t":
        return None
    at = indent.end() - 1 if indent else case.at
    return Fault(at, at + 1, "a tab, where YAML takes only spaces", "indent with spaces")


def _template(case: Case) -> Fault | None:
    pattern = _TEMPLATE_IN_FLOW if "flow" in case.says else _TEMPLATE
    for index in (case.at, case.begin):
        found = pattern.search(case.line(index))
        if found and not re.search("[\"']", found.string[: found.start(1)]):
            start = case.line_start(index) + found.start(1)
            message = f"`{found.group(1)}` starts a mapping in YAML, not a template"
            return Fault(start, start + 2, message, QUOTE_TEMPLATE)
    return None


def _after_quote(case: Case) -> Fault | None:
    start, end = case.last
    if case.text[start : start + 1] in ('"', "'") and case.text[end : case.at].strip() == "" and case.at >= end:
        first, last = case.line_number(start), case.line_number(end)
        hint = f"close the quote that opens on line {first}" if first < last else _quote_hint(case)
        return _here(case, "there is text after the closing quote", hint)
    for index in (case.at, case.begin):
        if _QUOTED.search(case.before(index)) and case.text[index : index + 1].strip():
            return Fault(index, index + 1, "there is text after the closing quote", _quote_hint(case))
    return None


def _quote_hint(case: Case) -> str:
    if "flow" in case.says:
        return "put a comma before it, or quotes around the whole value"
    return f"{QUOTE_WHOLE}, and use the other kind of quotes inside it"


def _colon(case: Case) -> Fault:
    if ": " in case.text[case.line_start(case.at) : case.at]:
        return _here(case, "`: ` starts another value inside a value without quotes", QUOTE_WHOLE)
    above = case.line_start(case.at) - 1
    glued = _GLUED.match(case.line(above)) if above > 0 else None
    if glued:
        colon = case.line_start(above) + glued.start(1)
        return Fault(colon, colon + 1, *NO_SPACE)
    message = "the line above already gives a value, so there can be no key here"
    return _here(case, message, "check the indentation; text of several lines goes below a `|`")


def _simple_key(case: Case) -> Fault:
    glued = _GLUED.match(case.line(case.begin))
    if glued:
        colon = case.line_start(case.begin) + glued.start(1)
        return Fault(colon, colon + 1, *NO_SPACE)
    hint = "write `name: value`, or indent the line if it belongs to the value above"
    return Fault(case.begin, case.begin + len(case.line(case.begin).strip()), "a key without a colon", hint)


def _glued(case: Case) -> Fault:
    return _here(case, *NO_SPACE)


def _open_quote(case: Case) -> Fault:
    quote = case.text[case.begin : case.begin + 1]
    twice = "; an apostrophe between single quotes is written ''" if quote == "'" else ""
    return _there(case, "this quote is never closed", f"add the closing {quote}{twice}")


def _escape(case: Case) -> Fault:
    start = max(case.text.rfind("\\", case.begin, case.at + 2), case.begin)
    written = case.text[start : start + 2].strip()
    message = f"`{written}` is no escape that double quotes know"
    return Fault(start, start + len(written), message, "write \\\\ for a backslash, or use single quotes")


def _flow(case: Case) -> Fault:
    kind, opening, closing = ("list", "[", "]") if "sequence" in case.says else ("mapping", "{", "}")
    if case.line_start(case.at) == case.line_start(case.begin) and case.text[case.at :].strip():
        return _here(case, f"a `,` or `{closing}` is missing before this", QUOTE_WHOLE)
    hint = f"add `{closing}`, or a comma that is missing between two items"
    return _there(case, f"this `{opening}` starts a {kind} that is not closed", hint)


def _no_token(case: Case) -> Fault:
    return _here(case, f"a value cannot start with {case.text[case.at : case.at + 1]}", QUOTE_WHOLE)


def _name(case: Case) -> Fault:
    mark = case.text[case.begin : case.begin + 1]
    return _there(case, f"a value cannot start with {mark}, which marks an alias or an anchor", QUOTE_WHOLE)


def _block_header(case: Case) -> Fault:
    mark = case.text[case.begin : case.begin + 1]
    message = f"after `{mark}` only `+`, `-` or a number from 1 to 9 may follow on this line"
    return _here(case, message, "start the text on the next line, indented")


def _list_here(case: Case) -> Fault:
    return _here(case, "a list cannot start here", "put each `- item` on a line of its own, below the key")


def _key_here(case: Case) -> Fault:
    return _here(case, "`? ` starts a key in YAML, and none can stand here", QUOTE_WHOLE)


def _node(case: Case) -> Fault:
    found = case.text[case.at : case.at + 1].strip()
    if not found:
        return _here(case, "the file ends inside a `[` or a `{`", "close it")
    if found == ":":
        return _here(case, *NO_KEY)
    return _here(case, f"a value is missing before `{found}`", "write the value, or remove the character")


def _entry(case: Case) -> Fault:
    found = case.text[case.at : case.at + 1]
    if found and found in "]}":
        return _here(case, f"`{found}` without its opening", "remove it, or put quotes around the whole value")
    if found == ":":
        return _here(case, *NO_KEY)
    if case.before(case.at).strip(" "):
        return _here(case, "unexpected text", QUOTE_WHOLE)
    first = case.begin if case.begin != case.at else 0
    if "collection" in case.says and case.at - case.line_start(case.at) == first - case.line_start(first):
        hint = "start the item with `- `, or check the indentation"
        return _here(case, "a key stands among the items of a list", hint)
    if found == "-":
        return _here(case, "a list item fits nothing above it", "check the indentation")
    hint = f"begin in the column in which line {case.line_number(first)} begins, or indent deeper"
    return _here(case, "the indentation fits no line above", hint)


def _tag(case: Case) -> Fault:
    return _there(case, *NO_TAGS)


def _directive(case: Case) -> Fault:
    return _there(case, "directives have no use in a runbook", "remove this line")


_ENTRY = ("did not find expected key", "did not find expected '-'", "expected <block end>", "document start>")

_DIAGNOSES: tuple[tuple[tuple[str, ...], Callable[[Case], Fault | None]], ...] = (
    (("scanning a quoted scalar: found unexpected", "-quoted scalar: found unexpected"), _open_quote),
    (("quoted scalar",), _escape),
    (("cannot start any token", "tab character"), _tab),
    (("",), _template),
    ((*_ENTRY, "block scalar", "mapping values", "flow sequence", "flow mapping"), _after_quote),
    (("mapping values are not allowed",), _colon),
    (("scanning a simple key",), _simple_key),
    (("found unexpected ':'",), _glued),
    (("parsing a flow sequence", "parsing a flow mapping"), _flow),
    (("cannot start any token",), _no_token),
    (("scanning an alias", "scanning an anchor"), _name),
    (("a tag", "tag handle"), _tag),
    (("scanning a block scalar",), _block_header),
    (("sequence entries are not allowed",), _list_here),
    (("mapping keys are not allowed",), _key_here),
    (("node content",), _node),
    (("directive", "incompatible YAML document"), _directive),
    (_ENTRY, _entry),
)
