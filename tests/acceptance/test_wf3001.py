"""The WF3001 runbook as a whole, on its own seeded database, and the closing of a month."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import runbook
from tests.conftest import ROOT, Database, Program
from tests.examples.test_cookbook import AUDIT_QUERY

AWAY = "http://127.0.0.1:9"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "runbooks", tmp_path / "runbooks")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLLAMA_HOST", AWAY)
    return tmp_path


def execute(project: Path, url: str, **params: Any) -> dict[str, Any]:
    loaded = runbook.load(project / "runbooks" / "wf3001.yaml")
    return dict(runbook.execute(loaded, params=params, database=url))


def test_a_whole_run_passes_and_the_cookbook_finds_it(example: Database, project: Path, program: Program) -> None:
    env = {"DATABASE_URL": example.url, "OLLAMA_HOST": AWAY}
    ended = program("exec", "wf3001", "--json", "--operator", "Ada", env=env)
    assert ended.code == 0, ended.err
    record = ended.document
    assert {name: item["verdict"] for name, item in record["expectations"].items()} == dict.fromkeys(
        ("postings.total", "postings.summaries", "postings.skills", "postings.ihl"), "passed"
    )
    assert record["delta"]["postings"] == {"total": 0, "summaries": 97, "skills": 111, "ihl": 120}
    newest = example.rows(AUDIT_QUERY)[0]
    assert newest[2:] == ("3001", "612", "612", record["delta"]["postings"])
    log = Path(record["report"]).read_text()
    head = [
        "# Workflow Run: 3001",
        "**Operator**: Ada",
        "- Total: 612 (+0)",
        "- Summaries: 599 (+97)",
        "- IHL: 599 (+120)",
    ]
    for line in head:
        assert f"{line}\n" in log
    sections = [line for line in log.splitlines() if line.startswith("## ")]
    assert sections[:6] == ["## Before", "## Expected", "## After", "## Interactions", "## Issues", "## Notes"]
    blocked = program("exec", "wf3001.yaml", "--json", env=env)
    assert blocked.code == 3 and "nothing is waiting" in blocked.err
    assert blocked.document["after"] == {}
    assert example.value("SELECT status FROM interactions ORDER BY interaction_id DESC LIMIT 1") == "failed"


def test_one_posting(example: Database, project: Path) -> None:
    record = execute(project, example.url, mode="single_posting", posting_id=4920)
    assert record["run"]["verdict"] == "passed", record["run"]
    assert record["delta"]["postings"] == {"total": 0, "summaries": 1, "skills": 1, "ihl": 1}


REQUESTS = [
    {"mode": "single_posting"},
    {"posting_id": 4920},
    {"mode": "single_posting", "posting_id": 77},
    {"workflow_id": 3002},
]


@pytest.mark.parametrize("params", REQUESTS, ids=str)
def test_a_request_that_makes_no_sense_is_blocked(params: dict[str, Any], example: Database, project: Path) -> None:
    record = execute(project, example.url, **params)
    assert record["run"]["verdict"] == "blocked", record["run"]
    assert record["steps"]["process"]["tries"] == []


def test_a_limit_bounds_every_prediction(example: Database, project: Path) -> None:
    record = execute(project, example.url, limit=10)
    assert record["run"]["verdict"] == "passed", record["run"]
    assert {item["predicted"] for name, item in record["expectations"].items() if name != "postings.total"} == {10}


def test_fewer_than_predicted_is_refuted(example: Database, project: Path) -> None:
    example.run("UPDATE postings SET job_description = ' ... ' WHERE extracted_summary IS NULL AND posting_id % 5 = 0")
    record = execute(project, example.url)
    assert record["run"]["verdict"] == "refuted"
    assert record["expectations"]["postings.summaries"]["verdict"] == "refuted"
    assert record["postconditions"]["failures"]["verdict"] == "refuted"
    newest = """SELECT status, output->>'verdict' FROM interactions
        WHERE conversation_id = 9198 ORDER BY interaction_id DESC LIMIT 1"""
    assert example.rows(newest) == [("failed", "refuted")]


@pytest.fixture
def ledger(database: Database) -> Database:
    for name in ("schema.sql", "data.sql"):
        database.run((ROOT / "runbooks" / "close_month" / name).read_text())
    return database


def test_a_month_is_closed_once(ledger: Database, project: Path) -> None:
    loaded = runbook.load(project / "runbooks" / "close_month.yaml")
    first = runbook.execute(loaded, database=ledger.url)
    assert first["run"]["verdict"] == "passed", first["run"]
    assert first["after"]["ledger"]["open"] == 0 and first["delta"]["books"]["balances"] >= 1
    assert ledger.rows("SELECT count(*) FROM periods WHERE frozen") == [(0,)]
    second = runbook.execute(loaded, database=ledger.url)
    assert second["run"]["verdict"] == "blocked" and "closed already" in second["run"]["because"]


def test_a_closing_that_dies_lets_people_post_again(ledger: Database, project: Path) -> None:
    ledger.run("ALTER TABLE balances ADD CONSTRAINT no_more CHECK (false) NOT VALID")
    loaded = runbook.load(project / "runbooks" / "close_month.yaml")
    record = runbook.execute(loaded, database=ledger.url)
    assert record["run"]["verdict"] == "failed" and "no_more" in record["run"]["because"]
    assert ledger.rows("SELECT count(*) FROM periods WHERE frozen") == [(0,)]
    assert record["delta"]["ledger"]["open"] == 0
