"""`runbook check`: the preflight alone, read-only, once or again and again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from runbook.cli.account import Account
from runbook.cli.checklist import changes, checklist
from runbook.cli.documents import print_document, refusal
from runbook.cli.errors import exit_code, tell
from runbook.cli.files import database_option, database_targets, given_params, load_file, params_options
from runbook.engine.record import Event, Record
from runbook.language.problems import RunbookError

_WORDS = {0: "passed", 3: "blocked"}
_SHOWN = ("run.opened", "circumstances.noted", "snapshot.measured")


@click.command("check", short_help="Ask the preflight alone.")
@click.argument("file")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@params_options
@database_option("Server to use; `embedded` for the private one.")
@click.option("--strict", is_flag=True, help="Warnings decide too.")
@click.option("--watch", is_flag=True, help="Ask again and again, until Ctrl-C; what changed is marked.")
@click.option("--interval", default=5.0, show_default=True, metavar="SECONDS", help="Between two rounds of --watch.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the record as one JSON document; with --watch a line a round."
)
def command(
    file: str,
    names: tuple[str, ...],
    params: tuple[str, ...],
    params_file: Path | None,
    databases: tuple[str, ...],
    strict: bool,
    watch: bool,
    interval: float,
    as_json: bool,
) -> None:
    """Ask the preflight checks of FILE, or those named and what they refer to. Nothing is started, written or locked.

    Exit codes: 0 all that had to hold holds, 3 a check is refuted, 5 invalid, 6 something could not be found out; with
    --watch those of the last round.
    """
    from runbook.look import check

    account = Account()

    def ask(on_event: Callable[[Event], None]) -> Record:
        return check(runbook, names, params=given, database=targets, strict=strict, on_event=on_event)

    try:
        runbook = load_file(file)
        known = {item.name for item in runbook.preflight}
        missing = [name for name in names if name not in known]
        if missing:
            raise click.UsageError(f"there is no preflight check `{missing[0]}`; there are {', '.join(sorted(known))}")
        given, targets = given_params(runbook, params, params_file), database_targets(runbook, databases)
        record = ask(lambda event: account.event(event) if event.kind in _SHOWN else None)
    except RunbookError as error:
        if as_json:
            print_document(refusal(error, file))
        tell(error)
        sys.exit(exit_code(error))
    _show(account, record, set())
    if as_json:
        print_document(record)
    code = _watch(account, record, ask, interval, as_json) if watch else record["run"]["exit_code"]
    sys.exit(code)


def _watch(account: Account, record: Record, ask: Callable[..., Record], interval: float, as_json: bool) -> Any:
    """Asks again until Ctrl-C. A server that goes away is told of, and asked again."""
    code: Any = record["run"]["exit_code"]
    try:
        while True:
            time.sleep(max(interval, 0.1))
            try:
                newer = ask(lambda event: None)
            except RunbookError as error:
                tell(error)
                code = exit_code(error)
                continue
            changed = changes(record["preflight"], newer["preflight"])
            record, code = newer, newer["run"]["exit_code"]
            if sys.stderr.isatty():
                click.clear()
            if changed or sys.stderr.isatty():
                _show(account, record, changed)
            if as_json:
                print_document(record)
    except KeyboardInterrupt:
        return code


def _show(account: Account, record: Record, changed: set[str]) -> None:
    account.say()
    for line in checklist(record, account.style, changed):
        account.say(line)
    word = _WORDS.get(record["run"]["exit_code"] or 0, "errored")
    account.say()
    account.say(f"{account.style(word, word)}   {datetime.now():%H:%M:%S}")
