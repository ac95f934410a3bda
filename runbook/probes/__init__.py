"""What reads: one module a kind. None of them knows what its answer is good for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from runbook.engine.ports import Answer
from runbook.language.expressions import Scope
from runbook.language.model import Command, Extension, File, Probe, Request, Sql
from runbook.system.tools import Tools

_MODULES: dict[type[Any], str] = {
    Sql: "sql",
    Request: "http",
    Command: "command",
    File: "file",
    Extension: "extension",
}


def read(probe: Probe, scope: Scope, timeout: float, tools: Tools) -> Answer:
    """Reads `probe` with the module for its kind, which is imported at its first use."""
    module = import_module(f"runbook.probes.{_MODULES[type(probe)]}")
    reader: Callable[[Probe, Scope, float, Tools], Answer] = module.read
    return reader(probe, scope, timeout, tools)
