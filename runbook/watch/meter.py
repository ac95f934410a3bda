"""Measuring the states of a run while it goes on: read-only, in one short transaction, on a connection of its own."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from runbook.engine.judge import Number, number
from runbook.engine.ports import UNMEASURABLE, CannotTell, Read
from runbook.engine.record import Record
from runbook.language.load import load_text
from runbook.language.model import File, Request, Runbook, Sql, State
from runbook.language.problems import RunbookError
from runbook.language.values import Absent, brief
from runbook.operate.cancel import Cancellation
from runbook.operate.reaching import recorded_text
from runbook.operate.servers import EMBEDDED
from runbook.operate.world import World
from runbook.records.masks import Masks
from runbook.watch.progress import Sample, pause

TIMEOUT = 5.0  # seconds for one state
KEPT = 1000  # samples
_PRESENT = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1"


class NotMeasured(RunbookError):
    """Why there are no numbers."""


class Reading(NamedTuple):
    """One measurement: numbers by metric, why others are missing, and the seconds that it took the servers."""

    values: Mapping[str, Number]
    because: str
    took: float


def recorded_runbook(record: Record) -> Runbook:
    """The runbook that a run executes, from the run's own record. Raises NotMeasured or InvalidRunbook."""
    around = record["circumstances"]
    text = recorded_text(record)
    if text is None:
        raise NotMeasured("the record masks a part of the runbook")
    runbook = load_text(text, Path(around["file"]))
    for name, known in runbook.files.items():
        if around["versions"].get(f"file {Path(name).name}") != f"sha256 {known}":
            raise NotMeasured(f"{name} is not what it was when the run began")
    return runbook


class Meter:
    """Reads the states of one run. It starts no server, and believes only a server on which the run itself is connected.

    `name` is what servers know it by.
    """

    def __init__(
        self, record: Record, given: Mapping[str, str], runbook: Runbook | None = None, name: str = "watch"
    ) -> None:
        self._record, self._given, self._runbook, self._name = record, given, runbook, name
        self._stack = ExitStack()
        self._masks = Masks()
        self._world: World | None = None
        self._states: list[State] = []
        self._scope: dict[str, Any] = {}

    def measure(self) -> Reading:
        """The metrics of now, or why there are none; it raises nothing that a server or a runbook can cause."""
        values: dict[str, Number] = {}
        reasons: list[str] = []
        began = time.monotonic()
        try:
            world = self._world or self._open()
            began = time.monotonic()
            with world.snapshot() as read:
                for state in self._states:
                    self._take(state, read, values, reasons)
        except RunbookError as error:
            reasons.append(self._masks.text(str(error)))
        return Reading(values, "; ".join(dict.fromkeys(reasons)), time.monotonic() - began)

    def _take(self, state: State, read: Read, values: dict[str, Number], reasons: list[str]) -> None:
        try:
            row = self._row(state, read)
        except UNMEASURABLE as error:
            reasons.append(self._masks.text(f"{state.name}: {error}"))
            return
        found = {f"{state.name}.{metric}": number(value) for metric, value in row.items()}
        values.update({name: value for name, value in found.items() if value is not None})

    def _row(self, state: State, read: Read) -> Mapping[str, Any]:
        if not _only_reads(state):
            raise CannotTell("a watcher runs no commands and sends nothing")
        answer = read(state.probe, self._scope, min(TIMEOUT, state.timeout))
        if answer.trouble:
            raise CannotTell(answer.trouble)
        result = answer.result
        if state.select is not None:
            result = state.select.evaluate({**self._scope, **answer.names, "result": result})
        if not isinstance(result, Mapping):
            raise CannotTell(f"gives {brief(result)}, not one row of named numbers")
        return result

    def _open(self) -> World:
        """The world as the watcher's environment has it, where it is the run's own. Raises RunbookError."""
        runbook = self._runbook or recorded_runbook(self._record)
        narrowed = _narrowed(runbook)
        given = _targets(narrowed, self._record, self._given)
        project = Path(self._record["journal"] or "").parent.parent.parent
        with ExitStack() as stack:
            world = World(narrowed, self._name, project, given, Cancellation(), stack)
            self._masks = world.masks
            self._compare(world, narrowed)
            self._stack = stack.pop_all()
        self._world, self._states = world, list(runbook.state)
        self._scope = _scope(self._record, runbook, world)
        return world

    def _compare(self, world: World, runbook: Runbook) -> None:
        """The servers must be those of the run: by what is recorded of them, and by the run's own sessions on them."""
        recorded = self._record["circumstances"]["connections"]
        for name, found in world.targets().items():
            if found != recorded.get(name):
                source = runbook.connections[name].env if name not in self._given else f"--database {name}"
                raise NotMeasured(f"{source or name} leads to {found}, the run uses {recorded.get(name)}")
        for name in world.postgres:
            self._find_run(world, name)

    def _find_run(self, world: World, name: str) -> None:
        from runbook.database.connect import describe, translated

        place, reading = (
            describe(urls[name]).rpartition(" as ")[0] for urls in (world.servers.urls, world.servers.reading)
        )
        if reading != place:
            world.servers.reading[name] = world.servers.urls[name]
        with translated(), world.connect(name) as connection:
            row = connection.execute(_PRESENT, [f"runbook {self._record['run']['id']}"]).fetchone()
        if row is not None and not row[0]:
            raise NotMeasured(f"connection `{name}` leads to a server on which the run has no session")

    def close(self) -> None:
        """Hangs up."""
        self._stack.close()
        self._world = None


def _only_reads(state: State) -> bool:
    probe = state.probe
    return isinstance(probe, Sql | File) or (isinstance(probe, Request) and probe.method.upper() == "GET")


def _narrowed(runbook: Runbook) -> Runbook:
    """The runbook with no more servers and secrets than measuring takes."""
    wanted = {state.probe.connection for state in runbook.state if isinstance(state.probe, Sql | Request)}
    servers = {name: item for name, item in runbook.connections.items() if name in wanted}
    known = {name: variable for name, variable in runbook.secrets.items() if variable in os.environ}
    return runbook._replace(connections=servers, secrets=known)


def _targets(runbook: Runbook, record: Record, given: Mapping[str, str]) -> dict[str, str]:
    """URLs by connection; an embedded server is the one that the run uses, never one to be started. Raises NotMeasured."""
    around = record["circumstances"]
    found = dict(given)
    for name, item in runbook.connections.items():
        url = given.get(name) or os.environ.get(item.env, "") or item.default
        if item.type != "postgres" or (url and url != EMBEDDED):
            continue
        target = around["connections"][name]
        place = re.fullmatch(r"(\w+) on (/.+) as (\w+)", target)
        if place is None or name not in around.get("embedded", []):
            raise NotMeasured(f"{item.env or name} is not set here, the run uses {target}: set it, or pass --database")
        found[name] = f"postgresql://{place[3]}@/{place[1]}?host={place[2]}&port=5432"
    return found


def _scope(record: Record, runbook: Runbook, world: World) -> dict[str, Any]:
    """The names that a state may use."""
    run = record["run"]
    unknown = {name: Absent(f"{variable} is not set here") for name, variable in runbook.secrets.items()}
    return {
        "params": record["params"],
        "secrets": {**unknown, **world.secrets},
        "runbook": {"name": runbook.name, "title": run["title"]},
        "run": {
            "id": run["id"],
            "stamp": run["stamp"],
            "started_at": datetime.fromisoformat(run["started_at"] or ""),
            "operator": run["operator"],
            "inputs": record["params"],
        },
    }


class Measuring:
    """Measures as often as is cheap: by hand, or in a thread of its own while `wanted` says so."""

    def __init__(self, meter: Meter, interval: float, now: Callable[[], float], wanted: Callable[[], bool]) -> None:
        self._meter, self._interval, self._now, self._wanted = meter, interval, now, wanted
        self._over = threading.Event()
        self._failures = 0
        self.samples: deque[Sample] = deque(maxlen=KEPT)
        self.because = ""

    def once(self) -> float:
        """One measurement; the seconds to wait before the next one."""
        at = self._now()
        reading = self._meter.measure()
        self.because = reading.because
        if reading.values:
            self.samples.append(Sample(at, reading.values))
        self._failures = 0 if reading.values or not reading.because else self._failures + 1
        return pause(self._interval, reading.took, self._failures)

    def start(self) -> None:
        """Goes on in the background."""
        threading.Thread(target=self._run, name="measuring", daemon=True).start()

    def _run(self) -> None:
        waiting = 0.0
        while not self._over.wait(waiting):
            try:
                waiting = self.once() if self._wanted() else min(self._interval, 0.2)
            except Exception as error:  # noqa: BLE001 - a watcher's own fault must not disturb the run beside it
                self.because = f"a fault in measuring: {type(error).__name__}: {error}"
                return
        self._meter.close()

    def stop(self) -> None:
        """Ends it; what is being asked is not waited for."""
        self._over.set()
