"""What has happened in a run so far, with its times: the record, and the stages as they stand.

Times are seconds since the epoch by the clock of the run, lengths are seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypedDict

from runbook.engine.record import Event, Record, apply, empty_record

STAGES = ("preflight", "predictions", "steps", "postconditions", "on_failure", "finally")


class StepDoc(TypedDict):
    """One step of a stage; `attempt` is 0 before the first."""

    step: str
    state: str
    verdict: str | None
    duration: float | None
    attempt: int


class StageDoc(TypedDict):
    """One stage: `state` is done, now, lost, to come, if needed or not reached."""

    stage: str
    state: str
    verdict: str | None
    duration: float | None
    note: str
    steps: list[StepDoc]


class Story:
    """What has happened in a run so far, and when."""

    def __init__(self) -> None:
        self.record: Record = empty_record()
        self.last = 0.0
        self.entered: dict[str, float] = {}
        self.begun: dict[str, float] = {}
        self.judged: dict[str, float] = {}
        self.before: dict[str, Mapping[str, Any]] = {}
        self.closed = 0.0
        self.stopping = ""

    def hear(self, event: Event) -> None:
        """Adds one event. What comes after the runner's death is another's, and no sign of life."""
        apply(self.record, event)
        data = event.data
        if event.kind == "run.lost":
            self.closed = self.closed or self.last
        if not self.closed:
            self.last = moment(event.at)
        if event.kind == "stage.entered":
            self.entered[data["stage"]] = self.last
        elif event.kind == "step.started":
            self.begun.setdefault(data["step"], self.last)
        elif event.kind == "step.judged":
            self.judged[data["step"]] = self.last
        elif event.kind == "snapshot.measured":
            self._snapshot(data)
        elif event.kind == "run.cancelled":
            self.stopping = data["because"]
        elif event.kind == "run.finished":
            self.closed = self.last

    def _snapshot(self, data: Mapping[str, Any]) -> None:
        which = data["which"]
        if which == "before":
            self.before[""] = data["state"]
        elif which.startswith("steps.") and which.endswith(".before"):
            self.before[which.removeprefix("steps.").removesuffix(".before")] = data["state"]

    @property
    def started(self) -> float:
        """When the run began."""
        text = self.record["run"].get("started_at")
        return moment(text) if text else self.last

    def elapsed(self, now: float) -> float:
        """How long the run has been going, or went."""
        return max((self.closed or now) - self.started, 0.0) if self.entered else 0.0

    @property
    def acting(self) -> bool:
        """Whether steps have begun whose effect was not measured yet."""
        return "steps" in self.entered and not self.record["after"] and "postconditions" not in self.entered


def moment(text: str) -> float:
    """Seconds since the epoch of an event's `at`."""
    return datetime.fromisoformat(text).timestamp()


def stages(story: Story, now: float, state: str) -> list[StageDoc]:
    """The stages in order, each with how it stands, of a run whose `state` is running, ended or lost."""
    declared = {step["stage"] for step in story.record["steps"].values()}
    names = [name for name in STAGES if name not in ("on_failure", "finally") or name in declared]
    return [_stage(story, name, now, state) for name in names]


def _stage(story: Story, name: str, now: float, run_state: str) -> StageDoc:
    begun = story.entered.get(name)
    later = [at for stage, at in story.entered.items() if STAGES.index(stage) > STAGES.index(name)]
    gone = bool(later) or run_state != "running"
    if begun is None:
        state = "not reached" if gone else "if needed" if name == "on_failure" else "to come"
    else:
        state = "done" if later or run_state == "ended" else "lost" if gone else "now"
    verdict, note = _summary(story.record, name)
    if state == "now" and verdict == "passed":  # so far; what goes on has not passed
        verdict = None
    names = [step for step, facts in story.record["steps"].items() if facts["stage"] == name]
    end = min(later, default=story.closed) if gone else now
    return {
        "stage": name,
        "state": state,
        "verdict": verdict,
        "duration": _length(state, begun, end),
        "note": note,
        "steps": [_step(story, step, now, gone) for step in names],
    }


def _step(story: Story, name: str, now: float, gone: bool) -> StepDoc:
    facts = story.record["steps"][name]
    begun, judged = story.begun.get(name), story.judged.get(name)
    if judged is not None:
        state = "done"
    elif begun is None:
        state = "not reached" if gone else "to come"
    else:
        state = "lost" if gone else "now"
    return {
        "step": name,
        "state": state,
        "verdict": facts["verdict"],
        "duration": _length(state, begun, now if judged is None else judged),
        "attempt": len(facts.get("tries", [])),
    }


def _length(state: str, begun: float | None, end: float) -> float | None:
    """How long something lasted; of what was lost nobody knows."""
    return None if begun is None or state == "lost" else max(end - begun, 0.0)


def _summary(record: Record, stage: str) -> tuple[str | None, str]:
    """The verdict that stands for a stage, the worst one in it, and what was found, in a few words."""
    if stage == "predictions":
        items = record["expectations"].values()
        unclear = any(item["predicted"] is None for item in items)
        return ("unknown" if unclear else None), f"{len(items)} registered" if items else ""
    if stage == "preflight":
        found: list[Any] = [*record["preflight"].values()]
    elif stage == "postconditions":
        found = [*record["expectations"].values(), *record["postconditions"].values()] if record["after"] else []
    else:
        found = [step for step in record["steps"].values() if step["stage"] == stage]
    return worst(found), _counted(found) if stage in ("preflight", "postconditions") else ""


def worst(found: Iterable[Mapping[str, Any]]) -> str | None:
    """The worst verdict among those of severity error; `warning` where only a warning has one."""
    verdicts = [(item["verdict"], item.get("severity")) for item in found if item["verdict"]]
    for verdict in ("failed", "refuted", "unknown", "cancelled"):
        if any(known == verdict and severity != "warn" for known, severity in verdicts):
            return verdict
    if any(known in ("refuted", "unknown") for known, _ in verdicts):
        return "warning"
    return ("passed" if any(known == "passed" for known, _ in verdicts) else "skipped") if verdicts else None


def _counted(found: Iterable[Mapping[str, Any]]) -> str:
    kinds = [
        "warning" if item.get("severity") == "warn" and item["verdict"] in ("refuted", "unknown") else item["verdict"]
        for item in found
        if item["verdict"]
    ]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
