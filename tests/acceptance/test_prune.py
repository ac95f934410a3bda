"""Pruning: old detail goes, on record, and the chain still proves the rest."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.helpers import DB
from tests.conftest import Database, Ended, Program

FLOW = "runbook: 1\nname: flow\n" + DB + "steps:\n  go: {command: [echo, much]}\n"
OFF = "runbook: 1\nname: off\nsteps:\n  go: {command: ['true']}\n"
Ask = Callable[..., Ended]


@pytest.fixture
def ask(database: Database, program: Program, write: Callable[..., Path]) -> Ask:
    """Two old runs, one of them in no audit, and a second of time behind them."""
    write("flow.yaml", FLOW)
    write("off.yaml", OFF)

    def ask(*arguments: str) -> Ended:
        return program(*arguments, env={"DATABASE_URL": database.url})

    ask("exec", "flow.yaml")
    ask("exec", "off.yaml")
    time.sleep(1.1)
    return ask


def folders(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / ".runbook" / "runs").iterdir())


def test_a_dry_run_removes_nothing(ask: Ask, tmp_path: Path, database: Database) -> None:
    events = database.value("SELECT count(*) FROM runbook.events")
    ended = ask("prune", "--older-than", "1s", "--dry-run", "--json", "--even-the-only-record")
    document: dict[str, Any] = ended.document
    assert (ended.code, document["folders"], document["audit_runs"], document["events"]) == (0, 2, 1, events)
    assert document["bytes"] > 1000 and document["dry_run"]
    assert "1 of these folders hold the only record" in ended.err
    refused = ask("prune", "--older-than", "1s")
    assert refused.code == 2 and "--yes" in refused.err
    assert len(folders(tmp_path)) == 2 and database.value("SELECT count(*) FROM runbook.events") == events
    assert ask("prune", "--older-than", "1d", "--json").document["folders"] == 0


def test_what_is_pruned_leaves_its_trace(ask: Ask, tmp_path: Path, database: Database) -> None:
    run_id = folders(tmp_path)[0].name
    log = next((tmp_path / "logs").glob("flow*.md"))
    before = ask("history", "flow", "--json").document["runs"]
    ask("exec", "flow.yaml")
    assert ask("prune", "--older-than", "1s", "--yes", "--even-the-only-record").code == 0
    assert len(folders(tmp_path)) == 1 and not (tmp_path / ".runbook" / "pruning").exists()
    assert ask("history", "flow", "--json").document["runs"][1:] == before
    shown = ask("show", run_id)
    assert shown.code == 6 and "were pruned by" in shown.err
    kept = [json.loads(line) for line in (tmp_path / ".runbook" / "pruned.jsonl").read_text().splitlines()]
    assert (kept[0]["id"], kept[0]["verdict"], len(kept)) == (run_id, "passed", 2)
    [(line,)] = database.rows(f"SELECT line FROM runbook.chain WHERE kind = 'pruned' AND run_id = '{run_id}'")
    facts = json.loads(line)
    closing = database.rows(f"SELECT last_seq, last_hash FROM runbook.closings WHERE run_id = '{run_id}'")
    assert [(facts["last_seq"], facts["last_hash"])] == closing
    assert facts["operator"] and facts["db_role"] and facts["host"] and facts["older_than"] == "1s"
    assert database.value(f"SELECT count(*) FROM runbook.events WHERE run_id = '{run_id}'") == 0
    assert ask("audit", "verify", str(log)).code == 0
    # the head that the pruned journal had still counts
    database.run("ALTER TABLE runbook.chain DISABLE TRIGGER USER; ALTER TABLE runbook.closings DISABLE TRIGGER USER")
    database.run("ALTER TABLE runbook.runs DISABLE TRIGGER USER")
    database.run(
        f"DELETE FROM runbook.closings WHERE run_id = '{run_id}'; DELETE FROM runbook.chain WHERE run_id = '{run_id}'"
    )
    found = ask("audit", "verify", "--json")
    assert found.code == 1 and any("pruned.jsonl" in item["what"] for item in found.document["audits"][0]["findings"])


def test_only_the_output(ask: Ask, tmp_path: Path, database: Database) -> None:
    events = database.value("SELECT count(*) FROM runbook.events")
    assert ask("prune", "--older-than", "1s", "--what", "output", "--yes").code == 0
    assert [sorted(path.name for path in folder.iterdir()) for folder in folders(tmp_path)] == [["journal.jsonl"]] * 2
    assert database.value("SELECT count(*) FROM runbook.events") == events
    assert ask("show", "last").code == 0 and ask("logs", "last").code == 0


def test_open_runs_stay(ask: Ask, tmp_path: Path) -> None:
    run_id = folders(tmp_path)[0].name
    (tmp_path / ".runbook" / "open" / run_id).touch()
    ask("prune", "--older-than", "1s", "--yes", "--what", "folders", "--even-the-only-record")
    assert [folder.name for folder in folders(tmp_path)] == [run_id]


def test_events_go_only_behind_an_entry(ask: Ask, database: Database) -> None:
    with pytest.raises(psycopg.Error, match="append-only"):
        database.run("DELETE FROM runbook.events")
    ask("prune", "--older-than", "1s", "--yes", "--what", "audit")
    ask("exec", "flow.yaml")
    with pytest.raises(psycopg.Error, match="append-only"):
        database.run("DELETE FROM runbook.events")


def test_another_role_may_not_prune(ask: Ask, database: Database, program: Program, tmp_path: Path) -> None:
    database.run(
        "GRANT USAGE ON SCHEMA runbook TO PUBLIC; GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA runbook TO PUBLIC"
    )
    shutil.rmtree(tmp_path / ".runbook")
    ended = program("prune", "--older-than", "1s", "--yes", "--database", database.read_url)
    assert ended.code == 6 and ("may not remove events" in ended.err or "read-only" in ended.err)
    assert database.value("SELECT count(*) FROM runbook.events") > 0


@pytest.mark.parametrize("age", ["", "x", "-1d", "1y", "d", "1.5d", "999999w"])
def test_usage(program: Program, age: str) -> None:
    assert program("prune", "--older-than", age).code == 2
