"""Real parts for tests: one PostgreSQL a test run, a clone of a template database a test, the program as a process."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import psycopg
import pytest
from hypothesis import settings
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runbook.database.embedded import Embedded, embedded_database
from runbook.system import tree

ROOT = Path(__file__).resolve().parent.parent
WF3001 = [ROOT / "runbooks" / "wf3001" / name for name in ("schema.sql", "data.sql")]


_FOLDER = "RUNBOOK_TEST_SERVER"

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _no_subreaper_afterwards() -> Iterator[None]:
    """Leaves the test process as it was: another test's orphans are not its children, and none is left unburied."""
    yield
    tree._adopt_orphans.cache_clear()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(tree.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
                if child.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(child.pid, os.WNOHANG)


def pytest_configure(config: pytest.Config) -> None:
    """One folder for all workers of a test run, so that they share one server; its account must be able to pass."""
    if _FOLDER not in os.environ:
        os.environ[_FOLDER] = tempfile.mkdtemp(prefix="runbook-tests-")
        Path(os.environ[_FOLDER]).chmod(0o711)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(_FOLDER), ignore_errors=True)


@pytest.fixture(scope="session")
def server_folder() -> Path:
    return Path(os.environ[_FOLDER]) / "server"


@pytest.fixture(scope="session")
def blank(server_folder: Path) -> Iterator[Embedded]:
    """An empty template database."""
    with embedded_database(server_folder, "blank", []) as embedded:
        yield embedded


@pytest.fixture(scope="session")
def seeded(server_folder: Path) -> Iterator[Embedded]:
    """The template database of WF3001."""
    with embedded_database(server_folder, "wf3001", WF3001) as embedded:
        yield embedded


class Database(NamedTuple):
    """A test's own database: `url` may write, `read_url` may not."""

    url: str
    read_url: str

    def run(self, sql: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql)  # type: ignore[arg-type]

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(sql).fetchall()  # type: ignore[arg-type]

    def value(self, sql: str) -> Any:
        return self.rows(sql)[0][0]


def clone(template: Embedded, name: str) -> Iterator[Database]:
    source = conninfo_to_dict(template.url)["dbname"]
    with psycopg.connect(make_conninfo(template.url, dbname="postgres"), autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{source}"')  # type: ignore[arg-type]
        admin.execute(f'REVOKE CREATE, TEMPORARY ON DATABASE "{name}" FROM PUBLIC')  # type: ignore[arg-type]
        try:
            yield Database(_renamed(template.url, str(source), name), _renamed(template.read_url, str(source), name))
        finally:
            _drop(admin, name)


def _drop(admin: psycopg.Connection[Any], name: str) -> None:
    """FORCE may not end another role's session; one that has just been closed is gone in a moment."""
    deadline = time.monotonic() + 30
    while True:
        try:
            admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')  # type: ignore[arg-type]
            return
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectInUse):
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def _renamed(url: str, old: str, new: str) -> str:
    return url.replace(f"/{old}?", f"/{new}?")


@pytest.fixture
def database(blank: Embedded) -> Iterator[Database]:
    """An empty database of the test's own."""
    yield from clone(blank, f"test_{os.urandom(6).hex()}")


@pytest.fixture
def example(seeded: Embedded) -> Iterator[Database]:
    """A freshly seeded WF3001 database of the test's own."""
    yield from clone(seeded, f"test_{os.urandom(6).hex()}")


@pytest.fixture
def example_database(example: Database) -> str:
    """The URL of a freshly seeded WF3001 database of the test's own."""
    return example.url


class Ended(NamedTuple):
    """How a command of the program ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.out)
        return loaded


Program = Callable[..., Ended]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Runs `runbook ARGUMENT...` as a process, in the test's own folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, env: dict[str, str] | None = None, timeout: float = 60, cwd: Path = tmp_path) -> Ended:
        inherited = {k: v for k, v in os.environ.items() if k != "DATABASE_URL" and not k.startswith("PG")}
        known = {
            **inherited,
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
            "XDG_STATE_HOME": str(tmp_path / "state"),
            **(env or {}),
        }
        done = subprocess.run(
            [sys.executable, "-m", "runbook", *arguments],
            env=known,
            cwd=cwd,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file below the test's own folder, and the folders above it."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write
