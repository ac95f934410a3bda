"""`runbook audit`: the audit in the database."""

from __future__ import annotations

import click


@click.group("audit", short_help="The audit in the database.")
def command() -> None:
    """The audit in the database."""


@command.command("schema")
def schema() -> None:
    """Print the SQL that makes the audit's schema, for a DBA."""
    from runbook.records.audit import schema_sql

    click.echo(schema_sql(), nl=False)
