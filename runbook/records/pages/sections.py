"""The sections of a run's page, as data for its template: what missed, checks with their evidence, steps, circumstances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from runbook.engine.record import CheckDoc, ExpectationDoc, Record, StepDoc
from runbook.language.values import as_text
from runbook.records.pages import plots
from runbook.records.pages.marks import Rows
from runbook.records.pages.shown import (
    MAX_BLOCK,
    Cell,
    Table,
    actual_text,
    cell,
    cut,
    evidence,
    length,
    pairs,
    predicted_text,
    signed,
    table,
)


class Block(NamedTuple):
    """Text that keeps its lines; `left` characters of it are not shown."""

    label: str
    text: str
    left: int = 0


class Evidence(NamedTuple):
    """What one check returned."""

    name: str
    description: str
    verdict: str
    table: Table | None
    block: Block | None


class Checks(NamedTuple):
    """A section of checks: all of them in one table, then what they returned."""

    overview: Table
    evidence: list[Evidence]


class StepView(NamedTuple):
    """One step that was begun, or that was to be."""

    name: str
    description: str
    verdict: str
    what: Block | None
    attempts: Table | None
    because: str
    plot: Rows | None
    expectations: Table | None
    tails: list[Block]


def block(label: str, text: str, limit: int = MAX_BLOCK, *, tail: bool = False) -> Block:
    """The beginning of a text, or its end."""
    left = max(0, len(text) - limit)
    return Block(label, (text[left:] if tail else text[:limit]) if left else text, left)


def verdict_cell(verdict: str, note: str = "") -> Cell:
    return Cell(verdict, "verdict", note=note)


# --- what missed --------------------------------------------------------------------------------------------------


def issues(record: Record) -> Table | None:
    """Everything that did not hold, could not be found out or went wrong; None where there is nothing."""
    rows = list(_issues(record))
    return table("What missed", ["Where", "Verdict", "Why"], rows) if rows else None


def _issues(record: Record) -> Iterator[list[Cell]]:
    for section in ("preflight", "postconditions"):
        checks: Mapping[str, CheckDoc] = record[section]
        for name, check in checks.items():
            yield from _missed(f"{section}.{name}", check)
    acted = any(step["tries"] for step in record["steps"].values())
    for name, item in record["expectations"].items():
        if (
            acted or item["predicted"] is None
        ):  # else nothing could have been measured, and what stopped the run is told
            yield from _missed(name, item)
    for name, step in record["steps"].items():
        if step["verdict"] in ("failed", "cancelled") or (step["verdict"] is None and step.get("because")):
            yield [Cell(f"{step['stage']}.{name}"), verdict_cell(step["verdict"] or "unknown"), Cell(cut(_why(step)))]
        for metric, own in step.get("expectations", {}).items():
            yield from _missed(f"{name}: {metric}", own)
    for row in ("started", "finished"):
        because = record["audit"].get(f"{row}_because")
        if because:
            yield [Cell(f"audit.{row}"), verdict_cell("failed"), Cell(cut(as_text(because)))]
    if record["run"].get("audit") in ("pending", "failed", "superseded"):
        because = as_text(record["audit"].get("because") or "not confirmed")
        yield [Cell("audit"), Cell(record["run"]["audit"]), Cell(cut(because))]


def _missed(name: str, item: Any) -> Iterator[list[Cell]]:
    if item["verdict"] in ("refuted", "unknown"):
        yield [Cell(name), verdict_cell(item["verdict"], _notes(item)), Cell(cut(_why(item)))]


def _notes(item: Mapping[str, Any]) -> str:
    warning = item.get("severity") == "warn" and item["verdict"] in ("refuted", "unknown")
    return ", ".join([*(["warning"] * warning), *(["gone past"] * bool(item.get("overridden")))])


def _why(item: Mapping[str, Any]) -> str:
    parts = [": ".join(part for part in (item.get("message"), item.get("because")) if part)]
    if item.get("remedy") and item["verdict"] == "refuted":
        parts.append(f"remedy: {item['remedy']}")
    if item.get("overridden"):
        parts.append(f"gone past: {item['overridden']}")
    return "; ".join(part for part in parts if part)


# --- predicted and measured ---------------------------------------------------------------------------------------


def expectations(caption: str, found: Mapping[str, ExpectationDoc]) -> Table | None:
    """Predicted beside actual."""
    if not found:
        return None
    headings = ["Metric", "Quantity", "Predicted", "Actual", "Verdict", "Why"]
    return table(caption, headings, (_expectation(name, item) for name, item in found.items()))


def _expectation(name: str, item: ExpectationDoc) -> list[Cell]:
    kinds = ["number" if item[key] is not None else "text" for key in ("predicted", "actual")]
    why = "; ".join(part for part in (item.get("description"), _why(item)) if part)
    verdict = verdict_cell(item["verdict"] or "not judged", _notes(item))
    told = (Cell(predicted_text(item), kinds[0]), Cell(actual_text(item), kinds[1]))
    return [Cell(name), Cell(item.get("of", "")), *told, verdict, Cell(cut(why))]


def measured(record: Record) -> Table | None:
    """Every metric before and after, and its change."""
    states = dict.fromkeys([*record["before"], *record["after"]])
    rows = [_metric(record, state, metric) for state in states for metric in _metrics(record, state)]
    return table("Before and after", ["Metric", "Before", "After", "Delta"], rows) if rows else None


def _metrics(record: Record, state: str) -> list[str]:
    sides = (record["before"].get(state) or {}, record["after"].get(state) or {})
    return list(dict.fromkeys(metric for side in sides for metric in side))


def _metric(record: Record, state: str, metric: str) -> list[Cell]:
    sides = [(record[which].get(state) or {}) for which in ("before", "after")]
    values = [cell(side[metric]) if side.get(metric) is not None else Cell("not known") for side in sides]
    change = record["delta"].get(state, {}).get(metric)
    own = record["labels"].get(state, {}).get(metric)
    name = f"{state}.{metric} ({own})" if own else f"{state}.{metric}"
    return [Cell(name), *values, Cell(signed(change), "text" if change is None else "number")]


# --- checks -------------------------------------------------------------------------------------------------------


def checks(caption: str, found: Mapping[str, CheckDoc]) -> Checks | None:
    """All checks of a section; None where there are none."""
    if not found:
        return None
    rows = [_check(name, check) for name, check in found.items()]
    overview = table(caption, ["Check", "Verdict", "Result", "Expected", "Why", "Took"], rows)
    shown = [_evidence(name, check) for name, check in found.items()]
    return Checks(overview, [item for item in shown if item is not None])


def check_verdict(check: Mapping[str, Any]) -> str:
    """The verdict; what has no `expect` is evidence, and was only measured."""
    verdict = str(check["verdict"] or "not asked")
    return "measured" if verdict == "passed" and not check.get("expect") else verdict


def _check(name: str, check: CheckDoc) -> list[Cell]:
    expect = check.get("expect")
    sources = expect if isinstance(expect, list) else [] if expect is None else [expect]
    expected = Cell(cut("; ".join(map(as_text, sources))), "code") if sources else Cell("evidence only")
    took = length(check.get("duration"))
    if check.get("attempts", 1) > 1:
        took = f"{took}, asked {check['attempts']} times"
    return [
        Cell(name),
        verdict_cell(check_verdict(check), _notes(check)),
        _result(check),
        expected,
        Cell(cut(_why(check))),
        Cell(took, "brief"),
    ]


def _result(check: CheckDoc) -> Cell:
    result = check["result"]
    if check["verdict"] in ("unknown", "skipped", None) and result is None:
        return Cell("none")
    if isinstance(result, list):
        return Cell(f"{len(result)} {'row' if len(result) == 1 else 'rows'}")
    if isinstance(result, Mapping):
        return Cell(f"{len(result)} {'value' if len(result) == 1 else 'values'}, see below")
    return Cell("text, see below") if _is_long(result) else cell(result)


def _is_long(result: Any) -> bool:
    return isinstance(result, str) and ("\n" in result or len(result) > 200)


def _evidence(name: str, check: CheckDoc) -> Evidence | None:
    result = check["result"]
    if not result or not (isinstance(result, list | Mapping) or _is_long(result)):
        return None
    shown = evidence(f"What {name} returned", result, check.get("dropped") or 0)
    text = block(f"What {name} returned", result) if shown is None else None
    return Evidence(name, check.get("description") or "", check_verdict(check), shown, text)


# --- steps --------------------------------------------------------------------------------------------------------


def steps(record: Record, *, tails: bool) -> list[StepView]:
    """The steps with their attempts; the ends of their output where `tails` asks for them."""
    return [_step(record, name, step, tails) for name, step in record["steps"].items()]


def _step(record: Record, name: str, step: StepDoc, tails: bool) -> StepView:
    own = step.get("expectations", {})
    ends = [
        block(f"Last output of {name}, attempt {attempt['attempt']}", as_text(attempt["tail"]), tail=True)
        for attempt in step["tries"][-10:]
        if tails and attempt.get("tail")
    ]
    return StepView(
        name,
        " · ".join(part for part in (step["stage"].replace("_", " "), step.get("description") or "") if part),
        step["verdict"] or (_open(record) if step["tries"] else "not started"),
        block(f"What {name} ran", step["what"]) if step.get("what") else None,
        table(f"Attempts of {name}", *_attempts(record, step)) if step["tries"] else None,
        _why(step),
        plots.predictions(own),
        expectations(f"Predictions around {name}", own),
        ends,
    )


def _attempts(record: Record, step: StepDoc) -> tuple[list[str], Iterator[list[Cell]]]:
    rows = (_attempt(attempt, step, attempt is step["tries"][-1], _open(record)) for attempt in step["tries"])
    return ["Attempt", "Verdict", "Took", "Ended with", "Why"], rows


def _open(record: Record) -> str:
    """What is said of a step that has begun and has no outcome."""
    return "unknown" if record["run"]["verdict"] else "unfinished"


def _attempt(attempt: Mapping[str, Any], step: StepDoc, last: bool, begun: str) -> list[Cell]:
    because = attempt.get("because")
    verdict = begun if because is None else "failed" if because else "passed"
    if last and step["verdict"] == "cancelled":
        verdict = "cancelled"
    code = attempt.get("exit_code")
    ended = f"exit code {code}" if code is not None else ""
    if last and step.get("rowcount") is not None:
        ended = f"{step['rowcount']} rows"
    why = because if because is not None else "its outcome is not known" if begun == "unknown" else ""
    if attempt.get("left"):
        why = "; ".join(
            [*([why] if why else []), f"still running afterwards: pid {', '.join(map(as_text, attempt['left']))}"]
        )
    number = Cell(as_text(attempt["attempt"]), "number")
    return [
        number,
        verdict_cell(verdict),
        Cell(length(attempt.get("duration")), "brief"),
        Cell(ended or "–", "brief"),
        Cell(cut(why)),
    ]


# --- circumstances ------------------------------------------------------------------------------------------------

_ELSEWHERE = ("text", "warnings", "template")


def circumstances(record: Record) -> list[Table]:
    """Under which the run was made: single facts first, then each group of facts."""
    known = {key: value for key, value in record["circumstances"].items() if key not in _ELSEWHERE}
    single = {key: value for key, value in known.items() if value not in (None, "", [], {})}
    groups = {key: single.pop(key) for key, value in list(single.items()) if isinstance(value, Mapping)}
    shown = (
        [pairs("Circumstances", "What", {_words(key): _joined(value) for key, value in single.items()})]
        if single
        else []
    )
    return shown + [pairs(_words(key).capitalize(), "Of", dict(_flat("", value))) for key, value in groups.items()]


def _words(key: str) -> str:
    return key.replace("_", " ")


def _joined(value: Any) -> Any:
    flat = isinstance(value, list) and not any(isinstance(item, list | Mapping) for item in value)
    return " ".join(map(as_text, value)) if flat else value


def _flat(prefix: str, known: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Facts within facts, each under all its names."""
    for key, value in known.items():
        name = f"{prefix} · {key}" if prefix else key
        if isinstance(value, Mapping) and value:
            yield from _flat(name, value)
        else:
            yield name, _joined(value)
