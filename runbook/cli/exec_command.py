"""`runbook exec`: one run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from runbook.cli.account import Account
from runbook.cli.documents import print_document, refusal
from runbook.cli.errors import exit_code, tell
from runbook.cli.files import database_targets, given_params, load_file, params_options
from runbook.language.problems import RunbookError
from runbook.records.markdown import visible


@click.command("exec", short_help="Run a runbook.")
@click.argument("file")
@params_options
@click.option(
    "--database",
    "databases",
    multiple=True,
    metavar="[NAME=]URL",
    help="Server to use; `embedded` for the private one.",
)
@click.option("--operator", metavar="NAME", help="Who runs it. Default: the user of the operating system.")
@click.option("--note", metavar="TEXT", default="", help="Goes into the run log's Notes.")
@click.option("--override", "overrides", multiple=True, metavar="CHECK", help="Go past this refuted preflight check.")
@click.option("--reason", metavar="TEXT", default="", help="Why; needed with --override.")
@click.option("--strict", is_flag=True, help="Warnings decide too.")
@click.option("--yes", is_flag=True, help="Consent where a connection is protected.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as one JSON document on stdout.")
def command(
    file: str,
    params: tuple[str, ...],
    params_file: Path | None,
    databases: tuple[str, ...],
    operator: str | None,
    note: str,
    overrides: tuple[str, ...],
    reason: str,
    strict: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Run FILE: predict, run, measure, judge, record, report.

    Exit codes: 0 passed, 1 refuted, 2 usage, 3 blocked, 4 failed, 5 invalid, 6 errored, 7 locked, 130 cancelled.
    """
    from runbook.operate.seen import Seen
    from runbook.session import Options, execute

    if bool(overrides) != bool(reason):
        raise click.UsageError("--override and --reason go together")
    account = Account()
    try:
        seen = Seen()
        runbook = load_file(file, seen=seen)
        unknown = [name for name in overrides if name not in {check.name for check in runbook.preflight}]
        if unknown:
            raise click.UsageError(f"--override {unknown[0]}: there is no such preflight check")
        record = execute(
            runbook,
            params=given_params(runbook, params, params_file),
            options=Options(
                database=database_targets(runbook, databases),
                operator=operator or "",
                note=note,
                strict=strict,
                overrides=dict.fromkeys(overrides, reason),
                command_line=tuple(sys.argv[1:]),
                seen=seen,
            ),
            on_event=account.event,
            on_output=account.output,
            consent=lambda target: yes or _ask(target),
        )
    except RunbookError as error:
        if as_json:
            print_document(refusal(error, file))
        tell(error)
        sys.exit(exit_code(error))
    _close(account, record)
    if as_json:
        print_document(record)
    sys.exit(record["run"]["exit_code"])


def _ask(target: str) -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty() and click.confirm(f"{target} is protected. Run?", err=True)


def _close(account: Account, record: Any) -> None:
    run = record["run"]
    account.say()
    for problem in record["problems"]:
        account.say(account.style(f"  ! {problem['message']}", "warning"))
    if run["audit"] in ("pending", "failed"):
        account.say(account.style(f"  ! audit: {run['audit']}: {record['audit']['because']}", "warning"))
    if run["because"] and run["verdict"] != "passed":
        account.say(f"because: {visible(run['because'])}")
    place = f"run log: {os.path.relpath(record['report'])}" if record["report"] else f"journal: {record['journal']}"
    account.say(f"{account.style(run['verdict'], run['verdict'])}   {place}")
