"""The one JSON document on stdout, for every ending."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from runbook.cli.errors import exit_code
from runbook.engine.record import Record, empty_record
from runbook.language.problems import InvalidRunbook, RunbookError
from runbook.language.values import dumps


class NotPrinted(RunbookError):
    """Standard output does not take the document."""


def refusal(error: RunbookError | click.ClickException, file: str) -> Record:
    """The document of a run that did not begin."""
    record = empty_record()
    code = exit_code(error) if isinstance(error, RunbookError) else error.exit_code
    verdict = {3: "blocked", 6: "errored", 7: "locked", 130: "cancelled"}.get(code)
    record["run"].update({"id": "", "runbook": file, "verdict": verdict, "exit_code": code, "because": str(error)})
    if isinstance(error, InvalidRunbook):
        record["problems"] = [dict(problem.as_data()) for problem in error.problems]
    else:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        record["problems"] = [{"message": message}]
    holder = getattr(error, "holder", None)
    if holder is not None:
        record["problems"][0]["holder"] = holder._asdict()
    return record


@contextmanager
def refusing(as_json: bool, file: str = "") -> Iterator[None]:
    """Has whatever refuses the command stand on stdout as a document too, where `as_json` asks for one."""
    try:
        yield
    except RunbookError as error:
        if as_json:
            print_document(refusal(error, file))
        raise


def printable(record: Any) -> dict[str, Any]:
    """A record without what only folding needs."""
    return {key: value for key, value in record.items() if key != "declared"}


def print_document(record: Any) -> None:
    """Prints a record. Raises NotPrinted."""
    text = dumps(printable(record))
    try:
        click.echo(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise NotPrinted(f"the JSON document could not be printed: {error.strerror}") from None
