"""What a part of a runbook would do, found out without its being done, and what is known to stand in its way.

Statements are prepared by their server, programs looked for on the PATH that they would get, folders looked at, hosts
resolved and not asked.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from runbook.engine.ports import Examined, Obstacle, Part
from runbook.language.document import Where
from runbook.language.expressions import EvaluationError, NotYet, Scope
from runbook.language.model import Command, Extension, File, Request, Runbook, Sql
from runbook.language.problems import Problem
from runbook.language.templates import Template, render_path, render_sql
from runbook.language.values import as_text, brief
from runbook.operate.world import World, without_credentials
from runbook.system.command import Rendered, render_command
from runbook.system.extension import ready
from runbook.system.http import render_request
from runbook.system.process import cannot_start

if TYPE_CHECKING:
    from runbook.database.connect import Connection
    from runbook.operate.prepare import Told

RESOLVES_WITHIN = 5.0  # seconds in which the name of a host must be resolved


class Examiner:
    """Examines the parts of one runbook, in the order in which a run would come to them."""

    def __init__(self, runbook: Runbook, world: World, stack: ExitStack) -> None:
        self._runbook, self._world, self._stack = runbook, world, stack
        self._connections: dict[str, Connection | str] = {}
        self._acted = ""  # a step that may make what a later statement needs
        self._defined = ""  # a step whose SQL changes what later statements are about

    def __call__(self, part: Part, scope: Scope) -> Examined:
        try:
            found = self._examined(part, scope)
        except NotYet as error:
            found = Examined(_source(part), later=str(error), obstacles=self._in_part(part, scope))
        except EvaluationError as error:
            found = Examined(_source(part), obstacles=(self._obstacle(part, str(error)),))
        if part.step and not isinstance(part.use, Sql):
            self._acted = self._acted or part.shown
        return found

    def _examined(self, part: Part, scope: Scope) -> Examined:
        if isinstance(part.use, Sql):
            return self._sql(part, part.use, scope)
        if isinstance(part.use, Command):
            return self._command(part, part.use, scope)
        if isinstance(part.use, Request):
            return self._request(part, part.use, scope)
        if isinstance(part.use, Extension):
            return self._extension(part, part.use, scope)
        path = self._world.tools().folder / render_path(part.use.path, scope)
        return Examined(f"look at {path}")

    def _in_part(self, part: Part, scope: Scope) -> tuple[Obstacle, ...]:
        """What stands in the way of a part whose values are not all known: its program and its folder may be."""
        if not isinstance(part.use, Command) or part.use.shell is not None:
            return ()
        with suppress(EvaluationError):
            rendered = self._rendered(part, part.use._replace(argv=part.use.argv[:1], env=(), stdin=None), scope)
            why = cannot_start(rendered.argv, rendered.env, rendered.cwd)
            return (self._obstacle(part, why),) if why else ()
        return ()

    def _obstacle(self, part: Part, message: str) -> Obstacle:
        return obstacle(self._runbook, part.shown, part.where, message)

    # --- commands, requests -----------------------------------------------------------------------------------

    def _rendered(self, part: Part, command: Command, scope: Scope) -> Rendered:
        return render_command(command, scope, self._world.tools(part.step))

    def _command(self, part: Part, command: Command, scope: Scope) -> Examined:
        rendered = self._rendered(part, command, scope)
        why = cannot_start(rendered.argv, rendered.env, rendered.cwd)
        if why:
            return Examined(rendered.what, obstacles=(self._obstacle(part, why),))
        what = rendered.what
        if command.shell is not None:
            what = command.shell.template.render(scope, lambda value, hole: shlex.quote(as_text(value))).strip()
        program = shutil.which(rendered.argv[0], path=rendered.env.get("PATH", os.defpath)) or rendered.argv[0]
        return Examined(what, (f"{program} in {rendered.cwd}",))

    def _request(self, part: Part, request: Request, scope: Scope) -> Examined:
        urls = {name: without_credentials(url) for name, url in self._world.servers.urls.items()}
        exchange = render_request(request, scope, urls)
        why = _unreachable(exchange.url)
        if why:
            return Examined(exchange.what, obstacles=(self._obstacle(part, why),))
        return Examined(exchange.what, ("its host is known, and was not asked",))

    def _extension(self, part: Part, extension: Extension, scope: Scope) -> Examined:
        kind, what = extension.kind, ready(extension, scope, self._world.tools(part.step)).what
        now = part.where[0] in ("state", "preflight") and not kind.safe
        later = f"{part.shown} is not asked in a dry run: it does not call itself safe" if now else ""
        return Examined(what, (f"of {kind.package} {kind.version}",), later)

    # --- SQL --------------------------------------------------------------------------------------------------

    def _sql(self, part: Part, sql: Sql, scope: Scope) -> Examined:
        what, later, values = _source(part), "", ""
        obstacles: list[Obstacle] = []
        try:
            statements = [render_sql(sql.text, scope, index) for index in range(len(sql.text.spans))]
            what = "; ".join(" ".join(statement.query.split()) for statement in statements)
            values = "; ".join(_values(statement.values) for statement in statements if statement.values)
        except NotYet as error:
            later = str(error)
        except EvaluationError as error:
            obstacles.append(self._obstacle(part, str(error)))
        if self._defined and not part.shown.startswith("remedies."):
            return Examined(
                what, later=later or f"{self._defined} changes the schema before it", obstacles=(*obstacles,)
            )
        told = self._prepared(part, sql, scope)
        obstacles += told.obstacles
        notes = (*told.notes, *([values] if values else [])) if not obstacles else ()
        return Examined(what, notes, later or told.later, tuple(obstacles))

    def _prepared(self, part: Part, sql: Sql, scope: Scope) -> Examined:
        """What the server says of the statements, one by one."""
        from runbook.database.connect import ServerError
        from runbook.operate.prepare import Found, prepare_one

        connection = self._connection(sql.connection, writes=part.writes)
        if isinstance(connection, str):
            return Examined("", obstacles=(self._obstacle(part, connection),))
        state = part.shown.removeprefix("before.") if part.shown.startswith("before.") else ""
        found = Found(sql, part.shown, state)
        told: list[Told] = []
        self._world.cancellation.interrupt_with(connection.cancel)
        try:
            for index in range(len(sql.text.spans)):
                told.append(prepare_one(self._runbook, found, index, scope, connection, plan=True))
                if told[-1].defines and part.step:
                    self._defined = part.shown
                    break
        except ServerError as error:
            return Examined("", obstacles=(self._obstacle(part, str(error)),))
        finally:
            self._world.cancellation.interrupt_with(None)
        return self._said(part, told)

    def _said(self, part: Part, told: list[Told]) -> Examined:
        obstacles = [self._refused(part, problem) for one in told for problem in one.problems]
        obstacles += [self._obstacle(part, one.denied) for one in told if one.denied]
        later = "; ".join(one.unclear for one in told if one.unclear)
        unseen = any(one.defines for one in told)
        note = "the server looks at it only when it runs" if unseen else "the server prepared it"
        return Examined("", () if later else (note,), later, tuple(obstacles))

    def _refused(self, part: Part, problem: Problem) -> Obstacle:
        if self._acted and not part.shown.startswith("remedies."):
            perhaps = f"or {self._acted} makes it first: then it is refused only now"
            problem = problem._replace(hint="; ".join(filter(None, (problem.hint.rstrip("."), perhaps))))
        place: dict[str, Any] = {**problem.as_data(), "source": problem.source, "width": problem.width}
        return Obstacle("invalid", problem.message, place)

    def _connection(self, name: str, *, writes: bool) -> Connection | str:
        """A connection as the part would have it, or why there is none."""
        from runbook.database.connect import ServerError, connect

        urls = self._world.servers.urls if writes else self._world.servers.reading
        if urls[name] not in self._connections:
            try:
                connection = connect(urls[name], f"runbook {self._world.run_id}")
                self._stack.callback(connection.close)
                self._connections[urls[name]] = connection
            except ServerError as error:
                self._connections[urls[name]] = f"connection `{name}`: {error}"
        return self._connections[urls[name]]


def obstacle(runbook: Runbook, shown: str, where: Where, message: str) -> Obstacle:
    """What stands in the way at `where` in the runbook, through no fault of the file."""
    message = f"{shown}: {message}"
    return Obstacle("errored", message, runbook.document.problem(where, message, at="key").as_data())


def _source(part: Part) -> str:
    """A part as it is written."""
    use = part.use
    if isinstance(use, Sql):
        return " ".join(use.text.template.source.split())
    if isinstance(use, Request):
        return f"{use.method.upper()} {use.url.source}"
    if isinstance(use, File):
        return f"look at {use.path.source}"
    if isinstance(use, Extension):
        return use.kind.key
    return use.shell.template.source.strip() if use.shell is not None else " ".join(map(_text, use.argv))


def _values(values: tuple[Any, ...]) -> str:
    return ", ".join(f"${number} = {brief(value)}" for number, value in enumerate(values, 1))


def _text(template: Template) -> str:
    return template.source


def _unreachable(url: str) -> str:
    """Why nobody can be asked at `url`, as far as that shows without asking."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        return f"{url}: {error}"
    if parts.scheme not in ("http", "https") or not host:
        return f"{url} is no URL of http or https"
    return _unresolved(host, port)


def _unresolved(host: str, port: int | None) -> str:
    """Why the name of a host leads nowhere. It is asked aside, since nothing else bounds how long a resolver takes."""
    told: list[str] = []

    def resolve() -> None:
        try:
            socket.getaddrinfo(host, port or 80, type=socket.SOCK_STREAM)
            told.append("")
        except (OSError, UnicodeError) as error:
            told.append(f"the host `{host}` is not known: {getattr(error, 'strerror', None) or error}")

    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(RESOLVES_WITHIN)
    return told[0] if told else f"the host `{host}` was not found within {RESOLVES_WITHIN:g} s"


def unwritable(folder: Path) -> str:
    """Why nothing could be written below `folder`, which need not exist; empty where nothing is known against it."""
    for place in (folder, *folder.parents):
        if place.is_dir():
            return "" if os.access(place, os.W_OK | os.X_OK) else f"{place}: this user may not write there"
        if os.path.lexists(place):
            return f"{place} is no folder"
    return f"{folder}: there is no such place"
