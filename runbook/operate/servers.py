"""Which server stands behind each declared connection: given, from the environment, the default, or embedded."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from runbook.language.model import Connection, Runbook
from runbook.language.problems import RunbookError

EMBEDDED = "embedded"
RECONNECT_FOR = 30.0  # seconds for which a server that answered before and is away is waited for


class Patience:
    """How long servers that are away are waited for: so many seconds in all, from the first one that was missed."""

    def __init__(self, seconds: float = RECONNECT_FOR) -> None:
        self._seconds = seconds
        self._since: float | None = None

    def left(self) -> float:
        """Seconds that remain."""
        if self._since is None:
            self._since = time.monotonic()
        return max(self._since + self._seconds - time.monotonic(), 0)

    def met(self) -> None:
        """All is there again."""
        self._since = None


class CannotStart(RunbookError):
    """A run could not be begun: something it needs is not there."""


class NoConsent(CannotStart):
    """A protected connection, and nobody who consented."""


class Servers(NamedTuple):
    """URLs by connection name. `reading` are the URLs that checks use; `notes` say what a person should know.

    `embedded` names the connections that lead to the private PostgreSQL, `made` those whose database was made for them.
    """

    urls: dict[str, str]
    reading: dict[str, str]
    notes: list[str]
    embedded: list[str]
    made: list[str]


def resolve(
    runbook: Runbook,
    given: Mapping[str, str],
    project: Path,
    stack: ExitStack,
    *,
    fresh: bool = False,
) -> Servers:
    """The servers in force. An embedded one that has to be started ends with `stack`. Raises CannotStart."""
    servers = Servers({}, {}, [], [], [])
    for name, connection in runbook.connections.items():
        url = given.get(name) or os.environ.get(connection.env, "") or connection.default
        if url == EMBEDDED or (not url and connection.embedded is not None):
            _embed(runbook, connection, project, stack, servers, fresh)
            continue
        if not url:
            raise CannotStart(
                f"connection `{name}`: nothing says where the server is; set {connection.env} or pass --database {name}=URL"
            )
        servers.urls[name] = _http_url(url) if connection.type == "http" else url
        servers.reading[name] = os.environ.get(connection.read_env, "") or servers.urls[name]
    return servers


def _http_url(url: str) -> str:
    return url if "://" in url else f"http://{url}"


def _embed(
    runbook: Runbook, connection: Connection, project: Path, stack: ExitStack, servers: Servers, fresh: bool
) -> None:
    from runbook.database.embedded import EmbeddedError, embedded_database

    if connection.type != "postgres":
        raise CannotStart(f"connection `{connection.name}` is no postgres connection and cannot be embedded")
    base = project / "embedded"
    try:
        embedded = stack.enter_context(embedded_database(base, runbook.name, connection.embedded or (), fresh=fresh))
    except EmbeddedError as error:
        raise CannotStart(f"connection `{connection.name}`: {error}") from None
    servers.embedded.append(connection.name)
    servers.made.extend([connection.name] * embedded.fresh)
    servers.urls[connection.name], servers.reading[connection.name] = embedded.url, embedded.read_url
    seeded = (
        "new, seeded"
        if embedded.fresh and connection.embedded
        else "new"
        if embedded.fresh
        else "kept from earlier runs"
    )
    reason = f"{connection.env} is not set: " if connection.env and not os.environ.get(connection.env) else ""
    servers.notes.append(
        f"connection {connection.name}: {reason}using the embedded PostgreSQL {embedded.version} ({seeded}; it lives in {base})"
    )


def project_folder(runbook_path: Path) -> Path:
    """`.runbook/` of the project: found upwards from the runbook, else in the working directory."""
    for folder in runbook_path.absolute().parents:
        if (folder / ".runbook").is_dir():
            return folder / ".runbook"
    return Path.cwd() / ".runbook"
