"""The first event of a run: everything that the record needs of the runbook and its circumstances, so that it stands alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from runbook.engine.ports import Inputs
from runbook.language.document import Where
from runbook.language.model import Expectation, Runbook
from runbook.operate.alive import boot_id
from runbook.operate.circumstances import host, locale, time_zone, versions
from runbook.system.tree import start_time


def opening(
    runbook: Runbook,
    inputs: Inputs,
    *,
    connections: Mapping[str, str],
    embedded: list[str],
    made: Iterable[str] = (),
    fresh: bool = False,
    warnings: list[str],
    lock: str = "",
    epoch: int | None = None,
    report_path: str = "",
    note: str = "",
    journal: str | None = None,
    dry_run: bool = False,
    rehearsal: bool = False,
    rehearsed: str = "",
    repeats: str = "",
    remedy: str = "",
    submitted: Mapping[str, Any] | None = None,
    command_line: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The data of `run.opened`."""
    return {
        "run": {
            "id": inputs.id,
            "runbook": runbook.name,
            "title": inputs.title,
            "hypothesis": runbook.hypothesis,
            "started_at": inputs.started_at.isoformat(timespec="milliseconds"),
            "operator": inputs.operator,
            "stamp": inputs.stamp,
            "dry_run": dry_run,
            "rehearsal": rehearsal,
            "strict": inputs.strict,
            "lock": lock,
            **_process(),
            "epoch": epoch,
            "report_path": report_path,
            **({"remedy": remedy} if remedy else {}),
        },
        "params": inputs.params,
        "note": note,
        "journal": journal,
        "labels": {state.name: state.labels for state in runbook.state},
        "declared": _declared(runbook),
        "circumstances": {
            **_of_file(runbook),
            "command_line": list(command_line),
            "rehearsed": rehearsed,
            "repeats": repeats,
            "connections": connections,
            "embedded": embedded,
            "made": list(made),
            "fresh": fresh,
            **_surroundings(submitted),
            "warnings": [*warnings, *_silence(runbook, rehearsal)],
            **({} if dry_run or rehearsal or remedy else _promises(runbook)),
        },
    }


def _of_file(runbook: Runbook) -> dict[str, Any]:
    """What is needed to load the runbook again as it was, and to find the audit of the run."""
    return {
        "file": str(runbook.path),
        "text": runbook.document.text,
        "template": runbook.report_template,
        "audit": runbook.audit.connection,
        "versions": versions(runbook),
    }


def _surroundings(submitted: Mapping[str, Any] | None) -> dict[str, Any]:
    """Of this process, and of who asked for the run where that was elsewhere."""
    found: dict[str, Any] = {"locale": locale(), "time_zone": time_zone()}
    return {**found, "submitted": dict(submitted)} if submitted else found


def _promises(runbook: Runbook) -> dict[str, Any]:
    """Who is to be notified of which verdicts, whoever concludes the run."""
    return {"notify": {item.name: item.on for item in runbook.notify}} if runbook.notify else {}


def _silence(runbook: Runbook, rehearsal: bool) -> Iterable[str]:
    if rehearsal and runbook.notify:
        yield f"a rehearsal notifies nobody ({', '.join(item.name for item in runbook.notify)})"


def _process() -> dict[str, Any]:
    """By which this process can be found again, or known to be gone."""
    return {"host": host(), "pid": os.getpid(), "process_started": start_time(os.getpid()), "boot_id": boot_id()}


def _declared(runbook: Runbook) -> dict[str, Any]:
    """What is declared of every check, expectation and step, with the line (from 1) that its key stands on."""
    data = runbook.document.data
    checks = {
        section: {
            check.name: {
                "expect": data[section][check.name].get("expect"),
                "severity": check.severity,
                "description": check.description,
                "section": check.heading,
                "remedy": check.remedy,
                "line": _line(runbook, check.where),
            }
            for check in items
        }
        for section, items in (("preflight", runbook.preflight), ("postconditions", runbook.postconditions))
    }
    steps = (*runbook.steps, *runbook.on_failure, *runbook.finally_)
    return {
        **checks,
        "steps": {
            step.name: {"stage": step.stage, "description": step.description, "line": _line(runbook, step.where)}
            for step in steps
        },
        "expectations": _expectations(runbook, runbook.expectations),
        "step_expectations": {s.name: _expectations(runbook, s.expectations) for s in steps if s.expectations},
    }


def _expectations(runbook: Runbook, items: Iterable[Expectation]) -> dict[str, Any]:
    return {item.name: {"description": item.description, "line": _line(runbook, item.where)} for item in items}


def _line(runbook: Runbook, where: Where) -> int:
    return runbook.document.own_line(where)
