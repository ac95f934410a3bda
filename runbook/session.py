"""The composition root: one run, with real servers, a real journal and a real clock behind the engine's ports."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runbook.engine.ports import Inputs, Ports, Prepared
from runbook.engine.record import Event, Record
from runbook.engine.run import run as run_engine
from runbook.language.expressions import Scope
from runbook.language.load import bind_params
from runbook.language.model import Runbook, Step
from runbook.language.problems import RunbookError
from runbook.operate.books import Books, Clock
from runbook.operate.cancel import Cancellation, signals
from runbook.operate.circumstances import host
from runbook.operate.circumstances import operator as system_operator
from runbook.operate.file_lock import FileLock
from runbook.operate.git import git_state
from runbook.operate.guardian import Guardian
from runbook.operate.lock import Holder, Locked, StoppedWaiting, patiently
from runbook.operate.naming import Naming
from runbook.operate.opening import opening
from runbook.operate.options import Options, new_run_id
from runbook.operate.predecessors import close_predecessors
from runbook.operate.reaching import Way
from runbook.operate.rehearsal import copy_databases, keep_proof, rehearsal_begun, stand_ins
from runbook.operate.resume import claim
from runbook.operate.runs import mark_closed, record_of
from runbook.operate.servers import CannotStart, NoConsent, project_folder
from runbook.operate.surroundings import Surroundings
from runbook.operate.world import World
from runbook.records.journal import JournalError
from runbook.records.report import ReportError, beside, write_report
from runbook.watch.sampler import Sampler, doing

if TYPE_CHECKING:
    from runbook.fleet.relay import Relay
    from runbook.operate.database_lock import DatabaseLock

RECONNECT_WITHIN = 3  # seconds in which a server must take the lock's connection again


def execute(
    runbook: Runbook,
    *,
    params: Mapping[str, Any] | None = None,
    database: str | Mapping[str, str] | None = None,
    options: Options | None = None,
    on_event: Callable[[Event], None] | None = None,
    on_output: Callable[[str, bytes], None] | None = None,
    on_wait: Callable[[Locked], None] | None = None,
    consent: Callable[[str], bool] | None = None,
    cancellation: Cancellation | None = None,
) -> Record:
    """Runs `runbook` once and returns its record; a bad run is a value.

    `database` is a URL for the connection that holds audit, lock and clock, or URLs by connection name; `embedded` asks for
    the private PostgreSQL. Raises InvalidRunbook (a param does not fit), CannotStart (a server or a secret is missing),
    Locked (another run holds the lock), StoppedWaiting (the end was asked for while it waited for the lock; `on_wait` hears
    of every holder that is waited for).
    """
    options = options or Options()
    if database:
        named = {runbook.audit.connection: database} if isinstance(database, str) else database
        options = options._replace(database={**options.database, **named})
    values = bind_params(runbook, params or {}, options.seen)
    cancellation = cancellation or Cancellation()
    with ExitStack() as stack, signals(cancellation):
        session = _Session(runbook, values, options, cancellation, stack, on_event)
        try:
            session.ask_consent(consent)
            if options.rehearse:
                session.copy_databases()
            session.take_lock(on_wait or (lambda locked: None))
            session.open_books(on_output)
        except RunbookError as error:
            session.abandon(error)
            raise
        return session.run()


def _verifies(runbook: Runbook) -> bool:
    """Whether anything in the runbook could turn out not to hold, beside its steps ending badly."""
    checks = any(check.expect for check in (*runbook.preflight, *runbook.postconditions))
    return checks or bool(runbook.expectations) or any(step.expectations or step.expect for step in runbook.steps)


class _Session:
    """One run: its names, its lock, its books, and the ports made from them and from its world."""

    lock: DatabaseLock | FileLock
    consent: Callable[[str], bool] | None
    earlier: Path | None = None
    relay: Relay | None = None
    sampler: Sampler | None = None
    clock: Clock
    books: Books
    inputs: Inputs
    report: Path

    def __init__(
        self,
        runbook: Runbook,
        params: dict[str, Any],
        options: Options,
        cancellation: Cancellation,
        stack: ExitStack,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        self.left_out: dict[str, str] = {}
        if options.rehearse:
            runbook, self.left_out = stand_ins(runbook)
        self.runbook, self.params, self.options = runbook, params, options
        self.cancellation, self.stack = cancellation, stack
        git = git_state(runbook.folder)
        self.id = options.submitted.run_id if options.submitted else new_run_id(datetime.now(UTC))
        self.project = options.project or project_folder(runbook.path)
        naming = Naming(runbook, params, self.id, options.operator or system_operator())
        self.key = options.submitted.lock if options.submitted else naming.key()
        naming.at(datetime.now(UTC))  # what the params make of them is refused before anything is contacted
        self.world = World(runbook, self.id, self.project, options.database, cancellation, stack, fresh=options.fresh)
        self.naming = naming._replace(operator=self.world.masks.text(naming.operator))
        self.naming.refuse_secret(("lock",), self.key, self.world.masks)
        self.folder = self.project / "runs" / self.id
        self.books = Books(self.world, Clock(datetime.now(UTC), time.monotonic()), stack, on_event)
        self.surroundings = Surroundings(self.world, self.books, git, patch=options.keep_patch)
        self.copies = stack.enter_context(ExitStack())

    # --- before anything is measured --------------------------------------------------------------------------

    def copy_databases(self) -> None:
        """A rehearsal's databases, journaled before they are made, so that none is forgotten if this process dies."""
        self.books.open_journal(self.folder)
        sources = {name: target for name, target in self.world.targets().items() if name in self.world.postgres}
        run = {"id": self.id, "operator": self.naming.operator, "started_at": self.books.clock.now().isoformat()}
        self.books.emit("rehearsal.begun", rehearsal_begun(self.runbook, run, sources, self.world.servers.embedded))
        copy_databases(self.world, self.id, self.copies, self.cancellation, self._told_of_copy)
        self.books.emit("copies.made", {"copies": self.world.targets()})

    def _told_of_copy(self, text: str) -> None:
        self.world.servers.notes.append(f"rehearsal: {text}")
        self.books.emit("copy.planned", {"text": text})

    def abandon(self, error: RunbookError) -> None:
        """A rehearsal that was journaled and could not begin: its copies go, and its journal says why."""
        if not self.options.rehearse or self.books.record["run"]["verdict"] or not self.books.begun:
            return
        self.copies.close()
        verdict = "cancelled" if isinstance(error, StoppedWaiting) else "errored"
        self.books.emit("copies.dropped", {"copies": {}})
        self.books.break_off(verdict, str(error))
        self.books.emit("audit.closed", {"status": "disabled", "head": "", "because": ""})
        mark_closed(self.folder)

    def take_lock(self, on_wait: Callable[[Locked], None]) -> None:
        """Locks and starts the clock."""
        take = self._lock_by_server() if self.runbook.audit.connection else self._lock_by_file()
        self.lock, self.clock = patiently(take, self.cancellation, on_wait if self.options.wait else None)

    def ask_consent(self, consent: Callable[[str], bool] | None) -> None:
        """Asks where a connection is protected. Raises NoConsent."""
        self.consent = consent
        targets = self.world.targets()
        for name, item in self.runbook.connections.items():
            if item.protected and not (consent and consent(f"connection {name} ({targets[name]}) is protected: run?")):
                raise NoConsent(f"connection `{name}` is protected ({targets[name]}): consent with --yes")

    def _holder(self, journal: str = "") -> Holder:
        since = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        return Holder(self.id, host(), os.getpid(), self.naming.operator, since, journal)

    def _lock_by_file(self) -> Callable[[], tuple[DatabaseLock | FileLock, Clock]]:
        lock = FileLock(self.key)
        self.stack.callback(lock.release)

        def take() -> tuple[FileLock, Clock]:
            earlier = lock.acquire(self._holder())
            self.earlier = Path(earlier.journal) if earlier and earlier.journal else None
            return lock, Clock(datetime.now(UTC), time.monotonic())

        return take

    def _lock_by_server(self) -> Callable[[], tuple[DatabaseLock | FileLock, Clock]]:
        from runbook.database.connect import ServerError
        from runbook.operate.database_lock import DatabaseLock

        name = self.runbook.audit.connection
        again = partial(self.world.connect, name, connect_timeout=RECONNECT_WITHIN)
        lock = DatabaseLock(self.key, partial(self.world.connect, name), again, leased=self.runbook.audit.enabled)
        self.stack.callback(lock.release)

        def take() -> tuple[DatabaseLock, Clock]:
            try:
                return lock, Clock(lock.acquire(self._holder()), time.monotonic())
            except ServerError as error:
                raise CannotStart(f"connection `{name}`: {self.world.masks.text(str(error))}") from None

        return take

    def open_books(self, on_output: Callable[[str, bytes], None] | None) -> None:
        """Names, audit and journal; the run's first record in both."""
        self._choose_names()
        self.books.clock = self.clock
        submitted = self.options.submitted
        turn = submitted.epoch if submitted else None
        warnings = self.world.servers.notes + self.books.open_audit(self.runbook, self.inputs, self.key, turn)
        self._watch_lock()
        warnings += self._close_predecessors()
        if not (self.options.remedy or _verifies(self.runbook)):
            warnings.append("nothing is predicted or checked: `passed` will only say that the steps ended well")
        self.books.open_journal(self.folder)
        self.books.open_output(on_output)
        if isinstance(self.lock, FileLock):
            self.lock.note(self._holder(str(self.books.journal.path)))
        self.world.on_output = self.books.output.take
        self.world.on_start = self.books.process_started
        self.books.begin(
            opening(
                self.runbook,
                self.inputs,
                connections=self.world.targets(),
                embedded=self.world.servers.embedded,
                made=self.world.servers.made,
                fresh=self.options.fresh,
                warnings=warnings,
                lock=self.key,
                epoch=self.books.epoch,
                report_path=str(self.report),
                note=self.options.note,
                journal=str(self.books.journal.path),
                rehearsal=self.options.rehearse,
                rehearsed=self.options.rehearsed,
                repeats=self.options.repeats,
                remedy=self.options.remedy,
                submitted=submitted.circumstances if submitted else None,
                command_line=self.options.command_line,
            )
        )
        self.surroundings.listen()
        self._tell_elsewhere()

    def _tell_elsewhere(self) -> None:
        """A run that was submitted can be watched and stopped from wherever its audit can be reached."""
        if self.options.submitted and self.books.audit is not None:
            from runbook.fleet.relay import Relay

            self.relay = Relay(
                self.books.audit, self.id, self.books.output.path, self._doing, self.cancellation.request
            )
            self.relay.start()
            self.stack.callback(self.relay.stop)

    def _doing(self) -> dict[str, Any]:
        values = self.sampler.newest if self.sampler else {}
        return doing(self.books.record, values)

    def _watch_lock(self) -> None:
        self.guardian = Guardian(self.lock, self.books.epoch, self.cancellation.lose)
        self.guardian.start()
        self.stack.callback(self.guardian.stop)

    def _close_predecessors(self) -> list[str]:
        targets, urls = self.world.targets(), self.world.servers.urls
        way = Way(known={targets[name]: urls[name] for name in self.world.postgres}, known_only=True)
        earlier = self.books.unclosed()
        if self.earlier is not None and self.earlier.is_file():
            earlier = record_of(self.earlier.parent)
        resumed = self.options.resumed.run_id if self.options.resumed else ""
        return close_predecessors(self.project, self.key, way, earlier, resumed)

    def _choose_names(self) -> None:
        moment = self.clock.started_at
        title, stamp, report = self.naming.at(moment)
        report = report.with_stem(f"{report.stem}_rehearsal") if self.options.rehearse else report
        self.report = beside(report, self.id) if os.path.exists(report) else report
        self.naming.refuse_secret(("report", "path"), str(self.report), self.world.masks)
        self.inputs = Inputs(
            params=self.params,
            secrets=self.world.secrets,
            id=self.id,
            stamp=stamp,
            started_at=moment,
            operator=self.naming.operator,
            title=title,
            strict=self.options.strict,
            overrides=self.options.overrides,
            resumed=self.options.resumed,
            passed_over=self.left_out,
        )

    # --- the run ----------------------------------------------------------------------------------------------

    def run(self) -> Record:
        """The engine's loop, then the run log."""
        try:
            run_engine(self.runbook, self.inputs, self._ports())
            self._write_report()
            self._end_rehearsal()
            if self.runbook.notify:
                from runbook.operate.notify import notify

                notify(self.books.record, self.world, self.books.emit)
            if self.books.record["run"]["audit"] != "pending" and self.books.record["report"]:
                mark_closed(self.books.journal.path.parent)
        except JournalError as error:
            raise CannotStart(f"the run was broken off: {error}") from None
        return self.books.record

    def _end_rehearsal(self) -> None:
        """Drops the copies, and remembers what passed."""
        if not self.options.rehearse:
            return
        self.guardian.stop()
        self.copies.close()
        self.books.emit("copies.dropped", {"copies": {}})
        if self.books.record["run"]["verdict"] == "passed":
            keep_proof(self.project, self.runbook, self.params, self.id)

    def _ports(self) -> Ports:
        return Ports(
            emit=self._emit,
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
            forsaken=lambda: self.cancellation.lost,
            go_on=self._go_on,
        )

    def _emit(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "run.finished":
            self.surroundings.note()
            if self.relay is not None:
                self.relay.stop()
        self.books.emit(kind, data)

    def _go_on(self, question: str) -> str:
        """Whether a person agrees to go on with an earlier run, and nobody else has done so; why not, or nothing."""
        assert self.options.resumed is not None
        if self.consent is None or not self.consent(question):
            return "nobody agreed to go on with the run"
        try:
            claim(self.project / "runs" / self.options.resumed.run_id, self.id)
        except RunbookError as error:
            return str(error)
        return ""

    def _prepare(self, step: Step, scope: Scope, timeout: float) -> Prepared:
        self.surroundings.note()
        prepared = self.world.prepare(step, scope, timeout)

        def go() -> Any:
            self.sampler = Sampler(self.runbook, self.books.record, self.world.servers.urls, self.clock.began)
            try:
                return prepared.go()
            finally:
                samples = self.sampler.stop()
                self.books.settle_output()
                if samples and not self.books.journal.full:
                    self.books.emit("progress.measured", {"step": step.name, "samples": samples})

        return prepared._replace(go=go)

    def _settle(self) -> str:
        """Before a step: the lock is still ours and the audit has all that happened; a server that is away is waited for."""
        patience = self.world.patience
        while True:
            trouble: Exception | str | None = "the lock was lost"
            if self.lock.held() or self.lock.regain():
                trouble = self.books.flush()
                if trouble is None:
                    patience.met()
                    full = self.books.journal.full
                    return f"no further step is started: the journal's disk: {full}" if full else ""
            if self.lock.lost:
                self.cancellation.lose(self.lock.lost)
            final = isinstance(trouble, Exception) and not getattr(trouble, "lost", False)
            if final or not patience.left() or self.cancellation.reason():
                return f"no further step is started: {trouble}"
            self.cancellation.sleep(0.5)

    def _write_report(self) -> None:
        """Renders the run log from the journal on disk."""
        try:
            path, trouble = write_report(self.report, self.books.read_back())
            if trouble:
                self.books.emit("report.failed", {"because": trouble})
        except ReportError as error:
            self.books.emit("report.failed", {"because": f"the run log was not written: {error}"})
            return
        self.books.emit("report.written", {"path": str(path)})
