"""Steps of other packages: each attempt in a process of its own, what it prints and logs is the step's output."""

from __future__ import annotations

from runbook.engine.ports import Acted, Prepared
from runbook.language.expressions import Scope
from runbook.language.model import Extension
from runbook.system.command import facts, tail
from runbook.system.extension import Ready, call, ready
from runbook.system.tools import Tools

GRACE = 10.0  # seconds for one that is asked to end


def prepare(action: Extension, scope: Scope, timeout: float, tools: Tools) -> Prepared:
    """The call with its values; going, the package acts, and what it gives is the step's result."""
    one = ready(action, scope, tools)
    return Prepared(one.what, lambda: _act(one, timeout, tools))


def _act(one: Ready, timeout: float, tools: Tools) -> Acted:
    called = call(one, timeout, tools, GRACE)
    outcome = called.outcome
    known = facts(outcome, tools) | {"exit_code": None, "json": None, "result": called.answer.get("result")}
    known |= {"tail": tail(outcome), "left": list(outcome.left)}
    return Acted(known, called.because, cancelled=outcome.ended == "cancelled")
