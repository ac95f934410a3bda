"""How a fleet looks to people: lines made of pieces, as wide as the place that they are for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from runbook.cli.dashboard import Line
from runbook.cli.terminal import fit
from runbook.language.values import as_text
from runbook.records.markdown import visible
from runbook.watch.progress import span_text

if TYPE_CHECKING:
    from runbook.fleet.overview import Fleet, Running, Waiting, Worker

BAR = 10  # characters
WIDEST = 20  # characters of a name in a table
Row = tuple[Sequence[str], str]


def fleet_lines(fleet: Fleet, width: int) -> list[Line]:
    """One fleet, for a place `width` characters wide; every line fits."""
    lines = [
        [(f"Fleet in {fleet['database']}", "bold")],
        *_workers(fleet["workers"]),
        *_queue(fleet["queue"]),
        *_running(fleet["running"], width),
        *_recent(fleet["recent"]),
        *_schedules(fleet["schedules"]),
    ]
    return [_fitted(line, width) for line in lines]


def _fitted(line: Line, width: int) -> Line:
    """A line of one piece or of several, cut where it is longer."""
    made: Line = []
    for text, kind in line:
        shown = visible(text)
        rest = width - sum(len(piece) for piece, _ in made)
        if rest > 0:
            made.append((fit(shown, rest), kind))
    return made


def _table(head: Sequence[str], rows: Sequence[Row]) -> Iterator[Line]:
    """Rows under their head, each in the colour of its kind."""
    shown = [([fit(visible(cell), WIDEST) for cell in cells], kind) for cells, kind in rows]
    widths = [max(len(cells[at]) for cells in [head, *(cells for cells, _ in shown)]) for at in range(len(head))]
    for cells, kind in [(list(head), "dim"), *shown]:
        text = "  ".join(cell.ljust(size) for cell, size in zip(cells, widths, strict=True))
        yield [(f"  {text.rstrip()}", kind)]


# --- workers and queue ----------------------------------------------------------------------------------------------


def _workers(workers: Sequence[Worker]) -> Iterator[Line]:
    if not workers:
        yield [("Workers: none; start one with `runbook worker`", "warning")]
        return
    yield [("Workers", "bold")]
    head = ("host", "pid", "labels", "runs", "up", "seen")
    yield from _table(head, [_worker(worker) for worker in workers])


def _worker(worker: Worker) -> Row:
    seen = f"{span_text(worker['seen'])} ago"
    state, kind = ("" if worker["state"] == "working" else worker["state"]), ""
    if worker["silent"]:
        seen, kind = f"not seen for {span_text(worker['seen'])}", "lost"
    elif state:
        seen, kind = f"{state}, {seen}", "warning" if state == "draining" else "dim"
    busy = f"{worker['running']}/{worker['concurrency']}"
    labels = ",".join(worker["labels"]) or "-"
    return (worker["host"], str(worker["pid"]), labels, busy, span_text(worker["up"]), seen), kind


def _queue(queue: dict[str, Any]) -> Iterator[Line]:
    labels: list[Waiting] = queue["labels"]
    if not labels:
        yield [("Queue: empty", "bold")]
        return
    yield [("Queue", "bold")]
    head = ("label", "waiting", "behind lock", "oldest", "workers", "later", "next")
    yield from _table(head, [_label(item) for item in labels])
    for item in labels:
        if item["cure"]:
            yield [(f"  ! {_left(item)}, and there is none", "lost")]
            yield [(f"    start one with `{item['cure']}`", "lost")]


def _left(item: Waiting) -> str:
    """What no worker takes, in the numbers of the table."""
    now, later = item["waiting"], item["later"]
    told = [f"{now} run{' waits' if now == 1 else 's wait'}"] if now else []
    if later:
        runs = "" if now else " run" if later == 1 else " runs"
        told.append(f"{later}{runs} come{'s' if later == 1 else ''} later")
    what = f"a worker with label `{item['label']}`" if item["label"] else "any worker"
    return f"{' and '.join(told)} for {what}"


def _label(item: Waiting) -> Row:
    oldest = "" if item["waited"] is None else span_text(item["waited"])
    following = "" if item["until"] is None else f"in {span_text(item['until'])}"
    workers = str(item["workers"] or "none")
    locked = str(item["locked"] or "")
    cells = (
        item["label"] or "(any)",
        str(item["waiting"]),
        locked,
        oldest,
        workers,
        str(item["later"] or ""),
        following,
    )
    return cells, "lost" if item["cure"] else ""


# --- runs -----------------------------------------------------------------------------------------------------------


def _running(runs: Sequence[Running], width: int) -> Iterator[Line]:
    if not runs:
        yield [("Running: nothing", "bold")]
        return
    yield [(f"Running: {len(runs)}", "bold")]
    for run in runs:
        params = " ".join(f"{name}={as_text(value)}" for name, value in _telling(run).items())
        again = f" (attempt {run['attempt']})" if run["attempt"] > 1 else ""
        yield [(f"  {run['run']}", "now"), (f"  {fit(visible(run['runbook']), WIDEST)}{again} {params}".rstrip(), "")]
        yield [("    ", ""), *_doing(run)]
        if run["stop"]:
            yield [(f"    asked to stop by {run['stop']}", "warning")]
        if run["silent"]:
            yield [(f"    no sign of life for {span_text(run['seen'])}", "lost")]


def _telling(run: Running) -> dict[str, Any]:
    return {name: run["params"].get(name) for name in run["shown"]}


def _doing(run: Running) -> Line:
    what = " ".join(filter(None, [run["stage"], run["step"]])) or "beginning"
    tries = f" (attempt {run['tries']})" if run["tries"] > 1 else ""
    done = run["progress"]
    filled = int((done or 0) * BAR)
    bar: Line = [] if done is None else [("█" * filled + "░" * (BAR - filled), "bar"), (f" {done * 100:.0f} %  ", "")]
    return [
        (f"{fit(visible(run['host']), WIDEST)}, {span_text(run['elapsed'])}  ", "dim"),
        *bar,
        (f"{what}{tries}", ""),
    ]


def _recent(recent: dict[str, int]) -> Iterator[Line]:
    if not recent:
        yield [("Ended within 10 min: nothing", "bold")]
        return
    line: Line = [("Ended within 10 min:", "bold")]
    for index, (verdict, count) in enumerate(recent.items()):
        line += [("," * (index > 0) + f" {count} ", ""), (verdict, verdict)]
    yield line


def _schedules(schedules: Sequence[Any]) -> Iterator[Line]:
    if schedules:
        yield [("Schedules", "bold")]
        yield from _table(("runbook", "cron", "next", ""), [_schedule(item) for item in schedules])


def _schedule(item: Any) -> Row:
    if not item["enabled"]:
        return (item["name"], item["cron"], "disabled", ""), "dim"
    moment = datetime.fromisoformat(item["next_tick"])
    due = f"in {span_text(item['until'])}" if item["until"] > 0 else f"due since {span_text(-item['until'])}"
    return (item["name"], item["cron"], due, f"{moment:%Y-%m-%d %H:%M} UTC"), "" if item["until"] > -60 else "warning"
