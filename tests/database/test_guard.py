"""Guarded transactions on a real server: one within another, and one that something has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from runbook.database.connect import Connection, ServerError
from runbook.database.guard import Snapshots
from tests.conftest import Database

COUNT = "SELECT count(*) FROM items"


class Guarded:
    """Snapshots of one database; `sessions` are their connections, in the order in which they were opened."""

    def __init__(self, url: str, *, traced: bool) -> None:
        self.sessions: list[Connection] = []
        opened = lambda name, connection: self.sessions.append(connection)  # noqa: E731
        ignored = lambda action: None  # noqa: E731
        self.snapshots = Snapshots(lambda name: url, "test", 10, opened, ignored, traced=traced)


@pytest.fixture(params=[True, False])
def guarded(database: Database, request: pytest.FixtureRequest) -> Iterator[Guarded]:
    database.run("CREATE TABLE items (n integer)")
    guarded = Guarded(database.url, traced=request.param)
    with closing(guarded.snapshots):
        yield guarded


def test_a_snapshot_within_another_sees_its_own_moment_and_leaves_the_other_as_it_was(
    guarded: Guarded, database: Database
) -> None:
    def ask(query: Any, statement: str = COUNT) -> Any:
        return query("db", statement, (), 10).rows[0][0]

    for round_ in range(2):
        with guarded.snapshots.open() as outer:
            assert ask(outer) == round_ * 2
            for inner_round in (1, 2):
                database.run("INSERT INTO items VALUES (1)")
                with guarded.snapshots.open() as inner:
                    assert ask(inner) == round_ * 2 + inner_round
            assert ask(outer) == round_ * 2
            with pytest.raises(ServerError, match="read-only transaction"):
                ask(outer, "INSERT INTO items VALUES (1) RETURNING 1")
    assert database.value(COUNT) == 4
    assert len(guarded.sessions) == 2, "one for each depth, and used again"


def test_where_the_transaction_was_ended_nothing_more_is_asked(guarded: Guarded, database: Database) -> None:
    with guarded.snapshots.open() as query:
        query("db", COUNT, (), 10)
        guarded.sessions[0].execute("ROLLBACK")
        for _ in range(2):
            with pytest.raises(ServerError, match="not asked"):
                query("db", "INSERT INTO items VALUES (1) RETURNING 1", (), 10)
    assert database.value(COUNT) == 0


def test_what_was_read_is_told_until_the_connection_is_lost(guarded: Guarded, database: Database) -> None:
    traced = guarded.snapshots._traced
    with guarded.snapshots.open() as query:
        query("db", COUNT, (), 10)
    pid = guarded.sessions[0].info.backend_pid
    found = guarded.snapshots.read()
    assert (set(found["db"]) == {"public.items"}) if traced else found == {}
    database.run("CREATE TABLE more (n integer)")
    with guarded.snapshots.open() as query:
        query("db", "SELECT count(*) FROM more", (), 10)
        database.run(f"SELECT pg_terminate_backend({pid}, 5000)")
    assert guarded.snapshots.read() == found
    with guarded.snapshots.open() as query:
        assert query("db", COUNT, (), 10).rows == [(0,)]


def test_a_session_that_dies_while_it_is_asked_tells_nothing(guarded: Guarded, database: Database) -> None:
    with guarded.snapshots.open() as query:
        query("db", COUNT, (), 10)
    database.run(f"SELECT pg_terminate_backend({guarded.sessions[0].info.backend_pid}, 5000)")
    guarded.snapshots.read()
    with guarded.snapshots.open() as query:
        assert query("db", COUNT, (), 10).rows == [(0,)]
