"""The audit under roles that may append or read only, and no false alarm from settings, encodings, dumps and company."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from runbook.database import dump
from runbook.database.connect import connect
from runbook.database.embedded import Embedded
from runbook.language.values import loads
from runbook.operate.anchors import own_journal
from runbook.operate.servers import CannotStart
from runbook.records.audit import AuditError, outlook, schema_sql
from runbook.records.journal import Line, read_journal
from runbook.records.ledger import one_moment, read_database
from runbook.records.verify import Anchor, Report, verify
from tests.acceptance.helpers import DB, HEAD, ITEMS, STATE, Background, Run, until
from tests.conftest import Database, Program

EXPECTED = "expectations:\n  items.total: {delta: 3}\n"
ADD = "steps:\n  add:\n    sql: INSERT INTO items SELECT generate_series(1, 3)\n"
QUICK = "steps:\n  s: {command: ['true']}\n"
ODD = (
    "params:\n  v: {type: object}\n  t: {type: string, default: 'ä'}\n"
    "title: 'x {{ params.t }}'\nsteps:\n  s: {command: [printf, 'a\\000\\377']}\n"
)


def as_admin(url: str) -> str:
    return url.replace("runbook_owner@", "postgres@")


@contextmanager
def alone(url: str) -> Iterator[psycopg.Connection[Any]]:
    """The server's administrator; no other test makes roles at the same time."""
    with psycopg.connect(as_admin(url), dbname="postgres", autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(5)")
        yield connection


def administer(url: str, sql: str) -> None:
    with psycopg.connect(as_admin(url), autocommit=True) as connection:
        connection.execute(sql.encode())


def looked_at(url: str, heads: Sequence[Anchor] = (), journal: Any = own_journal) -> Report:
    with connect(url, "test") as connection, one_moment(connection):
        return verify(read_database(connection), heads, journal)


@pytest.fixture
def made(database: Database) -> Iterator[tuple[Database, str, str]]:
    """A database whose audit a DBA made, with the URLs of a role that may append and one that may read."""
    database.run(ITEMS)
    name = database.value("SELECT current_database()")
    append, read = f"append_{name}", f"read_{name}"
    with alone(database.url) as admin:
        administer(database.url, schema_sql())
        for role, group in ((append, "runbook_append"), (read, "runbook_read")):
            admin.execute(f"CREATE ROLE {role} LOGIN IN ROLE {group}".encode())
    administer(database.url, f"GRANT SELECT, INSERT ON items TO {append}")
    try:
        yield database, *(database.url.replace("runbook_owner@", f"{role}@") for role in (append, read))
    finally:
        administer(database.url, f"DROP OWNED BY {append}, {read}; DROP ROLE {append}; DROP ROLE {read}")


def test_a_role_that_may_only_append_is_enough(
    made: tuple[Database, str, str],
    program: Program,
    write: Callable[..., Path],
    start: Callable[..., Background],
) -> None:
    database, append, _ = made
    env = {"DATABASE_URL": append}
    write("small.yaml", HEAD + DB + STATE + EXPECTED + ADD)
    ended = program("exec", "small.yaml", "--json", env=env)
    assert ended.code == 0, ended.err
    assert program("note", "last", "all was well", env=env).code == 0
    long = HEAD.replace("small", "long") + DB + "steps:\n  one: {command: ['true']}\n  two: {shell: 'WAIT'}\n"
    write("long.yaml", long.replace("WAIT", "test -e go || sleep 60"))
    background = start("exec", "long.yaml", env=env)
    _until_started(background)
    background.process.kill()
    background.process.wait()
    assert program("status", "--json", env=env).document["runs"][0]["run"]["verdict"] == "lost"
    assert program("recover", "--grace", "1", env=env).code == 0
    write("go", "")
    lost = database.value("SELECT run_id FROM runbook.closings WHERE verdict = 'lost'")
    ended = program("exec", "--resume", lost, "--yes", "--json", env=env)
    assert ended.code == 0, ended.err
    found = database.rows("SELECT verdict FROM runbook.closings ORDER BY number")
    assert found == [("passed",), ("lost",), ("passed",)]
    ended = program("audit", "verify", "--json", env=env)
    assert ended.code == 0, ended.err
    assert ended.document["audits"][0]["counts"]["anchors"] >= 3


def _until_started(background: Background) -> None:
    def there() -> bool:
        found = [path.read_text() for path in background.folder.glob(".runbook/runs/*/journal.jsonl")]
        return any(
            '"kind": "process.started"' in text and '"two"' in text.rpartition("process.started")[2] for text in found
        )

    until(there)


FORBIDDEN = [
    "UPDATE runbook.{table} SET {column} = {column}",
    "DELETE FROM runbook.{table}",
    "TRUNCATE runbook.{table} CASCADE",
    "ALTER TABLE runbook.{table} DISABLE TRIGGER ALL",
    "DROP TABLE runbook.{table} CASCADE",
    "SET session_replication_role = replica",
    "DROP SCHEMA runbook CASCADE",
    "CREATE TABLE runbook.other ()",
    "CREATE OR REPLACE FUNCTION runbook.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$",
]


@pytest.mark.parametrize("table", ["runs", "events", "closings", "chain", "migrations"])
def test_what_these_roles_cannot_do(table: str, made: tuple[Database, str, str]) -> None:
    column = "version" if table == "migrations" else "run_id"
    for url in made[1:]:
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in FORBIDDEN:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement.format(table=table, column=column).encode())
    with psycopg.connect(made[2], autocommit=True) as connection:
        for name in ("runs", "events", "closings", "chain", "leases", "migrations"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"INSERT INTO runbook.{name} DEFAULT VALUES".encode())
    with psycopg.connect(made[1], autocommit=True) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("DELETE FROM runbook.leases")


def test_a_role_that_may_only_read(
    made: tuple[Database, str, str], program: Program, write: Callable[..., Path], tmp_path: Path
) -> None:
    _, append, read = made
    write("small.yaml", HEAD + DB + STATE + EXPECTED + ADD)
    run = program("exec", "small.yaml", "--json", env={"DATABASE_URL": append}).document["run"]["id"]
    away = tmp_path / "away"
    away.mkdir()
    env = {"DATABASE_URL": read}
    assert run in program("history", "--database", read, env=env, cwd=away).out
    shown = program("show", run, "--json", "--database", read, env=env, cwd=away)
    assert shown.code == 0 and shown.document["run"]["verdict"] == "passed", shown.err
    ended = program("audit", "verify", "--json", "--database", read, env=env, cwd=away)
    assert ended.code == 0, ended.err
    assert program("audit", "export", "-o", "out.jsonl", "--database", read, env=env, cwd=away).code == 0
    assert program("audit", "verify", "--file", "out.jsonl", env=env, cwd=away).code == 0
    refused = program("exec", "small.yaml", "--json", env=env)
    assert (refused.code == 6 and "may not" in refused.err) or "permission denied" in refused.err, refused.err


def test_looking_beforehand_says_what_a_run_would_meet(made: tuple[Database, str, str], database: Database) -> None:
    with connect(made[1], "test") as connection:
        assert outlook(connection) == "the schema `runbook` is there"
    with connect(made[2], "test") as connection, pytest.raises(AuditError, match="may not write"):
        outlook(connection)
    administer(database.url, "REVOKE UPDATE ON runbook.leases FROM runbook_append")
    with connect(made[1], "test") as connection, pytest.raises(AuditError, match="may not write"):
        outlook(connection)


# --- no false alarm -------------------------------------------------------------------------------------------------

SETTINGS = [
    "\"TimeZone\" = 'Asia/Kathmandu'",
    "\"TimeZone\" = 'America/St_Johns'",
    "\"TimeZone\" = '<+0545>-05:45'",
    "\"DateStyle\" = 'SQL, DMY'",
    "\"DateStyle\" = 'German'",
    "\"DateStyle\" = 'Postgres, MDY'",
    "\"IntervalStyle\" = 'sql_standard'",
    "extra_float_digits = -15",
    "client_encoding = 'LATIN1'",
    "standard_conforming_strings = off",
    "search_path = ''",
    "search_path = evil, pg_catalog",
    "bytea_output = 'escape'",
    "quote_all_identifiers = on",
    "array_nulls = off",
    "transform_null_equals = on",
    "default_transaction_isolation = 'serializable'",
    "default_transaction_isolation = 'repeatable read'",
    "default_transaction_deferrable = on",
    "row_security = off",
    "enable_seqscan = off",
]
EVIL = """CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC;
CREATE FUNCTION evil.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE FUNCTION evil.hashtext(text) RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION evil.to_regnamespace(text) RETURNS regnamespace LANGUAGE sql AS 'SELECT null::regnamespace';
"""


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_the_database(setting: str, database: Database, run: Run) -> None:
    database.run(ITEMS)
    name = database.value("SELECT current_database()")
    run(DB + ODD, database.url, params={"v": {"a": 1}})
    administer(database.url, f"{EVIL} ALTER DATABASE {name} SET {setting}")
    if "search_path" not in setting:
        record = run(DB + ODD, database.url, params={"v": {"n": 1e30, "m": "ä"}, "t": "ö \U0001f600"})
        assert record["run"]["verdict"] == "passed", record["run"]
    heads = [Anchor(head, "--head") for (head,) in database.rows("SELECT head FROM runbook.chain")]
    assert looked_at(database.url, heads).findings == []
    administer(database.url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    assert looked_at(database.url, heads).findings == []


def test_operators_of_the_owner_are_not_used(database: Database, run: Run) -> None:
    """An equality of their own, first on the path, would hide what was changed or cry wolf."""
    run(DB + QUICK, database.url)
    name = database.value("SELECT current_database()")
    for operator in ("=", ">", "<>"):
        created = f"CREATE OPERATOR evil.{operator} (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.never)"
        administer(database.url, f"{'' if operator != '=' else EVIL} {created}")
    administer(database.url, f"ALTER DATABASE {name} SET search_path = evil, pg_catalog")
    report = looked_at(database.url)
    assert report.sound and report.counts["runs"] == 1, report.findings


PARAMS: list[Any] = [
    {"big": 2**200, "negative": -(2**63), "zero": 0},
    {"exact": loads("[1.50, 1e30, 1E-30, -0.0, 0.1, 1.0, 100.00]")},
    {"nested": [[[[{"a": [None, True, False, {}]}]]]], "empty": {}, "text": "é \u202e \U0001f600 \ud7ff \\u0041"},
    {"b": 1, "a": 2, "aa": 3, "B": 4, "": 5},
    {"nul": "a\x00b", "lines": "a\r\nb\u2028c"},
    {"float": 0.1 + 0.2, "huge": 1.7976931348623157e308, "tiny": 5e-324},
    {"long": "x" * 70_000, "many": list(range(1500))},
]


@pytest.mark.parametrize("index", range(len(PARAMS)))
def test_odd_params(index: int, database: Database, run: Run) -> None:
    record = run(DB + ODD, database.url, params={"v": PARAMS[index]})
    assert record["run"]["verdict"] == "passed", record["run"]
    report = looked_at(database.url, [Anchor(record["audit"]["head"], "--head")])
    assert report.findings == [] and report.counts["runs"] == 1


@pytest.fixture(params=["SQL_ASCII", "LATIN1", "WIN1252"])
def encoded(blank: Embedded, request: pytest.FixtureRequest) -> Iterator[Database]:
    name = f"test_{os.urandom(6).hex()}"
    source = str(conninfo_to_dict(blank.url)["dbname"])
    with psycopg.connect(as_admin(blank.url), dbname="postgres", autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{request.param}' LOCALE 'C'".encode())
        admin.execute(f"ALTER DATABASE {name} OWNER TO runbook_owner".encode())
        try:
            url = blank.url.replace(f"/{source}?", f"/{name}?")
            yield Database(url, url)
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.mark.parametrize("text", ["plain", "äöü ß", "€ and \U0001f600 and \u4e2d"])
def test_databases_of_other_encodings(text: str, encoded: Database, run: Run) -> None:
    """A run is recorded soundly, or refused before it begins where the encoding cannot hold its params."""
    first = run(DB + ODD, encoded.url, params={"v": {"a": "plain"}, "t": "plain"})
    heads = [Anchor(first["audit"]["head"], "--head")]
    try:
        record = run(DB + ODD, encoded.url, params={"v": {"a": text}, "t": text})
    except CannotStart as error:
        assert text != "plain" and "the audit cannot be written" in str(error)
    else:
        assert record["run"]["verdict"] == "passed", record["run"]["because"]
        heads.append(Anchor(record["audit"]["head"], "--head"))
    report = looked_at(encoded.url, heads)
    assert report.findings == [] and report.counts["runs"] == len(heads)


@pytest.mark.parametrize("form", ["plain", "custom"])
def test_a_dump_restored_elsewhere(
    form: str, database: Database, run: Run, program: Program, write: Callable[..., Path], tmp_path: Path
) -> None:
    heads = []
    for value in ({"a": 1.50}, {"a": "ä\U0001f600"}):
        heads.append(run(DB + ODD, database.url, params={"v": value})["audit"]["head"])
    assert program("note", "last", "seen", env={"DATABASE_URL": database.url}).code == 0
    number = int(database.value("SHOW server_version_num")) // 10000
    folder = dump.find_dump_programs(number).folder
    file = str(tmp_path / "dump")
    subprocess.run([folder / "pg_dump", "-F", form[0], "-f", file, "-d", database.url], check=True)
    copy = f"test_{os.urandom(6).hex()}"
    source = str(database.value("SELECT current_database()"))
    with psycopg.connect(as_admin(database.url), dbname="postgres", autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {copy} TEMPLATE template0 OWNER runbook_owner".encode())
        try:
            url = database.url.replace(source, copy)
            command = (
                [folder / "psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-f", file]
                if form == "plain"
                else [folder / "pg_restore", "-e", "-d", url, file]
            )
            subprocess.run(command, check=True, capture_output=True)
            assert looked_at(url, [Anchor(head, "--head") for head in heads]).findings == []
            with psycopg.connect(url, autocommit=True) as connection, pytest.raises(psycopg.Error, match="append-only"):
                connection.execute("DELETE FROM runbook.events")
            assert run(DB + QUICK, url)["run"]["verdict"] == "passed"
            assert looked_at(url, [Anchor(head, "--head") for head in heads]).findings == []
        finally:
            admin.execute(f"DROP DATABASE {copy} WITH (FORCE)".encode())


@pytest.mark.parametrize("isolation", ["serializable", "repeatable read"])
def test_runs_at_once_and_a_verifier_among_them(
    isolation: str, database: Database, tmp_path: Path, write: Callable[..., Path], start: Callable[..., Background]
) -> None:
    """Roles whose transactions are serializable by default: openings and closings still follow each other in one chain."""
    name = database.value("SELECT current_database()")
    administer(database.url, f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'")
    count = 10 if isolation == "serializable" else 4
    for index in range(count):
        write(f"r{index}.yaml", HEAD.replace("small", f"r{index}") + DB + QUICK)
    running = [start("exec", f"r{index}.yaml", "--json", env={"DATABASE_URL": database.url}) for index in range(count)]
    looks = 0
    while any(background.process.poll() is None for background in running):
        if database.value("SELECT to_regclass('runbook.chain') IS NOT NULL"):
            assert looked_at(database.url, (), _journals(tmp_path)).findings == []
            looks += 1
    for background in running:
        out, err = background.process.communicate()
        assert background.process.returncode == 0, err.decode()
        assert json.loads(out)["run"]["audit"] == "confirmed"
    report = looked_at(database.url, (), _journals(tmp_path))
    assert report.findings == [] and report.counts["entries"] == 2 * count and looks > 0


def _journals(folder: Path) -> Callable[[str], Sequence[Line] | None]:
    def journal(run_id: str) -> Sequence[Line] | None:
        path = folder / ".runbook" / "runs" / run_id / "journal.jsonl"
        return list(read_journal(path)) if path.is_file() else None

    return journal


def test_after_pruning_and_notes_on_what_was_pruned(
    database: Database, run: Run, program: Program, tmp_path: Path
) -> None:
    env = {"DATABASE_URL": database.url}
    record = run(DB + QUICK, database.url)
    assert program("note", record["run"]["id"], "before", env=env).code == 0
    pruned = program("prune", "--older-than", "0s", "--what", "audit", "--yes", "--database", database.url, env=env)
    assert pruned.code == 0, pruned.err
    assert database.value("SELECT count(*) FROM runbook.events") == 0
    assert program("audit", "verify", env=env).code == 0
    assert program("note", record["run"]["id"], "after", env=env).code == 0
    ended = program("audit", "verify", "--json", env=env)
    assert ended.code == 0, ended.err
    pruned = program("prune", "--older-than", "0s", "--yes", "--database", database.url, env=env)
    assert pruned.code == 0, pruned.err
    ended = program("audit", "verify", "--json", "--database", database.url, env=env)
    assert ended.code == 0, ended.err
    assert ended.document["audits"][0]["counts"]["pruned"] == 1


def test_the_chain_gives_its_own_numbers(database: Database) -> None:
    """Nobody but the owner writes into its table: one absurd number would be the last one ever."""
    database.run(schema_sql())
    granted = database.rows(
        "SELECT grantee FROM information_schema.role_table_grants WHERE table_schema = 'runbook' AND table_name = 'chain'"
        " AND privilege_type = 'INSERT' AND grantee <> current_user"
    )
    assert granted == []
    database.run("GRANT USAGE ON SCHEMA runbook TO PUBLIC")
    with (
        psycopg.connect(database.read_url) as reader,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="may not add"),
    ):
        reader.execute("SELECT runbook.add_to_chain('opened', 'x', 'y')")
