"""The `command` probe: a program that looks. A non-zero exit is no answer unless the check is about the exit code."""

from __future__ import annotations

from runbook.engine.ports import Answer, CannotTell
from runbook.language.expressions import Scope
from runbook.language.model import Command
from runbook.system.command import facts, render_command, run_command, trouble
from runbook.system.tools import Tools


def read(probe: Command, scope: Scope, timeout: float, tools: Tools) -> Answer:
    """Runs the program quietly; the result is its standard output as text."""
    quiet = tools._replace(on_output=lambda stream, chunk: None)
    outcome = run_command(render_command(probe, scope, tools), timeout, quiet)
    why = trouble(outcome, timeout)
    if outcome.ended != "exited":
        raise CannotTell(why)
    names = facts(outcome, tools)
    return Answer(names.pop("result"), names, why, "exit_code")
