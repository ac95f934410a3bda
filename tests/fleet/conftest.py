"""Fixtures of the fleet's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Database, Program
from tests.fleet.parts import Fleet, orphans_ended


@pytest.fixture
def fleet(tmp_path: Path, database: Database, program: Program) -> Iterator[Fleet]:
    made = Fleet(tmp_path, database, program)
    with orphans_ended(tmp_path):
        yield made
        made.end()
