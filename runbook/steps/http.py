"""The `http` step: one request that acts. A 4xx or 5xx fails it unless `expect` is about the status."""

from __future__ import annotations

from runbook.engine.ports import Acted, Prepared
from runbook.language.expressions import Scope
from runbook.language.model import Request
from runbook.system.http import Exchange, HttpError, render_request, send
from runbook.system.tools import Tools


def prepare(action: Request, scope: Scope, timeout: float, tools: Tools) -> Prepared:
    """The request with its values; going, it is sent once."""
    exchange = render_request(action, scope, tools.http_urls)
    return Prepared(exchange.what, lambda: _send(exchange, timeout, tools))


def _send(exchange: Exchange, timeout: float, tools: Tools) -> Acted:
    try:
        names = send(exchange, timeout, tools)
    except HttpError as error:
        return Acted({}, str(error), cancelled=tools.cancelled() is not None)
    result = names["text"] if names["json"] is None else names["json"]
    why = f"{exchange.what}: status {names['status']}" if names["status"] >= 400 else ""
    return Acted({**names, "result": result, "stdout": names["text"]}, why, "status")
