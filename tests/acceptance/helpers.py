"""What the acceptance tests share: running a small runbook in this process or beside it, and a server on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import ROOT, Ended

HEAD = "runbook: 1\nname: small\n"
DB = "connections:\n  db: {type: postgres, env: DATABASE_URL}\n"
NO_AUDIT = "audit: {enabled: false}\n"
STATE = "state:\n  items:\n    sql: SELECT count(*) AS total FROM items\n"
ADD = "steps:\n  add:\n    sql: INSERT INTO items SELECT generate_series(1, 3)\n"
ITEMS = "CREATE TABLE items (n integer)"

Run = Callable[..., dict[str, Any]]


def lines_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The journal of a run, line by line."""
    return [json.loads(line) for line in Path(record["journal"]).read_text().splitlines()]


def kinds_of(record: Mapping[str, Any]) -> list[str]:
    return [line["kind"] for line in lines_of(record)]


def log_of(record: Mapping[str, Any]) -> str:
    """The run log of a run."""
    return Path(record["report"]).read_text()


def verdicts_of(checks: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {name: check["verdict"] for name, check in checks.items()}


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Waits for `condition` to give something true, and gives it back."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")


class Background:
    """The program, running while the test goes on; in a process group of its own, so that a signal meets it alone."""

    def __init__(self, folder: Path, *arguments: str, env: Mapping[str, str] | None = None, **options: Any) -> None:
        inherited = {k: v for k, v in os.environ.items() if k != "DATABASE_URL" and not k.startswith("PG")}
        known = {**inherited, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "XDG_STATE_HOME": str(folder / "state")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runbook", *arguments],
            cwd=folder,
            env={**known, **(env or {})},
            start_new_session=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )
        self.folder = folder

    def reached(self, text: str) -> str:
        """Waits until the journal has `text`; the journal so far."""

        def look() -> str:
            found = ""
            for path in self.folder.glob(".runbook/runs/*/journal.jsonl"):
                with suppress(FileNotFoundError):
                    found += path.read_text()
            assert self.process.poll() is None or text in found, (self.process.communicate(), found)
            return found if text in found else ""

        return str(until(look))

    def end(self, number: int | None = None, timeout: float = 60) -> Ended:
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=timeout)
        return Ended(self.process.returncode, (out or b"").decode(), (err or b"").decode())

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


class Asked(NamedTuple):
    """A request that the loopback server got."""

    method: str
    path: str
    headers: dict[str, str]
    body: str


class Site:
    """An HTTP server on loopback: `answers` maps a path to (status, headers, body); what was asked is kept."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[Asked] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(size).decode()
                site.asked.append(Asked(self.command, self.path, dict(self.headers.items()), body))
                if self.path.startswith("/slow"):
                    time.sleep(300)
                status, headers, content = site.answers.get(self.path.partition("?")[0], (404, {}, b"nothing here"))
                with suppress(OSError):
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(content)), **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_any

            def log_message(self, format: str, *args: object) -> None:
                """Keep the terminal clean."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def put(self, path: str, body: Any, status: int = 200, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers[path] = (status, {name.replace("_", "-"): value for name, value in headers.items()}, content)
