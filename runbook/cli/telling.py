"""A problem as people read it: where, what, the line with a caret, and what to do."""

from __future__ import annotations

from runbook.language.problems import Problem
from runbook.language.source import CARET_LIMIT
from runbook.records.markdown import visible


def problem_text(problem: Problem) -> str:
    """Where, what, the line with a caret, and what to do."""
    place = problem.file if not problem.line else f"{problem.file}:{problem.line}:{problem.column}"
    where = f"{problem.where}: " if problem.where else ""
    lines = [f"{place}: {where}{problem.message}"]
    if problem.source and problem.line:
        number = f"{problem.line:>5}"
        before = "".join(
            "\t" if char == "\t" else " " for char in problem.source[: min(problem.column, CARET_LIMIT) - 1]
        )
        lines += [
            f"{number} | {visible(problem.source, keep=chr(9))}",
            f"{' ' * len(number)} | {before}{'^' * problem.width}",
        ]
    if problem.hint:
        lines.append(f"      = {problem.hint}")
    return "\n".join(lines)
