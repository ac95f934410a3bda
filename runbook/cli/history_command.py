"""`runbook history`: what ran."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runbook.cli.ages import ago
from runbook.cli.documents import NotPrinted, refusing
from runbook.cli.files import database_option, named_urls
from runbook.cli.listing import listing
from runbook.language.problems import InvalidRunbook, RunbookError
from runbook.records.markdown import visible

if TYPE_CHECKING:
    from runbook.language.model import Runbook
    from runbook.operate.finding import History
    from runbook.records.history import Asked, Entry

VERDICTS = ("passed", "refuted", "blocked", "failed", "errored", "cancelled", "lost", "open")
_FIRST, _LAST = (moment.replace(tzinfo=UTC) for moment in (datetime.min, datetime.max))
Span = tuple[datetime, datetime]


def _span(ctx: click.Context, param: click.Parameter, value: str | None) -> Span | None:
    """A day, a moment, or a length of time before now: from when to when it is."""
    if value is None:
        return None
    try:
        past = ago(value)
    except OverflowError:
        past = _FIRST
    if past is not None:
        return past, past
    day = _day(value)
    if day:
        return day
    try:
        if not re.match(r"\d{4}-\d{2}-\d{2}[T ]", value):
            raise ValueError
        moment = datetime.fromisoformat(value)
    except ValueError:
        wanted = "a day (2025-12-02), a moment (2025-12-02T14:30) or a time ago (36h, 7d, 2w)"
        raise click.BadParameter(f"`{value}`: write {wanted}") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment, moment


def _day(value: str) -> Span | None:
    """From when to when a day is, in UTC; None for what is no day."""
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value, re.ASCII):
        return None
    with suppress(ValueError):
        day = datetime.fromisoformat(value).replace(tzinfo=UTC)
        return day, day + timedelta(days=1) if day.date() < _LAST.date() else _LAST
    return None


def _only_day(ctx: click.Context, param: click.Parameter, value: str | None) -> Span | None:
    day = _day(value) if value is not None else None
    if value is not None and day is None:
        raise click.BadParameter(f"`{value}` is no day: write one as 2025-12-02, or ask with --since and --until")
    return day


@click.command("history", short_help="What ran.")
@click.argument("name", required=False)
@click.option("--on", callback=_only_day, metavar="DAY", help="On this day (UTC): 2025-12-02.")
@click.option("--since", callback=_span, metavar="TIME", help="From this day or moment on, or since a time ago: 7d.")
@click.option("--until", callback=_span, metavar="TIME", help="Up to this day, inclusive, or moment.")
@click.option("--verdict", type=click.Choice(VERDICTS), help="With this verdict; `open` for none yet.")
@click.option("--operator", metavar="NAME", help="Run by this operator.")
@click.option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="With this param.")
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True, help="The newest so many; 0 for all.")
@database_option("Where the audit lies. Default: wherever the project's runbooks say.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="PATH", help="Write a page with plots, and a page of each run."
)
def command(name: str | None, **given: Any) -> None:
    """What ran: the runs of the runbook NAME (or of all), newest first. Times are UTC.

    It asks the audits that the project's runbooks name, and the journals on this disk for runs that no audit has.
    """
    from runbook.operate.finding import History

    if given["as_json"] and given["as_csv"]:
        raise click.UsageError("--json or --csv?")
    with refusing(given["as_json"]):
        runbook = _runbook(name)
        asked = _asked(runbook.name if runbook else name, given)
        if given["html"] is not None and not given["html"].name:
            raise click.UsageError(f"--html {given['html']}: give the page a name, such as history.html")
        with History(named_urls(given["databases"]), runbook) as history:
            _print(history, asked, given)
            for trouble in dict.fromkeys(history.troubles):
                click.echo(f"not reached: {visible(trouble)}", err=True)


def _runbook(name: str | None) -> Runbook | None:
    """The runbook of that name, where there is a file of it that can be read."""
    from runbook.cli.files import load_file
    from runbook.operate.seen import Seen

    try:
        return load_file(name, seen=Seen()) if name else None
    except InvalidRunbook:
        return None


def _asked(runbook: str | None, given: dict[str, Any]) -> Asked:
    from runbook.records.history import Asked

    on, since, until = given["on"], given["since"], given["until"]
    if on and (since or until):
        raise click.UsageError("--on or --since and --until?")
    params: dict[str, list[Any]] = {}
    for text in given["params"]:
        param, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"-p {text}: write -p NAME=VALUE")
        params[param] = [_parsed(param, value), value]
    return Asked(
        runbook=runbook,
        verdict=given["verdict"],
        operator=given["operator"],
        since=on[0] if on else since[0] if since else None,
        until=on[1] if on else until[1] if until else None,
        params=params,
        limit=given["limit"] or None,
    )


def _parsed(name: str, text: str) -> Any:
    """What `-p NAME=TEXT` may mean where no schema says of which type the param is, as `exec` reads it."""
    from runbook.language.document import parse_document, parse_scalar

    if text[:1] in ("[", "{"):
        with suppress(InvalidRunbook):
            return parse_document(f"value: {text}\n", f"-p {name}").data["value"]
    return parse_scalar(text)


def _print(history: History, asked: Asked, given: dict[str, Any]) -> None:
    if given["html"] is not None:
        _write_pages(history, asked, given["html"])
    if given["as_json"] or given["as_csv"]:
        with closing(history.stream(asked)) as found:
            entries = chain(list(islice(found, 1)), found)  # what is refused is refused before anything is printed
            try:
                if given["as_json"]:
                    _print_json(history, entries)
                else:
                    _print_csv(entries)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise NotPrinted(f"the runs could not be printed: {error.strerror}") from None
    elif given["html"] is None:
        _print_table(history, history.entries(asked), asked)


def _print_table(history: History, entries: Sequence[Entry], asked: Asked) -> None:
    records = history.records([entry["id"] for entry in entries[:60]]) if asked.runbook else {}
    for line in listing(entries, records, sys.stdout.isatty()):
        click.echo(line)
    source = "; ".join(history.sources)
    if not entries:
        click.echo(f"no such runs in {visible(source)}", err=True)
    elif len(entries) == asked.limit:
        click.echo(f"the newest {asked.limit} in {visible(source)}; --limit 0 for all", err=True)
    else:
        click.echo(f"from {visible(source)}", err=True)


def _print_json(history: History, entries: Iterator[Entry]) -> None:
    """One document, written while the rows come."""
    from runbook.language.values import dumps

    sys.stdout.write('{"runs": [')
    for index, entry in enumerate(entries):
        sys.stdout.write(f"{', ' if index else ''}{dumps(entry)}")
    problems = [{"message": trouble} for trouble in dict.fromkeys(history.troubles)]
    sys.stdout.write(f'], "sources": {dumps(history.sources)}, "problems": {dumps(problems)}}}\n')
    sys.stdout.flush()


def _print_csv(entries: Iterator[Entry]) -> None:
    from runbook.language.values import as_text
    from runbook.records.history import Entry

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(Entry.__annotations__)
    for entry in entries:
        cells: list[Any] = ["" if value is None else as_text(value) for value in entry.values()]
        writer.writerow(cells)
    sys.stdout.flush()


def _write_pages(history: History, asked: Asked, path: Path) -> None:
    from runbook.cli.pages import write_history

    try:
        count = write_history(history, asked, path)
    except OSError as error:
        raise RunbookError(f"{error.filename or path}: {error.strerror}") from None
    click.echo(f"wrote {path} with the pages of {count} runs beside it", err=True)
