"""Calling a probe or a step of another package: its keys filled in, in a process of its own, its answer bounded and masked."""

from __future__ import annotations

import pickle
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from runbook.language.expressions import EvaluationError, Expression, Scope
from runbook.language.kinds import Unusable, has_hole, misfit
from runbook.language.model import Extension, Kind
from runbook.language.templates import Template, render_text
from runbook.language.values import brief, loads, to_data
from runbook.system.command import trouble
from runbook.system.process import Outcome, run_process
from runbook.system.tools import Tools

KEEP = 1024 * 1024  # bytes of what it prints
SHOWN = 200  # characters of its keys that people are shown
_CODE = "import sys; sys.path.append(sys.argv[1]); from runbook.system.extension_host import serve; serve()"


class Ready(NamedTuple):
    """A call with every value in its place; `what` shows it to people."""

    kind: Kind
    given: Any
    what: str


class Called(NamedTuple):
    """What came of a call: the answer, or why there is none, and how the process ended."""

    answer: Mapping[str, Any]
    because: str
    outcome: Outcome


def ready(extension: Extension, scope: Scope, tools: Tools) -> Ready:
    """The call over `scope`. Raises EvaluationError, also where a value does not fit the schema of the kind."""
    kind, given = extension.kind, _filled(extension.given, scope)
    if _varies(extension.given):
        try:
            why = misfit(kind, given)
        except Unusable as error:
            raise EvaluationError(str(error)) from None
        if why:
            raise EvaluationError(f"{kind.key}: {why}")
    return Ready(kind, given, f"{kind.key}: {brief(tools.mask(to_data(given)), SHOWN)}")


def _varies(given: Any) -> bool:
    if isinstance(given, Expression):
        return True
    if isinstance(given, Template):
        return has_hole(given.source)
    return any(map(_varies, _inner(given)))


def _inner(given: Any) -> list[Any]:
    return list(given.values()) if isinstance(given, dict) else given if isinstance(given, list) else []


def _filled(given: Any, scope: Scope) -> Any:
    if isinstance(given, Expression):
        return _own(given.evaluate(scope))
    if isinstance(given, Template):
        whole = given.value(scope)
        return _own(whole) if not isinstance(whole, str) else render_text(given, scope)
    if isinstance(given, dict):
        return {key: _filled(item, scope) for key, item in given.items()}
    return [_filled(item, scope) for item in given] if isinstance(given, list) else given


def _own(value: Any) -> Any:
    """A value that others may have: plain collections, nothing that is ours."""
    if isinstance(value, Mapping):
        return {str(key): _own(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_own(item) for item in value]
    return str(value) if isinstance(value, str) else value


def call(one: Ready, timeout: float, tools: Tools, grace: float) -> Called:
    """Calls it in a process of its own, which is ended when the time is over or the end is asked for, after `grace` seconds."""
    try:
        with tempfile.TemporaryDirectory(prefix="runbook-") as folder:
            answer = Path(folder) / "answer"
            outcome = _run(one, timeout, tools, grace, answer)
            told = tools.mask(loads(answer.read_bytes())) if answer.exists() else {}
    except (OSError, ValueError, pickle.PicklingError) as error:
        return Called({}, _blamed(one.kind, str(error)), Outcome(None, b"", 0, b"", "not started", 0.0, str(error), ()))
    if outcome.ended != "exited":
        return Called({}, trouble(outcome, timeout), outcome)
    if "because" in told:
        return Called({}, told["because"], outcome)
    if "result" in told:
        return Called(told, "", outcome)
    fault = told.get("fault") or f"it ended without an answer: {trouble(outcome, timeout) or 'exit code 0'}"
    return Called({}, _blamed(one.kind, fault), outcome)


def _blamed(kind: Kind, fault: str) -> str:
    return f"{kind.key} ({kind.package} {kind.version}): {fault}"


def _run(one: Ready, timeout: float, tools: Tools, grace: float, answer: Path) -> Outcome:
    order = {
        "path": sys.path,
        "room": one.kind.room,
        "entry": one.kind.entry,
        "given": one.given,
        "timeout": timeout,
        "folder": str(tools.folder),
        "urls": dict(tools.http_urls),
        "answer": str(answer),
    }
    return run_process(
        [sys.executable, "-P", "-c", _CODE, str(Path(__file__).resolve().parent.parent.parent)],
        env={name: value for name, value in tools.environment.items() if name not in tools.hidden},
        cwd=tools.folder,
        timeout=timeout,
        stdin=pickle.dumps(order, protocol=5),
        keep=KEEP,
        grace=grace,
        on_output=tools.on_output,
        cancelled=tools.cancelled,
        on_start=tools.on_start,
    )
