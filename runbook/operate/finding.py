"""Finding runs and their records: on this disk, and in the audits of the project."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from runbook.engine.record import Record
from runbook.language.model import Runbook
from runbook.language.problems import RunbookError
from runbook.operate.limits import bounded
from runbook.operate.runs import NoSuchRun, all_runs, find_run, outline_of, record_of, runs_folder

if TYPE_CHECKING:
    from runbook.operate.audits import Audits
    from runbook.records.history import Asked, Entry


class Found(NamedTuple):
    """The record of a run, and its folder where that is on this disk."""

    record: Record
    folder: Path | None


class Pruned(NoSuchRun):
    """A run of which only the row is left."""


def find_record(name: str, databases: Mapping[str, str]) -> Found:
    """The run that `name` means: an id, a unique beginning of one, or `last`; on this disk, else in an audit.

    `databases` are URLs by connection name ("" for any) of audits to look into. Raises NoSuchRun or JournalError.
    """
    try:
        folder = find_run(name)
        with bounded(str(folder), memory=True):
            return Found(record_of(folder), folder)
    except NoSuchRun as unknown:
        with History(databases) as history:
            return Found(history.record(name, unknown), None)


class History:
    """All that ran: what the audits of the project have, and what only this disk has. A context manager.

    `sources` says where the rows come from, `troubles` which servers should have been asked and do not answer.
    """

    def __init__(self, databases: Mapping[str, str], runbook: Runbook | None = None) -> None:
        self._databases, self._runbook = databases, runbook
        self._stack = ExitStack()

    def __enter__(self) -> History:
        from runbook.operate.audits import open_audits

        self.audits: Audits = self._stack.enter_context(open_audits(self._databases, self._runbook))
        self.troubles = list(self.audits.troubles)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def sources(self) -> list[str]:
        return [f"the audit in {target}" for target in self.audits.found] or [f"the journals in {runs_folder()}"]

    def entries(self, asked: Asked) -> list[Entry]:
        """The runs that are asked for, newest first."""
        from runbook.records.history import from_audit, newest

        found: dict[str, Entry] = {}
        for target, connection in list(self.audits.found.items()):
            try:
                found |= {entry["id"]: entry for entry in from_audit(connection, asked)}
            except RunbookError as error:
                self.troubles.append(f"{target}: {error}")
                del self.audits.found[target]
        return newest([*found.values(), *self._on_disk(asked)], asked.limit)

    def _on_disk(self, asked: Asked) -> Iterable[Entry]:
        """The runs that no audit has; a rehearsal is none."""
        from runbook.records.history import entry_of, fits

        folders = {folder.name: folder for folder in all_runs()}
        for run_id in self._in_audits(list(folders)):
            del folders[run_id]
        for folder in folders.values():
            try:
                record = outline_of(folder)
            except RunbookError as error:
                self.troubles.append(str(error))
                continue
            if record["run"]["id"] and not record["run"].get("rehearsal") and fits(entry_of(record), asked):
                yield entry_of(record)

    def _in_audits(self, run_ids: list[str]) -> set[str]:
        from runbook.database.connect import translated
        from runbook.records.audit import queries

        found: set[str] = set()
        for connection in self.audits.found.values():
            with translated():
                found |= {row[0] for row in connection.execute(queries()["known_runs"], [run_ids])}
        return found

    def records(self, run_ids: Sequence[str]) -> dict[str, Record]:
        """The records of runs, by id; pruned ones are not among them."""
        from runbook.records.history import records_from

        found: dict[str, Record] = {}
        folder = runs_folder()
        for run_id in run_ids:
            if (folder / run_id / "journal.jsonl").is_file():
                found[run_id] = record_of(folder / run_id)
        for connection in self.audits.found.values():
            missing = [run_id for run_id in run_ids if run_id not in found]
            if missing:
                found |= records_from(connection, missing)
        return found

    def record(self, name: str, unknown: NoSuchRun) -> Record:
        """The record of the one run that `name` means in the audits. Raises NoSuchRun, `unknown` where no audit has it."""
        from runbook.database.connect import translated
        from runbook.records.audit import queries

        names: list[str] = []
        for connection in self.audits.found.values():
            with translated():
                if name == "last":
                    rows = connection.execute(queries()["newest_run"])
                else:
                    pattern = name.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%") + "%"
                    rows = connection.execute(queries()["runs_beginning"], [pattern, name])
                names += [row[0] for row in rows]
        if not names:
            tried = [*(f"nor is `{name}` in {target}" for target in self.audits.found), *self.troubles]
            raise NoSuchRun("; ".join([str(unknown), *tried]))
        if name == "last":
            names = [max(names)]
        if len(names) > 1 and names[0] != name:
            raise NoSuchRun(f"`{name}` could be {', '.join(names[:5])}")
        found = self.records(names[:1])
        if names[0] not in found:
            raise Pruned(self._pruned(names[0]))
        return found[names[0]]

    def _pruned(self, run_id: str) -> str:
        from runbook.language.values import loads
        from runbook.records.audit import queries

        for connection in self.audits.found.values():
            for _, kind, line, _head in connection.execute(queries()["later_entries"], [[run_id]]):
                if kind == "pruned":
                    facts = loads(line)
                    return f"the records of run {run_id} were pruned by {facts['operator']} at {facts['at']}"
        return f"the audit has the row of run {run_id} and none of its events: look with `runbook audit verify`"
