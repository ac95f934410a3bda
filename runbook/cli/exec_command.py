"""`runbook exec`: one run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runbook.cli.account import Account
from runbook.cli.ci_output import ci_output
from runbook.cli.documents import print_document, refusal
from runbook.cli.errors import exit_code, tell
from runbook.cli.files import database_option, database_targets, given_params, load_file, params_options
from runbook.cli.terminal import can_move
from runbook.language.problems import RunbookError
from runbook.records.markdown import visible

if TYPE_CHECKING:
    from runbook.engine.record import Event, Record
    from runbook.language.model import Runbook
    from runbook.operate.lock import Locked


@click.command("exec", short_help="Run a runbook.")
@click.argument("file", required=False)
@params_options
@database_option("Server to use; `embedded` for the private one.")
@click.option("--operator", metavar="NAME", help="Who runs it. Default: the user of the operating system.")
@click.option("--note", metavar="TEXT", default="", help="Goes into the run log's Notes.")
@click.option("--override", "overrides", multiple=True, metavar="CHECK", help="Go past this refuted preflight check.")
@click.option("--reason", metavar="TEXT", default="", help="Why; needed with --override.")
@click.option("--strict", is_flag=True, help="Warnings decide too.")
@click.option("--dry-run", is_flag=True, help="Tell what is known of a run; start nothing, write nothing.")
@click.option("--keep-patch", is_flag=True, help="Keep what differs from the git commit; it may hold secrets.")
@click.option("--rehearse", is_flag=True, help="Run it whole on a throw-away copy of the database.")
@click.option("--require-rehearsal", is_flag=True, help="Refuse unless this file with these params passed a rehearsal.")
@click.option("--detach", is_flag=True, help="Go on in the background; return once the run is under way.")
@click.option("--wait", is_flag=True, help="Wait while another run holds the lock.")
@click.option("--resume", metavar="RUN", help="Go on with a run that did not come to its end; asks first.")
@click.option("--force", is_flag=True, help="Resume although file, params or program have changed; recorded.")
@click.option("--yes", is_flag=True, help="Consent: to a protected connection, to --resume.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as one JSON document on stdout.")
@click.option("--junit", type=click.Path(path_type=Path), metavar="PATH", help="Write a JUnit XML report for CI.")
@click.option("--github", is_flag=True, help="Tell GitHub Actions: annotations at the YAML's lines, a job summary.")
def command(**given: Any) -> None:
    """Run FILE: predict, run, measure, judge, record, report.

    Exit codes: 0 passed, 1 refuted, 2 usage, 3 blocked, 4 failed, 5 invalid, 6 errored, 7 locked, 130 cancelled. With
    --detach: 0 once the run is under way, else why it is not.
    """
    publish = ci_output(given)
    if bool(given["overrides"]) != bool(given["reason"]):
        raise click.UsageError("--override and --reason go together")
    account = Account()
    try:
        record = _dry_run(given, account) if given["dry_run"] else _run(given, account)
    except RunbookError as error:
        refused = refusal(error, given["file"] or "")
        refused["run"]["dry_run"] = given["dry_run"]
        if given["as_json"]:
            print_document(refused)
        tell(error)
        sys.exit(publish(refused))
    if not given["dry_run"]:
        close_account(account, record)
    if given["as_json"]:
        print_document(record)
    sys.exit(publish(record))


def _dry_run(given: dict[str, Any], account: Account) -> Record:
    from runbook.cli.plan_account import dry_run

    return dry_run(given, account)


def _run(given: dict[str, Any], account: Account) -> Record:
    from runbook.operate.cancel import Cancellation, listen
    from runbook.operate.options import Options
    from runbook.operate.seen import Seen
    from runbook.session import execute

    seen, cancellation = Seen(), Cancellation()
    earlier = _earlier(given)
    runbook = load_file(given["file"], seen=seen)
    unknown = [name for name in given["overrides"] if name not in {check.name for check in runbook.preflight}]
    if unknown:
        raise click.UsageError(f"--override {unknown[0]}: there is no such preflight check")
    params = given_params(runbook, given["params"], given["params_file"])
    resumed = None
    if earlier is not None:
        from runbook.operate.resume import resume

        folder, record = earlier
        params = {**record["params"], **params}
        resumed = resume(folder, record, runbook, params, given["force"])
        if not given["yes"] and (given["detach"] or not _can_ask()):
            raise click.UsageError("--resume asks before it goes on: without a terminal, and with --detach, say --yes")
    rehearsed = _proof(runbook, params) if given["require_rehearsal"] and not given["rehearse"] else ""
    databases = database_targets(runbook, given["databases"])
    announce = _leave(given["as_json"]) if given["detach"] else None
    listen(cancellation)  # to the very end: a signal never finds the default behind us
    if announce is not None:
        account.plain()
    quiet = announce is not None or given["rehearse"]
    with nullcontext(account.event) if quiet else seeing(account, runbook, databases) as see:
        return execute(
            runbook,
            params=params,
            options=Options(
                database=databases,
                operator=given["operator"] or "",
                note=given["note"],
                strict=given["strict"],
                overrides=dict.fromkeys(given["overrides"], given["reason"]),
                command_line=tuple(sys.argv[1:]),
                seen=seen,
                resumed=resumed,
                wait=given["wait"],
                keep_patch=given["keep_patch"],
                rehearse=given["rehearse"],
                rehearsed=rehearsed,
            ),
            on_event=see if announce is None else _both(announce, see),
            on_output=account.output if announce is None else None,
            on_wait=_tell_waiting,
            consent=lambda question: given["yes"] or (announce is None and ask(question)),
            cancellation=cancellation,
        )


def _proof(runbook: Runbook, params: Mapping[str, Any]) -> str:
    """The rehearsal that passed. Raises NotRehearsed."""
    from runbook.language.load import bind_params
    from runbook.operate.rehearsal import require_proof
    from runbook.operate.servers import project_folder

    return require_proof(project_folder(runbook.path), runbook, bind_params(runbook, params))


def seeing(
    account: Account, runbook: Runbook, databases: dict[str, str]
) -> AbstractContextManager[Callable[[Event], None]]:
    """What is to be told of each event; on a terminal there are bars below the account while a step goes on."""
    if not can_move(sys.stderr):
        return nullcontext(account.event)
    from runbook.cli.live import bars

    return bars(account, runbook, databases)


def _both(first: Callable[[Event], None], second: Callable[[Event], None]) -> Callable[[Event], None]:
    def see(event: Event) -> None:
        first(event)
        second(event)

    return see


def _tell_waiting(locked: Locked) -> None:
    click.echo("\n  ".join([f"waiting: {visible(str(locked))}", *map(visible, locked.watching)]), err=True)


def _earlier(given: dict[str, Any]) -> tuple[Path, Record] | None:
    """The run that is resumed; its file is the one to run where none is named."""
    if not given["resume"]:
        if not given["file"]:
            raise click.UsageError("which FILE? (only --resume knows without)")
        return None
    from runbook.operate.runs import find_run, record_of

    folder = find_run(given["resume"])
    record = record_of(folder)
    given["file"] = given["file"] or record["circumstances"]["file"]
    return folder, record


def _can_ask() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str) -> bool:
    """Whether a person at the terminal agrees; no, where nobody can be asked."""
    return _can_ask() and click.confirm(question, err=True)


def _leave(as_json: bool) -> Callable[[Event], None]:
    """Goes on in the background; the process that was called tells how it went, and ends here."""
    from runbook.operate.detach import Left, ended_at_logout, leave
    from runbook.operate.runs import record_of

    try:
        return leave()
    except Left as left:
        if left.folder is None:
            sys.exit(left.code if left.code >= 0 else exit_code(RunbookError()))
        run = left.folder.name
        lines = [
            "Started!",
            f"  PID:   {left.pid}",
            f"  Run:   {run}",
            f"  Log:   {os.path.relpath(left.folder / 'output.log')}",
            f"  Watch: runbook watch {run}   (or: runbook logs {run} -f)",
            f"  Stop:  runbook stop {run}",
        ]
        if ended_at_logout():
            lines.append(
                "  note: this machine ends your processes when you log out (KillUserProcesses): start it by `systemd-run --user "
                "--scope runbook exec …`, or have `loginctl enable-linger` set"
            )
        click.echo("\n".join(lines), err=True)
        if as_json:
            print_document(record_of(left.folder))
        sys.exit(0)


def close_account(account: Account, record: Any) -> None:
    """The last lines of a run's account: troubles, reason, verdict, and where its records are."""
    run = record["run"]
    account.say()
    for problem in record["problems"]:
        account.say(account.style(f"  ! {problem['message']}", "warning"))
    if run["audit"] in ("pending", "failed", "superseded"):
        account.say(account.style(f"  ! audit: {run['audit']}: {record['audit']['because']}", "warning"))
    if run["because"] and run["verdict"] != "passed":
        account.say(f"because: {visible(run['because'])}")
    place = f"run log: {os.path.relpath(record['report'])}" if record["report"] else f"journal: {record['journal']}"
    account.say(f"{account.style(run['verdict'], run['verdict'])}   {place}")
