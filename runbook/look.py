"""Looking without running: the preflight alone, with no lock, no journal, no audit and no file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

from runbook.engine.judge import EXIT_CODES
from runbook.engine.ports import CannotTell, Confirmation, Inputs, Ports
from runbook.engine.record import Event, Record, apply, empty_record
from runbook.engine.run import look
from runbook.language.expressions import Expression
from runbook.language.load import bind_params
from runbook.language.model import Check, Runbook
from runbook.language.values import to_data
from runbook.operate.cancel import Cancellation, signals
from runbook.operate.circumstances import operator
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
    record, events = empty_record(), iter(range(1, 1 << 31))
    began, moment = time.monotonic(), datetime.now(UTC)
    stamp = f"{moment:%Y%m%d_%H%M%S}"
    with ExitStack() as stack, signals(cancellation):
        world = World(runbook, "check", project_folder(runbook.path), database or {}, cancellation, stack)

        def emit(kind: str, data: dict[str, Any]) -> None:
            now = (moment + timedelta(seconds=time.monotonic() - began)).isoformat(timespec="milliseconds")
            event = Event(next(events), now, kind, world.masks.data(to_data(data)))
            apply(record, event)
            if on_event is not None:
                on_event(event)

        inputs = Inputs(values, world.secrets, "", stamp, moment, operator(), f"Preflight of {runbook.name}", strict)
        warnings = world.servers.notes
        emit("run.opened", opening(runbook, inputs, connections=world.targets(), warnings=warnings, dry_run=True))
        verdict = look(runbook, inputs, _ports(emit, world, cancellation))
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
            waiting += [chain[1] for chain in _chains(by_name[name]) if chain[0] == "preflight" and len(chain) > 1]
    return chosen


def _chains(part: Check | Any) -> Iterator[tuple[str, ...]]:
    if isinstance(part, Expression):
        yield from part.names
    elif isinstance(part, tuple | list):
        for item in part:
            yield from _chains(item)
    elif isinstance(part, dict):
        for item in part.values():
            yield from _chains(item)


def _ports(emit: Callable[[str, dict[str, Any]], None], world: World, cancellation: Cancellation) -> Ports:
    def never(*_: Any) -> Any:
        raise CannotTell("nothing is written by a look")

    return Ports(
        emit=emit,
        snapshot=world.snapshot,
        prepare=never,
        audit_started=never,
        finish=lambda sql, scope: Confirmation("disabled"),
        settle=lambda: "",
        now=lambda: datetime.now(UTC),
        monotonic=time.monotonic,
        sleep=cancellation.sleep,
        cancelled=cancellation.reason,
        heed=cancellation.heed,
    )
