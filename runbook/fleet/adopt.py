"""Runs that have no journal here: one whose host is gone gets a copy of what the audit has; one that never began gets its own."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runbook.database.connect import Connection, describe, translated
from runbook.engine.judge import EXIT_CODES
from runbook.engine.ports import Inputs
from runbook.engine.record import Event
from runbook.fleet.turns import Submission, Turn, ask_to_end, claim, kept_files, settle
from runbook.language.load import Marks, load_text
from runbook.language.model import Runbook
from runbook.language.values import loads, to_data
from runbook.operate.naming import Naming
from runbook.operate.opening import opening
from runbook.operate.predecessors import GRACE
from runbook.operate.reaching import Way
from runbook.operate.recovery import Recovered, recover
from runbook.operate.runs import mark_closed, mark_open
from runbook.operate.servers import EMBEDDED
from runbook.records.files import write_new
from runbook.records.journal import Journal, JournalError, Line, create_journal, written


class Here:
    """What a process that looks after submitted runs has at hand: a URL of the queue's database, and a project for journals.

    `databases` is what was said of servers, by connection; "" is the queue's own.
    """

    def __init__(self, url: str, project: Path, databases: Mapping[str, str]) -> None:
        self.url, self.project, self.databases = url, project, databases
        self.target = describe(url)

    def folder(self, run_id: str) -> Path:
        """Where the run's records are, or will be."""
        return self.project / "runs" / run_id

    def way(self, run_id: str = "", runbook: Runbook | None = None, target: str = "") -> Way:
        """How to reach the audit of the runs, which a runner may have called by another name (`target`); no other is tried."""
        known = {run_id: runbook} if runbook else {}
        return Way(known={self.target: self.url, target or self.target: self.url}, known_only=True, runbooks=known)


def runbook_here(connection: Connection, here: Here, item: Submission, seen: Marks | None = None) -> Runbook:
    """The runbook as it was submitted, at its place in this project. Raises InvalidRunbook or ServerError."""
    root = here.project.parent.absolute()
    place = Path(os.path.normpath(root / item.file))
    if not place.parent.is_dir():
        place = root / place.name
    known = kept_files(connection, [item.sha256, *item.files.values()])
    beside = os.path.dirname(item.file)
    contents = {
        os.path.normpath(place.parent / os.path.relpath(name, beside or ".")): known[digest]
        for name, digest in item.files.items()
    }
    return load_text(known[item.sha256].decode("utf-8"), place, contents, seen)


def conclude_unbegun(
    connection: Connection, here: Here, turn: Turn, verdict: str, because: str, runbook: Runbook | None = None
) -> Recovered | None:
    """Ends a run that never began, in a journal of its own, in the audit and with a run log, like any other.

    Raises InvalidRunbook, ServerError or JournalError.
    """
    item, folder = turn.submission, here.folder(turn.submission.run_id)
    runbook = runbook or runbook_here(connection, here, item)
    clear(folder)
    journal = _opened(folder)
    try:
        with translated():
            row = connection.execute("SELECT clock_timestamp()").fetchone()
        moment: datetime = row[0].astimezone(UTC) if row else datetime.now(UTC)
        at = moment.isoformat(timespec="milliseconds")
        for kind, data in _story(here, turn, runbook, moment, journal.path, verdict, because):
            journal.append(at, kind, to_data(data))
    finally:
        journal.close()
    return recover(folder, here.way(item.run_id, runbook), lambda record: GRACE)


def withdraw(connection: Connection, here: Here, run_id: str, by: str) -> Recovered | None:
    """Ends a run that is still queued as cancelled; None where it is not queued any more. Raises as `conclude_unbegun`."""
    ask_to_end(connection, run_id, by)
    turn = claim(connection, run_id, None)
    if turn is None:
        return None
    found = conclude_unbegun(connection, here, turn, "cancelled", f"withdrawn by {by} before it began")
    settle(connection, run_id)
    return found


def _story(
    here: Here, turn: Turn, runbook: Runbook, moment: datetime, journal: Path, verdict: str, because: str
) -> Iterable[tuple[str, dict[str, Any]]]:
    item = turn.submission
    naming = Naming(runbook, item.params, item.run_id, item.operator)
    title, stamp, report = naming.at(moment)
    inputs = Inputs(dict(item.params), {}, item.run_id, stamp, moment, item.operator, title)
    connections = {runbook.audit.connection: here.target}
    yield (
        "run.opened",
        opening(
            runbook,
            inputs,
            connections=connections,
            embedded=[*connections] if here.databases.get("") == EMBEDDED else [],
            lock=item.lock,
            epoch=0,
            report_path=str(report),
            note=str(item.options.get("note", "")),
            journal=str(journal),
            submitted=turn.submitted.circumstances,
            warnings=[],
        ),
    )
    closing = {"verdict": verdict, "exit_code": EXIT_CODES[verdict], "finished_at": moment, "duration": 0}
    yield "run.finished", {**closing, "because": because}


def copy_journal(connection: Connection, here: Here, run_id: str) -> None:
    """A journal in this project with what the audit has of a run, all of it or nothing. Raises ServerError or OSError."""
    folder = here.folder(run_id)
    aside = here.project / "aside" / f"{run_id}.{secrets.token_hex(4)}"
    aside.mkdir(parents=True, mode=0o700)
    try:
        write_new(aside / "journal.jsonl", (written(line) for line in _lines(connection, run_id)))
        clear(folder)
        folder.parent.mkdir(exist_ok=True, mode=0o700)
        mark_open(folder)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def has_begun(folder: Path) -> bool:
    """Whether the journal in `folder` has a whole line: from then on it is the record of a run."""
    try:
        with (folder / "journal.jsonl").open("rb") as file:
            return file.readline().endswith(b"\n")
    except FileNotFoundError:
        return False


def clear(folder: Path) -> None:
    """Makes room for another start of a run, or another way to end it, where it never began."""
    if has_begun(folder):
        return
    for name in ("journal.jsonl", "output.log", "reserve"):
        with suppress(FileNotFoundError):
            (folder / name).unlink()
    with suppress(OSError):
        folder.rmdir()
    with suppress(OSError):
        mark_closed(folder)


def _opened(folder: Path) -> Journal:
    """A new journal in `folder`. Raises JournalError."""
    try:
        mark_open(folder)
    except OSError as error:
        raise JournalError(f"{error.filename}: {error.strerror}") from None
    return create_journal(folder)


def _lines(connection: Connection, run_id: str) -> Iterable[Line]:
    with translated():
        query = "SELECT line, previous, hash FROM runbook.events WHERE run_id = $1 ORDER BY seq"
        for text, previous, digest in connection.execute(query, [run_id]):
            data = loads(text)
            yield Line(Event(data["seq"], data["at"], data["kind"], data["data"]), text, previous, digest)
