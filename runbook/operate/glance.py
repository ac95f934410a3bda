"""What looks without running have in common: a record that is told and kept nowhere, and ports that only read."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from runbook.engine.ports import CannotTell, Confirmation, Ports
from runbook.engine.record import Event, apply, empty_record
from runbook.language.values import to_data
from runbook.operate.books import Clock
from runbook.operate.circumstances import noted
from runbook.operate.world import World


class Glance:
    """The record of one look at a world, folded as its events come; each is masked, and told to who wants to know."""

    def __init__(self, world: World, clock: Clock, on_event: Callable[[Event], None] | None) -> None:
        self.record = empty_record()
        self._world, self._clock, self._on_event = world, clock, on_event
        self._count = 0
        world.on_server = self._met

    def emit(self, kind: str, data: dict[str, Any]) -> None:
        self._count += 1
        now = self._clock.now().isoformat(timespec="milliseconds")
        event = Event(self._count, now, kind, self._world.masks.data(to_data(data)))
        apply(self.record, event)
        if self._on_event is not None:
            self._on_event(event)

    def _met(self, name: str, version: str, warning: str) -> None:
        self.emit("circumstances.noted", noted(self.record, {f"PostgreSQL ({name})": version}, warning))

    def ports(self) -> Ports:
        """The world for reading alone."""
        cancellation = self._world.cancellation
        return Ports(
            emit=self.emit,
            snapshot=self._world.snapshot,
            prepare=_never,
            audit_started=_never,
            finish=lambda sql, scope: Confirmation("disabled"),
            settle=str,
            now=self._clock.now,
            monotonic=time.monotonic,
            sleep=cancellation.sleep,
            cancelled=cancellation.reason,
            heed=cancellation.heed,
            forsaken=str,
            go_on=_never,
        )


def _never(*_: Any) -> Any:
    raise CannotTell("nothing is written by a look")
