"""A dry run: everything that a run would meet, looked at; nothing is started and nothing is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from functools import partial
from os.path import relpath
from pathlib import Path
from typing import Any

from runbook.engine.plan import foresee
from runbook.engine.ports import Examined, Inputs
from runbook.engine.record import Event, Record
from runbook.language.document import Where
from runbook.language.load import bind_params
from runbook.language.model import Runbook, Sql
from runbook.language.values import duration_text
from runbook.operate.books import Clock
from runbook.operate.cancel import Cancellation, signals
from runbook.operate.circumstances import operator as system_operator
from runbook.operate.examine import Examiner, obstacle, unwritable
from runbook.operate.file_lock import look_at as look_at_file
from runbook.operate.glance import Glance
from runbook.operate.naming import Naming
from runbook.operate.opening import opening
from runbook.operate.servers import CannotStart, project_folder
from runbook.operate.world import World

READ_ONLY = "the server takes no writes (a standby, or default_transaction_read_only)"


def dry_run(
    runbook: Runbook,
    *,
    params: Mapping[str, Any] | None = None,
    database: Mapping[str, str] | None = None,
    operator: str = "",
    strict: bool = False,
    overrides: Mapping[str, str] | None = None,
    command_line: tuple[str, ...] = (),
    on_event: Callable[[Event], None] | None = None,
    cancellation: Cancellation | None = None,
) -> Record:
    """What is known of a run of `runbook` before it is run, as a record: line by line under `plan`.

    `run.verdict` is null unless something is known to stand in the way. Raises InvalidRunbook, CannotStart, and Locked where
    the lock is held, as a run would.
    """
    values, now = bind_params(runbook, params or {}), datetime.now(UTC)
    cancellation, project = cancellation or Cancellation(), project_folder(runbook.path)
    naming = Naming(runbook, values, f"{now:%Y%m%d_%H%M%S}-dry-run", operator or system_operator())
    key = naming.key()
    naming.at(now)  # what the params make of them is refused before anything is contacted
    with ExitStack() as stack, signals(cancellation):
        world = World(runbook, naming.id, project, database or {}, cancellation, stack)
        naming = naming._replace(operator=world.masks.text(naming.operator))
        naming.refuse_secret(("lock",), key, world.masks)
        clock, read_only = _look_at_lock(runbook, world, key)
        title, stamp, report = naming.at(clock.started_at)
        naming.refuse_secret(("report", "path"), str(report), world.masks)
        inputs = Inputs(
            params=values,
            secrets=world.secrets,
            id=naming.id,
            stamp=stamp,
            started_at=clock.started_at,
            operator=naming.operator,
            title=title,
            strict=strict,
            overrides=overrides or {},
        )
        known = opening(
            runbook,
            inputs,
            connections=world.targets(),
            embedded=world.servers.embedded,
            warnings=[*world.servers.notes, *_set_up(world, project)],
            lock=key,
            report_path=str(report),
            dry_run=True,
            command_line=command_line,
        )
        known["run"]["id"] = ""  # the run that it would be has none yet
        glance = Glance(world, clock, on_event)
        glance.emit("run.opened", known)
        surroundings = _surroundings(runbook, world, key, read_only, report, project)
        foresee(runbook, inputs, glance.ports(), Examiner(runbook, world, stack), surroundings)
        return glance.record


def _set_up(world: World, project: Path) -> Iterator[str]:
    for name in world.servers.made:
        yield (
            f"connection {name}: its database had to be made to be looked at, in {project / 'embedded'}; that is all that "
            "this dry run writes"
        )


def _look_at_lock(runbook: Runbook, world: World, key: str) -> tuple[Clock, bool]:
    """The clock of the run, and whether its server takes no writes. Raises Locked or CannotStart."""
    name = runbook.audit.connection
    if not name:
        look_at_file(key)
        return Clock(datetime.now(UTC), time.monotonic()), False
    from runbook.database.connect import ServerError
    from runbook.operate.database_lock import look_at

    try:
        seen = look_at(key, partial(world.connect, name))
    except ServerError as error:
        raise CannotStart(f"connection `{name}`: {world.masks.text(str(error))}") from None
    return Clock(seen.moment, time.monotonic()), seen.read_only


def _surroundings(
    runbook: Runbook, world: World, key: str, read_only: bool, report: Path, project: Path
) -> Iterator[tuple[str, Where, Examined]]:
    """What a run needs beside its parts: its lock, consent, its audit, its journal and its run log."""
    yield "lock", ("lock",), Examined(f"{key}: free")
    for name, item in runbook.connections.items():
        if item.protected:
            yield (
                f"connections.{name}",
                ("connections", name),
                Examined("protected: a run asks for consent, or for --yes"),
            )
    if runbook.audit.connection:
        yield "audit", ("audit",), _audit(runbook, world, read_only)
    for shown, where, place in (("journal", ("name",), project / "runs"), ("report.path", ("report", "path"), report)):
        trouble = unwritable(place if shown == "journal" else place.parent)
        found = (obstacle(runbook, shown, where, trouble),) if trouble else ()
        yield shown, where, Examined(relpath(place), obstacles=found)
    if runbook.timeout is not None:
        yield "timeout", ("timeout",), Examined(f"the whole run takes at most {duration_text(runbook.timeout)}")


def _audit(runbook: Runbook, world: World, read_only: bool) -> Examined:
    from runbook.database.connect import ServerError
    from runbook.records.audit import AuditError, outlook

    audit = runbook.audit
    steps = (*runbook.steps, *runbook.on_failure, *runbook.finally_)
    writes = audit.enabled or any(
        isinstance(step.action, Sql) and step.action.connection == audit.connection for step in steps
    )
    if read_only and writes:
        return Examined("cannot be written", obstacles=(obstacle(runbook, "audit", ("audit",), READ_ONLY),))
    if not audit.enabled:
        return Examined("switched off: the journal is the only record")
    try:
        with closing(world.connect(audit.connection)) as connection:
            return Examined(outlook(connection))
    except (ServerError, AuditError) as error:
        return Examined("cannot be written", obstacles=(obstacle(runbook, "audit", ("audit",), str(error)),))
