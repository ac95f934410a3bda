"""Which database has the queue that a worker serves, where nobody submits at the moment."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from runbook.database.connect import ServerError, connect, describe, passwords
from runbook.fleet.schema import present
from runbook.language.model import Runbook
from runbook.language.problems import RunbookError
from runbook.operate.audits import declared_urls
from runbook.operate.runs import project_here
from runbook.operate.servers import EMBEDDED, project_folder, resolve
from runbook.records.masks import Masks


class NoQueue(RunbookError):
    """Nothing says which queue is meant; the message has the cure."""


class Place(NamedTuple):
    """A queue's database, the project for its records, and what was said of servers by connection; "" is the queue's own."""

    url: str
    project: Path
    databases: dict[str, str]


def place_of(runbook: Runbook | None, given: Mapping[str, str], stack: ExitStack) -> Place:
    """The queue in the database that has the audit of `runbook`; without one, in the only database that can be meant.

    `given` are URLs by connection, or `embedded`. An embedded server lives as long as `stack`. Raises NoQueue, CannotStart,
    EmbeddedError or ServerError.
    """
    if runbook is not None:
        return _of_runbook(runbook, given, stack)
    asked = given.get("", "")
    if asked and asked != EMBEDDED:
        return Place(asked, project_here(), dict(given))
    urls = [] if asked == EMBEDDED else declared_urls()
    if len(urls) == 1:
        return Place(urls[0], project_here(), {**given, "": urls[0]})
    if urls:
        raise NoQueue(_which(urls))
    return Place(_embedded(stack), project_here(), {**given, "": EMBEDDED})


def _of_runbook(runbook: Runbook, given: Mapping[str, str], stack: ExitStack) -> Place:
    name = runbook.audit.connection
    if not name or not runbook.audit.enabled:
        raise NoQueue(f"{runbook.document.file} has no audit in PostgreSQL, and the queue lies beside the audit")
    asked = given.get(name) or given.get("", "")
    project = project_folder(runbook.path)
    only = runbook._replace(connections={name: runbook.connections[name]})
    servers = resolve(only, {name: asked} if asked else {}, project, stack)
    own = EMBEDDED if name in servers.embedded else servers.urls[name]
    others = {key: url for key, url in given.items() if key not in ("", name)}
    return Place(servers.urls[name], project, {**others, "": own})


def _embedded(stack: ExitStack) -> str:
    """The one database in the project's private PostgreSQL to which something was submitted."""
    from runbook.database.embedded import kept_databases

    known = stack.enter_context(kept_databases(project_here() / "embedded"))
    found = []
    for url in known:
        with suppress(ServerError):
            connection = stack.enter_context(connect(url, "runbook worker"))
            found += [url] if present(connection) else []
            connection.close()
    if len(found) == 1:
        return found[0]
    if found:
        raise NoQueue(_which(found))
    raise NoQueue(
        "nothing was submitted here yet: name the runbook whose queue is meant (runbook worker FILE), or --database"
    )


def _which(urls: list[str]) -> str:
    places = ", ".join(Masks(passwords(url)).text(describe(url)) for url in urls)
    return f"there is more than one queue ({places}): name a runbook (runbook worker FILE), or one with --database URL"
