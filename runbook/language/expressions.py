"""Expressions: Jinja's syntax, filters and tests over plain values.

The syntax tree is Jinja's own. It is walked rather than compiled, because a walk costs no start-up time, can name the values
that made a condition false, and lets every operation be bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from jinja2 import TemplateSyntaxError, nodes
from jinja2.parser import Parser

from runbook.language.evaluate import (
    Chain,
    Evaluation,
    EvaluationError,
    Missing,
    Scope,
    chain_of,
    evaluate,
    follow,
    present,
)
from runbook.language.problems import RunbookError, did_you_mean
from runbook.language.sandbox import environment
from runbook.language.values import brief

__all__ = ["Chain", "EvaluationError", "Expression", "ExpressionProblem", "Missing", "Scope", "parse_expression"]

MAX_SOURCE = 16 * 1024
MAX_DEPTH = 60


class ExpressionProblem(RunbookError):
    """An expression or a template cannot be used; `offset` is the place in its source."""

    def __init__(self, message: str, offset: int = 0, hint: str = "", width: int = 1) -> None:
        super().__init__(message)
        self.message, self.offset, self.hint, self.width = message, offset, hint, width


class Expression(NamedTuple):
    """A parsed expression; `names` are the dotted names that it reads, in order."""

    source: str
    node: nodes.Expr
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
    _refuse_excess(source)
    if source.lstrip().startswith("{{"):
        raise ExpressionProblem("this is a bare expression", hint="leave out the {{ }}", width=2)
    try:
        parser = Parser(environment(), source, state="variable")
        node = parser.parse_expression()
        if not parser.stream.eos:
            extra = parser.stream.current.value
            raise ExpressionProblem(
                f"the expression goes on after its end: `{extra}`",
                max(source.find(str(extra)), 0),
                width=len(str(extra)),
            )
        _check_callables(node, source)
        return Expression(source, node, tuple(_names(node)))
    except TemplateSyntaxError as error:
        message = str(error.message).replace("unexpected 'end of template'", "it ends too early")
        raise ExpressionProblem(f"this expression cannot be read: {message}") from None
    except RecursionError:
        raise ExpressionProblem("the expression is nested too deeply") from None
    except (ValueError, OverflowError):
        raise ExpressionProblem("a number with too many digits") from None


def _refuse_excess(source: str) -> None:
    if len(source) > MAX_SOURCE:
        raise ExpressionProblem(f"an expression of {len(source)} characters; at most {MAX_SOURCE} are read")
    depth = 0
    for match in re.finditer(r"[(\[{]|[)\]}]", source):
        depth += 1 if match.group() in "([{" else -1
        if depth > MAX_DEPTH:
            raise ExpressionProblem(f"brackets nested more than {MAX_DEPTH} deep", match.start())


def _check_callables(node: nodes.Node, source: str) -> None:
    env = environment()
    for kind, known, word in ((nodes.Filter, env.filters, "filter"), (nodes.Test, env.tests, "test")):
        for found in (node, *node.find_all(kind)):
            if isinstance(found, kind) and found.name not in known:
                hint = did_you_mean(found.name, known)
                raise ExpressionProblem(
                    f"there is no {word} `{found.name}`", max(source.find(found.name), 0), hint, len(found.name)
                )


def _names(node: nodes.Node) -> Iterator[Chain]:
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
        yield from _names(node.node.node)
        for child in node.iter_child_nodes(exclude=("node",)):
            yield from _names(child)
        return
    chain = chain_of(node)
    if chain:
        yield chain
        return
    for child in node.iter_child_nodes():
        yield from _names(child)
