"""One HTTP request: bounded in time and size, redirects only within the host that was asked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from runbook.language.expressions import EvaluationError, Scope
from runbook.language.model import Request
from runbook.language.problems import RunbookError
from runbook.language.templates import Template, render_text, render_url
from runbook.language.values import as_text, dumps, loads, to_data
from runbook.system.tools import Tools

if TYPE_CHECKING:
    import httpx

MAX_BODY = 4 * 1024 * 1024
MAX_REDIRECTS = 5


class HttpError(RunbookError):
    """No answer came: nobody listens, the time is over, the answer is too large."""


class Exchange(NamedTuple):
    """A request ready to be sent, and how to show it."""

    method: str
    url: str
    headers: dict[str, str]
    content: bytes | None
    auth: tuple[str, str] | None
    what: str


def render_request(request: Request, scope: Scope, urls: Mapping[str, str]) -> Exchange:
    """The request over `scope`. Raises EvaluationError."""
    url = render_url(request.url, scope)
    if request.connection:
        base = urls[request.connection]
        url = f"{base.rstrip('/')}/{url.lstrip('/')}" if url else base
    headers = {name: _header(render_text(template, scope)) for name, template in request.headers}
    credentials = {name: as_text(expression.evaluate(scope)) for name, expression in request.auth}
    if "bearer" in credentials:
        headers["Authorization"] = f"Bearer {_header(credentials['bearer'])}"
    content = None
    if request.json is not None:
        content = dumps(to_data(_filled(request.json, scope))).encode()
        headers.setdefault("Content-Type", "application/json")
    elif request.body is not None:
        content = render_text(request.body, scope).encode()
    basic = (credentials["username"], credentials.get("password", "")) if "username" in credentials else None
    return Exchange(request.method.upper(), url, headers, content, basic, f"{request.method.upper()} {url}")


def _header(text: str) -> str:
    if any(ord(char) < 32 and char != "\t" for char in text):
        raise EvaluationError("a header value has a control character")
    return text


def _filled(value: Any, scope: Scope) -> Any:
    if isinstance(value, Template):
        return value.value(scope)
    if isinstance(value, dict):
        return {key: _filled(item, scope) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, scope) for item in value]
    return value


def send(exchange: Exchange, timeout: float, tools: Tools) -> dict[str, Any]:
    """Sends it; what expressions know of the answer: status, headers, text, json. Raises HttpError, also when cancelled."""

    def break_off() -> None:
        raise HttpError("cancelled")

    import httpx  # before anything can be broken off: what is raised within an import may be swallowed there

    tools.interrupt(break_off)
    try:
        with httpx.Client(timeout=timeout, trust_env=False, follow_redirects=False) as client:
            if tools.cancelled() is not None:
                break_off()
            answer: dict[str, Any] = tools.mask(_send(client, exchange, timeout))
        return answer
    finally:
        tools.interrupt(None)


def _send(client: httpx.Client, exchange: Exchange, timeout: float) -> dict[str, Any]:
    import httpx

    deadline = time.monotonic() + timeout
    try:
        request = client.build_request(
            exchange.method, exchange.url, headers=exchange.headers, content=exchange.content
        )
        for _ in range(MAX_REDIRECTS + 1):
            response = client.send(request, stream=True, auth=exchange.auth or httpx.USE_CLIENT_DEFAULT)
            if response.next_request is None:
                return _answer(response, deadline, timeout)
            response.close()
            following = response.next_request
            if _origin(following.url) != _origin(request.url):
                raise HttpError(f"{exchange.url} redirects to another host, {following.url.host}: not followed")
            request = following
        raise HttpError(f"{exchange.url} redirects more than {MAX_REDIRECTS} times")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise HttpError(f"{exchange.url}: {_reason(error, timeout)}") from None


def _origin(url: Any) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _reason(error: Exception, timeout: float) -> str:
    import httpx

    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {timeout:.4g} s"
    if isinstance(error, httpx.ConnectError):
        return f"nobody answers ({error})" if str(error) else "nobody answers"
    return str(error) or type(error).__name__


def _answer(response: Any, deadline: float, timeout: float) -> dict[str, Any]:
    parts, size = [], 0
    try:
        for chunk in response.iter_bytes():
            size += len(chunk)
            parts.append(chunk)
            if size > MAX_BODY:
                raise HttpError(f"{response.url}: the answer is larger than {MAX_BODY} bytes")
            if time.monotonic() > deadline:
                raise HttpError(f"{response.url}: no whole answer within {timeout:.4g} s")
    finally:
        response.close()
    text = b"".join(parts).decode(response.encoding or "utf-8", "backslashreplace")
    given = dict(response.headers.items())
    headers = {
        **{name.title(): value for name, value in given.items()},
        **{name.lower(): value for name, value in given.items()},
    }
    return {"status": response.status_code, "headers": headers, "text": text, "json": _json(text)}


def _json(text: str) -> Any:
    try:
        return loads(text)
    except (ValueError, RecursionError):
        return None
