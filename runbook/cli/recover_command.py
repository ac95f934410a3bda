"""`runbook recover`: close what dead runners left open."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runbook.cli.documents import print_document, printable, refusing
from runbook.cli.errors import ERRORED
from runbook.cli.files import database_option, named_urls
from runbook.language.problems import RunbookError
from runbook.records.markdown import visible

if TYPE_CHECKING:
    from runbook.operate.recovery import Recovered


@click.command("recover", short_help="Close the lost.")
@click.argument("run", required=False)
@click.option("--grace", default=10.0, show_default=True, metavar="SECONDS", help="Between SIGTERM and SIGKILL.")
@click.option("--keep", is_flag=True, help="Leave running what still runs of a lost step.")
@database_option("Where the audit of the run lies.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as one JSON document.")
def command(run: str | None, grace: float, keep: bool, databases: tuple[str, ...], as_json: bool) -> None:
    """Close RUN, or every run of this project that is not closed: conclude `lost` where the runner is dead, end what still
    runs of its step, complete the audit from the journal, write the run log.

    Exit codes: 0 all closed, 6 something stays open (it says why).
    """
    from runbook.operate.reaching import Way
    from runbook.operate.recovery import recover
    from runbook.operate.runs import find_run, open_runs, runs_folder

    with refusing(as_json):
        folders = [find_run(run)] if run else open_runs(runs_folder().parent)
    way, documents, open_still = Way(named_urls(databases)), [], False
    for folder in folders:
        try:
            found = recover(folder, way, lambda record: None if keep else grace)
        except RunbookError as error:
            click.echo(f"run {folder.name}: {error}", err=True)
            open_still = True
            continue
        if found is None:
            open_still = _tell_unrecovered(folder) or open_still
            continue
        tell_recovered(found)
        open_still = open_still or bool(found.left or found.trouble)
        documents.append(printable(found.record))
    if not folders:
        click.echo("nothing to recover", err=True)
    if as_json:
        print_document({"runs": documents})
    sys.exit(ERRORED if open_still else 0)


def _tell_unrecovered(folder: Path) -> bool:
    """Why nothing was done about a run; whether it is left open."""
    from runbook.operate.alive import runner_lives, running
    from runbook.operate.runs import record_of

    if not running(folder):
        click.echo(f"run {folder.name} never began", err=True)
        return False
    lives = runner_lives(record_of(folder)["run"])
    cure = f"is running: `runbook stop {folder.name}` ends it" if lives else "is being closed by another command"
    click.echo(f"run {folder.name} {cure}", err=True)
    return not lives


def tell_recovered(found: Recovered) -> None:
    """What was found of a run, and what became of it."""
    from runbook.operate.predecessors import told

    run = found.record["run"]
    for line in told(found):
        click.echo(visible(line), err=True)
    if not found.trouble and not found.left:
        log = f", run log: {found.record['report']}" if found.record["report"] else ""
        click.echo(f"run {run['id']} is closed: {run['verdict']}{log}", err=True)
