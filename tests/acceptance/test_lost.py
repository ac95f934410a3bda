"""Runs whose runner died: found, concluded, their remains ended, their books closed, and nothing started twice."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from runbook.records.journal import read_journal
from tests.acceptance.helpers import DB, HEAD, Background, until
from tests.conftest import Database, Program

TABLES = "CREATE TABLE items (n integer); CREATE TABLE log (id serial PRIMARY KEY, status text, summary jsonb)"
BODY = """\
state:
  items: {sql: SELECT count(*) AS total FROM items}
preflight:
  none: {sql: SELECT count(*) FROM items, returns: value, expect: result >= 0}
expectations:
  items.total: {delta: 3}
steps:
  work:
    shell: "echo started >> starts; echo working; PAUSE; echo done"
  add: {sql: "INSERT INTO items SELECT generate_series(1, 3)"}
postconditions:
  there: {sql: SELECT count(*) FROM items, returns: value, expect: result > 0}
audit:
  started: {sql: INSERT INTO log (status) VALUES ('processing') RETURNING id}
  finished:
    sql: |
      UPDATE log SET status = {{ run.verdict }}, summary = {{ {'before': before.items.total, 'delta': delta} | jsonb }}
      WHERE id = {{ audit.started }}
"""
KINDS = (
    "run.opened",
    "stage.entered",
    "snapshot.measured",
    "check.judged",
    "predictions.registered",
    "audit.row",
    "step.started",
    "process.started",
    "step.ended",
    "step.judged",
    "expectation.judged",
    "run.finished",
    "audit.closed",
    "report.written",
)


@pytest.fixture
def begun(database: Database, write: Callable[..., Path], start: Callable[..., Background]) -> Background:
    """A run in the middle of its first step."""
    database.run(TABLES)
    write("small.yaml", HEAD + DB + BODY.replace("PAUSE", "sleep 300"))
    background = start("exec", "small.yaml", env={"DATABASE_URL": database.url})
    background.reached("process.started")
    return background


def dead(background: Background) -> str:
    """Kills the runner as the kernel would, and gives its run's id."""
    background.process.kill()
    background.process.wait()
    return next(background.folder.glob(".runbook/runs/*")).name


def sleepers(run_id: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RUNBOOK_RUN_ID") == run_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_status_concludes_lost_completes_the_audit_and_leaves_the_step_alone(
    begun: Background, database: Database, program: Program
) -> None:
    run_id = dead(begun)
    ended = program("status", "--json", env={"DATABASE_URL": database.url})
    assert ended.code == 0
    (record,) = ended.document["runs"]
    assert (record["run"]["verdict"], record["run"]["exit_code"], record["run"]["audit"]) == ("lost", None, "confirmed")
    assert "step `work` had begun" in record["run"]["because"] and "outcome is not known" in record["run"]["because"]
    assert {item["pid"] for item in record["run"]["left"]} == {process.pid for process in sleepers(run_id)} != set()
    assert "still running: pid" in ended.err and f"runbook recover {run_id}" in ended.err
    assert record["expectations"]["items.total"]["verdict"] == "unknown"
    assert database.rows("SELECT run_id, verdict, exit_code FROM runbook.closings") == [(run_id, "lost", None)]
    assert database.rows("SELECT status, summary FROM log") == [("lost", {"before": 0, "delta": None})]
    text = Path(record["report"]).read_text()
    assert "**lost** (nobody saw it end)" in text and "outcome unknown" in text


def test_recover_ends_what_still_runs_and_then_all_is_closed(
    begun: Background, database: Database, program: Program
) -> None:
    run_id = dead(begun)
    env = {"DATABASE_URL": database.url}
    program("status", env=env)
    ended = program("recover", "--grace", "5", env=env)
    assert ended.code == 0, ended.err
    assert f"run {run_id} is closed: lost" in ended.err and not sleepers(run_id)
    assert "nothing is running here" in program("status", env=env).err
    assert "nothing to recover" in program("recover", env=env).err
    assert json.loads(program("show", run_id, "--json").out)["run"]["left"] == []


def test_a_new_run_with_the_same_lock_ends_the_remains_first_and_says_so(
    begun: Background, database: Database, program: Program, write: Callable[..., Path]
) -> None:
    run_id = dead(begun)
    write("small.yaml", HEAD + DB + BODY.replace("PAUSE", "true"))
    ended = program("exec", "small.yaml", env={"DATABASE_URL": database.url})
    assert ended.code == 0, ended.err
    assert f"run {run_id} was lost" in ended.err and not sleepers(run_id)
    assert database.rows("SELECT verdict FROM runbook.closings ORDER BY number") == [("lost",), ("passed",)]


def test_a_run_with_another_lock_leaves_the_remains_alone(
    begun: Background, database: Database, program: Program, write: Callable[..., Path]
) -> None:
    run_id = dead(begun)
    write("other.yaml", "runbook: 1\nname: other\n" + DB + "steps: {a: {command: ['true']}}\n")
    ended = program("exec", "other.yaml", env={"DATABASE_URL": database.url})
    assert ended.code == 0 and "still running" in ended.err and sleepers(run_id)


def test_a_successor_elsewhere_finds_the_lost_by_the_lock(
    begun: Background, database: Database, program: Program, tmp_path: Path
) -> None:
    run_id = dead(begun)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "small.yaml").write_text(HEAD + DB + BODY.replace("PAUSE", "true"))
    (elsewhere / ".runbook").mkdir()
    ended = program("exec", "small.yaml", env={"DATABASE_URL": database.url}, cwd=elsewhere)
    assert ended.code == 0 and f"run {run_id} was lost" in ended.err and not sleepers(run_id)


def test_a_pid_that_came_to_mean_another_process_is_not_touched(
    begun: Background, database: Database, program: Program, start: Callable[..., Background]
) -> None:
    run_id = dead(begun)
    for process in sleepers(run_id):
        process.kill()
    (stranger,) = [start("--help").process]
    path = begun.folder / ".runbook" / "runs" / run_id / "journal.jsonl"
    pid = next(line.event.data["pid"] for line in read_journal(path) if line.event.kind == "process.started")
    assert pid != stranger.pid
    ended = program("recover", env={"DATABASE_URL": database.url})
    assert ended.code == 0 and "still running" not in ended.err


def test_a_torn_last_line_is_understood(begun: Background, database: Database, program: Program) -> None:
    run_id = dead(begun)
    path = begun.folder / ".runbook" / "runs" / run_id / "journal.jsonl"
    with path.open("ab") as file:
        file.write(b'{"seq": 99, "at": "2026-')
    ended = program("recover", env={"DATABASE_URL": database.url})
    assert ended.code == 0, ended.err
    assert [line.event.kind for line in read_journal(path)][-3:] == ["run.lost", "audit.closed", "report.written"]


def test_a_changed_journal_is_not_believed(begun: Background, database: Database, program: Program) -> None:
    run_id = dead(begun)
    path = begun.folder / ".runbook" / "runs" / run_id / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b"run.opened", b"run.opaned", 1))
    ended = program("recover", env={"DATABASE_URL": database.url})
    assert ended.code == 6 and "journal.jsonl:1: this line was changed" in ended.err


def test_while_the_server_cannot_be_found_the_run_stays_open(
    begun: Background, database: Database, program: Program
) -> None:
    run_id = dead(begun)
    away = program("recover", "--json", "--grace", "1")
    assert away.code == 6 and "nothing says where the server is" in away.err
    assert away.document["runs"][0]["run"]["verdict"] == "lost"
    other = program("recover", env={"DATABASE_URL": "postgresql:///nowhere?host=/nonexistent"})
    assert other.code == 6 and "pass --database db=URL" in other.err
    there = program("recover", run_id, "--database", database.url)
    assert there.code == 0, there.err
    assert database.rows("SELECT verdict FROM runbook.closings") == [("lost",)]


def test_without_a_database_the_journal_is_the_audit(
    program: Program, write: Callable[..., Path], start: Callable[..., Background]
) -> None:
    write("small.yaml", HEAD + "steps: {work: {shell: sleep 300}}\n")
    background = start("exec", "small.yaml")
    background.reached("process.started")
    run_id = dead(background)
    ended = program("status", run_id, "--json")
    assert ended.document["run"]["verdict"] == "lost" and ended.document["run"]["audit"] == "disabled"
    write("small.yaml", HEAD + "steps: {work: {command: ['true']}}\n")
    assert program("exec", "small.yaml").code == 0 and not sleepers(run_id)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_record_nothing_is_lost_and_nothing_begins_twice(
    kind: str, when: str, database: Database, program: Program, write: Callable[..., Path], tmp_path: Path
) -> None:
    database.run(TABLES)
    write("small.yaml", HEAD + DB + BODY.replace("PAUSE", "true"))
    env = {"DATABASE_URL": database.url}
    killed = program("exec", "small.yaml", env={**env, "RUNBOOK_FAILPOINT": f"{when}-{kind}:kill"})
    assert killed.code == -signal.SIGKILL
    assert program("status", env=env).code == 0
    recovered = program("recover", env=env)
    assert recovered.code == 0, recovered.err
    _books_agree(tmp_path, database, kind)
    begun = _starts(tmp_path)
    assert begun <= 1
    again = program("exec", "small.yaml", env=env)
    assert again.code == 0, again.err
    assert _starts(tmp_path) == begun + 1


def _starts(folder: Path) -> int:
    path = folder / "starts"
    return path.read_text().count("started") if path.exists() else 0


def _books_agree(folder: Path, database: Database, kind: str) -> None:
    """Journal and audit tell the same story, and the run is never more than it was seen to be."""
    for path in folder.glob(".runbook/runs/*/journal.jsonl"):
        lines = list(read_journal(path))
        if not lines:
            continue
        kinds = [line.event.kind for line in lines]
        end = next(i for i, name in enumerate(kinds) if name in ("run.finished", "run.lost"))
        rows = database.rows(f"SELECT line, hash FROM runbook.events WHERE run_id = '{path.parent.name}' ORDER BY seq")
        assert rows == [(line.text, line.hash) for line in lines[: end + 1]]
        ((verdict, user),) = database.rows(
            "SELECT c.verdict, (SELECT status FROM log ORDER BY id DESC LIMIT 1) FROM runbook.closings c "
            f"WHERE run_id = '{path.parent.name}'"
        )
        assert verdict == ("passed" if kinds[end] == "run.finished" else "lost")
        journaled = [line.event for line in lines if line.event.kind == "audit.row"]
        if journaled:
            assert user == verdict
        assert "report.written" in kinds
        assert not list((folder / ".runbook" / "open").iterdir())


def test_killed_while_recovering_the_next_one_completes_it(
    begun: Background, database: Database, program: Program
) -> None:
    run_id = dead(begun)
    env = {"DATABASE_URL": database.url}
    for place in ("before-recovery-run.lost", "after-recovery-run.lost", "before-recovery-audit.closed"):
        assert program("recover", env={**env, "RUNBOOK_FAILPOINT": f"{place}:kill"}).code == -signal.SIGKILL
    assert program("recover", env=env).code == 0
    _books_agree(begun.folder, database, "")
    assert not sleepers(run_id)


def test_a_paused_runner_is_not_lost(begun: Background, database: Database, program: Program) -> None:
    os.kill(begun.process.pid, signal.SIGSTOP)
    ended = program("status", "--json", env={"DATABASE_URL": database.url})
    record: dict[str, Any] = ended.document["runs"][0]
    assert record["run"]["verdict"] is None and "running" in ended.err
    os.kill(begun.process.pid, signal.SIGCONT)
    assert begun.end(signal.SIGTERM, timeout=60).code == 130
    until(lambda: "nothing is running here" in program("status").err)


def test_a_statement_that_outlives_its_runner_is_ended(
    database: Database, program: Program, write: Callable[..., Path], start: Callable[..., Background]
) -> None:
    database.run("CREATE TABLE items (n integer)")
    sql = "INSERT INTO items SELECT 1 FROM pg_sleep(300)"
    write("small.yaml", HEAD + DB + f"steps: {{work: {{sql: {sql}}}}}\n")
    background = start("exec", "small.yaml", env={"DATABASE_URL": database.url})
    active = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'INSERT INTO items%' AND state = 'active'"
    until(lambda: database.value(active))
    dead(background)
    assert program("recover", env={"DATABASE_URL": database.url}).code == 0
    assert database.value(active) == 0


def test_secrets_in_a_command_line_are_in_no_record(
    database: Database, program: Program, write: Callable[..., Path], start: Callable[..., Background]
) -> None:
    step = """{shell: 'sh -c "sleep 300; true $TOK" x $TOK', env: {TOK: '{{ secrets.token }}'}}"""
    body = f"secrets: {{token: {{env: TOK}}}}\nsteps: {{work: {step}}}\n"
    write("small.yaml", HEAD + DB + body)
    env = {"DATABASE_URL": database.url, "TOK": "open-sesame-4711"}
    background = start("exec", "small.yaml", env=env)
    background.reached("process.started")
    run_id = dead(background)
    told = program("recover", "--keep", env=env)
    texts = [
        path.read_text() for path in background.folder.rglob("*") if path.is_file() and path.suffix in (".jsonl", ".md")
    ]
    assert "still running" in told.err and len(texts) == 2
    assert not any("open-sesame" in text for text in (told.err, *texts))
    program("recover", run_id, env=env)


def test_a_password_that_is_a_word_of_the_runbook_does_not_keep_the_books_open(
    database: Database, program: Program, write: Callable[..., Path]
) -> None:
    write("small.yaml", HEAD + DB + "steps: {work: {shell: sleep 1}}\n")
    env = {"DATABASE_URL": database.url.replace("runbook_owner@", "runbook_owner:postgres@")}
    killed = program("exec", "small.yaml", env={**env, "RUNBOOK_FAILPOINT": "after-step.started:kill"})
    assert killed.code == -signal.SIGKILL
    recovered = program("recover", env=env)
    assert recovered.code == 0, recovered.err


def test_a_mark_without_a_journal_is_forgotten(program: Program, tmp_path: Path) -> None:
    (tmp_path / ".runbook" / "open").mkdir(parents=True)
    mark = tmp_path / ".runbook" / "open" / "20200101_000000-000-0000"
    mark.touch()
    os.utime(mark, (0, 0))
    assert program("recover").code == 0 and not mark.exists()


def test_who_is_refused_after_it_took_the_lock_leaves_the_lost_to_be_found(
    program: Program, write: Callable[..., Path], start: Callable[..., Background], tmp_path: Path
) -> None:
    write("small.yaml", HEAD + "steps: {work: {shell: sleep 300}}\n")
    background = start("exec", "small.yaml")
    background.reached("process.started")
    run_id = dead(background)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / ".runbook").mkdir(parents=True)
    (elsewhere / "small.yaml").write_text(HEAD + "steps: {work: {command: ['true']}}\n")
    (elsewhere / ".runbook" / "open").write_text("in the way of the mark")
    assert program("exec", "small.yaml", cwd=elsewhere).code == 6
    (elsewhere / ".runbook" / "open").unlink()
    ended = program("exec", "small.yaml", cwd=elsewhere)
    assert ended.code == 0 and f"run {run_id} was lost" in ended.err and not sleepers(run_id)
