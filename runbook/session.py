"""The composition root: one run, with real servers, a real journal and a real clock behind the engine's ports."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runbook.engine.ports import Inputs, Ports, Prepared
from runbook.engine.record import Event, Record
from runbook.engine.run import run as run_engine
from runbook.language.expressions import EvaluationError, Scope
from runbook.language.load import Marks, bind_params
from runbook.language.model import Runbook, Step
from runbook.language.problems import InvalidRunbook
from runbook.language.templates import render_path, render_text
from runbook.operate.books import Books, Clock
from runbook.operate.cancel import Cancellation, signals
from runbook.operate.circumstances import git_state, host
from runbook.operate.circumstances import operator as system_operator
from runbook.operate.lock import FileLock, Holder
from runbook.operate.opening import opening
from runbook.operate.servers import CannotStart, NoConsent, project_folder
from runbook.operate.world import World
from runbook.records.journal import JournalError
from runbook.records.report import ReportError, write_report

if TYPE_CHECKING:
    from runbook.operate.lock import DatabaseLock

RECONNECT_FOR = 30.0


class Options(NamedTuple):
    """How a run is to be done, beside what it is. `fresh` asks embedded servers for a throw-away database,
    `seen` remembers params that were found valid before."""

    database: Mapping[str, str] = {}
    operator: str = ""
    note: str = ""
    strict: bool = False
    overrides: Mapping[str, str] = {}
    command_line: tuple[str, ...] = ()
    fresh: bool = False
    seen: Marks | None = None


def execute(
    runbook: Runbook,
    *,
    params: Mapping[str, Any] | None = None,
    database: str | Mapping[str, str] | None = None,
    options: Options | None = None,
    on_event: Callable[[Event], None] | None = None,
    on_output: Callable[[str, bytes], None] | None = None,
    consent: Callable[[str], bool] | None = None,
    cancellation: Cancellation | None = None,
) -> Record:
    """Runs `runbook` once and returns its record; a bad run is a value.

    `database` is a URL for the connection that holds audit, lock and clock, or URLs by connection name; `embedded` asks for
    the private PostgreSQL. Raises InvalidRunbook (a param does not fit), CannotStart (a server or a secret is missing),
    Locked (another run holds the lock).
    """
    options = options or Options()
    if database:
        named = {runbook.audit.connection: database} if isinstance(database, str) else database
        options = options._replace(database={**options.database, **named})
    values = bind_params(runbook, params or {}, options.seen)
    cancellation = cancellation or Cancellation()
    with ExitStack() as stack, signals(cancellation):
        session = _Session(runbook, values, options, cancellation, stack)
        session.take_lock(consent)
        session.open_books(on_event, on_output)
        return session.run()


def _verifies(runbook: Runbook) -> bool:
    """Whether anything in the runbook could turn out not to hold, beside its steps ending badly."""
    checks = any(check.expect for check in (*runbook.preflight, *runbook.postconditions))
    return checks or bool(runbook.expectations) or any(step.expectations or step.expect for step in runbook.steps)


def new_run_id(moment: datetime) -> str:
    """An id that sorts by time, to the millisecond: `20251210_143522-417-3f9a`."""
    return f"{moment:%Y%m%d_%H%M%S}-{moment.microsecond // 1000:03d}-{secrets.token_hex(2)}"


class _Session:
    """One run: its names, its lock, its books, and the ports made from them and from its world."""

    lock: DatabaseLock | FileLock
    clock: Clock
    books: Books
    inputs: Inputs
    report: Path

    def __init__(
        self, runbook: Runbook, params: dict[str, Any], options: Options, cancellation: Cancellation, stack: ExitStack
    ) -> None:
        self.runbook, self.params, self.options = runbook, params, options
        self.cancellation, self.stack = cancellation, stack
        self.git: Callable[[], dict[str, Any]] | None = git_state(runbook.folder)
        self.id = new_run_id(datetime.now(UTC))
        self.project = project_folder(runbook.path)
        self.operator = options.operator or system_operator()
        self.key = self._decided(("lock",), lambda: render_text(runbook.lock, self._scope()))
        self._names(datetime.now(UTC))  # what the params make of them is refused before anything is contacted
        self.world = World(runbook, self.id, self.project, options.database, cancellation, stack, fresh=options.fresh)
        self.operator = self.world.masks.text(self.operator)
        self._refuse_secret(("lock",), self.key)

    def _scope(self, **run: Any) -> dict[str, Any]:
        known: dict[str, Any] = {"params": self.params, "runbook": {"name": self.runbook.name}}
        return (
            {**known, "run": {"id": self.id, "operator": self.operator, "inputs": self.params, **run}} if run else known
        )

    def _decided(self, where: tuple[str, ...], action: Callable[[], str]) -> str:
        """Text that the params decide; a value that does not fit is the caller's mistake, and the runbook says where."""
        try:
            return action()
        except EvaluationError as error:
            raise InvalidRunbook([self.runbook.document.problem(where, str(error))]) from None

    def _refuse_secret(self, where: tuple[str, ...], text: str) -> None:
        if self.world.masks.text(text) != text:
            raise InvalidRunbook([self.runbook.document.problem(where, "a secret would stand here in the open")])

    # --- before anything is measured --------------------------------------------------------------------------

    def take_lock(self, consent: Callable[[str], bool] | None) -> None:
        """Asks for consent where a connection is protected, then locks and starts the clock."""
        self._ask_consent(consent)
        self.lock, self.clock = self._lock_by_server() if self.runbook.audit.connection else self._lock_by_file()
        self.stack.callback(self.lock.release)

    def _ask_consent(self, consent: Callable[[str], bool] | None) -> None:
        targets = self.world.targets()
        for name, item in self.runbook.connections.items():
            if item.protected and (consent is None or not consent(f"{name}: {targets[name]}")):
                raise NoConsent(f"connection `{name}` is protected ({targets[name]}): consent with --yes")

    def _lock_by_file(self) -> tuple[FileLock, Clock]:
        clock = Clock(datetime.now(UTC), time.monotonic())
        lock = FileLock(self.key)
        since = clock.started_at.isoformat(timespec="seconds")
        lock.acquire(Holder(self.id, host(), os.getpid(), self.operator, since))
        return lock, clock

    def _lock_by_server(self) -> tuple[DatabaseLock, Clock]:
        from runbook.database.connect import ServerError
        from runbook.operate.lock import DatabaseLock

        name = self.runbook.audit.connection
        try:
            lock = DatabaseLock(self.key, partial(self.world.connect, name))
            return lock, Clock(lock.acquire(), time.monotonic())
        except ServerError as error:
            raise CannotStart(f"connection `{name}`: {self.world.masks.text(str(error))}") from None

    def open_books(
        self, on_event: Callable[[Event], None] | None, on_output: Callable[[str, bytes], None] | None
    ) -> None:
        """Names, audit and journal; the run's first record in both."""
        self._choose_names()
        self.books = Books(self.world, self.clock, self.stack, on_event)
        warnings = self.world.servers.notes + self.books.open_audit(self.runbook, self.inputs, self.key)
        if not _verifies(self.runbook):
            warnings.append("nothing is predicted or checked: `passed` will only say that the steps ended well")
        self.books.open_journal(self.project / "runs" / self.id, on_output)
        self.world.on_output = self.books.output.take
        self.world.on_server = lambda name, version, warning: self.books.note(
            {f"PostgreSQL ({name})": version}, warning
        )
        self.books.begin(
            opening(
                self.runbook,
                self.inputs,
                connections=self.world.targets(),
                warnings=warnings,
                lock=self.key,
                note=self.options.note,
                journal=str(self.books.journal.path),
                command_line=self.options.command_line,
            )
        )

    def _names(self, moment: datetime) -> tuple[str, str, Path]:
        """Title, stamp and the place of the run log; the stamp gets a part of the id where a run log stands there."""
        stamp = f"{moment:%Y%m%d_%H%M%S}"
        first = self._scope(stamp=stamp, started_at=moment)
        title = self._decided(("title",), lambda: self.runbook.title.render(first))
        for candidate in (stamp, f"{stamp}_{self.id[-4:]}"):
            known = {"name": self.runbook.name, "title": title}
            scope = {**self._scope(stamp=candidate, started_at=moment), "runbook": known}
            place = partial(render_path, self.runbook.report_path, scope, strict=True)
            report = Path.cwd() / self._decided(("report", "path"), place)
            if not report.exists():
                break
        return title, candidate, report

    def _choose_names(self) -> None:
        moment = self.clock.started_at
        title, stamp, self.report = self._names(moment)
        self._refuse_secret(("report", "path"), str(self.report))
        self.inputs = Inputs(
            params=self.params,
            secrets=self.world.secrets,
            id=self.id,
            stamp=stamp,
            started_at=moment,
            operator=self.operator,
            title=title,
            strict=self.options.strict,
            overrides=self.options.overrides,
        )

    # --- the run ----------------------------------------------------------------------------------------------

    def run(self) -> Record:
        """The engine's loop, then the run log."""
        try:
            run_engine(self.runbook, self.inputs, self._ports())
            self._write_report()
        except JournalError as error:
            raise CannotStart(f"the run was broken off: {error}") from None
        return self.books.record

    def _ports(self) -> Ports:
        return Ports(
            emit=self.books.emit,
            snapshot=self.world.snapshot,
            prepare=self._prepare,
            audit_started=self.books.user_row,
            finish=self.books.close_run,
            settle=self._settle,
            now=self.clock.now,
            monotonic=time.monotonic,
            sleep=self.cancellation.sleep,
            cancelled=self.cancellation.reason,
            heed=self.cancellation.heed,
        )

    def _prepare(self, step: Step, scope: Scope, timeout: float) -> Prepared:
        if self.git is not None:
            found, self.git = self.git(), None
            if found:
                self.books.note(found)
        prepared = self.world.prepare(step, scope, timeout)

        def go() -> Any:
            try:
                return prepared.go()
            finally:
                self.books.output.settle()

        return prepared._replace(go=go)

    def _settle(self) -> str:
        """Before a step: the lock is still ours and the audit has all that happened; a server that is away is waited for."""
        deadline = time.monotonic() + RECONNECT_FOR
        while True:
            trouble: Exception | str | None = "the lock was lost"
            if self.lock.held() or self.lock.regain():
                trouble = self.books.flush()
                if trouble is None:
                    return ""
            final = isinstance(trouble, Exception) and not getattr(trouble, "lost", False)
            if final or time.monotonic() > deadline or self.cancellation.reason():
                return f"no further step is started: {trouble}"
            self.cancellation.sleep(0.5)

    def _write_report(self) -> None:
        """Renders the run log from the journal on disk."""
        try:
            path = write_report(self.report, self.books.read_back())
        except ReportError as error:
            self.books.emit("report.failed", {"because": f"the run log was not written: {error}"})
            return
        self.books.emit("report.written", {"path": str(path)})
