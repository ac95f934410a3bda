"""`runbook validate`: every problem of every file, sorted, each with its place and its cure."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path

import click

from runbook.cli.errors import INVALID
from runbook.cli.files import database_option, database_targets, load_file, runbook_file
from runbook.cli.telling import problem_text
from runbook.language.cases import is_cases_file, load_cases, runbook_beside
from runbook.language.model import Runbook
from runbook.language.problems import InvalidRunbook, Problem
from runbook.language.values import dumps
from runbook.operate.limits import SECONDS


@click.command("validate", short_help="Look for problems in runbooks.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@database_option("Have this server prepare every statement too.")
@click.option("--json", "as_json", is_flag=True, help="Print the problems as one JSON document on stdout.")
def command(files: tuple[str, ...], databases: tuple[str, ...], as_json: bool) -> None:
    """Look for problems in FILE..., without running anything.

    Exit codes: 0 no problems, 5 problems, 6 a server given with --database is away.
    """
    problems: list[Problem] = []
    notes: list[str] = []
    deadline = time.monotonic() + SECONDS
    for file in files:
        try:
            path = Path(runbook_file(file))
            of_cases = is_cases_file(path)
            beside = str(runbook_beside(path)) if of_cases else file
            runbook = load_file(beside, memory=True, seconds=deadline - time.monotonic())
            if of_cases:
                load_cases(runbook)
            elif databases:
                problems += _prepared(runbook, databases, notes)
        except InvalidRunbook as error:
            problems += error.problems
    problems.sort(key=lambda problem: (problem.file, problem.line, problem.column))
    if as_json:
        document = {"files": list(files), "problems": [dict(p.as_data()) for p in problems], "notes": notes}
        click.echo(dumps(document))
    for problem in problems:
        click.echo(problem_text(problem), err=True)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    bad = len({problem.file for problem in problems})
    count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''} in {bad} of {max(len(files), bad)} files"
    click.echo(count if problems else f"{len(files)} file{'s' if len(files) != 1 else ''}, no problems", err=True)
    sys.exit(INVALID if problems else 0)


def _prepared(runbook: Runbook, databases: tuple[str, ...], notes: list[str]) -> list[Problem]:
    from runbook.operate.prepare import prepare_all
    from runbook.operate.servers import project_folder, resolve

    with ExitStack() as stack:
        servers = resolve(runbook, database_targets(runbook, databases), project_folder(Path(runbook.path)), stack)
        return prepare_all(runbook, servers, notes)
