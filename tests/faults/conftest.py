"""Fixtures of the fault suite."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.parts import Project
from tests.faults.server import Server, server


@pytest.fixture(scope="session")
def own_server() -> Iterator[Server]:
    """A PostgreSQL that the tests of this folder may kill."""
    with server() as found:
        yield found


@pytest.fixture
def project(tmp_path: Path, own_server: Server) -> Iterator[Project]:
    """A project in a database of its own on the server that may be killed."""
    name = f"test_{os.urandom(6).hex()}"
    yield Project(tmp_path, own_server.database(name))
    own_server.admin(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
