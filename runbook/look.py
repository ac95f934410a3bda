"""Looking without running: the preflight alone, with no lock, no journal, no audit and no file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

from runbook.engine.judge import EXIT_CODES
from runbook.engine.ports import Inputs
from runbook.engine.record import Event, Record
from runbook.engine.run import look
from runbook.language.expressions import Expression
from runbook.language.load import bind_params
from runbook.language.model import Check, Runbook
from runbook.operate.books import Clock
from runbook.operate.cancel import Cancellation, signals
from runbook.operate.circumstances import operator
from runbook.operate.glance import Glance
from runbook.operate.opening import opening
from runbook.operate.servers import project_folder
from runbook.operate.world import World


def check(
    runbook: Runbook,
    names: tuple[str, ...] = (),
    *,
    params: Mapping[str, Any] | None = None,
    database: Mapping[str, str] | None = None,
    strict: bool = False,
    on_event: Callable[[Event], None] | None = None,
) -> Record:
    """The preflight of `runbook`, or the checks in `names` and those that they refer to, as a record."""
    values = bind_params(runbook, params or {})
    cancellation = Cancellation()
    chosen = _with_references(runbook, names)
    runbook = runbook._replace(preflight=tuple(item for item in runbook.preflight if item.name in chosen))
    clock = Clock(datetime.now(UTC), time.monotonic())
    moment = clock.started_at
    stamp = f"{moment:%Y%m%d_%H%M%S}"
    with ExitStack() as stack, signals(cancellation):
        world = World(runbook, "check", project_folder(runbook.path), database or {}, cancellation, stack)
        glance = Glance(world, clock, on_event)
        inputs = Inputs(values, world.secrets, "", stamp, moment, operator(), f"Preflight of {runbook.name}", strict)
        warnings = world.servers.notes
        known = opening(runbook, inputs, connections=world.targets(), embedded=[], warnings=warnings, dry_run=True)
        glance.emit("run.opened", known)
        verdict = look(runbook, inputs, glance.ports())
    record = glance.record
    record["run"]["verdict"], record["run"]["exit_code"] = verdict, EXIT_CODES[verdict]
    return record


def _with_references(runbook: Runbook, names: tuple[str, ...]) -> set[str]:
    """The checks named, and all that their expressions name, directly or not."""
    if not names:
        return {item.name for item in runbook.preflight}
    by_name = {item.name: item for item in runbook.preflight}
    chosen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in by_name and name not in chosen:
            chosen.add(name)
            waiting += [chain[1] for chain in chains(by_name[name]) if chain[0] == "preflight" and len(chain) > 1]
    return chosen


def chains(part: Check | Any) -> Iterator[tuple[str, ...]]:
    """The dotted names that the expressions in a part of a runbook read."""
    if isinstance(part, Expression):
        yield from part.names
    elif isinstance(part, tuple | list):
        for item in part:
            yield from chains(item)
    elif isinstance(part, dict):
        for item in part.values():
            yield from chains(item)
