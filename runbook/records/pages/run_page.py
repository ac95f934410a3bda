"""The page of one run: its verdict first, then what was predicted and measured, then what a reader needs to believe it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from runbook.engine.record import Record
from runbook.language.values import as_text
from runbook.records.outcomes import began, counted, outcomes
from runbook.records.pages import plots, sections
from runbook.records.pages.axes import seconds_of
from runbook.records.pages.document import relative, render
from runbook.records.pages.marks import SIGNS
from runbook.records.pages.shown import MAX_ROWS, Cell, Table, cell, cut, length, moment, pairs, table, word_of

MAX_OUTPUT = 200_000


class Sibling(NamedTuple):
    """Another run of the same runbook; `href` is empty where it has no page. `started_at` is ISO 8601."""

    id: str
    verdict: str | None
    started_at: str | None
    duration: Any
    href: str


def run_page(record: Record, *, output: str = "", output_dropped: int = 0, siblings: Sequence[Sibling] = ()) -> str:
    """One HTML document about one run, complete in itself.

    `output` is the end of what its steps printed, `output_dropped` how many bytes before it are left out.
    Raises ValueError where a sibling's `href` is neither a relative path nor a fragment.
    """
    run = record["run"]
    word, words = word_of(run)
    predictions = plots.predictions(record["expectations"])
    shown = sections.block("Output of the steps", output, MAX_OUTPUT, tail=True)
    return render(
        "run.html.j2",
        title=run.get("title") or run["runbook"],
        run={"hypothesis": "", "because": "", **run},
        verdict={"word": word, "shown": words, "ended": _ended(record)},
        signs=SIGNS,
        counted=counted(outcomes(record)) if began(record) and run["verdict"] else "",
        facts=_facts(record),
        alerts=_alerts(record),
        issues=sections.issues(record),
        predictions=predictions,
        expectations=sections.expectations("Predicted and actual", record["expectations"]),
        changes=plots.changes(record),
        measured=sections.measured(record),
        unmeasured=[f"{which}: {why}" for which, why in list(record["unmeasured"].items())[:MAX_ROWS]],
        timeline=plots.timeline(record),
        progress=plots.progress(record),
        progress_left=plots.samples_left(record),
        samples=_samples(record),
        steps=sections.steps(record, tails=not output),
        output=shown,
        output_left=output_dropped + len(output[: shown.left].encode("utf-8", "surrogatepass")),
        checks=[
            ("Preflight", sections.checks("Preflight", record["preflight"])),
            ("Postconditions", sections.checks("Postconditions", record["postconditions"])),
        ],
        plan=_plan(record),
        params=pairs("Params", "Param", record["params"]) if record["params"] else None,
        circumstances=sections.circumstances(record),
        text=sections.block("The runbook", as_text(record["circumstances"].get("text") or "")),
        notes=[*record["notes"]],
        handwritten=record["handwritten"].strip(),
        books=_books(record),
        siblings=_siblings(run["id"], siblings),
        beside=_beside(run["started_at"], siblings),
    )


def _ended(record: Record) -> str:
    run = record["run"]
    if run["verdict"] == "lost":
        return "nobody saw it end"
    if run["verdict"] is None and run["exit_code"] is None:
        return "no verdict yet when this page was made"
    return f"exit code {run['exit_code']}"


def _facts(record: Record) -> list[tuple[str, Cell]]:
    run = record["run"]
    where = [str(run[key]) for key in ("host",) if run.get("host")]
    found = [
        ("Started", moment(run["started_at"])),
        ("Finished", moment(run["finished_at"])),
        ("Duration", Cell(length(run["duration"]))),
        ("Operator", Cell(run["operator"] or "not known")),
        ("Host", Cell(where[0] if where else "not known")),
        ("Runbook", Cell(run["runbook"])),
        ("Run", Cell(run["id"], "code")),
        ("Audit", Cell(run.get("audit") or "not known")),
    ]
    return [
        (name, value) for name, value in found if value.text and not (value.text == "not known" and name == "Audit")
    ]


def _alerts(record: Record) -> list[str]:
    """What a reader must know before anything else."""
    run, resumed = record["run"], record["resumed"]
    found = []
    if run.get("rehearsal"):
        found.append("A rehearsal: on throw-away copies; the databases themselves are untouched.")
    if run["dry_run"]:
        found.append("A dry run: nothing was started and nothing was written.")
    found += [cut(as_text(warning)) for warning in record["circumstances"].get("warnings") or []]
    found += [cut(_problem(problem)) for problem in record["problems"]]
    found += [
        f"Still running when the run was concluded: pid {item['pid']}: {cut(as_text(item['command']))}"
        for item in run.get("left") or []
    ]
    if run.get("successor"):
        found.append(f"Run {run['successor']} went on with this one.")
    if resumed:
        found.append(_resumed(resumed))
    return found[:MAX_ROWS]


def _problem(problem: dict[str, Any]) -> str:
    place = ":".join(str(problem[key]) for key in ("file", "line") if problem.get(key))
    parts = [place, str(problem.get("where") or ""), str(problem["message"])]
    return ": ".join(part for part in parts if part) + (f" ({problem['hint']})" if problem.get("hint") else "")


def _resumed(resumed: dict[str, Any]) -> str:
    told = [f"Goes on with run {resumed['run']}: its before snapshot and its predictions are kept"]
    for key, words in (("done", "done there, not run again"), ("again", "had begun there, run again by consent")):
        if resumed.get(key):
            told.append(f"{words}: {', '.join(resumed[key])}")
    if resumed.get("forced"):
        told.append(f"gone on with by force: {resumed['forced']}")
    return "; ".join(told) + "."


def _samples(record: Record) -> list[Table]:
    """What was measured while each step ran, in numbers."""
    found = []
    for part in record["progress"]:
        metrics = list(dict.fromkeys(name for _, values in part["samples"] for name in values))[:20]
        few = part["samples"][:: max(1, len(part["samples"]) // 40)]
        rows = [[cell(at), *(cell(values.get(name)) for name in metrics)] for at, values in few]
        left = len(part["samples"]) - len(few)
        also = f"{left} samples between them not shown" if left else ""
        found.append(table(f"Measured during {part['step']}", ["Seconds", *metrics], rows, also=also))
    return found


def _plan(record: Record) -> Table | None:
    rows = [
        [Cell(item["where"]), Cell(item["state"]), Cell(cut(item["what"]), "code"), Cell(cut(item["because"]))]
        for item in record["plan"]
    ]
    return table("What a run would do", ["Where", "State", "What", "Why"], rows) if rows else None


def _books(record: Record) -> Table | None:
    """Where the run is written down, and the head of the audit's chain."""
    run, audit = record["run"], record["audit"]
    known = {
        "Run": run["id"],
        "Audit": run.get("audit"),
        "Head of the audit's chain": audit.get("head"),
        "Row of audit.started": audit.get("started"),
        "Row of audit.finished": audit.get("finished"),
        "Journal": record["journal"],
        "Run log": record["report"],
        "Lock": run.get("lock"),
        "Epoch of the lock": run.get("epoch"),
        "Rehearsed before": record["circumstances"].get("rehearsed"),
    }
    told = {name: value for name, value in known.items() if value not in (None, "")}
    return pairs("Records", "What", told) if told else None


# --- other runs ---------------------------------------------------------------------------------------------------


def _siblings(run_id: str, siblings: Sequence[Sibling]) -> Table | None:
    rows = [
        [
            Cell(item.id, "code", relative(item.href)),
            moment(item.started_at, zone=""),
            Cell(item.verdict or "unfinished", "verdict"),
            Cell(length(item.duration)),
            Cell("" if item.href else f"runbook show {item.id} --html", "code"),
        ]
        for item in siblings
        if item.id != run_id
    ]
    if not rows:
        return None
    headings = ["Run", "Started (UTC)", "Verdict", "Duration", "Make its page"]
    if not any(row[-1].text for row in rows):
        headings, rows = headings[:-1], [row[:-1] for row in rows]
    return table("Other runs of this runbook", headings, rows)


def _beside(started_at: str | None, siblings: Sequence[Sibling]) -> list[tuple[str, Sibling]]:
    """The run before and the run after, where they have pages."""
    own = seconds_of(started_at)
    placed = [(at, item) for item in siblings if item.href and (at := seconds_of(item.started_at)) is not None]
    if own is None:
        return []
    earlier = max((pair for pair in placed if pair[0] < own), default=None, key=lambda pair: pair[0])
    later = min((pair for pair in placed if pair[0] > own), default=None, key=lambda pair: pair[0])
    found = []
    if earlier is not None:
        found.append(("← Earlier run", earlier[1]))
    if later is not None:
        found.append(("Later run →", later[1]))
    return found
