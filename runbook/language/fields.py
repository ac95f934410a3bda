"""The fields of a runbook, parsed one by one: expressions, templates, SQL, requests, commands. Problems are collected."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from runbook.language.document import Document, Where, read_text
from runbook.language.expressions import Expression, ExpressionProblem, parse_expression
from runbook.language.kinds import Used, met, part_of
from runbook.language.model import Command, Extension, File, Probe, Request, Sql
from runbook.language.names import PROBE_NAMES, Shape, check_names, shape_at
from runbook.language.problems import InvalidRunbook, Problem, did_you_mean
from runbook.language.source import Disk, Files
from runbook.language.sqltext import query_columns
from runbook.language.templates import SqlTemplate, Template, parse_shell, parse_sql, parse_template
from runbook.language.values import as_text

METHODS = ("get", "post", "put", "patch", "delete", "head")
_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
LONGEST = 1000 * 86400.0
_FALLBACK = Template("", ())


def seconds(text: str) -> float:
    """A duration such as `1h30m` in seconds."""
    return sum(float(amount) * _UNIT[unit] for amount, unit in re.findall(r"([0-9.]+)(ms|s|m|h|d)", text))


class Fields:
    """Parses the fields of one document; what is wrong goes to `problems`, and a harmless stand-in is returned."""

    def __init__(self, document: Document, folder: Path, named: Mapping[str, Any], source: Files | None = None) -> None:
        self.document, self.folder = document, folder
        self.source: Files = source or Disk()
        self.data: Mapping[str, Any] = document.data
        self._named = named
        self._shapes: dict[str, Shape] = {}
        self.problems: list[Problem] = []
        self.files: dict[str, str] = {}
        self.others = met(self.data)
        states = self.data.get("state") or {}
        self.metrics = {name: self._columns(states.get(name, {})) for name in named.get("state") or {}}
        self.whole = {**shape_at("notify", named, self.metrics), "result": None}

    def wrong(self, where: Where, message: str, hint: str = "", at: Literal["key", "value"] = "value") -> None:
        self.problems.append(self.document.problem(where, message, hint, at=at))

    def named(self, section: str) -> Mapping[str, Any]:
        """The entries of a section, also those that were left out for their shape."""
        return self._named.get(section) or {}

    def names(self, stage: str, *extra: str, secrets: bool = False) -> Shape:
        """The names known at `stage`, the `extra` ones too; secrets only where they may stand."""
        if stage not in self._shapes:
            self._shapes[stage] = shape_at(stage, self._named, self.metrics)
        shape = {**self._shapes[stage], **dict.fromkeys(extra)}
        if not secrets:
            shape.pop("secrets", None)
        return shape

    def _columns(self, state: Mapping[str, Any]) -> list[str] | None:
        sql = state.get("sql")
        return query_columns(sql) if isinstance(sql, str) and "select" not in state else None

    def duration(self, where: Where, item: Mapping[str, Any], key: str) -> float | None:
        """The time at `key` in seconds, or None where there is none."""
        if key not in item:
            return None
        found = seconds(item[key])
        if not 0.001 <= found <= LONGEST:
            self.wrong((*where, key), "a time is at least 1ms and at most 1000d", "90s, 5m, 2h")
            return 1.0
        return found

    # --- expressions and text ---------------------------------------------------------------------------------

    def expression(self, where: Where, value: Any, shape: Shape, stage: str = "") -> Expression:
        """The bare expression at `where`."""
        source = as_text(value)
        try:
            expression = parse_expression(source)
        except ExpressionProblem as error:
            self._point(where, error)
            return parse_expression("true")
        for problem in check_names(expression, shape, stage, self.whole):
            self._point(where, problem)
        return expression

    def optional(self, where: Where, item: Mapping[str, Any], key: str, shape: Shape) -> Expression | None:
        return self.expression((*where, key), item[key], shape) if key in item else None

    def conditions(self, where: Where, item: Mapping[str, Any], shape: Shape) -> tuple[Expression, ...]:
        """`expect`, one expression or a list."""
        value = item.get("expect")
        if isinstance(value, list):
            return tuple(self.expression((*where, "expect", i), entry, shape) for i, entry in enumerate(value))
        return () if value is None else (self.expression((*where, "expect"), value, shape),)

    def template(self, where: Where, value: Any, shape: Shape) -> Template:
        """The text with holes at `where`."""
        try:
            template = parse_template(as_text(value))
        except ExpressionProblem as problem:
            self._point(where, problem)
            return _FALLBACK
        self._check_holes(where, template, shape)
        return template

    def message(self, where: Where, item: Mapping[str, Any], shape: Shape) -> Template | None:
        return self.template((*where, "message"), item["message"], shape) if "message" in item else None

    def _check_holes(self, where: Where, template: Template, shape: Shape) -> None:
        for hole in template.holes:
            inner = template.source[hole.start + 2 : hole.end - 2]
            indent = hole.start + 2 + len(inner) - len(inner.lstrip())
            for problem in check_names(hole.expression, shape, "", self.whole):
                problem.offset += indent
                self._point(where, problem)

    def _point(self, where: Where, problem: ExpressionProblem) -> None:
        self.problems.append(
            self.document.problem(where, problem.message, problem.hint, offset=problem.offset, width=problem.width)
        )

    # --- SQL --------------------------------------------------------------------------------------------------

    def sql(self, where: Where, item: Mapping[str, Any], shape: Shape, *, single: bool = True, key: str = "sql") -> Sql:
        """The SQL at `where`, in place or in a file."""
        place: Where = (*where, key)
        document, text, file = self.document, item[key], None
        if isinstance(text, dict):
            file = self.folder / text["file"]
            read = self.read(file, (*place, "file"))
            document, place, text = (read, (), read.text) if read else (document, place, "SELECT 1")
        template = self._sql_template(document, place, text, shape, single)
        connection = self.postgres(where, item)
        return Sql(template, connection, item.get("returns", "rows"), place or (*where, key), file)

    def _sql_template(self, document: Document, place: Where, text: str, shape: Shape, single: bool) -> SqlTemplate:
        found: list[ExpressionProblem] = []
        try:
            sql = parse_sql(text, single=single)
        except ExpressionProblem as error:
            found.append(error)
            sql = parse_sql("SELECT 1")
        for hole in sql.template.holes:
            inner = sql.template.source[hole.start + 2 : hole.end - 2]
            for problem in check_names(hole.expression, shape, "", self.whole):
                problem.offset += hole.start + 2 + len(inner) - len(inner.lstrip())
                found.append(problem)
        for problem in found:
            self.problems.append(
                document.problem(place, problem.message, problem.hint, offset=problem.offset, width=problem.width)
            )
        return sql

    def read(self, file: Path, where: Where) -> Document | None:
        """A text file that the runbook names, remembered by its hash; a file that cannot be read is a problem at `where`."""
        try:
            document = read_text(file, str(file), self.source)
        except InvalidRunbook as error:
            self.wrong(
                where, f"cannot be read: {error.problems[0].message}", "paths are relative to the runbook's folder"
            )
            return None
        self.files[str(file)] = document.sha256
        return document

    def postgres(self, where: Where, item: Mapping[str, Any]) -> str:
        """The postgres connection that an entry uses: the one it names, or the only one."""
        known = self.connections("postgres")
        named = item.get("connection")
        if named is not None:
            if named not in known:
                self.wrong(
                    (*where, "connection"), f"`{named}` is not a postgres connection", did_you_mean(named, known)
                )
            return str(named)
        if len(known) == 1:
            return known[0]
        if not known:
            hint = "declare it: connections: {db: {type: postgres, env: DATABASE_URL}}"
            self.wrong((*where, "sql"), "sql needs a postgres connection, and none is declared", hint, at="key")
        else:
            self.wrong((*where, "sql"), "several postgres connections: say which", f"connection: {known[0]}", at="key")
        return ""

    def connections(self, kind: str) -> list[str]:
        declared = self.data.get("connections") or {}
        return [name for name, item in declared.items() if item["type"] == kind]

    # --- HTTP -------------------------------------------------------------------------------------------------

    def request(self, where: Where, item: Mapping[str, Any], stage: str) -> Request:
        """The HTTP request at `where`."""
        methods = [method for method in METHODS if method in item]
        if len(methods) != 1:
            message = " and ".join(f"`{method}`" for method in methods) + " exclude each other"
            self.wrong(where, message if methods else f"one of {', '.join(METHODS)} is needed", "get: /path", at="key")
            return Request("get", _FALLBACK, "", (), (), None, None)
        url = self.template((*where, methods[0]), item[methods[0]], self.names(stage))
        shape = self.names(stage, secrets=True)
        if "json" in item and "body" in item:
            self.wrong((*where, "body"), "json and body exclude each other", at="key")
        headers = item.get("headers") or {}
        auth = item.get("auth") or {}
        if auth and ("bearer" in auth) == bool({"username", "password"} & set(auth)):
            self.wrong((*where, "auth"), "give bearer, or username and password", at="key")
        return Request(
            methods[0],
            url,
            self._http_connection(where, item, url),
            tuple((name, self.template((*where, "headers", name), text, shape)) for name, text in headers.items()),
            tuple((name, self.expression((*where, "auth", name), text, shape)) for name, text in auth.items()),
            self._json((*where, "json"), item["json"], shape) if "json" in item else None,
            self.template((*where, "body"), item["body"], shape) if "body" in item else None,
        )

    def _http_connection(self, where: Where, item: Mapping[str, Any], url: Template) -> str:
        known = self.connections("http")
        named = item.get("connection")
        if named is not None:
            if named not in known:
                self.wrong((*where, "connection"), f"`{named}` is not an http connection", did_you_mean(named, known))
            return str(named)
        if re.match(r"https?://", url.source):
            return ""
        if len(known) == 1:
            return known[0]
        self.wrong(
            where, "say which http connection", "connection: name, or a full URL beginning with http://", at="key"
        )
        return ""

    def _json(self, where: Where, value: Any, shape: Shape) -> Any:
        if isinstance(value, str):
            return self.template(where, value, shape)
        if isinstance(value, dict):
            return {key: self._json((*where, key), item, shape) for key, item in value.items()}
        if isinstance(value, list):
            return [self._json((*where, index), item, shape) for index, item in enumerate(value)]
        return value

    # --- commands and files -----------------------------------------------------------------------------------

    def command(self, where: Where, item: Mapping[str, Any], stage: str) -> Command:
        """The command or the shell script of an entry, with its environment."""
        shape, private = self.names(stage), self.names(stage, secrets=True)
        argv = tuple(
            self.template((*where, "command", index), self._spelled((*where, "command", index), value), shape)
            for index, value in enumerate(item.get("command") or [])
        )
        shell = None
        if "shell" in item:
            try:
                shell = parse_shell(item["shell"])
                self._check_holes((*where, "shell"), shell.template, shape)
            except ExpressionProblem as problem:
                self._point((*where, "shell"), problem)
        env = item.get("env") or {}
        return Command(
            argv,
            shell,
            tuple(
                (name, self.template((*where, "env", name), self._spelled((*where, "env", name), value), private))
                for name, value in env.items()
            ),
            self.template((*where, "cwd"), item["cwd"], shape) if "cwd" in item else None,
            self.template((*where, "stdin"), item["stdin"], private) if "stdin" in item else None,
        )

    def _spelled(self, where: Where, value: Any) -> Any:
        """A number as it is written, so that a version such as 1.10 keeps its last digit."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        line, column, width = self.document.value_span(where)
        return self.document.text.splitlines()[line - 1][column - 1 : column - 1 + width]

    def kinds(self, where: Where, item: Mapping[str, Any], allowed: tuple[str, ...], *, needed: bool) -> str:
        """The one kind of probe or action that an entry has, or empty; keys that do not fit the kind are problems."""
        given = [kind for kind in allowed if kind in item]
        if len(given) > 1:
            self.wrong(
                (*where, given[1]), f"`{given[0]}` and `{given[1]}` exclude each other", "make it two entries", at="key"
            )
        if needed and not given:
            self.wrong(where, f"one of {', '.join(f'`{kind}`' for kind in allowed)} is needed", at="key")
        kind = given[0] if given else ""
        for key, kinds in (
            ("env", ("command", "shell")),
            ("cwd", ("command", "shell")),
            ("stdin", ("command", "shell")),
            ("returns", ("sql",)),
            ("connection", ("sql",)),
            ("select", ("sql", "http", "command", "file", *self.others["probes"])),
        ):
            if key in item and kind not in kinds:
                self.wrong((*where, key), f"`{key}` has no meaning without {' or '.join(kinds)}", at="key")
        return kind

    def probe(self, where: Where, item: Mapping[str, Any], kind: str, stage: str) -> Probe:
        """The probe of an entry."""
        if kind in self.others["probes"]:
            return self.extension((*where, kind), item[kind], self.others["probes"][kind], stage)
        if kind == "sql":
            return self.sql(where, item, self.names(stage, secrets=True))
        if kind == "http":
            return self.request((*where, "http"), item["http"], stage)
        if kind == "command":
            return self.command(where, item, stage)
        return File(self.template((*where, "file"), item.get("file", ""), self.names(stage)))

    def select(self, where: Where, item: Mapping[str, Any], kind: str, stage: str) -> Expression | None:
        """`select` of an entry, or of its http mapping."""
        shape = self.names(stage, "result", *PROBE_NAMES.get(kind, ()))
        if kind == "http" and "select" in item["http"]:
            return self.expression((*where, "http", "select"), item["http"]["select"], shape)
        return self.optional(where, item, "select", shape)

    # --- kinds of other packages ------------------------------------------------------------------------------

    def extension(self, where: Where, item: Any, used: Used, stage: str) -> Extension:
        """What stands under the key of another package's kind, its texts parsed."""
        return Extension(used.kind, self._given(where, item, used.schema, self.names(stage, secrets=True)))

    def _given(self, where: Where, value: Any, schema: Any, shape: Shape) -> Any:
        known = schema if isinstance(schema, Mapping) else {}
        if known.get("x-runbook") == "expression":
            return self.expression(where, value, shape)
        if isinstance(value, str):
            return self.template(where, value, shape)
        if isinstance(value, dict):
            return {key: self._given((*where, key), item, part_of(known, key), shape) for key, item in value.items()}
        if isinstance(value, list):
            return [self._given((*where, i), item, part_of(known, i), shape) for i, item in enumerate(value)]
        return value
