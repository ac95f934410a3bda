"""The first event of a run: everything that the record needs of the runbook and its circumstances, so that it stands alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from runbook.engine.ports import Inputs
from runbook.language.model import Runbook
from runbook.operate.circumstances import host, versions


def opening(
    runbook: Runbook,
    inputs: Inputs,
    *,
    connections: Mapping[str, str],
    warnings: list[str],
    lock: str = "",
    note: str = "",
    journal: str | None = None,
    dry_run: bool = False,
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
            "strict": inputs.strict,
            "lock": lock,
            "host": host(),
            "pid": os.getpid(),
        },
        "params": inputs.params,
        "note": note,
        "journal": journal,
        "labels": {state.name: state.labels for state in runbook.state},
        "declared": _declared(runbook),
        "circumstances": {
            "file": str(runbook.path),
            "text": runbook.document.text,
            "template": runbook.report_template,
            "command_line": list(command_line),
            "versions": versions(runbook),
            "connections": connections,
            "warnings": warnings,
        },
    }


def _declared(runbook: Runbook) -> dict[str, Any]:
    data = runbook.document.data
    checks = {
        section: {
            check.name: {
                "expect": data[section][check.name].get("expect"),
                "severity": check.severity,
                "description": check.description,
                "section": check.heading,
                "remedy": check.remedy,
            }
            for check in items
        }
        for section, items in (("preflight", runbook.preflight), ("postconditions", runbook.postconditions))
    }
    steps = (*runbook.steps, *runbook.on_failure, *runbook.finally_)
    return {
        **checks,
        "steps": {step.name: {"stage": step.stage, "description": step.description} for step in steps},
        "expectations": {item.name: {"description": item.description} for item in runbook.expectations},
    }
