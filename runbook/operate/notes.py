"""Adding to the notes of a finished run, and keeping what a person wrote into its run log by hand."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from runbook.engine.record import Record
from runbook.language.problems import RunbookError
from runbook.language.values import to_data
from runbook.operate.reaching import Unreachable, Way, runbook_of
from runbook.operate.recovery import recover
from runbook.operate.runs import fold_lines, mark_open
from runbook.records.files import write_aside
from runbook.records.journal import read_journal, reopen_journal
from runbook.records.masks import Masks
from runbook.records.report import ReportError, render
from runbook.records.runlog import note_lines

HEADING = "## Notes"


class NotFinished(RunbookError):
    """The run is not over, or another command is at it."""


class Noted(NamedTuple):
    """What came of it: the record as it is now, and what a person should know."""

    record: Record
    warnings: list[str]


def add_note(folder: Path, text: str, way: Way) -> Noted:
    """Adds `text` to the run in `folder`: to its journal, then to its audit and its run log. Raises NotFinished or JournalError.

    Where the audit cannot be reached now, the run is open again until a later command completes it.
    """
    journal = reopen_journal(folder)
    if journal is None:
        raise NotFinished(f"run {folder.name} goes on, or another command is at it: add the note when it is over")
    warnings: list[str] = []
    try:
        record = fold_lines(read_journal(journal.path), journal.path)
        if not record["run"]["verdict"]:
            raise NotFinished(f"run {folder.name} is not over: close it first (runbook recover {folder.name})")
        masks = _masks(record)
        found = _by_hand(record, warnings)
        mark_open(folder)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        if found is not None and found != record["handwritten"]:
            journal.append(now, "note.added", {"text": masks.text(found), "handwritten": True})
        journal.append(now, "note.added", to_data({"text": masks.text(text)}))
    finally:
        journal.close()
    closed = recover(folder, way, lambda record: None)
    if closed is None:
        raise NotFinished(f"run {folder.name}: another command is at it")
    return Noted(closed.record, [*warnings, *([closed.trouble] if closed.trouble else [])])


def _masks(record: Record) -> Masks:
    """The secrets that the runbook declares, as far as they are known here."""
    with suppress(Unreachable):
        names = runbook_of(record).secrets.values()
        return Masks([os.environ[name] for name in names if name in os.environ])
    return Masks()


def _by_hand(record: Record, warnings: list[str]) -> str | None:
    """What a person wrote into the Notes of the run log; None where there is no run log that could tell."""
    path = Path(record["report"] or "")
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    before, notes, after = split_notes(text)
    try:
        expected = split_notes(render(record))
    except ReportError:
        expected = ("", [], "")
    if (before, after) != (expected[0], expected[2]):
        aside = path.with_name(f"{path.stem}_edited_{datetime.now(UTC):%Y%m%d_%H%M%S}{path.suffix}")
        with suppress(OSError):
            write_aside(aside, [text.encode()])
            warnings.append(f"the run log was changed outside of its Notes; as it was, it is kept in {aside}")
    ours = ["- None", *note_lines(record)]
    left = [line for line in notes if line not in ours]
    return "\n".join(left).strip("\n")


def split_notes(text: str) -> tuple[str, list[str], str]:
    """A run log before its Notes, the lines of its Notes, and what comes after: the next section, or the line before it."""
    lines = text.split("\n")
    if HEADING not in lines:
        return text, [], ""
    start = lines.index(HEADING) + 1
    end = next((i for i in range(start, len(lines)) if lines[i].startswith("## ") or lines[i] == "---"), len(lines))
    return "\n".join(lines[:start]), lines[start:end], "\n".join(lines[end:])
