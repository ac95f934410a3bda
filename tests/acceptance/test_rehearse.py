"""Rehearsals: the whole run, for real, on a copy that is always dropped; the source is proven unchanged."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.helpers import DB, HEAD, ITEMS, Background, Site
from tests.conftest import Database, Program

BODY = """\
state: {items: {sql: SELECT count(*) AS total FROM items}}
expectations: {items.total: {delta: 3}}
steps:
  add: {shell: 'psql -qc "INSERT INTO items SELECT generate_series(1, COUNT)"'}
postconditions:
  there: {sql: SELECT count(*) FROM items, returns: value, expect: result == 4}
"""


def checksum(database: Database) -> Any:
    """Of everything that the database holds, catalogs of schemas and tables included."""
    tables = database.rows(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE relkind IN ('r', 'S') AND nspname !~ '^pg_|information_schema' ORDER BY 1, 2"
    )
    return [
        (table, database.rows(f'SELECT md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM "{schema}"."{table}" t'))
        for schema, table in tables
    ]


def copies(database: Database) -> list[str]:
    """Of this database: others' tests make copies on the same server."""
    query = (
        "SELECT datname FROM pg_database WHERE datname LIKE 'runbook_copy_%' "
        "AND shobj_description(oid, 'pg_database') LIKE '% ' || current_database() || ' for run %'"
    )
    return [name for (name,) in database.rows(query)]


@pytest.fixture
def filled(database: Database) -> Database:
    database.run(f"{ITEMS}; INSERT INTO items VALUES (1)")
    return database


def test_it_runs_whole_on_a_copy_and_the_source_is_what_it_was(
    filled: Database, program: Program, write: Callable[..., Path]
) -> None:
    write("small.yaml", HEAD + DB + BODY.replace("COUNT", "3"))
    before = checksum(filled)
    ended = program("exec", "small.yaml", "--rehearse", "--json", env={"DATABASE_URL": filled.url})
    assert ended.code == 0, ended.err
    record = ended.document
    assert record["run"]["rehearsal"] and record["after"] == {"items": {"total": 4}}
    assert "rehearsal: copy database" in ended.err and "runbook_copy_" in ended.err
    assert checksum(filled) == before and not copies(filled)
    assert record["report"].endswith("_rehearsal.md") and "**Rehearsal**" in Path(record["report"]).read_text()


def test_a_step_that_does_too_little_is_refuted_and_the_source_is_what_it_was(
    filled: Database, program: Program, write: Callable[..., Path]
) -> None:
    write("small.yaml", HEAD + DB + BODY.replace("COUNT", "2"))
    before = checksum(filled)
    ended = program("exec", "small.yaml", "--rehearse", env={"DATABASE_URL": filled.url})
    assert ended.code == 1 and "predicted 3, actual 2" in ended.err
    assert checksum(filled) == before and not copies(filled)


def test_a_source_in_use_is_dumped_and_restored(filled: Database, program: Program, write: Callable[..., Path]) -> None:
    write("small.yaml", HEAD + DB + BODY.replace("COUNT", "3"))
    with psycopg.connect(filled.url):
        ended = program("exec", "small.yaml", "--rehearse", env={"DATABASE_URL": filled.url})
    assert ended.code == 0 and "dump and restore" in ended.err, ended.err
    assert not copies(filled)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_no_copy(
    filled: Database, write: Callable[..., Path], start: Callable[..., Background], number: int
) -> None:
    write("small.yaml", HEAD + DB + "steps: {wait: {shell: sleep 300}}\n")
    background = start("exec", "small.yaml", "--rehearse", env={"DATABASE_URL": filled.url})
    background.reached("process.started")
    assert copies(filled)
    assert background.end(number, timeout=60).code == 130
    assert not copies(filled)


@pytest.mark.parametrize(
    "place", ["after-rehearsal.begun", "before-copies.made", "after-step.started", "before-copies.dropped"]
)
def test_killed_it_leaves_a_copy_that_recover_drops(
    filled: Database, program: Program, write: Callable[..., Path], place: str
) -> None:
    write("small.yaml", HEAD + DB + BODY.replace("COUNT", "3"))
    env = {"DATABASE_URL": filled.url}
    before = checksum(filled)
    killed = program("exec", "small.yaml", "--rehearse", env={**env, "RUNBOOK_FAILPOINT": f"{place}:kill"})
    assert killed.code == -signal.SIGKILL
    assert bool(copies(filled)) == (place in ("before-copies.made", "after-step.started"))
    recovered = program("recover", env=env)
    assert recovered.code == 0, recovered.err
    assert not copies(filled) and checksum(filled) == before
    assert "nothing is running here" in program("status", env=env).err


def test_what_stands_in_for_a_step_is_done_and_what_is_left_out_is_not(
    filled: Database, program: Program, write: Callable[..., Path], tmp_path: Path, site: Site
) -> None:
    site.put("/tell", {})
    body = f"""\
steps:
  tell: {{http: {{post: "{site.url}/tell"}}, rehearse: {{shell: echo stood in > stood}}}}
  mail: {{shell: echo sent > sent, rehearse: skip}}
  real: {{shell: echo real > real}}
"""
    write("small.yaml", HEAD + DB + body)
    ended = program("exec", "small.yaml", "--rehearse", "--json", env={"DATABASE_URL": filled.url})
    assert ended.code == 0, ended.err
    assert not site.asked and (tmp_path / "stood").exists() and (tmp_path / "real").exists()
    assert not (tmp_path / "sent").exists()
    mail = ended.document["steps"]["mail"]
    assert mail["verdict"] == "skipped" and "rehearse: skip" in mail["because"]
    assert program("exec", "small.yaml", env={"DATABASE_URL": filled.url}).code == 0
    assert [asked.path for asked in site.asked] == ["/tell"] and (tmp_path / "sent").exists()


def test_a_rehearsal_can_be_required(filled: Database, program: Program, write: Callable[..., Path]) -> None:
    env = {"DATABASE_URL": filled.url}
    path = write("small.yaml", HEAD + "params: {n: {type: integer, default: 1}}\n" + DB + BODY.replace("COUNT", "3"))
    refused = program("exec", "small.yaml", "--require-rehearsal", "--json", env=env)
    assert refused.code == 3 and "--rehearse" in refused.err and refused.document["run"]["verdict"] == "blocked"
    assert program("exec", "small.yaml", "--rehearse", env=env).code == 0
    other = program("exec", "small.yaml", "--require-rehearsal", "-p", "n=2", env=env)
    assert other.code == 3
    path.write_text(path.read_text() + "# changed\n")
    assert program("exec", "small.yaml", "--require-rehearsal", env=env).code == 3
    path.write_text(path.read_text().removesuffix("# changed\n"))
    done = program("exec", "small.yaml", "--require-rehearsal", "--json", env=env)
    assert done.code == 0 and "rehearsed before, and passed" in Path(done.document["report"]).read_text()
    assert filled.value("SELECT count(*) FROM items") == 4


def test_a_rehearsal_that_did_not_pass_proves_nothing(
    filled: Database, program: Program, write: Callable[..., Path]
) -> None:
    env = {"DATABASE_URL": filled.url}
    write("small.yaml", HEAD + DB + BODY.replace("COUNT", "2"))
    assert program("exec", "small.yaml", "--rehearse", env=env).code == 1
    assert program("exec", "small.yaml", "--require-rehearsal", env=env).code == 3


def test_one_that_cannot_begin_is_closed_at_once(program: Program, write: Callable[..., Path]) -> None:
    write("small.yaml", HEAD + DB + BODY.replace("COUNT", "3"))
    env = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    assert program("exec", "small.yaml", "--rehearse", env=env).code == 6
    assert "nothing is running here" in program("status", env=env).err
    assert "**errored**" in program("show", "last").out
