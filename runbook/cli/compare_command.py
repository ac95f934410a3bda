"""`runbook compare`: the runs of an experiment, or any runs, beside each other."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runbook.cli.documents import print_document, refusing
from runbook.cli.errors import ERRORED
from runbook.cli.files import database_option, named_urls
from runbook.language.problems import RunbookError
from runbook.records.markdown import visible

if TYPE_CHECKING:
    from runbook.records.comparison import Comparison, Row

_LONGEST = 2000  # characters of a text in the JSON document
# What the CSV has of an expectation beside what was measured, and the order of its columns, where 1 is all else.
_FACTS = ("of", "predicted", "tolerance", "severity", "verdict")
_GROUPS = {"params": 0, "expectations": 2, "delta": 3, "after": 4, "postconditions": 5}


@click.command("compare", short_help="Params against outcomes: an experiment's runs beside each other.")
@click.argument("names", nargs=-1, required=True, metavar="EXPERIMENT | RUN RUN...")
@database_option("Where the audit of the runs lies.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print markdown.")
@click.option("--html", type=click.Path(path_type=Path), metavar="PATH", help="Write a page with plots.")
def command(names: tuple[str, ...], databases: tuple[str, ...], html: Path | None, **formats: bool) -> None:
    """The runs of EXPERIMENT (what one `submit --matrix` asked for) beside each other: the params that vary, verdicts, what
    changed and what was predicted, durations; why runs did not pass; what is the same in all of them, and which circumstances
    differ. Instead of an experiment, two runs or more.

    EXPERIMENT and RUN are an id, a unique beginning of one, or `last`. The JSON document has experiment, runbook, varied, runs,
    same, differs, counts, missing, fastest, slowest and problems. Exit codes: 0, or 6 where an audit could not be read or
    records are missing.
    """
    if sum(formats.values()) > 1:
        raise click.UsageError("--json, --csv or --markdown?")
    if not all(names):
        raise click.UsageError("EXPERIMENT or RUN is empty: write an id, a unique beginning of one, or `last`")
    if html is not None and not html.name:
        raise click.UsageError(f"--html {html}: give the page a name, such as comparison.html")
    with refusing(formats["as_json"]):
        found, troubles = _experiment(names[0], databases) if len(names) == 1 else _runs(names, databases)
        if html is not None:
            _write_page(found, html)
    for trouble in troubles:
        click.echo(f"not reached: {visible(trouble)}", err=True)
    if html is None or any(formats.values()):
        _print(found, troubles, formats)
    if troubles or found.missing:
        sys.exit(ERRORED)


def _experiment(name: str, databases: tuple[str, ...]) -> tuple[Comparison, list[str]]:
    from runbook.fleet.experiments import find_experiment
    from runbook.records.comparison import Sought, compare_runs

    found = find_experiment(name, named_urls(databases))
    runs = [Sought(run.run_id, run.params, run.state, run.attempt, found.records.get(run.run_id)) for run in found.runs]
    compared = compare_runs(runs, experiment=found.id, runbook=found.runbook, varied=found.varied)
    return compared, found.troubles


def _runs(names: Sequence[str], databases: tuple[str, ...]) -> tuple[Comparison, list[str]]:
    from runbook.operate.finding import find_record
    from runbook.records.comparison import Sought, compare_runs

    runs: dict[str, Sought] = {}
    for name in names:
        item = find_record(name, named_urls(databases))
        if item.trouble:
            click.echo(f"not read: {visible(item.trouble)}", err=True)
        run_id, submitted = item.record["run"]["id"], item.record["circumstances"].get("submitted") or {}
        if run_id in runs:
            raise click.UsageError(f"run {run_id} is named twice: compare it with another, or name its experiment")
        runs[run_id] = Sought(run_id, {}, attempts=submitted.get("attempt") or 1, record=item.record)
    return compare_runs(runs.values()), []


def _write_page(found: Comparison, path: Path) -> None:
    from urllib.parse import quote

    from runbook.cli.pages import write_page
    from runbook.operate.runs import is_run_id
    from runbook.records.pages.comparison_page import comparison_page

    ids = [row.id for row in found.rows if is_run_id(row.id)]
    hrefs = {run_id: f"{quote(run_id)}.html" for run_id in ids if path.with_name(f"{run_id}.html").is_file()}
    try:
        write_page(path, comparison_page(found, hrefs))
    except OSError as error:
        raise RunbookError(f"{error.filename or path}: {error.strerror}") from None
    click.echo(f"wrote {path}", err=True)


def _print(found: Comparison, troubles: Sequence[str], formats: dict[str, bool]) -> None:
    from runbook.cli.comparison_account import account_here
    from runbook.records.comparison_words import markdown

    if formats["as_json"]:
        print_document(_document(found, troubles))
    elif formats["as_csv"]:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows(_values(found))
    else:
        for line in markdown(found) if formats["as_markdown"] else account_here(found):
            click.echo(line)


# --- for programs -------------------------------------------------------------------------------------------------


def _document(found: Comparison, troubles: Sequence[str]) -> dict[str, Any]:
    differs: dict[str, dict[str, Any]] = {}
    for item in found.differs:
        told = [{"value": _plain(value), "runs": ids} for value, ids in item.values]
        differs.setdefault(item.section, {})[item.what] = told
    ends = {"fastest": found.fastest, "slowest": found.slowest}
    return {
        "experiment": found.experiment or None,
        "runbook": found.runbooks[0] if len(found.runbooks) == 1 else None,
        "varied": found.varied,
        "runs": [_run(row) for row in found.rows],
        "same": found.same,
        "differs": differs,
        "counts": found.counts,
        "missing": found.missing,
        **{name: {"run": row.id, "duration": row.duration} if row else None for name, row in ends.items()},
        "problems": [{"message": trouble} for trouble in troubles],
    }


def _run(row: Row) -> dict[str, Any]:
    of: Any = row.record["run"] if row.record else {}
    facts = ("of", "predicted", "tolerance", "actual", "verdict", "because", "severity")
    return {
        "id": row.id,
        "params": row.params,
        "verdict": of.get("verdict"),
        "state": "over" if of.get("verdict") else row.verdict,
        "how": row.how or None,
        "exit_code": of.get("exit_code"),
        "because": of.get("because") or "",
        "started_at": of.get("started_at"),
        "duration": row.duration,
        "host": of.get("host"),
        "attempts": row.attempts,
        "delta": row.record["delta"] if row.record else {},
        "after": row.record["after"] if row.record else {},
        "expectations": {name: {fact: item.get(fact) for fact in facts} for name, item in row.expectations.items()},
        "postconditions": {
            name: {"verdict": check.get("verdict"), "result": _plain(check.get("result"))}
            for name, check in row.postconditions.items()
        },
    }


def _plain(value: Any) -> Any:
    """A value as JSON has it: null where there is none, no longer than a reader wants."""
    from runbook.language.values import as_text, to_data

    data = to_data(value)
    text = as_text(data)
    return data if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text) - _LONGEST} more characters)"


def _values(found: Comparison) -> Iterator[list[str]]:
    """The rows of the CSV, after their heading."""
    from runbook.language.values import as_text

    rows = [_fields(row) for row in found.rows]
    known = dict.fromkeys([*(f"params.{name}" for name in found.varied), *(key for row in rows for key in row)])
    heads = [*sorted(known, key=_place), "run"]
    yield heads
    for row, fields in zip(found.rows, rows, strict=True):
        values = [fields.get(head) for head in heads[:-1]]
        yield [*("" if value is None else as_text(value) for value in values), row.id]


def _place(head: str) -> int:
    """Where a column of the CSV stands; those of one kind stay in their order."""
    return _GROUPS.get(head.partition(".")[0], 1)


def _fields(row: Row) -> dict[str, Any]:
    """What the CSV has of one run, by the headings of its columns."""
    of: Any = row.record["run"] if row.record else {}
    fields = {f"params.{name}": held for name, held in row.params.items()}
    fields |= {"verdict": row.verdict, "how": row.how, "duration": row.duration, "attempts": row.attempts}
    fields |= {name: of.get(name) for name in ("host", "started_at", "because")}
    for name, item in row.expectations.items():
        facts: Any = {"": item.get("actual"), **{f".{fact}": item.get(fact) for fact in _FACTS}}
        fields |= {f"expectations.{name}{fact}": held for fact, held in facts.items()}
    for name, item in row.measured.items():
        if name not in row.expectations:
            fields[f"{item.get('of')}.{name}"] = item.get("actual")
    for name, check in row.postconditions.items():
        fields[f"postconditions.{name}"] = check.get("verdict")
        fields[f"postconditions.{name}.result"] = _plain(check.get("result"))
    return fields
