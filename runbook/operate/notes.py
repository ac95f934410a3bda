"""Adding to the notes of a finished run, and keeping what a person wrote into its run log by hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from runbook.engine.record import Record
from runbook.language.document import parse_document
from runbook.language.includes import included
from runbook.language.problems import InvalidRunbook, RunbookError
from runbook.language.values import to_data
from runbook.operate.reaching import Way
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


class CannotNote(RunbookError):
    """A note would leak a secret, or what a person wrote would be lost."""


class Noted(NamedTuple):
    """What came of it: the record as it is now, and what a person should know."""

    record: Record
    warnings: list[str]


def add_note(folder: Path, text: str, way: Way) -> Noted:
    """Adds `text` to the run in `folder`: to its journal, then to its audit and its run log. Raises NotFinished, CannotNote or
    JournalError.

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
    return Noted(closed.record, [*warnings, *filter(None, (closed.trouble, closed.notice))])


def _masks(record: Record) -> Masks:
    """The secrets that the runbook declares, as far as they are known here. Raises CannotNote where their names are not."""
    around = record["circumstances"]
    if "text" not in around:
        return Masks()
    file = Path(around["file"])
    try:
        document, _, problems = included(parse_document(around["text"], str(file)), file.parent)
    except InvalidRunbook as error:
        problems = list(error.problems)
    if problems:
        raise CannotNote(f"no note is added, since it is not known which secrets to mask: {problems[0]}")
    declared: dict[str, Any] = document.data.get("secrets") or {}
    names = [item.get("env") for item in declared.values() if isinstance(item, dict)]
    return Masks([os.environ[name] for name in names if isinstance(name, str) and name in os.environ])


def _by_hand(record: Record, warnings: list[str]) -> str | None:
    """What a person wrote into the Notes of the run log; None where there is no run log that could tell. Raises CannotNote."""
    path = Path(record["report"] or "")
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        warnings.append(
            f"the run log is no UTF-8 text ({error.reason}); as it was, it is kept in {_set_aside(path, raw)}"
        )
        return None
    try:
        bare, ours = render({**record, "notes": [], "handwritten": ""}), render(record)
    except ReportError:
        bare = ours = ""
    before, _, after = split_notes(bare) or ("", [], "")
    notes = _between(text, before, after)
    if notes is None:
        begins = after.split("\n")[:3]
        found = split_notes(text, begins)
        expected = split_notes(ours, begins)
        if found is None or expected is None or (found[0], found[2]) != (expected[0], expected[2]):
            aside = _set_aside(path, raw)
            warnings.append(f"the run log was changed outside of its Notes; as it was, it is kept in {aside}")
        if found is None:
            return None
        notes = found[1]
    known = ["- None", *note_lines(record)]
    return "\n".join(line for line in notes if line not in known).strip("\n")


def _set_aside(path: Path, raw: bytes) -> Path:
    """A copy of a run log beside it, under a name that is free. Raises CannotNote."""
    stem = f"{path.stem}_edited_{datetime.now(UTC):%Y%m%d_%H%M%S}"
    names = (f"{stem}_{number}" if number else stem for number in count())
    aside = next(place for name in names if not (place := path.with_name(name + path.suffix)).exists())
    try:
        write_aside(aside, [raw])
    except OSError as error:
        raise CannotNote(f"the run log was changed by hand, and no copy of it can be kept: {error}") from None
    return aside


def _between(text: str, before: str, after: str) -> list[str] | None:
    """The lines between what comes before the Notes and what comes after them; None where `text` does not have both."""
    head, tail = f"{before}\n", f"\n{after}" if after else ""
    if not before or not (text.startswith(head) and text.endswith(tail)) or len(text) < len(head) + len(tail):
        return None
    return text[len(head) : len(text) - len(tail)].split("\n")


def split_notes(text: str, begins: Sequence[str] = ()) -> tuple[str, list[str], str] | None:
    """A run log before its Notes, the lines of its Notes, and what comes after; None where it has none.

    What comes after begins with the last lines like `begins`, else with the next section or a line before it.
    """
    lines = text.split("\n")
    if HEADING not in map(str.rstrip, lines):
        return None
    start = [line.rstrip() for line in lines].index(HEADING) + 1
    same = [i for i in range(start, len(lines)) if lines[i : i + len(begins)] == [*begins]] if any(begins) else []
    ends = same[-1:] or [i for i in range(start, len(lines)) if lines[i].startswith("## ") or lines[i] == "---"]
    end = ends[0] if ends else len(lines)
    return "\n".join(lines[:start]), lines[start:end], "\n".join(lines[end:])
