"""What probes and steps are given to work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from runbook.database.connect import Connection
    from runbook.database.guard import Rows


class Tools(NamedTuple):
    """The world of one run, as far as probes and steps may touch it.

    `on_start` is told the pid and the start time of each process that a step begins; `mask` takes
    secrets out of what comes in; `query` asks within the open snapshot; `database` opens a connection that may
    write; `interrupt` is told how to break off what is being waited for, or None when there is nothing.
    """

    folder: Path
    environment: Mapping[str, str]
    http_urls: Mapping[str, str]
    query: Callable[[str, str, tuple[Any, ...], float], Rows]
    database: Callable[[str], Connection]
    on_output: Callable[[str, bytes], None]
    cancelled: Callable[[], str | None]
    mask: Callable[[Any], Any]
    interrupt: Callable[[Callable[[], None] | None], None]
    hidden: frozenset[str] = frozenset()
    on_start: Callable[[int, float | None], None] | None = None
