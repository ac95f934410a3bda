"""Expressions: Jinja's syntax, filters and tests over plain values.

Jinja reads them; what is kept is a plain tree that is walked, because a walk costs no start-up time, can name the values that
made a condition false, and lets every operation be bounded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from runbook.language.evaluate import (
    Chain,
    Evaluation,
    EvaluationError,
    Missing,
    Node,
    NotYet,
    Scope,
    evaluate,
    follow,
    present,
)
from runbook.language.problems import RunbookError
from runbook.language.values import brief

__all__ = [
    "Chain",
    "EvaluationError",
    "Expression",
    "ExpressionProblem",
    "Missing",
    "NotYet",
    "Scope",
    "parse_expression",
]


class ExpressionProblem(RunbookError):
    """An expression or a template cannot be used; `offset` is the place in its source."""

    def __init__(self, message: str, offset: int = 0, hint: str = "", width: int = 1) -> None:
        super().__init__(message)
        self.message, self.offset, self.hint, self.width = message, offset, hint, width


class Expression(NamedTuple):
    """A parsed expression; `names` are the dotted names that it reads, in order."""

    source: str
    node: Node
    names: tuple[Chain, ...]

    def evaluate(self, scope: Scope, *, nulls: bool = True) -> Any:
        """The value over `scope`. With `nulls=False` comparing a null is an error. Raises EvaluationError."""
        try:
            value = present(evaluate(self.node, Evaluation(scope, nulls)))
        except RecursionError:
            raise EvaluationError("the expression is nested too deeply") from None
        if callable(value):
            raise EvaluationError(f"`{self.source}` is a method: call it with ()")
        return value

    def holds(self, scope: Scope) -> bool:
        """Whether the condition is true; anything but true and false is an EvaluationError."""
        value = self.evaluate(scope, nulls=False)
        if not isinstance(value, bool):
            raise EvaluationError(f"`{self.source}` is {brief(value)}, neither true nor false")
        return value

    def explain(self, scope: Scope) -> str:
        """The expression, and the value of every name in it: `a.b > 0   where a.b = 0`."""
        known = []
        for chain in dict.fromkeys(self.names):
            try:
                value = follow(chain, Evaluation(scope, True))
            except EvaluationError as error:
                known.append(f"{'.'.join(chain)}: {error}")
            else:
                known.append(f"{'.'.join(chain)} = {brief(value)}")
        return self.source + ("   where " + ", ".join(known) if known else "")


def parse_expression(source: str) -> Expression:
    """The expression in `source`; raises ExpressionProblem."""
    from runbook.language.trees import names_in, parse_tree

    node = parse_tree(source)
    return Expression(source, node, names_in(node))
