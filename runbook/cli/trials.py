"""What people and programs are told of cases that were tried out: a line, the whole story of a miss, data, an exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runbook.cli.errors import CANCELLED, ERRORED, INVALID
from runbook.cli.telling import problem_text
from runbook.language.problems import Problem
from runbook.language.values import duration_text
from runbook.records.markdown import visible
from runbook.records.outcomes import Kind, Outcome
from runbook.trial import Miss, Tried

OTHERWISE = 1
LINES = 8  # of what a step printed last
_WORDS = {
    "passed": "{} as wanted",
    "refuted": "{} otherwise than wanted",
    "unknown": "{} could not be run",
    "skipped": "{} not run to the end",
}
_KINDS: dict[str, Kind] = {"passed": "passed", "refuted": "failure", "unknown": "error", "skipped": "skipped"}


def exit_code(found: Sequence[Tried]) -> int:
    """0 where all is as wanted; else cancelled before an invalid case before one that came out otherwise before one not run."""
    verdicts = {one.verdict for one in found}
    if "skipped" in verdicts:
        return CANCELLED
    if any(one.problems for one in found):
        return INVALID
    if "refuted" in verdicts:
        return OTHERWISE
    return ERRORED if "unknown" in verdicts else 0


def summary(found: Sequence[Tried]) -> str:
    """How many cases there were, and what came of them."""
    counts: Counter[str] = Counter(one.verdict for one in found)
    told = ", ".join(text.format(counts[verdict]) for verdict, text in _WORDS.items() if counts[verdict])
    return f"{len(found)} case{'s'[: len(found) != 1]}: {told}"


def story(tried: Tried) -> Iterator[str]:
    """All that helps with a case that missed: what was wanted and what came, why, and where its records are."""
    for problem in tried.problems:
        yield from problem_text(problem).splitlines()
    if tried.verdict in ("passed", "skipped") or tried.problems:
        return
    case = tried.trial.case
    yield f"{visible(case.file)}:{case.line}" if case.line else visible(case.file)
    if case.description:
        yield visible(case.description)
    yield from map(_miss, tried.misses)
    if tried.because:
        yield f"reason: {visible(tried.because)}"
    for item in tried.told:
        yield from _amiss(item, tried.because)
    places = (("run log", tried.report), ("journal", tried.journal if not tried.report else ""))
    yield from (f"{name}: {place}" for name, place in places if place)
    if tried.folder and not tried.report and not tried.journal:
        yield f"records: {tried.folder}"


def headline(tried: Tried) -> str:
    """Why a case did not come out as wanted, in one line."""
    return "; ".join(map(_miss, tried.misses)) or visible(tried.because)


def _miss(miss: Miss) -> str:
    if miss.what == "because":
        return f"reason: wanted one with {visible(miss.wanted)!r} in it"
    return f"{miss.what}: wanted {miss.wanted}, came {miss.came}"


def _amiss(item: Outcome, reason: str) -> Iterator[str]:
    """A check, an expectation or a step that missed, unless the reason tells it already; what a step printed last."""
    known = item.because.partition(": ")[2] or item.because
    if known not in reason:
        yield f"{item.shown} {item.verdict}: {visible(item.because)}"
    if item.kind != "warning":
        yield from (f"│ {visible(line, keep=chr(9))}" for line in item.output.splitlines()[-LINES:])


def data(tried: Tried) -> dict[str, Any]:
    """A case as it stands in the JSON document."""
    case = tried.trial.case
    return {
        "runbook": tried.trial.runbook.document.file,
        "case": case.name,
        "verdict": tried.verdict,
        "wanted": case.verdict,
        "came": tried.outcome or None,
        "because": tried.because,
        "misses": [miss._asdict() for miss in tried.misses],
        "seconds": round(tried.seconds, 3),
        "file": case.file,
        "line": case.line,
        "problems": [problem.as_data() for problem in tried.problems],
        "folder": str(tried.folder) if tried.folder else None,
        "report": tried.report or None,
        "journal": tried.journal or None,
    }


Suites = Mapping[str, Sequence[Outcome]]


def unfinished() -> Suites:
    """What a report says until there is something to say, so that no earlier, green one is taken for it."""
    because = "no end of the test was reported: it goes on, was broken off, or was never begun"
    return {"runbook test": [Outcome("", "test", "error", "unfinished", because)]}


def invalid(problems: Sequence[Problem]) -> Suites:
    """What a report says of files of which none was run."""
    found = [
        Outcome("", item.where or item.file, "error", "invalid", item.message, problem_text(item), item.file, item.line)
        for item in problems
    ]
    return {"runbook test": found}


def suites(found: Sequence[Tried]) -> Suites:
    """What a report says of cases: a suite for each runbook."""
    files: dict[Path, list[Outcome]] = {}
    for tried in found:
        files.setdefault(tried.trial.runbook.path, []).append(_outcome(tried))
    return {path.stem: outcomes for path, outcomes in files.items()}


def _outcome(tried: Tried) -> Outcome:
    """A case as what CI systems count."""
    case = tried.trial.case
    return Outcome(
        section="",
        name=case.name,
        kind=_KINDS[tried.verdict],
        verdict=tried.outcome or tried.verdict,
        because=headline(tried),
        facts="\n".join(story(tried)) or f"came to {tried.outcome}",
        file=case.file,
        line=case.line,
        seconds=tried.seconds,
    )


def line(tried: Tried, width: int) -> str:
    """A case on one line, without its mark."""
    came = tried.outcome or ("invalid" if tried.problems else "not run")
    return f"{visible(tried.trial.name):<{width}}   {came:<9} {duration_text(tried.seconds)}"
