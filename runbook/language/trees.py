"""From the text of an expression to its tree: Jinja's parser, then plain tuples that need Jinja no more."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from jinja2 import TemplateSyntaxError, nodes
from jinja2.parser import Parser

from runbook.language.evaluate import Chain, Node, chain_of
from runbook.language.expressions import ExpressionProblem
from runbook.language.problems import did_you_mean
from runbook.language.sandbox import environment

MAX_SOURCE = 16 * 1024
MAX_DEPTH = 60


def parse_tree(source: str) -> Node:
    """The tree of the expression in `source`; raises ExpressionProblem."""
    _refuse_excess(source)
    if source.lstrip().startswith("{{"):
        raise ExpressionProblem("this is a bare expression", hint="leave out the {{ }}", width=2)
    try:
        parser = Parser(environment(), source, state="variable")
        parsed = parser.parse_expression()
        if not parser.stream.eos:
            raise _goes_on(source, str(parser.stream.current.value))
        _check_callables(parsed, source)
        return _tree(parsed)
    except TemplateSyntaxError as error:
        message = str(error.message).replace("unexpected 'end of template'", "it ends too early")
        raise ExpressionProblem(f"this expression cannot be read: {message}") from None
    except RecursionError:
        raise ExpressionProblem("the expression is nested too deeply") from None
    except (ValueError, OverflowError):
        raise ExpressionProblem("a number with too many digits") from None


def _goes_on(source: str, extra: str) -> ExpressionProblem:
    message = f"the expression goes on after its end: `{extra}`"
    return ExpressionProblem(message, max(source.find(extra), 0), width=len(extra))


def _refuse_excess(source: str) -> None:
    if len(source) > MAX_SOURCE:
        raise ExpressionProblem(f"an expression of {len(source)} characters; at most {MAX_SOURCE} are read")
    depth = 0
    for match in re.finditer(r"[(\[{]|[)\]}]", source):
        depth += 1 if match.group() in "([{" else -1
        if depth > MAX_DEPTH:
            raise ExpressionProblem(f"brackets nested more than {MAX_DEPTH} deep", match.start())


def _check_callables(parsed: nodes.Node, source: str) -> None:
    env = environment()
    for kind, known, word in ((nodes.Filter, env.filters, "filter"), (nodes.Test, env.tests, "test")):
        for found in (parsed, *parsed.find_all(kind)):
            if isinstance(found, kind) and found.name not in known:
                hint = did_you_mean(found.name, known)
                place = max(source.find(found.name), 0)
                raise ExpressionProblem(f"there is no {word} `{found.name}`", place, hint, len(found.name))


def names_in(node: Any) -> tuple[Chain, ...]:
    """The dotted names that a tree reads, in order."""
    return tuple(_names(node))


def _names(node: Any) -> Iterator[Chain]:
    if isinstance(node, dict):
        node = tuple(node.values())
    if not isinstance(node, tuple):
        return
    chain = chain_of(node) if node and isinstance(node[0], str) else ()
    if chain:
        yield chain
        return
    for part in node:
        yield from _names(part)


def _tree(node: Any) -> Node:
    maker = _MAKERS.get(type(node))
    if maker is None:
        raise ExpressionProblem(f"`{type(node).__name__.lower()}` is not part of the expression language")
    return maker(node)


def _maybe(node: Any) -> Node | None:
    return None if node is None else _tree(node)


def _trees(items: Any) -> tuple[Node, ...]:
    return tuple(_tree(item) for item in items)


def _item(node: nodes.Getitem) -> Node:
    if isinstance(node.arg, nodes.Slice):
        return ("slice", _tree(node.node), _maybe(node.arg.start), _maybe(node.arg.stop), _maybe(node.arg.step))
    return ("item", _tree(node.node), _tree(node.arg))


def _call(node: nodes.Call) -> Node:
    if not isinstance(node.node, nodes.Getattr):
        raise ExpressionProblem("only methods of a value can be called")
    return ("call", _tree(node.node.node), node.node.attr, *_given(node))


def _given(node: Any) -> tuple[Any, Any]:
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        raise ExpressionProblem("`*` and `**` are not part of the expression language")
    return _trees(node.args), {pair.key: _tree(pair.value) for pair in node.kwargs}


def _binary(node: Any) -> Node:
    return ("binary", node.operator, _tree(node.left), _tree(node.right))


_MAKERS: dict[type[nodes.Node], Callable[[Any], Node]] = {
    nodes.Const: lambda node: ("constant", node.value),
    nodes.Name: lambda node: ("name", node.name),
    nodes.Getattr: lambda node: ("attribute", _tree(node.node), node.attr),
    nodes.Getitem: _item,
    nodes.Call: _call,
    nodes.Filter: lambda node: ("filter", node.name, _tree(node.node), *_given(node)),
    nodes.Test: lambda node: ("test", node.name, _tree(node.node), *_given(node)),
    nodes.Compare: lambda node: ("compare", _tree(node.expr), tuple((op.op, _tree(op.expr)) for op in node.ops)),
    nodes.And: lambda node: ("and", _tree(node.left), _tree(node.right)),
    nodes.Or: lambda node: ("or", _tree(node.left), _tree(node.right)),
    nodes.Not: lambda node: ("not", _tree(node.node)),
    nodes.CondExpr: lambda node: ("choice", _tree(node.test), _tree(node.expr1), _maybe(node.expr2)),
    nodes.List: lambda node: ("list", _trees(node.items)),
    nodes.Tuple: lambda node: ("list", _trees(node.items)),
    nodes.Dict: lambda node: ("mapping", tuple((_tree(pair.key), _tree(pair.value)) for pair in node.items)),
    nodes.Concat: lambda node: ("concat", _trees(node.nodes)),
    nodes.Neg: lambda node: ("negative", _tree(node.node)),
    nodes.Pos: lambda node: ("positive", _tree(node.node)),
    **dict.fromkeys((nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow), _binary),
}
