"""The `http` probe: one request. A 4xx or 5xx is no answer unless the check is about the status."""

from __future__ import annotations

from runbook.engine.ports import Answer, CannotTell
from runbook.language.expressions import Scope
from runbook.language.model import Request
from runbook.system.http import HttpError, render_request, send
from runbook.system.tools import Tools


def read(probe: Request, scope: Scope, timeout: float, tools: Tools) -> Answer:
    """Sends the request; the result is the JSON body, or the text where it is none."""
    exchange = render_request(probe, scope, tools.http_urls)
    try:
        names = send(exchange, timeout, tools)
    except HttpError as error:
        raise CannotTell(str(error)) from None
    result = names["text"] if names["json"] is None else names["json"]
    failed = names["status"] >= 400
    return Answer(result, names, f"{exchange.what}: status {names['status']}" if failed else "", "status")
