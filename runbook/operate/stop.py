"""Ending a run from outside: its runner is asked to, and seen to have done it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from runbook.engine.record import Record
from runbook.language.problems import RunbookError
from runbook.operate.alive import boot_id, here, running
from runbook.operate.runs import record_of
from runbook.system.tree import send

TICK = 0.1


class CannotStop(RunbookError):
    """The run could not be ended from here."""


def stop(folder: Path, *, patience: float, kill: bool, waiting: Callable[[], None]) -> None:
    """Asks the runner of a living run to end, and waits for it.

    SIGTERM is sent, which ends the step's processes, has the postconditions measured and closes the record. A runner that
    has not ended after `patience` seconds is killed where `kill` says so: the run is then lost. `waiting` is called once
    while it takes its time. Raises CannotStop.
    """
    record = record_of(folder)
    pid, started = _runner(record)
    send(pid, started, signal.SIGTERM)
    send(pid, started, signal.SIGCONT)  # one that was stopped would never hear it
    if not _ends(folder, min(patience, 2)):
        waiting()
        if not _ends(folder, patience - 2):
            if not kill:
                raise CannotStop(
                    f"run {record['run']['id']} (pid {pid}) has not ended within {patience:g} s; it may be closing its books: "
                    "wait, look with `runbook status`, or kill it with `runbook stop --kill`"
                )
            send(pid, started, signal.SIGKILL)
            if not _ends(folder, patience):
                raise CannotStop(
                    f"run {record['run']['id']} (pid {pid}) was killed and has not ended: it hangs in the kernel"
                )


def _runner(record: Record) -> tuple[int, float]:
    """The runner's pid and start time, if they can be trusted. Raises CannotStop."""
    run = record["run"]
    if not here(run):
        raise CannotStop(f"run {run['id']} is on {run.get('host')}: run `runbook stop {run['id']}` there")
    pid, started = run.get("pid"), run.get("process_started")
    if not pid or started is None or run.get("boot_id") != boot_id():
        raise CannotStop(f"run {run['id']}: its record does not tell which process it is")
    return pid, float(started)


def _ends(folder: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while running(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(TICK)
    return True
