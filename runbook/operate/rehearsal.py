"""Rehearsals: the whole runbook on a throw-away copy of each database, and what proves that one has passed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from runbook.engine.record import Record
from runbook.language.model import Runbook, Step
from runbook.language.problems import RunbookError
from runbook.language.values import dumps, to_data
from runbook.operate.alive import boot_id
from runbook.operate.cancel import Cancellation
from runbook.operate.circumstances import host
from runbook.operate.lock import StoppedWaiting
from runbook.operate.runs import NoSuchRun, record_of
from runbook.operate.servers import CannotStart
from runbook.operate.world import World
from runbook.records.journal import JournalError
from runbook.system.tree import start_time


class NotRehearsed(RunbookError):
    """No rehearsal of this very runbook with these params has passed."""


def stand_ins(runbook: Runbook) -> tuple[Runbook, dict[str, str]]:
    """The runbook as it is rehearsed, and the steps that are left out, each with the reason."""
    left_out: dict[str, str] = {}

    def replaced(step: Step) -> Step:
        if step.stand_in == "skip":
            left_out[step.name] = "left out of the rehearsal (rehearse: skip)"
            return step
        return step._replace(action=step.stand_in) if step.stand_in is not None else step

    steps, on_failure, finally_ = (
        tuple(map(replaced, stage)) for stage in (runbook.steps, runbook.on_failure, runbook.finally_)
    )
    return runbook._replace(steps=steps, on_failure=on_failure, finally_=finally_), left_out


def rehearsal_begun(
    runbook: Runbook, run: Mapping[str, Any], sources: Mapping[str, str], embedded: list[str]
) -> dict[str, Any]:
    """The data of `rehearsal.begun`: enough to find the copies again if this process dies before the run opens."""
    me = {"host": host(), "pid": os.getpid(), "process_started": start_time(os.getpid()), "boot_id": boot_id()}
    return {
        "run": {**run, **me, "runbook": runbook.name, "title": runbook.name, "rehearsal": True},
        "sources": sources,
        "circumstances": {"file": str(runbook.path), "text": runbook.document.text, "embedded": embedded},
    }


def copy_databases(
    world: World, run_id: str, stack: ExitStack, cancellation: Cancellation, tell: Callable[[str], None]
) -> None:
    """Points every postgres connection of the run at a copy, which is dropped when `stack` ends.

    `tell` hears before each copy is made how, how big it is and how long that may take, and then in what it differs.
    Raises CannotStart, or StoppedWaiting where the end is asked for meanwhile.
    """
    from runbook.database.clone import copied
    from runbook.database.connect import ServerError

    def stop() -> None:
        raise KeyboardInterrupt

    made: dict[tuple[str, str], Any] = {}
    cancellation.interrupt_with(stop)
    try:
        for name in world.postgres:
            url, reading = world.servers.urls[name], world.servers.reading[name]
            if (url, reading) not in made:
                context = copied(
                    url, _numbered(run_id, len(made)), read_url=reading, on_plan=lambda plan: tell(plan.text)
                )
                made[url, reading] = stack.enter_context(context)
                for note in made[url, reading].notes:
                    tell(note)
            copy = made[url, reading]
            world.servers.urls[name], world.servers.reading[name] = copy.url, copy.read_url
        world.hide_passwords()
    except KeyboardInterrupt:
        raise StoppedWaiting(f"stopped while a database was copied: {cancellation.reason()}") from None
    except ServerError as error:
        raise CannotStart(f"the database cannot be copied: {world.masks.text(str(error))}") from None
    finally:
        cancellation.interrupt_with(None)


def _numbered(run_id: str, index: int) -> str:
    return f"{run_id}_{index}" if index else run_id


# --- proof --------------------------------------------------------------------------------------------------------


def _mark(project: Path, runbook: Runbook, params: Mapping[str, Any]) -> Path:
    known = {"runbook": runbook.sha256, "files": dict(sorted(runbook.files.items())), "params": to_data(dict(params))}
    return project / "rehearsals" / hashlib.sha256(dumps(known).encode()).hexdigest()[:32]


def keep_proof(project: Path, runbook: Runbook, params: Mapping[str, Any], run_id: str) -> None:
    """Remembers that a rehearsal of this runbook with these params has passed."""
    place = _mark(project, runbook, params)
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = place.with_name(f".{place.name}.{os.getpid()}")
    aside.write_text(f"{run_id}\n", encoding="ascii")
    aside.replace(place)


def require_proof(project: Path, runbook: Runbook, params: Mapping[str, Any]) -> str:
    """The id of the rehearsal that passed, proven by its journal. Raises NotRehearsed."""
    cure = f"rehearse it first: runbook exec {runbook.document.file} --rehearse, with the same params"
    try:
        run_id = _mark(project, runbook, params).read_text(encoding="ascii").strip()
        record = record_of(project / "runs" / Path(run_id).name)
    except (OSError, UnicodeDecodeError, NoSuchRun, JournalError):
        raise NotRehearsed(f"this runbook has not passed a rehearsal with these params; {cure}") from None
    if not _proves(record, runbook, params):
        raise NotRehearsed(f"run {run_id} does not prove a rehearsal of this runbook with these params; {cure}")
    return run_id


def _proves(record: Record, runbook: Runbook, params: Mapping[str, Any]) -> bool:
    run = record["run"]
    same = record["circumstances"].get("versions", {}).get("runbook file") == f"sha256 {runbook.sha256}"
    return bool(
        run.get("rehearsal") and run["verdict"] == "passed" and same and record["params"] == to_data(dict(params))
    )
