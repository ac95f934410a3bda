"""`runbook schema`: the JSON Schema of runbooks for editors, with the kinds of other packages that are installed."""

from __future__ import annotations

import json

import click

from runbook.records.markdown import visible


@click.command("schema", short_help="The JSON Schema of runbooks, for editors.")
def command() -> None:
    """Print the JSON Schema of runbooks, with the keys of every package that is installed and adds some.

    Save it, and name it in a runbook's first line: # yaml-language-server: $schema=PATH. Exit codes: 0.
    """
    from runbook.language.kinds import for_editors
    from runbook.language.schema import runbook_schema

    schema, troubles = for_editors(runbook_schema())
    for trouble in troubles:
        click.echo(f"note: {visible(trouble)}", err=True)
    click.echo(json.dumps(schema, indent=2))
