"""Every check, expectation and step of a run as one outcome, for the systems that count tests and point at lines.

Nothing is green here that was not verified: a miss that does not decide (a warning, a check that somebody went past) is a
`warning`, what a check without `expect` read is only `measured`, and what was not reached is `skipped`. A run that ends
with an exit code other than 0 has at least one failure or error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any, Literal, NamedTuple

from runbook.engine.record import Record
from runbook.language.values import as_text, brief

Kind = Literal["passed", "measured", "warning", "skipped", "failure", "error"]
LONGEST = 2000  # characters of one value or one reason


class Outcome(NamedTuple):
    """What became of one thing. `line` counts from 1 and is 0 where there is none; `file` is empty for the runbook's own.

    `because` is one sentence or a few, `facts` the values beside it, `output` what a step printed last.
    """

    section: str
    name: str
    kind: Kind
    verdict: str
    because: str = ""
    facts: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    seconds: Any = 0
    output: str = ""

    @property
    def shown(self) -> str:
        """The name with its section: `preflight.pending`."""
        return f"{self.section}.{self.name}" if self.section else self.name


def outcomes(record: Record) -> list[Outcome]:
    """What became of everything that the runbook declares, in the order of a run; one at least."""
    if not began(record):
        return list(_refusal(record))
    found = [
        *_checks(record, "preflight"),
        *_expectations(record),
        *_steps(record, "steps"),
        *_checks(record, "postconditions"),
        *_steps(record, "on_failure"),
        *_steps(record, "finally"),
    ]
    found += _obstacles(record, found)
    return [*found, *_of_the_run(record, found)]


def began(record: Record) -> bool:
    """Whether there was a run at all; else the record is a refusal."""
    return bool(record["circumstances"])


def verdict_of(record: Record) -> str:
    """The verdict for people, which says when nothing was done to the real thing."""
    run = record["run"]
    how = " (dry run)" if run["dry_run"] else " (rehearsal)" if run.get("rehearsal") else ""
    known = {0: "nothing known in the way", 5: "invalid"}
    return f"{run['verdict'] or known.get(run['exit_code'] or 0, 'unfinished')}{how}"


def tally(found: list[Outcome]) -> Counter[str]:
    """How many outcomes there are of each kind, and how many were `verified`: judged by what was measured."""
    counts: Counter[str] = Counter(item.kind for item in found)
    judged = [item for item in found if _is_judgement(item) and item.kind != "measured"]
    counts["verified"] = sum(item.verdict in ("passed", "refuted") for item in judged)
    return counts


def counted(found: list[Outcome]) -> str:
    """How much was verified, for people: `3 of 4 checks and expectations hold, 1 not known, 2 measured only`."""
    counts = tally(found)
    hold = sum(_is_judgement(item) and item.kind == "passed" for item in found)
    counts["failed"] = sum(item.verdict == "failed" for item in found)
    words = (
        ("failed", "{} failed"),
        ("error", "{} not known"),
        ("warning", "{} with a warning"),
        ("skipped", "{} skipped"),
        ("measured", "{} measured only"),
    )
    verified = counts["verified"]
    first = f"{hold} of {verified} checks and expectations hold" if verified else "nothing was verified"
    return ", ".join([first, *(text.format(counts[kind]) for kind, text in words if counts[kind])])


def _is_judgement(item: Outcome) -> bool:
    """Whether it is a check or an expectation, a step's own too; that a step ended well verifies nothing."""
    return item.section in ("preflight", "expectations", "postconditions") or "." in item.section


def _refusal(record: Record) -> Iterator[Outcome]:
    verdict = record["run"]["verdict"] or ("invalid" if record["run"]["exit_code"] == 5 else "refused")
    for problem in record["problems"]:
        where = f"{problem['where']}: " if problem.get("where") else ""
        file = problem.get("file") or record["run"]["runbook"]
        yield _problem("", "run", verdict, [{**problem, "message": f"{where}{problem['message']}", "file": file}])


def _obstacles(record: Record, found: list[Outcome]) -> list[Outcome]:
    """What a dry run found in the way beside the checks that missed, place by place."""
    told = {item.line for item in found if item.kind in ("failure", "error")}
    places: dict[str, list[dict[str, Any]]] = {}
    for problem in record["problems"] if record["run"]["dry_run"] else []:
        if problem.get("line", 0) not in told:
            places.setdefault(problem.get("where") or "run", []).append(problem)
    return [_problem("dry_run", where, items[0]["kind"], items) for where, items in places.items()]


def _problem(section: str, name: str, verdict: str, items: list[dict[str, Any]]) -> Outcome:
    """One or more problems at one place."""
    told = [f"{item['message']}{' (' + item['hint'] + ')' if item.get('hint') else ''}" for item in items]
    place = {key: items[0].get(key, 0) for key in ("line", "column")}
    return Outcome(section, name, "error", verdict, _cut("; ".join(told)), file=items[0].get("file", ""), **place)


def _of_the_run(record: Record, found: list[Outcome]) -> Iterator[Outcome]:
    """What no check, expectation or step tells: why the run ended badly all the same, or that nothing was verified."""
    run = record["run"]
    missed = any(item.kind in ("failure", "error") for item in found)
    if run["exit_code"] != 0 and not missed:
        verdict = run["verdict"] or "unfinished"
        yield Outcome("", "run", "error", verdict, _cut(run.get("because") or f"the run is {verdict}"))
    elif not missed and not tally(found)["verified"]:
        because = "no check and no expectation was judged: nothing was verified"
        yield Outcome("", "run", "warning", "nothing verified", because)


def _checks(record: Record, section: Literal["preflight", "postconditions"]) -> Iterator[Outcome]:
    known: dict[str, Any] = {**record["declared"].get(section, {}), **record[section]}
    for name, check in known.items():
        place = {"line": check.get("line", 0), "seconds": check.get("duration", 0)}
        if check.get("verdict") is None:
            because = check.get("because") or f"not asked: {_ended(record)}"
            yield Outcome(section, name, "skipped", "not asked", because, **place)
            continue
        kind = _kind(record, check)
        measured = kind == "passed" and not check.get("expect")
        yield Outcome(
            section,
            name,
            "measured" if measured else kind,
            check["verdict"],
            _reason(check),
            _facts(
                ("expected", check.get("expect")),
                ("description", check.get("description") or None),
                ("result", check["result"]),
                ("remedy", check.get("remedy") or None),
                ("gone past", check.get("overridden")),
            ),
            **place,
        )


def _expectations(record: Record) -> Iterator[Outcome]:
    measured = bool(record["after"]) or any(key.startswith("after.") for key in record["unmeasured"])
    for name, item in {**record["declared"].get("expectations", {}), **record["expectations"]}.items():
        yield _expectation(record, "expectations", name, item, measured)


def _expectation(record: Record, section: str, name: str, item: Mapping[str, Any], measured: bool) -> Outcome:
    line = item.get("line", 0)
    predicted = item.get("predicted") is not None
    if not item.get("verdict") or (predicted and not measured):
        because = (not predicted and item.get("because")) or f"not measured: {_ended(record)}"
        return Outcome(section, name, "skipped", "not measured", because, line=line)
    facts = _facts(
        ("description", item.get("description") or None),
        ("quantity", item["of"]),
        ("predicted", item["predicted"]),
        ("tolerance", item["tolerance"]),
        ("actual", item["actual"]),
    )
    return Outcome(section, name, _kind(record, item), item["verdict"], _reason(item), facts, line=line)


def _steps(record: Record, stage: str) -> Iterator[Outcome]:
    for name, step in record["steps"].items():
        if step["stage"] != stage:
            continue
        yield _step(record, stage, name, step)
        declared = record["declared"].get("step_expectations", {}).get(name, {})
        for metric, item in {**declared, **step.get("expectations", {})}.items():
            yield _expectation(record, f"{stage}.{name}", metric, item, bool(step["tries"]))


def _step(record: Record, stage: str, name: str, step: Mapping[str, Any]) -> Outcome:
    verdict, line = step["verdict"], step.get("line", 0)
    if verdict is None and not step["tries"]:
        calm = stage == "on_failure" and record["run"]["verdict"] == "passed"
        because = f"not started: {'nothing failed' if calm else _ended(record)}"
        return Outcome(stage, name, "skipped", "not started", because, line=line)
    kinds: dict[Any, Kind] = {"passed": "passed", "failed": "failure", "skipped": "skipped"}
    facts = _facts(
        ("description", step.get("description") or None),
        ("what", step.get("what")),
        ("exit code", step.get("exit_code")),
        ("rows", step.get("rowcount")),
        ("attempts", step["attempts"]),
    )
    return Outcome(
        stage,
        name,
        kinds.get(verdict, "error"),
        verdict or "outcome unknown",
        _reason(step) or ("" if verdict else "its outcome is not known"),
        facts,
        line=line,
        seconds=step["duration"] or 0,
        output=step["tries"][-1].get("tail", "") if step["tries"] else "",
    )


def _kind(record: Record, item: Mapping[str, Any]) -> Kind:
    """How a verdict counts: what does not decide is a warning."""
    verdict = item["verdict"]
    if verdict not in ("refuted", "unknown"):
        return "passed" if verdict == "passed" else "skipped"
    spared = item.get("severity") == "warn" and not record["run"].get("strict")
    if spared or item.get("overridden"):
        return "warning"
    return "failure" if verdict == "refuted" else "error"


def _reason(item: Mapping[str, Any]) -> str:
    parts = (item.get("message"), item.get("because"))
    return _cut(": ".join(part for part in parts if part))


def _ended(record: Record) -> str:
    """Why something was not reached."""
    run = record["run"]
    if run["dry_run"]:
        return "a dry run"
    reason = f": {run['because']}" if run.get("because") else ""
    return _cut(f"the run ended {run['verdict']}{reason}")


def remedy_command(file: str, name: str) -> str:
    """How a remedy of the runbook in `file` is looked at, and done."""
    path = Path(file)
    return f"runbook remedy {quote(path.stem if path.parent.name == 'runbooks' else file)} {quote(name)}"


def _facts(*facts: tuple[str, Any]) -> str:
    return "\n".join(f"{name}: {_value(value)}" for name, value in facts if value is not None)


def _value(value: Any) -> str:
    return _cut(as_text(value)) if not isinstance(value, list | dict) else brief(value, LONGEST)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text) - LONGEST} more characters)"
