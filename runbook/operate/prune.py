"""Pruning: what is old in run folders and audits goes, and leaves a trace; of a folder a line in `.runbook/pruned.jsonl`."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from runbook.database.connect import Connection
from runbook.engine.record import Record
from runbook.language.problems import RunbookError
from runbook.language.values import dumps
from runbook.operate.alive import running
from runbook.operate.anchors import LEFT
from runbook.operate.audits import Audits, open_audits
from runbook.operate.circumstances import host
from runbook.operate.circumstances import operator as system_operator
from runbook.operate.reaching import audit_target, thrown_away
from runbook.operate.runs import all_runs, events_of, marked_at, open_runs, outline_of, project_here
from runbook.records.pruning import Detail, closed_runs, prunable, prune_detail

_OUTPUT = ("output.log", "runner.log")
_AWAY = "pruning"  # in .runbook: where folders stand while they are removed


class Old(NamedTuple):
    """A closed run on this disk that ended long enough ago: its folder and size in bytes, of all and of its output.

    `only` says that no audit at hand has it.
    """

    folder: Path
    record: Record
    size: int
    output: int
    only: bool = False


class Wanted(NamedTuple):
    """What is to go: the `parts` of runs that ended before a moment; of some runbooks where any are named.

    A folder that holds the only record of its run goes only with `even_only`.
    """

    before: datetime
    parts: Sequence[str]
    runbooks: Sequence[str] = ()
    even_only: bool = False


class Plan(NamedTuple):
    """What goes: whole folders, the output in others, and details by the audit that has them; `kept` are folders that stay
    since they hold the only record of their run, `troubles` says which audits do not answer.
    """

    folders: list[Old]
    outputs: list[Old]
    kept: list[Old]
    details: dict[str, tuple[Connection, list[Detail]]]
    troubles: list[str]


def _old_runs(wanted: Wanted) -> Iterator[Old]:
    """The runs of this project that are closed in all their books and ended long enough ago."""
    still_open = {folder.name for folder in open_runs(project_here())}
    for folder in all_runs():
        if folder.name in still_open or running(folder):
            continue
        try:
            record = outline_of(folder)
            ended = datetime.fromisoformat(record["run"]["finished_at"] or "")
        except (RunbookError, ValueError):
            continue
        if wanted.runbooks and record["run"]["runbook"] not in wanted.runbooks:
            continue
        if record["run"]["verdict"] and ended < wanted.before:
            yield Old(folder, record, *_sizes(folder))


def _sizes(folder: Path) -> tuple[int, int]:
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    return sum(sizes.values()), sum(sizes.get(name, 0) for name in _OUTPUT)


def find_old(wanted: Wanted, databases: Mapping[str, str], stack: ExitStack) -> Plan:
    """What is old of `folders`, `output` and `audit`, as far as they are wanted. Raises ServerError."""
    parts = set(wanted.parts)
    runs = list(_old_runs(wanted)) if {"folders", "output"} & parts else []
    plan = Plan([], [], [], {}, [])
    audits = stack.enter_context(open_audits(databases)) if {"folders", "audit"} & parts else Audits({}, [])
    plan.troubles.extend(audits.troubles)
    if "folders" in parts:
        names = [old.folder.name for old in runs]
        known = set[str]().union(*(closed_runs(connection, names) for connection in audits.found.values()))
        runs = [old._replace(only=old.folder.name not in known) for old in runs]
        plan.folders.extend(old for old in runs if wanted.even_only or not old.only)
        plan.kept.extend(old for old in runs if old.only and not wanted.even_only)
    if "output" in parts:
        plan.outputs.extend(plan.kept if "folders" in parts else runs)
    if "audit" in parts:
        for target, connection in audits.found.items():
            plan.details[target] = connection, prunable(connection, wanted.before, wanted.runbooks)
    return plan


def prune(plan: Plan, older_than: str) -> list[str]:
    """Removes what is old; what goes leaves a trace of who did it. It may be broken off and done again. Raises RunbookError.

    Gives the ids of runs that are left alone, since somebody is at them or they are not what they were.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    why = {"operator": system_operator(), "host": host(), "at": now, "older_than": older_than}
    for connection, details in plan.details.values():
        prune_detail(connection, details, why)
    if not (plan.folders or plan.outputs):
        return []
    try:
        with _traces() as traces:
            with suppress(FileNotFoundError):
                shutil.rmtree(project_here() / _AWAY)
            gone = {old.folder: _held(old, lambda old: _prune_folder(old, why, traces)) for old in plan.folders}
            gone |= {old.folder: _held(old, _prune_output) for old in plan.outputs}
    except OSError as error:
        raise RunbookError(f"{error.filename}: {error.strerror}") from None
    return [folder.name for folder, done in gone.items() if not done]


@contextmanager
def _traces() -> Iterator[BinaryIO]:
    """The file of what stays of pruned folders, once no other command prunes. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    with open(os.open(project_here() / LEFT, flags, 0o600), "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _held(old: Old, remove: Callable[[Old], None]) -> bool:
    """Removes from a run while its journal is held, so that nobody reopens it; whether nobody did before. Raises OSError."""
    try:
        journal = os.open(old.folder / "journal.jsonl", os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True  # another command has pruned it
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if marked_at(old.folder) or _sizes(old.folder)[0] != old.size:
            return False
        remove(old)
    except BlockingIOError:
        return False
    finally:
        os.close(journal)
    return True


def _prune_output(old: Old) -> None:
    for name in _OUTPUT:
        (old.folder / name).unlink(missing_ok=True)


def _prune_folder(old: Old, why: dict[str, Any], traces: BinaryIO) -> None:
    """Removes the folder of a run; who did it, and the heads that its journal had, are written down first. Raises OSError."""
    run, project = old.record["run"], old.folder.parent.parent
    heads = _heads(old)
    kept = {name: run.get(name) for name in ("id", "runbook", "verdict", "started_at", "finished_at")}
    kept |= {"audit": audit_target(old.record), "head": heads[0] if heads else "", "heads": heads, **why}
    traces.write(f"{dumps(kept)}\n".encode())
    traces.flush()
    os.fsync(traces.fileno())
    away = project / _AWAY
    away.mkdir(mode=0o700, exist_ok=True)
    old.folder.rename(away / old.folder.name)
    shutil.rmtree(away)


def _heads(old: Old) -> list[str]:
    """The heads of the audit that the journal has: from the run's closing, and from what was added. None of a thrown-away one."""
    if old.record["run"].get("rehearsal") or thrown_away(old.record):
        return []
    found = [event.data.get("head") for event in events_of(old.folder, ("audit.closed", "audit.added"))]
    return [head for head in found if head]
