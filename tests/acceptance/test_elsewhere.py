"""`logs`, `watch` and `stop` for runs that are on another host, and `fleet`: real runs in another folder, through their audit."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.helpers import Background, until
from tests.conftest import ROOT, Database, Program
from tests.fleet.elsewhere import Host, Relay, make_fleet, put, submit


@pytest.fixture
def far(tmp_path: Path, database: Database) -> Host:
    make_fleet(database)
    return Host(tmp_path / "far", database)


@pytest.fixture
def going(far: Host) -> Iterator[Relay]:
    """A submitted run on another host that has printed a line and waits."""
    relay = Relay(far, far.start())
    until(lambda: far.database.value("SELECT count(*) FROM runbook_fleet.output"))
    yield relay
    relay.leave()


@pytest.fixture
def near(tmp_path: Path) -> Path:
    """This host's own project, in which nothing ran."""
    place = tmp_path / "near"
    place.mkdir()
    return place


@pytest.fixture
def beside(far: Host, near: Path) -> Iterator[Callable[..., Background]]:
    """Starts the program on this host while the test goes on."""
    begun: list[Background] = []

    def start(*arguments: str, **options: object) -> Background:
        begun.append(Background(near, *arguments, "--database", far.database.url, **options))  # type: ignore[arg-type]
        return begun[-1]

    yield start
    for background in begun:
        background.kill()


# --- logs -----------------------------------------------------------------------------------------------------------


def test_logs_are_followed_to_the_end(going: Relay, beside: Callable[..., Background], near: Path) -> None:
    with open(near / "seen", "wb") as seen, open(near / "lines", "wb") as lines:
        follower, leaver = (
            beside("logs", going.run_id, "-f", stdout=seen),
            beside("logs", going.run_id[:-1], "-f", "--json", stdout=lines),
        )
    until(lambda: (near / "seen").read_bytes() == b"begun\n")
    until(lambda: (near / "lines").read_bytes())
    assert leaver.end(signal.SIGINT).code == 0
    assert follower.process.poll() is None
    assert going.end().code == 0
    ended = follower.end()
    assert (ended.code, ended.err) == (0, "")
    assert (near / "seen").read_bytes() == b"begun\ndone\n"
    assert json.loads((near / "lines").read_text()) == {"text": "begun"}


def test_logs_of_what_is_printed_so_far(going: Relay, far: Host, program: Program, near: Path) -> None:
    where = ("--database", far.database.url)
    ended = program("logs", "last", *where, cwd=near)
    assert (ended.code, ended.out, ended.err) == (0, "begun\n", "")
    assert program("logs", going.run_id, "-n", "0", *where, cwd=near).out == ""


def test_the_project_says_where_to_look(going: Relay, far: Host, program: Program, near: Path) -> None:
    (near / "runbooks").mkdir()
    (near / "runbooks" / "small.yaml").write_text((far.folder / "small.yaml").read_text())
    assert program("logs", going.run_id, cwd=near, env={"DATABASE_URL": far.database.url}).out == "begun\n"


@pytest.mark.parametrize("arguments", [("logs",), ("watch", "--once"), ("stop",)])
def test_where_was_looked_in_vain(arguments: tuple[str, ...], far: Host, program: Program, near: Path) -> None:
    ended = program(*arguments, "nothing-like-it", "--database", far.database.url, cwd=near)
    assert (ended.code, ended.out) == (6, "")
    assert re.fullmatch(r"error: there are no runs in \S+; nor is `nothing-like-it` in test_\w+ on .*\n", ended.err)


@pytest.mark.parametrize("arguments", [("logs",), ("watch", "--once"), ("stop",), ("status",)])
def test_a_run_is_not_denied_while_an_audit_is_away(
    arguments: tuple[str, ...], far: Host, program: Program, near: Path
) -> None:
    (near / ".runbook" / "runs" / "2998").mkdir(parents=True)
    (near / ".runbook" / "runs" / "2998" / "journal.jsonl").touch()
    away = ("--database", "db=postgresql://nobody@127.0.0.1:1/none", "--database", far.database.url)
    ended = program(*arguments, "2999", *away, cwd=near)
    assert ended.code == 6
    assert re.fullmatch(
        r"error: an audit does not answer: .*127\.0\.0\.1.*; `2999` may be there: it is not in \S+/runs or in test_.*\n",
        ended.err,
    ), ended.err
    told = program(*arguments, "2999", "--database", far.database.url, cwd=near).err
    assert re.fullmatch(
        r"error: there is no run `2999` in \S+; nor is `2999` in test_\w+ on .*; did you mean `2998`\?\n", told
    )


def test_nothing_leads_to_an_audit(program: Program, near: Path) -> None:
    ended = program("logs", "run-1", cwd=near)
    assert ended.code == 6
    assert (
        "no runbook in runbooks/ leads to an audit from here: for a run on another host, pass --database URL"
        in ended.err
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_follower_that_is_ended_leaves_no_copy(
    number: int, going: Relay, beside: Callable[..., Background], near: Path, tmp_path: Path
) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    with open(near / "seen", "wb") as seen:
        follower = beside("logs", going.run_id, "-f", stdout=seen, env={"TMPDIR": str(place)})
    until(lambda: (near / "seen").read_bytes())
    assert len(list(place.iterdir())) == 1
    assert follower.end(number).code == 128 + number
    assert list(place.iterdir()) == []


def test_a_queued_run_has_printed_nothing(far: Host, program: Program, near: Path) -> None:
    submit(far.database, "run-1")
    ended = program("logs", "run-1", "--database", far.database.url, cwd=near)
    assert (ended.code, ended.out) == (0, "")
    cure = "no worker takes it: start one with `runbook worker`"
    assert ended.err == f"run run-1 is queued and comes next; {cure}\nrun run-1 has printed nothing\n"


# --- watch ----------------------------------------------------------------------------------------------------------


def test_one_picture(going: Relay, far: Host, program: Program, near: Path) -> None:
    where = ("--once", "--database", far.database.url)
    ended = program("watch", going.run_id, "--json", *where, cwd=near)
    assert (ended.code, ended.err) == (0, "")
    frame = ended.document
    assert (frame["run"]["id"], frame["run"]["state"]) == (going.run_id, "running")
    assert frame["output"] == ["begun"]
    (stage,) = [stage for stage in frame["stages"] if stage["stage"] == "steps"]
    assert stage["steps"][0]["state"] == "now"
    shown = program("watch", "last", *where, cwd=near)
    assert shown.code == 0
    for text in ("running for", "▶ work", "begun"):
        assert text in shown.out, (text, shown.out)


def test_watching_ends_with_the_run_and_its_code(going: Relay, beside: Callable[..., Background], near: Path) -> None:
    with open(near / "seen", "wb") as seen:
        watcher = beside("watch", going.run_id, "--json", "--interval", "0.3", stdout=seen)
    until(lambda: (near / "seen").read_bytes().count(b"\n") > 1)
    going.end()
    ended = watcher.end()
    assert (ended.code, ended.err) == (0, "")
    last = json.loads((near / "seen").read_text().splitlines()[-1])
    assert (last["run"]["state"], last["run"]["verdict"]) == ("ended", "passed")


def test_leaving_stops_nothing(going: Relay, far: Host, beside: Callable[..., Background], near: Path) -> None:
    with open(near / "seen", "wb") as seen:
        watcher = beside("watch", going.run_id, stdout=seen)
    until(lambda: (near / "seen").read_bytes())
    ended = watcher.end(signal.SIGINT)
    assert (ended.code, ended.err.count("goes on")) == (0, 1)
    assert far.database.value("SELECT stop FROM runbook_fleet.turns") is None
    assert going.end().document["run"]["verdict"] == "passed"


def test_one_picture_of_a_queued_run(far: Host, program: Program, near: Path) -> None:
    submit(far.database, "run-1")
    ended = program("watch", "run-1", "--once", "--database", far.database.url, cwd=near)
    assert ended.code == 0
    assert ended.out.startswith("run run-1\n  has not begun\n")
    assert ended.err.startswith("run run-1 is queued and comes next; no worker takes it")


def test_leaving_a_queued_run(far: Host, beside: Callable[..., Background], near: Path) -> None:
    submit(far.database, "run-1")
    submit(far.database, "run-2", label="gpu", due_at="2100-01-01T00:00:00Z")
    with open(near / "told", "wb") as told:
        watchers = [beside("watch", name, stderr=told) for name in ("run-1", "run-2")]
    until(lambda: (near / "told").read_bytes().count(b"no worker takes it") == 2)
    assert [watcher.end(signal.SIGINT).code for watcher in watchers] == [0, 0]
    text = (near / "told").read_text()
    assert "run run-1 is queued and comes next; no worker" in text
    assert re.search(r"run run-2 may begin at (2100-01-01|2099-12-31) .*runbook worker --label gpu`", text)


# --- stop -----------------------------------------------------------------------------------------------------------


def test_a_run_on_another_host_is_stopped(going: Relay, far: Host, program: Program, near: Path) -> None:
    ended = program("stop", going.run_id, "--json", "--database", far.database.url, cwd=near)
    assert ended.code == 0, ended.err
    assert ended.document["run"]["verdict"] == "cancelled"
    assert re.search(rf"run {going.run_id} \(small\) stopped: cancelled   run log on far: /\S+", ended.err)
    by = far.database.value("SELECT stop FROM runbook_fleet.turns")
    assert re.fullmatch(r"\S+ on \S+", by)
    again = program("stop", going.run_id, "--database", far.database.url, cwd=near)
    assert (again.code, "was not running: cancelled" in again.err) == (0, True)
    assert far.database.value("SELECT stop FROM runbook_fleet.turns") == by


def test_what_another_asked_before_stands_and_patience_ends(far: Host, program: Program, near: Path) -> None:
    submit(far.database, "run-1", {"state": "running", "host": "far", "stop": "eve on there"})
    ended = program("stop", "run-1", "--patience", "0.5", "--database", far.database.url, cwd=near)
    assert (ended.code, ended.out) == (6, "")
    assert (
        "run run-1 on far has not ended within 0.5 s, and goes on being asked to; its last sign of life is" in ended.err
    )
    assert far.database.value("SELECT stop FROM runbook_fleet.turns") == "eve on there"


def test_a_runner_is_killed_on_its_own_host_only(going: Relay, far: Host, program: Program, near: Path) -> None:
    ended = program("stop", going.run_id, "--kill", "--database", far.database.url, cwd=near)
    assert ended.code == 6
    assert (
        f"is on far, and only there its runner can be killed: run `runbook stop --kill {going.run_id}` there"
        in ended.err
    )
    assert far.database.value("SELECT stop FROM runbook_fleet.turns") is None


def test_a_run_that_was_not_submitted_is_stopped_on_its_host(far: Host, program: Program, near: Path) -> None:
    background = far.start()
    try:
        run = far.run.name
        ended = program("stop", run, "--database", far.database.url, cwd=near)
        assert ended.code == 6
        assert re.fullmatch(rf"error: run {run} is on \S+: run `runbook stop {run}` there\n", ended.err)
    finally:
        background.kill()


def test_a_queued_run_is_taken_back(far: Host, program: Program, near: Path) -> None:
    submit(far.database, "run-1", options=json.dumps({"operator": "ada"}))
    ended = program("stop", "run-1", "--json", "--database", far.database.url, cwd=near)
    assert ended.code == 0, ended.err
    assert ended.document["run"]["verdict"] == "cancelled"
    assert far.database.rows("SELECT verdict FROM runbook.closings") == [("cancelled",)]


# --- fleet ----------------------------------------------------------------------------------------------------------


def test_the_fleet_from_anywhere(going: Relay, far: Host, program: Program, near: Path) -> None:
    submit(far.database, "run-1", label="gpu")
    worker = {"host": "far", "pid": 7, "folder": "/", "concurrency": 2, "version": "1", "operator": "o", "labels": []}
    put(far.database, "workers", **worker)
    where = ("--database", far.database.url)
    ended = program("fleet", "--json", *where, cwd=near)
    assert (ended.code, ended.err) == (0, "")
    (fleet,) = ended.document["fleets"]
    assert [item["run"] for item in fleet["running"]] == [going.run_id]
    assert fleet["queue"]["labels"][0]["cure"] == "runbook worker --label gpu"
    shown = program("fleet", *where, cwd=near)
    assert shown.code == 0
    for text in (
        going.run_id,
        "1 run waits for a worker with label `gpu`, and there is none",
        "start one with `runbook worker --label gpu`",
    ):
        assert text in shown.out, (text, shown.out)


def test_no_fleet_says_how_to_begin(program: Program, near: Path, database: Database) -> None:
    ended = program("fleet", cwd=near)
    assert (ended.code, ended.err) == (0, "")
    assert "runbook worker" in ended.out and "runbook submit FILE" in ended.out
    assert program("fleet", "--json", cwd=near).document == {"fleets": [], "problems": []}
    lost = program("fleet", "--json", "--database", "postgresql://nobody@127.0.0.1:1/none", cwd=near)
    assert (lost.code, lost.document["fleets"], len(lost.document["problems"])) == (6, [], 1)


def test_the_fleet_is_looked_at_again(going: Relay, beside: Callable[..., Background], near: Path) -> None:
    with open(near / "seen", "wb") as seen:
        watcher = beside("fleet", "--watch", "--json", stdout=seen)
    until(lambda: (near / "seen").read_bytes().count(b"\n") > 1)
    assert watcher.end(signal.SIGINT).code == 0
    for line in (near / "seen").read_text().splitlines():
        assert json.loads(line)["fleets"][0]["running"][0]["run"] == going.run_id


@pytest.mark.parametrize("which", ["fleet", "watch"])
def test_on_a_terminal(which: str, going: Relay, far: Host, near: Path) -> None:
    arguments = ["fleet", "--watch"] if which == "fleet" else ["watch", going.run_id]
    master, slave = pty.openpty()
    known = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    command = [sys.executable, "-m", "runbook", *arguments, "--database", far.database.url]
    process = subprocess.Popen(command, cwd=near, env=known, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    shown, deadline = b"", time.monotonic() + 30
    try:
        while going.run_id.encode() not in shown and time.monotonic() < deadline:
            if select.select([master], [], [], 0.2)[0]:
                shown += os.read(master, 65536)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        os.close(master)
    assert going.run_id.encode() in shown
