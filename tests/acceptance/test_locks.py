"""Two runs with one lock never overlap; a dead one leaves no stale lock."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.helpers import DB, HEAD, Background, Run, until
from tests.conftest import Database, Program

KILL = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()"""
STEP = "steps:\n  s: {shell: 'echo x >> started; sleep 30'}\n"


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


def test_the_lock_is_free_after_kill_9(env: dict[str, str], start: Callable[..., Background], tmp_path: Path) -> None:
    first = start("exec", "small.yaml", env=env)
    until((tmp_path / "started").exists)
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    time.sleep(0.05)
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


def test_a_lock_that_is_lost_during_a_step_stops_the_run_if_another_took_it(
    database: Database, start: Callable[..., Background], write: Callable[..., Path], tmp_path: Path
) -> None:
    write(
        "small.yaml",
        HEAD
        + DB
        + "steps:\n  s: {shell: 'touch up; until test -e go; do sleep 0.05; done'}\n  t: {command: [touch, ran]}\n",
    )
    env = {"DATABASE_URL": database.url}
    first = start("exec", "small.yaml", "--json", env=env)
    until((tmp_path / "up").exists)
    database.run(KILL)
    (tmp_path / "up").unlink()
    write("other.yaml", HEAD + DB + "steps:\n  s: {command: ['true']}\n")
    assert start("exec", "other.yaml", env=env).end().code == 0
    (tmp_path / "go").touch()
    ended = first.end()
    assert ended.code == 6, ended.err
    assert not (tmp_path / "ran").exists()
    assert "another run has taken this lock" in ended.err


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


def test_a_run_is_never_locked_by_the_one_before_it(run: Run, database: Database) -> None:
    for _ in range(40):
        assert (
            run("connections: {db: {type: postgres, env: DATABASE_URL}}\naudit: {enabled: false}\n", database.url)[
                "run"
            ]["verdict"]
            == "passed"
        )
