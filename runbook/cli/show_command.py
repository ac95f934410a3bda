"""`runbook show`: one run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runbook.cli.documents import print_document, refusing
from runbook.cli.files import database_option, named_urls
from runbook.language.problems import RunbookError
from runbook.records.markdown import visible

if TYPE_CHECKING:
    from runbook.operate.finding import Found

_STDOUT = "-"


@click.command("show", short_help="Show a run.")
@click.argument("run", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the record as one JSON document.")
@click.option(
    "--html",
    is_flag=False,
    flag_value=_STDOUT,
    metavar="[PATH.html]",
    help="A page with plots: to a file, else to standard output.",
)
@database_option("An audit to look into. Default: wherever the project's runbooks say.")
def command(run: str | None, as_json: bool, html: str | None, databases: tuple[str, ...]) -> None:
    """Show RUN (an id, a unique beginning of one, or `last`) as its run log.

    A run is looked for on this disk, else in the audits that the project's runbooks name.
    """
    from runbook.operate.finding import find_record
    from runbook.operate.limits import bounded
    from runbook.records.report import render

    if html not in (None, _STDOUT) and not str(html).endswith((".html", ".htm")):
        if run is not None:
            raise click.UsageError(f"--html {html}: the page's name ends with .html")
        run, html = html, _STDOUT
    name = "last" if run is None else run
    if not name:
        raise click.UsageError("RUN is empty: write an id, a unique beginning of one, or `last`")
    with refusing(as_json):
        if html is not None and as_json:
            raise click.UsageError("--json or --html?")
        found = find_record(name, named_urls(databases))
        if found.trouble:
            click.echo(f"not read: {visible(found.trouble)}", err=True)
        with bounded(name, memory=True):
            text = "" if as_json or html else render(found.record)
        if html is not None:
            _show_page(found, databases, html)
    if as_json:
        print_document(found.record)
    elif html is None:
        click.echo(text, nl=False)


def _show_page(found: Found, databases: tuple[str, ...], html: str) -> None:
    from runbook.cli.pages import page_of, write_page
    from runbook.operate.runs import is_run_id, project_here

    path = Path(html) if html != _STDOUT else None
    if path is None and sys.stdout.isatty():
        run = str(found.record["run"]["id"])
        path = project_here() / "pages" / f"{run if is_run_id(run) else 'run'}.html"
    page = page_of(found, named_urls(databases), path.parent if path else None)
    if path is None:
        click.echo(page, nl=False)
        return
    try:
        write_page(path, page)
    except OSError as error:
        raise RunbookError(f"{error.filename or path}: {error.strerror}") from None
    click.echo(f"wrote {path}", err=True)
