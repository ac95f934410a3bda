"""What is known at each point of a run, so that a name is checked when the file loads and not when the run reaches it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from runbook.language.expressions import Chain, Expression, ExpressionProblem
from runbook.language.problems import did_you_mean

ANY: Any = None
Shape = Mapping[str, Any]

RUN_AT_START = ("id", "stamp", "started_at", "operator", "inputs")
RUN_LATER = (*RUN_AT_START, "outcome")
RUN_AT_END = (*RUN_LATER, "verdict", "exit_code", "finished_at", "duration")
RUN_AFTERWARDS = (*RUN_AT_END, "because", "report")
STEP_FACTS = (
    "verdict",
    "exit_code",
    "duration",
    "stdout",
    "json",
    "rowcount",
    "attempts",
    "result",
    "status",
    "headers",
    "text",
)
EXPECTATION_FACTS = ("predicted", "actual", "tolerance", "verdict", "because")
PROBE_NAMES = {
    "sql": (),
    "http": ("json", "status", "headers", "text"),
    "command": ("exit_code", "stdout", "stderr", "json"),
    "file": (),
}
STAGES = (
    "lock",
    "start",
    "preflight",
    "predictions",
    "audit.started",
    "steps",
    "postconditions",
    "aftermath",
    "end",
    "notify",
)


def shape_at(stage: str, data: Mapping[str, Any], metrics: Mapping[str, list[str] | None]) -> Shape:
    """The names known at `stage` of the runbook in `data`: a tree whose leaves (ANY) may hold anything.

    `metrics` gives the columns of each state, or None where they cannot be told from the text.
    """
    reached = STAGES.index(stage)
    measured = {state: dict.fromkeys(columns, ANY) if columns else ANY for state, columns in metrics.items()}
    tree: dict[str, Any] = {
        "params": dict.fromkeys(data.get("params") or {}, ANY),
        "runbook": {"name": ANY, "title": ANY},
    }
    if reached >= STAGES.index("start"):
        tree["secrets"] = dict.fromkeys(data.get("secrets") or {}, ANY)
        tree["run"] = dict.fromkeys(RUN_AT_START, ANY)
    if reached >= STAGES.index("preflight"):
        tree |= {"before": measured, "preflight": dict.fromkeys(data.get("preflight") or {}, ANY)}
    if reached >= STAGES.index("audit.started"):
        tree["expectations"] = _expectations(data)
    if reached >= STAGES.index("steps"):
        tree["audit"] = {"started": ANY} if "started" in (data.get("audit") or {}) else {}
        tree["steps"] = _steps(data)
    if reached >= STAGES.index("postconditions"):
        tree |= {"after": measured, "delta": measured}
        tree["postconditions"] = dict.fromkeys(data.get("postconditions") or {}, ANY)
    if reached >= STAGES.index("aftermath"):
        tree["run"] = dict.fromkeys(RUN_LATER, ANY)
    if reached >= STAGES.index("end"):
        tree["run"] = dict.fromkeys(RUN_AT_END, ANY)
    if reached >= STAGES.index("notify"):
        tree["run"] = dict.fromkeys(RUN_AFTERWARDS, ANY)
    return tree


def _expectations(data: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for metric in data.get("expectations") or {}:
        state, _, column = metric.partition(".")
        tree.setdefault(state, {})[column] = dict.fromkeys(EXPECTATION_FACTS, ANY)
    return tree


def _steps(data: Mapping[str, Any]) -> dict[str, Any]:
    names = [name for stage in ("steps", "on_failure", "finally") for name in data.get(stage) or {}]
    return {name: dict.fromkeys(STEP_FACTS, ANY) for name in names}


def check_names(expression: Expression, shape: Shape, stage: str, whole: Shape) -> list[ExpressionProblem]:
    """The names in `expression` that `shape` does not know, each with its offset in the expression's source."""
    problems = []
    for chain in dict.fromkeys(expression.names):
        missing = _first_unknown(chain, shape)
        if missing is not None:
            problems.append(_problem(chain, missing, expression.source, shape, stage, whole))
    return problems


def _first_unknown(chain: Chain, shape: Shape) -> int | None:
    known: Any = shape
    for depth, key in enumerate(chain):
        if known is ANY:
            return None
        if key not in known:
            return depth
        known = known[key]
    return None


def _problem(chain: Chain, depth: int, source: str, shape: Shape, stage: str, whole: Shape) -> ExpressionProblem:
    known: Any = shape
    for key in chain[:depth]:
        known = known[key]
    shown = ".".join(chain[: depth + 1])
    if _first_unknown(chain[: depth + 1], whole) is None and chain[0] != "result":
        yet = f"`{shown}` is not known yet: {_when(chain[0], chain)}"
        message, hint = "a secret cannot stand here" if chain[0] == "secrets" else yet, _reachable(shape)
    elif depth == 0:
        message, hint = f"`{shown}` is not a name that is known here", _root_hint(chain, shape)
    else:
        message, hint = f"`{'.'.join(chain[:depth])}` has no `{chain[depth]}`", did_you_mean(chain[depth], known)
    offset, width = _find(chain, depth, source)
    return ExpressionProblem(message, offset, hint, width)


def _when(root: str, chain: Chain) -> str:
    return {
        "run": "the run has not begun" if len(chain) < 2 or chain[1] in RUN_AT_START else "the run is not over",
        "before": "it is measured after this",
        "preflight": "preflight comes after this",
        "expectations": "predictions are made after this",
        "audit": "audit.started is written after this",
        "steps": "the steps come after this",
        "after": "it is measured after the steps",
        "delta": "it is measured after the steps",
        "postconditions": "they are checked after the steps",
    }.get(root, "it comes later")


def _reachable(shape: Shape) -> str:
    return "known here: " + ", ".join(f"`{name}`" for name in shape)


def _root_hint(chain: Chain, shape: Shape) -> str:
    for root, inside in shape.items():
        if isinstance(inside, Mapping) and chain[0] in inside:
            return f"did you mean `{root}.{chain[0]}`?"
    return did_you_mean(chain[0], shape) or _reachable(shape)


def _find(chain: Chain, depth: int, source: str) -> tuple[int, int]:
    pattern = r"(?<![\w.'\"])" + r"\s*(?:\.\s*|\[\s*['\"])".join(re.escape(key) for key in chain[: depth + 1])
    match = re.search(pattern, source)
    if match is None:
        return max(source.find(chain[0]), 0), len(chain[0])
    return match.end() - len(chain[depth]), len(chain[depth])
