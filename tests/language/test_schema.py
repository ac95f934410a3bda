"""Shape: what the schema says of a document, and of the value of a param."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from runbook.language.document import parse_document
from runbook.language.schema import param_errors, runbook_schema, shape_problems

HEAD = "runbook: 1\nname: x\n"

SHAPES = {
    "": [],
    "zone: 1\n": [(3, 1, "zone", "unknown key")],
    "titel: a\n": [(3, 1, "titel", "unknown key")],
    "title: 5\n": [(3, 8, "title", "must be text, and is a whole number")],
    "title: 5.5\n": [(3, 8, "title", "must be text, and is a number")],
    "title:\n": [(3, 1, "title", "must be text, and is empty")],
    "title: true\n": [(3, 8, "title", "must be text, and is true")],
    "params: []\n": [(3, 9, "params", "must be a mapping, and is a list")],
    "params: {A: {}}\n": [(3, 10, "params.A", "`A` cannot be a name here")],
    "lock: ''\n": [(3, 7, "lock", "must not be empty")],
    "timeout: 5\n": [(3, 10, "timeout", "must be text, and is a whole number")],
    "timeout: 5 m\n": [(3, 10, "timeout", '"5 m" cannot stand here')],
    "connections: {db: {type: mysql}}\n": [(3, 26, "connections.db.type", '"mysql" is not one of "postgres", "http"')],
    "remedies: {r: {sql: x}}\n": [(3, 12, "remedies.r", "`max_rows` is missing")],
    "steps: {a: {shell: x, retry: {attempts: 0}}}\n": [(3, 41, "steps.a.retry.attempts", "0 is too small: at least 1")],
    "steps: {a: {shel: x, expct: y}}\n": [
        (3, 13, "steps.a.shel", "unknown key"),
        (3, 22, "steps.a.expct", "unknown key"),
    ],
}


@pytest.mark.parametrize("text", SHAPES)
def test_shape(text: str) -> None:
    found = [problem for _, problem in shape_problems(parse_document(HEAD + text, "x.yaml"))]
    assert [(p.line, p.column, p.where, p.message) for p in found] == SHAPES[text]


HINTS = {
    "titel: a\n": "did you mean `title`?",
    "title: 5\n": "put quotes around it",
    "steps: {a: {command: echo}}\n": "write a list: [one, two]",
    "timeout: 5 m\n": "a time is written 90s, 5m, 2h or 1h30m",
    "preflight: {a: {severity: warning}}\n": "did you mean `warn`?",
    "remedies: {r: {sql: x}}\n": "More rows than this are never touched.",
}


@pytest.mark.parametrize("text", HINTS)
def test_hint(text: str) -> None:
    (problem,) = [problem for _, problem in shape_problems(parse_document(HEAD + text, "x.yaml"))]
    assert problem.hint == HINTS[text]


PARAMS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "fits": ({"type": "integer"}, 5, ""),
    "one of two types": ({"type": ["integer", "null"]}, None, ""),
    "exact number": ({"type": "number", "minimum": 0.5}, Decimal("0.5"), ""),
    "type": ({"type": "integer"}, "5", '"5" is text, not a whole number'),
    "choice": ({"enum": ["a", "b"]}, "c", '"c" is not one of "a", "b"'),
    "pattern": ({"pattern": "^a$"}, "b", '"b" does not match ^a$'),
    "date": ({"format": "date"}, "2025-02-30", '"2025-02-30" is not a date'),
    "minimum": ({"minimum": 1}, 0, "0 is less than the minimum 1"),
}


@pytest.mark.parametrize("case", PARAMS)
def test_param(case: str) -> None:
    schema, value, message = PARAMS[case]
    assert param_errors({"p": schema}, {"p": value}) == ({"p": message} if message else {})


def descriptions(schema: Any, where: str = "") -> list[str]:
    """The places of properties that say nothing of themselves."""
    if not isinstance(schema, dict):
        return []
    found = []
    for name, item in schema.get("properties", {}).items():
        if not item.get("description"):
            found.append(f"{where}.{name}")
        found += descriptions(item, f"{where}.{name}")
    return found


def test_every_key_is_described() -> None:
    schema = runbook_schema()
    parts = {"": schema, **schema["$defs"]}
    assert [place for name, part in parts.items() for place in descriptions(part, name)] == []
