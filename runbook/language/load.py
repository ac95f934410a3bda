"""From a path to a Runbook, and from what a person gave to the params of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runbook.language.build import build
from runbook.language.document import parse_scalar, read_document
from runbook.language.model import Runbook
from runbook.language.problems import InvalidRunbook, Problem, did_you_mean
from runbook.language.schema import param_errors, shape_problems


def load(path: str | Path) -> Runbook:
    """The runbook in the file at `path`. Raises InvalidRunbook with every problem of the file; reads nothing but files."""
    shown = str(path)
    document = read_document(Path(path), shown)
    problems = shape_problems(document)
    if problems:
        raise InvalidRunbook(problems)
    runbook, problems = build(document, Path(path).absolute())
    if problems:
        raise InvalidRunbook(problems)
    return runbook


def bind_params(runbook: Runbook, given: Mapping[str, Any]) -> dict[str, Any]:
    """The params of a run: what was given, defaults for the rest. Raises InvalidRunbook where they do not fit."""
    problems = []
    for name in given:
        if name not in runbook.params:
            hint = did_you_mean(name, runbook.params) or "this runbook has no params"
            problems.append(Problem(runbook.document.file, 0, 0, f"params.{name}", f"there is no param `{name}`", hint))
    values = {}
    for name, schema in runbook.params.items():
        if name in given:
            values[name] = given[name]
        elif "default" in schema:
            values[name] = schema["default"]
        else:
            where = ("params", name)
            problems.append(
                runbook.document.problem(where, f"the param `{name}` is required", f"-p {name}=…", at="key")
            )
    for name, message in param_errors(runbook.params, {n: v for n, v in values.items() if n in given}).items():
        hint = runbook.params[name].get("description", "") or "its schema stands here"
        problems.append(runbook.document.problem(("params", name), f"param `{name}`: {message}", hint, at="key"))
    if problems:
        raise InvalidRunbook(problems)
    return values


def param_value(runbook: Runbook, name: str, text: str) -> Any:
    """The value that `-p NAME=TEXT` means: a YAML scalar, or a YAML list or mapping where the param is one."""
    types = runbook.params.get(name, {}).get("type", [])
    wanted = {types} if isinstance(types, str) else set(types)
    if text[:1] in "[{" and wanted & {"array", "object"}:
        from runbook.language.document import parse_document

        return parse_document(f"value: {text}\n", f"-p {name}").data["value"]
    return parse_scalar(text)
