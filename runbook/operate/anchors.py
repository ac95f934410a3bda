"""Heads of the chain that are kept outside of the audit: in the runs' own journals, in run logs, and in what pruning left."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from runbook.engine.record import Event
from runbook.language.problems import RunbookError
from runbook.language.values import loads
from runbook.operate.reaching import audit_target, thrown_away
from runbook.operate.runs import all_runs, events_of, is_run_id, outline_of, project_here, runs_folder
from runbook.records.journal import Line, read_journal
from runbook.records.verify import Anchor

_HEAD = re.compile(r"^- audit: confirmed, head `+ ?([0-9a-f]{64}) ?`+$", re.MULTILINE)
_RUN = re.compile(r"^- run: `+ ?(\S+) ?`+$", re.MULTILINE)
_CONNECTION = re.compile(r"^- connection .*: `+ ?([^`]+?) ?`+$", re.MULTILINE)
_TEMPORARY = re.compile(r"_tmp_[0-9a-f]{8} on ")
LEFT = "pruned.jsonl"  # in .runbook: what stays of the runs whose folders were pruned


class NoHead(RunbookError):
    """A file that should tell a head has none."""


class LogHead(NamedTuple):
    """The head that a run log tells, and where the run's connections led: in one of those places lies its audit."""

    anchor: Anchor
    places: list[str]


def from_log(path: Path) -> LogHead:
    """The head that a run log tells. Raises NoHead, also where its audit was thrown away with a copy."""
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise NoHead(f"{path}: {error.strerror}") from None
    head, run = _HEAD.search(text), _RUN.search(text)
    if head is None:
        raise NoHead(f"{path}: it tells no head of an audit: it is no run log, or the audit was off or pending by then")
    connections = _CONNECTION.findall(text)
    if "\n**Rehearsal**: " in text or any(map(_TEMPORARY.search, connections)):
        raise NoHead(f"{path}: its audit was thrown away with the copies that it ran on")
    return LogHead(Anchor(head[1], str(path), run[1] if run else ""), [place_of(target) for target in connections])


def from_disk(target: str) -> Iterator[Anchor]:
    """The heads that this project's own journals have of the audit in `target`, and those of pruned ones."""
    for folder in all_runs():
        with suppress(RunbookError):
            yield from _of_run(folder, target)
    with suppress(OSError):
        for line in (project_here() / LEFT).read_bytes().splitlines():
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                yield from _left(loads(line), target)


def _left(kept: Mapping[str, Any], target: str) -> list[Anchor]:
    """The heads of a run whose folder was pruned: that of its closing, and those of what was added since."""
    if place_of(kept["audit"]) != place_of(target):
        return []
    source, closing = f"{LEFT}, where its journal left it", kept["head"]
    found = [Anchor(closing, source, kept["id"], kept["finished_at"])] if closing else []
    later = [head for head in kept.get("heads", ()) if head and head != closing]
    return found + [Anchor(head, source, kept["id"], kept["at"], later=True) for head in later]


def _of_run(folder: Path, target: str) -> Iterator[Anchor]:
    record = outline_of(folder)
    head = record["audit"].get("head")
    kept_nowhere = record["run"].get("rehearsal") or thrown_away(record)
    if not head or kept_nowhere or place_of(audit_target(record)) != place_of(target):
        return
    source = f"its journal, {folder / 'journal.jsonl'}"
    yield Anchor(head, source, folder.name, record["run"].get("finished_at") or "")
    for event in events_of(folder, ("audit.added",)):
        yield Anchor(event.data["head"], source, folder.name, event.at, later=True)


def place_of(target: str) -> str:
    """Where an audit lies, whoever looks at it."""
    return target.rpartition(" as ")[0]


def own_journal(run_id: str) -> Sequence[Line] | None:
    """The lines of a run's journal, where it is on this disk and the audit has no other end of the run. Raises JournalError."""
    if not is_run_id(run_id):
        return None
    path = runs_folder() / run_id / "journal.jsonl"
    lines = list(read_journal(path)) if path.is_file() else None
    return None if lines and any(_superseded(line.event) for line in lines) else lines


def _superseded(event: Event) -> bool:
    return event.kind == "audit.closed" and event.data.get("status") == "superseded"
