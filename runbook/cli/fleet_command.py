"""`runbook fleet`: workers, queue and runs of all hosts."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from runbook.cli.dashboard import Line, plain
from runbook.cli.documents import print_document, refusing
from runbook.cli.errors import ERRORED
from runbook.cli.files import database_option, named_urls
from runbook.cli.fleet_account import fleet_lines
from runbook.cli.terminal import can_move
from runbook.cli.watch_command import leaving, rounded
from runbook.language.problems import RunbookError
from runbook.language.values import dumps
from runbook.records.markdown import visible

if TYPE_CHECKING:
    from runbook.fleet.overview import Fleet
    from runbook.operate.audits import Audits

INTERVAL = 2.0  # seconds between two looks
TICK = 0.1
WIDTH = 120  # characters where there is no terminal to measure
_BEGIN = (
    "no fleet here yet: submit runs with `runbook submit FILE`, and start `runbook worker` on each machine that is to run some",
    "one that is elsewhere: name its audit with --database URL, or keep a runbook that leads there in runbooks/",
    "workers started here with --database are seen with the same --database",
)


@click.command("fleet", short_help="Workers, queue and runs of all hosts.")
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@click.option(
    "--all", "every", is_flag=True, help="Also the workers that ended, or were last seen, within the last hour."
)
@database_option("Where the audit lies. Default: wherever the project's runbooks say.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document; with --watch a line a look.")
def command(watch: bool, every: bool, databases: tuple[str, ...], as_json: bool) -> None:
    """Who works, what waits, what runs where and how far it is, what ended in the last ten minutes, and what is scheduled.

    It asks the audits that the project's runbooks name, from any host, and only reads. --json: {"fleets": [...], "problems":
    [...]}, each fleet with database, workers [{id, host, pid, labels, running, concurrency, state, since, seen_at, silent, ...}],
    queue {waiting, locked, later, labels [{label, waiting, locked (of these), oldest, later, next, workers, cure}]}, running
    [{run, runbook, params, shown (names), host, since, elapsed, stage, step, progress, attempt, stop, silent, ...}], recent
    {verdict: count}, schedules [{name, cron, timezone, next_tick (null: disabled), enabled}]. Times are UTC, lengths are seconds.
    Exit codes: 0, 6 where an audit did not answer.
    """
    with closing(_Audits(named_urls(databases), every)) as audits:
        if watch:
            with leaving() as left:
                _watch(audits, as_json, left)
            return
        with refusing(as_json):
            fleets, troubles = audits.look()
    if as_json:
        print_document(_document(fleets, troubles))
    else:
        _print(fleets, troubles)
    sys.exit(ERRORED if troubles else 0)


class _Audits:
    """The audits of the project, opened once, and again where one of them did not answer."""

    def __init__(self, databases: Mapping[str, str], every: bool) -> None:
        self._databases, self._every = databases, every
        self._stack = ExitStack()
        self._audits: Audits | None = None

    def look(self) -> tuple[list[Fleet], list[str]]:
        """The fleets that can be seen, and why others cannot. Raises NoAudit."""
        from runbook.fleet.overview import look
        from runbook.fleet.schema import present
        from runbook.operate.audits import open_audits

        audits = self._audits = self._audits or self._stack.enter_context(open_audits(self._databases))
        fleets: list[Fleet] = []
        troubles = list(audits.troubles)
        for target, connection in audits.found.items():
            try:
                if present(connection):
                    fleets.append(look(connection, target, every=self._every))
            except RunbookError as error:
                troubles.append(f"{target}: {error}")
        if troubles:
            self.close()
        return fleets, troubles

    def close(self) -> None:
        self._stack.close()
        self._audits = None


def _document(fleets: list[Fleet], troubles: list[str]) -> Any:
    return rounded({"fleets": fleets, "problems": [{"message": trouble} for trouble in troubles]})


def _print(fleets: list[Fleet], troubles: list[str]) -> None:
    for line in _text(fleets, _width(), not troubles).splitlines():
        click.echo(line)
    for trouble in troubles:
        click.echo(f"not reached: {visible(trouble)}", err=True)


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH


def _text(fleets: list[Fleet], width: int, complete: bool) -> str:
    """The picture as a terminal, or a file, is to have it."""
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    lines: list[Line] = []
    for fleet in fleets:
        lines += [[], *fleet_lines(fleet, width)] if lines else fleet_lines(fleet, width)
    return plain(lines or ([[(text, "")] for text in _BEGIN] if complete else []), colour=colour)


# --- again and again ------------------------------------------------------------------------------------------------


def _watch(audits: _Audits, as_json: bool, left: Callable[[], bool]) -> None:
    moving = not as_json and can_move(sys.stdout)
    with _screen() if moving else nullcontext() as show:
        while not left():
            fleets, troubles = audits.look()
            if as_json:
                click.echo(dumps(_document(fleets, troubles)))
            elif show is not None:
                lost = "".join(f"not reached: {visible(trouble)}\n" for trouble in troubles)
                show(lost + _text(fleets, _width(), not troubles))
            else:
                _print(fleets, troubles)
                click.echo()
            _rest(left)


def _rest(left: Callable[[], bool]) -> None:
    deadline = time.monotonic() + INTERVAL
    while not left() and time.monotonic() < deadline:
        time.sleep(TICK)


@contextmanager
def _screen() -> Iterator[Callable[[str], None]]:
    """What shows a text on a screen of its own, as much of it as has room."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(file=sys.stdout, force_terminal=True, markup=False, highlight=False, emoji=False)

    def show(text: str) -> None:
        lines = text.rstrip("\n").split("\n")
        if len(lines) > console.height:
            hidden = len(lines) - console.height + 1
            lines = [*lines[: console.height - 1], f"… {hidden} more lines: runbook fleet"]
        live.update(Text.from_ansi("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)

    with Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        yield show
