"""The composition root: one run, with real servers, a real journal and a real clock behind the engine's ports."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runbook.engine.ports import CannotTell, Confirmation, Inputs, Ports, Prepared
from runbook.engine.record import Event, Record, apply, empty_record, fold
from runbook.engine.run import run as run_engine
from runbook.language.expressions import EvaluationError, Scope
from runbook.language.load import bind_params
from runbook.language.model import Runbook, Sql, Step
from runbook.language.problems import InvalidRunbook
from runbook.language.templates import render_path, render_sql
from runbook.language.values import to_data
from runbook.operate.cancel import Cancellation, signals
from runbook.operate.circumstances import git_state, host, versions
from runbook.operate.circumstances import operator as system_operator
from runbook.operate.lock import FileLock, Holder, Locked
from runbook.operate.output import OutputLog
from runbook.operate.servers import CannotStart, project_folder
from runbook.operate.world import World
from runbook.records.journal import Journal, JournalError, read_journal
from runbook.records.report import ReportError, write_report

if TYPE_CHECKING:
    from runbook.operate.lock import DatabaseLock
    from runbook.records.audit import Audit

RECONNECT_FOR = 30.0


class Options(NamedTuple):
    """How a run is to be done, beside what it is. `fresh` asks embedded servers for a throw-away database."""

    database: Mapping[str, str] = {}
    operator: str = ""
    note: str = ""
    strict: bool = False
    overrides: Mapping[str, str] = {}
    command_line: tuple[str, ...] = ()
    fresh: bool = False


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
    values = bind_params(runbook, params or {})
    cancellation = cancellation or Cancellation()
    with ExitStack() as stack, signals(cancellation):
        session = _Session(runbook, values, options, cancellation, stack)
        session.show_event, session.show_output = on_event, on_output
        session.start(consent)
        return session.run()


def new_run_id(moment: datetime) -> str:
    """An id that sorts by time: `20251210_143522-3f9a2c`."""
    return f"{moment:%Y%m%d_%H%M%S}-{secrets.token_hex(3)}"


class _Session:
    """One run's lock, journal and audit, and the ports made from them and from its world."""

    show_event: Callable[[Event], None] | None
    show_output: Callable[[str, bytes], None] | None
    lock: DatabaseLock | FileLock
    journal: Journal
    output: OutputLog
    inputs: Inputs
    report: Path

    def __init__(
        self, runbook: Runbook, params: dict[str, Any], options: Options, cancellation: Cancellation, stack: ExitStack
    ) -> None:
        self.runbook, self.params, self.options, self.cancellation, self.stack = (
            runbook,
            params,
            options,
            cancellation,
            stack,
        )
        self.git = git_state(runbook.folder)
        self.id = new_run_id(datetime.now(UTC))
        self.project = project_folder(runbook.path)
        self.operator = options.operator or system_operator()
        self.record = empty_record()
        self.audit: Audit | None = None
        self.key = self._evaluated(("lock",), lambda: runbook.lock.render(self._scope()))
        self.world = World(runbook, self.id, self.project, options.database, cancellation, stack, fresh=options.fresh)

    # --- the order of a run -----------------------------------------------------------------------------------

    def start(self, consent: Callable[[str], bool] | None) -> None:
        """Lock, consent, journal and audit: all that must stand before anything is measured."""
        targets = self.world.targets()
        self._take_lock()
        for name, item in self.runbook.connections.items():
            if item.protected and (consent is None or not consent(f"{name}: {targets[name]}")):
                raise CannotStart(f"connection `{name}` is protected ({targets[name]}): consent with --yes")
        self._choose_names()
        self._open_audit()
        self._open_journal(targets)

    def run(self) -> Record:
        """The engine's loop, then the run log."""
        try:
            run_engine(self.runbook, self.inputs, self._ports())
        except JournalError as error:
            raise CannotStart(f"the run was broken off: {error}") from None
        finally:
            self.output.close()
        self._write_report()
        return self.record

    def _scope(self) -> dict[str, Any]:
        return {"params": self.params, "runbook": {"name": self.runbook.name}}

    def _evaluated(self, where: tuple[str, ...], action: Callable[[], str]) -> str:
        """Text from the runbook that only the params decide; a value that does not fit is the caller's mistake."""
        try:
            return action()
        except EvaluationError as error:
            raise InvalidRunbook([self.runbook.document.problem(where, str(error))]) from None

    def _take_lock(self) -> None:
        name = self.runbook.audit.connection
        if not name:
            self.started_at, self.began = datetime.now(UTC), time.monotonic()
            lock = FileLock(self.key)
            lock.acquire(
                Holder(self.id, host(), os.getpid(), self.operator, self.started_at.isoformat(timespec="seconds"))
            )
            self.lock = lock
        else:
            from runbook.database.connect import ServerError
            from runbook.operate.lock import DatabaseLock

            try:
                self.lock = DatabaseLock(self.key, partial(self.world.connect, name))
                self.started_at, self.began = self.lock.acquire(), time.monotonic()
            except ServerError as error:
                raise CannotStart(f"connection `{name}`: {self.world.masks.text(str(error))}") from None
        self.stack.callback(self.lock.release)

    def _choose_names(self) -> None:
        """Stamp, title and the place of the run log; the stamp gets a part of the id where a run log stands there."""
        stamp = f"{self.started_at:%Y%m%d_%H%M%S}"
        title = self._evaluated(("title",), lambda: self.runbook.title.render(self._run_scope(stamp)))
        for candidate in (stamp, f"{stamp}_{self.id[-6:]}"):
            scope = {**self._run_scope(candidate), "runbook": {"name": self.runbook.name, "title": title}}
            self.report = Path.cwd() / self._evaluated(
                ("report", "path"), partial(render_path, self.runbook.report_path, scope, strict=True)
            )
            if not self.report.exists():
                break
        self.inputs = Inputs(
            params=self.params,
            secrets=self.world.secrets,
            id=self.id,
            stamp=candidate,
            started_at=self.started_at,
            operator=self.operator,
            title=title,
            strict=self.options.strict,
            overrides=self.options.overrides,
        )

    def _run_scope(self, stamp: str) -> dict[str, Any]:
        run = {
            "id": self.id,
            "stamp": stamp,
            "started_at": self.started_at,
            "operator": self.operator,
            "inputs": self.params,
        }
        return {**self._scope(), "run": run}

    def _open_audit(self) -> None:
        rows = self.runbook.audit
        if not rows.enabled or not rows.connection:
            return
        from runbook.database.connect import ServerError
        from runbook.records.audit import Audit, AuditError, Identity

        masks = self.world.masks
        identity = Identity(
            run_id=self.id,
            runbook=self.runbook.name,
            title=masks.text(self.inputs.title),
            lock=self.key,
            operator=self.operator,
            host=host(),
            pid=os.getpid(),
            started_at=self.started_at,
            sha256=self.runbook.sha256,
            params=masks.data(to_data(self.params)),
        )
        try:
            self.audit = Audit(self.world.connect(rows.connection), partial(self.world.connect, rows.connection))
            self.stack.callback(self.audit.close)
            self.audit.open(identity)
        except (ServerError, AuditError) as error:
            raise CannotStart(f"the audit cannot be written: {masks.text(str(error))}") from None

    def _open_journal(self, targets: Mapping[str, str]) -> None:
        """The run's first record, in the journal and in the audit."""
        folder = self.project / "runs" / self.id
        try:
            self.journal = Journal(folder)
            self.stack.callback(self.journal.close)
            self.output = OutputLog(folder, self.world.masks, self.show_output or (lambda stream, data: None))
        except JournalError as error:
            raise CannotStart(str(error)) from None
        except OSError as error:
            raise CannotStart(f"{folder}: {error.strerror}") from None
        self.world.on_output, self.world.on_server = self.output.take, self._note_server
        self._emit("run.opened", self._opening(targets))
        if self.audit is not None:
            from runbook.database.connect import ServerError

            try:
                self.audit.flush()
            except ServerError as error:
                self._give_up(f"the audit cannot be written: {self.world.masks.text(str(error))}")

    def _give_up(self, because: str) -> None:
        """Closes a run that has a first record and nothing else."""
        closing = {"verdict": "errored", "exit_code": 6, "finished_at": self._now(), "duration": 0, "because": because}
        self._emit("run.finished", closing)
        self.output.close()
        raise CannotStart(because)

    def _opening(self, targets: Mapping[str, str]) -> dict[str, Any]:
        runbook, inputs = self.runbook, self.inputs
        return {
            "run": {
                "id": self.id,
                "runbook": runbook.name,
                "title": inputs.title,
                "hypothesis": runbook.hypothesis,
                "started_at": self.started_at.isoformat(timespec="milliseconds"),
                "operator": self.operator,
                "stamp": inputs.stamp,
                "dry_run": False,
                "strict": self.options.strict,
                "lock": self.key,
                "host": host(),
                "pid": os.getpid(),
            },
            "params": self.params,
            "note": self.options.note,
            "journal": str(self.journal.path),
            "labels": {state.name: state.labels for state in runbook.state},
            "declared": declared(runbook),
            "circumstances": {
                "file": str(runbook.path),
                "text": runbook.document.text,
                "command_line": list(self.options.command_line),
                "versions": versions(runbook),
                "connections": targets,
                "warnings": self.world.servers.notes + self._audit_notes(),
                "epoch": self.audit.epoch if self.audit else 0,
            },
        }

    def _audit_notes(self) -> list[str]:
        if self.audit is not None:
            return []
        reason = "it is switched off" if self.runbook.audit.connection else "no postgres connection is declared"
        return [f"no audit in a database: {reason}; the journal is the only record"]

    # --- events -----------------------------------------------------------------------------------------------

    def _now(self) -> datetime:
        """The database's clock: its time at the start, and what the monotonic clock says has passed."""
        return self.started_at + timedelta(seconds=time.monotonic() - self.began)

    def _emit(self, kind: str, data: dict[str, Any]) -> None:
        """Journal first; then whoever else wants to know."""
        clean = self.world.masks.data(to_data(data))
        line = self.journal.append(self._now().isoformat(timespec="milliseconds"), kind, clean)
        apply(self.record, line.event)
        if self.audit is not None:
            self.audit.add(line)
        if self.show_event is not None:
            self.show_event(line.event)

    def _note(self, found: dict[str, str], warning: str = "") -> None:
        known = self.record["circumstances"]
        data: dict[str, Any] = {"versions": {**known["versions"], **found}}
        if warning:
            data["warnings"] = [*known["warnings"], warning]
        self._emit("circumstances.noted", data)

    def _note_server(self, name: str, version: str, warning: str) -> None:
        self._note({f"PostgreSQL ({name})": version}, warning)

    # --- ports ------------------------------------------------------------------------------------------------

    def _ports(self) -> Ports:
        return Ports(
            emit=self._emit,
            snapshot=self.world.snapshot,
            prepare=self._prepare,
            audit_started=self._audit_row,
            finish=self._finish,
            settle=self._settle,
            now=self._now,
            monotonic=time.monotonic,
            sleep=self.cancellation.sleep,
            cancelled=self.cancellation.reason,
        )

    def _prepare(self, step: Step, scope: Scope, timeout: float) -> Prepared:
        found, self.git = self.git(), dict
        if found:
            self._note(found)
        prepared = self.world.prepare(step, scope, timeout)

        def go() -> Any:
            try:
                return prepared.go()
            finally:
                self.output.settle()

        return prepared._replace(go=go)

    def _settle(self) -> str:
        """Before a step: the lock is still ours and the audit has all that happened; waits a while for a server that is away."""
        if self.audit is None:
            return "" if self.lock.held() or self.lock.regain() else "no further step is started: the lock was lost"
        from runbook.database.connect import ServerError

        deadline = time.monotonic() + RECONNECT_FOR
        while True:
            try:
                if self.lock.held() or self.lock.regain():
                    self.audit.flush()
                    return ""
                trouble = "the lock was lost"
            except Locked as error:
                return f"no further step is started: {error}"
            except ServerError as error:
                trouble = str(error)
                if not error.lost:
                    return f"no further step is started: {trouble}"
            if time.monotonic() > deadline or self.cancellation.reason():
                return f"no further step is started: {trouble}"
            self.cancellation.sleep(0.5)

    def _statements(self, sql: Sql, scope: Scope) -> list[tuple[str, list[Any]]]:
        from runbook.database.connect import bound

        rendered = [render_sql(sql.text, scope, index) for index in range(len(sql.text.spans))]
        return [(statement.query, bound(statement.values)) for statement in rendered]

    def _audit_row(self, sql: Sql, scope: Scope) -> Any:
        from runbook.database.connect import ServerError
        from runbook.records.audit import user_rows

        try:
            if self.audit is None:
                with self.world.connect(sql.connection) as connection:
                    return user_rows(connection, self._statements(sql, scope))
            self.audit.flush()
            return self.audit.rows(self._statements(sql, scope))
        except ServerError as error:
            raise CannotTell(str(error)) from None

    def _finish(self, sql: Sql | None, scope: Scope) -> Confirmation:
        if self.audit is None:
            return Confirmation("disabled")
        from runbook.database.connect import ServerError

        try:
            statements, trouble = (self._statements(sql, scope) if sql else []), ""
        except (ServerError, EvaluationError) as error:
            statements, trouble = [], f"audit.finished: {error}"
        confirmation = self.audit.close_run(self.record["run"], statements)
        if trouble and confirmation.status == "confirmed":
            return confirmation._replace(status="failed", because=trouble)
        return confirmation

    # --- the run log ------------------------------------------------------------------------------------------

    def _write_report(self) -> None:
        """Renders the run log from the journal on disk."""
        record = fold(line.event for line in read_journal(self.journal.path))
        try:
            path = write_report(self.report, self.runbook.report_template, record, self.id)
        except ReportError as error:
            self.record["problems"].append({"message": f"the run log was not written: {error}"})
            return
        self._emit("report.written", {"path": str(path)})


def declared(runbook: Runbook) -> dict[str, Any]:
    """What the record needs of the runbook itself, so that the journal is enough to read it by."""
    data = runbook.document.data
    checks = {
        section: {
            check.name: {
                "expect": data[section][check.name].get("expect"),
                "severity": check.severity,
                "description": check.description,
                "section": check.heading,
                "remedy": check.remedy,
            }
            for check in items
        }
        for section, items in (("preflight", runbook.preflight), ("postconditions", runbook.postconditions))
    }
    steps = (*runbook.steps, *runbook.on_failure, *runbook.finally_)
    return {**checks, "steps": {step.name: {"stage": step.stage, "description": step.description} for step in steps}}
