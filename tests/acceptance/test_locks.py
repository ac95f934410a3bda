"""Two runs with one lock never overlap; a dead one leaves no stale lock."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.helpers import DB, HEAD, Background, Run, until
from tests.conftest import Database, Program

KILL = """SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()"""
HELD = """SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
WHERE locktype = 'advisory' AND d.datname = current_database()"""
STEP = "steps:\n  s: {shell: 'echo x >> started; sleep 300'}\n"


@pytest.fixture(params=["postgres", "flock"])
def env(request: pytest.FixtureRequest, database: Database, write: Callable[..., Path]) -> dict[str, str]:
    """The environment for small.yaml, whose lock is PostgreSQL's or a file's."""
    postgres = request.param == "postgres"
    write(
        "small.yaml",
        HEAD
        + (DB if postgres else "")
        + "lock: 'job-{{ params.n }}'\nparams:\n  n: {type: integer, default: 1}\n"
        + STEP,
    )
    return {"DATABASE_URL": database.url} if postgres else {}


def test_the_second_run_is_locked_and_told_by_whom(
    env: dict[str, str], start: Callable[..., Background], program: Program, tmp_path: Path
) -> None:
    first = start("exec", "small.yaml", "--operator", "Ada", "--json", env=env)
    until((tmp_path / "started").exists)
    [run_id] = [path.name for path in (tmp_path / ".runbook" / "runs").iterdir()]
    second = program("exec", "small.yaml", "--json", env=env)
    assert (second.code, second.document["run"]["verdict"]) == (7, "locked")
    holder = second.document["problems"][0]["holder"]
    assert (holder["run_id"], holder["pid"], holder["operator"]) == (run_id, first.process.pid, "Ada")
    assert f"the lock `job-1` is held by run {run_id}" in second.err
    assert (tmp_path / "started").read_text() == "x\n"
    assert [path.name for path in (tmp_path / ".runbook" / "runs").iterdir()] == [run_id]
    third = start("exec", "small.yaml", "-p", "n=2", env=env)
    until(lambda: (tmp_path / "started").read_text() == "x\nx\n")
    assert (first.end(signal.SIGTERM).code, third.end(signal.SIGTERM).code) == (130, 130)


def test_the_lock_is_free_after_kill_9(
    env: dict[str, str], database: Database, start: Callable[..., Background], tmp_path: Path
) -> None:
    first = start("exec", "small.yaml", env=env)
    until((tmp_path / "started").exists)
    first.process.kill()
    first.process.wait()
    until(lambda: database.value(HELD) == 0)
    again = start("exec", "small.yaml", env=env)
    until(lambda: (tmp_path / "started").read_text() == "x\nx\n")
    assert again.end(signal.SIGTERM).code == 130


def test_many_at_once_run_one(
    database: Database, start: Callable[..., Background], write: Callable[..., Path], tmp_path: Path
) -> None:
    write("small.yaml", HEAD + DB + "steps:\n  s: {shell: 'mkdir inside; sleep 1; rmdir inside; echo x >> started'}\n")
    runs = [start("exec", "small.yaml", env={"DATABASE_URL": database.url}) for _ in range(4)]
    codes = sorted(run.end().code for run in runs)
    assert set(codes) <= {0, 7} and codes.count(0) == (tmp_path / "started").read_text().count("x") >= 1


def test_a_run_that_was_paused_and_robbed_ends_and_writes_nothing_more(
    database: Database, start: Callable[..., Background], write: Callable[..., Path], tmp_path: Path
) -> None:
    database.run("CREATE TABLE rows (text text)")
    rows = (
        "audit:\n  started: {{sql: INSERT INTO rows VALUES ('{0} started')}}\n"
        "  finished: {{sql: INSERT INTO rows VALUES ('{0} finished')}}\n"
    )
    steps = "steps:\n  s: {shell: 'echo $$ > pid; touch up; sleep 300'}\n  t: {command: [touch, ran]}\n"
    write("small.yaml", HEAD + DB + rows.format("A") + steps + "on_failure:\n  f: {command: [touch, ran]}\n")
    write("other.yaml", HEAD + DB + rows.format("B") + "steps:\n  s: {command: ['true']}\n")
    env = {"DATABASE_URL": database.url}
    first = start("exec", "small.yaml", "--json", env=env)
    until((tmp_path / "up").exists)
    first.process.send_signal(signal.SIGSTOP)
    database.run(KILL)
    second = start("exec", "other.yaml", "--json", env=env).end()
    assert second.code == 0, second.err
    [run_id] = [row[0] for row in database.rows("SELECT run_id FROM runbook.runs ORDER BY started_at LIMIT 1")]
    written = f"SELECT count(*) FROM runbook.events WHERE run_id = '{run_id}'"
    before = database.value(written)
    ended = first.end(signal.SIGCONT)
    assert (ended.code, ended.document["run"]["verdict"]) == (6, "errored"), ended.err
    robber = second.document["run"]
    assert f"the lock was lost: run {robber['id']} on host {robber['host']} took it at 2" in ended.err
    assert database.value(written) == before
    assert database.rows("SELECT text FROM rows") == [("A started",), ("B started",), ("B finished",)]
    assert not (tmp_path / "ran").exists()
    until(lambda: not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists())


def test_a_lock_that_is_lost_and_free_is_taken_again(
    database: Database, start: Callable[..., Background], write: Callable[..., Path], tmp_path: Path
) -> None:
    write(
        "small.yaml",
        HEAD
        + DB
        + "steps:\n  s: {shell: 'touch up; until test -e go; do sleep 0.05; done'}\n  t: {command: [touch, ran]}\n",
    )
    first = start("exec", "small.yaml", "--json", env={"DATABASE_URL": database.url})
    until((tmp_path / "up").exists)
    database.run(KILL)
    (tmp_path / "go").touch()
    ended = first.end()
    assert ended.code == 0, ended.err
    assert ended.document["run"]["audit"] == "confirmed" and (tmp_path / "ran").exists()


def test_a_run_that_is_over_keeps_nobody_waiting(run: Run, database: Database) -> None:
    for _ in range(3):
        assert run(f"{DB}steps: {{s: {{command: ['true']}}}}\n", database.url)["run"]["audit"] == "confirmed"
        assert database.rows("SELECT heartbeat = '-infinity' FROM runbook.leases") == [(True,)]


def test_a_run_is_never_locked_by_the_one_before_it(run: Run, database: Database) -> None:
    for _ in range(40):
        assert (
            run("connections: {db: {type: postgres, env: DATABASE_URL}}\naudit: {enabled: false}\n", database.url)[
                "run"
            ]["verdict"]
            == "passed"
        )


def test_a_run_waits_for_the_lock(
    env: dict[str, str], start: Callable[..., Background], write: Callable[..., Path], tmp_path: Path
) -> None:
    step = "steps:\n  s: {shell: 'echo x >> started; until test -e go; do sleep 0.05; done'}\n"
    write("small.yaml", (tmp_path / "small.yaml").read_text().replace(STEP, step))
    first = start("exec", "small.yaml", "--operator", "Ada", env=env)
    until((tmp_path / "started").exists)
    [run_id] = [path.name for path in (tmp_path / ".runbook" / "runs").iterdir()]
    second = start("exec", "small.yaml", "--wait", "--json", env=env)
    assert second.process.stderr is not None
    told = b"".join(second.process.stderr.readline() for _ in range(2)).decode()
    assert told.startswith(f"waiting: the lock `job-1` is held by run {run_id}, on ") and "operator Ada" in told
    assert told.endswith(f"  watch it: runbook watch {run_id}\n")
    (tmp_path / "go").touch()
    ended = second.end()
    assert (first.end().code, ended.code, ended.document["run"]["verdict"]) == (0, 0, "passed")
    assert "waiting" not in ended.err
    assert (tmp_path / "started").read_text() == "x\nx\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_waiting_can_be_ended(
    number: signal.Signals, env: dict[str, str], start: Callable[..., Background], tmp_path: Path
) -> None:
    first = start("exec", "small.yaml", env=env)
    until((tmp_path / "started").exists)
    second = start("exec", "small.yaml", "--wait", "--json", env=env)
    assert second.process.stderr is not None and second.process.stderr.readline().startswith(b"waiting: ")
    ended = second.end(number)
    assert ended.code == 130
    run = ended.document["run"]
    assert (run["verdict"], run["exit_code"], run["id"]) == ("cancelled", 130, "")
    assert "stopped while waiting for the lock `job-1`: " in ended.err
    assert len([*(tmp_path / ".runbook" / "runs").iterdir()]) == 1
    assert first.end(signal.SIGTERM).code == 130


def test_a_locked_run_is_told_what_it_can_do(
    env: dict[str, str], start: Callable[..., Background], program: Program, tmp_path: Path
) -> None:
    start("exec", "small.yaml", env=env)
    until((tmp_path / "started").exists)
    [run_id] = [path.name for path in (tmp_path / ".runbook" / "runs").iterdir()]
    told = program("exec", "small.yaml", env=env).err.splitlines()
    assert told[-2:] == [f"  watch it: runbook watch {run_id}", "  wait for it: the same command with --wait"]


def test_who_holds_a_lock_cannot_write_on_the_terminal(
    database: Database, start: Callable[..., Background], write: Callable[..., Path], program: Program, tmp_path: Path
) -> None:
    write("small.yaml", HEAD + DB + STEP)
    start("exec", "small.yaml", "--operator", "Ada\x1b[2Jerror: none", env={"DATABASE_URL": database.url})
    until((tmp_path / "started").exists)
    told = program("exec", "small.yaml", env={"DATABASE_URL": database.url})
    assert told.code == 7 and "\x1b" not in told.err and "operator Ada\\x1b[2Jerror: none" in told.err


def test_a_removed_lock_file_lets_no_two_runs_go_on(
    start: Callable[..., Background], write: Callable[..., Path], tmp_path: Path
) -> None:
    write("small.yaml", HEAD + STEP)
    first = start("exec", "small.yaml", "--json")
    until((tmp_path / "started").exists)
    first.process.send_signal(signal.SIGSTOP)
    [lock] = (tmp_path / "state" / "runbook" / "locks").iterdir()
    assert json.loads(lock.read_text())["journal"] == str(next((tmp_path / ".runbook").glob("runs/*/journal.jsonl")))
    lock.unlink()
    second = start("exec", "small.yaml", "--json")
    until(lambda: (tmp_path / "started").read_text() == "x\nx\n")
    ended = first.end(signal.SIGCONT)
    assert ended.code == 6 and "the lock was lost: run " in ended.err
    assert second.end(signal.SIGTERM).code == 130
