"""Workers that die, pause or lose their server, and what becomes of their runs."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.acceptance.helpers import Background, until
from tests.fleet.parts import SWEEP, Fleet

AGAIN = SWEEP.replace("name: sweep", "name: sweep\nrerun: true")


def children(worker: Background) -> list[psutil.Process]:
    """The processes in which a worker has runs executed."""
    return [child for child in psutil.Process(worker.process.pid).children() if "turn" in child.cmdline()]


def kill_all(worker: Background) -> None:
    """What the end of a host does: the worker and all its runs are gone at once."""
    processes = [psutil.Process(worker.process.pid), *psutil.Process(worker.process.pid).children(recursive=True)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    for process in processes:
        process.kill()


def test_a_worker_is_told_to_end_and_lets_its_run_end_first(fleet: Fleet) -> None:
    (run, waiting) = fleet.submit("--matrix", "n=1,2", "-p", "pause=2")
    worker = fleet.worker()
    until(lambda: fleet.running(run))
    ended = worker.end(signal.SIGTERM)
    assert ended.code == 0, ended.err
    assert "takes no more runs; 1 under way go on" in ended.err
    assert [fleet.verdict(run), fleet.verdict(waiting)] == ["passed", None]
    assert fleet.value("SELECT state FROM runbook_fleet.workers") == "ended"


def test_told_twice_a_worker_ends_its_runs_with_their_records(fleet: Fleet) -> None:
    (run,) = fleet.submit("-p", "pause=60")
    worker = fleet.worker()
    until(lambda: fleet.running(run))
    worker.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    ended = worker.end(signal.SIGTERM)
    assert ended.code == 0, ended.err
    assert fleet.verdict(run) == "cancelled"


def test_a_run_whose_process_is_killed_is_lost_at_once(fleet: Fleet) -> None:
    (run,) = fleet.submit("-p", "pause=60")
    worker = fleet.worker()
    until(lambda: fleet.running(run))
    children(worker)[0].kill()
    killed = time.monotonic()
    assert fleet.verdicts([run], 10) == ["lost"]
    assert time.monotonic() - killed < 8
    assert fleet.call("audit", "verify").code == 0
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "60"] and _of(p, fleet)]


def _of(process: psutil.Process, fleet: Fleet) -> bool:
    return Path(process.cwd()).is_relative_to(fleet.folder)


def test_runs_outlive_their_worker(fleet: Fleet) -> None:
    """Only the worker is killed: its run goes on, has its lock, ends and is closed; nobody starts it a second time."""
    (run,) = fleet.submit("-p", "pause=4")
    worker = fleet.worker()
    until(lambda: fleet.running(run))
    worker.process.kill()
    fleet.worker()
    assert fleet.verdicts([run]) == ["passed"]
    assert fleet.value("SELECT count(*) FROM items") == 1


def test_a_run_whose_host_is_gone_is_lost_and_done_again_only_where_that_is_allowed(fleet: Fleet) -> None:
    fleet.write(AGAIN)
    (run,) = fleet.submit("-p", "pause=3")
    fleet.write(SWEEP)
    (other,) = fleet.submit("-p", "n=2", "-p", "pause=30")
    dying = fleet.worker("-c", "2", folder=fleet.folder / "host-a")
    until(lambda: fleet.running(run) and fleet.running(other))
    kill_all(dying)
    killed = time.monotonic()
    fleet.worker(folder=fleet.folder / "host-b")
    assert fleet.verdicts([run, other]) == ["lost", "lost"]
    assert time.monotonic() - killed < 60
    (again,) = until(
        lambda: fleet.database.rows("SELECT run_id FROM runbook_fleet.submissions WHERE earlier IS NOT NULL")
    )[0]
    assert fleet.verdicts([again]) == ["passed"]
    assert fleet.database.rows("SELECT n FROM items") == [(1,)]
    assert fleet.value("SELECT count(*) FROM runbook_fleet.submissions") == 3
    submitted = fleet.call("show", again, "--json").document["circumstances"]["submitted"]
    assert (submitted["attempt"], submitted["earlier"]) == (2, run)
    logs = [path.read_text() for path in (fleet.folder / "host-a").rglob("*.md")]
    assert all(any(lost in text for text in logs) for lost in (run, other))
    assert fleet.call("audit", "verify").code == 0


@pytest.mark.slow
def test_a_paused_run_that_was_given_up_writes_nothing_any_more(fleet: Fleet) -> None:
    """The run's process sleeps while its server session is ended; when it wakes, another has had its turn."""
    (run,) = fleet.submit("-p", "pause=4")
    worker = fleet.worker(folder=fleet.folder / "host-a")
    until(lambda: fleet.running(run))
    (child,) = children(worker)
    worker.process.send_signal(signal.SIGSTOP)
    child.suspend()
    fleet.database.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE application_name LIKE 'runbook {run}%' AND pid <> pg_backend_pid()"
    )
    fleet.worker(folder=fleet.folder / "host-b")
    assert fleet.verdicts([run]) == ["lost"]
    child.resume()
    worker.process.send_signal(signal.SIGCONT)
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert fleet.verdict(run) == "lost"
    assert fleet.value("SELECT count(*) FROM items") == 0
    journal = fleet.folder / "host-a" / ".runbook" / "runs" / run / "journal.jsonl"
    until(lambda: '"superseded"' in journal.read_text())
    verified = fleet.call("audit", "verify")
    assert verified.code == 0, verified.err


def test_a_worker_that_was_paused_for_long_goes_on(fleet: Fleet) -> None:
    """The queue gives it up for dead meanwhile; it begins anew when it wakes."""
    (first,) = fleet.submit()
    worker = fleet.worker()
    assert fleet.verdicts([first]) == ["passed"]
    worker.process.send_signal(signal.SIGSTOP)
    fleet.database.run("SET search_path = runbook_fleet; DELETE FROM procrastinate_workers")
    worker.process.send_signal(signal.SIGCONT)
    (second,) = fleet.submit("-p", "n=2")
    assert fleet.verdicts([second]) == ["passed"]


def test_a_job_that_a_dead_worker_took_and_did_not_begin_comes_back(fleet: Fleet) -> None:
    (run,) = fleet.submit()
    fleet.database.run(
        "SET search_path = runbook_fleet; UPDATE procrastinate_jobs SET status = 'doing';"
        "UPDATE runbook_fleet.turns SET since = now() - interval '1 hour'"
    )
    fleet.worker()
    assert fleet.verdicts([run]) == ["passed"]


def test_a_queued_run_that_the_queue_has_forgotten_is_put_into_it_again(fleet: Fleet) -> None:
    (run,) = fleet.submit()
    fleet.database.run(
        "SET search_path = runbook_fleet; DELETE FROM procrastinate_jobs;"
        "UPDATE turns SET since = now() - interval '1 hour'"
    )
    fleet.worker()
    assert fleet.verdicts([run]) == ["passed"]


def test_a_start_that_came_to_nothing_is_begun_again(fleet: Fleet) -> None:
    """A worker claimed the run and died before its process had begun it: nothing was done, so that nothing is done twice."""
    (run,) = fleet.submit()
    fleet.database.run(
        "UPDATE runbook_fleet.turns SET state = 'running', epoch = 1, seen_at = now() - interval '1 hour';"
        "SET search_path = runbook_fleet; UPDATE procrastinate_jobs SET status = 'doing'"
    )
    fleet.worker()
    assert fleet.verdicts([run]) == ["passed"]
    assert fleet.value("SELECT epoch FROM runbook_fleet.turns") == 4  # claimed, given up, queued again, claimed


def test_a_stop_that_is_asked_for_elsewhere_reaches_the_run(fleet: Fleet) -> None:
    (run,) = fleet.submit("-p", "pause=60")
    fleet.worker(folder=fleet.folder / "host-a")
    until(lambda: fleet.running(run))
    fleet.database.run(f"UPDATE runbook_fleet.turns SET stop = 'Ada on h' WHERE run_id = '{run}'")
    assert fleet.verdicts([run]) == ["cancelled"]


def test_what_a_run_prints_and_does_can_be_read_while_it_goes_on(fleet: Fleet) -> None:
    (run,) = fleet.submit("-p", "n=7", "-p", "pause=5")
    fleet.worker(folder=fleet.folder / "host-a")
    text = until(lambda: fleet.value(f"SELECT data FROM runbook_fleet.output WHERE run_id = '{run}'"))
    assert bytes(text) == b"n is 7\n"
    doing: dict[str, Any] = until(lambda: fleet.value(f"SELECT doing FROM runbook_fleet.turns WHERE run_id = '{run}'"))
    assert (doing["stage"], doing["step"], doing["attempt"]) == ("steps", "wait", 1)
    assert fleet.verdict(run) is None


def test_no_password_is_told_to_the_steps(fleet: Fleet) -> None:
    fleet.write(SWEEP.replace('echo "n is $N"', "env"))
    (run,) = fleet.submit()
    fleet.work()
    output = (fleet.folder / ".runbook" / "runs" / run / "output.log").read_text()
    assert "RUNBOOK_RUN_ID" in output
    assert "RUNBOOK_TURN" not in output
    assert os.environ.get("RUNBOOK_TURN") is None


def test_status_tells_of_runs_that_are_elsewhere(fleet: Fleet) -> None:
    (running, queued) = fleet.submit("--matrix", "n=1,2", "-p", "pause=30")
    fleet.worker(folder=fleet.folder / "host-a")
    until(lambda: fleet.running(running))
    there = fleet.call("status", running)
    assert (there.code, "running" in there.err, "stage: steps" in there.err) == (0, True, True), there
    waits = fleet.call("status", queued)
    assert (waits.code, "queued" in waits.err) == (0, True), waits
    assert fleet.call("stop", queued).code == 0
    assert fleet.verdict(queued) == "cancelled"
    assert fleet.call("stop", running).code == 0
    assert "cancelled" in fleet.call("status", running).err


def test_pruning_takes_what_was_passed_on_as_well(fleet: Fleet) -> None:
    (run,) = fleet.submit("-p", "pause=1.5")
    fleet.work()
    assert fleet.value("SELECT count(*) FROM runbook_fleet.output") == 1
    ended = fleet.call("prune", "--older-than", "0s", "--what", "audit", "--yes")
    assert ended.code == 0, ended.err
    assert fleet.value("SELECT count(*) FROM runbook_fleet.output") == 0
    assert run in fleet.call("history").out
