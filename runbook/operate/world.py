"""The world behind the engine's ports: the servers, the probes and steps that reach them, and the environment they see."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runbook.engine.ports import Answer, CannotTell, Prepared, Read
from runbook.language.expressions import Scope
from runbook.language.model import CHECK_TIMEOUT, Probe, Runbook, Step
from runbook.operate.cancel import Cancellation
from runbook.operate.servers import CannotStart, Patience, resolve
from runbook.probes import read
from runbook.records.masks import Masks, check_strength
from runbook.steps import prepare
from runbook.system.tools import Tools

if TYPE_CHECKING:
    from runbook.database.connect import Connection
    from runbook.database.guard import Snapshots


_PASSWORD = re.compile(r"(://[^\s:/@]*:)[^\s@/]+@")


class World:
    """The servers and secrets of one run.

    `on_server` hears once of each server that answers: its version, and what a person should know of it; `settings` has more
    of it by then. Where the world is `traced`, `read` tells which relations were read, and what they are.
    """

    def __init__(
        self,
        runbook: Runbook,
        run_id: str,
        project: Path,
        given: Mapping[str, str],
        cancellation: Cancellation,
        stack: ExitStack,
        *,
        fresh: bool = False,
    ) -> None:
        self.runbook, self.run_id, self.cancellation = runbook, run_id, cancellation
        self.secrets = _read_secrets(runbook)
        self.servers = resolve(runbook, given, project, stack, fresh=fresh)
        self.postgres = [name for name, item in runbook.connections.items() if item.type == "postgres"]
        self.hide_passwords()
        self.on_output: Callable[[str, bytes], None] = lambda stream, chunk: None
        self.on_start: Callable[[str, int, float | None], None] = lambda step, pid, started: None
        self.on_server: Callable[[str, str, str], None] = lambda name, version, warning: None
        self.traced = False
        self.settings: dict[str, dict[str, str]] = {}
        self.patience = Patience()
        self._snapshots: Snapshots | None = None
        self._seen: set[str] = set()
        stack.callback(self._close)

    def hide_passwords(self) -> None:
        """Has the passwords in the URLs in force masked, beside the declared secrets."""
        self.masks = Masks([*self.secrets.values(), *self._passwords()])

    def readable(self, text: str) -> str:
        """A runbook's text without declared secrets and without passwords in URLs, its other words untouched."""
        return _PASSWORD.sub(r"\1***@", Masks(list(self.secrets.values())).text(text))

    def _passwords(self) -> list[str]:
        if not self.postgres:
            return []
        from runbook.database.connect import passwords

        urls = {url for name in self.postgres for url in (self.servers.urls[name], self.servers.reading[name])}
        return [password for url in urls for password in passwords(url)]

    def connect(self, name: str, **settings: Any) -> Connection:
        """A connection that may write; `settings` are libpq's, where the URL does not give them. Raises ServerError."""
        from runbook.database.connect import connect

        return connect(self.servers.urls[name], f"runbook {self.run_id}", **settings)

    def targets(self) -> dict[str, str]:
        """Each connection as a person should see it, without its password."""
        found = {}
        for name, item in self.runbook.connections.items():
            url = self.servers.urls[name]
            if item.type == "http":
                found[name] = self.masks.text(without_credentials(url))
                continue
            from runbook.database.connect import ServerError, describe

            try:
                found[name] = self.masks.text(describe(url))
            except ServerError as error:
                raise CannotStart(f"connection `{name}`: not a URL: {self.masks.text(str(error))}") from None
        return found

    @contextmanager
    def snapshot(self) -> Iterator[Read]:
        """A reader whose queries all see one moment of each server."""
        if not self.postgres:
            yield self._reader(_no_database)
            return
        from runbook.database.connect import ServerError

        try:
            with self._guarded().open() as query:
                yield self._reader(query)
        except ServerError as error:
            raise CannotTell(str(error)) from None

    def _guarded(self) -> Snapshots:
        if self._snapshots is None:
            from runbook.database.guard import Snapshots

            urls = self.servers.reading.__getitem__
            wait = self.cancellation.interrupt_with
            name = f"runbook {self.run_id}"
            left = self.patience.left
            self._snapshots = Snapshots(urls, name, CHECK_TIMEOUT, self._meet, wait, left, traced=self.traced)
        return self._snapshots

    def read(self) -> dict[str, dict[str, str]]:
        """What was read so far, by connection: the hash of each relation by its name."""
        return {} if self._snapshots is None else self._snapshots.read()

    def _reader(self, query: Callable[..., Any]) -> Read:
        tools = self._tools(query)

        def reader(probe: Probe, scope: Scope, timeout: float) -> Answer:
            answer = read(probe, scope, timeout, tools)
            return answer._replace(result=self.masks.incoming(answer.result))

        return reader

    def _meet(self, name: str, connection: Connection) -> None:
        """Once a connection: which server answers, and whether the guard binds its role."""
        if name in self._seen:
            return
        self._seen.add(name)
        from runbook.database.guard import enforced

        warning = ""
        if not enforced(connection):
            warning = (
                f"read-only checks on connection {name} are not enforced: superuser ({connection.info.user}); cure: put the "
                f"URL of an ordinary role into a variable and name it in connections.{name}.read_env"
            )
        told = connection.info.parameter_status
        self.settings[name] = {
            key: value
            for key, parameter in (("encoding", "server_encoding"), ("time_zone", "TimeZone"))
            if (value := told(parameter))
        }
        self.on_server(name, told("server_version") or "unknown", warning)

    def prepare(self, step: Step, scope: Scope, timeout: float) -> Prepared:
        """One attempt of a step, ready to go."""
        prepared = prepare(step.action, scope, timeout, self.tools(step.name))
        return prepared._replace(what=self.masks.text(prepared.what))

    def tools(self, step: str = "") -> Tools:
        """What a probe is given outside of a snapshot, or the step of that name."""
        tools = self._tools(_no_database)
        if not step:
            return tools
        environment = {**tools.environment, "RUNBOOK_STEP": step}
        return tools._replace(environment=environment, on_start=partial(self.on_start, step))

    def _tools(self, query: Callable[..., Any]) -> Tools:
        return Tools(
            folder=self.runbook.folder,
            environment=self._environment,
            http_urls=self.servers.urls,
            query=query,
            database=self.connect,
            on_output=self.on_output,
            cancelled=self.cancellation.reason,
            mask=self.masks.incoming,
            interrupt=self.cancellation.interrupt_with,
            hidden=frozenset(self.runbook.secrets.values()),
        )

    @cached_property
    def _environment(self) -> dict[str, str]:
        """What steps and command probes see: ours, and the servers in force."""
        found = {**os.environ, "RUNBOOK_RUN_ID": self.run_id, "RUNBOOK_PYTHON": sys.executable}
        for name, item in self.runbook.connections.items():
            if item.env:
                found[item.env] = self.servers.urls[name]
        if len(self.postgres) == 1:
            from runbook.database.connect import libpq_environment

            found |= libpq_environment(self.servers.urls[self.postgres[0]])
        return found

    def _close(self) -> None:
        if self._snapshots is not None:
            self._snapshots.close()


def _no_database(*_: Any) -> Any:
    raise CannotTell("no postgres connection is declared")


def without_credentials(url: str) -> str:
    """The URL of a server as anybody may see it."""
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"


def _read_secrets(runbook: Runbook) -> dict[str, str]:
    missing = [variable for variable in runbook.secrets.values() if variable not in os.environ]
    if missing:
        raise CannotStart(f"secrets: the environment variable {missing[0]} is not set")
    found = {name: os.environ[variable] for name, variable in runbook.secrets.items()}
    check_strength(found)
    return found
