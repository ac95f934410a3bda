"""The models of an Ollama: their names and digests, asked beside the start of a run and never waited for long."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from runbook.language.model import Check, Request, Runbook, State
from runbook.system.http import Exchange, HttpError, send
from runbook.system.tools import Tools

WITHIN = 3.0  # seconds in which it must answer
PATIENCE = 0.2  # seconds for which a run waits when it needs the answer
MODELS = 200
LONGEST = 200  # characters of a name or a digest
LATE = "no answer in time"
_PATHS = ("ps", "tags", "generate", "chat", "show", "embed")

Found = dict[str, str] | str


def ollamas(runbook: Runbook) -> list[str]:
    """The http connections that lead to an Ollama: by their variable, their name, or what is read from them."""
    asked = {request.connection for request in _requests(runbook) if _is_its_own(request)}
    return [
        name
        for name, item in runbook.connections.items()
        if item.type == "http" and (item.env == "OLLAMA_HOST" or "ollama" in name.lower() or name in asked)
    ]


def _requests(runbook: Runbook) -> Iterator[Request]:
    parts: list[State | Check] = [*runbook.state, *runbook.preflight, *runbook.postconditions]
    return (part.probe for part in parts if isinstance(part.probe, Request) and part.probe.connection)


def _is_its_own(request: Request) -> bool:
    path = request.url.source.lstrip("/").partition("?")[0]
    return path.rstrip("/") in {f"api/{name}" for name in _PATHS}


class Asking:
    """Asks each of the `urls` (by connection) for its models, in threads that hold nobody up."""

    def __init__(self, urls: Mapping[str, str], tools: Tools) -> None:
        self._found: dict[str, Found] = {}
        self._tools = tools._replace(interrupt=lambda action: None, cancelled=lambda: None)
        self._names = list(urls)
        self._threads = [threading.Thread(target=self._ask, args=item, daemon=True) for item in urls.items()]
        for thread in self._threads:
            thread.start()

    def answers(self, *, patient: bool) -> dict[str, Found]:
        """Names and digests by connection, or why there are none; what is missing is waited for a moment, if at all."""
        deadline = time.monotonic() + (PATIENCE if patient else 0)
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
        return {name: self._found.get(name, LATE) for name in self._names}

    def _ask(self, name: str, url: str) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._found[name] = _models(url, self._tools)


def _models(url: str, tools: Tools) -> Found:
    address = f"{url.rstrip('/')}/api/tags"
    try:
        _knock(url)
        answer = send(Exchange("GET", address, {}, None, None, f"GET {address}"), WITHIN, tools)
    except (HttpError, OSError, ValueError) as error:
        return f"no answer: {getattr(error, 'strerror', None) or error}"
    if answer["status"] != 200:
        return f"no answer: status {answer['status']}"
    found = _digests(answer["json"])
    return "no answer: this is no list of models" if found is None else found


def _knock(url: str) -> None:
    """Whether somebody listens, found out before the HTTP client is imported, which costs more. Raises OSError or ValueError."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    socket.create_connection((parts.hostname or "", port), WITHIN).close()


def _digests(answer: Any) -> dict[str, str] | None:
    """Digests by model, the first so many by name; None where the answer is something else."""
    models = answer.get("models") if isinstance(answer, Mapping) else None
    if not isinstance(models, list) or not all(isinstance(model, Mapping) for model in models):
        return None
    found = {str(model.get("name", ""))[:LONGEST]: str(model.get("digest", ""))[:LONGEST] for model in models}
    return {name: found[name] for name in sorted(found)[:MODELS]}
