"""`runbook test`: do the runbooks come out as their cases say?"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runbook.cli.account import Account
from runbook.cli.documents import print_document
from runbook.cli.errors import ERRORED, INVALID, tell
from runbook.cli.files import database_option, database_targets, load_file, runbook_file
from runbook.cli.trials import Suites, data, exit_code, invalid, line, story, suites, summary, unfinished
from runbook.language.cases import is_cases_file, runbook_beside
from runbook.language.fields import seconds
from runbook.language.problems import InvalidRunbook, Problem, did_you_mean

if TYPE_CHECKING:
    from runbook.trial import Bounds, Trial, Tried

_DURATION = re.compile(r"([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+")


@click.command("test", short_help="Try runbooks out: do they come out as their cases say?")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--case", "names", multiple=True, metavar="NAME", help="Only this case.")
@click.option(
    "-j", "--jobs", type=click.IntRange(1, 64), metavar="N", help="Cases at a time. Default: one per CPU, at most 8."
)
@database_option("Copy this database for each case. Default: the private PostgreSQL, seeded afresh.")
@click.option("--timeout", default="10m", show_default=True, metavar="TIME", help="For each case.")
@click.option("--keep", is_flag=True, help="Keep the records of every case, not only of those that miss.")
@click.option("--junit", type=click.Path(path_type=Path), metavar="PATH", help="Write a JUnit file: a test case each.")
@click.option("--json", "as_json", is_flag=True, help="Print what came as one JSON document on stdout.")
def command(**given: Any) -> None:
    """Run every case of FILE... and see whether it comes out as wanted.

    The cases of runbooks/NAME.yaml stand in runbooks/NAME.cases.yaml; without, it is run once and must pass. Each case has a
    fresh database, and is dropped with it; what its steps do elsewhere (files, HTTP, commands) is really done.

    Exit codes: 0 all as wanted, 1 one is not, 5 invalid, 6 a case could not be run, 130 cancelled.
    """
    if not _DURATION.fullmatch(given["timeout"]):
        raise click.UsageError(f"--timeout {given['timeout']}: a time is written 90s, 5m, 2h or 1h30m")
    path = given["junit"]
    if path is not None and not _written(path, unfinished()):
        sys.exit(ERRORED)
    try:
        trials = _chosen(_trials(given["files"], given["databases"]), given["names"])
    except InvalidRunbook as error:
        if path is not None:
            _written(path, invalid(error.problems))
        if given["as_json"]:
            print_document({"cases": [], "problems": [problem.as_data() for problem in error.problems]})
        tell(error)
        sys.exit(INVALID)
    found = _try(trials, given)
    code = exit_code(found)
    if path is not None and not _written(path, suites(found)):
        code = code or ERRORED
    if given["as_json"]:
        print_document({"cases": [data(one) for one in found], "problems": []})
    sys.exit(code)


def _trials(files: Sequence[str], databases: tuple[str, ...]) -> list[Trial]:
    """The cases of all files, each file once. Raises InvalidRunbook with the problems of all."""
    from runbook.operate.seen import Seen
    from runbook.trial import trials_of

    found: dict[Path, list[Trial]] = {}
    problems: list[Problem] = []
    for name in files:
        try:
            path = Path(runbook_file(name))
            path = runbook_beside(path) if is_cases_file(path) else path
            if path.resolve() not in found:
                runbook = load_file(str(path), seen=Seen())
                found[path.resolve()] = trials_of(runbook, database_targets(runbook, databases))
        except InvalidRunbook as error:
            problems += error.problems
    if problems:
        raise InvalidRunbook(problems)
    return [trial for trials in found.values() for trial in trials]


def _chosen(trials: list[Trial], names: tuple[str, ...]) -> list[Trial]:
    known = {trial.case.name for trial in trials}
    for name in names:
        if name not in known:
            raise click.UsageError(f"--case {name}: there is no such case; {did_you_mean(name, known)}")
    return [trial for trial in trials if not names or trial.case.name in names]


def _try(trials: list[Trial], given: dict[str, Any]) -> list[Tried]:
    """Tries them out and tells of each as it is done; what came of them, in the order of the files."""
    from runbook.operate.cancel import Cancellation, listen
    from runbook.trial import Bounds

    account, cancellation = Account(), Cancellation()
    listen(cancellation)
    folder = Path(tempfile.mkdtemp(prefix="runbook-test-"))
    bounds = Bounds(folder, seconds(given["timeout"]), given["keep"])
    try:
        found = _tried_out(trials, bounds, given["jobs"], account, cancellation.reason)
    finally:
        if not any(folder.iterdir()):
            shutil.rmtree(folder)
    account.say(summary(found))
    if folder.exists():
        account.say(f"kept in {folder}")
    return found


def _tried_out(trials: list[Trial], bounds: Bounds, jobs: int | None, account: Account, asked: Any) -> list[Tried]:
    from runbook.trial import MOST_JOBS, try_all

    places = {id(trial): number for number, trial in enumerate(trials)}
    width = max((len(trial.name) for trial in trials), default=0)
    found: list[Tried] = []
    for tried in try_all(trials, bounds, jobs or min(os.cpu_count() or 1, MOST_JOBS), lambda: asked() is not None):
        mark = {"passed": "✓", "refuted": "✗", "unknown": "?", "skipped": "-"}[tried.verdict]
        account.say(account.style(f"{mark} {line(tried, width)}", tried.verdict))
        for told in story(tried):
            account.say(f"      {told}")
        found.append(tried)
    return sorted(found, key=lambda tried: places[id(tried.trial)])


def _written(path: Path, content: Suites) -> bool:
    """Writes the JUnit file; tells why where that cannot be done."""
    from runbook.cli.ci_output import relative
    from runbook.records.files import PUBLIC, write_aside
    from runbook.records.junit import junit_of_cases

    try:
        write_aside(path, [junit_of_cases(content, relative)], PUBLIC)
    except OSError as error:
        click.echo(f"error: --junit {path}: {error.strerror}", err=True)
        return False
    return True
