"""Finding runs and their records: on this disk, and in the audits of the project."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from heapq import merge
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from runbook.engine.record import Record
from runbook.language.model import Runbook
from runbook.language.problems import RunbookError
from runbook.operate.limits import bounded
from runbook.operate.runs import (
    NoSuchRun,
    all_runs,
    find_run,
    has_journal,
    is_run_id,
    outline_of,
    record_of,
    runs_folder,
)
from runbook.records.journal import JournalError

if TYPE_CHECKING:
    from runbook.operate.audits import Audits
    from runbook.records.history import Asked, Entry


STATEMENT_SECONDS = 60  # in which an audit must answer


class Found(NamedTuple):
    """The record of a run, and its folder where that is on this disk; `trouble` says why it is not from the journal there."""

    record: Record
    folder: Path | None
    trouble: str = ""


class Pruned(NoSuchRun):
    """A run of which only the row is left."""


def find_record(name: str, databases: Mapping[str, str]) -> Found:
    """The run that `name` means: an id, a unique beginning of one, or `last`; on this disk, else in an audit.

    `databases` are URLs by connection name ("" for any) of audits to look into. Raises NoSuchRun, or JournalError where the
    run's journal is damaged and no audit has it.
    """
    try:
        folder = find_run(name)
    except NoSuchRun as unknown:
        with History(databases) as history:
            return Found(history.record(name, unknown), None)
    try:
        with bounded(str(folder), memory=True):
            return Found(record_of(folder), folder)
    except JournalError as damaged:
        with History(databases) as history:
            found = history.from_audits([folder.name])
        if folder.name not in found:
            raise
        return Found(found[folder.name], folder, f"{damaged}; this is what the audit has of it")


class History:
    """All that ran: what the audits of the project have, and what only this disk has. A context manager.

    `sources` says where the rows come from, `troubles` which servers should have been asked and do not answer.
    """

    def __init__(self, databases: Mapping[str, str], runbook: Runbook | None = None) -> None:
        self._databases, self._runbook = databases, runbook
        self._stack = ExitStack()
        self._on_disk: list[Entry] = []

    def __enter__(self) -> History:
        from runbook.database.connect import translated
        from runbook.operate.audits import open_audits

        self.audits: Audits = self._stack.enter_context(open_audits(self._databases, self._runbook))
        self.troubles = list(self.audits.troubles)
        for connection in self.audits.found.values():
            with translated():
                connection.execute(f"SET statement_timeout = '{STATEMENT_SECONDS}s'".encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def sources(self) -> list[str]:
        """Where the rows that were given out come from."""
        audits = [f"the audit in {target}" for target in self.audits.found]
        return [*audits, *[f"the journals in {runs_folder()}"] * (bool(self._on_disk) or not audits)]

    def entries(self, asked: Asked) -> list[Entry]:
        """The runs that are asked for, newest first."""
        with closing(self.stream(asked)) as found:
            return list(found)

    def stream(self, asked: Asked) -> Generator[Entry, None, None]:
        """The same one by one, never all of them in memory. What fails meanwhile is told in `troubles`."""
        from runbook.records.history import age

        with ExitStack() as stack:
            sources = []
            for target in list(self.audits.found):
                rows = stack.enter_context(closing(self._rows(target, asked)))
                first = list(islice(rows, 1))  # what an audit does not tell is asked of the journals
                sources.append(chain(first, rows))
            self._on_disk = sorted(self._unknown(asked), key=age, reverse=True)
            yield from islice(_once(merge(*sources, self._on_disk, key=age, reverse=True)), asked.limit)

    def _rows(self, target: str, asked: Asked) -> Generator[Entry, None, None]:
        from runbook.records.history import from_audit

        try:
            yield from from_audit(self.audits.found[target], asked)
        except RunbookError as error:
            self.troubles.append(f"{target}: {error}")
            del self.audits.found[target]

    def count(self, asked: Asked) -> int:
        """How many runs are asked for, however many of them are to be given; a run that two audits have counts twice."""
        from runbook.records.history import count_in_audit

        every = asked._replace(limit=None)
        found = sum(count_in_audit(connection, every) for connection in self.audits.found.values())
        return found + sum(1 for _ in self._unknown(every))

    def _unknown(self, asked: Asked) -> Iterator[Entry]:
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
        from runbook.operate.audits import known_runs

        return set[str]().union(*(known_runs(connection, run_ids) for connection in self.audits.found.values()))

    def records(self, run_ids: Sequence[str]) -> dict[str, Record]:
        """The records of runs, by id; pruned ones are not among them."""
        found: dict[str, Record] = {}
        folder = runs_folder()
        for run_id in run_ids:
            if is_run_id(run_id) and has_journal(folder / run_id):
                try:
                    found[run_id] = record_of(folder / run_id)
                except JournalError as error:
                    self.troubles.append(str(error))
        return found | self.from_audits([run_id for run_id in run_ids if run_id not in found])

    def from_audits(self, run_ids: Sequence[str]) -> dict[str, Record]:
        """The records of runs, by id, that the audits have."""
        from runbook.records.history import records_from

        found: dict[str, Record] = {}
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
                    with suppress(ValueError, KeyError, TypeError):
                        facts = loads(line)
                        return f"the records of run {run_id} were pruned by {facts['operator']} at {facts['at']}"
        return f"the audit has run {run_id} and no whole record of it: look with `runbook audit verify`"


def _once(entries: Iterator[Entry]) -> Iterator[Entry]:
    """The runs, without those that the one before is: two audits may have the same."""
    last = None
    for entry in entries:
        if entry["id"] != last:
            yield entry
        last = entry["id"]
