"""A run beside its repetition: is every outcome the same, were the inputs the same, and which circumstances differ?

Outcomes are the verdicts of the run, of each check and each expectation (with what was predicted and what came), how each
step ended, and every metric after the run and its delta; a number that a check judges counts too, where it was read from a
database or a file. Inputs are every metric before the run, and what preflight read and the runbook uses: in another
expression, or as such a number. All else that checks read is evidence: what differs there is told, and does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from runbook.engine.record import Record
from runbook.records.diff import checks, expectations, measured
from runbook.records.evidence import NOTHING, Difference, Part, parts, same
from runbook.records.outcomes import verdict_of
from runbook.records.surroundings import files, surroundings

MOST = 20  # parts of one check's result that are told
NAMED = 4  # differences that the answer names
_OWN = ("command line", "runbook file")  # of a run, and never those of another
_KINDS = {"models": "model ", "schema": "schema of ", "servers": "connection "}


class Judged(NamedTuple):
    """What a runbook does with its checks: `used` are named in another expression, `read` ask a database or a file."""

    used: frozenset[str]
    read: frozenset[str]


class Pair(NamedTuple):
    """One thing then and now; NOTHING stands where there is none."""

    what: str
    then: Any
    now: Any

    @property
    def same(self) -> bool:
        return same(self.then, self.now)


class Circumstance(NamedTuple):
    """A circumstance that differs."""

    what: str
    then: Any
    now: Any


class Repetition(NamedTuple):
    """How a repetition came out. `outcomes` and `inputs` are complete, `evidence` has only what differs."""

    outcomes: list[Pair]
    inputs: list[Pair]
    evidence: list[Part]

    @property
    def same(self) -> bool:
        """Whether every outcome is the same."""
        return all(pair.same for pair in self.outcomes)

    @property
    def inputs_same(self) -> bool:
        """Whether every input is the same."""
        return all(pair.same for pair in self.inputs)

    def answer(self, shown: Callable[[Any], str]) -> str:
        """`same inputs, same outputs`, or what was another, each value as `shown` gives it."""
        told = (_told("input", self.inputs, shown), _told("output", self.outcomes, shown))
        return (", " if self.inputs_same else "; ").join(told)


def _told(what: str, pairs: Iterable[Pair], shown: Callable[[Any], str]) -> str:
    differing = sorted((pair for pair in pairs if not pair.same), key=_rank)
    if not differing:
        return f"same {what}s"
    named = [f"{pair.what} {shown(pair.then)} → {shown(pair.now)}" for pair in differing[:NAMED]]
    more = [f"and {len(differing) - NAMED} more"] if len(differing) > NAMED else []
    return f"other {what}s: {', '.join([*named, *more])}"


def _rank(pair: Pair) -> int:
    """What an answer names first: the run's verdict, then how far the metrics moved."""
    return 0 if pair.what == "run" else 1 if pair.what.startswith("delta.") else 2


def repetition(then: Record, now: Record, judged: Judged) -> Repetition:
    """Compares a run with the one that repeated it. Pure."""
    return Repetition(
        list(_outcomes(then, now, judged)), list(_inputs(then, now, judged)), _evidence(then, now, judged)
    )


def circumstances(then: Record, now: Record) -> list[Circumstance]:
    """What differs of what both records know of code, versions, models, schema, servers and surroundings. Pure."""
    found: list[Difference] = [*files(then, now), *surroundings(then, now)]
    return [
        Circumstance(f"{_KINDS.get(item.section, '')}{item.what}", item.left, item.right)
        for item in found
        if not (item.section == "circumstances" and item.what in _OWN)
    ]


# --- outcomes ---------------------------------------------------------------------------------------------------------


def _outcomes(then: Record, now: Record, judged: Judged) -> Iterator[Pair]:
    yield Pair("run", verdict_of(then), verdict_of(now))
    for facts in (_preflight, _expectations, _steps, _postconditions(judged)):
        yield from _pairs(facts(then), facts(now))
    for which in ("after", "delta"):
        one, other = (_prefixed(which, measured(record, which)) for record in (then, now))
        yield from _pairs(one, other)


def _pairs(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Pair]:
    for what in {**then, **now}:
        yield Pair(what, then.get(what, NOTHING), now.get(what, NOTHING))


def _prefixed(prefix: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in facts.items()}


def _preflight(record: Record) -> dict[str, Any]:
    return {
        name: check.get("verdict") or "not asked"
        for name, check in checks(record).items()
        if name.startswith("preflight.")
    }


def _postconditions(judged: Judged) -> Callable[[Record], dict[str, Any]]:
    def facts(record: Record) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, check in checks(record).items():
            if name.startswith("postconditions."):
                verdict = check.get("verdict") or "not asked"
                found[name] = (
                    {"verdict": verdict, "result": check["result"]} if _counts(name, check, judged) else verdict
                )
        return found

    return facts


def _counts(name: str, check: Mapping[str, Any], judged: Judged) -> bool:
    """Whether a check judges a number that a database or a file gave."""
    return bool(check.get("expect")) and name in judged.read and isinstance(check.get("result"), int | Decimal)


def _expectations(record: Record) -> dict[str, Any]:
    return {
        name: {
            "verdict": item.get("verdict") or "not judged",
            "actual": item.get("actual"),
            "predicted": item.get("predicted"),
        }
        for name, item in expectations(record).items()
    }


def _steps(record: Record) -> dict[str, Any]:
    return {f"{step['stage']}.{name}": _step(step) for name, step in record["steps"].items()}


def _step(step: Mapping[str, Any]) -> dict[str, Any]:
    unended = "outcome unknown" if step["tries"] else "not started"
    facts = {"exit code": step.get("exit_code"), "rows": step.get("rowcount"), "attempts": step["attempts"]}
    known = {name: value for name, value in facts.items() if value is not None}
    return {"verdict": step["verdict"] or unended, **known}


# --- inputs and evidence ----------------------------------------------------------------------------------------------


def _inputs(then: Record, now: Record, judged: Judged) -> Iterator[Pair]:
    yield from _pairs(*(_prefixed("before", measured(record, "before")) for record in (then, now)))
    one, other = checks(then), checks(now)
    for name in {**one, **other}:
        if _is_input(name, (one.get(name, {}), other.get(name, {})), judged):
            yield from _parts(name, one.get(name, {}), other.get(name, {}))


def _is_input(name: str, both: Iterable[Mapping[str, Any]], judged: Judged) -> bool:
    counts = name in judged.used or any(_counts(name, check, judged) for check in both)
    return name.startswith("preflight.") and counts


def _parts(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Pair]:
    """A check's result as one pair where it is the same, else part by part."""
    one, other = then.get("result", NOTHING), now.get("result", NOTHING)
    found = parts(one, other)
    yield from (Pair(f"{name}.{part.name}" if part.name else name, part.left, part.right) for part in found[:MOST])
    if not found:
        yield Pair(name, one, other)


def _evidence(then: Record, now: Record, judged: Judged) -> list[Part]:
    """What differs in results that do not count, under the same verdict or another."""
    one, other = checks(then), checks(now)
    found: list[Part] = []
    for name in one:
        both = (one[name], other.get(name, {}))
        counts = _is_input(name, both, judged) or any(_counts(name, check, judged) for check in both)
        if not counts and all("result" in check for check in both):
            inner = parts(*(check["result"] for check in both))[:MOST]
            found += [part._replace(name=f"{name}.{part.name}" if part.name else name) for part in inner]
    return found
