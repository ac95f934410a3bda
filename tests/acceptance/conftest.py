"""Fixtures of the acceptance tests."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import runbook
from runbook.operate.options import Options
from tests.acceptance.helpers import HEAD, Background, Run, Site


@pytest.fixture
def run(tmp_path: Path, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Loads and executes a runbook in this process: its record. `database` is the URL for DATABASE_URL."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PG") or name == "DATABASE_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def run(body: str, database: str = "", *, head: str = HEAD, **given: Any) -> dict[str, Any]:
        if database:
            monkeypatch.setenv("DATABASE_URL", database)
        named = {key: given.pop(key) for key in list(given) if key in Options._fields}
        loaded = runbook.load(write("small.yaml", head + body))
        return dict(runbook.execute(loaded, options=Options(**named), **given))

    return run


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Background]]:
    """Starts the program in the test's own folder, and kills what is left of it."""
    begun: list[Background] = []

    def start(*arguments: str, **options: Any) -> Background:
        begun.append(Background(tmp_path, *arguments, **options))
        return begun[-1]

    yield start
    for background in begun:
        background.kill()


@pytest.fixture
def site() -> Iterator[Site]:
    """An HTTP server on loopback."""
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield site
    site.server.shutdown()
    site.server.server_close()
