"""Writing the run log: the default one or the author's own template; aside first, then in its place, never over another."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from runbook.engine.record import Record
from runbook.language.problems import RunbookError
from runbook.language.values import as_text, duration_text
from runbook.records.files import write_aside, write_new
from runbook.records.markdown import code, plain
from runbook.records.runlog import run_log


class ReportError(RunbookError):
    """The run log cannot be rendered or written."""


def beside(path: Path, run_id: str) -> Path:
    """Where the run log of a run goes if `path` is taken."""
    return path.with_stem(f"{path.stem}_{run_id}")


def write_report(path: Path, record: Record) -> tuple[Path, str]:
    """Writes the run log of `record` at `path`, or beside it with the run's id in its name. Raises ReportError.

    Where the author's own template fails, the default one serves, and the second of the pair says why.
    """
    text, trouble = _rendered(record)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.parent / f".{path.name}.{secrets.token_hex(4)}"
        write_new(aside, [text.encode("utf-8", "backslashreplace")])
        try:
            for place in (path, beside(path, record["run"]["id"])):
                with suppress(FileExistsError):
                    os.link(aside, place, follow_symlinks=False)
                    return place, trouble
            raise ReportError(f"{path} exists already")
        finally:
            aside.unlink()
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}") from None


def rewrite_report(path: Path, record: Record) -> tuple[Path, str] | None:
    """Writes the run log of `record` anew where it is; None where there is none any more. Raises ReportError."""
    if not path.is_file():
        return None
    text, trouble = _rendered(record)
    try:
        write_aside(path, [text.encode("utf-8", "backslashreplace")])
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}") from None
    return path, trouble


def _rendered(record: Record) -> tuple[str, str]:
    """The run log; where the author's own template fails the default one, and why."""
    try:
        return render(record), ""
    except ReportError as error:
        return run_log(record), f"the run log is the default one: {error}"


def render(record: Record) -> str:
    """The run log of a finished run: by the author's own template where there is one. Raises ReportError."""
    text = record["circumstances"].get("template")
    return run_log(record) if text is None else _by_template(text, record)


def _by_template(text: str, record: Record) -> str:
    """A run log by a Jinja template that sees the keys of the record, and `run_log`, the default one."""
    from jinja2 import TemplateError

    from runbook.language.reports import NAMES, report_environment

    environment = report_environment().overlay(finalize=_escaped)
    environment.filters.update(
        code=lambda value: _Safe(code(value, cell=True)),
        duration=lambda value: _Safe(duration_text(float(value))),
        text=lambda value: _Safe(as_text(value)),
    )
    known: dict[str, Any] = {name: record[name] for name in NAMES if name in record}  # type: ignore[literal-required]
    try:
        return environment.from_string(text).render({**known, "run_log": _Safe(run_log(record))})
    except (TemplateError, ValueError, TypeError, ArithmeticError) as error:
        raise ReportError(f"the template: {error}") from None


def _escaped(value: Any) -> str:
    return value if isinstance(value, _Safe) else plain(value)


class _Safe(str):
    """Markdown that is inert already."""
