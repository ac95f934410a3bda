"""The `command` and `shell` steps: a process in a session of its own."""

from __future__ import annotations

from runbook.engine.ports import Acted, Prepared
from runbook.language.expressions import Scope
from runbook.language.model import Command
from runbook.system.command import Rendered, facts, render_command, run_command, tail, trouble
from runbook.system.tools import Tools


def prepare(action: Command, scope: Scope, timeout: float, tools: Tools) -> Prepared:
    """The command with its values; going, it runs to its end or to the time limit."""
    rendered = render_command(action, scope, tools)
    return Prepared(rendered.what, lambda: _run(rendered, timeout, tools))


def _run(rendered: Rendered, timeout: float, tools: Tools) -> Acted:
    outcome = run_command(rendered, timeout, tools)
    known = facts(outcome, tools) | {"tail": tail(outcome), "left": list(outcome.left)}
    exited = outcome.ended == "exited" and outcome.exit_code is not None
    return Acted(known, trouble(outcome, timeout), "exit_code" if exited else "", outcome.ended == "cancelled")
