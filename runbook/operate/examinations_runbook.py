"""Examinations of one runbook: its secrets, its programs and files, its run log, and the HTTP servers that it asks."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from runbook.engine.ports import CannotTell
from runbook.language.expressions import EvaluationError
from runbook.language.kinds import Unusable, usable
from runbook.language.model import Command, Connection, Request, Runbook
from runbook.language.problems import InvalidRunbook
from runbook.language.templates import Template
from runbook.operate.circumstances import operator
from runbook.operate.examinations import Finding, fail, ok, several, unclear, warn
from runbook.operate.examine import unwritable
from runbook.operate.file_lock import look_at, state_folder
from runbook.operate.lock import Locked, described
from runbook.operate.naming import Naming
from runbook.operate.world import without_credentials
from runbook.records.masks import SHORTEST, Masks
from runbook.system.command import render_command
from runbook.system.http import Exchange, HttpError, send
from runbook.system.process import cannot_start
from runbook.system.tools import Tools

WITHIN = 4.0  # seconds in which an HTTP server must answer
TOLD = 12  # models that are named
_INTERPRETERS = ("python", "python3", "sh", "bash", "node", "perl", "ruby", "Rscript")


class Subject(NamedTuple):
    """A runbook that is looked at, with what is known of its params (by name) and where `missing` ones were not given."""

    runbook: Runbook
    params: Mapping[str, Any]
    missing: tuple[str, ...]
    tools: Tools

    @property
    def scope(self) -> dict[str, Any]:
        """What expressions know before a run."""
        return {"params": self.params, "runbook": {"name": self.runbook.name}}

    @property
    def naming(self) -> Naming:
        return Naming(self.runbook, self.params, "doctor-0000", operator())


def bare_tools(runbook: Runbook, urls: Mapping[str, str], masks: Masks) -> Tools:
    """What commands and requests are rendered with, and requests sent; there is no database among it."""

    def never(*_: Any) -> Any:
        raise CannotTell("a look has no database")

    return Tools(
        folder=runbook.folder,
        environment={**os.environ, "RUNBOOK_PYTHON": sys.executable},
        http_urls=urls,
        query=never,
        database=never,
        on_output=lambda stream, chunk: None,
        cancelled=lambda: None,
        mask=masks.incoming,
        interrupt=lambda action: None,
        hidden=frozenset(runbook.secrets.values()),
    )


def loads(subject: Subject) -> Iterator[Finding]:
    """What was read; that it could be is known by now."""
    runbook = subject.runbook
    scripts = [script for item in runbook.connections.values() for script in item.embedded or ()]
    files = [*map(Path, runbook.files), *scripts]
    gone = [str(path) for path in files if not path.is_file()]
    if gone:
        yield fail("file", f"not there: {', '.join(gone)}", "put it back, or change the runbook")
    else:
        others = f" with {', '.join(path.name for path in files)}" if files else ""
        yield ok("file", f"{runbook.path}{others}")
    if subject.missing:
        cure = "give them as a run would get them: " + " ".join(f"-p {name}=…" for name in subject.missing)
        yield warn(
            "params",
            f"required and not given: {', '.join(subject.missing)}; what depends on them is not looked at",
            cure,
        )
    elif runbook.params:
        yield ok("params", f"{several(len(runbook.params), 'param')}, all given or with a default")


def secrets(subject: Subject) -> Iterator[Finding]:
    for name, variable in subject.runbook.secrets.items():
        what = f"secret {name}"
        value = os.environ.get(variable)
        if value is None:
            yield fail(what, f"{variable} is not set", f"export {variable}=… in the environment that runs it")
        elif len(value) < SHORTEST:
            because = f"{variable} is too short to be masked; {SHORTEST} characters are the least"
            yield fail(what, because, "use a longer one")
        else:
            yield ok(what, f"{variable} is set")


# --- programs and files -------------------------------------------------------------------------------------------


def kinds(subject: Subject) -> Iterator[Finding]:
    """Whether the kinds of other packages that the runbook uses can be used."""
    for kind in subject.runbook.kinds:
        what = f"kind {kind.key}"
        try:
            usable(kind.room, kind.key)
        except Unusable as error:
            yield fail(what, str(error), f"pip install --force-reinstall {kind.package}, or look into that package")
            continue
        yield ok(what, f"a {kind.room.removesuffix('s')} of {kind.package} {kind.version}")


def commands(runbook: Runbook) -> dict[str, Command]:
    """Every command of a runbook, by what it belongs to."""
    return {shown: part for shown, part in _parts(runbook).items() if isinstance(part, Command)}


def _parts(runbook: Runbook) -> dict[str, Any]:
    """Every probe, action and notification of a runbook."""
    found: dict[str, Any] = {f"state.{item.name}": item.probe for item in runbook.state}
    found |= {check.shown: check.probe for check in (*runbook.preflight, *runbook.postconditions)}
    for step in (*runbook.steps, *runbook.on_failure, *runbook.finally_):
        found[f"{step.stage}.{step.name}"] = step.action
        found[f"{step.stage}.{step.name}.rehearse"] = step.stand_in
    return found | {f"notify.{item.name}": item.use for item in runbook.notify}


def programs(subject: Subject) -> Iterator[Finding]:
    """Whether each program that a command names can be started, and the script that an interpreter is to run is there."""
    told: dict[tuple[str, str], list[str]] = {}
    for shown, command in commands(subject.runbook).items():
        try:
            program, trouble = _program(subject, command)
        except EvaluationError as error:
            program, trouble = "", f"could not tell: {error}"
        told.setdefault((program, trouble), []).append(shown)
    for (program, trouble), users in told.items():
        what, used = f"program {program}" if program else "program", ", ".join(users)
        if not trouble:
            yield ok(what, f"for {used}")
        elif program:
            yield fail(what, f"{used}: {trouble}", "install it, or put its folder on the PATH of whoever runs this")
        else:
            yield warn(what, f"{used}: {trouble}", "give the params, or look at it in runbook exec --dry-run")
    yield from _scripts(subject)


def _program(subject: Subject, command: Command) -> tuple[str, str]:
    """The program of a command, and why it cannot be started. Raises EvaluationError."""
    paths = tuple(item for item in command.env if item[0] == "PATH")
    alone = command._replace(argv=command.argv[:1], env=paths, stdin=None)
    if command.shell is not None:
        alone = alone._replace(argv=(Template("/bin/sh", ()),), shell=None)
    rendered = render_command(alone, subject.scope, subject.tools)
    return rendered.argv[0], cannot_start(rendered.argv[:1], rendered.env, rendered.cwd)


def _scripts(subject: Subject) -> Iterator[Finding]:
    """The files that interpreters are told to run, where they are named in the runbook itself."""
    for shown, command in commands(subject.runbook).items():
        plain = [item.source for item in command.argv[:2] if not item.holes]
        if (
            command.cwd is not None
            or len(plain) < 2
            or Path(plain[0]).name not in _INTERPRETERS
            or plain[1][:1] in ("-", "")
        ):
            continue
        path = subject.runbook.folder / plain[1]
        if not path.is_file():
            yield warn(
                f"script {plain[1]}",
                f"{shown}: there is no file {path}",
                "put it there, unless an earlier step makes it",
            )


def report(subject: Subject) -> Iterator[Finding]:
    """Whether the run log could be written where it belongs."""
    try:
        place = subject.naming.at(datetime.now(UTC)).report
    except InvalidRunbook as error:
        if subject.missing:
            return
        yield fail(
            "run log", "; ".join(problem.message for problem in error.problems), "change report.path, or the params"
        )
        return
    trouble = unwritable(place.parent)
    if trouble:
        yield fail("run log", trouble, "change report.path, or the rights of the folder")
    else:
        yield ok("run log", f"it can be written into {place.parent}")


def file_lock(subject: Subject) -> Iterator[Finding]:
    """Whether the lock of a runbook without a PostgreSQL can be taken: it is a file of this user's."""
    if subject.runbook.audit.connection:
        return
    place = state_folder() / "locks"
    trouble = unwritable(place)
    if trouble:
        yield fail("lock", trouble, "let XDG_STATE_HOME name a folder of your own")
        return
    try:
        key = subject.naming.key()
        look_at(key)
        yield ok("lock", f"`{key}` is free; a file in {place}, so it is this machine's and this user's alone")
    except InvalidRunbook as error:
        yield unclear("lock", "; ".join(problem.message for problem in error.problems), "give the params")
    except Locked as seen:
        cure = "; ".join([*seen.watching, "or wait for it: runbook exec --wait"])
        yield warn("lock", f"`{seen.key}` is held {described(seen.holder)}", cure)


# --- HTTP ---------------------------------------------------------------------------------------------------------


def web(subject: Subject, item: Connection, url: str) -> Iterator[Finding]:
    """Whether anybody answers."""
    shown = without_credentials(url)
    began = time.monotonic()
    try:
        answer = asked(subject.tools, "HEAD", url)
    except HttpError as error:
        because = str(error).removeprefix(f"{shown}: ")
        if " redirects " in because:
            yield ok("reachable", because)
            return
        needed = _needs(subject.runbook, item.name)
        tell, note = (fail, "") if needed else (warn, " (only what warns asks it, or commands)")
        cure = f"does it run, and is {item.env or 'its URL'} right?"
        yield tell("reachable", f"{shown}: {because}{note}", cure)
        return
    yield ok("reachable", f"{shown} answers {answer['status']} in {(time.monotonic() - began) * 1000:.1f} ms")


def _needs(runbook: Runbook, connection: str) -> bool:
    """Whether a state, a step or a check that decides asks this connection."""
    warns = {check.shown for check in (*runbook.preflight, *runbook.postconditions) if check.severity == "warn"}
    return any(part.connection == connection for shown, part in requests(runbook).items() if shown not in warns)


def requests(runbook: Runbook) -> dict[str, Request]:
    """Every request of a runbook, by what it belongs to."""
    return {shown: part for shown, part in _parts(runbook).items() if isinstance(part, Request)}


def asked(tools: Tools, method: str, url: str, path: str = "") -> dict[str, Any]:
    """The answer to a request without a body. Raises HttpError, whose message has no credentials of the URL."""
    given = urlsplit(url)
    auth = (unquote(given.username), unquote(given.password or "")) if given.username else None
    bare = f"{without_credentials(url).rstrip('/')}{path}"
    return send(Exchange(method, bare, {}, None, auth, f"{method} {bare}"), WITHIN, tools)


def ollama(subject: Subject, item: Connection, url: str) -> Iterator[Finding]:
    """The version of an Ollama, the models that it has, and whether those are there that requests of the runbook name."""
    tools = subject.tools
    version = asked(tools, "GET", url, "/api/version")["json"]
    if not isinstance(version, Mapping) or "version" not in version:
        yield warn("ollama", "something else answers there: it tells no version", f"is {item.env or 'its URL'} right?")
        return
    there, loaded = (_models(asked(tools, "GET", url, f"/api/{path}")["json"]) for path in ("tags", "ps"))
    found = f"version {version['version']}; {_listed('model', there)}; loaded: {', '.join(loaded[:TOLD]) or 'none'}"
    yield ok("ollama", found)
    for name, users in models_named(subject, item.name).items():
        what, used = f"model {name}", ", ".join(users)
        if name in there or f"{name}:latest" in there:
            yield ok(what, f"it is there, for {used}")
        else:
            yield fail(what, f"it is not there, and {used} asks for it", f"ollama pull {name}")


def _models(answer: Any) -> list[str]:
    models = answer.get("models") if isinstance(answer, Mapping) else None
    found = models if isinstance(models, list) else []
    return sorted(str(model.get("name", "")) for model in found if isinstance(model, Mapping))


def _listed(word: str, names: list[str]) -> str:
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return f"{several(len(names), word)}{': ' if names else ''}{', '.join(names[:TOLD])}{more}"


def models_named(subject: Subject, connection: str) -> dict[str, list[str]]:
    """The models that requests to `connection` name in their JSON, as far as that is known before a run, and which they are."""
    found: dict[str, list[str]] = {}
    for shown, part in requests(subject.runbook).items():
        if part.connection == connection and isinstance(part.json, Mapping):
            model = part.json.get("model")
            try:
                name = model.value(subject.scope) if isinstance(model, Template) else model
            except EvaluationError:
                continue
            if isinstance(name, str) and name:
                found.setdefault(name, []).append(shown)
    return found


RUNBOOK: dict[str, Callable[[Subject], Iterator[Finding]]] = {
    "file": loads,
    "secrets": secrets,
    "kinds": kinds,
    "programs": programs,
    "run log": report,
    "lock": file_lock,
}
WEB: dict[str, Callable[[Subject, Connection, str], Iterator[Finding]]] = {"reachable": web}
