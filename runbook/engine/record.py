"""The record of one run, folded from its events. Whatever is reported of a run is a function of this."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypedDict, cast

from runbook.engine.judge import EXIT_CODES, difference
from runbook.engine.timeline import SpanDoc, follow


class Event(NamedTuple):
    """One fact. `seq` counts from 1 within the run; `at` is UTC in ISO 8601, by the clock of the run."""

    seq: int
    at: str
    kind: str
    data: dict[str, Any]


class RunDoc(TypedDict, total=False):
    """`run` of the record."""

    id: str
    runbook: str
    title: str
    hypothesis: str
    verdict: str | None
    exit_code: int | None
    started_at: str | None
    finished_at: str | None
    duration: Any
    operator: str | None
    dry_run: bool
    rehearsal: bool
    strict: bool
    because: str
    audit: str
    stage: str
    stamp: str
    lock: str
    host: str
    pid: int
    process_started: float | None
    boot_id: str
    epoch: int | None
    report_path: str
    left: list[dict[str, Any]]
    successor: str
    remedy: str


class CheckDoc(TypedDict, total=False):
    """One check; `result` is what was measured, `because` names the values that made it miss."""

    verdict: str | None
    result: Any
    expect: Any
    message: str | None
    because: str
    severity: str
    description: str
    section: str
    remedy: str
    duration: Any
    attempts: int
    dropped: int
    overridden: str
    line: int


class ExpectationDoc(TypedDict, total=False):
    """One expectation; `actual` is the same quantity as `predicted`, which `of` names (delta or after)."""

    of: str
    predicted: Any
    actual: Any
    tolerance: Any
    verdict: str | None
    because: str
    severity: str
    message: str | None
    description: str
    line: int


class StepDoc(TypedDict, total=False):
    """One step; `tries` has its attempts one by one."""

    stage: str
    verdict: str | None
    exit_code: int | None
    rowcount: int | None
    duration: Any
    attempts: int
    because: str
    message: str | None
    what: str
    description: str
    tries: list[dict[str, Any]]
    expectations: dict[str, ExpectationDoc]
    line: int


class PlanDoc(TypedDict):
    """One line of a dry run: what was evaluated, would run, or cannot be known, and why; `line` is the YAML's."""

    where: str
    state: str
    what: str
    because: str
    line: int


class Record(TypedDict):
    """The whole record; `--json` prints it without `declared`, which only folding needs."""

    run: RunDoc
    params: dict[str, Any]
    before: dict[str, dict[str, Any]]
    after: dict[str, dict[str, Any]]
    delta: dict[str, dict[str, Any]]
    unmeasured: dict[str, str]
    preflight: dict[str, CheckDoc]
    expectations: dict[str, ExpectationDoc]
    steps: dict[str, StepDoc]
    postconditions: dict[str, CheckDoc]
    audit: dict[str, Any]
    circumstances: dict[str, Any]
    declared: dict[str, Any]
    resumed: dict[str, Any]
    rehearsal: dict[str, Any]
    labels: dict[str, dict[str, str]]
    plan: list[PlanDoc]
    notes: list[str]
    handwritten: str
    timeline: list[SpanDoc]
    progress: list[dict[str, Any]]
    notifications: list[dict[str, Any]]
    problems: list[dict[str, Any]]
    report: str | None
    journal: str | None


def empty_record() -> Record:
    """A record of nothing yet."""
    return {
        "run": _unknown_run(),
        "params": {},
        "before": {},
        "after": {},
        "delta": {},
        "unmeasured": {},
        "preflight": {},
        "expectations": {},
        "steps": {},
        "postconditions": {},
        "audit": {},
        "circumstances": {},
        "declared": {},
        "resumed": {},
        "rehearsal": {},
        "labels": {},
        "plan": [],
        "notes": [],
        "handwritten": "",
        "timeline": [],
        "progress": [],
        "notifications": [],
        "problems": [],
        "report": None,
        "journal": None,
    }


def _unknown_run() -> RunDoc:
    nothing = dict.fromkeys(("verdict", "exit_code", "started_at", "finished_at", "duration", "operator"))
    run: Any = {"id": "", "runbook": "", **nothing, "dry_run": False}
    return cast(RunDoc, run)


def fold(events: Iterable[Event]) -> Record:
    """The record that the events tell."""
    record = empty_record()
    for event in events:
        apply(record, event)
    return record


def apply(record: Record, event: Event) -> None:
    """Adds one event to the record: what it tells, and when it happened."""
    handler = _APPLY.get(event.kind)
    if handler is not None:
        handler(record, event.data)
    follow(record["timeline"], event.kind, event.at, event.data)


Data = Mapping[str, Any]


def _opened(record: Record, data: Data) -> None:
    record["run"].update(data["run"])
    record["params"] = data["params"]
    record["circumstances"] = data["circumstances"]
    record["labels"] = data["labels"]
    record["notes"] = [data["note"]] if data.get("note") else []
    record["journal"] = data["journal"]
    declared = data["declared"]
    blank: Any = {"verdict": None, "exit_code": None, "duration": None, "attempts": 0}
    steps: Any = {name: {**step, **blank, "tries": []} for name, step in declared["steps"].items()}
    record["steps"] = steps
    record["declared"] = {key: section for key, section in declared.items() if key != "steps"}


def _rehearsal(record: Record, data: Data) -> None:
    record["run"].update(data["run"])
    record["circumstances"] = dict(data["circumstances"])
    record["rehearsal"] = {"sources": data["sources"], "copies": {}}


def _copies(record: Record, data: Data) -> None:
    record["rehearsal"]["copies"] = data["copies"]


def _resumed(record: Record, data: Data) -> None:
    record["resumed"] = dict(data)


def _stage(record: Record, data: Data) -> None:
    record["run"]["stage"] = data["stage"]


def _snapshot(record: Record, data: Data) -> None:
    which = data["which"]
    record["unmeasured"].update({f"{which}.{state}": why for state, why in data["errors"].items()})
    if which == "before":
        record["before"] = data["state"]
    elif which == "resumed":
        record["resumed"]["state"] = data["state"]
    elif which == "after":
        record["after"] = data["state"]
        record["delta"] = difference(record["before"], record["after"])


def _check(record: Record, data: Data) -> None:
    section, name = data["section"], data["name"]
    known = record["declared"][section].get(name, {})
    facts: Any = {key: value for key, value in data.items() if key not in ("section", "name")}
    target: Any = record["preflight"] if section == "preflight" else record["postconditions"]
    target[name] = {**known, **facts}


def _predicted(record: Record, data: Data) -> None:
    blank = {"actual": None, "verdict": None, "message": None}
    declared = record["declared"]
    known = declared.get("expectations", {})
    if "step" in data:
        known = declared.get("step_expectations", {}).get(data["step"], {})
    found: dict[str, Any] = {
        name: {**known.get(name, {}), **item, **blank} for name, item in data["expectations"].items()
    }
    if "step" in data:
        record["steps"][data["step"]]["expectations"] = found
    else:
        record["expectations"] = found


def _expectation(record: Record, data: Data) -> None:
    owner = record["steps"][data["step"]]["expectations"] if "step" in data else record["expectations"]
    for key in ("verdict", "actual", "because", "message"):
        owner[data["name"]][key] = data[key]


def _audit_row(record: Record, data: Data) -> None:
    record["audit"][data["row"]] = data.get("value")
    if "because" in data:
        record["audit"][f"{data['row']}_because"] = data["because"]


def _step_started(record: Record, data: Data) -> None:
    record["steps"][data["step"]]["what"] = data["what"]
    record["steps"][data["step"]]["tries"].append({"attempt": data["attempt"]})


def _process_started(record: Record, data: Data) -> None:
    record["steps"][data["step"]]["tries"][-1].update(pid=data["pid"], started=data["started"])


def _step_ended(record: Record, data: Data) -> None:
    step = record["steps"][data["step"]]
    facts = {key: value for key, value in data.items() if key not in ("step", "stage")}
    tries = step["tries"]
    if tries and tries[-1]["attempt"] == facts["attempt"]:
        tries[-1] = facts
    else:
        tries.append(facts)
    step["attempts"] = len(tries)


def _step_judged(record: Record, data: Data) -> None:
    facts: Any = {key: value for key, value in data.items() if key != "step"}
    record["steps"][data["step"]].update(facts)


def _finished(record: Record, data: Data) -> None:
    facts: Any = {key: data[key] for key in ("verdict", "exit_code", "finished_at", "duration", "because")}
    record["run"].update(facts)
    _leave_unknown(record, "nothing was measured afterwards")


def _leave_unknown(record: Record, because: str) -> None:
    own = [item for step in record["steps"].values() for item in step.get("expectations", {}).values()]
    for expectation in [*record["expectations"].values(), *own]:
        if expectation["verdict"] is None:
            expectation["verdict"] = "unknown"
            expectation["because"] = expectation["because"] or because


def _lost(record: Record, data: Data) -> None:
    facts: Any = {key: data[key] for key in ("finished_at", "duration", "because", "left")}
    facts |= {"verdict": "lost", "exit_code": None}
    record["run"].update(facts)
    _leave_unknown(record, "the run was lost before it was measured")
    begun = record["steps"].get(data["step"] or "")
    if begun is not None:
        begun["because"] = "its outcome is not known: the runner died while it ran"


def _succeeded(record: Record, data: Data) -> None:
    record["run"]["successor"] = data["by"]


def _remains(record: Record, data: Data) -> None:
    record["run"]["left"] = data["left"]


def under_way(record: Record) -> str:
    """The step that was begun and has no outcome in the record; empty where there is none."""
    for name, step in record["steps"].items():
        if step["tries"] and step["verdict"] is None:
            return name
    return ""


def _audit_closed(record: Record, data: Data) -> None:
    record["audit"].update(data)
    record["run"]["audit"] = data["status"]
    if data["status"] in ("pending", "failed", "superseded") and record["run"]["verdict"] == "passed":
        record["run"]["verdict"] = "errored"
        record["run"]["exit_code"] = EXIT_CODES["errored"]
        record["run"]["because"] = f"the audit is not confirmed: {data['because']}"


def _circumstances(record: Record, data: Data) -> None:
    record["circumstances"].update(data)


def _report(record: Record, data: Data) -> None:
    record["report"] = data["path"]


def _no_report(record: Record, data: Data) -> None:
    record["problems"].append({"message": data["because"]})


def _planned(record: Record, data: Data) -> None:
    record["plan"].append(cast(PlanDoc, dict(data)))


def _foreseen(record: Record, data: Data) -> None:
    facts: Any = {key: data[key] for key in ("verdict", "exit_code", "finished_at", "duration", "because")}
    record["run"].update(facts)
    record["problems"] += data["obstacles"]


def _note(record: Record, data: Data) -> None:
    if data.get("handwritten"):
        record["handwritten"] = data["text"]
    else:
        record["notes"].append(data["text"])


def _progress(record: Record, data: Data) -> None:
    record["progress"].append(dict(data))


_APPLY: dict[str, Callable[[Record, Data], None]] = {
    "run.opened": _opened,
    "rehearsal.begun": _rehearsal,
    "copies.made": _copies,
    "copies.dropped": _copies,
    "run.resumed": _resumed,
    "stage.entered": _stage,
    "snapshot.measured": _snapshot,
    "check.judged": _check,
    "predictions.registered": _predicted,
    "expectation.judged": _expectation,
    "audit.row": _audit_row,
    "step.started": _step_started,
    "process.started": _process_started,
    "step.ended": _step_ended,
    "step.judged": _step_judged,
    "progress.measured": _progress,
    "run.finished": _finished,
    "run.lost": _lost,
    "run.succeeded": _succeeded,
    "remains.ended": _remains,
    "audit.closed": _audit_closed,
    "circumstances.noted": _circumstances,
    "report.written": _report,
    "report.failed": _no_report,
    "plan.line": _planned,
    "plan.finished": _foreseen,
    "note.added": _note,
    "notification.sent": lambda record, data: record["notifications"].append(dict(data)),
}
