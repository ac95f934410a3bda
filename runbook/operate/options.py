"""How a run is to be done, beside what it is."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from runbook.engine.ports import Resumed
from runbook.language.load import Marks


class Submitted(NamedTuple):
    """A run that was asked for elsewhere: its id, the epoch of this start of it, its lock as it was submitted, and the
    circumstances that its record tells."""

    run_id: str
    epoch: int
    lock: str
    circumstances: Mapping[str, Any]


class Options(NamedTuple):
    """How a run is to be done, beside what it is. `fresh` asks embedded servers for a throw-away database,
    `seen` remembers params that were found valid before, `wait` waits for the lock as long as another run holds it,
    `rehearse` does all on throw-away copies of the databases, `rehearsed` is the id of the rehearsal that had to pass,
    `repeats` that of the run that this one repeats, `remedy` the remedy that this run is,
    `submitted` what was asked for elsewhere and is run here,
    `project` is the folder for its records, where that is not to be the project's own, `keep_patch` keeps there what differs
    from the commit."""

    database: Mapping[str, str] = {}
    operator: str = ""
    note: str = ""
    strict: bool = False
    overrides: Mapping[str, str] = {}
    command_line: tuple[str, ...] = ()
    fresh: bool = False
    seen: Marks | None = None
    resumed: Resumed | None = None
    rehearse: bool = False
    rehearsed: str = ""
    repeats: str = ""
    remedy: str = ""
    wait: bool = False
    submitted: Submitted | None = None
    project: Path | None = None
    keep_patch: bool = False


def new_run_id(moment: datetime) -> str:
    """An id that sorts by time, to the millisecond: `20251210_143522-417-3f9a`."""
    return f"{moment:%Y%m%d_%H%M%S}-{moment.microsecond // 1000:03d}-{secrets.token_hex(2)}"
