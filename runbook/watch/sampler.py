"""The metrics of a run while one of its steps goes on, measured beside it from within the run itself."""

from __future__ import annotations

import signal
import threading
import time
from _thread import start_new_thread
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from runbook.engine.judge import Number
from runbook.engine.record import Record, under_way
from runbook.language.model import Command, Runbook
from runbook.language.values import dumps, to_data

if TYPE_CHECKING:
    from runbook.watch.meter import Measuring

FIRST = 0.5  # seconds that a step has to last before it is measured, and between the first two measurements
GROWTH = 1.3
LONGEST = 10.0  # seconds between two measurements, while there are few
MOST = 300  # samples
LARGEST = 64_000  # characters of all samples, as the journal holds them
LEAVE = 0.1  # seconds for which a measurement that goes on is waited for when the step has ended

Point = tuple[float, Mapping[str, Number]]


class Sampler:
    """Measures the states of a run in a thread of its own, until it is stopped; a step that is over before costs nothing.

    `began` is what the monotonic clock said when the run started, `urls` has its servers by connection.
    """

    def __init__(self, runbook: Runbook, record: Record, urls: Mapping[str, str], began: float) -> None:
        self._runbook, self._record, self._urls, self._began = runbook, record, urls, began
        self._over = threading.Event()
        self._points: list[Point] = []
        self._longest = LONGEST
        self._measuring = False
        self._left = threading.Event()
        if any(not isinstance(state.probe, Command) for state in runbook.state):
            start_new_thread(self._run, ())  # which, unlike Thread.start, does not wait until it runs

    def stop(self) -> list[list[Any]]:
        """Ends it. What was measured, oldest first: seconds since the start of the run, and numbers by metric."""
        self._over.set()
        if self._measuring:
            self._left.wait(LEAVE)
        return fitting(list(self._points))

    @property
    def newest(self) -> Mapping[str, Number]:
        """The metrics as they were measured last; none before the first time."""
        return self._points[-1][1] if self._points else {}

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        if self._over.wait(FIRST):
            return
        self._measuring = True
        try:
            self._measure()
        except Exception:  # noqa: BLE001 - a fault in looking on must not disturb the run, nor be told in its account
            return
        finally:
            self._left.set()

    def _measure(self) -> None:
        from runbook.watch.meter import Measuring, Meter

        meter = Meter(self._record, self._urls, self._runbook, "progress")
        measuring = Measuring(meter, FIRST, lambda: time.monotonic() - self._began, lambda: True)
        interval = FIRST
        try:
            while not self._over.is_set():
                waiting = max(measuring.once(), interval)
                self._keep(measuring)
                interval = min(interval * GROWTH, self._longest)
                self._over.wait(waiting)
        finally:
            meter.close()

    def _keep(self, measuring: Measuring) -> None:
        """Takes what was measured, unless the step has ended meanwhile; where there is too much, every other sample goes."""
        if not self._over.is_set():
            self._points += [(sample.at, sample.values) for sample in measuring.samples]
        measuring.samples.clear()
        if len(self._points) > MOST:
            self._points = self._points[::2]
            self._longest *= 2  # so that they stay evenly spread


def fitting(points: list[Point]) -> list[list[Any]]:
    """The points as an event has them, thinned until they have room in it."""
    while True:
        found = [[round(at, 3), to_data(dict(values))] for at, values in points]
        if len(dumps(found)) <= LARGEST:
            return found
        points = points[::2] if len(points) > 1 else []


def doing(record: Record, values: Mapping[str, Number]) -> dict[str, Any]:
    """What a run does at the moment, and how far each predicted change has come: [so far, predicted] by metric."""
    done = {}
    for name, item in list(record["expectations"].items()):
        state, _, metric = name.rpartition(".")
        before = record["before"].get(state, {}).get(metric)
        predicted = item.get("predicted")
        if item.get("of") != "delta" or name not in values or not isinstance(predicted, int | Decimal):
            continue
        if isinstance(before, int | Decimal):
            done[name] = [values[name] - before, predicted]
    step = under_way(record)
    tries = len(record["steps"][step]["tries"]) if step else 0
    return {"stage": record["run"].get("stage", ""), "step": step, "attempt": tries, "done": to_data(done)}
