"""`runbook check`: the preflight alone, read-only."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from runbook.cli.account import Account
from runbook.cli.documents import print_document, refusal
from runbook.cli.errors import exit_code, tell
from runbook.cli.files import database_targets, given_params, load_file, params_options
from runbook.language.problems import RunbookError


@click.command("check", short_help="Ask the preflight alone.")
@click.argument("file")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@params_options
@click.option(
    "--database",
    "databases",
    multiple=True,
    metavar="[NAME=]URL",
    help="Server to use; `embedded` for the private one.",
)
@click.option("--strict", is_flag=True, help="Warnings decide too.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as one JSON document on stdout.")
def command(
    file: str,
    names: tuple[str, ...],
    params: tuple[str, ...],
    params_file: Path | None,
    databases: tuple[str, ...],
    strict: bool,
    as_json: bool,
) -> None:
    """Ask the preflight checks of FILE, or those named and what they refer to. Nothing is started, written or locked.

    Exit codes: 0 all that had to hold holds, 3 a check is refuted, 5 invalid, 6 something could not be found out.
    """
    from runbook.look import check

    account = Account()
    try:
        runbook = load_file(file)
        known = {item.name for item in runbook.preflight}
        missing = [name for name in names if name not in known]
        if missing:
            raise click.UsageError(f"there is no preflight check `{missing[0]}`; there are {', '.join(sorted(known))}")
        record = check(
            runbook,
            names,
            params=given_params(runbook, params, params_file),
            database=database_targets(runbook, databases),
            strict=strict,
            on_event=account.event,
        )
    except RunbookError as error:
        if as_json:
            print_document(refusal(error, file))
        tell(error)
        sys.exit(exit_code(error))
    code = record["run"]["exit_code"]
    account.say()
    account.say(
        {0: account.style("passed", "passed"), 3: account.style("blocked", "blocked")}.get(
            code or 0, account.style("errored", "errored")
        )
    )
    if as_json:
        print_document(record)
    sys.exit(code)
