"""How to reach the servers of a run that is known by its record."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from runbook.engine.record import Record
from runbook.language.load import load_text
from runbook.language.model import Runbook
from runbook.language.problems import InvalidRunbook, RunbookError
from runbook.operate.servers import EMBEDDED, CannotStart, resolve
from runbook.records.masks import Masks


class Unreachable(RunbookError):
    """Nothing says how to reach a server; `elsewhere` says that it was only not to be tried."""

    def __init__(self, message: str, *, elsewhere: bool = False) -> None:
        super().__init__(message)
        self.elsewhere = elsewhere


@dataclass(slots=True)
class Way:
    """How to reach the servers of runs: URLs by connection name ("" for any), and by the description of where they lead.

    With `known_only` no other server is tried; `away` remembers those that did not answer, so that none is tried twice.
    `runbooks` are those of runs, by id, that need not be read again from their records.
    """

    given: Mapping[str, str] = field(default_factory=dict)
    known: Mapping[str, str] = field(default_factory=dict)
    known_only: bool = False
    runbooks: Mapping[str, Runbook] = field(default_factory=dict)
    away: dict[str, str] = field(default_factory=dict)


def audit_target(record: Record) -> str:
    """Where the audit of a run lies, for people; empty where it has none."""
    around = record["circumstances"]
    connections = around.get("connections", {})
    return str(connections.get(around.get("audit") or next(iter(connections), ""), ""))


def thrown_away(record: Record) -> bool:
    """Whether the audit of a run lay in a database that was made for this run alone, and went with it."""
    around = record["circumstances"]
    return bool(around.get("fresh")) and around.get("audit") in around.get("embedded", [])


def recorded_text(record: Record) -> str | None:
    """The runbook's text as the run had it; None where the record masks a part of it."""
    around = record["circumstances"]
    for text in (around["text"], f"\ufeff{around['text']}"):
        if around["versions"]["runbook file"] == f"sha256 {hashlib.sha256(text.encode()).hexdigest()}":
            return str(text)
    return None


def runbook_of(record: Record, way: Way) -> Runbook:
    """The runbook that a run executed, from its record. Raises Unreachable."""
    around, known = record["circumstances"], way.runbooks.get(record["run"]["id"])
    if known is not None:
        return known
    try:
        return load_text(around["text"], Path(around["file"]))
    except InvalidRunbook as error:
        raise Unreachable(f"its runbook cannot be read again: {error}") from None


def url_of(record: Record, runbook: Runbook, name: str, target: str, way: Way, stack: ExitStack, project: Path) -> str:
    """The URL that connection `name` had in the run, where it led to `target`; no database is made for it.

    Raises CannotStart or Unreachable.
    """
    from runbook.database.connect import describe, passwords

    if target in way.known:
        return way.known[target]
    if way.known_only:
        raise Unreachable(f"it lies in {target}", elsewhere=True)
    if target in way.away:
        raise Unreachable(way.away[target])
    asked = way.given.get(name) or way.given.get("")
    connection = runbook.connections[name]
    own = EMBEDDED if name in record["circumstances"]["embedded"] else ""
    leads = asked or own or os.environ.get(connection.env, "") or connection.default
    if leads == EMBEDDED:
        return _kept(target, bool(asked), project, stack)
    if not leads and connection.embedded is not None:
        variable = f"set {connection.env} or " if connection.env else ""
        raise Unreachable(f"it lies in {target}: {variable}pass --database {name}=URL")
    only = runbook._replace(connections={name: connection})
    url = resolve(only, {name: leads}, project, stack).urls[name]
    found = describe(url)
    same = target in (found, Masks(passwords(url)).text(found))
    if not same and not (asked and target.split(" on ")[0] == found.split(" on ")[0]):
        raise Unreachable(f"it lies in {target}, but connection `{name}` leads to {found}: pass --database {name}=URL")
    return url


def _kept(target: str, by_name: bool, project: Path, stack: ExitStack) -> str:
    """The URL of `target`, or of its name only, in the private PostgreSQL. Raises CannotStart or Unreachable."""
    from runbook.database.connect import describe
    from runbook.database.embedded import EmbeddedError, kept_databases

    try:
        urls = stack.enter_context(kept_databases(project / "embedded"))
    except EmbeddedError as error:
        raise CannotStart(str(error)) from None
    found = {describe(url): url for url in urls}
    if by_name:
        target, found = target.split(" on ")[0], {known.split(" on ")[0]: url for known, url in found.items()}
    if target not in found:
        raise Unreachable(f"it lies in {target}, which the embedded PostgreSQL in {project / 'embedded'} does not have")
    return found[target]
