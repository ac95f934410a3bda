"""`runbook stop`: end a run from outside."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runbook.cli.documents import print_document, refusing
from runbook.cli.errors import ERRORED
from runbook.cli.files import database_option, named_urls
from runbook.cli.recover_command import tell_recovered
from runbook.records.markdown import visible

if TYPE_CHECKING:
    from runbook.engine.record import Record


@click.command("stop", short_help="End a run.")
@click.argument("run", default="last")
@click.option("--patience", default=60.0, show_default=True, metavar="SECONDS", help="How long to wait for its end.")
@click.option("--kill", is_flag=True, help="Kill the runner if it does not end; the run is then lost.")
@database_option("Where the audit of the run lies.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as one JSON document.")
def command(run: str, patience: float, kill: bool, databases: tuple[str, ...], as_json: bool) -> None:
    """End RUN (an id, a unique beginning of one, or `last`).

    Its step's processes get SIGTERM, and SIGKILL after a grace period; postconditions are still measured, and the run ends
    `cancelled` with its records complete. A run whose runner is dead is closed as `lost`; what still runs of its step is ended.
    A submitted run that is on another host is asked to end through its audit; one that is queued is taken back.
    """
    from runbook.fleet.elsewhere import locate

    with refusing(as_json):
        found = locate(run, named_urls(databases))
        if isinstance(found, Path):
            record, alive, closed = _stop_here(found, databases, patience, kill)
            place = ""
        else:
            from runbook.fleet.stopping import stop_elsewhere

            where = named_urls(databases)
            (record, place, alive) = stop_elsewhere(found, where, patience=patience, kill=kill, waiting=_waiting)
            closed = True
    _tell(record, alive, place)
    if as_json:
        print_document(record)
    sys.exit(0 if closed else ERRORED)


def _stop_here(folder: Path, databases: tuple[str, ...], patience: float, kill: bool) -> tuple[Record, bool, bool]:
    """The record, whether the run was going on, and whether its books are closed."""
    from runbook.operate.alive import running
    from runbook.operate.predecessors import GRACE
    from runbook.operate.reaching import Way
    from runbook.operate.recovery import recover
    from runbook.operate.runs import record_of
    from runbook.operate.stop import CannotStop, stop

    alive = running(folder)
    if alive:
        stop(folder, patience=patience, kill=kill, waiting=_waiting)
    found = recover(folder, Way(named_urls(databases)), lambda record: GRACE)
    record = found.record if found else record_of(folder)
    if not record["run"]["verdict"]:
        raise CannotStop(
            f"run {folder.name} has not begun, or another command is closing it: look with `runbook status`"
        )
    if found and (found.record["run"]["verdict"] == "lost" or found.left or found.trouble):
        tell_recovered(found)
    return record, alive, not (found and (found.left or found.trouble))


def _waiting() -> None:
    click.echo("waiting for its end…", err=True)


def _tell(record: Record, alive: bool, place: str) -> None:
    from runbook.operate.circumstances import host

    verdict = record["run"]["verdict"]
    said = f"stopped: {verdict}" if alive else f"was not running: {verdict}"
    there = f" on {visible(place)}" if place and place != host() else ""
    log = f"   run log{there}: {record['report']}" if record["report"] else ""
    click.echo(f"run {record['run']['id']} ({visible(record['run']['runbook'])}) {said}{log}", err=True)
