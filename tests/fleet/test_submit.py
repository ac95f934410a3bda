"""Submitting: what is stored, what is refused, and that a worker executes just that."""

from __future__ import annotations

import json
from pathlib import Path

from runbook.language.load import load
from tests.acceptance.helpers import Background, until
from tests.fleet.parts import SWEEP, Fleet


def test_a_submitted_run_is_executed_as_exec_does_it(fleet: Fleet) -> None:
    (run,) = fleet.submit("-p", "n=3", "--note", "by the queue", "--operator", "Ada")
    assert fleet.value("SELECT state FROM runbook_fleet.turns") == "queued"
    fleet.work()
    assert fleet.value("SELECT count(*) FROM items WHERE n = 3") == 3
    record = fleet.call("show", run, "--json").document
    assert record["run"]["verdict"] == "passed"
    assert record["run"]["operator"] == "Ada"
    assert record["notes"] == ["by the queue"] or "by the queue" in json.dumps(record["notes"])
    told = record["circumstances"]["submitted"]
    assert (told["by"], told["attempt"], told["earlier"], told["experiment"]) == ("Ada", 1, None, "")
    assert Path(record["report"]).is_file()
    assert fleet.value("SELECT state FROM runbook_fleet.turns") == "over"
    assert fleet.value("SELECT count(*) FROM runbook_fleet.procrastinate_jobs") == 0
    assert fleet.call("audit", "verify").code == 0


def test_a_matrix_makes_a_run_for_each_combination(fleet: Fleet) -> None:
    runs = fleet.submit("--matrix", "n=1,2,3", "--matrix", "pause=0,0.1")
    assert len(runs) == 6
    fleet.work("-c", "3")
    assert fleet.verdicts(runs) == ["passed"] * 6
    assert fleet.database.rows("SELECT n, count(*) FROM items GROUP BY n ORDER BY n") == [(1, 2), (2, 4), (3, 6)]
    assert fleet.value("SELECT count(DISTINCT experiment) FROM runbook_fleet.submissions") == 1


def test_a_matrix_is_submitted_whole_or_not_at_all(fleet: Fleet) -> None:
    ended = fleet.call("submit", "sweep", "--matrix", "n=1,2,three")
    assert ended.code == 5, ended.err
    assert "`n`" in ended.err
    assert fleet.value("SELECT count(*) FROM runbook_fleet.submissions", 0) == 0


def test_what_cannot_be_meant_is_refused(fleet: Fleet) -> None:
    for arguments, code, said in (
        (["--matrix", "n"], 2, "--matrix NAME=A,B,C"),
        (["--matrix", "n=1", "-p", "n=2"], 2, "given twice"),
        (["--matrix", "m=1"], 5, "there is no param `m`"),
        (["--at", "soon"], 2, "write 2026"),
        (["--override", "nothing", "--reason", "x"], 2, "no such preflight check"),
        (["--matrix", "n=" + ",".join(map(str, range(200))), "--matrix", f"pause={','.join(['0'] * 99)}"], 2, "19800"),
    ):
        ended = fleet.call("submit", "sweep", *arguments)
        assert (ended.code, said in ended.err) == (code, True), (arguments, ended)


def test_a_runbook_without_an_audit_cannot_be_submitted(fleet: Fleet) -> None:
    fleet.write("runbook: 1\nname: sweep\nsteps: {go: {command: ['true']}}\n")
    ended = fleet.call("submit", "sweep")
    assert ended.code == 5
    assert "has none" in ended.err


def test_what_runs_is_what_was_submitted(fleet: Fleet) -> None:
    """Neither the runbook's text nor an included file that changes later is met by the run."""
    part = fleet.folder / "runbooks" / "part.yaml"
    part.write_text("preflight: {one: {sql: SELECT 1 AS one, expect: result | length == 1}}\n")
    fleet.write(SWEEP.replace("name: sweep", "name: sweep\ninclude: part.yaml"))
    before = load(fleet.folder / "runbooks" / "sweep.yaml").sha256
    (run,) = fleet.submit()
    part.write_text("preflight: {two: {sql: SELECT 2 AS two, expect: result | length == 1}}\n")
    fleet.write(SWEEP.replace("delta: params.n", "delta: 99"))
    fleet.work()
    record = fleet.call("show", run, "--json").document
    assert record["run"]["verdict"] == "passed"
    assert record["circumstances"]["versions"]["runbook file"] == f"sha256 {before}"
    assert list(record["preflight"]) == ["one"]


def test_a_worker_elsewhere_needs_no_runbook(fleet: Fleet) -> None:
    (run,) = fleet.submit("-p", "n=2")
    fleet.worker(folder=fleet.folder / "elsewhere", env={"DATABASE_URL": ""})
    assert fleet.verdicts([run]) == ["passed"]
    assert (fleet.folder / "elsewhere" / ".runbook" / "runs" / run / "journal.jsonl").is_file()


def test_a_protected_connection_wants_consent_when_it_is_submitted(fleet: Fleet) -> None:
    fleet.write(SWEEP.replace("env: DATABASE_URL}", "env: DATABASE_URL, protected: true}"))
    refused = fleet.call("submit", "sweep")
    assert refused.code == 2
    assert "--yes" in refused.err
    (run,) = fleet.submit("--yes")
    fleet.work()
    assert fleet.verdict(run) == "passed"


def test_a_secret_is_not_stored_in_a_submission(fleet: Fleet) -> None:
    fleet.write(SWEEP.replace("name: sweep", "name: sweep\nsecrets: {token: {env: TOKEN}}"))
    fleet.env["TOKEN"] = "hunter2hunter2"
    ended = fleet.call("submit", "sweep", "--note", "the token is hunter2hunter2")
    assert ended.code == 5
    assert "hunter2" not in ended.err
    assert fleet.value("SELECT count(*) FROM runbook_fleet.submissions", 0) == 0


def test_a_run_for_later_waits_for_its_time_and_holds_up_nobody(fleet: Fleet) -> None:
    (later,) = fleet.submit("--at", "in 3s")
    (now,) = fleet.submit()
    fleet.worker("-c", "2")
    assert fleet.verdicts([now, later]) == ["passed", "passed"]
    rows = fleet.database.rows(
        "SELECT r.started_at >= s.due_at FROM runbook.runs r JOIN runbook_fleet.submissions s USING (run_id)"
        f" WHERE run_id = '{later}'"
    )
    assert rows == [(True,)]


def test_only_a_worker_with_its_label_takes_a_run(fleet: Fleet) -> None:
    (labelled,) = fleet.submit("--label", "gpu")
    (plain,) = fleet.submit("-p", "n=2")
    fleet.work()
    assert [fleet.verdict(labelled), fleet.verdict(plain)] == [None, "passed"]
    fleet.work("--label", "gpu")
    assert fleet.verdict(labelled) == "passed"


def test_runs_with_the_same_lock_never_overlap(fleet: Fleet) -> None:
    fleet.write(SWEEP.replace("sweep-{{ params.n }}", "one at a time"))
    runs = fleet.submit("--matrix", "n=1,2,3", "-p", "pause=0.3")
    fleet.work("-c", "3")
    assert fleet.verdicts(runs) == ["passed"] * 3
    overlaps = """
        SELECT count(*) FROM runbook.closings a JOIN runbook.closings b ON a.run_id < b.run_id
        WHERE (a.started_at, a.finished_at) OVERLAPS (b.started_at, b.finished_at)"""
    assert fleet.value(overlaps) == 0


def test_a_run_whose_lock_somebody_else_has_waits_for_it(fleet: Fleet) -> None:
    holder = Background(fleet.folder, "exec", "sweep", "-p", "pause=4", env=fleet.env)
    holder.reached('"step.started"')
    (run,) = fleet.submit()
    ended = fleet.work()
    assert "waits" in ended.err
    assert fleet.verdict(run) == "passed"
    assert holder.end().code == 0


def test_waiting_for_the_end_gives_its_exit_code(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    good = fleet.call("submit", "sweep", "--wait")
    assert (good.code, "passed" in good.err) == (0, True)
    bad = fleet.call("submit", "sweep", "--matrix", "fail=true,false", "-p", "n=2", "--wait")
    assert bad.code == 4
    assert "failed" in bad.err


def test_a_run_that_cannot_begin_ends_with_a_verdict_and_a_run_log(fleet: Fleet) -> None:
    fleet.write(SWEEP.replace("name: sweep", "name: sweep\nsecrets: {token: {env: TOKEN}}"))
    (run,) = fleet.submit()
    fleet.worker()
    assert fleet.verdicts([run]) == ["errored"]
    record = fleet.call("show", run, "--json").document
    assert "TOKEN" in record["run"]["because"]
    assert Path(until(lambda: fleet.call("show", run, "--json").document["report"])).is_file()
    assert fleet.call("audit", "verify").code == 0
