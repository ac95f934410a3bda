"""Throw-away copies of a database: made both ways, on a real server, and gone afterwards whatever happens."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runbook.database import clone, copies, dump
from runbook.database.clone import Plan, copied, drop_leftovers, leftovers, plan_copy, renamed
from runbook.database.connect import ServerError
from runbook.database.embedded import Embedded, embedded_database
from runbook.records.audit import schema_sql
from tests.conftest import Database

PROJECT = Path(__file__).resolve().parents[2]
FAST = "/dev/shm" if os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > 1 << 30 else "/tmp"
SOON = 30.0  # seconds: what should happen at once may take so long on a machine that is busy
ODD = """Wörk "db" it's %s-1 ${x}"""
WAYS = pytest.mark.parametrize("how", ["template", "dump"])

MAKER = """
import sys
from runbook.database.clone import copied
with copied(sys.argv[1], sys.argv[2], on_plan=lambda plan: print(plan.how, flush=True)) as copy:
    print(copy.name, flush=True)
    sys.stdin.read()
"""

CONTENTS = """
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE SCHEMA "odd Schema";
CREATE TABLE "odd Schema"."odd Table" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, mood mood, twice int
    GENERATED ALWAYS AS (id * 2) STORED, note text, raw bytea, many int[], data jsonb, n positive);
INSERT INTO "odd Schema"."odd Table" (mood, note, raw, many, data, n)
    SELECT 'sad', E'tab\\t\\\\ ünïcode ' || i, decode('00ff', 'hex'), ARRAY[i, NULL], '{"a": 1.10}', i
    FROM generate_series(1, 500) i;
DELETE FROM "odd Schema"."odd Table" WHERE id > 450;
CREATE TABLE child (id int REFERENCES "odd Schema"."odd Table", at timestamptz DEFAULT '2020-01-01 UTC');
INSERT INTO child SELECT 7;
CREATE TABLE parted (id int, part int) PARTITION BY LIST (part);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
INSERT INTO parted VALUES (5, 1);
CREATE SEQUENCE tickets START 100; SELECT nextval('tickets'), nextval('tickets');
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.part := 1; RETURN NEW; END $$;
CREATE TRIGGER shouting BEFORE INSERT ON parted FOR EACH ROW EXECUTE FUNCTION shout();
CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM "odd Schema"."odd Table";
CREATE VIEW seen AS SELECT id FROM child;
CREATE UNLOGGED TABLE loose AS SELECT 1 AS one;
CREATE INDEX ON child (at);
COMMENT ON TABLE child IS 'a child''s table';
GRANT SELECT ON child TO runbook_reader;
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO runbook_reader;
SELECT lo_from_bytea(4711, decode('0102', 'hex'));
ALTER DATABASE {name} SET search_path = 'odd Schema', "$user", public;
ALTER DATABASE {name} SET statement_timeout = '1min';
ALTER DATABASE {name} SET application_name = 'it''s, "this"';
ALTER ROLE runbook_owner IN DATABASE {name} SET work_mem = '5MB';
REVOKE ALL ON DATABASE {name} FROM PUBLIC;
GRANT CONNECT ON DATABASE {name} TO runbook_reader WITH GRANT OPTION;
"""


@pytest.fixture(scope="module")
def blank() -> Iterator[Embedded]:
    """An empty template database on a server of our own, in memory: databases come and go here all the time."""
    with tempfile.TemporaryDirectory(prefix="runbook-clone-", dir=FAST) as folder:
        os.chmod(folder, 0o711)
        with embedded_database(Path(folder) / "server", "blank", []) as embedded:
            yield embedded


def new_id() -> str:
    return f"20261123_014146-105-{secrets.token_hex(4)}"


def root_of(url: str) -> str:
    """The URL of the superuser, on the database from where others are made."""
    return make_conninfo(url, user="postgres", dbname="postgres")


def ask(url: str, query: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        cursor = connection.execute(query, values or None)
        return cursor.fetchall() if cursor.description else []


def exists(url: str, name: str) -> bool:
    return bool(ask(root_of(url), "SELECT 1 FROM pg_database WHERE datname = %s", name))


def until(condition: Callable[[], bool], seconds: float = SOON) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)


def dumped(url: str) -> str:
    """All that pg_dump tells of a database: definitions, rights, comments, rows, sequences, large objects."""
    version = int(ask(url, "SHOW server_version_num")[0][0]) // 10000
    programs = dump.find_dump_programs(version)
    done = subprocess.run([programs.folder / "pg_dump", "--dbname", url], capture_output=True, text=True, check=True)
    return re.sub(r"^\\(un)?restrict .*\n", "", done.stdout, flags=re.M)


def outside(url: str) -> list[Any]:
    """What a database is from outside: owner, locale, rights, settings."""
    row = "SELECT to_jsonb(d) - '{oid,datname,datacl,datfrozenxid,datminmxid,datlastsysoid}'::text[]"
    rights = "SELECT grantee::regrole::text, privilege_type, is_grantable FROM aclexplode(d.datacl) ORDER BY 1, 2"
    settings = """SELECT setrole::regrole::text, unnest(setconfig) FROM pg_db_role_setting
        WHERE setdatabase = d.oid ORDER BY 1, 2"""
    return ask(
        url,
        f"{row}, ARRAY(SELECT a::text FROM ({rights}) a), ARRAY(SELECT s::text FROM ({settings}) s)"
        " FROM pg_database d WHERE datname = current_database()",
    )


def checksum(url: str) -> dict[str, str]:
    """A checksum of the rows of every table."""
    names = ask(url, "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'm') AND oid >= 16384 ORDER BY 1")
    query = "SELECT coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), 'empty') FROM {} t"
    return {name: ask(url, query.format(name))[0][0] for (name,) in names}


@contextmanager
def in_use(url: str, how: str = "dump", application: str = "somebody") -> Iterator[None]:
    """Somebody is on the database, where the copy is to be dumped."""
    if how == "template":
        yield
        return
    with closing(psycopg.connect(url, application_name=application)):
        yield


@contextmanager
def held(url: str, statement: str) -> Iterator[psycopg.Connection]:
    """A transaction that has run a statement, and not ended."""
    with closing(psycopg.connect(url)) as connection:
        connection.execute(statement)
        yield connection


@contextmanager
def made(url: str, *, name: str = ODD, owner: str = "runbook_owner", options: str = "") -> Iterator[str]:
    """The URL of a database of one's own; `%s` in its name makes it so."""
    name = name.replace("%s", secrets.token_hex(4))
    root, words = root_of(url), sql.Identifier(name).as_string(None)
    with closing(psycopg.connect(root, autocommit=True)) as connection:
        connection.execute(f"CREATE DATABASE {words} OWNER {owner} {options}")
        try:
            yield renamed(url, name)
        finally:
            connection.execute(f"DROP DATABASE IF EXISTS {words} WITH (FORCE)")


@contextmanager
def role_named(url: str, options: str) -> Iterator[str]:
    name = f'Röle "{secrets.token_hex(4)}"'
    words = sql.Identifier(name).as_string(None)
    with closing(psycopg.connect(root_of(url), autocommit=True)) as connection:
        connection.execute(f"CREATE ROLE {words} LOGIN {options}")
        try:
            yield name
        finally:
            until(lambda: not ask(url, "SELECT 1 FROM pg_stat_activity WHERE usename = %s", name))
            connection.execute(f"DROP ROLE {words}")


@contextmanager
def maker(url: str, run_id: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that makes a copy and keeps it; it says the way, and then the copy's name."""
    known = {**os.environ, "PYTHONPATH": str(PROJECT), **env}
    argv = [sys.executable, "-c", MAKER, url, run_id]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=known) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# --- what a copy is -------------------------------------------------------------------------------------------------


@WAYS
def test_a_copy_equals_its_source_which_stays_as_it_was(database: Database, how: str) -> None:
    run_id = new_id()
    with made(database.url) as url:
        name = sql.Identifier(str(conninfo_to_dict(url)["dbname"])).as_string(None)
        ask(url, CONTENTS.replace("{name}", name))
        before = checksum(url), dumped(url), outside(url)
        with in_use(url, how), copied(url, run_id) as copy:
            assert (copy.how, copy.name, copy.notes) == (how, f"runbook_copy_{run_id}", ())
            assert ask(copy.url, "SELECT current_database(), current_user") == [(copy.name, "runbook_owner")]
            assert checksum(copy.url) == before[0]
            assert dumped(copy.url) == before[1]
            assert outside(copy.url) == before[2]
            assert ask(copy.url, "SHOW search_path") == [('"odd Schema", "$user", public',)]
            comment = ask(
                copy.url, "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", copy.name
            )
            ask(copy.url, 'DELETE FROM child; DROP TABLE loose; UPDATE "odd Schema"."odd Table" SET note = NULL')
        assert re.fullmatch(
            rf"runbook: throw-away copy of Wörk .* for run {run_id}, made at 2\d.*\+00:00", comment[0][0]
        )
        assert not exists(url, copy.name)
        assert (checksum(url), dumped(url), outside(url)) == before


@WAYS
def test_a_copy_has_the_source_s_statistics_of_its_columns(database: Database, how: str) -> None:
    database.run("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i; ANALYZE t")
    with in_use(database.url, how), copied(database.url, new_id()) as copy:
        assert ask(copy.url, "SELECT n_distinct FROM pg_stats WHERE tablename = 't'") == [(-1.0,)]


@pytest.mark.parametrize("options", ["ENCODING 'LATIN1' LOCALE 'C'", "LOCALE_PROVIDER icu ICU_LOCALE 'de'"])
def test_a_dump_keeps_encoding_and_locale(database: Database, options: str) -> None:
    try:
        with (
            made(database.url, options=f"TEMPLATE template0 {options}") as url,
            in_use(url),
            copied(url, new_id()) as copy,
        ):
            assert copy.how == "dump"
            assert outside(copy.url) == outside(url)
    except psycopg.errors.FeatureNotSupported as error:
        pytest.skip(str(error))


@WAYS
def test_a_copy_has_no_audit(database: Database, how: str) -> None:
    database.run(schema_sql())
    database.run(
        "INSERT INTO runbook.runs VALUES ('r', 'x', 't', 'l', 'me', 'me', 'h', 1, now(), 1, '', '{}');"
        " CREATE VIEW public.mine AS SELECT run_id FROM runbook.history;"
        " ALTER TABLE runbook.closings ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"  # its rows are not to be had
    )
    with in_use(database.url, how), copied(database.url, new_id()) as copy:
        assert ask(copy.url, "SELECT to_regnamespace('runbook')") == [(None,)]
        assert copy.notes == ("the copy is without the views on the audit: mine",)
        ask(copy.url, schema_sql())
    assert database.value("SELECT run_id FROM public.mine") == "r"


def test_a_schema_that_is_not_the_audit_s_is_copied(database: Database) -> None:
    database.run("CREATE SCHEMA runbook; CREATE TABLE runbook.recipes AS SELECT 'soup' AS name")
    for how in ("template", "dump"):
        with in_use(database.url, how), copied(database.url, new_id()) as copy:
            assert ask(copy.url, "SELECT name FROM runbook.recipes") == [("soup",)]


def test_a_dump_of_a_database_without_public(database: Database) -> None:
    with made(database.url) as url:
        ask(renamed(root_of(url), str(conninfo_to_dict(url)["dbname"])), "DROP SCHEMA public")
        with in_use(url), copied(make_conninfo(url, user="postgres"), new_id()) as copy:
            assert ask(copy.url, "SELECT to_regnamespace('public')") == [(None,)]


def test_the_url_for_reading_leads_to_the_copy_too(database: Database) -> None:
    with copied(database.url, new_id(), read_url=database.read_url) as copy:
        assert ask(copy.read_url, "SELECT current_database(), current_user") == [(copy.name, "runbook_reader")]
    with copied(database.url, new_id()) as copy:
        assert copy.read_url == copy.url


def test_a_url_for_reading_that_leads_elsewhere_is_refused(database: Database, blank: Embedded) -> None:
    with pytest.raises(ServerError, match=r"leads to another place .* unset the URL for reading"):
        plan_copy(database.url, read_url=blank.read_url)


def test_one_run_may_copy_more_than_one_database(database: Database) -> None:
    run_id = new_id()
    with copied(database.url, run_id) as first, copied(database.url, run_id) as second:
        assert (first.name, second.name) == (f"runbook_copy_{run_id}", f"runbook_copy_{run_id}_2")
        assert ask(second.url, "SELECT current_database()") == [(second.name,)]
    assert not exists(database.url, first.name) and not exists(database.url, second.name)


def test_what_is_no_part_of_a_copy_is_told(database: Database) -> None:
    name = conninfo_to_dict(database.url)["dbname"]
    ask(root_of(database.url), f"ALTER DATABASE {name} SET log_min_duration_statement = 7")
    ask(
        make_conninfo(database.url, user="postgres"),
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER far FOREIGN DATA WRAPPER w",
    )
    with copied(database.url, new_id()) as copy:
        outward, setting = copy.notes
    assert outward == f"foreign tables lead out of the copy, to the same place as in {name}: far"
    assert setting.startswith("a setting is not carried over: ALTER DATABASE")
    assert "SET \"log_min_duration_statement\" TO '7' (permission denied" in setting


# --- which way ------------------------------------------------------------------------------------------------------


def test_a_plan_says_how_and_why_how_big_and_how_long(database: Database) -> None:
    name = conninfo_to_dict(database.url)["dbname"]
    alone = plan_copy(database.url)
    assert (alone.source, alone.how) == (name, "template")
    assert alone.size == database.value("SELECT pg_database_size(current_database())")
    with in_use(database.url, application="worker"), in_use(database.url, application=""):
        plan = plan_copy(database.url)
    assert plan.how == "dump" and plan.seconds > alone.seconds
    assert re.fullmatch(
        rf"copy database {name} \(\d\.\d MB\) by dump and restore: 2 other sessions on it \(without a name, worker\);"
        r" about 0\.\d+ s",
        plan.text,
    )


def test_a_session_that_is_about_to_end_does_not_count(database: Database) -> None:
    with closing(psycopg.connect(database.url)) as session:
        threading.Timer(0.1, session.close).start()
        assert plan_copy(database.url).how == "template"


def test_somebody_who_comes_between_the_plan_and_the_copy_turns_it_into_a_dump(database: Database) -> None:
    database.run("CREATE TABLE t AS SELECT 42 AS i")
    plans: list[Plan] = []
    sessions: list[psycopg.Connection] = []

    def come(plan: Plan) -> None:
        plans.append(plan)
        sessions.append(psycopg.connect(database.url))

    with copied(database.url, new_id(), on_plan=come) as copy:
        assert ask(copy.url, "SELECT i FROM t") == [(42,)]
    assert [plan.how for plan in plans] == ["template", "dump"]
    assert plans[1].because == "another session has just come to use it"
    for session in sessions:
        session.close()


def test_whoever_hears_the_plan_may_call_it_off(database: Database) -> None:
    run_id = new_id()

    def refuse(plan: Plan) -> None:
        raise PermissionError

    with pytest.raises(PermissionError), copied(database.url, run_id, on_plan=refuse):
        pytest.fail("was made")
    assert not exists(database.url, f"runbook_copy_{run_id}")


def test_programs_newer_than_the_server_will_do(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    version = int(database.value("SHOW server_version_num")) // 10000
    try:
        programs = dump.find_dump_programs(version + 1)
    except ServerError:
        pytest.skip("there are no newer ones here")
    monkeypatch.setattr(dump, "_folders", lambda: [programs.folder])
    database.run("CREATE TABLE t AS SELECT 42 AS i")
    with in_use(database.url), copied(database.url, new_id()) as copy:
        assert ask(copy.url, "SELECT i FROM t") == [(42,)]
    with made(database.url) as url, in_use(url):
        ask(renamed(root_of(url), str(conninfo_to_dict(url)["dbname"])), "CREATE EXTENSION file_fdw")
        with pytest.raises(ServerError, match="permission denied to create extension"), copied(url, new_id()):
            pytest.fail("was restored")


def test_a_dump_without_programs_is_refused_with_the_cure(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("pg_dump", "pg_restore"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) 9.6.24'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(dump, "SYSTEM_FOLDERS", ())
    monkeypatch.setattr(dump, "SUPPLIER", "no_such_package")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert plan_copy(database.url).how == "template"
    with in_use(database.url), pytest.raises(ServerError) as refused:
        plan_copy(database.url)
    assert re.search(
        rf"can only be copied by a dump \(1 other session on it \(somebody\)\), and there is no pg_dump of version \d+ or"
        rf" newer \(only 9 in {tmp_path}\): install .*; or end what uses it$",
        str(refused.value),
    )
    monkeypatch.setenv("PATH", "/nowhere")
    with in_use(database.url), pytest.raises(ServerError, match="newer \\(none was found\\): install"):
        plan_copy(database.url)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (
            "CREATE TABLE theirs (); ALTER TABLE theirs OWNER TO runbook_reader, ENABLE ROW LEVEL SECURITY,"
            " FORCE ROW LEVEL SECURITY",
            'pg_dump: .*would be affected by row-level security policy for table "theirs"',
        ),
        ("CREATE TABLE theirs ()", "pg_restore: .*ALTER TABLE public.theirs OWNER TO postgres"),
        ("CREATE EXTENSION file_fdw", "pg_restore: .*permission denied to create extension .file_fdw."),
    ],
)
def test_a_dump_that_fails_leaves_nothing(database: Database, statement: str, reason: str) -> None:
    run_id = new_id()
    with made(database.url) as url, in_use(url):
        ask(renamed(root_of(url), str(conninfo_to_dict(url)["dbname"])), statement)
        with (
            pytest.raises(ServerError, match=f"(?s){reason}.*as a superuser, or with nobody else on"),
            copied(url, run_id),
        ):
            pytest.fail("was restored")
        assert not exists(url, f"runbook_copy_{run_id}")
        with suppress(psycopg.Error):
            ask(renamed(root_of(url), str(conninfo_to_dict(url)["dbname"])), "DROP EXTENSION IF EXISTS file_fdw")


def test_a_dump_that_takes_too_long_is_ended(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clone, "LEAST_LIMIT", 0.3)
    monkeypatch.setattr(clone, "LIMIT", 0)
    run_id = new_id()
    database.run("CREATE TABLE t ()")
    with (
        held(database.url, "LOCK TABLE t"),
        pytest.raises(ServerError, match="dump and restore took longer than 0 s, and were ended"),
        copied(database.url, run_id),
    ):
        pytest.fail("was dumped")
    assert not exists(database.url, f"runbook_copy_{run_id}")


# --- who may --------------------------------------------------------------------------------------------------------


def test_a_role_that_may_not_create_databases_is_refused(database: Database) -> None:
    with (
        role_named(database.url, "IN ROLE runbook_owner") as role,
        pytest.raises(ServerError) as refused,
        copied(make_conninfo(database.url, user=role), new_id()),
    ):
        pytest.fail("was copied")
    quoted = sql.Identifier(role).as_string(None)
    assert str(refused.value).endswith(f": ALTER ROLE {quoted} CREATEDB")


def test_a_role_without_the_owner_s_rights_is_refused(database: Database) -> None:
    with role_named(database.url, "CREATEDB") as role, pytest.raises(ServerError) as refused:
        name = conninfo_to_dict(database.url)["dbname"]
        ask(
            root_of(database.url),
            f"GRANT CONNECT ON DATABASE {name} TO {sql.Identifier(role).as_string(None)}",
        )
        try:
            plan_copy(make_conninfo(database.url, user=role))
        finally:
            ask(
                root_of(database.url),
                f"REVOKE CONNECT ON DATABASE {name} FROM {sql.Identifier(role).as_string(None)}",
            )
    assert "which belongs to runbook_owner: connect as runbook_owner, or let" in str(refused.value)


def test_an_audit_that_the_role_may_not_drop_is_refused(database: Database) -> None:
    name = str(conninfo_to_dict(database.url)["dbname"])
    ask(renamed(root_of(database.url), name), schema_sql())
    with pytest.raises(ServerError, match=r"may not take the audit out .* belongs to postgres: connect as postgres"):
        plan_copy(database.url)
    with copied(renamed(root_of(database.url), name), new_id()) as copy:
        assert ask(copy.url, "SELECT to_regnamespace('runbook')") == [(None,)]


# --- how it ends ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [KeyboardInterrupt, ZeroDivisionError, SystemExit])
def test_a_copy_is_dropped_whatever_ends_the_block(database: Database, end: type[BaseException]) -> None:
    with pytest.raises(end), copied(database.url, new_id()) as copy:
        raise end
    assert not exists(database.url, copy.name)


def test_a_copy_is_dropped_with_sessions_on_it(database: Database) -> None:
    with copied(database.url, new_id()) as copy:
        session = psycopg.connect(copy.url)
    assert not exists(database.url, copy.name)
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")


def test_a_copy_is_dropped_though_its_own_session_was_ended(database: Database) -> None:
    with copied(database.url, new_id()) as copy:
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
        assert ask(root_of(database.url), query, copy.name) == [(True,)]
    assert not exists(database.url, copy.name)


def test_a_copy_that_cannot_be_dropped_is_told_with_the_statement(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "PATIENCE", 0.1)
    run_id, told = new_id(), list[str]()
    by_hand = f'drop it by hand: DROP DATABASE "runbook_copy_{run_id}" WITH (FORCE)'
    with pytest.raises(KeyboardInterrupt), copied(database.url, run_id, warn=told.append) as copy:
        theirs = psycopg.connect(make_conninfo(copy.url, user="postgres"))
        raise KeyboardInterrupt
    assert len(told) == 1 and told[0].endswith(by_hand) and "terminate" in told[0]
    with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
        psycopg.connect(make_conninfo(copy.url, user="postgres"))
    with pytest.raises(ServerError) as left:
        drop_leftovers(database.url, run_id)
    assert str(left.value).endswith(by_hand)
    theirs.close()
    until(lambda: leftovers(database.url, run_id) == [copy.name])
    assert drop_leftovers(database.url, run_id) == [copy.name]
    assert not exists(database.url, copy.name)


def test_a_copy_that_cannot_be_dropped_raises_where_nobody_is_to_be_warned(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "PATIENCE", 0.1)
    run_id = new_id()
    with pytest.raises(ServerError, match="drop it by hand"), copied(database.url, run_id) as copy:
        theirs = psycopg.connect(make_conninfo(copy.url, user="postgres"))
    theirs.close()
    assert drop_leftovers(database.url, run_id) == [copy.name]


def test_an_impatient_ctrl_c_while_a_copy_is_dropped_drops_it_all_the_same(database: Database) -> None:
    run_id = new_id()
    query = (
        "SELECT pid FROM pg_stat_activity WHERE query LIKE 'DROP DATABASE%%' || %s || '%%' AND wait_event_type = 'Lock'"
    )
    with maker(database.url, run_id) as process:
        said(process)
        name = said(process)

        def droppers() -> list[tuple[Any, ...]]:
            return ask(root_of(database.url), query, name)

        with held(make_conninfo(database.url, dbname="postgres"), f"COMMENT ON DATABASE \"{name}\" IS ''"):
            assert process.stdin is not None
            process.stdin.close()
            until(lambda: len(droppers()) == 1)
            first = droppers()
            process.send_signal(signal.SIGINT)
            until(lambda: droppers() not in ([], first))
        process.wait(SOON)
    assert process.returncode != 0 and not exists(database.url, name)


@pytest.mark.parametrize("wait", ["CREATE DATABASE", "pg_dump"])
def test_ctrl_c_while_a_copy_is_made_leaves_nothing(database: Database, wait: str) -> None:
    run_id = new_id()
    with waiting(database, wait, run_id) as (process, _):
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(SOON)
        assert time.monotonic() - began < 10
        assert sessions_of(database, run_id) == 0
        assert not exists(database.url, f"runbook_copy_{run_id}")


class Waiting(NamedTuple):
    process: subprocess.Popen[str]
    blocker: psycopg.Connection


@contextmanager
def waiting(database: Database, wait: str, run_id: str) -> Iterator[Waiting]:
    """A process that makes a copy and cannot go on."""
    database.run("CREATE TABLE t ()")
    name = conninfo_to_dict(database.url)["dbname"]
    url = database.url if wait == "pg_dump" else make_conninfo(database.url, dbname="postgres")
    statement = "LOCK TABLE t" if wait == "pg_dump" else f"COMMENT ON DATABASE {name} IS 'held'"
    with held(url, statement) as blocker, maker(database.url, run_id) as process:
        assert said(process) == ("dump" if wait == "pg_dump" else "template")
        until(lambda: sessions_of(database, run_id, "wait_event_type = 'Lock'") == 1)
        yield Waiting(process, blocker)


def sessions_of(database: Database, run_id: str, condition: str = "true") -> int:
    query = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND {condition}"
    return int(ask(root_of(database.url), query, f"runbook_copy_{run_id}")[0][0])


# --- after a kill ---------------------------------------------------------------------------------------------------


def test_a_killed_process_leaves_a_copy_that_is_found_and_dropped(database: Database) -> None:
    run_id, other = new_id(), new_id()
    with copied(database.url, other) as living, maker(database.url, run_id) as process:
        said(process)
        name = said(process)
        assert leftovers(database.url, run_id) == []
        process.kill()
        until(lambda: leftovers(database.url, run_id) == [name])
        assert name in leftovers(database.url) and living.name not in leftovers(database.url)
        assert leftovers(database.url, run_id[:-1]) == []
        assert drop_leftovers(database.url, run_id) == [name]
        assert not exists(database.url, name) and exists(database.url, living.name)
        assert drop_leftovers(database.url, run_id) == []


def test_a_process_killed_while_the_server_copies_leaves_a_copy_that_is_marked(database: Database) -> None:
    run_id = new_id()
    with waiting(database, "CREATE DATABASE", run_id) as (process, blocker):
        process.kill()
        blocker.rollback()
        until(lambda: leftovers(database.url, run_id) == [f"runbook_copy_{run_id}"])
    assert drop_leftovers(database.url, run_id) == [f"runbook_copy_{run_id}"]


def test_the_server_stops_copying_for_a_process_that_is_gone(database: Database) -> None:
    run_id = new_id()
    with waiting(database, "CREATE DATABASE", run_id) as (process, _):
        process.kill()
        until(lambda: sessions_of(database, run_id) == 0, 15)
        assert not exists(database.url, f"runbook_copy_{run_id}")


def test_what_a_run_that_is_said_to_be_dead_still_makes_is_ended_first(database: Database) -> None:
    run_id = new_id()
    with waiting(database, "CREATE DATABASE", run_id) as (process, blocker):
        process.send_signal(signal.SIGSTOP)
        assert drop_leftovers(database.url, run_id) == []
        blocker.rollback()
        assert sessions_of(database, run_id) == 0
    assert not exists(database.url, f"runbook_copy_{run_id}")


def test_a_process_killed_while_it_dumps_takes_its_programs_along(database: Database) -> None:
    run_id = new_id()
    with waiting(database, "pg_dump", run_id) as (process, blocker):
        programs = psutil.Process(process.pid).children()
        assert sorted(program.name() for program in programs) == ["pg_dump", "pg_restore"]
        process.kill()
        blocker.rollback()
        until(lambda: not any(program.is_running() and program.status() != "zombie" for program in programs))
        until(lambda: leftovers(database.url, run_id) == [f"runbook_copy_{run_id}"])
    assert drop_leftovers(database.url, run_id) == [f"runbook_copy_{run_id}"]


def test_what_is_not_marked_as_ours_is_never_touched(database: Database) -> None:
    run_id = new_id()
    base = f"runbook_copy_{run_id}"
    with (
        made(database.url, name=base) as bare,
        made(database.url, name=f"{base}_2") as marked,
        made(database.url, name=f"{base}_two") as similar,
        made(database.url, name=f"{base}_3") as other,
    ):
        for url, comment in (
            (marked, f"a note: runbook: throw-away copy of x for run {run_id}, made at noon"),
            (similar, f"runbook: throw-away copy of x for run {run_id}, made at noon"),
            (other, "runbook: throw-away copy of x for run another, made at noon"),
        ):
            name = sql.Identifier(str(conninfo_to_dict(url)["dbname"])).as_string(None)
            ask(url, f"COMMENT ON DATABASE {name} IS '{comment}'")
        assert leftovers(database.url, run_id) == drop_leftovers(database.url, run_id) == []
        with copied(database.url, run_id) as copy:
            assert copy.name == f"{base}_4"
            assert drop_leftovers(database.url, run_id) == [f"{base}_4"]  # who names a run says that it is dead
        assert all(ask(url, "SELECT 1") for url in (bare, marked, similar, other))


def test_all_that_nobody_uses_is_dropped_where_no_run_is_named(database: Database) -> None:
    root = root_of(database.url)
    left = [f"runbook_copy_left_{number}" for number in range(3)]
    for name in left:
        ask(root, f"CREATE DATABASE {name} OWNER runbook_owner")
        ask(root, f"COMMENT ON DATABASE {name} IS 'runbook: throw-away copy of x for run y, made at noon'")
    with copied(database.url, new_id()) as living, closing(psycopg.connect(renamed(root, left[2]))):
        assert leftovers(database.url) == left[:2]
        assert drop_leftovers(database.url) == left[:2]
        assert exists(root, living.name)
    until(lambda: drop_leftovers(database.url) == left[2:])


def test_an_id_that_no_run_has_is_refused(database: Database) -> None:
    for run_id in ("", 'a"b', "a b", "x" * 47, ".*"):
        with pytest.raises(ServerError, match="is no run's id"), copied(database.url, run_id):
            pytest.fail("was copied")
        if run_id:
            with pytest.raises(ServerError, match="is no run's id"):
                drop_leftovers(database.url, run_id)
    with copied(database.url, "y" * 46) as copy:
        assert len(copy.name) < 63 and ask(copy.url, "SELECT current_database()") == [(copy.name,)]


# --- passwords and URLs ---------------------------------------------------------------------------------------------

PASSWORD = """p@ss/w:o?rd %'"\\ ü&#="""
ENCODED = "p%40ss%2Fw%3Ao%3Frd%20%25%27%22%5C%20%C3%BC%26%23%3D"


class Guarded(NamedTuple):
    """A server that asks the role `keyed` for its password, and that has a database `locked` of it."""

    host: str
    root: str
    rules: Path


@pytest.fixture(scope="module")
def guarded(blank: Embedded) -> Guarded:
    root = root_of(blank.url)
    ask(root, sql.SQL("CREATE ROLE keyed LOGIN CREATEDB PASSWORD {}").format(sql.Literal(PASSWORD)).as_string())
    ask(root, "CREATE DATABASE locked OWNER keyed")
    rules = Path(ask(root, "SHOW hba_file")[0][0])
    guard(root, "local all keyed scram-sha-256\n" + rules.read_text())
    return Guarded(str(conninfo_to_dict(blank.url)["host"]), root, rules)


def guard(root: str, rules: str) -> None:
    """Puts the rules of pg_hba.conf in force."""
    query = "SELECT pg_conf_load_time()"
    before = ask(root, query)
    Path(ask(root, "SHOW hba_file")[0][0]).write_text(rules)
    ask(root, "SELECT pg_reload_conf()")
    until(lambda: ask(root, query) != before)


@WAYS
@pytest.mark.parametrize("kind", ["uri", "conninfo", "PGPASSWORD", "passfile", "service"])
def test_passwords_are_used_and_never_shown(
    guarded: Guarded, how: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"postgresql://keyed@/locked?host={guarded.host}"
    if kind == "uri":
        url = f"postgresql://keyed:{ENCODED}@/locked?host={guarded.host}"
    elif kind == "conninfo":
        url = make_conninfo(host=guarded.host, user="keyed", dbname="locked", password=PASSWORD)
    elif kind == "PGPASSWORD":
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
    elif kind == "passfile":
        line = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
        (tmp_path / "pass").write_text(f"*:*:locked:keyed:{line}\n")
        (tmp_path / "pass").chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pass"))
    else:
        (tmp_path / "services").write_text(
            f"[mine]\nhost={guarded.host}\nuser=keyed\ndbname=locked\npassword={PASSWORD}\n"
        )
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
        url = "service=mine"
    ask(make_conninfo(guarded.root, dbname="locked"), "DROP TABLE IF EXISTS t")
    ask(url, "CREATE TABLE t AS SELECT 42 AS i")
    with in_use(url, how), copied(url, new_id()) as copy:
        assert copy.how == how
        assert ask(copy.url, "SELECT i, current_database() FROM t") == [(42, copy.name)]
        assert leftovers(url, "nobody") == []


def _pouring(pid: int) -> list[tuple[str, dict[str, str]]]:
    """Command line and environment of the two programs that pour, once both are what they are to be."""
    found = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.Error):
            if "pg_" in child.name():
                found.append((" ".join(child.cmdline()), child.environ()))
    return found if len(found) == 2 else []


@pytest.mark.slow  # now and then pg_restore is gone before it is looked at
def test_a_password_is_not_among_the_arguments_of_the_programs(guarded: Guarded) -> None:
    url = f"postgresql://keyed:{ENCODED}@/locked?host={guarded.host}"
    ask(make_conninfo(guarded.root, dbname="locked"), "CREATE TABLE IF NOT EXISTS slow ()")
    run_id = new_id()
    with held(make_conninfo(guarded.root, dbname="locked"), "LOCK TABLE slow"), maker(url, run_id) as process:
        until(lambda: bool(_pouring(process.pid)))
        for shown, around in _pouring(process.pid):
            assert "locked" in shown or run_id in shown
            assert "p@ss" not in shown and "p%40ss" not in shown
            assert around["PGPASSWORD"] == PASSWORD
        process.send_signal(signal.SIGINT)
        process.wait(SOON)


def test_a_wrong_password_is_not_repeated(guarded: Guarded) -> None:
    with pytest.raises(ServerError) as refused:
        plan_copy(f"postgresql://keyed:wr0ng@/locked?host={guarded.host}")
    assert "password authentication failed" in str(refused.value) and "wr0ng" not in str(refused.value)


def test_a_copy_that_cannot_be_reached_is_told_with_the_cure(guarded: Guarded) -> None:
    before = guarded.rules.read_text()
    url, run_id = f"postgresql://keyed:{ENCODED}@/locked?host={guarded.host}", new_id()
    guard(guarded.root, f"local locked,postgres keyed scram-sha-256\nlocal all keyed reject\n{before}")
    try:
        with pytest.raises(ServerError, match=r"pg_hba.conf .* let it admit runbook_copy_… too"), copied(url, run_id):
            pytest.fail("was reached")
        assert not exists(guarded.root, f"runbook_copy_{run_id}")
    finally:
        guard(guarded.root, before)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u@h/old", "postgresql://u@h/new"),
        ("postgres://h", "postgres://h/new"),
        ("postgresql://", "postgresql:///new"),
        ("postgresql:///old", "postgresql:///new"),
        ("postgresql://u:p%40%2Fq@h:6/old?sslmode=require&a=b", None),
        ("postgresql://u:p%40%2Fq@h:6/old?sslmode=disable", "postgresql://u:p%40%2Fq@h:6/new?sslmode=disable"),
        ("postgresql://u:p?q@h/old", "postgresql://u:p?q@h/new"),
        ("postgresql://[::1]:5432/old", "postgresql://[::1]:5432/new"),
        ("postgresql://u:p@[fe80::1]/old?connect_timeout=1", "postgresql://u:p@[fe80::1]/new?connect_timeout=1"),
        ("postgresql://a:1,b:2/old?target_session_attrs=any", "postgresql://a:1,b:2/new?target_session_attrs=any"),
        ("postgresql://%2Ftmp%2Fx/old", "postgresql://%2Ftmp%2Fx/new"),
        ("postgresql://u@/old?host=/tmp/x&port=5", "postgresql://u@/new?host=/tmp/x&port=5"),
        ("postgresql://u@h?dbname=old", "postgresql://u@h/new"),
        ("postgresql://u@h/other?dbname=old&port=7", "postgresql://u@h/new?port=7"),
        ("postgresql://h/?service=mine", "postgresql://h/new?service=mine"),
        ("host=h dbname=old password='it''s'", None),
        (
            "host=/tmp/x user='a b' dbname='o l d' password='p\\'q\\\\'",
            "host=/tmp/x user='a b' dbname=new password='p\\'q\\\\'",
        ),
        ("service=mine", "service=mine dbname=new"),
        ("", "dbname=new"),
    ],
)
def test_only_the_database_is_renamed(url: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(ServerError):
            renamed(url, "new")
        return
    assert conninfo_to_dict(renamed(url, "new")) == {**conninfo_to_dict(url), "dbname": "new"}
    assert renamed(url, "new") == expected or "://" not in url
    assert conninfo_to_dict(renamed(url, ODD))["dbname"] == ODD
