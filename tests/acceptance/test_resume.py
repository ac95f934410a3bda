"""Going on with a run that did not come to its end: nothing runs twice without consent, and the hypothesis stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.helpers import DB, HEAD, ITEMS, Background
from tests.conftest import Database, Program

BODY = """\
params: {n: {type: integer, default: 2}}
state: {items: {sql: SELECT count(*) AS total FROM items}}
preflight:
  there: {sql: SELECT count(*) FROM items, returns: value}
expectations: {items.total: {delta: 6}}
steps:
  first: {shell: "echo first >> did; psql -qc 'INSERT INTO items SELECT generate_series(1, 2)'"}
  second: {shell: "echo second >> did; psql -qc 'INSERT INTO items SELECT generate_series(1, 2)'; test -e go || sleep 300"}
  third: {sql: "INSERT INTO items SELECT generate_series(1, {{ params.n }})"}
"""


@pytest.fixture
def lost(database: Database, write: Callable[..., Path], start: Callable[..., Background]) -> str:
    """A run whose runner was killed in its second step; its id."""
    database.run(ITEMS)
    write("small.yaml", HEAD + DB + BODY)
    background = start("exec", "small.yaml", env={"DATABASE_URL": database.url})
    background.reached('"step": "second"')
    (background.folder / "did").exists()
    while database.value("SELECT count(*) FROM items") < 4:
        pass
    background.process.kill()
    background.process.wait()
    write("go", "")
    return next(background.folder.glob(".runbook/runs/*")).name


@pytest.fixture
def resume(lost: str, database: Database, program: Program) -> Callable[..., Any]:
    def resume(*arguments: str) -> Any:
        return program("exec", "--resume", lost, *arguments, env={"DATABASE_URL": database.url})

    return resume


def test_without_consent_nothing_is_started(resume: Callable[..., Any], tmp_path: Path) -> None:
    refused = resume()
    assert refused.code == 2 and "--yes" in refused.err
    assert (tmp_path / "did").read_text() == "first\nsecond\n"


def test_what_passed_is_not_run_again_and_the_prediction_stands(
    resume: Callable[..., Any], lost: str, tmp_path: Path, database: Database
) -> None:
    done = resume("--yes", "--json")
    record = done.document
    assert (tmp_path / "did").read_text() == "first\nsecond\nsecond\n"
    assert record["steps"]["first"]["verdict"] == "skipped" and lost in record["steps"]["first"]["because"]
    assert record["resumed"] == {
        "run": lost,
        "done": ["first"],
        "again": ["second"],
        "forced": "",
        "state": {"items": {"total": 4}},
    }
    assert record["before"] == {"items": {"total": 0}} and record["after"] == {"items": {"total": 8}}
    assert done.code == 1 and record["expectations"]["items.total"]["actual"] == 8, "the second step did its work twice"
    text = Path(record["report"]).read_text()
    assert "## Resumed" in text and "run again by consent: second" in text
    verdicts = database.rows("SELECT verdict FROM runbook.closings ORDER BY number")
    assert verdicts == [("lost",), ("refuted",)]


def test_it_shows_what_was_done_before_it_asks(resume: Callable[..., Any]) -> None:
    assert "resumed items: total 4" in resume("--yes").err


def test_a_changed_runbook_is_refused_unless_forced_and_that_is_recorded(
    resume: Callable[..., Any], write: Callable[..., Path]
) -> None:
    write("small.yaml", HEAD + DB + BODY + "# changed\n")
    refused = resume("--yes")
    assert refused.code == 5 and "runbook file was sha256" in refused.err and "--force" in refused.err
    assert "runbook file" in resume("--yes", "--force", "--json").document["resumed"]["forced"]


def test_other_params_are_refused(resume: Callable[..., Any]) -> None:
    refused = resume("--yes", "-p", "n=3")
    assert refused.code == 5 and "param n was 2, is 3" in refused.err


def test_a_run_that_came_to_its_end_is_not_resumed(
    database: Database, program: Program, write: Callable[..., Path]
) -> None:
    write("small.yaml", HEAD + DB + "steps: {a: {command: ['true']}}\n")
    env = {"DATABASE_URL": database.url}
    assert program("exec", "small.yaml", env=env).code == 0
    refused = program("exec", "--resume", "last", "--yes", env=env)
    assert refused.code == 5 and "came to its end: passed" in refused.err


def test_a_living_run_is_not_resumed(
    database: Database, program: Program, write: Callable[..., Path], start: Callable[..., Background]
) -> None:
    write("small.yaml", HEAD + DB + "steps: {a: {shell: sleep 300}}\n")
    start("exec", "small.yaml", env={"DATABASE_URL": database.url}).reached("process.started")
    assert program("exec", "--resume", "last", "--yes", env={"DATABASE_URL": database.url}).code == 7


def test_a_resumed_run_can_be_resumed(
    resume: Callable[..., Any], tmp_path: Path, database: Database, program: Program
) -> None:
    (tmp_path / "small.yaml").write_text(
        (tmp_path / "small.yaml").read_text().replace("test -e go", "test -e go && exit 3")
    )
    assert resume("--yes", "--force").code == 4
    last = program("exec", "--resume", "last", "--yes", "--json", env={"DATABASE_URL": database.url})
    assert last.document["resumed"]["done"] == ["first"] and last.document["resumed"]["again"] == ["second"]
    assert (tmp_path / "did").read_text().count("first") == 1


def test_which_file_must_be_said_without_resume(program: Program) -> None:
    ended = program("exec")
    assert ended.code == 2 and "FILE" in ended.err


@pytest.mark.parametrize("command", ["status", "recover"])
def test_a_run_that_was_closed_as_lost_keeps_its_predictions(
    command: str, resume: Callable[..., Any], program: Program, database: Database
) -> None:
    assert program(command, env={"DATABASE_URL": database.url}).code == 0
    done = resume("--yes", "--json")
    assert done.document["expectations"]["items.total"]["predicted"] == 6
    assert (done.code, done.document["expectations"]["items.total"]["actual"]) == (1, 8)


def test_a_run_has_one_successor(resume: Callable[..., Any], tmp_path: Path) -> None:
    first = resume("--yes", "--json").document["run"]["id"]
    refused = resume("--yes")
    assert refused.code == 5 and f"gone on with by {first}" in refused.err
    assert (tmp_path / "did").read_text().count("second") == 2


def test_a_rehearsal_is_not_resumed(database: Database, program: Program, write: Callable[..., Path]) -> None:
    write("small.yaml", HEAD + DB + "steps: {a: {shell: exit 3}}\n")
    env = {"DATABASE_URL": database.url}
    assert program("exec", "small.yaml", "--rehearse", env=env).code == 4
    refused = program("exec", "--resume", "last", "--yes", env=env)
    assert refused.code == 5 and "was a rehearsal" in refused.err
