"""`runbook show`: one run, from its journal."""

from __future__ import annotations

import click

from runbook.cli.documents import print_document, refusing


@click.command("show", short_help="Show a run.")
@click.argument("run", default="last")
@click.option("--json", "as_json", is_flag=True, help="Print the record as one JSON document.")
def command(run: str, as_json: bool) -> None:
    """Show RUN (an id, a unique beginning of one, or `last`) as its run log."""
    from runbook.operate.limits import bounded
    from runbook.operate.runs import find_run, record_of
    from runbook.records.report import render

    with refusing(as_json):
        folder = find_run(run)
        with bounded(str(folder), memory=True):
            record = record_of(folder)
            text = "" if as_json else render(record)
    if as_json:
        print_document(record)
    else:
        click.echo(text, nl=False)
