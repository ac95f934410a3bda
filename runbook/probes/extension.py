"""Probes of other packages: each call in a process of its own, what it prints unheard."""

from __future__ import annotations

from runbook.engine.ports import Answer, CannotTell
from runbook.language.expressions import Scope
from runbook.language.model import Extension
from runbook.system.extension import call, ready
from runbook.system.tools import Tools

GRACE = 1.0  # seconds for one that is asked to end


def read(probe: Extension, scope: Scope, timeout: float, tools: Tools) -> Answer:
    """Has the package look; the result is what it gives, as JSON has it."""
    quiet = tools._replace(on_output=lambda stream, chunk: None)
    called = call(ready(probe, scope, tools), timeout, quiet, GRACE)
    if called.because:
        raise CannotTell(called.because)
    answer = called.answer
    return Answer(answer["result"], {}, answer["trouble"], dropped=answer["dropped"])
