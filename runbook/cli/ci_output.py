"""What CI systems get of a run: the JUnit file of `--junit`; the annotations and the job summary of `--github`."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from runbook.cli.documents import refusal
from runbook.cli.errors import ERRORED
from runbook.engine.record import Record
from runbook.language.problems import RunbookError

MAX_SUMMARIES = 1024 * 1024  # bytes that GitHub takes of one step; of more it shows nothing


def ci_output(given: Mapping[str, Any]) -> Callable[[Record], int]:
    """Begins what CI reads; returns what ends it, with the record of the run or of its refusal, and gives the exit code.

    Until then the JUnit file says that the run has not come to its end, so that no earlier, green one is taken for it, and
    GitHub takes nothing that a step or a value prints as a command. Raises a usage error.
    """
    path, github, file = given["junit"], given["github"], given["file"] or ""
    if github and given["detach"]:
        raise click.UsageError("--github has nobody to tell with --detach; --junit writes a file all the same")
    if path is not None:
        _begin_junit(path, file)
    resume = _quieten(given["as_json"]) if github else None

    def publish(record: Record) -> int:
        tellers: list[Callable[[], None]] = []
        if path is not None:
            tellers.append(lambda: _write_junit(path, record))
        if resume is not None:
            tellers += [resume, lambda: _annotate(record, given["as_json"]), lambda: _summarise(record)]
        code = record["run"]["exit_code"] or 0
        told = [_tried(teller) for teller in tellers]
        return code if all(told) else code or ERRORED

    return publish


def _tried(teller: Callable[[], None]) -> bool:
    """A report that cannot be written changes no record, but a run that passed cannot end green without it."""
    try:
        teller()
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        click.echo(f"error: a report for CI was not written: {place}{error.strerror}", err=True)
        return False
    return True


def relative(file: str) -> str:
    """A file as CI systems name it: from the root of the checkout (GITHUB_WORKSPACE, else the working directory)."""
    if not file or not os.path.exists(file):
        return file
    base = os.environ.get("GITHUB_WORKSPACE") or os.getcwd()
    for resolved in (os.path.abspath, os.path.realpath):
        path = os.path.relpath(resolved(file), resolved(base))
        if path.split(os.sep)[0] != os.pardir:
            return path
    return file


# --- JUnit ----------------------------------------------------------------------------------------------------------


def _begin_junit(path: Path, file: str) -> None:
    """The path is tried before anything runs, and nothing but an earlier report is written over."""
    unfinished = refusal(RunbookError("no end was reported: the run goes on, was broken off, or never began"), file)
    try:
        if path.exists() and (not path.is_file() or not _is_xml(path)):
            raise click.UsageError(f"--junit {path}: something that is no XML file stands there")
        _write_junit(path, unfinished)
    except OSError as error:
        raise click.UsageError(f"--junit {path}: {error.strerror}") from None


def _is_xml(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip()[:1] in (b"", b"<")


def _write_junit(path: Path, record: Record) -> None:
    """Who may read it is for the umask to say, as other users read what CI keeps."""
    from runbook.records.files import PUBLIC, write_aside
    from runbook.records.junit import junit

    write_aside(path, [junit(record, relative)], PUBLIC)


# --- GitHub ---------------------------------------------------------------------------------------------------------


def _quieten(as_json: bool) -> Callable[[], None]:
    """Has GitHub take no commands until what is returned is called; it is called at the latest when the command ends."""
    token = secrets.token_hex(16)
    with suppress(OSError):  # a stream that nobody reads is told of at the end
        click.echo(f"::stop-commands::{token}", err=as_json)
    waiting = [f"::{token}::"]

    def resume() -> None:
        if waiting:
            click.echo(waiting.pop(), err=as_json)

    def resume_at_last() -> None:
        with suppress(OSError):
            resume()

    click.get_current_context().call_on_close(resume_at_last)
    return resume


def _annotate(record: Record, as_json: bool) -> None:
    """GitHub reads both streams; stdout is the document's alone with --json."""
    from runbook.records.annotations import annotate

    for line in annotate(record, relative):
        click.echo(line, err=as_json)


def _summarise(record: Record) -> None:
    from runbook.records.annotations import summary

    place = os.environ.get("GITHUB_STEP_SUMMARY")
    if not place:
        return
    text = summary(record, relative).encode()
    with open(place, "ab") as file:
        full = file.tell() + len(text) > MAX_SUMMARIES
        if not full:
            file.write(text)
    if full:
        click.echo("note: the job summary has no room left for this run", err=True)
