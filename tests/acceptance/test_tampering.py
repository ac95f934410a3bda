"""`runbook audit verify` against the owner of the database: whatever was changed is found, and named by table, run and record.

What nothing can show, and why:
- leases.since, leases.heartbeat, migrations.applied_at: they are told nowhere else; nothing is concluded from them.
- A lease with a higher epoch than any run's: a run that took the lock and died before its first record leaves the same.
- The newest events of a run that is still open: the journal is ahead of the audit while a run goes on.
- The newest entries (with all their rows and the lease), an older copy put back, all heads computed anew: they need a head
  from outside (a journal, a later run log, --head).
- A run that somebody with the right to append made up, or pruning by the owner: they have that right; the chain says who.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

import runbook
from runbook.database.connect import Connection, connect, describe
from runbook.database.embedded import Embedded
from runbook.language.values import dumps, loads
from runbook.operate.anchors import from_disk, from_log
from runbook.operate.options import Options
from runbook.records.journal import Line, chain, read_journal
from runbook.records.ledger import COLUMNS, export, one_moment, read_database
from runbook.records.verify import Anchor, Report, verify
from tests.acceptance.helpers import DB, ITEMS, Background, until
from tests.conftest import ROOT, Database, Ended, clone

STATE = "state: {items: {sql: SELECT count(*) AS total FROM items}}\n"
ADD = "steps: {add: {sql: 'INSERT INTO items SELECT generate_series(1, 3)'}}\n"
ODD = "params: {big: {type: integer}, exact: {type: number}, huge: {type: number}, text: {type: string}, deep: {type: object}}\n"
ODD_VALUES = {
    "big": 123456789012345678901234567890,
    "exact": Decimal("1.50"),
    "huge": Decimal("1E+30"),
    "text": "ä € \U0001f600",
    "deep": {"a": [1, {"b": None}, True, {"c": Decimal("-0.0")}]},
}
BODIES = {
    "passed": STATE + "params: {n: {type: integer, default: 1}}\n" + "expectations: {items.total: {delta: 3}}\n" + ADD,
    "refuted": STATE + "expectations: {items.total: {delta: 4}}\n" + ADD,
    "blocked": STATE + "preflight: {a: {expect: 1 > 2}}\n" + ADD,
    "failed": "steps: {s: {command: ['false']}}\n",
    "errored": "steps: {s: {command: ['true']}}\naudit: {finished: {sql: UPDATE items SET nothing = 1}}\n",
    "odd": ODD + "title: 'x {{ params.text }}'\nsteps: {s: {command: ['true']}}\n",
    "lost": "steps: {s: {shell: 'echo working; sleep 100'}}\n",
    "opened": "steps: {s: {shell: 'echo working; sleep 100'}}\n",
    "pruned": "steps: {s: {command: ['true']}}\n",
    "noted": "steps: {s: {command: ['true']}}\n",
}


class World(NamedTuple):
    """A project with its audit: run ids by runbook, the heads by run, and the database as it was before the last runs."""

    folder: Path
    url: str
    admin: str
    runs: dict[str, str]
    heads: dict[str, str]
    older: str
    run: Callable[..., Ended]

    def journal(self, run_id: str) -> Sequence[Line] | None:
        path = self.folder / ".runbook" / "runs" / run_id / "journal.jsonl"
        return list(read_journal(path)) if path.is_file() else None

    @property
    def anchors(self) -> list[Anchor]:
        return [Anchor(head, "--head", run) for run, head in self.heads.items()]


def as_admin(url: str) -> str:
    return url.replace("runbook_owner@", "postgres@")


@pytest.fixture(scope="module")
def world(blank: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("project")
    for database in clone(blank, f"test_{os.urandom(6).hex()}"):
        older = f"test_{os.urandom(6).hex()}"
        admin = as_admin(database.url)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                patch.setenv("XDG_STATE_HOME", str(folder / "state"))
                patch.setenv("DATABASE_URL", database.url)
                made = _made(folder, database, admin, older)
            yield made
        finally:
            with psycopg.connect(admin, dbname="postgres", autocommit=True) as connection:
                connection.execute(f'DROP DATABASE IF EXISTS "{older}" WITH (FORCE)'.encode())


def working(folder: Path, known: Sequence[str]) -> str:
    """The newest run, once its step works; empty before."""
    path = max((folder / ".runbook" / "runs").glob("*"))
    there = path / "output.log"
    return path.name if path.name not in known and there.exists() and b"working" in there.read_bytes() else ""


def _made(folder: Path, database: Database, admin: str, older: str) -> World:
    database.run(ITEMS)
    env = {"DATABASE_URL": database.url}
    runs: dict[str, str] = {}

    def run(*arguments: str, url: str = database.url) -> Ended:
        known = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        known |= {
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
            "XDG_STATE_HOME": str(folder / "state"),
            "DATABASE_URL": url,
        }
        done = subprocess.run(
            [sys.executable, "-m", "runbook", *arguments], env=known, cwd=folder, capture_output=True, check=False
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    def ran(name: str, **params: Any) -> None:
        record = runbook.execute(runbook.load(folder / f"{name}.yaml"), options=Options(operator="Ada"), **params)
        runs.setdefault(name, record["run"]["id"])

    for name, body in BODIES.items():
        (folder / f"{name}.yaml").write_text(f"runbook: 1\nname: {name}\n{DB}{body}", encoding="utf-8")
    ran("pruned")
    pruned = run("prune", "--older-than", "0s", "--what", "audit", "--yes", "--database", database.url)
    assert pruned.code == 0, pruned.err
    for name in ("passed", "refuted", "blocked"):
        ran(name)
    with psycopg.connect(admin, dbname="postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{older}" TEMPLATE "{conninfo_to_dict(admin)["dbname"]}"'.encode())
    for name in ("failed", "errored", "noted", "passed"):
        ran(name)
    ran("odd", params=ODD_VALUES)
    for name in ("lost", "opened"):
        background = Background(folder, "exec", f"{name}.yaml", "--operator", "Ada", env=env)
        runs[name] = until(lambda: working(folder, [*runs.values()]))
        background.kill()
        if name == "lost":
            run("recover", "--grace", "1")
    noted = run("note", runs["noted"], "it was the *wrong* month")
    assert noted.code == 0, noted.err
    heads = {}
    for line in database.rows(
        "SELECT run_id, head FROM runbook.chain WHERE kind IN ('closed', 'added') ORDER BY number"
    ):
        heads[line[0]] = line[1]
    verdicts = dict(database.rows("SELECT runbook, verdict FROM runbook.closings"))
    assert verdicts == {
        name: {"odd": "passed", "pruned": "passed", "noted": "passed"}.get(name, name) for name in verdicts
    }
    assert set(verdicts) == set(BODIES) - {"opened"}
    url = conninfo_to_dict(database.url)["dbname"]
    return World(folder, database.url, admin, runs, heads, database.url.replace(str(url), older), run)


@contextmanager
def owner(world: World) -> Iterator[Connection]:
    """A session that may do anything; whatever it does is undone at the end."""
    with connect(world.admin, "test") as connection, connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL session_replication_role = replica")
        yield connection


def look(
    connection: Connection,
    anchors: Sequence[Anchor] = (),
    journal: Callable[[str], Sequence[Line] | None] = lambda run: None,
) -> Report:
    connection.execute("SET LOCAL session_replication_role = origin")
    return verify(read_database(connection), anchors, journal)


def told(report: Report, table: str, run: str = "", record: str = "") -> bool:
    """Whether a finding names the table, the run and the record."""
    return any(
        finding.table == table and finding.run == run and record in finding.record for finding in report.findings
    )


def test_as_the_program_wrote_it_all_is_sound(world: World) -> None:
    with owner(world) as connection:
        report = look(connection, world.anchors, world.journal)
    assert report.findings == []
    assert report.counts["runs"] == 11 and report.counts["open"] == 1 and report.counts["pruned"] == 1
    assert report.counts["anchors"] == len(world.heads) >= 9


# --- every column of every table ------------------------------------------------------------------------------------

TYPES = {
    "text": "{} || 'x'",
    "integer": "coalesce({}, -1) + 1000",
    "bigint": "{} + 1000",
    "timestamp with time zone": "{} + interval '1 millisecond'",
    "numeric": "{} + 0.001",
    "jsonb": "{} || '{{\"added\": 1}}'",
}
OWN = {
    ("chain", "kind"): "CASE kind WHEN 'closed' THEN 'added' ELSE 'closed' END",
    ("leases", "epoch"): "epoch - 1",
    ("chain", "head"): "upper(head)",
}
BY_DESIGN = {("leases", "since"), ("leases", "heartbeat"), ("migrations", "applied_at")}
ROWS = {
    "runs": ("passed", "noted", "opened"),
    "events": ("passed", "lost", "opened"),
    "closings": ("passed", "errored", "pruned"),
    "chain": ("pruned", "noted", "opened"),
    "leases": ("refuted", "lost", "opened"),
}
CHANGES = [
    (table, column, which)
    for table, rows in ROWS.items()
    for column in COLUMNS[table]
    for which in rows
    if (table, column) not in BY_DESIGN
]


@pytest.fixture(scope="module")
def types(world: World) -> dict[tuple[str, str], str]:
    with connect(world.admin, "test") as connection:
        query = "SELECT table_name::text, column_name::text, data_type::text FROM information_schema.columns"
        found = connection.execute(f"{query} WHERE table_schema = 'runbook' AND table_name <> 'history'").fetchall()
    return {(table, column): kind for table, column, kind in found}


def test_the_suite_knows_every_column(types: dict[tuple[str, str], str]) -> None:
    assert set(types) == {(table, column) for table, columns in COLUMNS.items() for column in columns}


@pytest.mark.parametrize("where", ["first", "last"])
@pytest.mark.parametrize(("table", "column", "which"), CHANGES)
def test_a_changed_value(
    table: str, column: str, which: str, where: str, world: World, types: dict[tuple[str, str], str]
) -> None:
    run = world.runs[which]
    order = {"events": "seq", "chain": "number"}.get(table)
    if where == "last" and order is None:
        return
    change = OWN.get((table, column)) or TYPES[types[table, column]].format(column)
    with owner(world) as connection:
        row = f"run_id = '{run}'"
        if order:
            end = "min" if where == "first" else "max"
            row += f" AND {order} = (SELECT {end}({order}) FROM runbook.{table} WHERE run_id = '{run}')"
            place = connection.execute(f"SELECT {order} FROM runbook.{table} WHERE {row}").fetchone()
            assert place
        changed = connection.execute(f"UPDATE runbook.{table} SET {column} = {change} WHERE {row}").rowcount
        assert changed == 1
        report = look(connection)
    moved = column == "run_id" and told(report, table, f"{run}x")
    assert told(report, table, run) or moved, (report.findings, change)
    if column not in ("run_id", "seq", "number") and order:
        assert told(report, table, run, str(place[0])), report.findings


@pytest.mark.parametrize("column", [column for table, column in sorted(BY_DESIGN) if table == "leases"])
def test_nothing_is_concluded_from_the_times_of_a_lease(column: str, world: World) -> None:
    with owner(world) as connection:
        connection.execute(
            f"UPDATE runbook.leases SET {column} = {column} - interval '1 day' WHERE {column} > '2000-01-01'"
        )
        assert look(connection).findings == []


@pytest.mark.parametrize("version", ["4", "0", "-1"])
def test_migrations(version: str, world: World) -> None:
    with owner(world) as connection:
        connection.execute(f"INSERT INTO runbook.migrations VALUES ({version})")
        assert told(look(connection), "migrations")
    with owner(world) as connection:
        connection.execute(f"UPDATE runbook.migrations SET version = {version} WHERE version = 2")
        assert told(look(connection), "migrations")
    with owner(world) as connection:
        connection.execute("DELETE FROM runbook.migrations WHERE version = 3")
        assert told(look(connection), "migrations")


NULLABLE = [(t, c) for t, columns in COLUMNS.items() for c in columns if t != "migrations" and c != "exit_code"]


@pytest.mark.parametrize(("table", "column"), NULLABLE)
def test_a_value_that_is_gone(table: str, column: str, world: World) -> None:
    run = world.runs["refuted"]
    with owner(world) as connection:
        for constraint in _constraints(connection, table):
            connection.execute(f"ALTER TABLE runbook.{table} DROP CONSTRAINT IF EXISTS {constraint} CASCADE")
        connection.execute(f"ALTER TABLE runbook.{table} ALTER {column} DROP NOT NULL")
        connection.execute(f"UPDATE runbook.{table} SET {column} = NULL WHERE run_id = '{run}'")
        report = look(connection)
    assert told(report, table, run) or told(report, table, ""), report.findings


def _constraints(connection: Connection, table: str) -> list[str]:
    query = f"SELECT conname::text FROM pg_constraint WHERE conrelid = 'runbook.{table}'::regclass"
    return [row[0] for row in connection.execute(query)]


@pytest.mark.parametrize(("table", "column"), NULLABLE)
def test_a_column_that_is_gone(table: str, column: str, world: World) -> None:
    if column in ("run_id", "seq", "number"):
        return  # without these nothing can be read at all
    with owner(world) as connection:
        connection.execute(f"ALTER TABLE runbook.{table} DROP COLUMN {column} CASCADE")
        report = look(connection)
    assert any(finding.table == table and column in finding.what for finding in report.findings), report.findings[:3]


PARAMS = [
    '{"n": true}',
    '{"n": 1.0}',
    '{"n": "1"}',
    '{"n": null}',
    '{"n": [1]}',
    "{}",
    '{"n": 1, "m": null}',
    "1",
    "null",
]


@pytest.mark.parametrize("params", PARAMS)
def test_params_that_only_look_the_same(params: str, world: World) -> None:
    run = world.runs["passed"]
    with owner(world) as connection:
        assert connection.execute(f"SELECT params::text FROM runbook.runs WHERE run_id = '{run}'").fetchone() == (
            '{"n": 1}',
        )
        connection.execute(f"UPDATE runbook.runs SET params = '{params}' WHERE run_id = '{run}'")
        assert told(look(connection), "runs", run)


# --- rows removed, inserted, moved and copied -----------------------------------------------------------------------


@pytest.mark.parametrize("where", ["first", "middle", "newest"])
@pytest.mark.parametrize("table", ["runs", "events", "closings", "chain"])
def test_a_removed_row(table: str, where: str, world: World) -> None:
    order = {"runs": "run_id", "events": "run_id, seq", "closings": "number", "chain": "number"}[table]
    with owner(world) as connection:
        rows = connection.execute(f"SELECT ctid::text, run_id FROM runbook.{table} ORDER BY {order}").fetchall()
        if table == "events":  # the newest of the open run need its journal, and only once it is over
            rows = [row for row in rows if row[1] != world.runs["opened"]]
        place, run = rows[{"first": 0, "middle": len(rows) // 2, "newest": -1}[where]]
        connection.execute(f"DELETE FROM runbook.{table} WHERE ctid = '{place}'")
        report = look(connection)
    wanted = {"chain": ("chain", "closings", "runs", "events")}.get(table, (table,))
    assert any(told(report, name, run) for name in wanted), report.findings


@pytest.mark.parametrize("which", sorted(BODIES))
def test_a_whole_run_removed_from_all_tables(which: str, world: World) -> None:
    run = world.runs[which]
    with owner(world) as connection:
        for table in ("events", "closings", "chain", "runs", "leases"):
            connection.execute(f"DELETE FROM runbook.{table} WHERE run_id = '{run}'")
        report = look(connection, world.anchors)
    assert any(finding.table == "chain" for finding in report.findings)
    if which != "opened":
        assert told(report, "chain", run), report.findings


def test_all_events_of_an_open_run(world: World) -> None:
    run = world.runs["opened"]
    with owner(world) as connection:
        connection.execute(f"DELETE FROM runbook.events WHERE run_id = '{run}'")
        assert told(look(connection), "events", run, "event 1")


def test_everything_removed(world: World) -> None:
    with owner(world) as connection:
        for table in ("events", "closings", "chain", "runs"):
            connection.execute(f"DELETE FROM runbook.{table}")
        report = look(connection)
        assert told(report, "leases", world.runs["noted"]), report.findings
        connection.execute("DELETE FROM runbook.leases")
        assert look(connection).sound  # without a head from outside it is an audit that never began
        for run in world.heads:
            assert told(look(connection, world.anchors), "chain", run)


COPY = "run_id || 'x'"


@pytest.mark.parametrize("table", ["runs", "events", "closings", "chain"])
def test_an_inserted_row(table: str, world: World) -> None:
    run = world.runs["passed"]
    own = {"run_id": COPY, "number": "number + 1000"}
    names = list(COLUMNS[table])
    values = ", ".join(own.get(name, name) for name in names)
    with owner(world) as connection:
        connection.execute(
            f"INSERT INTO runbook.{table} ({', '.join(names)}) SELECT {values} FROM runbook.{table} WHERE run_id = '{run}'"
        )
        assert told(look(connection), table, f"{run}x")


def test_an_inserted_event_of_a_run_that_is_closed(world: World) -> None:
    run = world.runs["passed"]
    with owner(world) as connection:
        seq, at, last = connection.execute(
            "SELECT seq, at, hash FROM runbook.events WHERE run_id = $1 ORDER BY seq DESC LIMIT 1", [run]
        ).fetchone() or (0, "", "")
        text = dumps({"seq": seq + 1, "at": at.isoformat(), "kind": "note.added", "data": {"text": "all was well"}})
        connection.execute(
            "INSERT INTO runbook.events VALUES ($1, $2::int, $3, 'note.added', $4, $5, $6, 1)",
            [run, seq + 1, at, text, last, chain(last, text)],
        )
        assert told(look(connection), "events", run, f"event {seq + 1}")


def test_a_run_with_its_own_entries_in_the_chain_that_is_a_copy(world: World) -> None:
    run = world.runs["passed"]
    with owner(world) as connection:
        for table in ("runs", "events"):
            names = list(COLUMNS[table])
            values = ", ".join(COPY if name == "run_id" else name for name in names)
            connection.execute(
                f"INSERT INTO runbook.{table} ({', '.join(names)}) SELECT {values} FROM runbook.{table} WHERE run_id = '{run}'"
            )
        for kind in ("opened", "closed"):
            row = connection.execute(
                "SELECT line FROM runbook.chain WHERE run_id = $1 AND kind = $2", [run, kind]
            ).fetchone()
            assert row
            line = row[0].replace(run, f"{run}x")
            connection.execute("SELECT runbook.add_to_chain($1, $2, $3)", [kind, f"{run}x", line])
        connection.execute(
            "INSERT INTO runbook.closings SELECT (SELECT max(number) FROM runbook.chain), run_id || 'x', verdict, exit_code,"
            " finished_at, duration, last_seq, last_hash, runbook, started_at FROM runbook.closings WHERE run_id = $1",
            [run],
        )
        report = look(connection)
    assert [finding.record for finding in report.findings] == ["event 1 (run.opened)"], report.findings
    assert told(report, "events", f"{run}x", "event 1")


@pytest.mark.parametrize("name", ["NULL", "''", f"'{'long' * 100}'", "'../../etc'", "'\u202e'"])
def test_a_run_with_an_odd_name(name: str, world: World) -> None:
    with owner(world) as connection:
        connection.execute("ALTER TABLE runbook.runs DROP CONSTRAINT runs_pkey CASCADE")
        connection.execute("ALTER TABLE runbook.runs ALTER run_id DROP NOT NULL")
        names = ", ".join(list(COLUMNS["runs"])[1:])
        connection.execute(
            f"INSERT INTO runbook.runs (run_id, {names}) SELECT {name}, {names} FROM runbook.runs"
            f" WHERE run_id = '{world.runs['passed']}'"
        )
        report = look(connection, (), world.journal)
    assert told(report, "runs", "" if name == "NULL" else name.strip("'")), report.findings


SWAPS = {
    "two events": (
        "events",
        "UPDATE runbook.events SET seq = CASE seq WHEN 3 THEN 4 ELSE 3 END WHERE run_id = '{passed}' AND seq IN (3, 4)",
    ),
    "the texts of two events": (
        "events",
        "UPDATE runbook.events e SET line = o.line, hash = o.hash, previous = o.previous, kind = o.kind, at = o.at FROM"
        " runbook.events o WHERE e.run_id = '{passed}' AND o.run_id = e.run_id AND (e.seq, o.seq) IN ((3, 4), (4, 3))",
    ),
    "the events of two runs": (
        "events",
        "UPDATE runbook.events SET run_id = CASE run_id WHEN '{passed}' THEN '{refuted}' ELSE '{passed}' END"
        " WHERE run_id IN ('{passed}', '{refuted}')",
    ),
    "the closings of two runs": (
        "closings",
        "UPDATE runbook.closings SET run_id = CASE run_id WHEN '{passed}' THEN '{refuted}' ELSE '{passed}' END"
        " WHERE run_id IN ('{passed}', '{refuted}')",
    ),
    "the rows of two runs": (
        "runs",
        "UPDATE runbook.runs SET run_id = CASE run_id WHEN '{passed}' THEN '{refuted}' ELSE '{passed}' END"
        " WHERE run_id IN ('{passed}', '{refuted}')",
    ),
    "two entries": (
        "chain",
        "UPDATE runbook.chain SET number = CASE number WHEN 4 THEN 6 ELSE 4 END WHERE number IN (4, 6)",
    ),
    "a run's name everywhere": (
        "chain",
        "UPDATE runbook.runs SET run_id = 'other' WHERE run_id = '{passed}';"
        " UPDATE runbook.events SET run_id = 'other' WHERE run_id = '{passed}';"
        " UPDATE runbook.closings SET run_id = 'other' WHERE run_id = '{passed}';"
        " UPDATE runbook.chain SET run_id = 'other' WHERE run_id = '{passed}'",
    ),
}


@pytest.mark.parametrize("swap", SWAPS)
def test_rows_that_were_swapped(swap: str, world: World) -> None:
    table, change = SWAPS[swap]
    with owner(world) as connection:
        for name in ("runs", "events", "closings", "chain"):
            for constraint in _constraints(connection, name):
                connection.execute(f"ALTER TABLE runbook.{name} DROP CONSTRAINT IF EXISTS {constraint} CASCADE")
        connection.execute(change.format(**world.runs))
        report = look(connection)
    assert any(finding.table == table and finding.run for finding in report.findings), report.findings


def test_a_row_that_stands_there_twice(world: World) -> None:
    for table in ("runs", "events", "closings", "chain"):
        with owner(world) as connection:
            for constraint in _constraints(connection, table):
                connection.execute(f"ALTER TABLE runbook.{table} DROP CONSTRAINT IF EXISTS {constraint} CASCADE")
            run = world.runs["passed"]
            connection.execute(
                f"INSERT INTO runbook.{table} SELECT * FROM runbook.{table} WHERE run_id = '{run}' ORDER BY ctid LIMIT 1"
            )
            assert told(look(connection), table, run), table


# --- written anew ---------------------------------------------------------------------------------------------------


def rewrite(connection: Connection, run: str, seq: int, depth: int) -> None:
    """Another text for one event, and every hash after it: of the run (1), its closing (2), its entry (3), the chain (4)."""
    rows = connection.execute(
        "SELECT seq, line, previous, hash FROM runbook.events WHERE run_id = $1 AND seq >= $2::int ORDER BY seq",
        [run, seq],
    ).fetchall()
    previous, last = rows[0][2], rows[-1][3]
    for number, text, _, _ in rows:
        line = text[:-1] + ', "more": 1}' if number == seq else text
        head = chain(previous, line)
        connection.execute(
            "UPDATE runbook.events SET line = $1, previous = $2, hash = $3 WHERE run_id = $4 AND seq = $5::int",
            [line, previous, head, run, number],
        )
        previous = head
    if depth >= 2:
        connection.execute("UPDATE runbook.closings SET last_hash = $1 WHERE run_id = $2", [previous, run])
    if depth >= 3:
        connection.execute(
            "UPDATE runbook.chain SET line = replace(line, $1, $2) WHERE run_id = $3", [last, previous, run]
        )
    if depth >= 4:
        rechain(connection)


def rechain(connection: Connection) -> None:
    previous = "0" * 64
    for number, line in connection.execute("SELECT number, line FROM runbook.chain ORDER BY number").fetchall():
        head = chain(previous, line)
        connection.execute(
            "UPDATE runbook.chain SET previous = $1, head = $2 WHERE number = $3", [previous, head, number]
        )
        previous = head


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("seq", [2, 5])
def test_one_event_and_every_hash_of_the_run_after_it(seq: int, depth: int, world: World) -> None:
    run = world.runs["passed"]
    with owner(world) as connection:
        rewrite(connection, run, seq, depth)
        report = look(connection)
        assert told(report, "chain" if depth == 3 else "events", run), report.findings
        assert told(look(connection, (), world.journal), "events", run, f"event {seq} ")


def test_the_whole_chain_computed_anew_needs_a_head_from_outside(world: World) -> None:
    run = world.runs["passed"]
    log = next(path for path in world.folder.glob("logs/passed_*.md") if run in path.read_text())
    with owner(world) as connection:
        rewrite(connection, run, 5, 4)
        assert look(connection).sound
        report = look(connection, [Anchor(world.heads[run], "--head")])
        assert [finding.table for finding in report.findings] == ["chain"]
        report = look(connection, [from_log(log).anchor])
        assert told(report, "chain", run, "entry") and str(log) in report.findings[0].what
        report = look(connection, [], world.journal)
        assert told(report, "events", run, "event 5 "), report.findings
        before = look(connection, [Anchor(world.heads[world.runs["pruned"]], "--head")])
        assert before.sound  # a head from before the change proves nothing of what came after it


def test_a_verdict_changed_in_every_table_and_the_chain_computed_anew(world: World) -> None:
    run = world.runs["refuted"]
    with owner(world) as connection:
        connection.execute(f"UPDATE runbook.closings SET verdict = 'passed' WHERE run_id = '{run}'")
        connection.execute(
            f"UPDATE runbook.chain SET line = replace(line, '\"refuted\", \"exit', '\"passed\", \"exit') WHERE run_id = '{run}'"
        )
        rechain(connection)
        assert told(look(connection), "chain", run)  # the run's last event tells another one


def test_the_newest_runs_removed(world: World) -> None:
    gone = [world.runs[name] for name in ("opened", "lost", "odd", "noted", "errored", "failed")]
    with owner(world) as connection:
        names = ", ".join(f"'{run}'" for run in gone)
        newest = f"SELECT min(number) FROM runbook.chain WHERE run_id IN ({names})"
        number = (connection.execute(newest).fetchone() or (0,))[0]
        later = f"(SELECT run_id FROM runbook.chain WHERE number >= {number})"
        for table in ("events", "closings", "runs"):
            connection.execute(f"DELETE FROM runbook.{table} WHERE run_id IN {later}")
        connection.execute(f"DELETE FROM runbook.chain WHERE number >= {number}")
        report = look(connection)
        assert told(report, "leases", world.runs["noted"]), report.findings
        connection.execute("DELETE FROM runbook.leases WHERE lock NOT IN (SELECT lock FROM runbook.runs)")
        connection.execute(
            "UPDATE runbook.leases l SET epoch = r.epoch, run_id = r.run_id, pid = r.pid FROM runbook.runs r"
            " WHERE l.lock = r.lock"
        )
        assert look(connection).sound
        report = look(connection, world.anchors)
    assert {finding.run for finding in report.findings} >= set(gone) - {world.runs["opened"]}


def test_a_note_removed_with_its_entry(world: World) -> None:
    run = world.runs["noted"]
    with owner(world) as connection:
        connection.execute("DELETE FROM runbook.chain WHERE kind = 'added'")
        assert told(look(connection), "events", run)
        last = connection.execute("SELECT last_seq FROM runbook.closings WHERE run_id = $1", [run]).fetchone()
        assert last
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute(f"DELETE FROM runbook.events WHERE run_id = '{run}' AND seq > {last[0]}")
        assert told(look(connection, world.anchors), "chain", run)


def test_a_note_removed_is_found_by_its_journal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its journal tells the head at which the note stood, as it does for the closing."""
    monkeypatch.chdir(world.folder)
    run = world.runs["noted"]
    with owner(world) as connection:
        connection.execute(
            "DELETE FROM runbook.events e USING runbook.closings c WHERE c.run_id = e.run_id AND e.seq > c.last_seq"
        )
        connection.execute("DELETE FROM runbook.chain WHERE kind = 'added'")
        assert told(look(connection, list(from_disk(describe(world.url)))), "chain", run)


def test_an_older_copy_put_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.folder)
    for anchors in (world.anchors, list(from_disk(describe(world.url)))):
        with connect(world.older, "test") as connection, one_moment(connection):
            report = verify(read_database(connection), anchors)
        later = {world.runs[name] for name in ("failed", "errored", "noted", "odd", "lost")}
        assert {finding.run for finding in report.findings} >= later
        assert all("older copy" in finding.what for finding in report.findings)


# --- entries that are no entries, triggers, pruning -----------------------------------------------------------------

LINES = [
    "",
    "{}",
    "[]",
    '"x"',
    "RUN x",
    '{"kind": "closed", "run": "RUN"}',
    '{"kind": "closed", "run": "RUN", "last_seq": "7", "last_hash": []}',
    '{"kind": "closed", "run": "RUN", "last_seq": [1], "last_hash": "x", "verdict": 1, "finished_at": 5}',
    '{"kind": "closed", "run": "RUN", "last_seq": true, "last_hash": "x", "duration": 1e999999999}',
    '{"kind": ["closed"], "run": {"a": 1}}',
    '{"kind": "closed", "run": "RUN", "last_seq": 1, "last_hash": "\\ud800"}',
    "[" * 5000,
]


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("kind", ["opened", "closed", "added", "pruned"])
def test_an_entry_of_another_shape(kind: str, line: str, world: World) -> None:
    run = world.runs["passed"]
    with owner(world) as connection:
        text = line.replace("RUN", run)
        if kind in ("added", "pruned"):
            connection.execute("SELECT runbook.add_to_chain($1, $2, $3)", [kind, run, text])
        else:
            connection.execute("UPDATE runbook.chain SET line = $1 WHERE run_id = $2 AND kind = $3", [text, run, kind])
            rechain(connection)
        assert any(finding.run == run for finding in look(connection).findings)


@pytest.mark.parametrize("line", [*LINES, '{"seq": 5, "at": 7, "kind": [], "data": 1}'])
def test_an_event_of_another_shape(line: str, world: World) -> None:
    run = world.runs["opened"]
    with owner(world) as connection:
        connection.execute(
            "UPDATE runbook.events SET line = $1, hash = $2 WHERE run_id = $3 AND seq = 1",
            [line, chain("0" * 64, line), run],
        )
        assert told(look(connection), "events", run, "event 1")


def test_params_that_are_nested_too_deeply_are_named(world: World) -> None:
    run = world.runs["passed"]
    with owner(world) as connection:
        connection.execute(
            f"UPDATE runbook.runs SET params = (repeat('[', 3000) || repeat(']', 3000))::jsonb WHERE run_id = '{run}'"
        )
        with pytest.raises(Exception, match=f"run {run} cannot be read"):
            look(connection)


TRIGGERS = {
    "disabled": "ALTER TABLE runbook.{table} DISABLE TRIGGER {name}",
    "all disabled": "ALTER TABLE runbook.{table} DISABLE TRIGGER USER",
    "for replicas only": "ALTER TABLE runbook.{table} ENABLE REPLICA TRIGGER {name}",
    "dropped": "DROP TRIGGER {name} ON runbook.{table}",
    "never fires": "DROP TRIGGER {name} ON runbook.{table}; CREATE TRIGGER {name} BEFORE UPDATE OR DELETE ON runbook.{table}"
    " FOR EACH ROW WHEN (false) EXECUTE FUNCTION runbook.refuse_change()",
    "for inserts": "DROP TRIGGER {name} ON runbook.{table}; CREATE TRIGGER {name} BEFORE INSERT ON runbook.{table}"
    " FOR EACH STATEMENT EXECUTE FUNCTION runbook.refuse_change()",
    "refuses nothing": "CREATE OR REPLACE FUNCTION runbook.refuse_change() RETURNS trigger LANGUAGE plpgsql AS"
    " $$BEGIN RETURN NULL; END$$; CREATE OR REPLACE FUNCTION runbook.refuse_unpruned() RETURNS trigger LANGUAGE plpgsql AS"
    " $$BEGIN RETURN OLD; END$$",
}


@pytest.mark.parametrize("how", TRIGGERS)
@pytest.mark.parametrize(
    ("table", "name"),
    [
        *((table, "append_only") for table in ("runs", "events", "closings", "chain", "migrations")),
        ("events", "pruned_only"),
    ],
)
def test_a_trigger_that_no_longer_refuses(table: str, name: str, how: str, world: World) -> None:
    with owner(world) as connection:
        connection.execute(TRIGGERS[how].format(table=table, name=name))
        assert told(look(connection), table, "", f"trigger {name}")


def prune(connection: Connection, run: str, **facts: Any) -> None:
    row = connection.execute("SELECT last_seq, last_hash FROM runbook.closings WHERE run_id = $1", [run]).fetchone()
    last_seq, last_hash = row or (6, "0" * 64)
    known = {
        "kind": "pruned",
        "run": run,
        "events": last_seq,
        "last_seq": last_seq,
        "last_hash": last_hash,
        "operator": "Eve",
    }
    connection.execute("SELECT runbook.add_to_chain('pruned', $1, $2)", [run, dumps({**known, **facts})])


def test_forged_prunings(world: World) -> None:
    run = world.runs["passed"]
    with owner(world) as connection:
        prune(connection, run, last_hash="0" * 64)
        connection.execute(f"DELETE FROM runbook.events WHERE run_id = '{run}'")
        assert told(look(connection), "chain", run, "pruned")
    with owner(world) as connection:
        prune(connection, run, events=2)
        connection.execute(f"DELETE FROM runbook.events WHERE run_id = '{run}'")
        assert told(look(connection), "chain", run, "pruned")
    with owner(world) as connection:
        prune(connection, run)
        connection.execute(f"DELETE FROM runbook.events WHERE run_id = '{run}' AND seq > 3")
        assert told(look(connection), "events", run)
    with owner(world) as connection:
        prune(connection, world.runs["opened"])
        connection.execute(f"DELETE FROM runbook.events WHERE run_id = '{world.runs['opened']}'")
        assert told(look(connection), "chain", world.runs["opened"], "pruned")
    with owner(world) as connection:  # as the owner may; the chain says who
        prune(connection, run)
        connection.execute(f"DELETE FROM runbook.events WHERE run_id = '{run}'")
        assert look(connection, world.anchors, world.journal).sound


def test_what_is_put_into_a_pruned_run(world: World) -> None:
    run, other = world.runs["pruned"], world.runs["passed"]
    with owner(world) as connection:
        connection.execute(
            f"INSERT INTO runbook.events SELECT '{run}', seq, at, kind, line, previous, hash, 1 FROM runbook.events"
            f" WHERE run_id = '{other}'"
        )
        assert told(look(connection), "events", run)


def test_rows_that_are_hidden_from_the_reader(world: World) -> None:
    with owner(world) as connection:
        connection.execute("ALTER TABLE runbook.runs ENABLE ROW LEVEL SECURITY")
        connection.execute("GRANT USAGE ON SCHEMA runbook TO runbook_reader")
        connection.execute("CREATE POLICY hide ON runbook.runs USING (runbook <> 'refuted')")
        connection.execute("SET LOCAL ROLE runbook_reader")
        with pytest.raises(Exception, match="row-level security"):
            verify(read_database(connection))


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_tells_which_record(world: World) -> None:
    ended = world.run("audit", "verify", "--json")
    assert ended.code == 0, ended.err
    (audit,) = ended.document["audits"]
    assert ended.document["sound"] and audit["counts"]["anchors"] >= 9 and audit["findings"] == []
    copy = f"test_{os.urandom(6).hex()}"
    source = str(conninfo_to_dict(world.url)["dbname"])
    with psycopg.connect(world.admin, dbname="postgres", autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{copy}" TEMPLATE "{source}"'.encode())
        try:
            run = world.runs["refuted"]
            with psycopg.connect(world.admin.replace(source, copy), autocommit=True) as connection:
                connection.execute("SET session_replication_role = replica")
                connection.execute(f"UPDATE runbook.closings SET verdict = 'passed' WHERE run_id = '{run}'".encode())
            url = world.url.replace(source, copy)
            ended = world.run("audit", "verify", "--json", "--database", url)
            assert ended.code == 1 and not ended.document["sound"]
            (finding,) = ended.document["audits"][0]["findings"]
            assert (finding["table"], finding["run"], finding["record"]) == ("closings", run, "its row")
            assert f"closings: run {run}, its row: verdict was changed" in ended.err
            assert "NOT as it was written" in ended.err
        finally:
            admin.execute(f'DROP DATABASE "{copy}" WITH (FORCE)'.encode())


def test_heads_that_the_command_is_given(world: World) -> None:
    log = next(world.folder.glob("logs/odd_*.md"))
    assert (
        world.run("audit", "verify", "--no-journals", str(log), "--head", world.heads[world.runs["passed"]]).code == 0
    )
    ended = world.run("audit", "verify", "--no-journals", "--head", "f" * 64)
    assert ended.code == 1 and "no entry of the audit has it" in ended.err
    ended = world.run("audit", "verify", "--no-journals", "--head", "f" * 63)
    assert ended.code == 2 and "64" in ended.err


def test_a_journal_that_was_changed_by_one_byte(world: World, tmp_path: Path) -> None:
    path = world.folder / ".runbook" / "runs" / world.runs["passed"] / "journal.jsonl"
    raw = path.read_bytes()
    try:
        lines = raw.split(b"\n")
        lines[4] = lines[4].replace(b'"seq": 5', b'"seq": 6')
        path.write_bytes(b"\n".join(lines))
        ended = world.run("audit", "verify", "--json")
    finally:
        path.write_bytes(raw)
    assert ended.code == 1
    (finding,) = ended.document["audits"][0]["findings"]
    assert finding["table"] == "journal" and finding["run"] == world.runs["passed"]
    assert "journal.jsonl:5: this line was changed" in finding["what"]


def test_another_role_sees_the_same_heads_from_outside(world: World) -> None:
    """The journals name the role that ran; who verifies is often another."""
    reader = as_admin(world.url)
    ended = world.run("audit", "verify", "--json", "--database", reader, url=reader)
    assert ended.code == 0, ended.err
    assert ended.document["audits"][0]["counts"]["anchors"] >= 9


def test_an_export_tells_the_same_as_the_database(world: World, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    ended = world.run("audit", "export", "-o", str(file))
    assert ended.code == 0, ended.err
    ours = world.run("audit", "verify", "--json").document["audits"][0]
    ended = world.run("audit", "verify", "--json", "--file", str(file))
    assert ended.code == 0, ended.err
    theirs = ended.document["audits"][0]
    assert {key: ours[key] for key in ("sound", "head", "counts")} == {
        key: theirs[key] for key in ("sound", "head", "counts")
    }
    assert ours["head"] in world.run("audit", "export", "-o", str(tmp_path / "again.jsonl")).err
    lines = [loads(line) for line in file.read_text().splitlines()]
    assert lines[-1]["row"]["rows"]["runs"] == 11
    assert json.loads(file.read_text().splitlines()[0])["table"] == "export"


def test_an_export_stays_sound_when_runs_come_after_it(world: World, tmp_path: Path) -> None:
    """The journals on this disk go on; an export tells when it was made."""
    file = tmp_path / "audit.jsonl"
    with connect(world.older, "test") as connection, one_moment(connection):
        header, *lines = export(read_database(connection), describe(world.url))
    with connect(world.url, "test") as connection:
        row = connection.execute(
            "SELECT started_at FROM runbook.runs WHERE run_id = $1", [world.runs["failed"]]
        ).fetchone()
    assert row
    made = loads(header)
    made["row"]["at"] = row[0].isoformat()
    file.write_text("".join(f"{line}\n" for line in [dumps(made), *lines]))
    ended = world.run("audit", "verify", "--json", "--file", str(file))
    assert ended.code == 0, ended.err
    assert ended.document["audits"][0]["counts"]["anchors"] >= 3
    made["row"]["at"] = "2999-01-01T00:00:00+00:00"
    file.write_text("".join(f"{line}\n" for line in [dumps(made), *lines]))
    assert world.run("audit", "verify", "--file", str(file)).code == 1
