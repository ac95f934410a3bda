"""A run as GitHub reads it: annotations at the lines of the YAML, and the summary of the job page."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from runbook.engine.record import Record
from runbook.language.values import duration_text
from runbook.records.markdown import code, plain, visible
from runbook.records.outcomes import Outcome, began, counted, outcomes, verdict_of
from runbook.records.runlog import predictions

MAX_MESSAGE = 4000  # characters
MAX_SUMMARY = 128 * 1024  # bytes; all steps of a job share what GitHub takes
_LEVELS = {"failure": "error", "error": "error", "warning": "warning"}
_IN_DATA = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
_IN_PROPERTY = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A", ":": "%3A", ",": "%2C"})


def workflow_command(name: str, message: str, **properties: str | int) -> str:
    """One line that GitHub takes as a command, whatever the values hold; properties that are empty or 0 are left out."""
    given = ",".join(f"{key}={str(value).translate(_IN_PROPERTY)}" for key, value in properties.items() if value)
    return f"::{name}{f' {given}' if given else ''}::{message.translate(_IN_DATA)}"


def annotate(record: Record, shown: Callable[[str], str]) -> list[str]:
    """What missed, each at its line; then the verdict. `shown` is how a file is named: relative to the checkout."""
    run, found = record["run"], outcomes(record)
    name, own = run["runbook"] or "runbook", record["circumstances"].get("file", "")
    lines = [_annotation(item, name, shown(item.file or own)) for item in found if item.kind in _LEVELS]
    if began(record):
        log = f"\nrun log: {shown(record['report'])}" if record["report"] else ""
        message = f"{counted(found)}{log}"
        lines.append(_line("notice", message, f"{name}: {verdict_of(record)}", shown(own)))
    return lines


def _annotation(item: Outcome, runbook: str, file: str) -> str:
    title = f"{runbook}: {item.shown} {item.verdict}"
    message = "\n".join(part for part in (item.because, item.facts) if part)
    return _line(_LEVELS[item.kind], message, title, file, item.line, item.column)


def _line(level: str, message: str, title: str, file: str, line: int = 0, column: int = 0) -> str:
    text = visible(message, keep="\n\t")
    text = text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}…"
    return workflow_command(level, text, file=visible(file), line=line, col=column, title=visible(title))


def summary(record: Record, shown: Callable[[str], str]) -> str:
    """Markdown for the job page: the verdict, predicted beside actual, what missed, and where the run log is."""
    run, found = record["run"], outcomes(record)
    verdict = verdict_of(record) if began(record) else found[0].verdict
    lines = [f"## {plain(run['runbook'] or 'runbook')}: {verdict}", ""]
    if began(record):
        lines += [*_facts(record, found), "", *predictions(record)]
    own = record["circumstances"].get("file", "")
    missed = [_missed(item, shown(item.file or own)) for item in found if item.kind in _LEVELS]
    lines += ["### What missed", *missed, ""] if missed else []
    if record["report"]:
        lines += [f"Run log: {code(shown(record['report']))}", ""]
    return "".join(f"{line}\n" for line in _bounded(lines))


def _facts(record: Record, found: list[Outcome]) -> Iterator[str]:
    run = record["run"]
    yield f"**{plain(run['title'])}**: {counted(found)}."
    if run["hypothesis"]:
        yield f"\n> {plain(run['hypothesis'])}"
    took = f", {duration_text(float(run['duration']))}" if run["duration"] is not None else ""
    ended = f"exit code {run['exit_code']}{took}, operator {plain(run['operator'] or '')}"
    yield f"\nRun {code(run['id'])}: {ended}"


def _missed(item: Outcome, file: str) -> str:
    place = f" ({code(f'{file}:{item.line}' if item.line else file)})" if file else ""
    what = f"{plain(item.shown)}: " if item.section else ""
    warning = " (warning)" if item.kind == "warning" else ""
    return f"- {what}**{item.verdict}**{warning}{place}: {code(item.because)}"


def _bounded(lines: list[str]) -> Iterator[str]:
    room = MAX_SUMMARY
    for number, line in enumerate(lines):
        room -= len(line.encode()) + 1
        if room < 0:
            yield f"\n… {len(lines) - number} more lines, which are in the run log\n"
            return
        yield line
