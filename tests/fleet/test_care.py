"""What must not happen to a submitted run: other params, other secrets, other locks, more at a time than was said."""

from __future__ import annotations

import json
import os
import threading
import time

import psycopg
import pytest

from runbook.database.connect import connect
from runbook.fleet import turns
from runbook.fleet.adopt import Here, conclude_unbegun, copy_journal
from runbook.fleet.rescue import Rescue
from runbook.operate.runs import record_of
from tests.acceptance.helpers import until
from tests.fleet.parts import SWEEP, Fleet
from tests.fleet.test_rescue import AGAIN, children

PARAMS = "params: {ids: {type: array, default: []}, "
LIST = SWEEP.replace("params: {", PARAMS, 1).replace(
    "FROM generate_series(1, {{ params.n }})", "FROM unnest({{ params.ids }}::int[])"
)
OBJECT = SWEEP.replace("pause: {type: number", "o: {type: object, default: {}}, pause: {type: number").replace(
    "sweep-{{ params.n }}", "sweep-{{ params.o }}"
)


def test_params_of_any_length_arrive_whole(fleet: Fleet) -> None:
    fleet.write(LIST.replace("delta: params.n", "delta: params.ids | length"))
    (fleet.folder / "params.yaml").write_text(json.dumps({"ids": list(range(1500))}))
    ended = fleet.call("submit", "sweep", "--params-file", "params.yaml")
    assert ended.code == 0, ended.err
    fleet.work()
    assert fleet.value("SELECT count(*) FROM items") == 1500


def test_a_mapping_keeps_its_order_and_the_lock_its_name(fleet: Fleet) -> None:
    fleet.write(OBJECT)
    (run,) = fleet.submit("-p", "o={long: 1.5, b: -0.0, a: 2}")
    fleet.work()
    assert fleet.verdict(run) == "passed"
    submitted = fleet.value("SELECT lock FROM runbook_fleet.submissions")
    assert fleet.value("SELECT lock FROM runbook.runs") == submitted
    assert "-0.0" in submitted
    assert submitted.index("long") < submitted.index('"b"') < submitted.index('"a"')


def test_no_password_is_stored_with_a_submission(fleet: Fleet) -> None:
    url = fleet.database.url.replace("@", ":pw4711pw@", 1)
    ended = fleet.call("submit", "sweep", "--database", url)
    assert ended.code == 0, ended.err
    assert "pw4711pw" not in ended.err
    fleet.work()
    stored = "SELECT string_agg(s::text, '') || (SELECT string_agg(e::text, '') FROM runbook.events e)"
    stored += " FROM runbook_fleet.submissions s"
    assert "pw4711pw" not in fleet.value(stored)


def test_a_label_that_no_worker_has_holds_up_no_other_run_with_its_lock(fleet: Fleet) -> None:
    (held,) = fleet.submit("--label", "gpu")
    (free,) = fleet.submit()
    fleet.work()
    assert [fleet.verdict(held), fleet.verdict(free)] == [None, "passed"]


@pytest.mark.parametrize("label", ["two words", "x" * 33, "a/b"])
def test_a_label_that_cannot_be_one_is_a_usage_error(fleet: Fleet, label: str) -> None:
    assert fleet.call("submit", "sweep", "--label", label).code == 2
    assert fleet.call("worker", "--label", label).code == 2


def test_no_more_runs_at_a_time_than_said_after_a_lost_connection(fleet: Fleet) -> None:
    runs = fleet.submit("--matrix", "n=1,2,3", "-p", "pause=3")
    worker = fleet.worker()
    until(lambda: fleet.running(runs[0]))
    fleet.database.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'runbook worker'"
    )
    most = 0
    while not all(map(fleet.verdict, runs)):
        most = max(most, len(children(worker)))
        time.sleep(0.1)
    assert most == 1
    assert fleet.verdicts(runs) == ["passed"] * 3


def test_a_worker_that_ends_when_nothing_waits_does_again_what_was_lost(fleet: Fleet) -> None:
    fleet.write(AGAIN)
    (run,) = fleet.submit("-p", "pause=2")
    worker = fleet.worker("--until-empty")
    until(lambda: fleet.running(run))
    children(worker)[0].kill()
    ended = worker.end()
    assert ended.code == 0, ended.err
    assert fleet.database.rows("SELECT verdict FROM runbook.closings ORDER BY run_id") == [("lost",), ("passed",)]


def test_a_start_that_was_given_up_closes_nothing(fleet: Fleet) -> None:
    """Whoever concludes a run that never began does so for its own start alone."""
    (run,) = fleet.submit()
    here = Here(fleet.database.url, fleet.folder / ".runbook", {})
    with connect(fleet.database.url, "test") as connection:
        turn = turns.claim(connection, run, None)
        assert turn is not None
        assert turns.requeue(connection, turn, "it was silent", 0, failed=True)
        conclude_unbegun(connection, here, turn, "errored", "too late")
    assert fleet.verdict(run) is None
    assert record_of(here.folder(run))["run"]["audit"] == "superseded"
    fleet.worker(folder=fleet.folder / "elsewhere")
    assert fleet.verdicts([run]) == ["passed"]


def test_a_start_is_not_given_back_once_it_has_begun(fleet: Fleet) -> None:
    """The run's row is being written at the very moment at which somebody wants to start it again."""
    (run,) = fleet.submit()
    with connect(fleet.database.url, "test") as connection, psycopg.connect(fleet.database.url) as beginning:
        turn = turns.claim(connection, run, None)
        assert turn is not None
        beginning.execute("SELECT FROM runbook_fleet.turns FOR SHARE")
        beginning.execute(
            "INSERT INTO runbook.runs VALUES (%s, 's', 's', 'l', 'o', 'r', 'h', 1, now(), 1, 'x', '{}')", [run]
        )
        answers: list[bool] = []
        thread = threading.Thread(target=lambda: answers.append(turns.requeue(connection, turn, "x", 0, failed=True)))
        thread.start()
        time.sleep(0.5)
        beginning.commit()
        thread.join()
    assert answers == [False]


def test_a_copied_journal_is_the_audits_or_none(fleet: Fleet) -> None:
    (run,) = fleet.submit("-p", "n=2")
    fleet.work()
    here = Here(fleet.database.url, fleet.folder / "copy" / ".runbook", {})
    here.project.mkdir(parents=True)
    with connect(fleet.database.url, "test") as connection:
        copy_journal(connection, here, run)
    copied = (here.folder(run) / "journal.jsonl").read_bytes()
    own = (fleet.folder / ".runbook" / "runs" / run / "journal.jsonl").read_bytes()
    assert own.startswith(copied)
    assert b'"run.finished"' in copied
    assert not list((here.project / "aside").iterdir())


def test_a_run_that_could_not_be_withdrawn_is_not_executed(fleet: Fleet) -> None:
    """Who withdraws it dies before it is closed: whoever takes it next heeds the wish."""
    (run,) = fleet.submit()
    with connect(fleet.database.url, "test") as connection:
        turns.ask_to_end(connection, run, "Ada")
        assert turns.claim(connection, run, None)
    fleet.database.run("UPDATE runbook_fleet.turns SET seen_at = now() - interval '1 hour'")
    fleet.worker()
    assert fleet.verdicts([run]) == ["cancelled"]
    assert fleet.value("SELECT count(*) FROM items") == 0


def test_what_a_rescue_left_unfinished_is_finished_by_the_next(fleet: Fleet) -> None:
    """A copy that was concluded here while the run's own host closed it, and a mark of a start that left nothing."""
    (run,) = fleet.submit()
    fleet.work()
    here = Here(fleet.database.url, fleet.folder / "other" / ".runbook", {})
    (here.project / "open").mkdir(parents=True)
    with connect(fleet.database.url, "test") as connection:
        copy_journal(connection, here, run)
        journal = here.folder(run) / "journal.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join(lines[:-1]))
        mark = here.project / "open" / "20261123_000000-000-0000"
        mark.touch()
        os.utime(mark, (0, 0))
        list(Rescue(here).look_after(connection))
    assert not list((here.project / "open").iterdir())
    assert record_of(here.folder(run))["run"]["audit"] == "superseded"
    assert fleet.verdict(run) == "passed"


def test_a_start_finds_room_where_an_earlier_one_left_its_folder(fleet: Fleet) -> None:
    (run,) = fleet.submit()
    left = fleet.folder / ".runbook" / "runs" / run
    left.mkdir(parents=True)
    (left / "journal.jsonl").touch()
    fleet.work()
    assert fleet.verdict(run) == "passed"
