"""The runs of a project, found by their journals."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from runbook.engine.record import Event, Record, apply, empty_record, fold
from runbook.language.problems import RunbookError, did_you_mean
from runbook.language.values import loads
from runbook.records.journal import JournalError, Line, read_journal

_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_OUTLINE = ("run.opened", "rehearsal.begun", "run.finished", "run.lost", "audit.closed")


class NoSuchRun(RunbookError):
    """No run, or more than one, is meant."""


def runs_folder() -> Path:
    """`.runbook/runs` of the project that the working directory lies in."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".runbook").is_dir():
            return folder / ".runbook" / "runs"
    return here / ".runbook" / "runs"


def project_here() -> Path:
    """`.runbook` of the project that the working directory lies in."""
    return runs_folder().parent


def is_run_id(text: str) -> bool:
    """Whether a run's id may be part of a path: one that stands in a database may be anything."""
    return _ID.fullmatch(text) is not None


def all_runs() -> list[Path]:
    """The folders of all runs of the project, oldest first; those that may not be looked into are among them."""
    return sorted(path for path in runs_folder().glob("*") if has_journal(path))


def has_journal(folder: Path) -> bool:
    """Whether there is a journal in `folder`; True where that may not be known."""
    try:
        return (folder / "journal.jsonl").is_file()
    except PermissionError:
        return True
    except OSError:
        return False  # a name that no folder can have


def find_run(name: str) -> Path:
    """The folder of the run that `name` means: an id, a unique beginning of one, or `last`. Raises NoSuchRun."""
    folder, known = runs_folder(), all_runs()
    if not known:
        raise NoSuchRun(f"there are no runs in {folder}")
    if name == "last":
        return known[-1]
    found = [path for path in known if path.name.startswith(name)]
    exact = [path for path in found if path.name == name]
    if len(found) == 1 or exact:
        return (exact or found)[0]
    if found:
        raise NoSuchRun(f"`{name}` could be {', '.join(path.name for path in found[:5])}")
    raise NoSuchRun(f"there is no run `{name}` in {folder}; {did_you_mean(name, [path.name for path in known[-200:]])}")


def mark_open(folder: Path) -> None:
    """Leaves a mark that the run in `folder` is not closed yet, which stands until it is closed in all its books."""
    marks = folder.parent.parent / "open"
    marks.mkdir(parents=True, exist_ok=True, mode=0o700)
    (marks / folder.name).touch(mode=0o600)


def mark_closed(folder: Path) -> None:
    """Takes the mark away."""
    (folder.parent.parent / "open" / folder.name).unlink(missing_ok=True)


def marked_at(folder: Path) -> float:
    """When the mark was left, in seconds since the epoch; long ago where there is none."""
    try:
        return (folder.parent.parent / "open" / folder.name).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def open_runs(project: Path) -> list[Path]:
    """The folders of the runs of `project` (its `.runbook`) that are not closed yet, oldest first. Raises JournalError."""
    try:
        names = sorted(os.listdir(project / "open"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JournalError(f"{project / 'open'}: {error.strerror}") from None
    return [project / "runs" / name for name in names]


def events_of(folder: Path, kinds: Container[str]) -> Iterator[Event]:
    """The events of some kinds in the journal of a run, without proof of the journal. Raises JournalError."""
    path = folder / "journal.jsonl"
    try:
        with path.open("rb") as file:
            for text in file:
                kind = text[: text.find(b', "data": ')].rpartition(b'"kind": ')[2].strip(b'"')
                if kind.decode("ascii", "replace") in kinds and text.endswith(b"\n"):
                    data = loads(text)
                    yield Event(data["seq"], data["at"], data["kind"], data["data"])
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise JournalError(f"{path}: these are not the events of a run ({type(error).__name__}: {error})") from None


def outline_of(folder: Path) -> Record:
    """The record of a run as far as its beginning and its end tell it, without proof of the journal. Raises JournalError."""
    record = empty_record()
    try:
        for event in events_of(folder, _OUTLINE):
            apply(record, event)
    except (KeyError, TypeError, AttributeError) as error:
        raise JournalError(f"{folder}: these are not the events of a run ({type(error).__name__}: {error})") from None
    return record


def record_of(folder: Path) -> Record:
    """The record of a run, from its journal alone. Raises JournalError."""
    path = folder / "journal.jsonl"
    return fold_lines(read_journal(path), path)


def fold_lines(lines: Iterable[Line], path: Path) -> Record:
    """The record that the lines of a journal tell. Raises JournalError."""
    try:
        return fold(line.event for line in lines)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise JournalError(f"{path}: these are not the events of a run ({type(error).__name__}: {error})") from None
