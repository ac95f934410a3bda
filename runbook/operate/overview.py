"""What is going on in a project: the runs that live, and those that somebody has to close."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runbook.engine.record import Record, under_way
from runbook.language.problems import RunbookError
from runbook.operate.alive import runner_lives, running
from runbook.operate.reaching import Way
from runbook.operate.recovery import recover
from runbook.operate.runs import open_runs, record_of

if TYPE_CHECKING:
    from runbook.system.remains import Remnant


class Seen(NamedTuple):
    """One run as it stands. `elapsed` is in seconds; `so_far` tells its verdict and predictions so far, for people."""

    folder: Path
    record: Record | None
    running: bool = False
    elapsed: float = 0.0
    doing: str = ""
    so_far: Sequence[str] = ()
    left: Sequence[Remnant] = ()
    trouble: str = ""
    resumable: bool = False


def overview(project: Path, only: Path | None, way: Way) -> list[Seen]:
    """Every run of the project that is not closed, or the one that is asked for. Dead ones are concluded, none is ended."""
    return [_look(folder, way) for folder in ([only] if only else open_runs(project))]


def _look(folder: Path, way: Way) -> Seen:
    try:
        found = None if running(folder) else recover(folder, way, lambda record: None)
        if found is not None:
            begun = any(step["tries"] for step in found.record["steps"].values())
            return Seen(folder, found.record, left=found.left, trouble=found.trouble, resumable=begun)
        record = record_of(folder)
    except RunbookError as error:
        return Seen(folder, None, trouble=str(error))
    if running(folder) and not runner_lives(record["run"]):
        return Seen(folder, None, trouble="its runner died; another command is closing it")
    if not record["run"]["id"]:
        return Seen(folder, None, trouble="is about to begin, or never began")
    began = datetime.fromisoformat(record["run"]["started_at"] or "")
    elapsed = max((datetime.now(UTC) - began).total_seconds(), 0)
    return Seen(folder, record, True, elapsed, _doing(record), list(_so_far(record)))


def _doing(record: Record) -> str:
    step = under_way(record)
    stage = record["run"].get("stage", "beginning")
    if not step:
        return stage
    tries = record["steps"][step]["tries"]
    return f"{stage}, {step}" + (f" (attempt {len(tries)})" if len(tries) > 1 else "")


def _so_far(record: Record) -> Iterator[str]:
    checks = Counter(check["verdict"] for check in record["preflight"].values())
    if checks:
        yield "preflight: " + ", ".join(f"{count} {verdict}" for verdict, count in checks.items())
    steps = [f"{name} {step['verdict']}" for name, step in record["steps"].items() if step["verdict"]]
    if steps:
        yield "steps: " + ", ".join(steps)
