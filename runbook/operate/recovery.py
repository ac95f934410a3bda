"""What becomes of runs whose runner is gone: concluded, their remains ended, their audit and run log completed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runbook.engine.record import Record, apply, under_way
from runbook.language.model import Runbook
from runbook.language.values import to_data
from runbook.operate.alive import boot_id, here
from runbook.operate.failpoints import failpoint
from runbook.operate.reaching import Unreachable, Way, audit_target, runbook_of, thrown_away, url_of
from runbook.operate.runs import fold_lines, mark_closed, marked_at
from runbook.operate.servers import CannotStart
from runbook.records.journal import Journal, Line, read_journal, reopen_journal
from runbook.records.report import ReportError, rewrite_report, write_report

if TYPE_CHECKING:
    from runbook.database.connect import Connection
    from runbook.language.model import Runbook
    from runbook.system.remains import Remnant

NEWBORN = 60.0  # seconds within which a journal without a record is taken for one that is about to begin
PATIENCE = 3  # seconds in which a server must take a connection


class Recovered(NamedTuple):
    """What was found of one run and done about it.

    `left` still runs; `trouble` says what keeps its books open; `elsewhere` that this is only a server that was not to be tried;
    `notice` what a person should know although the books are closed.
    """

    folder: Path
    record: Record
    left: Sequence[Remnant] = ()
    trouble: str = ""
    elsewhere: bool = False
    notice: str = ""


def recover(folder: Path, way: Way, grace: Callable[[Record], float | None]) -> Recovered | None:
    """Concludes the run in `folder` if its runner is gone, and closes its books as far as that can be done now.

    Processes that still run of its step are ended within so many seconds as `grace` gives, or left where it gives None.
    None where the runner lives, or the run never began. Raises JournalError where its journal cannot be trusted or written.
    """
    if not (folder / "journal.jsonl").exists():
        _forget(folder)
        return None
    journal = reopen_journal(folder)
    if journal is None:
        return None
    try:
        case = _Case(folder, journal)
        if not case.lines:
            _forget(folder)
            return None
        case.conclude(grace)
        trouble = case.complete_audit(way)
        if not trouble or case.record["report"]:
            trouble = "; ".join(filter(None, (trouble, case.write_report())))
        if case.record["circumstances"].get("notify") and not case.elsewhere:
            from runbook.operate.notify import notify_later

            notify_later(case.record, folder.parent.parent, case.emit, way)
        if not trouble and not case.left:
            mark_closed(folder)
        return Recovered(folder, case.record, case.left, trouble, case.elsewhere, case.notice)
    finally:
        journal.close()


def _forget(folder: Path) -> None:
    if time.time() - marked_at(folder) > NEWBORN:
        mark_closed(folder)


class _Case:
    """One run whose journal is ours to continue."""

    def __init__(self, folder: Path, journal: Journal) -> None:
        self.folder, self.journal = folder, journal
        self.lines: list[Line] = list(read_journal(journal.path))
        self.record = fold_lines(self.lines, journal.path)
        self._project = folder.parent.parent
        self.left: Sequence[Remnant] = ()
        self.elsewhere = False
        self.notice = ""
        self._grace: float | None = None

    def emit(self, kind: str, data: dict[str, Any]) -> None:
        failpoint(f"before-recovery-{kind}")
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = self.journal.append(at, kind, to_data(data))
        self.lines.append(line)
        apply(self.record, line.event)
        failpoint(f"after-recovery-{kind}")

    # --- lost -------------------------------------------------------------------------------------------------

    def conclude(self, patience: Callable[[Record], float | None]) -> None:
        """Looks for what still runs of the step, ends it where that is asked for, and writes down that the run is lost."""
        run = self.record["run"]
        lost = run["verdict"] is None
        step = under_way(self.record)
        if not lost and not run.get("left"):
            return
        self._grace = grace = patience(self.record)
        found = self._remains(step)
        ended: list[int] = []
        if found and grace is not None:
            from runbook.system.remains import end_remains

            self.left = end_remains(found, grace)
            ended = [item.pid for item in found if item.pid not in {left.pid for left in self.left}]
        else:
            self.left = found
        left = [{"pid": item.pid, "started": item.started, "command": item.command} for item in self.left]
        if lost:
            found_out = {"because": self._because(step), "step": step, "left": left, "ended": ended}
            self.emit("run.lost", {**self._last_sign(), **found_out})
        elif len(left) != len(run["left"]):
            self.emit("remains.ended", {"ended": ended, "left": left})

    def _remains(self, step: str) -> Sequence[Remnant]:
        run = self.record["run"]
        if not here(run):
            return ()
        from runbook.system.remains import find_remains

        tries: Any = self.record["steps"][step]["tries"] if step and run.get("boot_id") == boot_id() else []
        roots = [(item["pid"], float(item["started"])) for item in tries if item.get("started") is not None]
        found = find_remains(run["id"], roots)
        known = {pid for pid, _ in roots}
        # What another step left on purpose is its own; a probe's process names no step. An argument may be a secret.
        ours = [item for item in found if item.step in (step, "") or item.pid in known]
        return [item._replace(command=Path(item.command.split(" ")[0]).name) for item in ours]

    def _last_sign(self) -> dict[str, Any]:
        """The last moment at which the run is known to have lived: its last event, or what its step printed last."""
        last = datetime.fromisoformat(self.lines[-1].event.at)
        with suppress(OSError):
            last = max(last, datetime.fromtimestamp((self.folder / "output.log").stat().st_mtime, UTC))
        began = self.record["run"]["started_at"]
        duration = (last - datetime.fromisoformat(began)).total_seconds() if began else 0
        return {"finished_at": last.isoformat(timespec="milliseconds"), "duration": round(max(duration, 0), 3)}

    def _because(self, step: str) -> str:
        run = self.record["run"]
        stage = run.get("stage", "the beginning")
        where = (
            f"step `{step}` had begun and its outcome is not known"
            if step
            else f"no step was under way (stage: {stage})"
        )
        what = "died" if here(run) else "gave no sign of life, and its lock was free"
        return f"the runner (pid {run.get('pid')} on {run.get('host')}) {what}; {where}"

    # --- the books --------------------------------------------------------------------------------------------

    def complete_audit(self, way: Way) -> str:
        """Brings the audit up to the journal; why it cannot be done now, or nothing."""
        if self.record["rehearsal"]:
            return self._drop_copies(way)
        status = self.record["run"].get("audit")
        gone = thrown_away(self.record)
        if not status and (gone or self.record["run"].get("epoch") is None):
            self.emit("audit.closed", {"status": "disabled", "head": "", "because": ""})
            return ""
        closed = status in ("confirmed", "failed")
        if status in ("disabled", "superseded") or gone or (closed and not self._notes_after("audit.added")):
            return ""
        from runbook.database.connect import ServerError
        from runbook.records.audit import AuditError
        from runbook.records.imports import Diverged, add_lines

        try:
            with ExitStack() as stack:
                connection = self._connected(way, stack)
                if not closed:
                    self._import(connection, way)
                if self._notes_after("audit.added"):
                    last = self.lines[-1].event.seq
                    head, pruned = add_lines(connection, self.record, self.lines)
                    self.emit("audit.added", {"last_seq": last, "head": head})
                    if pruned:
                        self.notice = "the run was pruned from the audit: the note is in its journal and run log only"
        except (ServerError, AuditError, CannotStart, Diverged, Unreachable) as error:
            if isinstance(error, CannotStart) or getattr(error, "lost", False):
                way.away[audit_target(self.record)] = str(error)
            self.elsewhere = getattr(error, "elsewhere", False)
            return f"the audit is not complete: {error}"
        return ""

    def _notes_after(self, kind: str) -> bool:
        """Whether a note was added since the last event of that kind."""
        kinds = [line.event.kind for line in self.lines]
        last = max((index for index, known in enumerate(kinds) if known == kind), default=-1)
        return "note.added" in kinds[last + 1 :]

    def _drop_copies(self, way: Way) -> str:
        """What a rehearsal left goes; its audit lay in its copies and is gone with them."""
        if any(line.event.kind == "copies.dropped" for line in self.lines):
            return ""
        from runbook.database.clone import drop_leftovers
        from runbook.database.connect import ServerError

        try:
            with ExitStack() as stack:
                runbook = runbook_of(self.record, way)
                for name, target in self.record["rehearsal"]["sources"].items():
                    url = url_of(self.record, runbook, name, target, way, stack, self._project)
                    drop_leftovers(url, self.record["run"]["id"])
        except (ServerError, CannotStart, Unreachable) as error:
            return f"copies may be left: {error}"
        self.emit("copies.dropped", {"copies": {}})
        if not self.record["run"].get("audit"):
            self.emit("audit.closed", {"status": "disabled", "head": "", "because": ""})
        return ""

    def _connected(self, way: Way, stack: ExitStack) -> Connection:
        """The server that has the run's audit. Raises ServerError, CannotStart or Unreachable."""
        from runbook.database.connect import connect, translated
        from runbook.records.audit import LOCK_MS

        runbook = runbook_of(self.record, way)
        url = url_of(
            self.record, runbook, runbook.audit.connection, audit_target(self.record), way, stack, self._project
        )
        connection = connect(url, "runbook recover", connect_timeout=PATIENCE)
        stack.callback(connection.close)
        with translated():
            connection.execute(f"SET lock_timeout = {LOCK_MS}")
        return connection

    def _import(self, connection: Connection, way: Way) -> None:
        from runbook.database.connect import ServerError
        from runbook.records.imports import Superseded, end_sessions, import_run

        runbook = runbook_of(self.record, way)
        if self._grace is not None:
            end_sessions(connection, f"runbook {self.record['run']['id']}", self._grace)
        rows, because = self._due(runbook)
        lines = self._closed_lines()
        try:
            head, there = import_run(connection, self.record, lines, rows, because)
        except Superseded as superseded:
            self.emit("audit.closed", {"status": "superseded", "head": "", "because": str(superseded)})
            return
        except ServerError as error:
            if error.lost or not rows:
                raise
            because = f"audit.finished: {error}"
            head, there = import_run(connection, self.record, lines, [], because)
        if there:
            because = ""  # the run's own closing arrived, its rows with it
        self.emit("audit.closed", {"status": "failed" if because else "confirmed", "head": head, "because": because})

    def _closed_lines(self) -> list[Line]:
        """The lines that belong into the audit: all up to the record of the run's end."""
        ends = [i for i, line in enumerate(self.lines) if line.event.kind in ("run.finished", "run.lost")]
        return self.lines[: ends[0] + 1]

    def _due(self, runbook: Runbook) -> tuple[list[Any], str]:
        """The user's own closing rows: as the run left them, or rendered from its record; and why they cannot be written."""
        from runbook.database.connect import Dumped, ServerError, dumped
        from runbook.engine.replay import scope_of
        from runbook.language.expressions import EvaluationError
        from runbook.operate.books import statements_of

        for line in reversed(self.lines):
            if line.event.kind == "audit.due" and self._as_finished():
                due = line.event.data
                return [Dumped(**row) for row in due["statements"]], due["trouble"]
        row = runbook.audit.finished
        begun = runbook.audit.started is None or "started" in self.record["audit"]
        if row is None or self.record["run"].get("remedy") or not begun:
            return [], ""
        try:
            statements = statements_of(row, scope_of(self.record, runbook))
            return [dumped(query, values) for query, values in statements], ""
        except (EvaluationError, ServerError) as error:
            return [], f"audit.finished: {error}"

    def _as_finished(self) -> bool:
        """Whether the verdict is still the one with which the run finished: passed becomes errored without its audit."""
        finished = [line.event.data["verdict"] for line in self.lines if line.event.kind == "run.finished"]
        return finished == [self.record["run"]["verdict"]]

    def write_report(self) -> str:
        """The run log, where there is none yet or a note was added since; why it cannot be written, or nothing."""
        there, place = self.record["report"], self._report_place()
        if (there and not self._notes_after("report.written")) or place is None:
            return ""
        try:
            again = rewrite_report(Path(there), self.record) if there else None
            path, trouble = again or write_report(place, self.record)
            if trouble:
                self.emit("report.failed", {"because": trouble})
        except ReportError as error:
            return f"the run log is not written: {error}"
        self.emit("report.written", {"path": str(path)})
        return ""

    def _report_place(self) -> Path | None:
        """Where the run log belongs; that of a run from elsewhere, whose folder is not here, beside its journal."""
        text = self.record["run"].get("report_path")
        if not text:
            return None
        place = Path(text)
        return place if here(self.record["run"]) or place.parent.is_dir() else self.folder / place.name
