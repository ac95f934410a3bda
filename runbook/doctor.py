"""Looking at what a run needs before there is one: the machine and the project, or all that one runbook stands on.

Nothing is written, made or locked; the private PostgreSQL is started where it is there already.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from runbook.database.embedded import OWNER, READER
from runbook.language.load import bind_params
from runbook.language.model import Check, Command, Connection, Request, Runbook
from runbook.language.problems import InvalidRunbook
from runbook.look import check
from runbook.operate.examinations import Finding, examine, fail, ok, unclear, warn
from runbook.operate.examinations_audit import AUDIT, LOCK
from runbook.operate.examinations_machine import MACHINE
from runbook.operate.examinations_postgres import POSTGRES, Server, reach
from runbook.operate.examinations_project import PROJECT, copies, judge_disk, kept, private, programs, runbooks
from runbook.operate.examinations_runbook import RUNBOOK, Subject, bare_tools, ollama, web
from runbook.operate.models import ollamas
from runbook.operate.runs import project_here
from runbook.operate.servers import EMBEDDED, CannotStart, project_folder, resolve
from runbook.records.markdown import visible
from runbook.records.masks import SHORTEST, Masks

Given = Mapping[str, str]
_PASSWORD = re.compile(r"://[^:/@]*:(.*)@")
ASKED_WITHIN = 4.0  # seconds that each check may take which says what models are needed


def doctor(
    runbook: Runbook | None = None, *, params: Mapping[str, Any] | None = None, database: Given | None = None
) -> Iterator[Finding]:
    """What was found, finding by finding as it is made: of `runbook`, or else of the machine and of the project that the working
    directory lies in, with the servers that `database` names (URLs by connection).

    Secrets and passwords are masked in it, and nothing in it moves a cursor. Raises InvalidRunbook where a param does not fit.
    """
    given = database or {}
    known = [runbook] if runbook else []
    found = _of_runbook(runbook, params or {}, given) if runbook else _of_machine(given, known)
    for finding in found:
        masks = _masks(known, given)
        subject, what, told, cure = (
            visible(" ".join(masks.text(text).split()))
            for text in (finding.subject, finding.what, finding.found, finding.cure)
        )
        yield Finding(what, finding.state, told, cure, subject)


def _of_machine(given: Given, known: list[Runbook]) -> Iterator[Finding]:
    """The machine and the project; runbooks that could be read are added to `known`."""
    for what, look in MACHINE.items():
        yield from examine("machine", what, look)
    project = project_here()
    for what, examination in PROJECT.items():
        yield from examine("project", what, partial(examination, project))
    yield from examine("embedded PostgreSQL", "server", partial(private, project))
    for what, look in runbooks(known).items():
        yield from examine("runbooks", what, look)
    for target, url in _targets(known).items():
        yield from examine("rehearsals", f"copies on {target}", partial(copies, url))
    for name, url in given.items():
        server = Server(name, url, url, keeps=True, audited=True)
        yield from _of_server(f"connection {name}".rstrip(), server)


def _targets(known: list[Runbook]) -> dict[str, str]:
    """The servers that these runbooks lead to from this environment, each once."""
    from runbook.database.connect import ServerError, describe

    found: dict[str, str] = {}
    for runbook in known:
        for item in runbook.connections.values():
            url = os.environ.get(item.env, "") or item.default
            if item.type == "postgres" and url and url != EMBEDDED:
                with suppress(ServerError):
                    found.setdefault(describe(url), url)
    return found


# --- one runbook --------------------------------------------------------------------------------------------------


def _of_runbook(runbook: Runbook, params: Mapping[str, Any], given: Given) -> Iterator[Finding]:
    subject = _subject(runbook, params, _masks([runbook], given))
    for what, look in RUNBOOK.items():
        yield from examine("runbook", what, partial(look, subject))
    project = project_folder(runbook.path)
    yield from examine("runbook", "folder", partial(PROJECT["folder"], project))
    yield from examine("runbook", "disk", lambda: [judge_disk(_there(project))])
    with ExitStack() as stack:
        urls: dict[str, str] = {}
        for item in runbook.connections.values():
            yield from _of_connection(subject, item, given, project, stack, urls)
        for name in ollamas(runbook):
            if name in urls:
                yield from _of_models(subject, name, urls)


def _there(place: Path) -> Path:
    return next(above for above in (place, *place.parents) if above.exists())


def _subject(runbook: Runbook, params: Mapping[str, Any], masks: Masks) -> Subject:
    """The runbook with those params that are known. Raises InvalidRunbook where one does not fit."""
    missing = tuple(name for name, schema in runbook.params.items() if name not in params and "default" not in schema)
    partly = runbook._replace(params={name: item for name, item in runbook.params.items() if name not in missing})
    return Subject(runbook, bind_params(partly, params), missing, bare_tools(runbook, {}, masks))


def _of_connection(
    subject: Subject, item: Connection, given: Given, project: Path, stack: ExitStack, urls: dict[str, str]
) -> Iterator[Finding]:
    """One connection; where it can be used, its URL is put into `urls`."""
    runbook, place = subject.runbook, f"connection {item.name}"
    url = given.get(item.name) or os.environ.get(item.env, "") or item.default
    if url == EMBEDDED or (not url and item.embedded is not None):
        yield from examine(place, "embedded", partial(_embedded, runbook, item, project, stack, urls))
        if item.name not in urls:
            return
        reading = urls[item.name].replace(f"//{OWNER}@", f"//{READER}@", 1)
    else:
        only = runbook._replace(connections={item.name: item})
        try:
            servers = resolve(only, given, project, stack)
        except CannotStart as error:
            because, _, cure = str(error).partition("; ")
            yield fail("server", because.partition(": ")[2], cure)._replace(subject=place)
            return
        urls[item.name], reading = servers.urls[item.name], servers.reading[item.name]
    if item.type == "http":
        found = examine(place, "reachable", partial(web, subject, item, urls[item.name]))
        if any(finding.state != "ok" for finding in found):
            del urls[item.name]
        yield from found
        return
    keeps = item.name == runbook.audit.connection
    names = item.name, urls[item.name], reading, item.env, item.read_env
    server = Server(*names, keeps, keeps and runbook.audit.enabled, _key(subject) if keeps else "")
    well = True
    for finding in _of_server(place, server):
        well = well and not (finding.what.startswith("reachable") and finding.state != "ok")
        yield finding
    if not well:
        del urls[item.name]


def _key(subject: Subject) -> str:
    """The key of the lock, where it is known."""
    try:
        return subject.naming.key()
    except InvalidRunbook:
        return ""


def _embedded(
    runbook: Runbook, item: Connection, project: Path, stack: ExitStack, urls: dict[str, str]
) -> Iterator[Finding]:
    """The private database of a runbook, started if it is there and not made if it is not."""
    base, found = project / "embedded", programs()
    if item.type != "postgres":
        yield fail("embedded", "only a postgres connection can be embedded", f"set {item.env or 'its URL'}")
        return
    url = stack.enter_context(kept(base, runbook.name, item.embedded or ()))
    if url:
        urls[item.name] = url
        yield ok("embedded", f"the private PostgreSQL in {base} runs, and has this runbook's database")
    elif found:
        version, place = found[0]
        yield ok("embedded", f"not there yet: a run would make it in {base}, with PostgreSQL {version} ({place})")
    else:
        from runbook.database.binaries import INSTALL

        cure = f"set {item.env or 'its variable'} to a server's URL, or {INSTALL}"
        yield fail("embedded", "there are no PostgreSQL programs that it could be made of", cure)


def _of_server(place: str, server: Server) -> Iterator[Finding]:
    """All that is to be known of one PostgreSQL; nothing more where it cannot be reached."""
    reached = examine(place, "reachable", partial(reach, server))
    yield from reached
    if any(finding.state != "ok" for finding in reached):
        return
    groups: list[Mapping[str, Callable[[Server], Iterator[Finding]]]] = [POSTGRES]
    groups += [LOCK] * server.keeps + [AUDIT] * server.audited
    for group in groups:
        for what, look in group.items():
            yield from examine(place, what, partial(look, server))
    yield from examine(place, "copies", partial(copies, server.url))


# --- models -------------------------------------------------------------------------------------------------------


def _of_models(subject: Subject, name: str, urls: Mapping[str, str]) -> Iterator[Finding]:
    """The models of an Ollama: those that it has, and what the runbook's own checks say of them."""
    item, place = subject.runbook.connections[name], f"connection {name}"
    yield from examine(place, "ollama", partial(ollama, subject, item, urls[name]))
    asking = [part for part in subject.runbook.preflight if part.expect and _asks_for_models(part, name)]
    if asking:
        yield from examine(place, "models", partial(_declared, subject, asking, urls))


def _asks_for_models(item: Check, connection: str) -> bool:
    probe = item.probe
    if not isinstance(probe, Request) or probe.connection != connection:
        return False
    return probe.url.source.strip("/").partition("?")[0] in ("api/ps", "api/tags")


def _declared(subject: Subject, asking: list[Check], urls: Mapping[str, str]) -> Iterator[Finding]:
    """The verdicts of the checks in `asking`, which know what models are needed. No command is run for them."""
    runbook = subject.runbook
    away = [name for name in runbook.connections if name not in urls]
    if away or subject.missing:
        because = f"connection {away[0]} cannot be used" if away else f"the param {subject.missing[0]} was not given"
        yield unclear(", ".join(item.shown for item in asking), because)
        return
    quick = tuple(
        item._replace(timeout=min(item.timeout, ASKED_WITHIN), until=None)
        for item in runbook.preflight
        if not isinstance(item.probe, Command)
    )
    names = tuple(item.name for item in asking)
    record = check(runbook._replace(preflight=quick, state=()), names, params=subject.params, database=urls)
    for item in asking:
        judged = record["preflight"][item.name]
        if judged["verdict"] == "passed":
            yield ok(item.shown, f"passed: {' and '.join(part.source for part in item.expect)}")
            continue
        found = f"{judged['verdict']}: {judged['because']}"
        tell = fail if judged["verdict"] == "refuted" and item.severity == "error" else warn
        yield tell(item.shown, found, judged.get("message") or "ollama pull what is missing")


# --- what must not be seen ----------------------------------------------------------------------------------------


def _masks(known: Iterable[Runbook], given: Given) -> Masks:
    """Masks of declared secrets, and of the passwords in every URL that may be told of."""
    from runbook.database.connect import passwords

    connections = [item for runbook in known for item in runbook.connections.values()]
    urls = [*given.values(), *(item.default for item in connections)]
    urls += [os.environ.get(name, "") for item in connections for name in (item.env, item.read_env)]
    values = [os.environ.get(variable, "") for runbook in known for variable in runbook.secrets.values()]
    for url in filter(None, urls):
        written = _PASSWORD.findall(url)
        values += [*passwords(url), *written, *map(unquote, written)]
    values.append(os.environ.get("PGPASSWORD", ""))
    return Masks(value for value in values if len(value) >= SHORTEST)
