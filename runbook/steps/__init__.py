"""What acts: one module a kind. Each prepares an attempt whole before anything happens, so that it can be announced."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from runbook.engine.ports import Prepared
from runbook.language.expressions import Scope
from runbook.language.model import Action
from runbook.system.tools import Tools

_MODULES = {"Sql": "sql", "Request": "http", "Command": "command", "Repair": "sql", "Extension": "extension"}


def prepare(action: Action, scope: Scope, timeout: float, tools: Tools) -> Prepared:
    """One attempt of `action`, ready to go, by the module for its kind, which is imported at its first use."""
    module = import_module(f"runbook.steps.{_MODULES[type(action).__name__]}")
    preparer: Callable[[Action, Scope, float, Tools], Prepared] = module.prepare
    return preparer(action, scope, timeout, tools)
