"""`runbook doctor`: is all there that a run needs, and what cures what is not."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runbook.cli.account import Account
from runbook.cli.documents import print_document
from runbook.cli.errors import ERRORED, exit_code, tell
from runbook.cli.files import (
    database_option,
    database_targets,
    given_params,
    load_file,
    named_urls,
    params_options,
)
from runbook.language.problems import InvalidRunbook
from runbook.operate.examinations import worst

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runbook.operate.examinations import Finding, State

KINDS: dict[State, str] = {"ok": "passed", "warn": "warning", "fail": "failed"}
WIDTH = 18  # characters of what was looked at


@click.command("doctor", short_help="Is all there that a run needs?")
@click.argument("file", required=False)
@params_options
@database_option("Server to look at.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON document on stdout.")
def command(
    file: str | None, params: tuple[str, ...], params_file: Path | None, databases: tuple[str, ...], as_json: bool
) -> None:
    """Look at the machine and the project, or at all that FILE stands on: its secrets, programs, servers, lock, audit, models.

    Each line is ok, warn or fail; below the last two stands the cure. Nothing is written, here or on a server.

    Exit codes: 0 nothing fails, 5 FILE is invalid, 6 something fails.
    """
    if file is None and (params or params_file):
        raise click.UsageError("-p and --params-file are for the params of FILE")
    found: list[Finding] = []
    try:
        account = Account()
        for finding in _findings(file, params, params_file, databases):
            _show(account, finding, found[-1].subject if found else "")
            found.append(finding)
    except InvalidRunbook as error:
        if as_json:
            problems = [dict(problem.as_data()) for problem in error.problems]
            print_document({"findings": [], "worst": "fail", "problems": problems})
        tell(error)
        sys.exit(exit_code(error))
    state = worst(found)
    count = Counter(finding.state for finding in found)
    account.say()
    account.say(", ".join(account.style(f"{count[word]} {word}", KINDS[word]) for word in KINDS if count[word]))
    if as_json:
        print_document({"findings": [finding.as_data() for finding in found], "worst": state, "problems": []})
    sys.exit(ERRORED if state == "fail" else 0)


def _findings(
    file: str | None, params: tuple[str, ...], params_file: Path | None, databases: tuple[str, ...]
) -> Iterator[Finding]:
    from runbook.doctor import doctor

    if file is None:
        return doctor(database=named_urls(databases))
    runbook = load_file(file)
    given, targets = given_params(runbook, params, params_file), database_targets(runbook, databases)
    return doctor(runbook, params=given, database=targets)


def _show(account: Account, finding: Finding, before: str) -> None:
    if finding.subject != before:
        if before:
            account.say()
        account.say(account.heading(finding.subject))
    word = account.style(f"{finding.state:<4}", KINDS[finding.state])
    account.say(f"  {word}  {finding.what:<{WIDTH}}  {finding.found}")
    if finding.cure:
        account.say(f"        {'':<{WIDTH}}  cure: {finding.cure}")
