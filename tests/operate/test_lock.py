"""A lock tells the truth about itself: held, taken again, or lost for good; and somebody watches over it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from runbook.database.connect import ServerError, connect
from runbook.operate import database_lock, lock_session
from runbook.operate.circumstances import host
from runbook.operate.database_lock import DatabaseLock
from runbook.operate.file_lock import FileLock
from runbook.operate.guardian import Guardian
from runbook.operate.lock import Fading, Holder, Locked, lock_number
from runbook.records.audit import schema_sql
from tests.acceptance.helpers import until
from tests.conftest import ROOT, Database
from tests.operate.wires import Wire

ADA = Holder("20251210_143522-417-3f9a", "build-7", 4711, "Ada", "2025-12-10T14:35:22Z")
BOB = Holder("20251210_150000-000-b0b0", "build-8", 42, "Bob")
OTHERS = """SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()"""
HELD = """SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
WHERE locktype = 'advisory' AND d.datname = current_database()"""
Taken = Callable[..., DatabaseLock]


@pytest.fixture
def lock(database: Database) -> Iterator[Taken]:
    """Makes locks on the key `k`; all are given back."""
    made: list[DatabaseLock] = []

    def lock(holder: Holder | None = None, url: str = database.url) -> DatabaseLock:
        again = partial(connect, url, "runbook x", connect_timeout=3)
        made.append(DatabaseLock("k", partial(connect, url, "runbook x"), again))
        if holder is not None:
            made[-1].acquire(holder)
        return made[-1]

    yield lock
    for item in made:
        item.release()


@pytest.fixture
def wire(database: Database) -> Iterator[Wire]:
    wire = Wire(database.url)
    yield wire
    wire.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a test need not wait for five seconds to find out that nobody answers."""
    monkeypatch.setattr(lock_session, "ANSWER", 1.0)


def lease(database: Database, epoch: int, holder: Holder) -> None:
    """What a run that takes the lock leaves in the audit."""
    if database.value("SELECT to_regclass('runbook.leases') IS NULL"):
        database.run(schema_sql())
    values = f"'k', {epoch}, '{holder.run_id}', '{holder.host}', {holder.pid}, '{holder.operator}', now(), '-infinity'"
    database.run(f"DELETE FROM runbook.leases; INSERT INTO runbook.leases VALUES ({values})")


# --- the lock in PostgreSQL -------------------------------------------------------------------------------------------


def test_a_holder_is_known_by_its_session_alone(lock: Taken) -> None:
    lock(ADA)
    with pytest.raises(Locked) as refused:
        lock(BOB)
    assert refused.value.holder._replace(since="") == ADA._replace(since="")
    assert refused.value.cures == [
        f"watch it: on build-7: runbook watch {ADA.run_id}",
        "wait for it: the same command with --wait",
    ]


def test_a_holder_is_known_better_by_its_lease(lock: Taken, database: Database) -> None:
    lease(database, 1, ADA._replace(operator="Ada Lovelace, Countess of a very long name indeed"))
    lock(ADA)
    with pytest.raises(Locked, match="operator Ada Lovelace, Countess of a very long name indeed"):
        lock(BOB)


def test_a_session_of_somebody_else_is_not_taken_for_a_run(lock: Taken, database: Database) -> None:
    lease(database, 1, ADA)
    with psycopg.connect(database.url, autocommit=True, application_name="psql") as other:
        other.execute("SELECT pg_advisory_lock(%s)", [lock_number("k")])
        with pytest.raises(Locked, match="held by another session") as refused:
            lock(BOB)
        assert refused.value.holder.run_id == "" and len(refused.value.cures) == 1


def test_a_lost_lock_is_taken_again_where_nobody_had_it(lock: Taken, database: Database) -> None:
    lease(database, 1, ADA)
    ours = lock(ADA)
    ours.epoch = 1
    assert ours.held()
    database.run(OTHERS)
    assert not ours.held() and not ours.lost
    assert ours.regain() and ours.beat()
    assert database.value("SELECT heartbeat > now() - interval '1 hour' FROM runbook.leases")


def test_a_lost_lock_that_another_has_is_lost_for_good(lock: Taken, database: Database) -> None:
    ours = lock(ADA)
    database.run(OTHERS)
    theirs = lock(BOB)
    assert not ours.held() and not ours.regain()
    assert ours.lost.startswith(f"the lock was lost: run {BOB.run_id} on host build-8 took it at 2")
    theirs.release()
    assert not ours.regain() and not ours.held()


def test_a_lost_lock_that_another_had_is_lost_for_good(lock: Taken, database: Database) -> None:
    lease(database, 1, ADA)
    ours = lock(ADA)
    ours.epoch = 1
    database.run(OTHERS)
    lease(database, 2, BOB)
    assert not ours.held() and not ours.regain()
    assert f"run {BOB.run_id} on host build-8 took it" in ours.lost
    assert database.value(HELD) == 0


def test_a_lock_whose_lease_moved_is_lost_although_its_session_lives(lock: Taken, database: Database) -> None:
    lease(database, 1, ADA)
    ours = lock(ADA)
    ours.epoch = 1
    lease(database, 2, BOB)
    assert not ours.held() and BOB.run_id in ours.lost


def test_a_heartbeat_does_not_wait_for_a_transaction_that_holds_the_fence(
    lock: Taken, database: Database, impatient: None
) -> None:
    lease(database, 1, ADA)
    ours = lock(ADA)
    ours.epoch = 1
    with psycopg.connect(database.url) as audit:
        audit.execute("SELECT epoch FROM runbook.leases FOR SHARE")
        assert ours.beat()
        assert database.value("SELECT heartbeat = '-infinity' FROM runbook.leases")
    assert ours.beat()
    assert database.value("SELECT heartbeat > '-infinity' FROM runbook.leases")


def test_a_lease_that_cannot_be_read_is_no_lost_lock(lock: Taken, database: Database) -> None:
    lease(database, 1, ADA)
    ours = lock(ADA)
    ours.epoch = 1
    database.run("ALTER TABLE runbook.leases RENAME TO elsewhere")
    assert ours.held() and not ours.lost


def test_our_own_dead_session_is_ended(lock: Taken, wire: Wire, database: Database, impatient: None) -> None:
    ours = lock(ADA, wire.url)
    assert ours.held()
    wire.cut()
    assert not ours.held()
    assert database.value(HELD) == 1
    until(ours.regain)
    assert ours.held() and not ours.lost and database.value(HELD) == 1


def test_a_session_that_only_bears_our_name_is_left_alone(lock: Taken, database: Database) -> None:
    ours = lock(ADA)
    database.run(OTHERS)
    theirs = lock(ADA)
    assert not ours.regain() and ours.lost
    assert theirs.held()


def test_the_session_outlives_what_the_server_grants_an_idle_one(lock: Taken, database: Database) -> None:
    name = database.value("SELECT current_database()")
    database.run(f"ALTER DATABASE {name} SET idle_session_timeout = '200ms'")
    ours = lock(ADA)
    time.sleep(0.6)
    assert ours.held()


def test_the_server_is_told_to_miss_a_dead_holder(lock: Taken, database: Database) -> None:
    ours = lock(ADA)
    wanted = {"client_connection_check_interval": "5s", "idle_session_timeout": "0", "statement_timeout": "4s"}
    assert {name: ours._session._ask(f"SHOW {name}")[0] for name in wanted} == wanted


def test_a_live_run_that_lost_its_session_goes_before_others(lock: Taken, database: Database) -> None:
    for place, pid in ((host(), os.getpid()), ("build-7", 1)):
        lease(database, 1, ADA._replace(host=place, pid=pid))
        ours, theirs = lock(ADA), lock()
        ours.epoch = 1
        assert ours.beat()
        database.run(OTHERS)
        with pytest.raises(Fading):
            theirs.acquire(BOB)
        assert ours.regain() and not ours.lost
        with pytest.raises(Locked, match=ADA.run_id):
            theirs.acquire(BOB)
        ours.release()


def test_a_dead_run_is_waited_for_by_nobody_on_its_machine(lock: Taken, database: Database) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    lease(database, 1, ADA._replace(host=host(), pid=dead.pid))
    ours, theirs = lock(ADA), lock()
    ours.epoch = 1
    assert ours.beat()
    database.run(OTHERS)
    theirs.acquire(BOB)


def test_a_run_of_which_nothing_is_heard_is_waited_for_only_so_long(
    lock: Taken, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease(database, 1, ADA)
    ours, theirs = lock(ADA), lock()
    ours.epoch = 1
    assert ours.beat()
    database.run(OTHERS)
    with pytest.raises(Fading):
        theirs.acquire(BOB)
    monkeypatch.setattr(database_lock, "COURTESY", 0.0)
    theirs.acquire(BOB)


def test_a_release_gives_it_back_at_once_and_twice_is_nothing(lock: Taken, database: Database) -> None:
    ours = lock(ADA)
    ours.release()
    assert database.value(HELD) == 0
    ours.release()
    assert not ours.held() and not ours.regain()


def test_a_server_that_is_away_while_it_is_waited_for_is_waited_for_too(
    lock: Taken, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = lock(ADA)
    waiting = lock()
    for _ in range(2):
        with pytest.raises(Locked):
            waiting.acquire(BOB)
        database.run(OTHERS)
        assert holder.regain()
    with pytest.raises(Locked, match=ADA.run_id):
        waiting.acquire(BOB)
    with pytest.raises(Locked, match=ADA.run_id):
        waiting.acquire(BOB)
    database.run(OTHERS)
    monkeypatch.setattr(database_lock, "PATIENCE", 0)
    with pytest.raises(ServerError):
        waiting.acquire(BOB)
    waiting.acquire(BOB)


# --- the watch over it ------------------------------------------------------------------------------------------------


class Told:
    """Hears that a lock was lost."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def __call__(self, because: str) -> None:
        self.reasons.append(because)


@pytest.fixture
def watch() -> Iterator[Callable[..., Told]]:
    begun: list[Guardian] = []

    def watch(lock: Any, epoch: int | None = None) -> Told:
        told = Told()
        begun.append(Guardian(lock, epoch, told))
        begun[-1].start()
        return told

    yield watch
    for guardian in begun:
        guardian.stop()


def test_a_lost_lock_is_taken_again_without_a_word(lock: Taken, watch: Callable[..., Told], database: Database) -> None:
    lease(database, 1, ADA)
    told = watch(lock(ADA), 1)
    for _ in range(3):
        database.run(OTHERS)
        until(lambda: database.value(HELD) == 1)
    with pytest.raises(Locked):
        lock(BOB)
    assert told.reasons == []


def test_a_lock_that_is_lost_for_good_is_told_until_it_is_heard(
    lock: Taken,
    watch: Callable[..., Told],
    wire: Wire,
    database: Database,
    impatient: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runbook.operate.guardian.PING", 0.05)
    told = watch(lock(ADA, wire.url))
    wire.cut(for_good=True)
    database.run(OTHERS)
    lock(BOB)
    wire.taking = True
    until(lambda: len(told.reasons) > 1)
    assert {f"the lock was lost: run {BOB.run_id} on host build-8" in reason for reason in told.reasons} == {True}


def test_the_heartbeat_goes_on_by_itself(
    lock: Taken, watch: Callable[..., Told], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runbook.operate.guardian.PING", 0.05)
    lease(database, 1, ADA)
    watch(lock(ADA), 1)
    beat = partial(database.value, "SELECT heartbeat::text FROM runbook.leases")
    first = until(lambda: beat() != "-infinity" and beat())
    until(lambda: beat() != first)


@pytest.mark.parametrize("taking", [True, False])
def test_a_dead_server_does_not_hold_up_the_end(
    taking: bool, lock: Taken, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runbook.operate.guardian.PING", 0.05)
    monkeypatch.setattr(lock_session, "ANSWER", 0.5 if not taking else 60.0)
    ours = lock(ADA, wire.url)
    guardian = Guardian(ours, None, Told())
    guardian.start()
    wire.cut(for_good=not taking)
    time.sleep(1.0 if not taking else 0.3)
    guardian.stop()
    released = threading.Thread(target=ours.release, daemon=True)
    released.start()
    released.join(30)
    assert not released.is_alive()


def test_a_watch_that_fails_is_a_lock_that_is_lost(watch: Callable[..., Told]) -> None:
    class Broken(FileLock):
        def beat(self) -> bool:
            raise MemoryError("none left")

        def rest(self, seconds: float) -> None:
            time.sleep(0.01)

    told = watch(Broken("k"))
    until(lambda: told.reasons)
    assert told.reasons == ["the lock cannot be watched any more (MemoryError: none left)"]


# --- the lock in a file -----------------------------------------------------------------------------------------------


def test_a_file_tells_who_has_it_and_where_its_journal_is(tmp_path: Path) -> None:
    first, second = FileLock("k", tmp_path), FileLock("k", tmp_path)
    assert first.acquire(ADA) is None
    first.note(ADA._replace(journal="/somewhere/journal.jsonl"))
    with pytest.raises(Locked) as refused:
        second.acquire(BOB)
    assert refused.value.holder == ADA._replace(journal="/somewhere/journal.jsonl")
    first.note(BOB)
    with pytest.raises(Locked) as refused:
        second.acquire(BOB)
    assert refused.value.holder == BOB
    first.release()
    assert second.acquire(BOB) is None and second.held()


def test_the_note_of_the_dead_is_found(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from runbook.operate.file_lock import FileLock\n"
        "from runbook.operate.lock import Holder\n"
        "FileLock('k', Path(sys.argv[1])).acquire(Holder('dead', journal='/j')); print('taken', flush=True); time.sleep(300)"
    )
    dead = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert dead.stdout is not None and dead.stdout.readline() == b"taken\n"
    with pytest.raises(Locked):
        FileLock("k", tmp_path).acquire(BOB)
    dead.kill()
    dead.communicate()
    lock = FileLock("k", tmp_path)
    assert lock.acquire(BOB) == Holder("dead", journal="/j")
    lock.release()  # before it had a journal of its own: it may have been refused because of the dead one's
    assert lock.acquire(BOB) == Holder("dead", journal="/j")
    lock.note(BOB._replace(journal="/own"))
    lock.release()
    assert FileLock("k", tmp_path).acquire(BOB) is None


def test_a_file_that_was_removed_is_noticed_and_put_back(tmp_path: Path) -> None:
    lock = FileLock("k", tmp_path)
    lock.acquire(ADA)
    assert lock.held() and lock.regain()
    [path] = tmp_path.iterdir()
    path.unlink()
    assert not lock.held()
    assert lock.regain() and lock.held()
    assert json.loads(path.read_bytes())["run_id"] == ADA.run_id
    with pytest.raises(Locked):
        FileLock("k", tmp_path).acquire(BOB)


@pytest.mark.parametrize("over", [False, True])
def test_a_file_that_another_took_meanwhile_is_lost_for_good(over: bool, tmp_path: Path) -> None:
    ours, theirs = FileLock("k", tmp_path), FileLock("k", tmp_path)
    ours.acquire(ADA)
    next(tmp_path.iterdir()).unlink()
    assert theirs.acquire(BOB) is None
    if over:
        theirs.release()
    assert not ours.held() and not ours.regain()
    assert ours.lost.startswith("the lock was lost: " + ("another" if over else f"run {BOB.run_id} on host build-8"))
    assert not ours.regain()


def test_a_file_that_is_removed_while_it_is_taken_is_taken_anew(tmp_path: Path) -> None:
    armed = []

    def remove(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "fcntl.flock" and armed:
            os.unlink(armed.pop())

    sys.addaudithook(remove)
    lock = FileLock("k", tmp_path)
    lock.acquire(ADA)
    lock.release()
    [path] = tmp_path.iterdir()
    armed.append(path)
    lock.acquire(ADA)
    assert not armed and lock.held() and path.exists()


def test_a_file_that_is_lost_is_told(
    tmp_path: Path, watch: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runbook.operate.guardian.PING", 0.05)
    ours, theirs = FileLock("k", tmp_path / "a"), FileLock("k", tmp_path / "a")
    ours.acquire(ADA)
    os.rename(tmp_path / "a", tmp_path / "b")
    theirs.acquire(BOB)
    told = watch(ours)
    until(lambda: told.reasons)
    assert f"run {BOB.run_id} on host build-8 took it" in told.reasons[0]


def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    from runbook.operate.servers import CannotStart

    with pytest.raises(CannotStart, match="cannot be used: Not a directory"):
        FileLock("k", tmp_path / "file" / "locks").acquire(ADA)


def test_signals_do_not_end_up_in_the_watch(lock: Taken, watch: Callable[..., Told]) -> None:
    watch(lock(ADA))
    thread = until(lambda: [item for item in threading.enumerate() if item.name == "runbook lock"])[0]
    status = Path(f"/proc/self/task/{thread.native_id}/status")
    if not status.exists():
        pytest.skip("only where the system tells of its threads")
    until(lambda: _blocked(status) >> (signal.SIGTERM - 1) & 1)


def _blocked(status: Path) -> int:
    return int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigBlk")), 16)
