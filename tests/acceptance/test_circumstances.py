"""What a run's record has of its surroundings: enough to repeat it, from real repositories, servers and databases."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.helpers import (
    ADD,
    DB,
    HEAD,
    ITEMS,
    NO_AUDIT,
    STATE,
    Background,
    Run,
    Site,
    kinds_of,
    lines_of,
    until,
)
from tests.conftest import Database, Program
from tests.operate.test_circumstances import committed, git, sha256

STEP = 'steps:\n  s: {command: ["true"]}\n'
BLOCKED = "preflight:\n  no: {expect: 1 == 2}\n"


def around(record: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = record["circumstances"]
    return found


# --- the tree -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preflight", ["", BLOCKED])
def test_what_differs_from_the_commit_is_recorded_blocked_or_not(preflight: str, tmp_path: Path, run: Run) -> None:
    committed(tmp_path, code=b"1")
    (tmp_path / "code").write_bytes(b"2")
    record = run(preflight + STEP)
    assert record["run"]["verdict"] == ("blocked" if preflight else "passed")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert around(record)["versions"]["git"] == f"{head} (dirty: 1 files differ)"
    assert around(record)["dirty"] == {"code": sha256(b"2")}
    assert "patch" not in around(record) and not list(Path(record["journal"]).parent.glob("*patch*"))
    kinds = kinds_of(record)
    assert kinds.index("circumstances.noted") < kinds.index("run.finished" if preflight else "step.started")


def test_what_a_step_changes_is_not_taken_for_what_the_run_began_with(tmp_path: Path, run: Run) -> None:
    committed(tmp_path, code=b"1")
    (tmp_path / "code").write_bytes(b"2")
    record = run("steps:\n  s: {shell: 'echo 3 > code'}\n  t: {shell: 'echo 4 > code'}\n")
    assert around(record)["dirty"] == {"code": sha256(b"2")}


def test_the_patch_is_kept_on_demand_alone(tmp_path: Path, program: Program, write: Callable[..., Path]) -> None:
    committed(tmp_path, code=b"1\n")
    (tmp_path / "code").write_bytes(b"2 hunter-2222\n")
    write("small.yaml", HEAD + "secrets: {token: {env: TOKEN}}\n" + STEP)
    env = {"TOKEN": "hunter-2222"}
    record = program("exec", "small.yaml", "--keep-patch", "--json", env=env).document
    path = Path(record["journal"]).with_name("patch.diff")
    assert around(record)["patch"] == {"file": "patch.diff", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert path.read_text().endswith("-1\n+2 ***\n") and path.stat().st_mode & 0o777 == 0o600
    without = program("exec", "small.yaml", "--json", env=env).document
    assert "patch" not in around(without) and not Path(without["journal"]).with_name("patch.diff").exists()


def test_a_patch_that_cannot_be_kept_is_told_of(run: Run) -> None:
    record = run(STEP, keep_patch=True)
    assert record["run"]["verdict"] == "passed"
    assert "the patch was not kept: the runbook lies in no git repository" in around(record)["warnings"]


# --- host and servers ---------------------------------------------------------------------------------------------


def test_host_and_server_are_told(database: Database, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    record = run(DB + "preflight:\n  a: {sql: SELECT 1}\n" + STEP, database.url)
    assert (around(record)["locale"], around(record)["time_zone"]) == ("C.UTF-8", "Europe/Berlin")
    shown = database.value("SHOW TimeZone")
    assert around(record)["servers"] == {"db": {"encoding": "UTF8", "time_zone": shown}}
    assert around(record)["versions"]["PostgreSQL (db)"] == database.value("SHOW server_version")
    assert around(record)["made"] == []


def test_two_equal_runs_have_equal_versions(program: Program, write: Callable[..., Path]) -> None:
    """The second one finds what the first one has remembered, and imports less."""
    write("small.yaml", HEAD + "preflight:\n  a: {expect: \"[1] | map('string') | list == ['1']\"}\n" + STEP)
    first, second = (program("exec", "small.yaml", "--json").document for _ in range(2))
    assert around(first)["versions"] == around(second)["versions"]


# --- the schema of what was read ----------------------------------------------------------------------------------

TABLES = """
CREATE SCHEMA other;
CREATE TYPE colour AS ENUM ('red', 'blue');
CREATE TABLE items (n integer NOT NULL, made timestamptz DEFAULT '2025-01-01 00:00:00+00', hue colour,
  twice integer GENERATED ALWAYS AS (n * 2) STORED, price numeric(10, 2) DEFAULT 1.5);
CREATE TABLE other.parts (n serial PRIMARY KEY, name text COLLATE "C");
CREATE TABLE not_read (n integer);
CREATE VIEW seen AS SELECT n, made AT TIME ZONE 'UTC' AS at FROM items WHERE made > '2024-06-01 00:00:00+00';
CREATE TABLE "Odd ""one" (n integer);
CREATE TABLE split (n integer) PARTITION BY RANGE (n);
CREATE TABLE split_1 PARTITION OF split FOR VALUES FROM (0) TO (10);
CREATE FUNCTION hidden() RETURNS bigint LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT count(*) FROM other.parts); END $$;
"""
READS = {
    "a": "SELECT count(*) FROM seen",
    "b": "SELECT hidden()",
    "c": 'SELECT count(*) FROM "Odd ""one"',
    "d": "SELECT count(*) FROM split WHERE n = 3",
    "e": "SELECT count(*) FROM pg_class, information_schema.tables",
}
CHECKS = "preflight:\n" + "".join(f"  {name}: {{sql: {json.dumps(sql)}}}\n" for name, sql in READS.items())


def schema_of(record: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = around(record)["schema"]["db"]
    return found


def test_all_that_was_read_has_a_fingerprint_and_nothing_else(database: Database, run: Run) -> None:
    database.run(TABLES)
    record = run(DB + NO_AUDIT + CHECKS + STEP, database.url)
    names = {"public.seen", "public.items", "other.parts", 'public."Odd ""one"', "public.split"}
    assert set(schema_of(record)["relations"]) == names
    assert around(run(DB + NO_AUDIT + CHECKS + STEP, database.url))["schema"] == around(record)["schema"]


SETTINGS = """
DO $$ BEGIN
  EXECUTE format('ALTER DATABASE %I SET TimeZone = %L', current_database(), 'Asia/Tokyo');
  EXECUTE format('ALTER DATABASE %I SET DateStyle = %L', current_database(), 'German');
  EXECUTE format('ALTER DATABASE %I SET search_path = public, other', current_database());
END $$
"""
CHANGES = {
    "type": ("ALTER TABLE items ALTER price TYPE numeric(11, 2)", {"public.items"}),
    "not null": ("ALTER TABLE items ALTER n DROP NOT NULL", {"public.items"}),
    "default": ("ALTER TABLE items ALTER price SET DEFAULT 1.6", {"public.items"}),
    "column": ("ALTER TABLE items ADD more text", {"public.items"}),
    "name": ("ALTER TABLE other.parts RENAME name TO named", {"other.parts"}),
    "collation": ('ALTER TABLE other.parts ALTER name TYPE text COLLATE "POSIX"', {"other.parts"}),
    "view": ("CREATE OR REPLACE VIEW seen AS SELECT n, made AT TIME ZONE 'UTC' AS at FROM items", {"public.seen"}),
    "not read": ("ALTER TABLE not_read ADD more text", set()),
    "an index": ("CREATE INDEX ON items (n)", set()),
    "rows": ("INSERT INTO items (n) VALUES (1); ANALYZE items", set()),
    "a partition": ("CREATE TABLE split_2 PARTITION OF split FOR VALUES FROM (10) TO (20)", set()),
    "settings": (SETTINGS, set()),
    "added and removed": ("ALTER TABLE items ADD more text; ALTER TABLE items DROP more", set()),
    "made again": ('DROP TABLE "Odd ""one"; CREATE TABLE "Odd ""one" (n integer)', set()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_fingerprint_tells_what_changed_and_that_alone(change: str, database: Database, run: Run) -> None:
    database.run(TABLES)
    first = schema_of(run(DB + NO_AUDIT + CHECKS + STEP, database.url))
    statement, differing = CHANGES[change]
    database.run(statement)
    second = schema_of(run(DB + NO_AUDIT + CHECKS + STEP, database.url))
    found = {name for name in first["relations"] if first["relations"][name] != second["relations"][name]}
    assert found == differing and set(first["relations"]) == set(second["relations"])
    assert (first["fingerprint"] == second["fingerprint"]) == (not differing)


def test_what_only_the_postconditions_read_is_told_too(database: Database, run: Run) -> None:
    database.run(TABLES)
    body = "preflight:\n  a: {sql: SELECT count(*) FROM items}\n" + STEP
    body += "postconditions:\n  b: {sql: SELECT count(*) FROM other.parts}\n  c: {sql: SELECT count(*) FROM items}\n"
    record = run(DB + NO_AUDIT + body, database.url)
    assert set(schema_of(record)["relations"]) == {"public.items", "other.parts"}
    noted = [line["data"]["schema"]["db"] for line in lines_of(record) if "schema" in line["data"]]
    assert [set(data["relations"]) for data in noted] == [{"public.items"}, {"public.items", "other.parts"}]


def test_the_first_definition_stands_when_a_step_changes_it(database: Database, run: Run) -> None:
    database.run(TABLES)
    reads = "preflight:\n  a: {sql: SELECT count(*) FROM items}\n"
    before = run(DB + NO_AUDIT + reads + STEP, database.url)
    body = "steps:\n  s: {sql: DROP VIEW seen; DROP TABLE items; CREATE TABLE items (n text)}\n"
    body += "postconditions:\n  a: {sql: SELECT max(n) FROM items}\n"
    record = run(DB + NO_AUDIT + reads + body, database.url)
    assert record["run"]["verdict"] == "passed" and schema_of(record) == schema_of(before)


EVIL = """
CREATE SCHEMA evil;
CREATE FUNCTION evil.pg_backend_pid() RETURNS integer LANGUAGE sql AS 'SELECT 1/0';
CREATE FUNCTION evil.equal(integer, integer) RETURNS boolean LANGUAGE sql AS 'SELECT 1/0 = 0';
CREATE OPERATOR evil.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = evil.equal);
"""


def test_what_a_check_sets_reaches_neither_the_question_nor_the_next_check(database: Database, run: Run) -> None:
    database.run(TABLES + EVIL)
    body = """preflight:
  path: {sql: "SELECT set_config('search_path', 'evil, pg_catalog, public', false), count(*) FROM public.items"}
  fast: {sql: "SELECT set_config('statement_timeout', '1', false), count(*) FROM public.not_read"}
  next: {sql: SELECT current_setting('search_path'), returns: value, expect: "'evil' not in result"}
  fails: {sql: SELECT 1/0, severity: warn}
  last: {sql: SELECT count(*) FROM other.parts, returns: value, expect: result == 0}
"""
    record = run(DB + NO_AUDIT + body + STEP, database.url)
    assert record["run"]["verdict"] == "passed", record["run"]
    assert {"public.items", "other.parts"} <= set(schema_of(record)["relations"])


def locked(database: Database, wanted: Path, taken: Path, over: Callable[[], bool]) -> threading.Thread:
    """Another session that locks `items` once there is a file `wanted`, says so in `taken`, and waits until it is `over`."""

    def hold() -> None:
        until(wanted.exists)
        with psycopg.connect(database.url) as connection:
            connection.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
            taken.touch()
            until(over)

    thread = threading.Thread(target=hold)
    thread.start()
    return thread


HOLD = "touch wanted; while [ ! -e taken ]; do sleep 0.01; done"


def test_a_definition_that_is_locked_is_not_waited_for(database: Database, run: Run, tmp_path: Path) -> None:
    """The lock is taken when the view has been read, before its definition is asked for."""
    database.run(TABLES)
    over = threading.Event()
    thread = locked(database, tmp_path / "wanted", tmp_path / "taken", over.is_set)
    try:
        body = f'preflight:\n  a: {{sql: SELECT count(*) FROM seen}}\n  b: {{command: [sh, -c, "{HOLD}"]}}\n'
        record = run(DB + NO_AUDIT + body + STEP, database.url)
        assert record["run"]["verdict"] == "passed" and "schema" not in around(record)
        at = {line["kind"]: datetime.fromisoformat(line["at"]) for line in lines_of(record)}
        assert at["step.started"] - at["predictions.registered"] < timedelta(seconds=1.5), "200 ms, not more"
    finally:
        over.set()
        thread.join()


def test_a_look_and_a_dry_run_ask_for_no_definitions(
    database: Database, program: Program, write: Callable[..., Path]
) -> None:
    database.run(TABLES)
    write("small.yaml", HEAD + DB + CHECKS + STEP)
    for command in (["check", "small.yaml", "--json"], ["exec", "small.yaml", "--dry-run", "--json"]):
        ended = program(*command, env={"DATABASE_URL": database.url})
        assert ended.code == 0 and "schema" not in around(ended.document), ended.err


# --- models -------------------------------------------------------------------------------------------------------

OLLAMA = "connections:\n  o: {type: http, env: OLLAMA_HOST}\n"


@pytest.mark.parametrize("preflight", ["", BLOCKED])
def test_the_models_of_an_ollama(preflight: str, site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    site.put("/api/tags", {"models": [{"name": "llama3:8b", "digest": "365c"}]})
    monkeypatch.setenv("OLLAMA_HOST", site.url.replace("//", "//me:hunter22@"))
    monkeypatch.setattr("runbook.operate.models.PATIENCE", 30)
    record = run(OLLAMA + preflight + STEP)
    assert around(record)["models"] == {"o": {"llama3:8b": "365c"}}
    assert [asked.path for asked in site.asked] == ["/api/tags"] and "Authorization" not in site.asked[0].headers
    assert "hunter22" not in Path(record["journal"]).read_text()


def test_an_ollama_that_is_away_or_asleep_holds_nobody_up(
    site: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", f"{site.url}/slow")
    began = time.monotonic()
    record = run(OLLAMA + STEP)
    assert time.monotonic() - began < 60, "its server answers after 300 s"
    assert around(record)["models"] == {"o": "no answer in time"}
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    monkeypatch.setattr("runbook.operate.models.PATIENCE", 30)
    assert around(run(OLLAMA + STEP))["models"] == {"o": "no answer: Connection refused"}


def test_an_answer_that_comes_during_the_steps_is_noted_at_the_end(
    site: Site, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site.put("/api/tags", {"models": []})
    monkeypatch.setenv("OLLAMA_HOST", site.url)
    monkeypatch.setattr("runbook.operate.models.PATIENCE", 0)
    record = run(OLLAMA + "steps:\n  s: {command: [sleep, '3']}\n")
    assert around(record)["models"] == {"o": {}}


# --- progress -----------------------------------------------------------------------------------------------------

SLOWLY = """
import os, time, psycopg
with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
    for number in range(60):
        connection.execute("INSERT INTO items VALUES (%s)", [number])
        time.sleep(0.06)
"""


def measured(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [line["data"] for line in lines_of(record) if line["kind"] == "progress.measured"]


@pytest.mark.parametrize("audit", ["", NO_AUDIT])
def test_a_long_step_has_its_progress(audit: str, database: Database, run: Run, write: Callable[..., Path]) -> None:
    database.run(ITEMS)
    write("slowly.py", SLOWLY)
    body = f'steps:\n  quick: {{command: ["true"]}}\n  slow: {{command: ["{sys.executable}", slowly.py]}}\n'
    record = run(DB + audit + STATE + body, database.url)
    (progress,) = measured(record)
    assert progress["step"] == "slow" and len(progress["samples"]) >= 2
    times = [at for at, _ in progress["samples"]]
    counts = [values["items.total"] for _, values in progress["samples"]]
    assert times == sorted(times) and times[0] > 0.5
    assert counts == sorted(counts) and counts[0] < counts[-1] <= 60
    kinds = kinds_of(record)
    assert kinds.index("progress.measured") < len(kinds) - 1 - kinds[::-1].index("step.ended")
    (folded,) = record["progress"]
    assert folded["step"] == "slow" and len(folded["samples"]) == len(counts)
    left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'runbook progress'"
    assert database.value(left) == 0


def test_a_short_step_is_not_measured(database: Database, run: Run) -> None:
    database.run(ITEMS)
    assert measured(run(DB + STATE + ADD, database.url)) == []


def test_without_states_nothing_is_measured(database: Database, run: Run) -> None:
    record = run(DB + "steps:\n  s: {command: [sleep, '0.8']}\n", database.url)
    assert measured(record) == []


def test_states_of_commands_are_not_run_and_those_of_files_and_sites_are_read(
    run: Run, site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site.put("/n", {"n": 7})
    monkeypatch.setenv("WEB", site.url)
    body = """connections:
  web: {type: http, env: WEB}
state:
  asked: {http: {connection: web, get: /n}}
  ran: {command: [sh, -c, "echo x >> ran; echo '{\\"n\\": 1}'"], select: json}
"""
    record = run(body + "steps:\n  s: {command: [sleep, '3']}\n")
    (progress,) = measured(record)
    assert all(set(values) == {"asked.n"} for _, values in progress["samples"])
    assert (tmp_path / "ran").read_text() == "x\nx\n", "before and after, and not between"


def test_a_server_that_hangs_does_not_hold_the_step(database: Database, run: Run, tmp_path: Path) -> None:
    """The state cannot be read until the step has ended; what was asked meanwhile is not waited for."""
    database.run(ITEMS)
    journal = ".runbook/runs/*/journal.jsonl"

    def ended() -> bool:
        return any("step.ended" in path.read_text() for path in tmp_path.glob(journal))

    thread = locked(database, tmp_path / "wanted", tmp_path / "taken", ended)
    record = run(DB + NO_AUDIT + STATE + f"steps:\n  s: {{shell: '{HOLD}; sleep 0.8'}}\n", database.url)
    thread.join()
    assert record["run"]["verdict"] == "passed" and measured(record) == []
    assert record["steps"]["s"]["duration"] < 4, "less than the 5 s for which the state is waited for"


def test_a_cancelled_step_keeps_what_was_measured(
    database: Database, start: Callable[..., Background], write: Callable[..., Path], tmp_path: Path
) -> None:
    database.run(ITEMS)
    write("small.yaml", HEAD + DB + STATE + "steps:\n  s: {shell: 'sleep 3; touch now; sleep 60'}\n")
    background = start("exec", "small.yaml", "--json", env={"DATABASE_URL": database.url})
    while not (tmp_path / "now").exists():
        time.sleep(0.02)
    ended = background.end(2)
    assert ended.code == 130, ended.err
    (progress,) = measured(ended.document)
    assert progress["samples"]
