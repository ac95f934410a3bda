"""Shape: the JSON Schema is its only truth; here its errors become problems with positions, and params are judged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runbook.language.document import Document, Where, dotted
from runbook.language.kinds import known_properties, look, merged, unfilled
from runbook.language.problems import Problem, did_you_mean
from runbook.language.values import as_text, brief

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator, FormatChecker


class Misfit(NamedTuple):
    """One place where data does not fit a schema, as jsonschema tells it."""

    kind: str
    value: Any
    wanted: Any
    schema: Mapping[str, Any]
    where: Where
    of_name: bool
    text: str


SCHEMAS = Path(__file__).resolve().parent.parent / "schemas"


RUNBOOK, CASES = "runbook.schema.json", "cases.schema.json"


@lru_cache(maxsize=2)
def schema_in(file: str) -> dict[str, Any]:
    """A file of `schemas/` as data."""
    schema: dict[str, Any] = json.loads((SCHEMAS / file).read_text(encoding="utf-8"))
    return schema


def runbook_schema() -> dict[str, Any]:
    """`schemas/runbook.schema.json` as data."""
    return schema_in(RUNBOOK)


@lru_cache(maxsize=2)
def _validator_in(file: str) -> Draft202012Validator:
    return _validator(schema_in(file))


def _validator(schema: Mapping[str, Any]) -> Draft202012Validator:
    from jsonschema import Draft202012Validator
    from referencing import Registry

    return Draft202012Validator(_anchored(schema), format_checker=_formats(), registry=Registry())


def _anchored(schema: Any) -> Any:
    """The schema with `$` in its patterns at the very end of the text, as JSON Schema means it, not before a last newline."""
    if isinstance(schema, Mapping):
        pattern = schema.get("pattern")
        found = {key: _anchored(value) for key, value in schema.items()}
        if isinstance(pattern, str) and pattern.endswith("$") and not pattern.endswith("\\$"):
            found["pattern"] = f"{pattern[:-1]}\\Z"
        return found
    return [_anchored(item) for item in schema] if isinstance(schema, list) else schema


@lru_cache(maxsize=1)
def _formats() -> FormatChecker:
    """The formats that a param may have; jsonschema's own need further packages for the last three."""
    from datetime import datetime, time
    from urllib.parse import urlsplit

    from jsonschema import FormatChecker

    checker = FormatChecker(("date", "email", "ipv4", "ipv6", "regex", "uuid"))
    checker.checkers = {
        **checker.checkers,
        "date-time": (lambda value: not isinstance(value, str) or bool(datetime.fromisoformat(value)), ValueError),
        "time": (lambda value: not isinstance(value, str) or time.fromisoformat(value) is not None, ValueError),
        "uri": (lambda value: not isinstance(value, str) or bool(urlsplit(value).scheme), ValueError),
    }
    return checker


def schema_trouble(schema: Any) -> str | None:
    """What is wrong with a param's own schema, in what it nests; references are refused, since nothing is fetched."""
    for node in _nested(schema):
        for key in ("$ref", "$dynamicRef", "$recursiveRef"):
            if key in node:
                return f"`{key}` is not followed in a schema"
        if isinstance(node.get("pattern"), str):
            try:
                re.compile(node["pattern"])
            except (re.error, RecursionError, OverflowError) as error:
                return f"not a regular expression: {error}"
    if not any(key in schema for key in ("items", "properties", "additionalProperties", "anyOf")):
        return None
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"not a JSON Schema: {error.message}"
    return None


def _nested(schema: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(schema, Mapping):
        yield schema
        for value in schema.values():
            yield from _nested(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _nested(item)


def shape_problems(document: Document, file: str = RUNBOOK) -> list[tuple[Where, Problem]]:
    """Every place where the document is not of the shape that a file of `schemas/` gives, with the path of what is at fault."""
    others = look(document.data) if file == RUNBOOK else None
    if others is None or not any(others.offered.values()):
        misfits = _misfits(_validator_in(file), document.data)
        return [found for misfit in misfits for found in _problems(document, misfit)]
    validator = _validator(merged(schema_in(file), known_properties(others)))
    misfits = (
        misfit
        for misfit in _misfits(validator, document.data)
        if misfit.of_name or not unfilled(others, misfit.where, misfit.kind, misfit.value)
    )
    refused = [(where, document.problem(where, because, at="key")) for where, because in others.refused.items()]
    return refused + [found for misfit in misfits for found in _problems(document, misfit)]


def value_trouble(schema: Mapping[str, Any], value: Any) -> str:
    """Why a value does not fit a schema, place by place, or nothing."""
    found = [(dotted(misfit.where), _param_message(misfit)) for misfit in _misfits(_validator(schema), _plainly(value))]
    return "; ".join(f"{where}: {message}" if where else message for where, message in found)


def _plainly(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plainly(item) for key, item in value.items()}
    return [_plainly(item) for item in value] if isinstance(value, list) else _plain(value)


def _misfits(validator: Draft202012Validator, data: Any) -> Iterator[Misfit]:
    for error in validator.iter_errors(data):
        schema = error.schema if isinstance(error.schema, Mapping) else {}
        of_name = "propertyNames" in error.absolute_schema_path
        yield Misfit(
            str(error.validator),
            error.instance,
            error.validator_value,
            schema,
            tuple(error.absolute_path),
            of_name,
            error.message,
        )


def param_errors(schemas: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any]) -> dict[str, str]:
    """For each param whose value its schema refuses, why."""
    found = {}
    for name, value in values.items():
        messages = [_param_message(misfit) for misfit in _misfits(_validator(schemas[name]), _plain(value))]
        if messages:
            found[name] = "; ".join(messages)
    return found


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def _param_message(misfit: Misfit) -> str:
    value, wanted = brief(misfit.value), misfit.wanted
    if misfit.kind == "type":
        return f"{value} is {_kind(misfit.value)}, not {_kinds(wanted)}"
    if misfit.kind == "enum":
        return f"{value} is not one of {', '.join(brief(item) for item in wanted)}"
    if misfit.kind == "pattern":
        return f"{value} does not match {wanted[:-2] + '$' if wanted.endswith(chr(92) + 'Z') else wanted}"
    if misfit.kind == "format":
        return f"{value} is not a {wanted}"
    bounds = {
        "minimum": "less than the minimum",
        "maximum": "greater than the maximum",
        "exclusiveMinimum": "not greater than",
        "exclusiveMaximum": "not less than",
        "multipleOf": "not a multiple of",
        "minLength": "shorter than",
        "maxLength": "longer than",
    }
    if misfit.kind in bounds:
        return f"{value} is {bounds[misfit.kind]} {wanted}"
    return misfit.text


def _problems(document: Document, misfit: Misfit) -> Iterator[tuple[Where, Problem]]:
    where = misfit.where
    if misfit.kind == "additionalProperties":
        known = misfit.schema.get("properties", {})
        for key in (key for key in misfit.value if key not in known):
            hint = did_you_mean(key, known) if known else ""
            yield (*where, key), document.problem((*where, key), "unknown key", hint, at="key")
    elif misfit.kind == "required":
        for key in (key for key in misfit.wanted if key not in misfit.value):
            description = misfit.schema.get("properties", {}).get(key, {}).get("description", "")
            yield where, document.problem(where, f"`{key}` is missing", description, at="key")
    elif misfit.of_name:
        name = (*where, misfit.value)
        yield name, document.problem(name, f"`{misfit.value}` cannot be a name here", _cure(misfit), at="key")
    else:
        yield where, document.problem(where, _message(misfit), _cure(misfit))


def _message(misfit: Misfit) -> str:
    value, wanted = misfit.value, misfit.wanted
    match misfit.kind:
        case "type":
            return f"must be {_kinds(wanted)}, and is {_kind(value)}"
        case "enum":
            return f"{brief(value)} is not one of {', '.join(brief(item) for item in wanted)}"
        case "const":
            return f"must be {brief(wanted)}, and is {brief(value)}"
        case "pattern":
            return f"{brief(value)} cannot stand here"
        case "minItems" | "minLength" | "minProperties":
            return "must not be empty"
        case "minimum" | "exclusiveMinimum":
            return f"{brief(value)} is too small: at least {wanted}"
        case "maximum":
            return f"{brief(value)} is too large: at most {wanted}"
        case "maxLength":
            return f"is too long: at most {wanted} characters"
    return misfit.text


def _cure(misfit: Misfit) -> str:
    if misfit.kind == "pattern":
        return str(misfit.schema.get("patternErrorMessage", ""))
    if misfit.kind == "enum" and isinstance(misfit.value, str):
        return did_you_mean(misfit.value, [item for item in misfit.wanted if isinstance(item, str)])
    pattern = misfit.schema.get("pattern")
    if misfit.kind == "type" and pattern and not re.search(pattern, as_text(misfit.value)):
        return str(misfit.schema.get("patternErrorMessage", ""))
    if misfit.kind == "type":
        wanted = misfit.wanted if isinstance(misfit.wanted, list) else [misfit.wanted]
        if "string" in wanted and isinstance(misfit.value, bool | int | float):
            return "put quotes around it"
        if "array" in wanted and "string" not in wanted and isinstance(misfit.value, str):
            return "write a list: [one, two]"
    return str(misfit.schema.get("description", ""))


_KINDS = {
    "string": "text",
    "object": "a mapping",
    "array": "a list",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


def _kinds(wanted: str | list[str]) -> str:
    names = [wanted] if isinstance(wanted, str) else wanted
    if "integer" in names and "number" in names:
        names = [name for name in names if name != "integer"]
    return " or ".join(_KINDS[name] for name in names)


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return brief(value)
    for types, name in ((str, "text"), (int, "a whole number"), (float | Decimal, "a number"), (list, "a list")):
        if isinstance(value, types):
            return name
    return "a mapping"
