"""Finding the record of a run: on this disk, else in an audit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from runbook.engine.record import Record
from runbook.operate.runs import find_run, record_of


class Found(NamedTuple):
    """The record of a run, and its folder where that is on this disk."""

    record: Record
    folder: Path | None


def find_record(name: str, databases: Mapping[str, str]) -> Found:
    """The run that `name` means: an id, a unique beginning of one, or `last`.

    `databases` are URLs by connection name ("" for any) of audits to look into. Raises NoSuchRun or JournalError.
    """
    folder = find_run(name)
    return Found(record_of(folder), folder)
