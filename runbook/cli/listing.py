"""Runs as a table for people, with small curves of what one runbook did from run to run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import click

from runbook.cli.terminal import fit
from runbook.engine.record import Record
from runbook.language.values import as_text, duration_text
from runbook.records.history import Entry
from runbook.records.markdown import visible

HEAD = ("started (UTC)", "runbook", "verdict", "took", "operator", "params", "run")
COLOURS = {"passed": "green", "refuted": "red", "failed": "red", "errored": "magenta", "lost": "magenta"}
_BARS = "▁▂▃▄▅▆▇█"
WIDEST = 60  # runs in a curve


def listing(entries: Sequence[Entry], records: Mapping[str, Record], terminal: bool) -> Iterator[str]:
    """The lines of the table, newest run first, in colour and as wide as a terminal is; below it the curves of `records`."""
    if not entries:
        return
    rows = [_cells(entry) for entry in entries]
    widths = [max(len(row[i]) for row in [HEAD, *rows]) for i in range(len(HEAD))]
    if terminal:
        rest = sum(widths) - widths[5] + 2 * len(HEAD)
        widths[5] = max(min(widths[5], shutil.get_terminal_size().columns - rest), 12)
    yield _line(HEAD, widths)
    for entry, row in zip(entries, rows, strict=True):
        line = _line(row, widths)
        verdict = row[2].ljust(widths[2])
        colour = COLOURS.get(entry["verdict"] or "", "yellow")
        yield line.replace(verdict, click.style(verdict, fg=colour), 1) if terminal else line
    known = [records[entry["id"]] for entry in reversed(entries) if entry["id"] in records]
    runs = [record for record in known if not record["run"].get("remedy")]
    if len(runs) > 1:
        yield ""
        yield from curves(runs)


def _cells(entry: Entry) -> tuple[str, ...]:
    params = " ".join(
        f"{name}={as_text(value)}" for name, value in sorted(entry["params"].items()) if value is not None
    )
    took = "" if entry["duration"] is None else duration_text(float(entry["duration"]))
    started = entry["started_at"][:19].replace("T", " ")
    title, runbook = entry["title"] or "", entry["runbook"]
    repair = re.fullmatch(rf"Remedy (\S+) of {re.escape(runbook)}", title)
    cells = (
        started,
        f"{runbook} ({repair[1]})" if repair else runbook,
        entry["verdict"] or "open",
        took,
        entry["operator"] or "",
        params,
        entry["id"],
    )
    return tuple(visible(cell) for cell in cells)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    cut = map(fit, cells, widths)
    return "  ".join(cell.ljust(width) for cell, width in zip(cut, widths, strict=True)).rstrip()


def curves(records: Sequence[Record]) -> list[str]:
    """A line a quantity: how long the runs took, and how each metric changed; a gap where there is no number."""
    records = records[-WIDEST:]
    found: dict[str, list[Any]] = {"took": [record["run"]["duration"] for record in records]}
    names = dict.fromkeys(f"{s}.{m}" for record in records for s, row in record["delta"].items() for m in row)
    for name in names:
        state, _, metric = name.partition(".")
        found[f"Δ {name}"] = [record["delta"].get(state, {}).get(metric) for record in records]
    width = max(map(len, found))
    return [f"{visible(name).ljust(width)}  {_curve(values)}  {_range(name, values)}" for name, values in found.items()]


def _curve(values: Sequence[Any]) -> str:
    numbers = [Decimal(value) for value in values if value is not None]
    if not numbers:
        return " " * len(values)
    low, high = min(numbers), max(numbers)
    span = high - low
    return "".join(
        " " if value is None else _BARS[int((Decimal(value) - low) / span * 7) if span else 3] for value in values
    )


def _range(name: str, values: Sequence[Any]) -> str:
    numbers = [Decimal(value) for value in values if value is not None]
    if not numbers:
        return "not known"
    shown = [
        duration_text(float(n)) if name == "took" else as_text(n) for n in (min(numbers), max(numbers), numbers[-1])
    ]
    return f"{shown[0]} to {shown[1]}, last {shown[2]}" if shown[0] != shown[1] else f"{shown[0]} each time"
