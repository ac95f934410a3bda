"""The page of many runs: their verdicts, durations, metrics and prediction errors over time, and all of them in a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runbook.engine.judge import number
from runbook.engine.record import Record
from runbook.language.values import as_text
from runbook.records.pages import curves
from runbook.records.pages.axes import seconds_of
from runbook.records.pages.document import anchor, relative, render, to_anchor
from runbook.records.pages.marks import SHAPES, SIGNS, Chart, Mark, shape_of
from runbook.records.pages.shown import Cell, Table, cell, cut, length, moment, pairs, signed, word_of

if TYPE_CHECKING:
    from runbook.records.history import Entry

MAX_RUNS = 500
MAX_METRICS = 12
MAX_PARAMS = 6


def history_page(
    title: str, records: Sequence[Record], hrefs: Mapping[str, str], *, more: int = 0, pruned: Sequence[Entry] = ()
) -> str:
    """One HTML document about many runs, complete in itself; the newest MAX_RUNS of them are shown.

    `hrefs` has the page of each run that has one, by run id; the others lead to their row in the table here. `more` is
    how many runs the caller left out; of those in `pruned` only the row is known.

    Raises ValueError where a link is neither a relative path nor a fragment.
    """
    ordered = sorted(records, key=lambda record: seconds_of(record["run"]["started_at"]) or 0.0)
    shown = ordered[-MAX_RUNS:]
    runs = [_run(record, hrefs) for record in shown]
    charts = _charts(runs)
    counts = Counter(run.verdict for run in runs)
    return render(
        "history.html.j2",
        title=title,
        signs=SIGNS,
        runs=runs,
        period=(moment(shown[0]["run"]["started_at"]), moment(shown[-1]["run"]["started_at"])) if shown else None,
        key=[(verdict, count, _symbol(verdict)) for verdict, count in counts.most_common()],
        left=more + len(ordered) - len(shown),
        durations=charts["durations"][:MAX_METRICS],
        metrics=charts["metrics"][:MAX_METRICS],
        metrics_left=max(0, len(curves.metric_names(shown)) - MAX_METRICS),
        errors=charts["errors"][: 2 * MAX_METRICS],
        common=_common(shown),
        table=_table(runs),
        pruned=_pruned(pruned),
    )


def _charts(runs: Sequence[curves.Run]) -> dict[str, list[Chart]]:
    """The drawings, for each runbook by itself: metrics of two runbooks may have one name."""
    groups: dict[str, list[curves.Run]] = {}
    for run in runs:
        groups.setdefault(run.record["run"]["runbook"], []).append(run)
    found: dict[str, list[Chart]] = {"durations": [], "metrics": [], "errors": []}
    for index, (name, own) in enumerate(groups.items()):
        drawn = {
            "durations": curves.durations(own),
            "metrics": curves.metrics(own, MAX_METRICS),
            "errors": curves.errors(own, 2 * MAX_METRICS),
        }
        for section, charts in drawn.items():
            found[section] += [_of(name, index, chart) for chart in charts] if len(groups) > 1 else charts
    return found


def _of(runbook: str, index: int, chart: Chart) -> Chart:
    plot = chart.plot._replace(name=f"{runbook}: {chart.plot.name}")
    return chart._replace(key=f"{chart.key}-{index}", caption=f"{runbook}: {chart.caption}", plot=plot)


def _run(record: Record, hrefs: Mapping[str, str]) -> curves.Run:
    run = record["run"]
    found = moment(run["started_at"])
    verdict, words = word_of(run)
    href = relative(hrefs.get(run["id"], "")) or to_anchor(run["id"])
    return curves.Run(record, run["id"], verdict, seconds_of(run["started_at"]), href, f"{found.text}, {words}")


def _symbol(verdict: str) -> Mark:
    """The shape that a verdict has in the plots."""
    kind = f"point v-{shape_of(verdict)}" + ("" if verdict in SHAPES else " hollow")
    return Mark("path", {"d": SHAPES.get(verdict, SHAPES["passed"]), "class": kind})


def _common(records: Sequence[Record]) -> Table | None:
    """Params that were the same in all runs."""
    if not records:
        return None
    first = records[0]["params"]
    same = {name: value for name, value in first.items() if name not in _varying(records)}
    return pairs("The same in all of them", "Param", same) if same else None


def _varying(records: Sequence[Record]) -> list[str]:
    names = dict.fromkeys(name for record in records for name in record["params"])
    told = {name: {as_text(record["params"].get(name, "")) for record in records} for name in names}
    return [name for name in names if len(told[name]) > 1]


def _table(runs: Sequence[curves.Run]) -> Table:
    """All runs, the newest first."""
    records = [run.record for run in runs]
    metrics = curves.metric_names(records)[:MAX_METRICS]
    params = _varying(records)
    several = len({record["run"]["runbook"] for record in records}) > 1
    headings = [
        "Run",
        *["Runbook"] * several,
        "Started (UTC)",
        "Verdict",
        "Duration",
        "Operator",
        *["Params"] * bool(params),
    ]
    headings += [f"Δ {metric}" for metric in metrics]
    rows = [_row(run, metrics, params, several) for run in reversed(runs)]
    return Table("All runs, the newest first", headings, rows, anchors=[anchor(run.id) for run in reversed(runs)])


def _pruned(entries: Sequence[Entry]) -> Table | None:
    """The runs that are known by their row alone."""
    rows = [
        [
            Cell(entry["id"], "code"),
            Cell(entry["runbook"]),
            moment(entry["started_at"], zone=""),
            Cell(entry["verdict"] or "unfinished", "verdict"),
            Cell(length(entry["duration"]), "brief"),
            Cell(entry["operator"] or ""),
        ]
        for entry in entries
    ]
    headings = ["Run", "Runbook", "Started (UTC)", "Verdict", "Duration", "Operator"]
    return (
        Table("Runs of which only the row is left, or of which the records cannot be read", headings, rows)
        if rows
        else None
    )


def _row(run: curves.Run, metrics: Sequence[str], params: Sequence[str], several: bool) -> list[Cell]:
    record = run.record
    of = record["run"]
    how = "dry run" if of["dry_run"] else "rehearsal" if of.get("rehearsal") else ""
    own = [f"{name}={cut(as_text(record['params'][name]), 60)}" for name in params if name in record["params"]]
    left = len(own) - MAX_PARAMS
    told = ", ".join(own[:MAX_PARAMS]) + (f" … {left} more" if left > 0 else "")
    return [
        Cell(run.id, "code", "" if run.href == to_anchor(run.id) else run.href),
        *[Cell(of["runbook"])] * several,
        moment(of["started_at"], zone=""),
        Cell(run.verdict, "verdict", note=how),
        Cell(length(of["duration"]), "brief"),
        Cell(of["operator"] or "", "brief" if len(of["operator"] or "") < 32 else "text"),
        *[Cell(told or "–", "code" if told else "text")] * bool(params),
        *(_change(record, metric) for metric in metrics),
    ]


def _change(record: Record, name: str) -> Cell:
    state, _, metric = name.partition(".")
    value: Any = record["delta"].get(state, {}).get(metric)
    if value is None:
        return Cell("–", "number")
    return Cell(signed(value), "number") if number(value) is not None else cell(value)
