"""Runs that leave the session: under way when the start returns, watched and stopped from outside."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.acceptance.helpers import DB, HEAD, Background, lines_of, until
from tests.conftest import ROOT, Database, Program

SLOW = HEAD + DB + "steps: {work: {shell: 'echo begun; while [ ! -e go ]; do sleep 0.1; done; echo done'}}\n"


def record_of(program: Program, run: str = "last") -> dict[str, object]:
    return dict(program("show", run, "--json").document)


def ended(program: Program, run: str = "last") -> dict[str, object]:
    """The record once the run is over in all its books."""
    until(lambda: "nothing is running here" in program("status").err, 60)
    return record_of(program, run)


@pytest.fixture(autouse=True)
def _nothing_goes_on(tmp_path: Path) -> Iterator[None]:
    """Runs that left the session end with the test, however it ends."""
    yield
    (tmp_path / "go").touch()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(tmp_path):
                process.kill()


@pytest.fixture
def detached(database: Database, program: Program, write: Callable[..., Path]) -> int:
    """The pid of a run that left the session and is in the middle of its step."""
    write("small.yaml", SLOW)
    started = program("exec", "small.yaml", "--detach", env={"DATABASE_URL": database.url})
    assert started.code == 0, started.err
    match = re.search(r"PID: +(\d+)", started.err)
    assert match
    return int(match[1])


def test_it_says_what_the_cookbook_says(
    detached: int, database: Database, program: Program, tmp_path: Path, write: Callable[..., Path]
) -> None:
    record = record_of(program)
    run = record["run"]
    assert isinstance(run, dict)
    assert run["pid"] == detached and run["verdict"] is None
    write("go", "")
    assert ended(program)["run"]["verdict"] == "passed"  # type: ignore[index]
    folder = tmp_path / ".runbook" / "runs" / str(run["id"])
    assert (folder / "output.log").read_text() == "begun\ndone\n"
    log = (folder / "runner.log").read_text()
    assert "✓ work" in log and log.rstrip().splitlines()[-1].startswith("passed   run log: ")
    assert (folder / "runner.log").stat().st_mode & 0o777 == 0o600


def test_it_has_no_terminal_and_nothing_of_its_parents(detached: int, write: Callable[..., Path]) -> None:
    process = psutil.Process(detached)
    assert os.getsid(detached) == detached and process.terminal() is None
    assert os.readlink(f"/proc/{detached}/fd/0") == "/dev/null"
    assert os.readlink(f"/proc/{detached}/fd/1") == "/dev/null"
    assert os.readlink(f"/proc/{detached}/fd/2").endswith("runner.log")
    pipes = [name for name in os.listdir(f"/proc/{detached}/fd") if _is_pipe(detached, name)]
    assert len(pipes) <= 4, "only those of its own step and its own lock"
    write("go", "")


def _is_pipe(pid: int, name: str) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/fd/{name}").startswith("pipe:")
    except FileNotFoundError:
        return False


def test_hangup_and_a_deleted_folder_do_not_matter(
    detached: int, program: Program, tmp_path: Path, write: Callable[..., Path]
) -> None:
    os.kill(detached, signal.SIGHUP)
    time.sleep(0.3)
    write("go", "")
    assert ended(program)["run"]["verdict"] == "passed"  # type: ignore[index]


def test_the_start_returns_though_its_reader_goes_on(
    database: Database, write: Callable[..., Path], tmp_path: Path, program: Program
) -> None:
    write("small.yaml", SLOW)
    shell = f"{sys.executable} -m runbook exec small.yaml --detach 2>&1 | cat"
    env = {
        **os.environ,
        "DATABASE_URL": database.url,
        "PYTHONPATH": str(ROOT),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    done = subprocess.run(["sh", "-c", shell], cwd=tmp_path, env=env, capture_output=True, timeout=60, check=False)
    assert b"Started!" in done.stdout
    write("go", "")
    ended(program)


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("steps: {a: {comand: [x]}}\n", 5, "did you mean"),
        (
            "secrets: {s: {env: NOT_THERE}}\nsteps: {a: {command: ['true'], env: {S: '{{ secrets.s }}'}}}\n",
            6,
            "NOT_THERE",
        ),
    ],
)
def test_it_says_the_real_reason_where_it_cannot_start(
    body: str, code: int, said: str, database: Database, program: Program, write: Callable[..., Path]
) -> None:
    write("small.yaml", HEAD + DB + body)
    refused = program("exec", "small.yaml", "--detach", "--json", env={"DATABASE_URL": database.url})
    assert refused.code == code and said in refused.err and refused.document["run"]["exit_code"] == code


def test_a_second_one_is_locked_out_and_told_how_to_watch(
    detached: int, database: Database, program: Program, write: Callable[..., Path]
) -> None:
    refused = program("exec", "small.yaml", "--detach", "--json", env={"DATABASE_URL": database.url})
    assert refused.code == 7 and f"pid {detached}" in refused.err and "runbook watch" in refused.err
    assert refused.document["problems"][0]["holder"]["pid"] == detached
    write("go", "")


def test_it_can_be_told_as_json(database: Database, program: Program, write: Callable[..., Path]) -> None:
    write("small.yaml", SLOW)
    started = program("exec", "small.yaml", "--detach", "--json", env={"DATABASE_URL": database.url})
    run = started.document["run"]
    assert started.code == 0 and run["verdict"] is None and psutil.pid_exists(run["pid"])
    write("go", "")
    assert ended(program, run["id"])["run"]["verdict"] == "passed"  # type: ignore[index]


def test_a_protected_connection_needs_yes(database: Database, program: Program, write: Callable[..., Path]) -> None:
    write("small.yaml", SLOW.replace("env: DATABASE_URL", "env: DATABASE_URL, protected: true"))
    refused = program("exec", "small.yaml", "--detach", env={"DATABASE_URL": database.url})
    assert refused.code == 2 and "--yes" in refused.err


# --- stop ---------------------------------------------------------------------------------------------------------


def test_stop_ends_the_run_cancelled_with_its_records(detached: int, database: Database, program: Program) -> None:
    stopped = program("stop", "--json", env={"DATABASE_URL": database.url})
    assert stopped.code == 0, stopped.err
    assert stopped.document["run"]["verdict"] == "cancelled" and "stopped: cancelled" in stopped.err
    assert database.rows("SELECT verdict, exit_code FROM runbook.closings") == [("cancelled", 130)]
    assert Path(stopped.document["report"]).exists()
    until(lambda: not psutil.pid_exists(detached) or psutil.Process(detached).status() == psutil.STATUS_ZOMBIE)
    again = program("stop", env={"DATABASE_URL": database.url})
    assert again.code == 0 and "was not running: cancelled" in again.err


def test_stop_wakes_a_runner_that_was_stopped(detached: int, database: Database, program: Program) -> None:
    os.kill(detached, signal.SIGSTOP)
    stopped = program("stop", env={"DATABASE_URL": database.url})
    assert stopped.code == 0 and "stopped: cancelled" in stopped.err, stopped.err


def test_stop_of_a_lost_run_ends_its_remains(detached: int, database: Database, program: Program) -> None:
    children = psutil.Process(detached).children(recursive=True)
    os.kill(detached, signal.SIGKILL)
    stopped = program("stop", env={"DATABASE_URL": database.url})
    assert stopped.code == 0 and "was not running: lost" in stopped.err
    until(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))


def test_stop_with_kill_takes_a_runner_that_does_not_end(
    database: Database, program: Program, write: Callable[..., Path], start: Callable[..., Background]
) -> None:
    write("small.yaml", HEAD + DB + "steps: {a: {command: ['true']}}\nfinally: {slow: {shell: sleep 300}}\n")
    background = start("exec", "small.yaml", env={"DATABASE_URL": database.url})
    background.reached('"step": "slow"')
    refused = program("stop", "--patience", "1", env={"DATABASE_URL": database.url})
    if refused.code == 6:
        assert "--kill" in refused.err
        stopped = program("stop", "--patience", "1", "--kill", env={"DATABASE_URL": database.url})
        assert stopped.code == 0, stopped.err
    journal = next(background.folder.glob(".runbook/runs/*/journal.jsonl"))
    assert lines_of({"journal": str(journal)})[-1]["kind"] == "report.written"


def test_stop_of_nothing_says_so(program: Program) -> None:
    assert program("stop", "20200101").code == 6
    assert json.loads(program("stop", "20200101", "--json").out)["run"]["exit_code"] == 6
