"""What expressions see of a run that is known from its record alone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from runbook.engine.ports import Resumed
from runbook.engine.record import Record
from runbook.language.model import Runbook
from runbook.language.values import Absent

_NULL = Absent("", null=True)
_KEPT = ("verdict", "exit_code", "duration", "rowcount", "attempts")


def resumed_from(record: Record, runbook: Runbook, forced: str = "") -> Resumed:
    """What the run in `record` leaves to its successor."""
    steps = record["steps"]
    begun = [name for name, step in steps.items() if step["tries"]]
    passed = [name for name in begun if steps[name]["verdict"] == "passed"]
    scope = scope_of(record, runbook)["steps"]
    earlier = {name: _unkept(name) for name in record["resumed"].get("done", [])}
    own = [item.name for item in runbook.steps]
    done = {**earlier, **{name: scope[name] for name in passed if name in own}}
    waiting = [*record["resumed"].get("again", []), *begun]
    again = tuple(name for name in dict.fromkeys(waiting) if name not in done and name in own)
    known = bool(done or again)
    before, predictions = (record["before"], _registered(record)) if known else ({}, {})
    return Resumed(record["run"]["id"], before, predictions, done, again, forced)


def _registered(record: Record) -> dict[str, Any]:
    """The predictions as they were made; why one was not met is no reason that it could not be made."""
    return {
        name: {**item, "because": "" if item["predicted"] is not None else item["because"]}
        for name, item in record["expectations"].items()
    }


def scope_of(record: Record, runbook: Runbook) -> dict[str, Any]:
    """The names of the last stage over `record`; what the run did not reach is null. Output of steps is not kept in records."""
    run = record["run"]
    started = datetime.fromisoformat(run["started_at"]) if run["started_at"] else None
    ended = {name: run.get(name) for name in ("verdict", "exit_code", "finished_at", "duration")}
    return {
        "params": record["params"],
        "runbook": {"name": runbook.name, "title": run["title"]},
        "run": {
            "id": run["id"],
            "stamp": run["stamp"],
            "started_at": started,
            "operator": run["operator"],
            "inputs": record["params"],
            "outcome": run["verdict"],
            **ended,
        },
        **{
            name: _or_null(record[name], [state.name for state in runbook.state])
            for name in ("before", "after", "delta")
        },
        **{name: _results(record[name], runbook) for name in ("preflight", "postconditions")},
        "expectations": _expectations(record, runbook),
        "steps": {step.name: _step(record, step.name) for step in _all_steps(runbook)},
        "audit": {"started": record["audit"].get("started")},
        "secrets": {name: Absent("secrets are in no record") for name in runbook.secrets},
    }


def _all_steps(runbook: Runbook) -> tuple[Any, ...]:
    return (*runbook.steps, *runbook.on_failure, *runbook.finally_)


def _or_null(known: Mapping[str, Any], names: list[str]) -> Any:
    return {name: known.get(name, _NULL) for name in names} if known else _NULL


def _results(checks: Mapping[str, Any], runbook: Runbook) -> dict[str, Any]:
    names = [check.name for check in (*runbook.preflight, *runbook.postconditions)]
    return {name: checks[name]["result"] if name in checks else _NULL for name in names}


def _expectations(record: Record, runbook: Runbook) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    for item in runbook.expectations:
        facts: Any = record["expectations"].get(item.name, {})
        wanted = ("predicted", "actual", "tolerance", "verdict", "because")
        found.setdefault(item.state, {})[item.metric] = {name: facts.get(name) for name in wanted}
    return found


def _step(record: Record, name: str) -> Any:
    facts: Any = record["steps"].get(name, {})
    if not facts.get("tries"):
        return _NULL
    return {**_unkept(name), **{key: facts.get(key) for key in _KEPT}}


def _unkept(name: str) -> dict[str, Any]:
    return {key: Absent(f"steps.{name}.{key} is in no record") for key in (*_KEPT, "stdout", "json", "result")}
