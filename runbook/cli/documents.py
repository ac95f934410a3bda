"""The one JSON document on stdout, for every ending."""

from __future__ import annotations

import sys
from typing import Any

from runbook.cli.errors import exit_code
from runbook.engine.record import Record, empty_record
from runbook.language.problems import InvalidRunbook, RunbookError
from runbook.language.values import dumps


def refusal(error: RunbookError, file: str) -> Record:
    """The document of a run that did not begin."""
    record = empty_record()
    code = exit_code(error)
    verdict = {6: "errored", 7: "locked"}.get(code)
    record["run"].update({"id": "", "runbook": file, "verdict": verdict, "exit_code": code, "because": str(error)})
    if isinstance(error, InvalidRunbook):
        record["problems"] = [dict(problem.as_data()) for problem in error.problems]
    else:
        record["problems"] = [{"message": str(error)}]
    holder = getattr(error, "holder", None)
    if holder is not None:
        record["problems"][0]["holder"] = holder._asdict()
    return record


def print_document(record: Any) -> None:
    """Prints a record without what only folding needs."""
    sys.stdout.write(dumps({key: value for key, value in record.items() if key != "declared"}) + "\n")
    sys.stdout.flush()
