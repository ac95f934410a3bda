"""Reproducible experiment runbooks: predict, run, measure, judge, record.

The library face: `load` a file, `execute` it, read the `Record`. Everything else is the program's own business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runbook.engine.record import Record
    from runbook.language.load import load
    from runbook.language.problems import InvalidRunbook, Problem, RunbookError
    from runbook.operate.lock import Locked
    from runbook.operate.servers import CannotStart
    from runbook.session import execute

__version__ = "0.1.0"
__all__ = ["CannotStart", "InvalidRunbook", "Locked", "Problem", "Record", "RunbookError", "execute", "load"]

_HOMES = {
    "load": "runbook.language.load",
    "execute": "runbook.session",
    "Record": "runbook.engine.record",
    "InvalidRunbook": "runbook.language.problems",
    "Problem": "runbook.language.problems",
    "RunbookError": "runbook.language.problems",
    "Locked": "runbook.operate.lock",
    "CannotStart": "runbook.operate.servers",
}


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use, so that `import runbook` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
