"""Looking on: one picture of a run at one moment, made of its journal, its output, its processes and its servers."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

from runbook.engine.record import Event
from runbook.language.model import Runbook
from runbook.language.values import loads
from runbook.operate.alive import running
from runbook.watch import progress
from runbook.watch.meter import Measuring, Meter
from runbook.watch.story import StageDoc, Story, stages
from runbook.watch.tail import TAIL, JournalTail, last_lines
from runbook.watch.usage import Usage, UsageDoc

OUTPUT_LINES = 8
EARLIER_RUNS = 50
EARLIER_SECONDS = 0.5
BASELINE = 0.2  # seconds over which the use of processors is first taken


class MeasuredDoc(TypedDict):
    """When the shown values were measured, how long ago, and why some are missing."""

    at: str | None
    age: float | None
    because: str


class Frame(TypedDict):
    """One picture. `run.state` is running, ended or lost."""

    run: dict[str, Any]
    stages: list[StageDoc]
    expectations: list[progress.BarDoc]
    metrics: list[progress.MetricDoc]
    measured: MeasuredDoc
    eta: float | None
    earlier: progress.EarlierDoc | None
    output: list[str]
    usage: UsageDoc | None


class Watch:
    """Somebody else's run, as it goes on."""

    def __init__(self, folder: Path, given: Mapping[str, str], runbook: Runbook | None, interval: float) -> None:
        self.folder = folder
        self.story = Story()
        self._journal = JournalTail(folder, self.story.hear)
        self._usage = Usage()
        self._earlier: list[float] | None = None
        self.state = self.look()
        meter = Meter(self.story.record, given, runbook)
        self.measuring = Measuring(meter, interval, self._journal.now, lambda: self.story.acting)

    def look(self) -> str:
        """Reads what the journal has to tell; whether the run is running, ended or lost. Raises JournalError."""
        alive = running(self.folder)  # asked first: what a dead runner wrote is then all there
        self._journal.read()
        self.state = "running" if alive else _ending(self.story)
        return self.state

    def measure(self) -> None:
        """Measures once, where there is something under way."""
        if self.state == "running" and self.story.acting:
            self._usage.look(self.story.record)
            began = time.monotonic()
            self.measuring.once()
            time.sleep(max(BASELINE - (time.monotonic() - began), 0))

    def frame(self, usage_age: float = 0.0) -> Frame:
        """The picture of now; what processes use may be so many seconds old."""
        now = self._journal.now() if self.state == "running" else self.story.last
        usage = self._usage.look(self.story.record, usage_age) if self.state == "running" else None
        if self._earlier is None:
            run = self.story.record["run"]
            self._earlier = earlier_durations(self.folder, run["runbook"])
        return {
            **picture(self.story, self.state, now, self.measuring),
            "run": {**_run(self.story, self.state, now), "id": self.folder.name},
            "earlier": progress.earlier(self._earlier, self.story.elapsed(now)),
            "output": last_lines(self.folder / "output.log", OUTPUT_LINES),
            "usage": usage,
        }


def _ending(story: Story) -> str:
    return "ended" if story.record["run"].get("verdict") not in (None, "lost") else "lost"


def picture(story: Story, state: str, now: float, measuring: Measuring) -> Frame:
    """What a story and the samples tell; without earlier runs, output and processes."""
    samples = list(measuring.samples)
    found = progress.bars(story, samples)
    because = measuring.because if story.acting and state == "running" else ""
    return {
        "run": _run(story, state, now),
        "stages": stages(story, now, state),
        "expectations": found,
        "metrics": progress.metrics(story, samples),
        "measured": _measured(samples, now, because) if story.acting else _measured([], now, because),
        "eta": progress.time_left(found) if state == "running" else None,
        "earlier": None,
        "output": [],
        "usage": None,
    }


def _run(story: Story, state: str, now: float) -> dict[str, Any]:
    run: Mapping[str, Any] = story.record["run"]
    names = ("id", "runbook", "title", "operator", "host", "pid", "started_at", "exit_code", "because")
    verdict = run.get("verdict") if state != "lost" else "lost"
    return {
        **{name: run.get(name) for name in names},
        "state": state,
        "verdict": verdict if state != "running" else None,
        "elapsed": story.elapsed(now),
        "stopping": story.stopping if state == "running" else "",
    }


def _measured(samples: list[progress.Sample], now: float, because: str) -> MeasuredDoc:
    if not samples:
        return {"at": None, "age": None, "because": because}
    at = datetime.fromtimestamp(samples[-1].at, UTC).isoformat(timespec="milliseconds")
    return {"at": at, "age": max(now - samples[-1].at, 0.0), "because": because}


def earlier_durations(folder: Path, runbook: str) -> list[float]:
    """How long the last passed runs of a runbook took, in seconds, newest first, as far as can be told in a moment."""
    deadline = time.monotonic() + EARLIER_SECONDS
    found: list[float] = []
    for name in sorted(os.listdir(folder.parent), reverse=True):
        if time.monotonic() > deadline or len(found) == EARLIER_RUNS:
            break
        if name < folder.name:
            with suppress(OSError, ValueError, KeyError, TypeError):
                found += _passed(folder.parent / name / "journal.jsonl", runbook)
    return found


def _passed(path: Path, runbook: str) -> list[float]:
    """The duration of a run that passed, as a list of one, told from the two ends of its journal."""
    with open(path, "rb") as file:
        first = loads(file.readline(4 * 1024 * 1024))
        if first["data"]["run"]["runbook"] != runbook:
            return []
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 4 * TAIL, 0))
        lines = file.read().split(b"\n")
    closing = [event for line in reversed(lines) if b'"run.finished"' in line for event in [_event(line)]]
    return [float(event.data["duration"]) for event in closing[:1] if event.data["verdict"] == "passed"]


def _event(line: bytes) -> Event:
    data = loads(line)
    return Event(data["seq"], data["at"], data["kind"], data["data"])
