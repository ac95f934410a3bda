"""What ran: asked of the audit, and of the journals on disk; both say the same."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.helpers import ITEMS, STATE
from tests.conftest import Database, Ended, Program

FLOW = """runbook: 1
name: flow
title: A flow
params:
  n: {type: integer, default: 3}
  who: {type: string, default: all}
connections:
  db: {type: postgres, env: DATABASE_URL}
"""
BODY = (
    STATE
    + """expectations:
  items.total: {delta: params.n}
steps:
  add:
    sql: INSERT INTO items SELECT generate_series(1, {{ params.n if params.n < 9 else 1 }})
"""
)
Ask = Callable[..., Ended]


@pytest.fixture
def flow(database: Database, program: Program, write: Callable[..., Path]) -> Ask:
    """Five runs: three passed, one refuted, one of another runbook; then the program with the server at hand."""
    database.run(ITEMS)
    write("flow.yaml", FLOW + BODY)
    write("other.yaml", FLOW.replace("name: flow", "name: other") + "steps:\n  fail: {command: ['false']}\n")

    def ask(*arguments: str, **given: Any) -> Ended:
        return program(*arguments, env={"DATABASE_URL": database.url, **given.pop("env", {})}, **given)

    for arguments in (["-p", "n=1"], ["-p", "n=9"], ["-p", "n=2", "--operator", "Ada"], ["-p", "n=3", "-p", "who='3'"]):
        ask("exec", "flow.yaml", *arguments)
    ask("exec", "other.yaml")
    return ask


def of(ended: Ended) -> list[tuple[str, str, int]]:
    assert ended.code == 0, ended.err
    return [(run["runbook"], run["verdict"], run["params"]["n"]) for run in ended.document["runs"]]


ALL = [
    ("other", "failed", 3),
    ("flow", "passed", 3),
    ("flow", "passed", 2),
    ("flow", "refuted", 9),
    ("flow", "passed", 1),
]
QUESTIONS: list[tuple[list[str], list[int]]] = [
    ([], [0, 1, 2, 3, 4]),
    (["flow"], [1, 2, 3, 4]),
    (["flow.yaml"], [1, 2, 3, 4]),
    (["nothing"], []),
    (["--verdict", "refuted"], [3]),
    (["--verdict", "open"], []),
    (["flow", "--verdict", "passed", "--limit", "2"], [1, 2]),
    (["--operator", "Ada"], [2]),
    (["-p", "n=9"], [3]),
    (["-p", "n=9", "-p", "who=all"], [3]),
    (["-p", "who=3"], [1]),
    (["-p", "n=true"], []),
    (["--limit", "1"], [0]),
    (["--limit", "0"], [0, 1, 2, 3, 4]),
    (["--on", f"{datetime.now(UTC):%Y-%m-%d}"], [0, 1, 2, 3, 4]),
    (["--on", "2025-12-02"], []),
    (["--since", "1h"], [0, 1, 2, 3, 4]),
    (["--since", f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M}"], []),
    (["--until", f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%d}"], [0, 1, 2, 3, 4]),
    (["--until", "2025-12-02"], []),
]


@pytest.mark.skipif(f"{datetime.now(UTC):%H:%M}" > "23:50", reason="the day may end within the test")
def test_the_same_answers_from_the_audit_and_from_the_journals(flow: Ask, tmp_path: Path) -> None:
    """The journals alone, the audit alone, and both: each question has one answer."""
    asked = [[*arguments, "--json"] for arguments, _ in QUESTIONS]
    wanted = [[ALL[index] for index in indices] for _, indices in QUESTIONS]
    both = [flow("history", *arguments) for arguments in asked]
    assert [of(ended) for ended in both] == wanted
    journals = [flow("history", *arguments, env={"DATABASE_URL": ""}) for arguments in asked]
    assert [ended.document["runs"] for ended in journals] == [ended.document["runs"] for ended in both]
    assert "journals" in journals[0].document["sources"][0]
    shutil.rmtree(tmp_path / ".runbook")
    (tmp_path / "runbooks").mkdir()
    for name in ("flow.yaml", "other.yaml"):
        shutil.copy(tmp_path / name, tmp_path / "runbooks")
    audit = [flow("history", *arguments) for arguments in asked]
    assert [ended.document["runs"] for ended in audit] == [ended.document["runs"] for ended in both]
    assert "the audit in" in audit[0].document["sources"][0]


def test_a_record_is_shown_from_the_audit_as_from_its_journal(flow: Ask, tmp_path: Path, database: Database) -> None:
    runs = flow("history", "--json").document["runs"]
    shown = {run["id"]: (flow("show", run["id"]).out, flow("show", run["id"], "--json").document) for run in runs}
    shutil.rmtree(tmp_path / ".runbook")
    for run_id, (log, record) in shown.items():
        assert flow("show", run_id[:-1], "--database", database.url).out == log
        found = flow("show", run_id, "--json", "--database", database.url).document
        assert found.pop("timeline") and record.pop("timeline")
        assert found == record
    assert flow("show", "last", "--database", database.url).out == shown[runs[0]["id"]][0]
    missing = flow("show", "2001", "--json", "--database", database.url)
    assert missing.code == 6 and "2001" in missing.document["problems"][0]["message"]


def test_a_table_with_curves(flow: Ask) -> None:
    ended = flow("history", "flow")
    lines = ended.out.splitlines()
    assert lines[0].split() == ["started", "(UTC)", "runbook", "verdict", "took", "operator", "params", "run"]
    assert "refuted" in lines[3] and "n=9" in lines[3]
    assert [line.split("  ")[-1] for line in lines[-1:]] == ["1 to 3, last 3"] and "Δ items.total" in lines[-1]
    assert lines[-1].split()[2] == "▁▁▄█"
    assert "from the audit in" in ended.err
    assert flow("history", "flow", "--limit", "2").err.startswith("the newest 2 in ")
    assert flow("history", "none").err.startswith("no such runs in ")


def test_comma_separated_values(flow: Ask) -> None:
    rows = list(csv.DictReader(io.StringIO(flow("history", "--csv", "--limit", "2").out)))
    assert [(row["runbook"], row["verdict"], row["exit_code"]) for row in rows] == [
        ("other", "failed", "4"),
        ("flow", "passed", "0"),
    ]
    assert json.loads(rows[0]["params"]) == {"n": 3, "who": "all"}


def test_pages_that_link_to_each_other(flow: Ask, tmp_path: Path) -> None:
    ended = flow("history", "flow", "--html", "out/history.html")
    assert ended.code == 0, ended.err
    page = (tmp_path / "out" / "history.html").read_text()
    for run in flow("history", "flow", "--json").document["runs"]:
        assert f'href="history_runs/{run["id"]}.html"' in page
        assert (tmp_path / "out" / "history_runs" / f"{run['id']}.html").is_file()
    shown = flow("show", "last", "--html")
    assert shown.out.startswith("<!DOCTYPE html>") and "failed" in shown.out
    assert flow("show", "--html", "page.html").code == 0 and (tmp_path / "page.html").read_text().startswith(
        "<!DOCTYPE"
    )
    assert flow("show", "--html", "last").out == shown.out
    assert flow("show", "last", "--html", "page").code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--on", "yesterday"],
        ["--on", "2025-12-02", "--since", "7d"],
        ["-p", "n"],
        ["--verdict", "green"],
        ["--json", "--csv"],
        ["--limit", "-1"],
    ],
)
def test_usage(program: Program, arguments: list[str]) -> None:
    assert program("history", *arguments).code == 2


def test_nothing_ran_yet(program: Program) -> None:
    ended = program("history")
    assert (ended.code, ended.out) == (0, "") and "no such runs" in ended.err
    assert program("history", "--json").document["runs"] == []


def test_a_server_that_is_away_is_told_and_the_journals_answer(flow: Ask) -> None:
    ended = flow("history", "--json", env={"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"})
    assert len(ended.document["runs"]) == 5 and "not reached" in ended.err
    assert ended.document["problems"] and "journals" in ended.document["sources"][0]


def test_values_cannot_forge_a_line(flow: Ask) -> None:
    flow("exec", "flow.yaml", "-p", "who=a\x1b[2Kb", "--operator", "x\ny")
    ended = flow("history", "flow", "--limit", "1")
    assert "\x1b" not in ended.out and len(ended.out.splitlines()) == 2 and "a\\x1b[2Kb" in ended.out
