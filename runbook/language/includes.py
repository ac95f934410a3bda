"""What a runbook takes from other files, and the defaults that it gives: put into its data, each part with its own place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from runbook.language.document import Document, Where, read_document
from runbook.language.problems import InvalidRunbook, Problem, did_you_mean
from runbook.language.source import Entry, Files

SHARED = (
    "params",
    "connections",
    "secrets",
    "state",
    "preflight",
    "postconditions",
    "on_failure",
    "finally",
    "remedies",
    "notify",
    "defaults",
)
_DEFAULTS = {
    "checks": ("preflight", "postconditions"),
    "steps": ("steps", "on_failure", "finally"),
    "states": ("state",),
}


class Included(NamedTuple):
    """A runbook with what it includes, the hashes of those files, and what is wrong with including them."""

    document: Document
    files: dict[str, str]
    problems: list[Problem]


def included(document: Document, folder: Path, files: Files | None = None) -> Included:
    """The runbook together with the parts that `include:` names; an entry of its own goes before an included one of that name.

    Raises InvalidRunbook with every problem of an included file that cannot be read.
    """
    data = document.data
    names = data.get("include") if isinstance(data, dict) else None
    listed = names if isinstance(names, list) else [names]
    found = Included(document, {}, [])
    for index, name in enumerate(listed):
        if isinstance(name, str):
            where: Where = ("include", index) if isinstance(names, list) else ("include",)
            found = _with(found, where, folder / name, name, files)
    return found


def _with(found: Included, where: Where, path: Path, name: str, files: Files | None) -> Included:
    try:
        part = read_document(path, str(Path(found.document.file).parent / name), files)
    except InvalidRunbook as error:
        if error.problems[0].line:
            raise
        hint = "paths are relative to the runbook's folder"
        return found._replace(
            problems=[*found.problems, found.document.problem(where, f"{name}: {error.problems[0].message}", hint)]
        )
    problems = [*found.problems, *_refused(part)]
    usable = [key for key in SHARED if isinstance(part.data.get(key), dict)] if isinstance(part.data, dict) else []
    return Included(_merged(found.document, part, usable), {**found.files, str(path): part.sha256}, problems)


def _refused(part: Document) -> list[Problem]:
    """What may not stand in a file that is included."""
    if not isinstance(part.data, dict):
        return [part.problem((), "an included file is a mapping of sections", f"it may have {', '.join(SHARED)}")]
    hints = {
        "include": "name that file in the runbook itself",
        "steps": "the steps are the runbook's own",
        "schedule": "the schedule is the runbook's own",
        "rerun": "whether a run may be done again is the runbook's own to say",
    }
    return [
        part.problem((key,), f"`{key}` cannot be included", hints.get(key) or did_you_mean(key, SHARED), at="key")
        for key in part.data
        if key not in SHARED
    ]


def _merged(document: Document, part: Document, sections: list[str]) -> Document:
    data, root = dict(document.data), document.root
    inner: dict[str, Entry] = dict(root.inner) if isinstance(root.inner, dict) else {}
    for section in sections:
        own = data.get(section)
        if section in data and not isinstance(own, dict):
            continue
        theirs = part.root.inner[section] if isinstance(part.root.inner, dict) else part.root
        known = inner.get(section)
        children = {
            name: child._replace(source=child.source or part.source) for name, child in _children(theirs).items()
        }
        data[section] = {**part.data[section], **(own or {})}
        if known is None:
            inner[section] = theirs._replace(inner=children, source=part.source)
        else:
            ours = {
                name: child._replace(source=child.source or document.source) for name, child in _children(known).items()
            }
            inner[section] = known._replace(inner={**children, **ours})
    return document._replace(data=data, root=root._replace(inner=inner))


def _children(entry: Entry) -> Mapping[str, Entry]:
    return entry.inner if isinstance(entry.inner, dict) else {}


def with_defaults(document: Document) -> Document:
    """A runbook of the right shape whose entries have what `defaults:` gives and they do not give themselves."""
    data: dict[str, Any] = document.data
    if not data.get("defaults"):
        return document
    filled = dict(data)
    for kind, given in data["defaults"].items():
        for section in _DEFAULTS[kind]:
            if data.get(section):
                filled[section] = {name: {**given, **item} for name, item in data[section].items()}
    return document._replace(data=filled)
