"""Runs that are not on this disk: found, and mirrored as files that everything else reads unchanged."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from runbook.fleet.elsewhere import Elsewhere, find_elsewhere, locate, waiting_text
from runbook.fleet.mirror import MOST, mirrored
from runbook.operate.alive import running
from runbook.operate.runs import NoSuchRun, record_of
from runbook.watch.tail import output
from tests.acceptance.helpers import until
from tests.conftest import Database, Program
from tests.fleet.elsewhere import Host, Relay, make_fleet, put, submit


@pytest.fixture
def far(tmp_path: Path, database: Database) -> Host:
    make_fleet(database)
    return Host(tmp_path / "far", database)


@pytest.fixture
def going(far: Host, program: Program) -> Iterator[Relay]:
    """A run that has printed a line and waits."""
    relay = Relay(far, far.start())
    yield relay
    relay.leave()


def found(database: Database, name: str) -> Elsewhere:
    elsewhere = find_elsewhere(name, {"": database.url})
    assert elsewhere is not None
    return elsewhere


def test_a_run_that_ended_is_there_byte_for_byte(far: Host, program: Program) -> None:
    run = far.exec(program).document["run"]
    submit(far.database, run["id"], {"state": "over", "host": "far"})
    put(far.database, "output", run_id=run["id"], start=0, data=b"begun\n")
    put(far.database, "output", run_id=run["id"], start=6, data=b"done\n")
    with mirrored(found(far.database, run["id"])) as folder:
        copy, own = ((place / "journal.jsonl").read_bytes() for place in (folder, far.run))
        assert own.startswith(copy)
        assert b'"run.finished"' in copy
        assert not running(folder)
        assert record_of(folder)["run"]["verdict"] == "passed"
        assert b"".join(output(folder, None, follow=True)) == b"begun\ndone\n"
    assert not folder.parent.parent.exists()


def test_a_run_that_goes_on_is_followed_to_its_end(going: Relay, far: Host) -> None:
    with mirrored(found(far.database, going.run_id)) as folder:
        assert running(folder)
        assert record_of(folder)["run"]["verdict"] is None
        until(lambda: (folder / "output.log").exists())
        assert (folder / "output.log").read_bytes() == b"begun\n"
        going.end()
        until(lambda: not running(folder), 10)
        assert record_of(folder)["run"]["verdict"] == "passed"
        assert (folder / "output.log").read_bytes() == b"begun\ndone\n"


def test_its_journal_is_as_old_as_its_last_event(going: Relay, far: Host) -> None:
    time.sleep(2)
    with mirrored(found(far.database, going.run_id)) as folder:
        theirs, ours = ((place / "journal.jsonl").stat().st_mtime for place in (far.run, folder))
        assert abs(theirs - ours) < 1


def test_what_is_missing_is_said_in_its_place(far: Host, program: Program) -> None:
    run = far.exec(program).document["run"]["id"]
    submit(far.database, run, {"state": "over", "host": "far"})
    put(far.database, "output", run_id=run, start=0, data=b"one")
    put(far.database, "output", run_id=run, start=10, data=b"two\n")
    put(far.database, "output", run_id=run, start=12, data=b"o\nthree\n")
    put(far.database, "output", run_id=run, start=20, data=b"x" * (MOST - 20))
    with mirrored(found(far.database, run)) as folder:
        text = (folder / "output.log").read_text()
    place = far.run / "output.log"
    begin = f"one\n… (7 bytes are missing here: they are on far in {place})\ntwo\nthree\nxxx"
    assert text.startswith(begin)
    assert text.endswith(f"x\n… (the rest is on far in {place})\n")


def test_of_a_run_that_was_not_submitted_the_output_is_told_to_be_elsewhere(far: Host, program: Program) -> None:
    run = far.exec(program).document["run"]
    with mirrored(found(far.database, run["id"])) as folder:
        told = f"… (what it printed, if anything, is on {run['host']} in {far.run}/output.log)\n"
        assert b"".join(output(folder, None, follow=True)).decode() == told
        assert record_of(folder)["run"]["verdict"] == "passed"


def test_a_queued_run_is_waited_for(far: Host, program: Program, tmp_path: Path) -> None:
    for number in range(3):
        submit(far.database, f"run-{number}", label="gpu")
    told: list[str] = []
    began = threading.Event()

    def follow() -> None:
        with mirrored(found(far.database, "run-2"), told.append) as folder, suppress(OSError):
            (tmp_path / "copied").write_bytes((folder / "journal.jsonl").read_bytes())
            began.set()

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    cure = "no worker takes it: start one with `runbook worker --label gpu`"
    until(lambda: told == [f"run run-2 is queued behind 2 others; {cure}"])
    far.database.run("UPDATE runbook_fleet.turns SET state = 'over' WHERE run_id = 'run-0'")
    worker = {
        "host": "far",
        "pid": 1,
        "folder": "/",
        "labels": ["gpu"],
        "concurrency": 1,
        "version": "1",
        "operator": "o",
    }
    put(far.database, "workers", **worker)
    until(lambda: told[-1] == "run run-2 is queued behind 1 other")
    assert not began.is_set()
    run = far.exec(program).document["run"]["id"]
    copy = f"SELECT 'run-2', {{}} FROM runbook.{{}} WHERE run_id = '{run}'"
    columns = "runbook, title, lock, operator, host, pid, started_at, epoch, sha256, params"
    far.database.run(f"INSERT INTO runbook.runs (run_id, {columns}) {copy.format(columns, 'runs')}")
    columns = "seq, at, kind, line, previous, hash, epoch"
    far.database.run(f"INSERT INTO runbook.events (run_id, {columns}) {copy.format(columns, 'events')}")
    assert began.wait(10)
    assert (tmp_path / "copied").read_bytes() in (far.run / "journal.jsonl").read_bytes()
    follower.join(10)


@pytest.mark.parametrize(
    ("before", "turn", "given", "text"),
    [
        (
            {"label": "gpu"},
            {"state": "running", "host": "far"},
            {},
            "behind run run-1, which has the lock `x` (running on far)",
        ),
        ({"label": ""}, {}, {}, "behind run run-1, which has the lock `x` (waiting for any worker)"),
        ({"label": "gpu"}, {}, {"label": "gpu"}, "behind run run-1, which has the lock `x` (waiting for label gpu)"),
        ({"label": "gpu"}, {}, {}, "is queued and comes next"),
        (
            {"label": "gpu"},
            {},
            {"because": "the lock `x` is held by run 7, on far"},
            "again: the lock `x` is held by run 7, on far",
        ),
    ],
)
def test_why_a_run_waits(
    far: Host, before: dict[str, str], turn: dict[str, str], given: dict[str, str], text: str
) -> None:
    submit(far.database, "run-1", turn, lock="x", **before)
    mine = {"because": given["because"]} if "because" in given else {}
    submit(far.database, "run-2", mine, lock="x", label=given.get("label", ""))
    assert text in waiting_text("run-2", found(far.database, "run-2").standing)


def test_a_run_that_was_taken_and_has_not_begun(far: Host) -> None:
    submit(far.database, "run-1", {"state": "running", "host": "far"})
    text = waiting_text("run-1", found(far.database, "run-1").standing)
    assert text == "run run-1 was taken by a worker on far, and begins"


def test_a_run_that_came_to_nothing_is_told(far: Host) -> None:
    submit(far.database, "run-1", {"state": "over", "because": "its files are gone"})
    with (
        pytest.raises(NoSuchRun, match="run run-1 never began: its files are gone"),
        mirrored(found(far.database, "run-1")),
    ):
        pass


def test_a_run_that_comes_to_nothing_while_it_is_waited_for(far: Host) -> None:
    submit(far.database, "run-1")
    told: list[str] = []
    end = "UPDATE runbook_fleet.turns SET state = 'over', because = 'its runbook cannot be read'"
    threading.Timer(0.5, lambda: far.database.run(end)).start()
    never = pytest.raises(NoSuchRun, match="run run-1 never began: its runbook cannot be read")
    with never, mirrored(found(far.database, "run-1"), told.append):
        pass
    assert len(told) == 1


def test_a_connection_that_breaks_is_made_again(going: Relay, far: Host) -> None:
    told: list[str] = []
    with mirrored(found(far.database, going.run_id), told.append) as folder:
        ended = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'runbook elsewhere'"
        )
        assert far.database.value(f"{ended} AND datname = current_database()") == 1
        until(lambda: len(told) >= 3, 10)
        assert running(folder)
        going.end()
        until(lambda: not running(folder), 10)
        assert record_of(folder)["run"]["verdict"] == "passed"
    assert told[0].startswith("the audit cannot be followed, trying again: ")
    assert told[1:] == ["the audit can be followed again", ""]


def test_no_sign_of_life_is_told(going: Relay, far: Host) -> None:
    going._over.set()
    going._thread.join(10)
    far.database.run("UPDATE runbook_fleet.turns SET state = 'running', seen_at = now() - interval '50 s'")
    told: list[str] = []
    with mirrored(found(far.database, going.run_id), told.append) as folder:
        assert running(folder)
    assert told == [f"no sign of life of run {going.run_id} on far for 50 s"]


def test_finding(far: Host, program: Program, write: Callable[..., Path], tmp_path: Path) -> None:
    run = far.exec(program).document["run"]["id"]
    submit(far.database, "run-a1")
    submit(far.database, "run-a10")
    where = {"": far.database.url}
    assert [found(far.database, name).run_id for name in (run[:-1], "run-a10", "run-a1")] == [run, "run-a10", "run-a1"]
    assert found(far.database, "last").run_id == "run-a10"
    with pytest.raises(NoSuchRun, match="`run-a` could be run-a1, run-a10"):
        find_elsewhere("run-a", where)
    assert find_elsewhere("nothing", where) is None
    assert find_elsewhere("run_a1", where) is None
    with pytest.raises(NoSuchRun, match=r"there are no runs in .*; nor is `nothing` in test_\w+ on "):
        locate("nothing", where)
    write(".runbook/runs/run-a1/journal.jsonl", "")
    assert locate("run-a1", where) == tmp_path / ".runbook" / "runs" / "run-a1"
    assert find_elsewhere("run-a1", where) is None


def test_a_name_that_is_no_run_id_makes_no_file(far: Host) -> None:
    submit(far.database, "../../etc")
    assert find_elsewhere("../../etc", {"": far.database.url}) is None


def test_nothing_is_left_when_following_is_broken_off(going: Relay, far: Host) -> None:
    kept: list[Path] = []
    with pytest.raises(KeyboardInterrupt), mirrored(found(far.database, going.run_id)) as folder:
        kept.append(folder)
        raise KeyboardInterrupt
    assert not os.path.exists(kept[0])
    assert not [thread for thread in threading.enumerate() if thread.name == "mirror"]
