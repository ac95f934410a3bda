"""Ending a run that is on another host: it is asked to through its row, which its relay reads every second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from runbook.engine.record import Record
from runbook.fleet.elsewhere import Elsewhere, Standing, standing, way_to
from runbook.operate.circumstances import host, operator
from runbook.operate.runs import project_here
from runbook.operate.stop import CannotStop

if TYPE_CHECKING:
    from runbook.database.connect import Connection

TICK = 0.25  # seconds between two looks
EARLY = 2.0  # seconds after which people hear that it takes its time

_ASK = "UPDATE runbook_fleet.turns SET stop = $2 WHERE run_id = $1 AND state = 'running' AND stop IS NULL"


class Stopped(NamedTuple):
    """The record of a run that is over, on which host it was, and whether it was still going on."""

    record: Record
    host: str
    alive: bool


def stop_elsewhere(
    elsewhere: Elsewhere, databases: Mapping[str, str], *, patience: float, kill: bool, waiting: Callable[[], None]
) -> Stopped:
    """Asks a run on another host to end, or takes a queued one back, and waits so many seconds until the audit has its end.

    What somebody asked before stands. `databases` are URLs by connection name, as they were given; `waiting` is called once
    while it takes its time. Raises CannotStop, ServerError where the audit cannot be reached at the beginning, or what
    `withdraw` raises.
    """
    from runbook.database.connect import ServerError

    run_id, found = elsewhere.run_id, elsewhere.standing
    alive = found.verdict is None and found.state != "over"
    if alive:
        _refuse(run_id, found, kill)
    deadline, told = time.monotonic() + patience, time.monotonic() + min(EARLY, patience)
    with way_to(elsewhere) as connected:
        connection, trouble = connected(), ""
        try:
            while True:
                try:
                    connection = connected() if connection.closed else connection
                    found, trouble = _ask(connection, elsewhere, databases), ""
                    if found.verdict is not None:
                        return Stopped(_record(connection, elsewhere, found), found.host, alive)
                except ServerError as error:
                    if not error.lost:
                        raise
                    trouble = str(error)
                    connection.close()
                if time.monotonic() > deadline or (found.state == "over" and not trouble):
                    raise CannotStop(_unanswered(run_id, found, patience, trouble))
                if time.monotonic() > told:
                    told = deadline + 1
                    waiting()
                time.sleep(TICK)
        finally:
            connection.close()


def _refuse(run_id: str, found: Standing, kill: bool) -> None:
    """Raises CannotStop for what can only be done on the run's own host."""
    if not found.state:
        raise CannotStop(f"run {run_id} is on {found.host}: run `runbook stop {run_id}` there")
    if kill and found.state == "running":
        raise CannotStop(
            f"run {run_id} is on {found.host}, and only there its runner can be killed: run `runbook stop --kill {run_id}` "
            "there, in its worker's folder; where that host is gone, another worker concludes it `lost`"
        )


def _ask(connection: Connection, elsewhere: Elsewhere, databases: Mapping[str, str]) -> Standing:
    """Asks for the end of a run, wherever it stands by now; how it stands then. Raises ServerError, or what `withdraw` does."""
    from runbook.database.connect import translated
    from runbook.fleet.adopt import Here, withdraw

    by = f"{operator()} on {host()}"
    found = standing(connection, elsewhere.run_id, elsewhere.fleet)
    if found.verdict is None and found.state == "queued":
        withdraw(connection, Here(elsewhere.url, project_here(), databases), elsewhere.run_id, by)
        return standing(connection, elsewhere.run_id, elsewhere.fleet)
    if found.verdict is None and found.state == "running" and not found.stop:
        with translated():
            connection.execute(_ASK, [elsewhere.run_id, by])
    return found


def _record(connection: Connection, elsewhere: Elsewhere, found: Standing) -> Record:
    from runbook.records.history import records_from

    records = records_from(connection, [elsewhere.run_id])
    if elsewhere.run_id not in records:
        raise CannotStop(
            f"run {elsewhere.run_id} is over ({found.verdict}), and the audit in {elsewhere.target} has no whole record of it"
        )
    return records[elsewhere.run_id]


def _unanswered(run_id: str, found: Standing, patience: float, trouble: str) -> str:
    if trouble:
        return f"it is not known whether run {run_id} has ended: {trouble}"
    if found.state == "over":
        return f"run {run_id} is over, and its end is not in the audit: look on {found.host} with `runbook status`"
    sign = "" if found.seen is None else f"; its last sign of life is {found.seen:.0f} s old"
    return (
        f"run {run_id} on {found.host} has not ended within {patience:g} s, and goes on being asked to{sign}: wait, look with "
        f"`runbook fleet`, or run `runbook stop --kill {run_id}` there"
    )
