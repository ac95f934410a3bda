"""Text with `{{ }}` in it: every value stands as data at its place, never as syntax."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple
from urllib.parse import quote

from runbook.language.expressions import EvaluationError, Expression, ExpressionProblem, Scope, parse_expression
from runbook.language.values import Identifier, as_text

MAX_TEMPLATE = 1024 * 1024
_STATEMENT = re.compile(
    r"\{%-?\s*(if|elif|else|endif|for|endfor|set|macro|include|import|extends|block|raw|with|call|filter)\b"
)


class Hole(NamedTuple):
    """One `{{ }}`: its expression, and where it starts and ends in the source."""

    expression: Expression
    start: int
    end: int


class Template(NamedTuple):
    """Text whose holes are filled when it is rendered."""

    source: str
    holes: tuple[Hole, ...]

    def render(self, scope: Scope, fill: Callable[[Any, Hole], str] | None = None) -> str:
        """The text over `scope`, each value turned to text by `fill`. Raises EvaluationError."""
        if not self.holes:
            return self.source
        parts, position = [], 0
        for hole in self.holes:
            value = hole.expression.evaluate(scope)
            parts += [self.source[position : hole.start], as_text(value) if fill is None else fill(value, hole)]
            position = hole.end
        return "".join(parts) + self.source[position:]

    def value(self, scope: Scope) -> Any:
        """The value itself where the template is one hole and nothing else, else the text."""
        if len(self.holes) == 1 and not (self.source[: self.holes[0].start] + self.source[self.holes[0].end :]).strip():
            return self.holes[0].expression.evaluate(scope)
        return self.render(scope)


def parse_template(source: str) -> Template:
    """The template in `source`; raises ExpressionProblem with the offset of what is wrong."""
    if len(source) > MAX_TEMPLATE:
        raise ExpressionProblem(f"a text of {len(source)} characters; at most {MAX_TEMPLATE} are read")
    if "{{" not in source:
        _refuse_statements(source)
        return Template(source, ())
    holes = []
    for start, end in _hole_spans(source):
        inner = source[start + 2 : end - 2]
        try:
            holes.append(Hole(parse_expression(inner.strip()), start, end))
        except ExpressionProblem as problem:
            indent = len(inner) - len(inner.lstrip())
            problem.offset += start + 2 + indent
            raise
    _refuse_statements(source)
    return Template(source, tuple(holes))


def _refuse_statements(source: str) -> None:
    match = _STATEMENT.search(source)
    if match:
        hint = "only {{ }} means anything here: write {{ a if condition else b }}"
        raise ExpressionProblem(
            f"`{match.group()}` is not part of the language", match.start(), hint, len(match.group())
        )


def _hole_spans(source: str) -> list[tuple[int, int]]:
    from jinja2 import TemplateSyntaxError

    from runbook.language.sandbox import environment

    spans: list[tuple[int, int]] = []
    position, start, open_ = 0, 0, False
    try:
        for _, token, text in environment().lexer.tokeniter(source, None):
            if token == "variable_begin":
                start = position
            if token in ("variable_begin", "variable_end") and text.strip() not in ("{{", "}}"):
                place = position + len(text) - len(text.lstrip())
                raise ExpressionProblem(f"`{text.strip()}` is not used here", place, "write {{ and }}", 3)
            position += len(text)
            open_ = token == "variable_begin" or (open_ and token != "variable_end")
            if token == "variable_end":
                spans.append((start, position))
    except TemplateSyntaxError as error:
        raise ExpressionProblem(f"this {{{{ }}}} cannot be read: {error.message}", start, width=2) from None
    if open_ or position != len(source):
        raise ExpressionProblem("a {{ is never closed", start, "close it with }}", 2)
    return spans


# --- commands, URLs, messages -------------------------------------------------------------------------------------


def _needed(value: Any, hole: Hole) -> Any:
    if value is None:
        raise EvaluationError(f"`{hole.expression.source}` is null: nothing can stand in its place")
    if "\x00" in (text := as_text(value)):
        raise EvaluationError(f"`{hole.expression.source}` has a NUL character")
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise EvaluationError(f"`{hole.expression.source}` has half a character (a lone surrogate)")
    return text


def render_text(template: Template, scope: Scope) -> str:
    """Text in which a null is an error: a path, an environment value, a request body."""
    return template.render(scope, _needed)


def render_url(template: Template, scope: Scope) -> str:
    """A URL in which each value is percent-encoded whole, so that it stays within its place."""

    def fill(value: Any, hole: Hole) -> str:
        text: str = quote(_needed(value, hole), safe="")
        if text in (".", ".."):
            raise EvaluationError(
                f"`{hole.expression.source}` is {text!r}, which would lead to another place of the URL"
            )
        return text

    return template.render(scope, fill)


def render_path(template: Template, scope: Scope, *, strict: bool = False) -> str:
    """A path in which a value is one component; a template that is one value and nothing else may be a whole path,
    unless `strict`."""

    def fill(value: Any, hole: Hole) -> str:
        text: str = _needed(value, hole)
        if not text or text in (".", "..") or "/" in text or text.startswith("-"):
            raise EvaluationError(
                f"`{hole.expression.source}` is {text!r}: one component of a path is wanted, without `/`"
            )
        return text

    whole = len(template.holes) == 1 and not (
        template.source[: template.holes[0].start] + template.source[template.holes[0].end :]
    )
    return render_text(template, scope) if whole and not strict else template.render(scope, fill)


def render_argument(template: Template, scope: Scope) -> list[str]:
    """One item of a command: exactly one argument, or as many as the list has that its only hole gives."""
    value = template.value(scope)
    if isinstance(value, list | tuple) and template.holes:
        return [_needed(item, template.holes[0]) for item in value]
    return [render_text(template, scope)]


# --- shell --------------------------------------------------------------------------------------------------------


_CASE = re.compile(r"(\$\(|`)[^)`]*\bcase\b")


class ShellTemplate(NamedTuple):
    """A script; `quoted` says for each hole whether it stands between double quotes."""

    template: Template
    quoted: tuple[bool, ...]


_NO_PLACE = {
    "single": ("between single quotes a value would be plain text", "leave the quotes out: {{ }} is one quoted word"),
    "comment": ("a value in a comment has no effect", "leave it out"),
    "escaped": ("a value cannot stand behind a backslash", "leave the backslash out"),
    "heredoc": ("a value has no safe place in a here-document", "use printf '%s\\n' {{ }}"),
    "arithmetic": ("a value in arithmetic would be run as code", "compute it in the {{ }} instead"),
}


def parse_shell(source: str) -> ShellTemplate:
    """A script whose holes all stand where a word can stand; raises ExpressionProblem."""
    from runbook.language.shelltext import quotings

    template = parse_template(source)
    masked = _masked(template, "_")
    if template.holes and _CASE.search(masked):
        hint = "put the value into a variable first: name={{ }}"
        raise ExpressionProblem("a value in a script that has a `case` inside $( )", template.holes[0].start, hint, 2)
    found = quotings(masked, [hole.start for hole in template.holes])
    for hole, quoting in zip(template.holes, found, strict=True):
        if quoting in _NO_PLACE:
            message, hint = _NO_PLACE[quoting]
            raise ExpressionProblem(message, hole.start, hint, hole.end - hole.start)
    return ShellTemplate(template, tuple(quoting == "double" for quoting in found))


def render_shell(shell: ShellTemplate, scope: Scope) -> str:
    """The script: values are assigned first and then referred to, so that no value is ever parsed."""
    assignments: list[str] = []

    def fill(value: Any, hole: Hole) -> str:
        assignments.append(f"_rb{len(assignments)}={shlex.quote(_needed(value, hole))}")
        name = f"${{_rb{len(assignments) - 1}}}"
        return name if shell.quoted[len(assignments) - 1] else f'"{name}"'

    text = shell.template.render(scope, fill)
    return f"{'; '.join(assignments)}\n{text}" if assignments else text


def _masked(template: Template, mark: str) -> str:
    parts, position = [], 0
    for hole in template.holes:
        parts += [template.source[position : hole.start], mark * (hole.end - hole.start)]
        position = hole.end
    return "".join(parts) + template.source[position:]


# --- SQL ----------------------------------------------------------------------------------------------------------


class SqlTemplate(NamedTuple):
    """SQL whose holes are bound parameters; `spans` are its statements."""

    template: Template
    spans: tuple[tuple[int, int], ...]


class BoundSql(NamedTuple):
    """One statement as the server gets it, with `$1`, `$2`… and the values that they stand for.

    `origins` maps positions back: pairs of an offset in `query` and the offset in the template that it came from.
    """

    query: str
    values: tuple[Any, ...]
    origins: tuple[tuple[int, int], ...]

    def origin(self, offset: int) -> int:
        """The offset in the template of the character at `offset` in the query, both from 0."""
        start, source = max((pair for pair in self.origins if pair[0] <= offset), default=(0, 0))
        return source + offset - start


_HOLE = "\x02"


def parse_sql(source: str, *, single: bool = True) -> SqlTemplate:
    """SQL whose holes are all values or identifiers; with `single`, exactly one statement. Raises ExpressionProblem."""
    from runbook.language.sqltext import statements

    try:
        template = parse_template(source)
    except ExpressionProblem as problem:
        if problem.message.startswith("this {{ }}"):
            problem.hint = "in SQL {{ starts a value; a nested array is written ARRAY[[1, 2], [3, 4]]"
        raise
    masked = _masked(template, _HOLE)
    _check_places(masked, template)
    spans = tuple(statements(masked))
    if not spans:
        raise ExpressionProblem("there is no SQL statement here")
    if single and len(spans) > 1:
        raise ExpressionProblem(
            "only one statement can stand here", spans[1][0], "make it two entries", spans[1][1] - spans[1][0]
        )
    return SqlTemplate(template, spans)


def _check_places(masked: str, template: Template) -> None:
    from runbook.language.sqltext import tokens

    for hole, following in pairwise(template.holes):
        if hole.end == following.start:
            raise _misplaced("word", following.start, template)
    before = ""
    for token in tokens(masked) if template.holes else ():
        if token.kind == "argument":
            raise ExpressionProblem(f"`{token.text}` is not used here", token.start, "write {{ }}", len(token.text))
        filled = _HOLE in token.text
        joined = (filled and before in _WORDLIKE) or (before == "hole" and token.kind in _WORDLIKE)
        if (filled and token.kind != "sign") or joined:
            place = token.start + token.text.index(_HOLE) if filled else token.start - 1
            raise _misplaced("word" if joined else token.kind, place, template)
        before = "hole" if filled else token.kind


_WORDLIKE = ("word", "number", "quoted", "string")


def _misplaced(kind: str, offset: int, template: Template) -> ExpressionProblem:
    hole = next(hole for hole in template.holes if hole.start <= offset < hole.end)
    inner = hole.expression.source
    message, hint = {
        "string": (
            "a value cannot stand inside a string literal",
            f"leave the quotes out: {{{{ {inner} }}}}; for an interval make_interval(hours => {{{{ {inner} }}}}), "
            "to join text || ",
        ),
        "quoted": ("a value cannot stand inside a quoted name", f"write {{{{ {inner} | identifier }}}} without quotes"),
        "dollar": (
            "a value cannot stand inside a dollar-quoted string",
            "pass it as an argument, or build the text with format()",
        ),
        "comment": ("a value cannot stand in a comment", "leave it out of the comment"),
    }.get(kind, ("a value cannot be part of a word", "put a space around it"))
    return ExpressionProblem(message, hole.start, hint, hole.end - hole.start)


def render_sql(sql: SqlTemplate, scope: Scope, index: int = 0, fill: Callable[[Hole], Any] | None = None) -> BoundSql:
    """Statement `index` over `scope`, its values apart from its text; `fill` may say what a hole's value is.

    Raises EvaluationError.
    """
    start, end = sql.spans[index]
    source, position = sql.template.source, start
    parts: list[str] = []
    values: list[Any] = []
    origins, length = [(0, start)], 0
    for hole in (hole for hole in sql.template.holes if start <= hole.start < end):
        value = hole.expression.evaluate(scope) if fill is None else fill(hole)
        if isinstance(value, Identifier):
            text = value.quoted()
        else:
            values.append(value)
            text = f"${len(values)}"
        parts += [source[position : hole.start], text]
        length += hole.start - position + len(text)
        position = hole.end
        origins += [(length - len(text), hole.start), (length, hole.end)]
    return BoundSql("".join(parts) + source[position:end], tuple(values), tuple(origins))
