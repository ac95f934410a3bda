"""`runbook recover`: close what dead runners left open."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from runbook.cli.documents import print_document, printable, refusal
from runbook.cli.errors import ERRORED
from runbook.language.problems import RunbookError
from runbook.language.values import dumps
from runbook.records.markdown import visible

if TYPE_CHECKING:
    from runbook.operate.recovery import Recovered, Way

Command = TypeVar("Command", bound=Callable[..., Any])


def connections_option(command: Command) -> Command:
    """`--database [NAME=]URL`, for runs whose servers the environment does not name."""
    return click.option(
        "--database", "databases", multiple=True, metavar="[NAME=]URL", help="Where the audit of the run lies."
    )(command)


def way_to(databases: tuple[str, ...]) -> Way:
    """What `--database [NAME=]URL` says; a URL without a name is for whichever connection has the audit."""
    from runbook.operate.recovery import Way

    given = {}
    for text in databases:
        name, equals, url = text.partition("=")
        named = bool(equals) and "://" not in name and ("://" in url or url == "embedded")
        given[name if named else ""] = url if named else text
    return Way(given)


@click.command("recover", short_help="Close the lost.")
@click.argument("run", required=False)
@click.option("--grace", default=10.0, show_default=True, metavar="SECONDS", help="Between SIGTERM and SIGKILL.")
@click.option("--keep", is_flag=True, help="Leave running what still runs of a lost step.")
@connections_option
@click.option("--json", "as_json", is_flag=True, help="Print the records as one JSON document.")
def command(run: str | None, grace: float, keep: bool, databases: tuple[str, ...], as_json: bool) -> None:
    """Close RUN, or every run of this project that is not closed: conclude `lost` where the runner is dead, end what still
    runs of its step, complete the audit from the journal, write the run log.

    Exit codes: 0 all closed, 6 something stays open (it says why).
    """
    from runbook.operate.recovery import recover
    from runbook.operate.runs import find_run, open_runs, runs_folder

    try:
        folders = [find_run(run)] if run else open_runs(runs_folder().parent)
    except RunbookError as error:
        if as_json:
            print_document(refusal(error, ""))
        raise
    way, documents, open_still = way_to(databases), [], False
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
        click.echo(dumps({"runs": documents}))
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
