"""`runbook worker`: executes what was submitted."""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING

import click

from runbook.cli.files import database_option, label_option, load_file, named_urls
from runbook.cli.terminal import can_move
from runbook.language.values import dumps, duration_text
from runbook.records.markdown import visible

if TYPE_CHECKING:
    from runbook.fleet.crew import News

_COLOURS = {"passed": "green", "refuted": "yellow", "blocked": "yellow", "started": None, "waits": None}


@click.command("worker", short_help="Execute what was submitted.")
@click.argument("file", required=False)
@click.option(
    "-c", "--concurrency", type=click.IntRange(1, 256), default=1, metavar="N", help="Runs at a time. Default: 1."
)
@label_option("Take runs with this label too.", several=True)
@click.option("--until-empty", is_flag=True, help="End when nothing is queued that this worker takes.")
@database_option("Database of the queue, `embedded`, or a connection's server.")
@click.option("--json", "as_json", is_flag=True, help="Print what happens as JSON lines on stdout.")
def command(
    file: str | None,
    concurrency: int,
    labels: tuple[str, ...],
    until_empty: bool,
    databases: tuple[str, ...],
    as_json: bool,
) -> None:
    """Take submitted runs from the queue and execute each as `exec` does, in a process of its own.

    The queue lies beside the audit: in the database of FILE's, or of the project's runbooks. SIGTERM, Ctrl-C or a closed
    terminal: takes no more runs and waits for those under way; a second one ends them, with their records complete. Every
    worker also concludes the runs of workers that died. Exit codes: 0, 6 where the queue cannot be reached at the start or
    no run can be recorded here.
    """
    from runbook.fleet.adopt import Here
    from runbook.fleet.place import place_of
    from runbook.fleet.worker import Worker

    runbook = load_file(file) if file else None
    with ExitStack() as stack:
        place = place_of(runbook, named_urls(databases), stack)
        here = Here(place.url, place.project, place.databases)
        asyncio.run(Worker(here, labels, concurrency, Printer(as_json), _say, until_empty=until_empty).run())


def _say(text: str) -> None:
    click.echo(f"{datetime.now():%H:%M:%S}  {visible(text)}", err=True)


class Printer:
    """Tells what becomes of runs, a line each."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._colour = can_move(sys.stderr)

    def __call__(self, news: News) -> None:
        if self._as_json:
            click.echo(dumps({name: value for name, value in news._asdict().items() if value not in ("", None)}))
        word = news.text.split(":")[0]
        took = f"   {duration_text(news.seconds)}" if news.seconds is not None else ""
        text = (
            f"{news.run_id}  {news.runbook}  {news.what}  {news.text}"
            if news.what != "ended"
            else (f"{news.run_id}  {news.runbook}  {news.text}")
        )
        line = visible(f"{text}{took}")
        if self._colour and news.what == "ended":
            line = click.style(line, fg=_COLOURS.get(word, "red"))
        click.echo(f"{datetime.now():%H:%M:%S}  {line}", err=True)
