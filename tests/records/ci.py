"""What the tests of CI output share: records made of events, and readers as strict as the ones of CI systems."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

from runbook.engine.judge import EXIT_CODES
from runbook.engine.record import Event, Record, fold

SUITE = {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname"}
CASE = {"name", "classname", "time", "file", "line"}
HOLDS: dict[str, Any] = {
    "verdict": "passed",
    "result": 1,
    "because": "",
    "message": None,
    "duration": 0.25,
    "attempts": 1,
}
MISSES: dict[str, Any] = {
    **HOLDS,
    "verdict": "refuted",
    "because": "result > 5   where result = 1",
    "message": "too few",
}
ENDED: dict[str, Any] = {"verdict": "passed", "because": "", "exit_code": 0, "rowcount": None, "duration": 1.5}
PREDICTED: dict[str, Any] = {"of": "delta", "predicted": 3, "tolerance": "5%", "severity": "error", "because": ""}


def check(line: int, expect: Any = "result > 5", **given: Any) -> dict[str, Any]:
    """A check as it is declared."""
    blank = {"expect": expect, "severity": "error", "description": "", "section": "", "remedy": "", "line": line}
    return {**blank, **given}


def opened(run: Mapping[str, Any] | None = None, params: Any = None, **declared: Any) -> tuple[str, dict[str, Any]]:
    known = {"id": "r1", "runbook": "small", "title": "Small", "hypothesis": "", "operator": "Ada", "host": "here"}
    around = {"file": "small.yaml", "warnings": []}
    sections = {"preflight": {}, "postconditions": {}, "steps": {}, "expectations": {}, "step_expectations": {}}
    return "run.opened", {
        "run": {**known, "started_at": "2025-12-10T15:35:22.417+01:00", "strict": False, **(run or {})},
        "params": params or {},
        "circumstances": around,
        "labels": {},
        "journal": "journal.jsonl",
        "declared": {**sections, **declared},
    }


def judged(name: str, section: str = "preflight", **facts: Any) -> tuple[str, dict[str, Any]]:
    return "check.judged", {"section": section, "name": name, **HOLDS, **facts}


def measured_after() -> tuple[str, dict[str, Any]]:
    return "snapshot.measured", {"which": "after", "state": {"items": {"n": 4}}, "errors": {}}


def ran(name: str, tail: str = "", stage: str = "steps", **facts: Any) -> list[tuple[str, dict[str, Any]]]:
    """A step that was started and ended."""
    ended = {**ENDED, **facts}
    attempt = {"attempt": 1, "duration": 1.5, "exit_code": ended["exit_code"], "because": ended["because"]}
    return [
        ("step.started", {"step": name, "stage": stage, "attempt": 1, "what": "do it"}),
        ("step.ended", {"step": name, "stage": stage, **attempt, "tail": tail}),
        ("step.judged", {"step": name, "stage": stage, "message": None, "attempts": 1, **ended}),
    ]


def finished(verdict: str, because: str = "") -> tuple[str, dict[str, Any]]:
    ending = {"verdict": verdict, "exit_code": EXIT_CODES[verdict], "because": because}
    return "run.finished", {**ending, "finished_at": "2025-12-10T14:35:32Z", "duration": 10.5}


def record(*events: tuple[str, dict[str, Any]]) -> Record:
    return fold(Event(seq, "2025-12-10T14:35:22Z", kind, data) for seq, (kind, data) in enumerate(events, 1))


class Case(NamedTuple):
    """A test case as a reader sees it: passed, failure, error or skipped."""

    status: str
    type: str
    message: str
    text: str
    output: str
    file: str
    line: int
    time: float


class Suite(NamedTuple):
    """A suite as a reader sees it; cases by `classname.name`."""

    attributes: dict[str, str]
    properties: dict[str, str]
    cases: dict[str, Case]
    output: str

    @property
    def statuses(self) -> dict[str, str]:
        return {name: case.status for name, case in self.cases.items()}

    @property
    def red(self) -> bool:
        return any(case.status in ("failure", "error") for case in self.cases.values())


def read_junit(data: bytes) -> Suite:
    """The one suite of a file, read as Jenkins' schema has it: its elements, attributes and types, and sums that add up."""
    root = ET.fromstring(data)
    assert root.tag == "testsuites" and set(root.attrib) <= {"name", "time", "tests", "failures", "errors"}
    [suite] = root
    assert suite.tag == "testsuite" and {"name", "tests", "failures", "errors"} <= set(suite.attrib) <= SUITE
    assert re.fullmatch(r"\d+\.\d{3}", suite.attrib["time"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp", "2025-12-10T00:00:00"))
    assert [child.tag for child in suite if child.tag != "testcase"] in (["properties"], ["properties", "system-out"])
    assert {child.tag for child in suite[0]} == {"property"}
    cases = {f"{case.attrib['classname']}.{case.attrib['name']}": _case(case) for case in suite.iter("testcase")}
    assert len(cases) == len(suite.findall("testcase")) > 0
    for name, status in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        count = sum(case.status == status for case in cases.values())
        assert int(suite.attrib[name]) == count and int(root.get(name, count)) == count
    assert int(suite.attrib["tests"]) == int(root.attrib["tests"]) == len(cases)
    properties = {item.attrib["name"]: item.attrib["value"] for item in suite[0]}
    return Suite(dict(suite.attrib), properties, cases, suite.findtext("system-out", ""))


def _case(case: ET.Element) -> Case:
    assert {"name", "classname", "time"} <= set(case.attrib) <= CASE
    tags = [child.tag for child in case]
    verdicts = [tag for tag in tags if tag != "system-out"]
    assert len(verdicts) <= 1 and tags == verdicts + ["system-out"] * (len(tags) - len(verdicts)) and len(tags) <= 2
    status, told = (verdicts[0], case[0]) if verdicts else ("passed", None)
    assert status in ("passed", "failure", "error", "skipped")
    assert told is None or set(told.attrib) == {"type", "message"}
    place = case.get("file", ""), int(case.get("line", 0)), float(case.attrib["time"])
    type_, message = (told.attrib["type"], told.attrib["message"]) if told is not None else ("", "")
    return Case(
        status, type_, message, (told.text if told is not None else "") or "", case.findtext("system-out", ""), *place
    )


class Told(NamedTuple):
    """A workflow command as GitHub took it."""

    name: str
    properties: dict[str, str]
    message: str

    @property
    def place(self) -> tuple[str, str, str]:
        """The level, the file and the line."""
        return self.name, self.properties.get("file", ""), self.properties.get("line", "")


COMMANDS = {
    "error",
    "warning",
    "notice",
    "debug",
    "group",
    "endgroup",
    "add-mask",
    "set-output",
    "stop-commands",
    "echo",
}


def github(*streams: str) -> list[Told]:
    """The commands that GitHub's runner takes from what a process prints, in both its syntaxes, less stopping and going on."""
    found: list[Told] = []
    token = ""
    for line in (line for stream in streams for line in re.split(r"\r\n|\n|\r", stream)):
        told = _command(line)
        if token:
            token = "" if line.strip() == f"::{token}::" else token
        elif told is not None and told.name == "stop-commands":
            token = told.message
        elif told is not None:
            found.append(told)
    assert not token, "commands stay stopped"
    return found


def _command(line: str) -> Told | None:
    given = re.match(r"\s*::([a-z-]+)(?: (.*?))?::(.*)$", line, re.DOTALL)
    if given and given[1] in COMMANDS:
        pairs = dict(pair.split("=", 1) for pair in (given[2] or "").split(",") if "=" in pair)
        return Told(given[1], {key: _plain(value, ":,") for key, value in pairs.items()}, _plain(given[3]))
    older = re.search(r"##\[([a-z-]+)(?: [^]]*)?\](.*)$", line)
    return Told(older[1], {}, older[2]) if older and older[1] in COMMANDS else None


def _plain(text: str, more: str = "") -> str:
    for char in f"\r\n{more}%":
        text = text.replace(f"%{ord(char):02X}", char)
    return text
