"""From a path to a Runbook, and from what a person gave to the params of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

from runbook.language.document import Document, Where, parse_document, parse_scalar
from runbook.language.model import Runbook
from runbook.language.problems import InvalidRunbook, Problem, did_you_mean
from runbook.language.source import Disk, Files, Submitted, read_bytes, whole_file
from runbook.language.values import dumps, to_data


class Marks(Protocol):
    """What was found valid before, and the runbooks that came of it."""

    def __contains__(self, key: str) -> bool: ...

    def add(self, key: str) -> None: ...

    def runbook(self, key: str) -> Runbook | None: ...

    def keep(self, key: str, runbook: Runbook) -> None: ...


def load(path: str | Path, seen: Marks | None = None) -> Runbook:
    """The runbook in the file at `path`. Raises InvalidRunbook with every problem of the file; reads nothing but files.

    A text that `seen` remembers from this very place, with all the files that it reads, is not read anew.
    """
    place, shown = Path(path).absolute(), str(path)
    raw = read_bytes(Path(path), shown)
    if seen is None:
        return _load(parse_document(raw, shown), place, Disk())
    key = f"runbook {place} {shown} {hashlib.sha256(raw).hexdigest()}"
    known = seen.runbook(key)
    if known is None or not _unchanged(known):
        known = _load(parse_document(raw, shown), place, Disk())
        seen.keep(key, known)
    return known


def load_text(text: str, path: Path, files: Mapping[str, bytes] | None = None, seen: Marks | None = None) -> Runbook:
    """The runbook in a text that stood at `path`, as a journal keeps it. Raises InvalidRunbook.

    Where `files` is given, by absolute path, all that loading reads is taken from it, and nothing from this disk; then a text
    that `seen` remembers with these files is not read anew.
    """
    if files is None:
        return _load(parse_document(text, str(path)), path, Disk())
    source = Submitted(files)
    if seen is None:
        return _load(parse_document(text, str(path)), path, source)
    read = [hashlib.sha256(content).hexdigest() for _, content in sorted(files.items())]
    key = f"submitted {path} {hashlib.sha256(text.encode()).hexdigest()} {' '.join(read)}"
    known = seen.runbook(key)
    if known is None or not _same_kinds(known):
        known = _load(parse_document(text, str(path)), path, source)
        seen.keep(key, known)
    return known


def file_contents(runbook: Runbook) -> dict[str, bytes]:
    """The bytes of each of `runbook.files`, by its path. Raises InvalidRunbook if one is not what it was when loaded."""
    found: dict[str, bytes] = {}
    problems: list[Problem] = []
    for path, digest in runbook.files.items():
        try:
            found[path] = read_bytes(Path(path), path)
            if hashlib.sha256(found[path]).hexdigest() != digest:
                raise whole_file(path, "the file changed while the runbook was used", "do it again")
        except InvalidRunbook as error:
            problems += error.problems
    if problems:
        raise InvalidRunbook(problems)
    return found


def _unchanged(runbook: Runbook) -> bool:
    """Whether every file that a runbook has read is what it was, and every script is still there."""
    scripts = [script for item in runbook.connections.values() for script in item.embedded or ()]
    try:
        same = all(hashlib.sha256(read_bytes(Path(f), f)).hexdigest() == digest for f, digest in runbook.files.items())
    except InvalidRunbook:
        return False
    return same and all(script.is_file() for script in scripts) and _same_kinds(runbook)


def _same_kinds(runbook: Runbook) -> bool:
    """Whether the kinds of other packages that a runbook has are what they were."""
    if not runbook.kinds:
        return True
    from runbook.language.kinds import unchanged

    return unchanged(runbook.kinds)


def _load(document: Document, path: Path, source: Files) -> Runbook:
    from runbook.language.build import build
    from runbook.language.includes import included, with_defaults
    from runbook.language.schema import shape_problems

    document, files, refused = included(document, path.parent, source)
    misshapen = shape_problems(document)
    if misshapen:
        raise InvalidRunbook(
            [*refused, *(problem for _, problem in misshapen), *_further(document, path, misshapen, source)]
        )
    document = with_defaults(document)
    runbook, problems = build(document, path, document.data, source)
    if refused or problems:
        raise InvalidRunbook([*refused, *problems])
    return runbook._replace(files={**files, **runbook.files})


# Sections that others refer to: where one of these is misspelt or misshapen, what is said of the rest would mislead.
_NEEDED = (
    "runbook",
    "name",
    "params",
    "connections",
    "secrets",
    "state",
    "preflight",
    "steps",
    "postconditions",
    "remedies",
)
_OF_ENTRIES = (
    *("state", "preflight", "expectations", "steps", "postconditions"),
    *("on_failure", "finally", "remedies", "notify"),
)


def _further(document: Document, path: Path, misshapen: list[tuple[Where, Problem]], source: Files) -> list[Problem]:
    """What else is wrong, beside shape: the entries at fault are left out, though their names stay known."""
    from runbook.language.build import build

    data, named = dict(document.data), dict(document.data)
    for where, _ in misshapen:
        section = str(where[0]) if where else ""
        if len(where) >= 2 and section in _OF_ENTRIES and isinstance(data.get(section), dict):
            data[section] = {name: item for name, item in data[section].items() if name != where[1]}
        elif section and not get_close_matches(section, _NEEDED, cutoff=0.75):
            data.pop(section, None)
            named.pop(section, None)
        else:
            return []
    _, problems = build(document._replace(data=data), path, named, source)
    return problems


def bind_params(runbook: Runbook, given: Mapping[str, Any], seen: Marks | None = None) -> dict[str, Any]:
    """The params of a run: what was given, defaults for the rest. Raises InvalidRunbook where they do not fit."""
    problems = []
    for name in given:
        if name not in runbook.params:
            hint = did_you_mean(name, runbook.params) or ("" if runbook.params else "this runbook has no params")
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
    judged = {name: value for name, value in values.items() if name in given}
    key = f"params {runbook.sha256} {dumps(to_data(judged))}"
    known = not judged or (seen is not None and key in seen)
    for name, message in ({} if known else _misfits(runbook, judged)).items():
        hint = runbook.params[name].get("description", "") or "its schema stands here"
        problems.append(runbook.document.problem(("params", name), f"param `{name}`: {message}", hint, at="key"))
    if problems:
        raise InvalidRunbook(problems)
    if seen is not None and not known:
        seen.add(key)
    return values


def _misfits(runbook: Runbook, values: Mapping[str, Any]) -> dict[str, str]:
    from runbook.language.schema import param_errors

    return param_errors(runbook.params, values)


def param_value(runbook: Runbook, name: str, text: str) -> Any:
    """The value that `-p NAME=TEXT` means: a YAML scalar, or a YAML list or mapping where the param is one."""
    types = runbook.params.get(name, {}).get("type", [])
    wanted = {types} if isinstance(types, str) else set(types)
    if text[:1] in "[{" and wanted & {"array", "object"}:
        return parse_document(f"value: {text}\n", f"-p {name}").data["value"]
    return parse_scalar(text)
