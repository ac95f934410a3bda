"""How a picture of a run looks: lines made of pieces, each with the kind of thing that it is. No terminal is known here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from runbook.cli.account import COLOURS, MARKS
from runbook.language.values import as_text
from runbook.records.markdown import visible
from runbook.watch.progress import rate_text, span_text

if TYPE_CHECKING:
    from runbook.watch.frame import Frame, MeasuredDoc
    from runbook.watch.progress import BarDoc, EarlierDoc, MetricDoc
    from runbook.watch.story import StageDoc, StepDoc
    from runbook.watch.usage import UsageDoc

Piece = tuple[str, str]
Line = list[Piece]

KINDS = {**COLOURS, "bar": "cyan", "dim": "bright_black", "now": "cyan", "lost": "red", "bold": None}
_LONG, _SHORT, _WIDE = 24, 12, 110
_NAMES = 36
_TO_COME = ("to come", "if needed", "not reached")


def frame_lines(frame: Frame, width: int) -> list[Line]:
    """The whole picture, for a place `width` characters wide; lines may be longer."""
    blocks = [
        _heading(frame),
        [line for stage in frame["stages"] for line in _stage(stage)],
        progress_lines(frame, width, "Progress"),
        _output(frame["output"]) if frame["run"]["state"] != "ended" else [],
    ]
    lines: list[Line] = []
    for block in blocks:
        lines += [[], *block] if lines and block else block
    return [[(visible(text), kind) for text, kind in line] for line in lines]


def plain(lines: Iterable[Line], *, colour: bool = False) -> str:
    """Lines as text, each ended."""
    return "".join("".join(_styled(*piece) if colour else piece[0] for piece in line).rstrip() + "\n" for line in lines)


def _styled(text: str, kind: str) -> str:
    return click.style(text, fg=KINDS.get(kind), bold=kind == "bold" or None) if kind else text


# --- the run and its stages -----------------------------------------------------------------------------------------


def _heading(frame: Frame) -> list[Line]:
    run = frame["run"]
    if not run["started_at"]:
        return [
            [(f"run {run['id']}", "bold")],
            [("  has not begun" if run["state"] == "running" else "  never began", "")],
        ]
    who = [f"operator {run['operator']}", f"pid {run['pid']} on {run['host']}", f"since {run['started_at']}"]
    return [
        [(as_text(run["title"] or run["runbook"]), "bold"), (f"   run {run['id']}", "")],
        _state(run),
        *([[(f"  because: {run['because']}", "")]] if run["because"] and run["verdict"] != "passed" else []),
        [("  " + ", ".join(who), "dim")],
    ]


def _state(run: Mapping[str, Any]) -> Line:
    took = span_text(run["elapsed"])
    if run["state"] == "running":
        stopping = [("   stopping: " + run["stopping"], "warning")] if run["stopping"] else []
        return [("  running", "now"), (f" for {took}", ""), *stopping]
    if run["state"] == "lost":
        cure = "" if run["because"] else f"; the runner is dead, close it: runbook recover {run['id']}"
        return [("  lost", "lost"), (f": the last record is from {took} after the start{cure}", "")]
    code = "" if run["exit_code"] is None else f" (exit code {run['exit_code']})"
    return [("  ended: ", ""), (run["verdict"], run["verdict"]), (f"{code} after {took}", "")]


def _stage(stage: StageDoc) -> list[Line]:
    line = _standing(f"  {_mark(stage)} {stage['stage']:<20}", stage, stage["note"])
    return [line, *(_step(step) for step in stage["steps"])]


def _step(step: StepDoc) -> Line:
    again = f"attempt {step['attempt']}" if step["attempt"] > 1 else ""
    return _standing(f"      {_mark(step)} {step['step']:<16}", step, again)


def _standing(start: str, item: Any, note: str) -> Line:
    state, verdict = item["state"], item["verdict"]
    word = "running" if state == "now" else verdict or "" if state == "done" else state
    took = "" if item["duration"] is None else span_text(item["duration"])
    kind = "dim" if state in _TO_COME else state if state in ("now", "lost") else verdict or ""
    return [(start, kind), (f" {word:<12}", kind), (f"{took:>8}", ""), (f"   {note}" if note else "", "")]


def _mark(item: Any) -> str:
    if item["state"] == "now":
        return "▶"
    if item["state"] == "lost":
        return "?"
    if item["state"] in _TO_COME:
        return "○"
    return "!" if item["verdict"] == "warning" else MARKS.get(item["verdict"] or "measured", "·")


# --- progress -------------------------------------------------------------------------------------------------------


def progress_lines(frame: Frame, width: int, heading: str) -> list[Line]:
    """What is measured beside what is predicted, the time that is left, and what the step uses; empty where nothing is known."""
    bars, metrics = frame["expectations"], frame["metrics"]
    rows = [_bar_cells(item, width) for item in bars]
    if any(item["now"] is not None for item in metrics):
        rows += [_metric_cells(item) for item in metrics]
    lines = _aligned(rows)
    left = _time_left(frame["eta"], frame["earlier"]) if frame["run"]["state"] == "running" else ""
    lines += [[("  " + left, "")]] if left else []
    lines += [[("  " + usage_text(frame["usage"]), "dim")]] if frame["usage"] else []
    key = [("   now; before → predicted", "dim")] if rows else []
    head: Line = [(heading, "bold"), *key, *_measured(frame["measured"])]
    return [head, *lines] if lines or len(head) > 1 else []


def _aligned(rows: list[Line]) -> list[Line]:
    """Cells padded so that columns stand under one another."""
    count = max(map(len, rows), default=0)
    widths = [max((len(row[at][0]) for row in rows if at < len(row)), default=0) for at in range(count)]
    lines = [[("  " + text.ljust(widths[at]), kind) for at, (text, kind) in enumerate(row)] for row in rows]
    return [[*line[:-1], (line[-1][0].rstrip(), line[-1][1])] for line in lines]


def _bar_cells(item: BarDoc, width: int) -> Line:
    name = f"{item['step']}: {item['name']}" if item["step"] else item["name"]
    now = "?" if item["now"] is None else as_text(item["now"])
    kind = item["verdict"] or ("warning" if item["standing"] in ("past", "moved", "astray") else "")
    return [
        (_shortened(name), ""),
        (_drawn(item, _LONG if width >= _WIDE else _SHORT), kind or "bar"),
        ("" if item["fraction"] is None else f"{item['fraction'] * 100:.0f} %".rjust(5), ""),
        (now.rjust(6), "bold"),
        (_pace(item), kind),
        (_way(item), ""),
    ]


def _shortened(name: str) -> str:
    return name if len(name) <= _NAMES else f"{name[: _NAMES - 1]}…"


def _drawn(item: BarDoc, length: int) -> str:
    if item["fraction"] is None:
        return {"moved": "moved", "unchanged": "unchanged", "within": "within"}.get(item["standing"], "")
    filled = int(min(max(item["fraction"], 0.0), 1.0) * length)
    return "█" * filled + "░" * (length - filled)


def _way(item: BarDoc) -> str:
    """`120 → 388 ± 5%`, or the bounds."""
    predicted, before = item["predicted"], "?" if item["before"] is None else as_text(item["before"])
    if predicted is None:
        return f"{before}, not predicted"
    if isinstance(predicted, Mapping):
        bounds = ", ".join(f"{bound.replace('_', ' ')} {as_text(value)}" for bound, value in predicted.items())
        return f"{before}, {item['of']} {bounds}"
    margin = "" if item["tolerance"] is None else f" ± {as_text(item['tolerance'])}"
    if item["aim"] is not None and item["aim"] == item["before"]:
        return f"no change{margin}"
    return f"{before} → {'?' if item['aim'] is None else as_text(item['aim'])}{margin}"


def _pace(item: BarDoc) -> str:
    if item["verdict"]:
        return f"{MARKS[item['verdict']]} {item['verdict']}"
    bounded = isinstance(item["predicted"], Mapping)
    limit = "bound" if bounded else "tolerance" if item["tolerance"] is not None else "prediction"
    words = {"past": f"past the {limit}", "astray": "the other way", "reached": "reached", "within": "within"}
    moving = item["rate"] and (item["eta"] or item["standing"] != "reached")
    parts = [words.get(item["standing"], ""), f"{span_text(item['eta'])} left" if item["eta"] else ""]
    parts.append(rate_text(item["rate"]) if moving and item["rate"] else "")
    return ", ".join(part for part in parts if part)


def _metric_cells(item: MetricDoc) -> Line:
    change = "" if item["change"] is None else f"{'+' if item['change'] >= 0 else ''}{as_text(item['change'])}"
    now = "?" if item["now"] is None else as_text(item["now"])
    before = "?" if item["before"] is None else as_text(item["before"])
    return [
        (_shortened(item["name"]), "dim"),
        ("", ""),
        ("", ""),
        (now.rjust(6), ""),
        (change, ""),
        (f"{before}, nothing predicted", "dim"),
    ]


def _measured(measured: MeasuredDoc) -> Line:
    age = "" if measured["age"] is None else f"measured {span_text(measured['age'])} ago"
    if not measured["because"]:
        return [(f"   {age}", "dim")] if age else []
    return [(f"   {age + '; since then ' if age else ''}not measured: {measured['because']}", "warning")]


def _time_left(eta: float | None, earlier: EarlierDoc | None) -> str:
    parts = [] if eta is None else [f"about {span_text(eta)} left at this rate"]
    if earlier is not None:
        count = f"{earlier['runs']} run{'' if earlier['runs'] == 1 else 's'}"
        left = earlier["remaining"]
        rest = f"{span_text(left)} left" if left >= 0 else f"this one is {span_text(-left)} longer"
        parts.append(f"earlier runs took {span_text(earlier['median'])} ({count}): {rest}")
    return "; ".join(parts)


def usage_text(usage: UsageDoc | None) -> str:
    """`3 processes, CPU 98 %, memory 120 MiB`."""
    if usage is None:
        return ""
    count = f"{usage['processes']} process{'' if usage['processes'] == 1 else 'es'}"
    cpu = "" if usage["cpu"] is None else f", CPU {usage['cpu']:.0f} %"
    return f"{count}{cpu}, memory {usage['memory'] / 2**20:.0f} MiB"


def _output(lines: list[str]) -> list[Line]:
    return [[("Last output", "bold")], *([("    │ ", "dim"), (line, "")] for line in lines)] if lines else []
