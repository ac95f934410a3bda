"""A run as JUnit XML: one suite, one test case for every check, expectation and step.

| outcome | in the file |
|---|---|
| passed | a test case that passed, its values in `system-out` |
| refuted, and a step that failed | `failure` |
| unknown, and a step whose outcome is not known | `error` |
| a miss that does not decide: a warning without --strict, a check that somebody went past | `skipped`, `type="warning"` |
| skipped, not started, not measured | `skipped`, with the reason |
| a check without `expect` | no test case: the property `measured` counts them, the suite's `system-out` names them |
| the run itself | a test case `run` where nothing above tells its end: an `error`, or a warning if nothing was verified |

So a run that did not pass is never a green suite, and a suite is never empty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from runbook.engine.record import Record
from runbook.language.values import as_text
from runbook.records.markdown import visible
from runbook.records.outcomes import Outcome, began, counted, outcomes, tally, verdict_of

MAX_OUTPUT = 16 * 1024  # characters of what a step printed last
MAX_VALUE = 1000  # characters of an attribute
_NO_XML = re.compile("[\ufffe\uffff]")


def junit(record: Record, shown: Callable[[str], str]) -> bytes:
    """The XML of a run, or of one that did not begin; `shown` is how a file is named."""
    root = Element("testsuites")
    _suite(root, record, shown)
    root.attrib = {"name": "runbook", **{key: root[0].attrib[key] for key in ("tests", "failures", "errors", "time")}}
    indent(root)
    written: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def junit_of_cases(suites: Mapping[str, Sequence[Outcome]], shown: Callable[[str], str]) -> bytes:
    """The XML of what `runbook test` found: a suite for each runbook, a test case for each of its cases."""
    root = Element("testsuites", {"name": "runbook test"})
    for name, cases in suites.items():
        counts, seconds = tally(list(cases)), sum(item.seconds for item in cases)
        known = {"failures": counts["failure"], "errors": counts["error"], "skipped": counts["skipped"]}
        head = {"name": _attribute(name), "tests": str(len(cases)), "time": _seconds(seconds)}
        suite = SubElement(root, "testsuite", head | {key: str(count) for key, count in known.items()})
        for item in cases:
            _case(suite, name, item, shown(item.file) if item.file else "")
    indent(root)
    written: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def _suite(root: Element, record: Record, shown: Callable[[str], str]) -> None:
    found, name = outcomes(record), record["run"]["runbook"] or "runbook"
    cases = [item for item in found if item.kind != "measured"] if began(record) else [_refused(found, shown)]
    suite = SubElement(root, "testsuite", {"name": _attribute(name), **_head(record, cases)})
    properties = SubElement(suite, "properties")
    for key, value in _properties(record, found, shown):
        SubElement(properties, "property", {"name": _attribute(key), "value": _attribute(as_text(value))})
    for item in cases:
        file = item.file or record["circumstances"].get("file", "")
        _case(suite, name, item, shown(file) if file else "")
    measured = [f"{item.shown}\n{item.facts}" for item in found if item.kind == "measured"]
    if measured:
        SubElement(suite, "system-out").text = _text("\n\n".join(["measured only, nothing was expected:", *measured]))


def _head(record: Record, cases: list[Outcome]) -> dict[str, str]:
    run, counts = record["run"], tally(cases)
    known = {
        "tests": str(len(cases)),
        "failures": str(counts["failure"]),
        "errors": str(counts["error"]),
        "skipped": str(counts["skipped"] + counts["warning"]),
        "time": _seconds(run["duration"]),
        "timestamp": _timestamp(run["started_at"]),
        "hostname": _attribute(run.get("host", "")),
    }
    return {key: value for key, value in known.items() if value}


def _refused(found: list[Outcome], shown: Callable[[str], str]) -> Outcome:
    """All problems as one: none of them was a test, and the run is what did not happen."""
    lines = [f"{_place(item, shown)}{item.because}" for item in found]
    first = found[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return first._replace(because=f"{first.verdict}: {first.because}{more}", facts="\n".join(lines))


def _place(item: Outcome, shown: Callable[[str], str]) -> str:
    file = f"{shown(item.file)}:" if item.file else ""
    return f"{file}{item.line}:{item.column}: " if item.line else f"{file} " if file else ""


def _properties(record: Record, found: list[Outcome], shown: Callable[[str], str]) -> Iterator[tuple[str, Any]]:
    run, counts = record["run"], tally(found)
    yield "run", run["id"]
    yield "verdict", verdict_of(record) if began(record) else run["verdict"] or "none"
    yield "exit_code", run["exit_code"]
    yield "because", run.get("because", "")
    yield "file", shown(record["circumstances"].get("file") or run["runbook"])
    if not began(record):
        return
    yield "summary", counted(found)
    yield from ((kind, counts[kind]) for kind in ("verified", "measured", "warning"))
    yield "operator", run["operator"] or ""
    yield "report", record["report"] or ""
    yield "journal", record["journal"] or ""
    yield from ((f"param.{name}", value) for name, value in record["params"].items())


def _case(suite: Element, runbook: str, item: Outcome, file: str) -> None:
    names = {"classname": f"{runbook}.{item.section}" if item.section else runbook, "name": item.name}
    place = {"file": file, "line": str(item.line or "")}
    given = {key: _attribute(value) for key, value in {**names, **place}.items() if value}
    case = SubElement(suite, "testcase", {**given, "time": _seconds(item.seconds)})
    printed = [item.facts] if item.kind == "passed" else []
    if item.kind in ("failure", "error"):
        _told(case, item.kind, item.verdict, item.because).text = _text(f"{item.because}\n{item.facts}".strip())
    elif item.kind == "warning":
        _told(case, "skipped", "warning", f"warning: {item.verdict}: {item.because}")
        printed = [item.because, item.facts]
    elif item.kind == "skipped":
        _told(case, "skipped", item.verdict, item.because)
    told = "\n".join(part for part in (*printed, item.output[-MAX_OUTPUT:]) if part)
    if told:
        SubElement(case, "system-out").text = _text(told)


def _told(case: Element, tag: str, kind: str, message: str) -> Element:
    return SubElement(case, tag, {"type": _attribute(kind), "message": _attribute(message)})


def _seconds(value: Any) -> str:
    return f"{float(value or 0):.3f}"


def _timestamp(moment: str | None) -> str:
    """ISO 8601 in UTC, to the second and without an offset, which is what readers of the format expect."""
    return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%dT%H:%M:%S}" if moment else ""


def _text(text: str) -> str:
    """`text` with what XML 1.0 cannot hold, and what would show it as something else, written out."""
    return _NO_XML.sub(lambda match: f"\\u{ord(match[0]):04x}", visible(text, keep="\n\t"))


def _attribute(value: str) -> str:
    text = _text(value)
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}…"
