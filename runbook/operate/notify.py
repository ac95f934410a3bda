"""Telling others of a run that is over: each notification is sent once, and what came of it is an event of the run.

It comes after the closing of all books. Whatever goes wrong with it is told, and changes nothing about the run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from runbook.engine.ports import CannotTell
from runbook.engine.record import Record
from runbook.engine.replay import scope_of
from runbook.language.expressions import EvaluationError, Scope
from runbook.language.model import Command, Notification, Runbook
from runbook.language.values import Absent, dumps, duration_text
from runbook.operate.reaching import Unreachable, Way, runbook_of
from runbook.operate.servers import CannotStart, resolve
from runbook.operate.world import World
from runbook.records.journal import JournalError
from runbook.records.masks import Masks
from runbook.system.command import render_command, run_command, trouble
from runbook.system.http import HttpError, render_request, send
from runbook.system.tools import Tools

Emit = Callable[[str, dict[str, Any]], None]
Status = Literal["sent", "not sent", "skipped"]


class Means(NamedTuple):
    """With what is notified: secrets by name, and why a connection has no URL, by its name."""

    tools: Tools
    secrets: Mapping[str, Any]
    missing: Mapping[str, str] = {}


def due(record: Record) -> list[str]:
    """The names of the notifications that the run's verdict asks for and that were not tried yet."""
    tried = {item["name"] for item in record["notifications"]}
    asked = record["circumstances"].get("notify", {})
    return [name for name, on in asked.items() if record["run"]["verdict"] in on and name not in tried]


def notify(record: Record, world: World, emit: Emit) -> None:
    """Sends what is due of a run that has just ended; a further request to end, by a signal, breaks that off."""
    if not due(record):
        return
    cancellation = world.cancellation
    cancellation.heed()

    def stopping() -> str | None:
        reason = cancellation.reason()
        return None if reason == (cancellation.lost or None) else reason  # a lost lock is no reason to keep silent

    tools = world.tools()._replace(cancelled=stopping, on_output=_unheard)
    with suppress(JournalError):
        _send_all(record, world.runbook, Means(tools, world.secrets), emit)


def notify_later(record: Record, project: Path, emit: Emit, way: Way) -> None:
    """Sends what is due of a run whose runner is gone, with the secrets and servers that this process knows."""
    names = due(record)
    if not names:
        return
    try:
        runbook = runbook_of(record, way)
    except Unreachable as error:
        for name in names:
            emit("notification.sent", _event(name, "not sent", str(error), 0.0))
        return
    means, masks = _means_here(record, runbook, project)
    _send_all(record, runbook, means, lambda kind, data: emit(kind, masks.data(data)))


def _send_all(record: Record, runbook: Runbook, means: Means, emit: Emit) -> None:
    declared = {item.name: item for item in runbook.notify}
    for name in due(record):
        began = time.monotonic()
        status, because = _send(declared[name], record, runbook, means) if name in declared else ("skipped", "")
        emit("notification.sent", _event(name, status, because, time.monotonic() - began))


def _event(name: str, status: Status, because: str, seconds: float) -> dict[str, Any]:
    return {"name": name, "status": status, "because": because, "duration": round(seconds, 3)}


def _send(item: Notification, record: Record, runbook: Runbook, means: Means) -> tuple[Status, str]:
    """What became of it, and why not."""
    reason = means.tools.cancelled()
    if reason is not None:
        return "not sent", reason
    scope = _scope(record, runbook, means.secrets)
    try:
        if item.when is not None and not item.when.holds(scope):
            return "skipped", f"`when` is false: {item.when.explain(scope)}"
        because = _sent(item, scope, record, means)
    except (EvaluationError, CannotTell, HttpError) as error:
        because = str(error)
    return ("not sent", because) if because else ("sent", "")


def _scope(record: Record, runbook: Runbook, secrets: Mapping[str, Any]) -> dict[str, Any]:
    """The names of the last stage over the record, and where its run log is."""
    scope = scope_of(record, runbook)
    ended = {"because": record["run"].get("because", ""), "report": record["report"]}
    return {**scope, "run": {**scope["run"], **ended}, "secrets": dict(secrets)}


def _sent(item: Notification, scope: Scope, record: Record, means: Means) -> str:
    """Sends it; why that did not work, or nothing. Raises EvaluationError or HttpError."""
    closing = dumps({key: value for key, value in record.items() if key != "declared"})
    use, tools = item.use, means.tools
    if isinstance(use, Command):
        rendered = render_command(use, scope, tools)._replace(stdin=closing.encode())
        return trouble(run_command(rendered, item.timeout, tools), item.timeout)
    if use.connection in means.missing:
        return means.missing[use.connection]
    exchange = render_request(use, scope, tools.http_urls)
    if exchange.content is None:
        exchange.headers.setdefault("Content-Type", "application/json")
        exchange = exchange._replace(content=closing.encode())
    status = send(exchange, item.timeout, tools)["status"]
    return f"{exchange.what}: status {status}" if status >= 300 else ""


def _unheard(stream: str, chunk: bytes) -> None:
    """What a notification's command prints is nobody's output."""


# --- of a run whose runner is gone --------------------------------------------------------------------------------------


def _means_here(record: Record, runbook: Runbook, project: Path) -> tuple[Means, Masks]:
    """What this process's own environment gives, and the masks for what it must not tell."""
    known = {name: os.environ[env] for name, env in runbook.secrets.items() if env in os.environ}
    unknown = {name: Absent(f"the environment variable {env} is not set") for name, env in runbook.secrets.items()}
    urls, missing = _urls(runbook, project)
    variables = {item.env: urls[name] for name, item in runbook.connections.items() if item.env and name in urls}
    own = {"RUNBOOK_RUN_ID": record["run"]["id"], "RUNBOOK_PYTHON": sys.executable}
    masks = Masks(known.values())
    tools = Tools(
        folder=runbook.folder,
        environment={**os.environ, **own, **variables},
        http_urls=urls,
        query=_no_database,
        database=_no_database,
        on_output=_unheard,
        cancelled=lambda: None,
        mask=masks.incoming,
        interrupt=lambda action: None,
        hidden=frozenset(runbook.secrets.values()),
    )
    return Means(tools, {**unknown, **known}, missing), masks


def _urls(runbook: Runbook, project: Path) -> tuple[dict[str, str], dict[str, str]]:
    urls: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name, item in runbook.connections.items():
        if item.type == "http":
            try:
                with ExitStack() as stack:
                    urls |= resolve(runbook._replace(connections={name: item}), {}, project, stack).urls
            except CannotStart as error:
                missing[name] = str(error)
    return urls, missing


def _no_database(*_: Any) -> Any:
    raise CannotTell("a notification asks no database")


# --- for people ---------------------------------------------------------------------------------------------------------


def told_of(item: Mapping[str, Any]) -> str:
    """What became of one notification, in a line."""
    if item["status"] == "sent":
        return f"notify {item['name']}: sent ({duration_text(float(item['duration']))})"
    return f"notify {item['name']}: {item['status']}: {item['because']}"
