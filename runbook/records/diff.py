"""Two records, side by side: what differs between two runs, and only that. Ids, stamps and times of day are no differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from difflib import unified_diff
from typing import Any, NamedTuple

from runbook.engine.record import ExpectationDoc, Record
from runbook.language.values import duration_text
from runbook.records.evidence import NOTHING, Difference, changed, parts
from runbook.records.outcomes import verdict_of
from runbook.records.surroundings import Unknown, files, surroundings, unknown

MOST = 20  # parts of one check's result
MOST_ROWS = 200  # differences of one section
MOST_TEXT = 1000  # lines of the texts' difference
LEAST_SECONDS, LEAST_SHARE = 0.1, 0.05  # of a duration, below which nobody calls it another


class Comparison(NamedTuple):
    """What differs between two runs.

    `text` are the lines of a unified diff of the runbook's text and of its own run log template. `omitted` counts what was
    left out where there was too much of it, by section or check.
    """

    differences: list[Difference]
    text: list[str]
    unknown: list[Unknown]
    omitted: dict[str, int]


def compare(left: Record, right: Record) -> Comparison:
    """What differs between two runs. Pure."""
    omitted: dict[str, int] = {}
    text = list(_text(left, right))
    found = [
        *(item for section, facts in _OF_A_RUN.items() for item in changed(section, facts(left), facts(right))),
        *(item for item in files(left, right) if not (text and item.what == "runbook file")),
        *surroundings(left, right),
        *_results(left, right, omitted),
        *_durations(left, right),
    ]
    by_section = {section: [item for item in found if item.section == section] for section in SECTIONS}
    kept = [item for section, items in by_section.items() for item in _cut(items, section, MOST_ROWS, omitted)]
    return Comparison(kept, _cut(text, "text", MOST_TEXT, omitted), unknown(left, right), omitted)


def _cut(items: list[Any], what: str, most: int, omitted: dict[str, int]) -> list[Any]:
    if len(items) > most:
        omitted[what] = len(items) - most
    return items[:most]


# --- what became of it ------------------------------------------------------------------------------------------------


def _verdicts(record: Record) -> dict[str, Any]:
    run = record["run"]
    known = {"run": verdict_of(record), "run: because": run.get("because") or NOTHING}
    found = {**known, "audit": run.get("audit") or NOTHING}
    for name, check in checks(record).items():
        found[name] = check.get("verdict") or "not asked"
        found[f"{name}: gone past"] = check.get("overridden") or NOTHING
    found |= {name: item.get("verdict") or "not judged" for name, item in expectations(record).items()}
    for step in record["steps"]:
        found |= {name.removesuffix(": verdict"): value for name, value in step_facts(record, step).items()}
    return found


def checks(record: Record) -> dict[str, Mapping[str, Any]]:
    """Every check of a run by its whole name, those that were not asked too."""
    return {
        f"{section}.{name}": check
        for section, known in (("preflight", record["preflight"]), ("postconditions", record["postconditions"]))
        for name, check in {**record["declared"].get(section, {}), **known}.items()
    }


def expectations(record: Record) -> dict[str, ExpectationDoc]:
    """Every expectation of a run by its whole name, the steps' own too, those that were not reached too."""
    declared = record["declared"]
    found = {**declared.get("expectations", {}), **record["expectations"]}
    own = {
        f"{step['stage']}.{name}.{metric}": item
        for name, step in record["steps"].items()
        for metric, item in {
            **declared.get("step_expectations", {}).get(name, {}),
            **step.get("expectations", {}),
        }.items()
    }
    return {**{f"expectations.{name}": item for name, item in found.items()}, **own}


def step_facts(record: Record, name: str) -> dict[str, Any]:
    """How a step ended."""
    step = record["steps"][name]
    shown = f"{step['stage']}.{name}"
    unended = "outcome unknown" if step["tries"] else "not started"
    facts = {
        "verdict": step["verdict"] or unended,
        "exit code": step.get("exit_code"),
        "rows": step.get("rowcount"),
        "attempts": step["attempts"] if step["attempts"] > 1 else None,
    }
    return {f"{shown}: {key}": value for key, value in facts.items() if value is not None}


def _predicted(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, item in expectations(record).items():
        if "predicted" not in item:
            continue
        because = item.get("because", "")
        found[name] = item["predicted"] if item["predicted"] is not None else f"not predicted: {because}"
        found[f"{name}: of"] = item["of"]
        found[f"{name}: tolerance"] = NOTHING if item.get("tolerance") is None else item["tolerance"]
    return found


def measured(record: Record, which: str) -> dict[str, Any]:
    """`before`, `after` or `delta` of a run, by metric; why, where a state could not be measured."""
    states: Mapping[str, Mapping[str, Any]] = {
        "before": record["before"],
        "after": record["after"],
        "delta": record["delta"],
    }[which]
    found = {f"{state}.{metric}": value for state, row in states.items() for metric, value in row.items()}
    for name, because in record["unmeasured"].items():
        moment, _, state = name.partition(".")
        if moment == which:
            found[state] = f"not measured: {because}"
    return found


def _actual(record: Record) -> dict[str, Any]:
    """The delta, and what was measured around the steps that have expectations of their own."""
    own = {
        f"{name}: actual": item.get("actual")
        for name, item in expectations(record).items()
        if not name.startswith("expectations.") and item.get("actual") is not None
    }
    return {**measured(record, "delta"), **own}


def _results(left: Record, right: Record, omitted: dict[str, int]) -> Iterator[Difference]:
    """Part by part what the checks read that both runs have asked."""
    one, other = checks(left), checks(right)
    for name in one:
        if name not in other or not (one[name].get("verdict") and other[name].get("verdict")):
            continue
        found = parts(one[name].get("result"), other[name].get("result"))
        for part in _cut(found, name, MOST, omitted):
            yield Difference("results", f"{name}.{part.name}" if part.name else name, part.left, part.right)


def _durations(left: Record, right: Record) -> Iterator[Difference]:
    one, other = _seconds(left), _seconds(right)
    for name in one:
        if name in other and _other_duration(one[name], other[name]):
            yield Difference("durations", name, duration_text(one[name]), duration_text(other[name]))


def _seconds(record: Record) -> dict[str, float]:
    steps = {f"{step['stage']}.{name}": step["duration"] for name, step in record["steps"].items()}
    asked = {name: check.get("duration") for name, check in checks(record).items()}
    known = {"run": record["run"]["duration"], **asked, **steps}
    return {name: float(seconds) for name, seconds in known.items() if seconds is not None}


def _other_duration(left: float, right: float) -> bool:
    apart = abs(left - right)
    matters = apart >= LEAST_SECONDS and apart >= LEAST_SHARE * max(left, right)
    return matters and duration_text(left) != duration_text(right)


def _text(left: Record, right: Record) -> Iterator[str]:
    """The texts' difference line by line; secrets are masked in the records already."""
    for key, name in (("text", "runbook"), ("template", "run log template")):
        one, other = (str(record["circumstances"].get(key) or "").splitlines() for record in (left, right))
        if one != other:
            title, other_title = (f"{name} of run {record['run']['id']}" for record in (left, right))
            yield from unified_diff(one, other, title, other_title, lineterm="")


def _manner(record: Record) -> dict[str, Any]:
    run = record["run"]
    return {
        "runbook": run["runbook"],
        "rehearsal": bool(run.get("rehearsal")),
        "strict": bool(run.get("strict")),
        "went on with another run": bool(record["resumed"]),
    }


_OF_A_RUN: dict[str, Callable[[Record], dict[str, Any]]] = {
    "verdicts": _verdicts,
    "params": lambda record: dict(record["params"]),
    "circumstances": _manner,
    "before": lambda record: measured(record, "before"),
    "predicted": _predicted,
    "after": lambda record: measured(record, "after"),
    "delta": _actual,
}
SECTIONS = (
    "verdicts",
    "params",
    "text",
    "code",
    "versions",
    "models",
    "schema",
    "servers",
    "circumstances",
    "before",
    "predicted",
    "after",
    "delta",
    "results",
    "durations",
)
