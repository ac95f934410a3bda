"""Whoever lost the lease can write nothing more: neither records nor the user's own rows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

import pytest

from runbook.database.connect import ServerError, connect
from runbook.engine.record import Event
from runbook.records.audit import Audit, Identity
from runbook.records.journal import Line
from tests.conftest import Database

ROW = [("INSERT INTO rows VALUES ('mine')", [])]


def identity(run_id: str) -> Identity:
    return Identity(run_id, "small", "Small", "k", "Ada", "here", 1, datetime.now(UTC), "", {})


@pytest.fixture
def robbed(database: Database) -> Iterator[Audit]:
    """The audit of a run whose lease another one took, with a record that waits."""
    database.run("CREATE TABLE rows (text text)")
    first, second = (Audit(partial(connect, database.url, name)) for name in ("first", "second"))
    first.open(identity("first"))
    first.add(Line(Event(1, "2025-12-10T14:35:22Z", "run.opened", {}), "{}", "", "x"))
    second.open(identity("second"))
    assert second.epoch == first.epoch + 1
    yield first
    first.close()
    second.close()


def test_the_users_rows_are_refused(robbed: Audit, database: Database) -> None:
    with pytest.raises(ServerError, match="another run has taken this lock since"):
        robbed.rows(ROW)
    assert database.rows("SELECT * FROM rows") == []


def test_records_are_refused(robbed: Audit, database: Database) -> None:
    with pytest.raises(ServerError, match="another run has taken this lock since"):
        robbed.flush()
    assert database.rows("SELECT * FROM runbook.events") == []


def test_the_closing_record_is_refused_with_the_rows_before_it(robbed: Audit, database: Database) -> None:
    closing = {"verdict": "passed", "exit_code": 0, "finished_at": datetime.now(UTC), "duration": 1}
    assert robbed.close_run(closing, ROW).status == "pending"
    assert database.rows("SELECT * FROM rows") == database.rows("SELECT * FROM runbook.closings") == []
