"""From a declared command to a process, and from its ending to facts."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from runbook.language.expressions import EvaluationError, Scope
from runbook.language.model import Command
from runbook.language.templates import render_argument, render_path, render_shell, render_text
from runbook.language.values import Output, brief, loads
from runbook.system.process import Outcome, run_process
from runbook.system.tools import Tools

KEEP = 1024 * 1024
_TAIL = 4 * 1024


class Rendered(NamedTuple):
    """A command with every value in its place; `what` shows it to people."""

    argv: list[str]
    env: dict[str, str]
    cwd: Path
    stdin: bytes | None
    what: str


def render_command(command: Command, scope: Scope, tools: Tools) -> Rendered:
    """The command over `scope`. Raises EvaluationError."""
    env = {name: value for name, value in tools.environment.items() if name not in tools.hidden}
    env |= {name: render_text(template, scope) for name, template in command.env}
    cwd = tools.folder / (render_path(command.cwd, scope) if command.cwd else "")
    stdin = render_text(command.stdin, scope).encode() if command.stdin else None
    if command.shell is not None:
        script = render_shell(command.shell, scope)
        return Rendered(["/bin/sh", "-e", "-c", script], env, cwd, stdin, command.shell.template.source.strip())
    argv = [argument for item in command.argv for argument in render_argument(item, scope)]
    if not argv:
        raise EvaluationError("the command is empty")
    shown = " ".join(argument if argument and " " not in argument else brief(argument, 200) for argument in argv)
    return Rendered([_program(argv[0], env, tools.folder), *argv[1:]], env, cwd, stdin, shown)


def _program(name: str, env: Mapping[str, str], folder: Path) -> str:
    if name == "python" and shutil.which(name, path=env.get("PATH", os.defpath)) is None:
        return sys.executable
    if os.sep in name and not os.path.isabs(name):
        return str(folder / name)
    return name


def run_command(rendered: Rendered, timeout: float, tools: Tools) -> Outcome:
    """Runs it to its end, its output streaming to the tools."""
    return run_process(
        rendered.argv,
        env=rendered.env,
        cwd=rendered.cwd,
        timeout=timeout,
        stdin=rendered.stdin,
        keep=KEEP,
        on_output=tools.on_output,
        cancelled=tools.cancelled,
        on_start=tools.on_start,
    )


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace").replace("\x00", "\\x00")


def facts(outcome: Outcome, tools: Tools) -> dict[str, Any]:
    """What expressions know of a command that has ended: exit_code, stdout, stderr, json, result."""
    text = tools.mask(_decoded(outcome.stdout).rstrip("\r\n"))
    known: dict[str, Any] = {
        "exit_code": outcome.exit_code,
        "stdout": text,
        "stderr": tools.mask(_decoded(outcome.stderr_tail).rstrip("\r\n")),
        "json": _json(text) if not outcome.stdout_truncated else None,
    }
    return {**known, "result": Output(text, known)}


def _json(text: str) -> Any:
    """The output as JSON, or its last line where only that is, or null."""
    for candidate in (text, text.rpartition("\n")[2]):
        try:
            return loads(candidate)
        except (ValueError, RecursionError):
            continue
    return None


def trouble(outcome: Outcome, timeout: float) -> str:
    """Why the command did not do what it should have, or empty."""
    if outcome.ended == "not started":
        return outcome.because
    if outcome.ended == "timed out":
        return f"timed out after {timeout:.4g} s"
    if outcome.ended == "cancelled":
        return "cancelled"
    if outcome.exit_code == 0:
        return ""
    if outcome.exit_code is None:
        return outcome.because
    last = _decoded(outcome.stderr_tail).strip().rpartition("\n")[2].strip()
    how = f"killed by signal {-outcome.exit_code}" if outcome.exit_code < 0 else f"exit code {outcome.exit_code}"
    return f"{how}: {last[:300]}" if last else how


def tail(outcome: Outcome) -> str:
    """The end of what the command said, for the run log."""
    text = outcome.stdout[-_TAIL:] if outcome.stdout.strip() else outcome.stderr_tail[-_TAIL:]
    return _decoded(text).rstrip()
