"""Records of runs that never were, folded from events as a run emits them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from runbook.engine.judge import EXIT_CODES
from runbook.engine.record import Event, Record, fold

START = datetime(2025, 12, 2, 10, 15, tzinfo=UTC)
HASH = "9c1185a5c5e9fc54612808977ee8f548b2258d31"


class Told:
    """What happened in one run, event by event; `at` is in seconds since its start."""

    def __init__(self, run_id: str = "20251202_101500-001-aaaa", start: datetime = START, **of_run: Any) -> None:
        self.start, self.events, self.seq = start, [], 0
        self.events: list[Event] = []
        self.run_id = run_id
        self.of_run = of_run

    def tell(self, at: float, kind: str, /, **data: Any) -> Told:
        self.seq += 1
        moment = (self.start + timedelta(seconds=at)).isoformat(timespec="milliseconds")
        self.events.append(Event(self.seq, moment, kind, data))
        return self

    def open(
        self,
        *,
        params: Mapping[str, Any] | None = None,
        steps: Mapping[str, str] | None = None,
        expectations: Sequence[str] = (),
        checks: Mapping[str, Mapping[str, Any]] | None = None,
        circumstances: Mapping[str, Any] | None = None,
        labels: Mapping[str, Any] | None = None,
        note: str = "",
    ) -> Told:
        blank = {"description": "", "line": 1}
        declared = {
            "preflight": {name: {**_CHECK, **check} for name, check in (checks or {}).items()},
            "postconditions": {name: {**_CHECK, **check} for name, check in (checks or {}).items()},
            "expectations": {name: {**blank, "tolerance": "5%", "severity": "error"} for name in expectations},
            "steps": {name: {**blank, "stage": stage} for name, stage in (steps or {"process": "steps"}).items()},
        }
        run = {
            "id": self.run_id,
            "runbook": "nightly",
            "title": "Nightly postings",
            "hypothesis": "Every posting that is waiting is completed, and none is added or removed.",
            "started_at": self.start.isoformat(),
            "operator": "ada",
            "host": "worker-7",
            "rehearsal": False,
            "strict": False,
            "lock": "nightly",
            **self.of_run,
        }
        known = {
            "versions": {"runbook": "0.1.0", "PostgreSQL (db)": "15.4"},
            "connections": {"db": "prod on db1 as etl"},
        }
        opening = {"params": params or {}, "labels": labels or {"postings": {}}, "note": note, "declared": declared}
        journal = f"/srv/.runbook/runs/{self.run_id}/journal.jsonl"
        return self.tell(
            0, "run.opened", run=run, circumstances={**known, **(circumstances or {})}, journal=journal, **opening
        )

    def stage(self, at: float, name: str) -> Told:
        return self.tell(at, "stage.entered", stage=name)

    def snapshot(self, at: float, which: str, state: Any, errors: Mapping[str, str] | None = None) -> Told:
        return self.tell(
            at, "snapshot.measured", which=which, state=state, errors=errors or {}, duration=Decimal("0.1")
        )

    def check(self, at: float, section: str, name: str, verdict: str, result: Any = None, **facts: Any) -> Told:
        known = {"verdict": verdict, "result": result, "because": "", "message": None, "duration": Decimal("0.012")}
        return self.tell(at, "check.judged", section=section, name=name, **{**known, "attempts": 1, **facts})

    def predict(self, at: float, expected: Mapping[str, Any], of: str = "delta") -> Told:
        items = {name: {"of": of, "predicted": value, "because": ""} for name, value in expected.items()}
        return self.tell(at, "predictions.registered", expectations=items)

    def judge(self, at: float, name: str, verdict: str, actual: Any, because: str = "") -> Told:
        facts = {"verdict": verdict, "actual": actual, "because": because, "message": None}
        return self.tell(at, "expectation.judged", name=name, **facts)

    def attempt(self, begin: float, end: float | None, number: int, because: str = "", step: str = "process") -> Told:
        where = {"step": step, "stage": "steps", "attempt": number}
        self.tell(begin, "step.started", **where, what="python process.py --limit 500")
        if end is not None:
            tail = f"attempt {number}\n{because or 'done'}"
            took = Decimal(repr(round(end - begin, 3)))
            self.tell(
                end, "step.ended", **where, duration=took, exit_code=int(bool(because)), because=because, tail=tail
            )
        return self

    def step(self, at: float, verdict: str, duration: float, attempts: int = 1, because: str = "") -> Told:
        facts = {"exit_code": int(verdict == "failed"), "rowcount": None, "message": None}
        took = Decimal(repr(duration))
        known = {"step": "process", "stage": "steps", "verdict": verdict, "because": because, "duration": took}
        return self.tell(at, "step.judged", **known, attempts=attempts, **facts)

    def finish(self, at: float, verdict: str, because: str = "", audit: str = "confirmed") -> Told:
        moment = (self.start + timedelta(seconds=at)).isoformat()
        closing = {"verdict": verdict, "exit_code": EXIT_CODES[verdict], "finished_at": moment}
        self.tell(at, "run.finished", **closing, duration=Decimal(repr(at)), because=because)
        return self.tell(at, "audit.closed", status=audit, head=HASH, because="")

    @property
    def record(self) -> Record:
        return fold(self.events)


_CHECK = {"expect": None, "severity": "error", "description": "", "section": "", "remedy": "", "line": 1}


def plain_run(
    run_id: str,
    start: datetime = START,
    *,
    predicted: Any = 100,
    actual: int = 100,
    duration: float = 60,
    **of_run: Any,
) -> Record:
    """A whole run that changes one metric and leaves another."""
    fine = abs(actual - predicted) <= abs(predicted) * 0.05 if isinstance(predicted, int) else False
    verdict = "passed" if fine else "refuted"
    told = Told(run_id, start, **of_run).open(params={"limit": 500}, expectations=["postings.done", "postings.total"])
    told.stage(0.1, "preflight").snapshot(0.2, "before", {"postings": {"total": 612, "done": 400}})
    told.stage(0.3, "predictions").predict(0.3, {"postings.done": predicted, "postings.total": 0})
    told.stage(0.4, "steps").attempt(0.5, duration - 1, 1).step(duration - 1, "passed", duration - 1.5)
    told.stage(duration - 0.9, "postconditions")
    told.snapshot(duration - 0.8, "after", {"postings": {"total": 612, "done": 400 + actual}})
    why = "" if fine else f"predicted {predicted} ± 5%, measured {actual}"
    told.judge(duration - 0.7, "postings.done", verdict, actual, why)
    told.judge(duration - 0.7, "postings.total", "passed", 0)
    return told.finish(duration, verdict, "" if fine else f"postings.done refuted: {why}").record


def retried_run() -> Record:
    """Three attempts, measured while they ran."""
    told = Told(title="Retried").open(
        params={"limit": 500, "mode": "batch"},
        expectations=["postings.done", "postings.queue"],
        steps={"process": "steps", "tidy": "finally"},
    )
    told.stage(0.1, "preflight").snapshot(0.4, "before", {"postings": {"done": 400, "queue": 100}})
    told.check(0.6, "preflight", "pending", "passed", {"summaries": 100, "skills": 0})
    told.stage(0.7, "predictions").predict(0.7, {"postings.done": 100, "postings.queue": {"at_most": -95}})
    told.stage(0.8, "steps").attempt(0.8, 31, 1, "exit code 1: connection reset").attempt(
        41, 58, 2, "exit code 1: out of memory"
    )
    told.attempt(78, 171.25, 3)
    samples = [
        [Decimal(at), {"postings.done": _done(at), "postings.queue": 500 - _done(at)}] for at in range(1, 172, 4)
    ]
    told.tell(171.25, "progress.measured", step="process", samples=samples)
    told.step(171.3, "passed", 141.45, 3).stage(171.4, "postconditions")
    told.snapshot(171.5, "after", {"postings": {"done": 497, "queue": 3}})
    told.judge(171.6, "postings.done", "passed", 97).judge(171.6, "postings.queue", "passed", -97)
    return told.finish(173, "passed").record


def _done(at: int) -> int:
    if at < 31:
        return 400 + at
    return (
        430 if at < 41 else 430 + (at - 41) if at < 58 else 447 if at < 78 else min(497, 447 + round((at - 78) * 0.55))
    )


PENDING = {"expect": "result > 0", "remedy": "refill"}


def blocked_run() -> Record:
    """The preflight says no."""
    told = Told(title="Blocked").open(expectations=["postings.done"], checks={"pending": PENDING})
    told.stage(0.1, "preflight").snapshot(0.2, "before", {"postings": {"done": 612, "total": 612}})
    told.check(
        0.3, "preflight", "pending", "refuted", 0, because="result > 0   where result = 0", message="nothing is waiting"
    )
    told.stage(0.4, "predictions").predict(0.4, {"postings.done": 0})
    return told.finish(0.5, "blocked", "pending refuted: result > 0   where result = 0").record


def running_run() -> Record:
    """Still in its step."""
    told = Told(title="Running").open(expectations=["postings.done"])
    told.stage(0.1, "preflight").snapshot(0.2, "before", {"postings": {"done": 400, "total": None}})
    told.stage(0.3, "predictions").predict(0.3, {"postings.done": 100}).stage(0.4, "steps").attempt(0.5, None, 1)
    return told.record


def lost_run() -> Record:
    """Its runner died in the step; somebody looked an hour later."""
    told = Told(title="Lost").open(expectations=["postings.done"])
    told.stage(0.1, "preflight").snapshot(0.2, "before", {"postings": {"done": 400}})
    told.stage(0.3, "predictions").predict(0.3, {"postings.done": 100}).stage(0.4, "steps").attempt(0.5, None, 1)
    moment = (START + timedelta(seconds=42)).isoformat()
    left = [{"pid": 4711, "started": 12.5, "command": "python"}]
    why = "the runner (pid 4700 on worker-7) is gone; it died during step process"
    return told.tell(
        3600, "run.lost", finished_at=moment, duration=Decimal(42), because=why, left=left, step="process"
    ).record


def errored_run() -> Record:
    """The server went away before the after snapshot."""
    told = Told(title="Errored").open(expectations=["postings.done", "postings.total"])
    told.stage(0.1, "preflight").snapshot(0.2, "before", {"postings": {"done": 400, "total": 612}})
    told.stage(0.3, "predictions").predict(0.3, {"postings.done": 100, "postings.total": 0}).stage(0.4, "steps")
    told.attempt(0.5, 20, 1).step(20, "passed", 19.5).stage(20.1, "postconditions")
    told.snapshot(50, "after", {}, {"postings": "db: the server closed the connection unexpectedly"})
    for name in ("postings.done", "postings.total"):
        told.judge(50, name, "unknown", None, f"{name} after: db: the server closed the connection unexpectedly")
    return told.finish(51, "errored", "postings could not be measured", "pending").record


def cancelled_run() -> Record:
    """Stopped by a person in its step."""
    told = Told(title="Cancelled").open(expectations=["postings.done"])
    told.stage(0.1, "preflight").snapshot(0.2, "before", {"postings": {"done": 400}})
    told.stage(0.3, "predictions").predict(0.3, {"postings.done": 100}).stage(0.4, "steps")
    told.attempt(0.5, 9, 1, "cancelled").step(9, "cancelled", 8.5, because="cancelled").stage(9.1, "postconditions")
    told.snapshot(9.2, "after", {"postings": {"done": 431}}).judge(
        9.3, "postings.done", "refuted", 31, "predicted 100, measured 31"
    )
    return told.finish(9.5, "cancelled", "stopped by ada with `runbook stop`").record


def rehearsed_run() -> Record:
    return plain_run("20251202_101500-002-bbbb", rehearsal=True, title="Rehearsed")


def refused() -> Record:
    """What is printed for a file that is invalid: no run was begun."""
    record = fold([])
    record["run"].update({"runbook": "broken.yaml", "exit_code": 5})
    record["problems"] = [
        {"message": "`stepz` is not known", "file": "broken.yaml", "line": 3, "hint": "did you mean steps?"}
    ]
    return record


ENDINGS = {
    "passed": lambda: plain_run("20251202_101500-003-cccc"),
    "refuted": lambda: plain_run("20251202_101500-004-dddd", actual=60),
    "blocked": blocked_run,
    "retried": retried_run,
    "running": running_run,
    "lost": lost_run,
    "errored": errored_run,
    "cancelled": cancelled_run,
    "rehearsed": rehearsed_run,
    "refused": refused,
}


def many_runs(count: int = 40) -> list[Record]:
    """Runs over two months with misses, gaps and a pause among them."""
    found: list[Record] = []
    for index in range(count):
        start = START + timedelta(days=index * 1.5 + (10 if index > 25 else 0), minutes=(index * 37) % 300)
        run_id = f"{start:%Y%m%d_%H%M%S}-{index:03d}-{index * 2749 % 65536:04x}"
        if index % 11 == 5:
            told = Told(run_id, start).open(params={"limit": 500 + index % 3 * 100}, expectations=["postings.done"])
            told.stage(0.1, "preflight").snapshot(0.2, "before", {"postings": {"total": None, "done": 612}})
            found.append(told.finish(0.6, "blocked", "pending refuted: nothing is waiting").record)
            continue
        off = ((index * 7) % 9 - 4) if index % 8 else -22
        record = plain_run(
            run_id, start, actual=100 + off, duration=50 + (index * 13) % 40 + (90 if index == 30 else 0)
        )
        record["params"]["limit"] = 500 + index % 3 * 100
        found.append(record)
    return found
