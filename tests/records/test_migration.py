"""An audit of version 2 (closings chained, openings not), as runbook 0.1.0 wrote it: brought up to date and tampered with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from runbook.database.connect import Connection, ServerError, connect
from runbook.operate.anchors import from_log
from runbook.records.audit import AuditError, migrate, outlook
from runbook.records.journal import chain
from runbook.records.ledger import one_moment, read_database
from runbook.records.verify import Anchor, Report, verify
from tests.acceptance.helpers import DB, HEAD
from tests.conftest import ROOT, Database, Program

SQL = ROOT / "runbook" / "records" / "sql"
PASSED, REFUTED, LOST, OPEN = (
    "20261123_051214-147-9a07",
    "20261123_051215-518-9e29",
    "20261123_051216-589-6acd",
    "20261123_051219-668-37b6",
)
HEADS = {
    PASSED: "7ef1c98a0cf8ca8021c6524bf1043349c0f08a762aa2997e87eeb9f2ef63108b",
    REFUTED: "a098c6b5027ce0a5d1170ca50231a51b3f72e7ba577c9d8dad3b17e55ce5d782",
    LOST: "40330238c1a597257f7a2266626793acf5238b03d0042311fcf19540d0da2208",
}
ANCHORS = [Anchor(head, "--head", run) for run, head in HEADS.items()]


@pytest.fixture
def old(database: Database) -> Database:
    """An audit of version 2 with a run that passed, one refuted, one lost and one open."""
    for file in (SQL / "001_audit.sql", SQL / "002_lost.sql", Path(__file__).with_name("version_2.sql")):
        database.run(file.read_text(encoding="utf-8"))
    return database


@contextmanager
def migrated(old: Database, before: Sequence[str] = (), after: Sequence[str] = ()) -> Iterator[Connection]:
    """The audit brought up to date, with what its owner did before and after that."""
    admin = old.url.replace("runbook_owner@", "postgres@")
    for statements, then in ((before, True), (after, False)):
        with connect(admin, "test") as connection:
            connection.execute("SET session_replication_role = replica")
            for statement in statements:
                assert connection.execute(statement).rowcount > 0
            connection.execute("SET session_replication_role = origin")
        if then:
            with connect(old.url, "test") as connection:
                migrate(connection)
    with connect(old.url, "test") as connection, one_moment(connection):
        yield connection


def looked_at(old: Database, before: Sequence[str] = (), after: Sequence[str] = ()) -> Report:
    with migrated(old, before, after) as connection:
        return verify(read_database(connection), ANCHORS)


def test_it_is_sound_and_its_heads_still_count(old: Database) -> None:
    report = looked_at(old)
    assert report.findings == []
    assert report.counts == {"entries": 7, "runs": 4, "events": 43, "open": 1, "pruned": 0, "anchors": 3}
    rows = old.rows("SELECT number, kind, run_id FROM runbook.chain ORDER BY number")
    assert [row[1:] for row in rows[:3]] == [("closed", PASSED), ("closed", REFUTED), ("closed", LOST)]
    assert {row[2] for row in rows[3:]} == {PASSED, REFUTED, LOST, OPEN}
    assert old.rows("SELECT run_id, verdict, head FROM runbook.history WHERE head IS NOT NULL ORDER BY run_id") == [
        (PASSED, "passed", HEADS[PASSED]),
        (REFUTED, "refuted", HEADS[REFUTED]),
        (LOST, "lost", HEADS[LOST]),
    ]


def test_the_next_run_brings_it_up_to_date(old: Database, program: Program, write: Callable[..., Path]) -> None:
    write("small.yaml", HEAD + DB + "steps:\n  s: {command: ['true']}\n")
    env = {"DATABASE_URL": old.url}
    ended = program("audit", "verify", "--database", old.url, env=env)
    assert ended.code == 6 and "older version" in ended.err
    dry = program("exec", "small.yaml", "--dry-run", env=env)
    assert dry.code == 0 and "from version 2 to 3" in dry.out + dry.err
    ended = program("exec", "small.yaml", "--json", env=env)
    assert ended.code == 0, ended.err
    log = write("old.md", f"- run: `{LOST}`\n- audit: confirmed, head `{HEADS[LOST]}`\n")
    assert from_log(log).anchor.run == LOST
    ended = program("audit", "verify", "--json", str(log), env=env)
    assert ended.code == 0, ended.err
    assert ended.document["audits"][0]["counts"]["anchors"] == 2
    wrong = write("wrong.md", log.read_text().replace(HEADS[LOST], "0" * 63 + "1"))
    ended = program("audit", "verify", str(wrong), env=env)
    assert ended.code == 1 and f"run {LOST}, entry 3" in ended.err


CHANGES = {
    "verdict": ("closings", REFUTED, "UPDATE runbook.closings SET verdict = 'passed' WHERE run_id = '{run}'"),
    "verdict of a lost run": (
        "closings",
        LOST,
        "UPDATE runbook.closings SET verdict = 'passed' WHERE run_id = '{run}'",
    ),
    "exit code": ("closings", REFUTED, "UPDATE runbook.closings SET exit_code = 0 WHERE run_id = '{run}'"),
    "exit code of a lost run": ("closings", LOST, "UPDATE runbook.closings SET exit_code = 0 WHERE run_id = '{run}'"),
    "end": (
        "closings",
        PASSED,
        "UPDATE runbook.closings SET finished_at = finished_at + interval '1 day' WHERE run_id = '{run}'",
    ),
    "duration": ("closings", PASSED, "UPDATE runbook.closings SET duration = duration + 1 WHERE run_id = '{run}'"),
    "last event": ("closings", PASSED, "UPDATE runbook.closings SET last_seq = 13 WHERE run_id = '{run}'"),
    "last hash": ("closings", PASSED, "UPDATE runbook.closings SET last_hash = 'x' WHERE run_id = '{run}'"),
    "line": ("events", PASSED, "UPDATE runbook.events SET line = line || ' ' WHERE run_id = '{run}' AND seq = 4"),
    "kind": ("events", LOST, "UPDATE runbook.events SET kind = 'x' WHERE run_id = '{run}' AND seq = 9"),
    "an event removed": ("events", PASSED, "DELETE FROM runbook.events WHERE run_id = '{run}' AND seq = 14"),
    "an event of the open run": ("events", OPEN, "DELETE FROM runbook.events WHERE run_id = '{run}' AND seq = 2"),
    "a closing removed": ("closings", LOST, "DELETE FROM runbook.closings WHERE run_id = '{run}'"),
    "a row removed": ("runs", REFUTED, "DELETE FROM runbook.runs WHERE run_id = '{run}'"),
}
LATER = {
    "an entry removed": ("closings", LOST, "DELETE FROM runbook.chain WHERE run_id = '{run}' AND kind = 'closed'"),
    "params": ("runs", PASSED, "UPDATE runbook.runs SET params = params || '{{\"n\": 4}}' WHERE run_id = '{run}'"),
    "operator": ("runs", OPEN, "UPDATE runbook.runs SET operator = 'Eve' WHERE run_id = '{run}'"),
    "runbook": ("runs", REFUTED, "UPDATE runbook.runs SET runbook = 'other' WHERE run_id = '{run}'"),
    "runbook of a closing": ("closings", LOST, "UPDATE runbook.closings SET runbook = 'other' WHERE run_id = '{run}'"),
    "all events of the open run": ("events", OPEN, "DELETE FROM runbook.events WHERE run_id = '{run}'"),
}


@pytest.mark.parametrize("change", [*CHANGES, *LATER])
def test_what_is_changed_after_it_was_brought_up_to_date(change: str, old: Database) -> None:
    table, run, statement = {**CHANGES, **LATER}[change]
    report = looked_at(old, after=[statement.format(run=run)])
    assert (table, run) in {(finding.table, finding.run) for finding in report.findings}, report.findings


BEFORE = [name for name in CHANGES if "removed" not in name or "event" in name]


@pytest.mark.parametrize("change", BEFORE)
def test_what_was_changed_before_it_was_brought_up_to_date(change: str, old: Database) -> None:
    table, run, statement = CHANGES[change]
    report = looked_at(old, before=[statement.format(run=run)])
    assert run in {finding.run for finding in report.findings if finding.table in (table, "chain")}, report.findings


def test_a_closing_that_was_removed_before_leaves_a_gap(old: Database) -> None:
    statement = f"DELETE FROM runbook.closings WHERE run_id = '{REFUTED}'"
    report = looked_at(old, before=[statement])
    assert ("chain", REFUTED) in {(finding.table, finding.run) for finding in report.findings}, report.findings


def test_the_events_of_an_old_run_written_anew(old: Database) -> None:
    """With all hashes after it, closing and chain included: only the heads that were kept elsewhere tell."""
    rows = old.rows(f"SELECT seq, line FROM runbook.events WHERE run_id = '{REFUTED}' ORDER BY seq")
    previous, statements = "0" * 64, []
    for seq, text in rows:
        line = text.replace('"verdict": "refuted", "exit_code": 1', '"verdict": "passed", "exit_code": 0')
        head = chain(previous, line)
        quoted = line.replace("'", "''")
        statements.append(
            f"UPDATE runbook.events SET line = '{quoted}', previous = '{previous}', hash = '{head}'"
            f" WHERE run_id = '{REFUTED}' AND seq = {seq}"
        )
        previous = head
    first = HEADS[PASSED]
    second = chain(first, f"{REFUTED} {previous}")
    last = old.value(f"SELECT last_hash FROM runbook.closings WHERE run_id = '{LOST}'")
    third = chain(second, f"{LOST} {last}")
    statements.append(
        f"UPDATE runbook.closings SET verdict = 'passed', exit_code = 0, last_hash = '{previous}', head = '{second}'"
        f" WHERE run_id = '{REFUTED}'"
    )
    statements.append(f"UPDATE runbook.closings SET previous = '{second}', head = '{third}' WHERE run_id = '{LOST}'")
    report = looked_at(old, before=statements)
    assert [(finding.table, finding.run) for finding in report.findings] == [("chain", REFUTED), ("chain", LOST)]
    with connect(old.url, "test") as connection, one_moment(connection):
        assert verify(read_database(connection)).sound


def test_an_old_verdict_is_known_after_its_events_were_pruned(
    old: Database, program: Program, write: Callable[..., Path]
) -> None:
    """An old entry of the chain has no verdict of its own; what prunes the events must keep it."""
    with migrated(old):
        pass
    ended = program("prune", "--older-than", "0s", "--what", "audit", "--yes", "--database", old.url)
    assert ended.code == 0, ended.err
    statement = f"UPDATE runbook.closings SET verdict = 'passed', exit_code = 0 WHERE run_id = '{REFUTED}'"
    assert looked_at(old).findings == []
    report = looked_at(old, after=[statement])
    assert ("closings", REFUTED) in {(finding.table, finding.run) for finding in report.findings}


def test_who_may_only_append_is_told_that_the_owner_must_bring_it_up_to_date(old: Database) -> None:
    """A run cannot begin there; looking beforehand says the same."""
    name = f"role_{old.value('SELECT current_database()')}"
    admin = old.url.replace("runbook_owner@", "postgres@")
    with connect(admin, "test") as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN")
        connection.execute(f"GRANT USAGE ON SCHEMA runbook TO {name}")
        connection.execute(f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA runbook TO {name}")
        connection.execute(f"GRANT UPDATE ON runbook.leases TO {name}")
        try:
            with connect(old.url.replace("runbook_owner@", f"{name}@"), "test") as theirs:
                with pytest.raises(AuditError):
                    migrate(theirs)
                with pytest.raises(AuditError):
                    outlook(theirs)
        finally:
            connection.execute(f"DROP OWNED BY {name}")
            connection.execute(f"DROP ROLE {name}")


def test_the_schema_since_version_2(old: Database, program: Program, write: Callable[..., Path]) -> None:
    """What a DBA runs by hand does the same, and the owner of the old audit can go on."""
    schema = program("audit", "schema", "--since", "2")
    assert schema.code == 0 and "CREATE SCHEMA" not in schema.out
    admin = old.url.replace("runbook_owner@", "postgres@")
    with connect(admin, "test") as connection:
        connection.execute(schema.out)
    with connect(admin, "test") as connection, one_moment(connection):
        assert verify(read_database(connection), ANCHORS).findings == []
    with connect(admin, "test") as connection, pytest.raises(ServerError):
        migrate_again(connection, schema.out)
    with connect(admin, "test") as connection:
        connection.execute("GRANT SELECT ON runbook.chain TO runbook_owner")
    write("small.yaml", HEAD + DB + "steps:\n  s: {command: ['true']}\n")
    ended = program("exec", "small.yaml", "--json", env={"DATABASE_URL": old.url})
    assert ended.code == 0, ended.err
    with connect(old.url, "test") as connection, one_moment(connection):
        assert verify(read_database(connection), ANCHORS).findings == []


def migrate_again(connection: Connection, sql: str) -> None:
    from runbook.database.connect import translated

    with translated():
        connection.execute(sql)
