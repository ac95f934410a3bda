"""`runbook note`: add to the notes of a finished run."""

from __future__ import annotations

import sys

import click

from runbook.cli.documents import print_document, refusing
from runbook.cli.errors import ERRORED
from runbook.cli.files import database_option, named_urls
from runbook.records.markdown import visible


@click.command("note", short_help="Add to the notes of a run.")
@click.argument("run")
@click.argument("text")
@database_option("Where the audit of the run lies.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as one JSON document.")
def command(run: str, text: str, databases: tuple[str, ...], as_json: bool) -> None:
    """Add TEXT to the notes of RUN (an id, a unique beginning of one, or `last`), and render its run log again.

    What a person wrote into the Notes of the run log by hand is kept, and enters the records as well.

    Exit codes: 0 noted everywhere, 6 not, or not everywhere (it says why; `runbook recover` completes it).
    """
    from runbook.operate.notes import add_note
    from runbook.operate.reaching import Way
    from runbook.operate.runs import find_run

    if not text.strip():
        raise click.UsageError("an empty note")
    with refusing(as_json):
        noted = add_note(find_run(run), text, Way(named_urls(databases)))
    for warning in noted.warnings:
        click.echo(f"note: {visible(warning)}", err=True)
    log = f"   run log: {noted.record['report']}" if noted.record["report"] else ""
    click.echo(f"noted in run {noted.record['run']['id']}{log}", err=True)
    if as_json:
        print_document(noted.record)
    incomplete = any(warning.startswith(("the audit", "the run log is not")) for warning in noted.warnings)
    sys.exit(ERRORED if incomplete else 0)
