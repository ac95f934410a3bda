"""`runbook diff`: what differs between two runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from runbook.cli.account import COLOURS
from runbook.cli.documents import print_document, refusing
from runbook.cli.files import database_option, named_urls
from runbook.cli.side_by_side import Line, shown, table
from runbook.language.values import as_text, to_data
from runbook.records.diff import SECTIONS, compare
from runbook.records.markdown import visible

if TYPE_CHECKING:
    from runbook.engine.record import Record
    from runbook.records.diff import Comparison
    from runbook.records.evidence import Difference

Style = Callable[[str, str], str]
_LONGEST = 2000  # characters of a text in the JSON document


@click.command("diff", short_help="What differs between two runs.")
@click.argument("left", metavar="RUN")
@click.argument("right", metavar="RUN")
@database_option("Where the audit of the runs lies.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(left: str, right: str, databases: tuple[str, ...], as_json: bool) -> None:
    """What differs between two runs, and only that: verdicts, params, the runbook's text, code, versions, models, schema,
    servers, circumstances, before, predicted, after, delta, results of checks, durations. Ids and times are no differences.

    RUN is an id, a unique beginning of one, or `last`. Exit codes: 0 whether or not they differ, 6 where a run is not found.
    """
    from runbook.operate.finding import find_record
    from runbook.operate.limits import bounded

    with refusing(as_json):
        both = [find_record(name, named_urls(databases)) for name in (left, right)]
        for item in both:
            if item.trouble:
                click.echo(f"not read: {visible(item.trouble)}", err=True)
        records = [item.record for item in both]
        with bounded(f"{left} and {right}", memory=True):
            found = compare(records[0], records[1])
    if as_json:
        print_document(_document(records, found))
        return
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for line in _account(records, found, _style if colour else lambda text, kind: text):
        click.echo(line)


def _document(records: list[Record], found: Comparison) -> dict[str, Any]:
    keys = ("id", "runbook", "started_at", "verdict")
    return {
        "runs": [{key: record["run"].get(key) for key in keys} for record in records],
        "differences": [
            {"section": item.section, "what": item.what, "left": _plain(item.left), "right": _plain(item.right)}
            for item in found.differences
        ],
        "text": found.text,
        "unknown": [item._asdict() for item in found.unknown],
        "omitted": found.omitted,
        "problems": [],
    }


def _plain(value: Any) -> Any:
    """A value as JSON has it: null where there is none, no longer than a reader wants."""
    data = to_data(value)
    text = as_text(data)
    return data if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text) - _LONGEST} more characters)"


def _account(records: list[Record], found: Comparison, style: Style) -> Iterator[str]:
    for side, record in zip(("left ", "right"), records, strict=True):
        run = record["run"]
        when = f"{run['started_at'][:19]}Z" if run["started_at"] else "never begun"
        verdict = style(run["verdict"] or "not ended", run["verdict"] or "")
        yield f"{side}  {run['id']}  {visible(run['runbook'])}  {when}  {verdict}"
    if records[0]["run"]["runbook"] != records[1]["run"]["runbook"]:
        yield "note: these are runs of different runbooks"
    if not found.differences and not found.text:
        yield from ("", "the two runs do not differ in anything that is recorded")
    for section in SECTIONS:
        yield from _section(section, found, style)
    for side in ("left", "right"):
        names = [item.what for item in found.unknown if item.unknown_to == side]
        if names:
            yield from ("", style(f"not known of the {side} run: {visible(', '.join(names))}", "skipped"))


def _section(section: str, found: Comparison, style: Style) -> Iterator[str]:
    items = [item for item in found.differences if item.section == section]
    text = found.text if section == "text" else []
    if not items and not text:
        return
    yield from ("", style(section, "heading"))
    rows = [Line(item.what, shown(item.left), shown(item.right), _kind(item)) for item in items]
    yield from table(rows, style)
    yield from (f"  {style(visible(line, keep=chr(9)), line[:1])}" for line in text)
    for what, count in found.omitted.items():
        if what == section or (section == "results" and "." in what):
            yield f"  and {count} more{'' if what == section else f' of {visible(what)}'}"


def _kind(item: Difference) -> str:
    return item.right if item.section == "verdicts" and isinstance(item.right, str) else ""


def _style(text: str, kind: str) -> str:
    """A text in the colour of its kind: a verdict, or how a line of the texts' difference begins."""
    colours = {**COLOURS, "+": "green", "-": "red", "@": "cyan"}
    if kind == "heading":
        return click.style(text, bold=True)
    return click.style(text, fg=colours[kind]) if kind in colours else text
