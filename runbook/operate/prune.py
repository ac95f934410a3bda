"""Pruning: what is old in run folders and audits goes, and leaves a trace; of a folder a line in `.runbook/pruned.jsonl`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from runbook.database.connect import Connection
from runbook.engine.record import Record
from runbook.language.problems import RunbookError
from runbook.language.values import dumps
from runbook.operate.alive import running
from runbook.operate.anchors import LEFT
from runbook.operate.audits import open_audits
from runbook.operate.circumstances import host
from runbook.operate.circumstances import operator as system_operator
from runbook.operate.reaching import audit_target
from runbook.operate.runs import all_runs, open_runs, outline_of, project_here
from runbook.records.pruning import Detail, prunable, prune_detail

_OUTPUT = ("output.log", "runner.log")
_AWAY = "pruning"  # in .runbook: where folders stand while they are removed


class Old(NamedTuple):
    """A closed run on this disk that ended long enough ago: its folder and size in bytes, of all and of its output."""

    folder: Path
    record: Record
    size: int
    output: int


def _old_runs(before: datetime) -> Iterator[Old]:
    """The runs of this project that are closed in all their books and ended before a moment."""
    still_open = {folder.name for folder in open_runs(project_here())}
    for folder in all_runs():
        if folder.name in still_open or running(folder):
            continue
        try:
            record = outline_of(folder)
            ended = datetime.fromisoformat(record["run"]["finished_at"] or "")
        except (RunbookError, ValueError):
            continue
        if record["run"]["verdict"] and ended < before:
            sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
            yield Old(folder, record, sum(sizes.values()), sum(sizes.get(name, 0) for name in _OUTPUT))


class Plan(NamedTuple):
    """What is old: run folders, and details by the audit that has them; `troubles` says which audits do not answer."""

    runs: list[Old]
    details: dict[str, tuple[Connection, list[Detail]]]
    troubles: list[str]


def find_old(before: datetime, parts: Sequence[str], databases: Mapping[str, str], stack: ExitStack) -> Plan:
    """What ended before a moment: of `folders`, `output` and `audit`, as far as they are among `parts`."""
    runs = list(_old_runs(before)) if {"folders", "output"} & set(parts) else []
    plan = Plan(runs, {}, [])
    if "audit" in parts:
        audits = stack.enter_context(open_audits(databases))
        plan.troubles.extend(audits.troubles)
        for target, connection in audits.found.items():
            plan.details[target] = connection, prunable(connection, before)
    return plan


def prune(plan: Plan, parts: Sequence[str], older_than: str) -> None:
    """Removes what is old; what goes leaves a trace of who did it. It may be broken off and done again. Raises RunbookError."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    why = {"operator": system_operator(), "host": host(), "at": now, "older_than": older_than}
    for connection, details in plan.details.values():
        prune_detail(connection, details, why)
    try:
        with suppress(FileNotFoundError):
            shutil.rmtree(project_here() / _AWAY)
        for old in plan.runs:
            if "folders" in parts:
                _prune_folder(old, why)
            else:
                for name in _OUTPUT:
                    (old.folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise RunbookError(f"{error.filename}: {error.strerror}") from None


def _prune_folder(old: Old, why: dict[str, Any]) -> None:
    """Removes the folder of a run; who did it, and the head that its journal had, are written down first. Raises OSError."""
    run, project = old.record["run"], old.folder.parent.parent
    kept = {name: run.get(name) for name in ("id", "runbook", "verdict", "started_at", "finished_at")}
    kept |= {"audit": audit_target(old.record), "head": old.record["audit"].get("head", ""), **why}
    _write_down(project / LEFT, dumps(kept))
    away = project / _AWAY
    away.mkdir(mode=0o700, exist_ok=True)
    old.folder.rename(away / old.folder.name)
    shutil.rmtree(away)


def _write_down(path: Path, line: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(f"{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())
