"""The run log: the cookbook's template first, then what a reader needs to believe it. A pure function of the record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from runbook.engine.record import CheckDoc, ExpectationDoc, Record, StepDoc
from runbook.language.values import as_text, duration_text
from runbook.records.markdown import block, code, number, plain, table, visible
from runbook.records.outcomes import remedy_command

MAX_ROWS = 50


def run_log(record: Record) -> str:
    """The markdown run log of a finished run."""
    parts = (
        _head,
        _before,
        _expected,
        _after,
        _sections,
        _issues,
        _notes,
        _belief,
        _resumed,
        predictions,
        _checks,
        _steps,
        _circumstances,
    )
    lines: list[str] = []
    for part in parts:
        lines += part(record)
    return "\n".join(lines).rstrip("\n") + "\n"


def label(record: Record, state: str, metric: str) -> str:
    """The name of a metric for people: its declared label, or its name with the state's where there are several states."""
    own = record["labels"].get(state, {}).get(metric)
    words = own or metric.replace("_", " ").capitalize()
    return words if own or len(record["labels"]) < 2 else f"{state.replace('_', ' ').capitalize()} {_within(words)}"


def _within(words: str) -> str:
    return words.lower() if words == words.capitalize() else words


def _head(record: Record) -> list[str]:
    run = record["run"]
    return [
        f"# {plain(run['title'])}",
        f"**Date**: {(run['started_at'] or '')[:16].replace('T', ' ')}",
        f"**Duration**: {_duration(run['duration'])}",
        f"**Operator**: {plain(run['operator'] or '')}",
        *(["**Rehearsal**: on throw-away copies; the databases themselves are untouched"] * bool(run.get("rehearsal"))),
        "",
    ]


def _duration(seconds: Any) -> str:
    return "not known" if seconds is None else duration_text(float(seconds))


def _metrics(snapshot: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, Any]]:
    for state, row in snapshot.items():
        for metric, value in row.items():
            yield state, metric, value


def _missing(record: Record, which: str) -> list[str]:
    return [f"- {plain(why)}" for key, why in record["unmeasured"].items() if key.startswith(f"{which}.")]


def _before(record: Record) -> list[str]:
    lines = [
        f"- {plain(label(record, state, metric))}: {number(value)}"
        for state, metric, value in _metrics(record["before"])
    ]
    return ["## Before", *(lines + _missing(record, "before") or ["- Nothing was measured"]), ""]


def _expected(record: Record) -> list[str]:
    lines = [f"- {_expectation(record, name, item)}" for name, item in record["expectations"].items()]
    return ["## Expected", *(lines or ["- Nothing was predicted"]), ""]


def _expectation(record: Record, name: str, item: ExpectationDoc) -> str:
    state, _, metric = name.partition(".")
    shown, predicted = plain(label(record, state, metric)), item["predicted"]
    if isinstance(predicted, Mapping):
        bounds = ", ".join(f"{bound.replace('_', ' ')} {as_text(value)}" for bound, value in predicted.items())
        return f"{shown}: {bounds} {'afterwards' if item['of'] == 'after' else 'more'}"
    if predicted is None:
        return f"{shown}: not predicted: {plain(item['because'])}"
    if item["of"] == "after":
        return f"{shown}: ~{as_text(predicted)} afterwards"
    if predicted == 0:
        return f"{shown}: no change"
    verb, amount = ("Process", predicted) if predicted > 0 else ("Remove", -predicted)
    return f"{verb} ~{as_text(amount)} {_within(shown)}"


def _after(record: Record) -> list[str]:
    lines = []
    for state, metric, value in _metrics(record["after"]):
        change = record["delta"].get(state, {}).get(metric)
        lines.append(f"- {plain(label(record, state, metric))}: {number(value)} ({_signed(change)})")
    acted = any(step["tries"] for step in record["steps"].values())
    nothing = ["- Nothing was measured" if acted else "- Nothing was measured: no step was started"]
    return ["## After", *(lines + _missing(record, "after") or nothing), ""]


def _signed(change: Any) -> str:
    if change is None:
        return "change not known"
    return f"{'+' if Decimal(change) >= 0 else '-'}{as_text(abs(change))}"


def _all_checks(record: Record) -> Iterator[tuple[str, str, CheckDoc]]:
    for section, checks in (("preflight", record["preflight"]), ("postconditions", record["postconditions"])):
        for name, check in checks.items():
            yield section, name, check


def _sections(record: Record) -> list[str]:
    """The sections that checks name themselves into, such as Interactions."""
    found: dict[str, list[str]] = {}
    for _, name, check in _all_checks(record):
        heading = check.get("section")
        if heading:
            found.setdefault(heading, []).extend(_bullets(name, check))
    return [line for heading, lines in found.items() for line in (f"## {plain(heading)}", *lines, "")]


def _bullets(name: str, check: CheckDoc) -> list[str]:
    result = check["result"]
    shown = plain(check.get("description") or name.replace("_", " ").capitalize())
    if check["verdict"] in ("unknown", "skipped") and result is None:
        return [f"- {shown}: {check['verdict']}: {plain(check['because'])}"]
    if isinstance(result, Mapping) and not any(isinstance(value, list | Mapping) for value in result.values()):
        return [f"- {plain(key.replace('_', ' ').capitalize())}: {number(value)}" for key, value in result.items()]
    return evidence(result) if isinstance(result, list | Mapping) else [f"- {shown}: {number(result)}"]


def _issues(record: Record) -> list[str]:
    lines = [f"- {line}" for line in issues(record)]
    return ["## Issues", *(lines or ["- None"]), ""]


def issues(record: Record) -> Iterator[str]:
    """Everything that missed, each as one line of markdown."""
    run = record["run"]
    for section, name, check in _all_checks(record):
        if check["verdict"] in ("refuted", "unknown"):
            yield _missed(f"{section}.{name}", check, record["circumstances"].get("file", ""))
    for name, item in record["expectations"].items():
        if item["verdict"] in ("refuted", "unknown"):
            yield _missed(name, item)
    for name, step in record["steps"].items():
        if step["verdict"] in ("failed", "cancelled"):
            yield f"{step['stage']}.{name} {step['verdict']}: {_message(step)}{code(step['because'])}"
        for metric, own in step.get("expectations", {}).items():
            if own["verdict"] in ("refuted", "unknown"):
                yield _missed(f"{name}: {metric}", own)
    if run["verdict"] in ("cancelled", "errored", "lost") and run.get("because"):
        yield f"{run['verdict']}: {plain(run['because'])}"
    for key in ("started_because", "finished_because"):
        if record["audit"].get(key):
            yield f"audit.{key.partition('_')[0]}: {plain(record['audit'][key])}"
    if run.get("audit") in ("pending", "failed", "superseded"):
        yield f"audit: {run['audit']}: {plain(record['audit'].get('because', ''))}"


def _missed(name: str, item: Any, file: str = "") -> str:
    warning = " (warning)" if item.get("severity") == "warn" else ""
    cure = item.get("remedy") if item["verdict"] == "refuted" else ""
    remedy = f"; remedy: {code(remedy_command(file, cure))}" if cure else ""
    passed = f"; gone past: {plain(item['overridden'])}" if item.get("overridden") else ""
    return f"{plain(name)} {item['verdict']}{warning}: {_message(item)}{code(item['because'])}{remedy}{passed}"


def _message(item: Any) -> str:
    return f"{plain(item['message'])}: " if item.get("message") else ""


def _notes(record: Record) -> list[str]:
    written = [visible(line, keep="\t") for line in record["handwritten"].splitlines()]
    notes = note_lines(record)
    between = [""] if notes and written else []
    return ["## Notes", *(notes + between + written or ["- None"]), ""]


def note_lines(record: Record) -> list[str]:
    """The notes of a record, each as a line of the run log."""
    return [f"- {plain(note)}" for note in record["notes"]]


# --- what a reader needs to believe it ----------------------------------------------------------------------------


def _belief(record: Record) -> list[str]:
    run = record["run"]
    ended = "nobody saw it end" if run["verdict"] == "lost" else f"exit code {run['exit_code']}"
    told = f"**{run['verdict']}** ({ended})" if run["verdict"] else "none yet: the run has not ended"
    lines = ["---", "", "## Verdict", told, ""]
    if run.get("because"):
        lines += [plain(run["because"]), ""]
    for item in run.get("left", []):
        lines += [f"> still running when this was written: pid {item['pid']}: {code(item['command'])}", ""]
    if run.get("hypothesis"):
        lines += ["## Hypothesis", plain(run["hypothesis"]), ""]
    for warning in record["circumstances"].get("warnings", []):
        lines += [f"> {plain(warning)}", ""]
    return lines


def _resumed(record: Record) -> list[str]:
    known = record["resumed"]
    if not known:
        return []
    lines = [f"- goes on with run {code(known['run'])}: its before snapshot and its predictions are kept"]
    lines += [f"- done there, not run again: {plain(name)}" for name in known["done"]]
    lines += [f"- had begun there, run again by consent: {plain(name)}" for name in known["again"]]
    for state, metric, value in _metrics(known.get("state", {})):
        lines.append(f"- when it went on: {plain(label(record, state, metric))}: {number(value)}")
    if known["forced"]:
        lines.append(f"- gone on with by force: {plain(known['forced'])}")
    return ["## Resumed", *lines, ""]


def predictions(record: Record) -> list[str]:
    """Predicted beside actual, as a section of markdown; empty where nothing was predicted."""
    rows = list(_prediction_rows("", record["expectations"]))
    for name, step in record["steps"].items():
        rows += _prediction_rows(f"{name}: ", step.get("expectations", {}))
    if not rows:
        return []
    return [
        "## Predicted and actual",
        *table(("Metric", "Quantity", "Predicted", "Tolerance", "Actual", "Verdict"), rows),
        "",
    ]


def _prediction_rows(prefix: str, expectations: Mapping[str, ExpectationDoc]) -> Iterator[tuple[str, ...]]:
    for name, item in expectations.items():
        predicted: Any = item["predicted"]
        if isinstance(predicted, Mapping):
            predicted = ", ".join(f"{bound.replace('_', ' ')} {as_text(value)}" for bound, value in predicted.items())
        verdict = f"{item['verdict']}{' (warning)' if item['severity'] == 'warn' else ''}"
        tolerance = "none" if item["tolerance"] is None else f"± {as_text(item['tolerance'])}"
        yield plain(prefix + name), item["of"], as_text(predicted), tolerance, as_text(item["actual"]), verdict


def _checks(record: Record) -> list[str]:
    lines: list[str] = []
    for heading, checks in (("Preflight", record["preflight"]), ("Postconditions", record["postconditions"])):
        if not checks:
            continue
        rows = [(plain(name), _verdict(check), _value(check), _conditions(check)) for name, check in checks.items()]
        lines += [f"## {heading}", *table(("Check", "Verdict", "Result", "Expected"), rows), ""]
        for name, check in checks.items():
            result = check["result"]
            if result and (isinstance(result, list | Mapping) or _is_long(result)):
                title = f"{name}: {check['description']}" if check.get("description") else name
                shown = block(result) if isinstance(result, str) else evidence(result, check.get("dropped", 0))
                lines += [f"### {plain(title)}", *shown, ""]
    return lines


def _verdict(check: CheckDoc) -> str:
    verdict = check["verdict"] or "not asked"
    if verdict == "passed" and not check.get("expect"):
        verdict = "measured"
    notes = []
    if check["severity"] == "warn" and verdict in ("refuted", "unknown"):
        notes.append("warning")
    if check.get("overridden"):
        notes.append("gone past")
    return f"{verdict} ({', '.join(notes)})" if notes else verdict


def _value(check: CheckDoc) -> str:
    result = check["result"]
    if check["verdict"] in ("unknown", "skipped") and result is None:
        return code(check["because"], cell=True)
    if isinstance(result, list):
        return f"{len(result)} {'row' if len(result) == 1 else 'rows'}"
    return "see below" if isinstance(result, Mapping) or _is_long(result) else code(result, cell=True)


def _is_long(result: Any) -> bool:
    return isinstance(result, str) and "\n" in result


def _conditions(check: CheckDoc) -> str:
    expect = check.get("expect")
    if expect is None:
        return "evidence only"
    sources = expect if isinstance(expect, list) else [expect]
    return "; ".join(code(as_text(source), cell=True) for source in sources)


def evidence(result: Any, dropped: int = 0) -> list[str]:
    """What a check returned, as a table."""
    if isinstance(result, Mapping):
        if result and all(isinstance(value, Mapping) for value in result.values()):
            return evidence([{"": key, **value} for key, value in result.items()])
        return table(("", "Value"), [(code(key, cell=True), code(value, cell=True)) for key, value in result.items()])
    if not result:
        return ["(no rows)"]
    rows = result[:MAX_ROWS]
    if all(isinstance(row, Mapping) for row in rows):
        columns = list(dict.fromkeys(key for row in rows for key in row))
        cells = [[code(row.get(column), cell=True) for column in columns] for row in rows]
        lines = table([plain(column) for column in columns], cells)
    else:
        lines = table(("Value",), [(code(row, cell=True),) for row in rows])
    left = len(result) - len(rows)
    mark = f"… {left} more rows" if left else ""
    return lines + (["", mark + (", and more that were not read" if dropped else "")] if left or dropped else [])


def _steps(record: Record) -> list[str]:
    if not record["steps"]:
        return []
    lines = ["## Steps"]
    rows = [
        (
            plain(name),
            step["stage"],
            step["verdict"] or ("outcome unknown" if step["tries"] else "not started"),
            _duration(step.get("duration")),
            str(step["attempts"]),
            _exit(step),
        )
        for name, step in record["steps"].items()
    ]
    lines += [*table(("Step", "Stage", "Verdict", "Duration", "Attempts", "Ended with"), rows), ""]
    for name, step in record["steps"].items():
        lines += _step(name, step)
    return lines


def _exit(step: StepDoc) -> str:
    if step.get("exit_code") is not None:
        return f"exit code {step['exit_code']}"
    return f"{step['rowcount']} rows" if step.get("rowcount") is not None else "-"


def _step(name: str, step: StepDoc) -> list[str]:
    if not step["tries"]:
        return []
    what = step.get("what", "")
    lines = [f"### {plain(name)}", *(block(what) if "\n" in what else [code(what)]), ""]
    for attempt in step["tries"]:
        because = attempt.get("because")
        if "because" not in attempt:
            lines.append(f"- attempt {attempt['attempt']}: its outcome is not known")
        elif len(step["tries"]) > 1 or because:
            how = "ended" if because == "cancelled" else "failed"
            ended = f"{how} after {_duration(attempt.get('duration'))}: {code(because)}" if because else "held"
            lines.append(f"- attempt {attempt['attempt']}: {ended}")
        if attempt.get("left"):
            lines.append(f"- still running afterwards: pid {', '.join(map(str, attempt['left']))}")
    lines += [""] if lines[-1] else []
    last = step["tries"][-1]
    return lines + ([*block(last["tail"]), ""] if last.get("tail") else [])


def _circumstances(record: Record) -> list[str]:
    run, known = record["run"], record["circumstances"]
    lines: list[str] = []
    if record["params"]:
        rows = [(plain(name), code(value, cell=True)) for name, value in record["params"].items()]
        lines += ["## Params", *table(("Param", "Value"), rows), ""]
    lines += ["## Versions"]
    lines += [f"- {plain(name)}: {code(str(value))}" for name, value in known.get("versions", {}).items()]
    for name, text in known.get("connections", {}).items():
        lines.append(f"- connection {plain(name)}: {code(text)}")
    lines += ["", "## Record", f"- run: {code(run['id'])}", f"- journal: {code(record['journal'] or '')}"]
    if known.get("submitted"):
        lines.append(f"- submitted: {_submitted(known['submitted'])}")
    if known.get("rehearsed"):
        lines.append(f"- rehearsed before, and passed: {code(known['rehearsed'])}")
    status = str(run.get("audit"))
    told = {
        "confirmed": f"confirmed, head {code(record['audit'].get('head', ''))}",
        "disabled": "off: the journal is the only record",
        "superseded": plain(record["audit"].get("because", "")),
    }
    lines.append(f"- audit: {told.get(status, status)}")
    return [*lines, ""]


def _submitted(told: Mapping[str, Any]) -> str:
    """Who asked for a run that a worker executed, and as which part of what."""
    words = [f"by {plain(told['by'])} on {plain(told['host'])}, {plain(str(told['at'])[:19])} UTC"]
    if told.get("experiment"):
        words.append(f"experiment {code(told['experiment'])}")
    if told.get("schedule"):
        words.append(f"schedule {code(told['schedule'])}, tick {plain(str(told['tick'])[:16])}")
    if told.get("earlier"):
        words.append(f"attempt {told['attempt']}, after run {code(told['earlier'])} was lost")
    return ", ".join(words)
