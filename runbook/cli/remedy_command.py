"""`runbook remedy`: look at a declared repair, and do it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from runbook.cli.account import Account
from runbook.cli.documents import print_document, printable, refusing
from runbook.cli.files import database_option, database_targets, given_params, load_file, params_options
from runbook.language.values import as_text, brief
from runbook.records.markdown import visible

if TYPE_CHECKING:
    from runbook.engine.record import Record
    from runbook.language.model import Runbook
    from runbook.remedy import Preview


@click.command("remedy", short_help="Repairs that a runbook declares: list, look, apply.")
@click.argument("file")
@click.argument("name", required=False)
@params_options
@database_option("Server to use; `embedded` for the private one.")
@click.option("--yes", is_flag=True, help="Consent: to the repair, and to a protected connection.")
@click.option("--operator", metavar="NAME", help="Who does it. Default: the user of the operating system.")
@click.option("--note", metavar="TEXT", default="", help="Why; goes into the run log's Notes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def command(file: str, name: str | None, **given: Any) -> None:
    """List the remedies of FILE with the rows that each would touch now; with NAME, show what it would do; do it after consent.

    What is shown was tried in a transaction that was rolled back. It is done under the runbook's lock, recorded like a run, and
    committed only if it touches exactly the number of rows that was shown, and never more than max_rows.

    Exit codes: 0 shown or done, 3 more rows than max_rows, 4 rolled back or failed, 5 invalid, 6 a server is away, 7 locked.
    """
    with refusing(given["as_json"], file):
        runbook = load_file(file)
        params = dict(given_params(runbook, given["params"], given["params_file"]))
        databases = database_targets(runbook, given["databases"])
        if name is None:
            _list(runbook, params, databases, given["as_json"])
            return
        record = _apply(runbook, name, params, databases, given)
    sys.exit(0 if record is None else record["run"]["exit_code"] or 0)


def _list(runbook: Runbook, params: dict[str, Any], databases: dict[str, str], as_json: bool) -> None:
    from runbook.remedy import list_remedies

    listed = list_remedies(runbook, params, databases)
    width = max((len(item.remedy.name) for item in listed), default=0)
    for remedy, rows, because in listed:
        bound = f"{rows} row{'' if rows == 1 else 's'} now (at most {remedy.max_rows})" if rows is not None else because
        click.echo(f"{remedy.name.ljust(width)}  {visible(bound)}   {visible(remedy.description)}".rstrip(), err=True)
    if not listed:
        click.echo(f"{runbook.name} declares no remedies", err=True)
    if as_json:
        found = [
            {"name": r.name, "description": r.description, "rows": rows, "max_rows": r.max_rows, "because": because}
            for r, rows, because in listed
        ]
        print_document({"remedies": found, "problems": []})


def _apply(
    runbook: Runbook, name: str, params: dict[str, Any], databases: dict[str, str], given: dict[str, Any]
) -> Record | None:
    """The record of what was done; None where nothing was."""
    from runbook.cli.exec_command import ask
    from runbook.operate.options import Options
    from runbook.remedy import apply, check_bound, find_remedy, preview

    seen = preview(runbook, name, params, databases)
    _show(name, seen)
    document: dict[str, Any] = {"remedy": name, **seen._asdict(), "applied": False, "run": None, "problems": []}
    record = None
    check_bound(find_remedy(runbook, name), seen.rows)
    if seen.rows == 0:
        click.echo("nothing to repair: it touches no row", err=True)
    elif not (given["yes"] or ask(f"do it? {seen.rows} row{'' if seen.rows == 1 else 's'}")):
        click.echo("nothing was changed; --yes does it", err=True)
    else:
        options = Options(
            database=databases,
            operator=given["operator"] or "",
            note=given["note"],
            command_line=tuple(sys.argv[1:]),
        )
        account = Account()
        record = apply(
            runbook,
            name,
            seen.rows,
            params=params,
            options=options,
            on_event=account.event,
            consent=lambda question: given["yes"] or ask(question),
        )
        applied = record["run"]["verdict"] == "passed"
        document |= {"applied": applied, "run": printable(record)}
        log = f"   run log: {os.path.relpath(record['report'])}" if record["report"] else ""
        click.echo(f"{record['run']['verdict']}{log}", err=True)
    if given["as_json"]:
        print_document(document)
    return record


def _show(name: str, seen: Preview) -> None:
    if seen.found:
        columns = list(seen.found[0])
        click.echo("  ".join(map(visible, columns)), err=True)
        for row in seen.found:
            click.echo("  ".join(visible(brief(row[column], 40)) for column in columns), err=True)
        left = (seen.found_rows or 0) - len(seen.found)
        if left > 0:
            click.echo(f"… {left} more", err=True)
    click.echo(
        f"{visible(name)} would touch {seen.rows} row{'' if seen.rows == 1 else 's'} (tried, and rolled back)", err=True
    )
    for state, row in seen.before.items():
        for metric, value in row.items():
            after = seen.after.get(state, {}).get(metric)
            if after != value:
                click.echo(f"  {visible(f'{state}.{metric}')}: {as_text(value)} → {as_text(after)}", err=True)
