"""The books of one run: journal first, audit after it, and the record that both tell."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runbook.engine.judge import EXIT_CODES
from runbook.engine.ports import CannotTell, Confirmation, Inputs
from runbook.engine.record import Event, Record, apply, empty_record, fold
from runbook.language.expressions import EvaluationError, Scope
from runbook.language.model import Runbook, Sql
from runbook.language.templates import render_sql
from runbook.language.values import loads, to_data
from runbook.operate.circumstances import host, noted
from runbook.operate.failpoints import failpoint
from runbook.operate.output import OutputLog
from runbook.operate.runs import mark_open
from runbook.operate.servers import CannotStart
from runbook.operate.world import World
from runbook.records.journal import Journal, JournalError, create_journal, read_journal

if TYPE_CHECKING:
    from runbook.records.audit import Audit


class Clock(NamedTuple):
    """The database's time at the start, and what the monotonic clock said then."""

    started_at: datetime
    began: float

    def now(self) -> datetime:
        """The run's time, to the millisecond."""
        passed = round(time.monotonic() - self.began, 3)
        return self.started_at + timedelta(seconds=passed)


class Books:
    """Journal, audit and output log. Nothing is announced elsewhere before it stands in the journal."""

    output: OutputLog

    def __init__(self, world: World, clock: Clock, stack: ExitStack, on_event: Callable[[Event], None] | None) -> None:
        self._world, self.clock, self._stack, self._on_event = world, clock, stack, on_event
        self._journal: Journal | None = None
        self.record: Record = empty_record()
        self._audit: Audit | None = None

    def open_audit(self, runbook: Runbook, inputs: Inputs, lock: str, turn: int | None = None) -> list[str]:
        """Opens the audit where the runbook has one; what a person should know of it. Raises CannotStart.

        `turn` is the epoch of the start that this run is, where it was submitted.
        """
        name = runbook.audit.connection
        if not runbook.audit.enabled or not name:
            reason = "it is switched off" if name else "no postgres connection is declared"
            return [f"no audit in a database: {reason}; the journal is the only record"]
        from runbook.database.connect import ServerError
        from runbook.records.audit import Audit, AuditError, Identity

        masks = self._world.masks
        identity = Identity(
            run_id=inputs.id,
            runbook=runbook.name,
            title=masks.text(inputs.title),
            lock=lock,
            operator=inputs.operator,
            host=host(),
            pid=os.getpid(),
            started_at=inputs.started_at,
            sha256=runbook.sha256,
            params=masks.data(to_data(inputs.params)),
        )
        connect = partial(self._world.connect, name)
        try:
            self._audit = Audit(connect, turn)
            self._stack.callback(self._audit.close)
            self._audit.open(identity)
        except (ServerError, AuditError) as error:
            raise CannotStart(f"the audit cannot be written: {masks.text(str(error))}") from None
        return []

    @property
    def begun(self) -> bool:
        """Whether there is a journal."""
        return self._journal is not None

    @property
    def journal(self) -> Journal:
        assert self._journal is not None
        return self._journal

    def open_journal(self, folder: Path) -> None:
        """Creates the run's folder with its journal, unless it is open. Raises CannotStart."""
        if self._journal is not None:
            return
        try:
            mark_open(folder)
            self._journal = create_journal(folder)
            self._stack.callback(self._journal.close)
        except JournalError as error:
            raise CannotStart(str(error)) from None
        except OSError as error:
            raise CannotStart(f"{folder}: {error.strerror}") from None

    def open_output(self, show: Callable[[str, bytes], None] | None) -> None:
        """Creates the output log beside the journal. Raises CannotStart."""
        folder = self.journal.path.parent
        try:
            self.output = OutputLog(folder, self._world.masks, show or (lambda stream, data: None))
            self._stack.callback(self.output.close)
        except OSError as error:
            raise CannotStart(f"{folder}: {error.strerror}") from None

    def begin(self, opening: dict[str, Any]) -> None:
        """The first record, in the journal and in the audit, before anything is measured. Raises CannotStart."""
        self.emit("run.opened", opening)
        trouble = self.flush()
        if trouble is not None:
            because = f"the audit cannot be written: {self._world.masks.text(str(trouble))}"
            self.break_off("errored", because)
            raise CannotStart(because)

    def break_off(self, verdict: str, because: str) -> None:
        """The end of a run that never came to its first stage."""
        closing = {"verdict": verdict, "exit_code": EXIT_CODES[verdict], "finished_at": self.clock.now(), "duration": 0}
        self.emit("run.finished", {**closing, "because": because})

    def emit(self, kind: str, data: dict[str, Any]) -> None:
        """One event: masked, journaled, then told to whoever else wants to know. Raises JournalError."""
        clean = self._world.masks.data(to_data(data))
        if "text" in data.get("circumstances", {}):  # a password such as `postgres` is a word of many a runbook
            clean["circumstances"]["text"] = self._world.readable(data["circumstances"]["text"])
        failpoint(f"before-{kind}")
        line = self.journal.append(self.clock.now().isoformat(timespec="milliseconds"), kind, clean)
        apply(self.record, line.event)
        if self._audit is not None:
            self._audit.add(line)
        if self._on_event is not None:
            self._on_event(line.event)
        failpoint(f"after-{kind}")

    def process_started(self, step: str, pid: int, started: float | None) -> None:
        """A step's process, by which it can be found again if this one dies."""
        self.emit("process.started", {"step": step, "pid": pid, "started": started})

    @property
    def audit(self) -> Audit | None:
        """The audit in a database, where there is one."""
        return self._audit

    @property
    def epoch(self) -> int | None:
        """The fencing number under which the run writes; None without an audit in a database."""
        return None if self._audit is None else self._audit.epoch

    def unclosed(self) -> Record | None:
        """The record, as its first event tells it, of the run that had this lock before and was never closed."""
        if self._audit is None or not self._audit.unclosed:
            return None
        data = loads(self._audit.unclosed)
        record = empty_record()
        apply(record, Event(data["seq"], data["at"], data["kind"], data["data"]))
        return record

    def note(self, versions: dict[str, str], warning: str = "") -> None:
        """A circumstance that came to light during the run."""
        self.emit("circumstances.noted", noted(self.record, versions, warning))

    def settle_output(self) -> None:
        """After a step's process has ended: what is held back is written; a log that was cut is told of, once."""
        self.output.settle()
        trouble, self.output.trouble = self.output.trouble, ""
        if trouble:
            self.note({}, f"{self.output.path} does not have the whole output: {trouble}")

    def flush(self) -> Exception | None:
        """Brings the audit up to the journal; the ServerError where it cannot be done now."""
        if self._audit is None:
            return None
        from runbook.database.connect import ServerError

        try:
            self._audit.flush()
        except ServerError as error:
            return error
        return None

    def user_row(self, sql: Sql, scope: Scope) -> Any:
        """Writes the user's own opening row, and gives what it returns. Raises CannotTell or EvaluationError."""
        from runbook.database.connect import ServerError

        assert self._audit is not None
        self._world.cancellation.interrupt_with(self._audit.cancel)
        try:
            self._audit.flush()
            return self._audit.rows(statements_of(sql, scope))
        except ServerError as error:
            raise CannotTell(str(error)) from None
        finally:
            self._world.cancellation.interrupt_with(None)

    def close_run(self, sql: Sql | None, scope: Scope) -> Confirmation:
        """The user's closing row and the closing record in one transaction."""
        if self._audit is None:
            return Confirmation("disabled")
        from runbook.database.connect import ServerError, dumped

        try:
            statements, trouble = (statements_of(sql, scope) if sql else []), ""
        except (ServerError, EvaluationError) as error:
            statements, trouble = [], str(error)
        confirmation = self._audit.close_run(self.record["run"], statements, trouble)
        patience, cancellation = self._world.patience, self._world.cancellation
        while confirmation.status == "pending" and self._audit.away and patience.left():
            if trouble or cancellation.reason():
                break
            cancellation.sleep(1)
            confirmation = self._audit.confirm(self.record["run"], statements)
        if confirmation.status == "pending":
            due = [dumped(query, values)._asdict() for query, values in statements]
            self.emit("audit.due", {"statements": due, "trouble": trouble})
        return confirmation

    def read_back(self) -> Record:
        """The record as the journal on disk tells it. Raises JournalError."""
        return fold(line.event for line in read_journal(self.journal.path))


def statements_of(sql: Sql, scope: Scope) -> list[tuple[str, list[Any]]]:
    """The user's own rows as statements with their values. Raises EvaluationError or ServerError."""
    from runbook.database.connect import bound

    rendered = [render_sql(sql.text, scope, index) for index in range(len(sql.text.spans))]
    return [(statement.query, bound(statement.values)) for statement in rendered]
