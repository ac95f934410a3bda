"""A pooler that hands sessions around is refused before a lock is taken through it; one that does not is as good as none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from runbook.database.connect import connect
from runbook.database.pooling import HandedAround
from runbook.operate.database_lock import DatabaseLock
from runbook.operate.lock import Holder, Locked
from tests.conftest import Database, Program
from tests.operate.wires import Pooler

HELD = """SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
WHERE locktype = 'advisory' AND d.datname = current_database()"""
Pool = Callable[..., Pooler]


@pytest.fixture
def pool(database: Database) -> Iterator[Pool]:
    made: list[Pooler] = []

    def pool(mode: str, size: int, *, in_turn: bool = False) -> Pooler:
        made.append(Pooler(database.url, mode, size, in_turn=in_turn))
        return made[-1]

    yield pool
    for item in made:
        item.close()


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_sessions_that_are_handed_around_are_refused(mode: str, pool: Pool, database: Database) -> None:
    for size, in_turn in ((1, False), (2, False), (2, True), (3, True), (5, False), (5, True)):
        pooler = pool(mode, size, in_turn=in_turn)
        for _ in range(3):
            lock = DatabaseLock("k", partial(connect, pooler.url, "runbook x"))
            with pytest.raises(HandedAround, match="connect to PostgreSQL itself"):
                lock.acquire(Holder("x"))
            assert database.value(HELD) == 0, (size, in_turn)
            lock.release()
    direct = DatabaseLock("k", partial(connect, database.url, "runbook y"))
    direct.acquire(Holder("y"))
    assert direct.held()
    direct.release()


def test_sessions_that_are_ones_own_are_accepted(pool: Pool, database: Database) -> None:
    other = DatabaseLock("k", partial(connect, database.url, "runbook y"))
    for size, in_turn in ((2, False), (2, True), (3, True)):
        pooler = pool("session", size, in_turn=in_turn)
        lock = DatabaseLock("k", partial(connect, pooler.url, "runbook x"))
        lock.acquire(Holder("x", "there", 1, "Ada"))
        assert lock.held() and database.value(HELD) == 1
        with pytest.raises(Locked, match="held by run x, on there, pid 1, operator Ada"):
            other.acquire(Holder("y"))
        lock.release()
        assert database.value(HELD) == 0, (size, in_turn)
    other.acquire(Holder("y"))
    other.release()


def test_the_next_client_of_a_session_finds_it_as_it_was(pool: Pool, database: Database) -> None:
    pooler = pool("session", 2)
    before = database.value("SHOW statement_timeout")
    lock = DatabaseLock("k", partial(connect, pooler.url, "runbook x"))
    lock.acquire(Holder("x"))
    lock.release()
    for _ in range(2):
        with connect(pooler.url, "next") as client:
            assert client.execute("SHOW statement_timeout").fetchone() == (before,)


def test_a_run_behind_such_a_pooler_is_errored_with_the_cure(
    pool: Pool, program: Program, write: Callable[..., Path], database: Database
) -> None:
    write(
        "small.yaml",
        "runbook: 1\nname: small\nconnections: {db: {type: postgres, env: DATABASE_URL}}\n"
        "steps: {s: {command: [touch, ran]}}\n",
    )
    ended = program("exec", "small.yaml", "--json", env={"DATABASE_URL": pool("transaction", 2).url})
    assert (ended.code, ended.document["run"]["verdict"]) == (6, "errored")
    assert "connection `db`: a pooler stands before this server" in ended.err and "port 5432" in ended.err
    assert not Path("ran").exists()
    assert database.value(HELD) == 0
