"""What pruning leaves alone: what somebody is at, what is nowhere else, what is another runbook's; and which heads stay."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runbook.operate.prune import Plan, Wanted, find_old, prune
from runbook.records.journal import reopen_journal
from tests.acceptance.helpers import DB
from tests.conftest import Database, Program

FLOW = "runbook: 1\nname: flow\n" + DB + "steps:\n  go: {command: [echo, much]}\n"
AWAY = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}


@pytest.fixture
def env(database: Database, program: Program, write: Callable[..., Path]) -> dict[str, str]:
    """A run in an audit, and the environment that leads there."""
    write("flow.yaml", FLOW)
    env = {"DATABASE_URL": database.url}
    program("exec", "flow.yaml", env=env)
    return env


@pytest.fixture
def plan(env: dict[str, str]) -> Plan:
    """What a prune of all folders consents to."""
    with ExitStack() as stack:
        return find_old(Wanted(datetime.now(UTC), ["folders"]), {"": env["DATABASE_URL"]}, stack)


def folders(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / ".runbook" / "runs").iterdir())


@pytest.mark.parametrize("away", [False, True])
def test_a_run_that_got_a_note_meanwhile_stays(
    plan: Plan, env: dict[str, str], program: Program, tmp_path: Path, away: bool
) -> None:
    program("note", "last", "wait", env=AWAY if away else env)
    [folder] = folders(tmp_path)
    assert prune(plan, "0s") == [folder.name] and folder.is_dir()


def test_a_run_that_another_command_is_at_stays(plan: Plan, tmp_path: Path) -> None:
    [folder] = folders(tmp_path)
    journal = reopen_journal(folder)
    assert journal is not None
    assert prune(plan, "0s") == [folder.name] and folder.is_dir()
    journal.close()
    assert prune(plan, "0s") == [] and not folder.exists()


def test_what_another_prune_removed_is_no_trouble(plan: Plan, tmp_path: Path) -> None:
    prune(plan, "0s")
    assert prune(plan, "0s") == []
    assert len((tmp_path / ".runbook" / "pruned.jsonl").read_text().splitlines()) == 1


def test_the_only_record_stays(env: dict[str, str], program: Program, tmp_path: Path) -> None:
    ended = program("prune", "--older-than", "0s", "--what", "folders", "--yes", "--json", env=AWAY)
    assert (ended.code, ended.document["folders"], ended.document["kept"]) == (0, 0, 1)
    assert "not reached" in ended.err and "left alone: 1 folders" in ended.err and len(folders(tmp_path)) == 1
    even = program(
        "prune", "--older-than", "0s", "--what", "folders", "--yes", "--even-the-only-record", "--json", env=AWAY
    )
    assert (even.document["folders"], even.document["only_record"], even.document["kept"]) == (1, 1, 0)
    assert "1 of these folders hold the only record" in even.err and not folders(tmp_path)


def test_all_heads_of_a_folder_stay(env: dict[str, str], program: Program, tmp_path: Path, database: Database) -> None:
    program("note", "last", "one", env=env)
    program("note", "last", "two", env=env)
    assert program("prune", "--older-than", "0s", "--what", "folders", "--yes", env=env).code == 0
    [kept] = map(json.loads, (tmp_path / ".runbook" / "pruned.jsonl").read_text().splitlines())
    heads = [row[0] for row in database.rows("SELECT head FROM runbook.chain WHERE kind <> 'opened' ORDER BY number")]
    assert (kept["head"], kept["heads"]) == (heads[0], heads) and len(heads) == 3
    assert program("audit", "verify", "--database", database.url).code == 0


def test_a_rehearsal_leaves_no_head(database: Database, program: Program, write: Callable[..., Path]) -> None:
    path = write("flow.yaml", FLOW)
    env = {"DATABASE_URL": database.url}
    program("exec", "flow.yaml", env=env)
    assert program("exec", "flow.yaml", "--rehearse", env=env).code == 0
    program("prune", "--older-than", "0s", "--what", "folders", "--yes", "--even-the-only-record", env=env)
    kept = list(map(json.loads, (path.parent / ".runbook" / "pruned.jsonl").read_text().splitlines()))
    assert [bool(item["head"]) for item in kept] == [True, False]
    assert program("audit", "verify", "--database", database.url).code == 0


def test_only_the_named_runbooks(
    env: dict[str, str], database: Database, program: Program, write: Callable[..., Path], tmp_path: Path
) -> None:
    write("other.yaml", FLOW.replace("name: flow", "name: other"))
    program("exec", "other.yaml", env=env)
    told = program("prune", "--older-than", "0s", "--dry-run", "--json", env=env)
    assert "(flow 1, other 1)" in told.err and told.document["audits"][0]["runbooks"] == {"flow": 1, "other": 1}
    ended = program("prune", "--older-than", "0s", "--runbook", "flow", "--yes", "--json", env=env)
    assert (ended.document["folders"], ended.document["audit_runs"]) == (1, 1)
    assert len(folders(tmp_path)) == 1
    left = database.rows(
        "SELECT DISTINCT r.runbook FROM runbook.events e JOIN runbook.runs r ON r.run_id = e.run_id ORDER BY 1"
    )
    assert left == [("other",)]
