"""Notes on finished runs: in the journal, the audit and the run log; what a person wrote by hand stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.acceptance.helpers import DB, Background
from tests.conftest import Database, Program

FLOW = "runbook: 1\nname: flow\n"
STEP = "steps:\n  go: {command: ['true']}\n"


def test_a_note_is_added_everywhere(database: Database, program: Program, write: Callable[..., Path]) -> None:
    write("flow.yaml", FLOW + DB + STEP)
    env = {"DATABASE_URL": database.url}
    record = program("exec", "flow.yaml", "--note", "first", "--json", env=env).document
    log = Path(record["report"])
    before = log.read_text()
    ended = program("note", "last", "it was | cold", "--json", env=env)
    assert ended.code == 0, ended.err
    assert ended.document["notes"] == ["first", "it was | cold"]
    assert log.read_text() == before.replace("- first\n", "- first\n- it was \\| cold\n")
    assert program("show", "last", env=env).out == log.read_text()
    assert oct(log.stat().st_mode)[-3:] == "600"
    assert database.value("SELECT count(*) FROM runbook.events WHERE kind = 'note.added'") == 1
    assert program("audit", "verify", str(log), env=env).code == 0
    program("note", "last", "again", env=env)
    assert program("audit", "verify", str(log), env=env).code == 0
    assert database.rows("SELECT kind FROM runbook.chain ORDER BY number") == [
        ("opened",),
        ("closed",),
        ("added",),
        ("added",),
    ]


def test_what_was_written_by_hand_is_kept(program: Program, write: Callable[..., Path]) -> None:
    write("flow.yaml", FLOW + STEP)
    record = program("exec", "flow.yaml", "--json").document
    log = Path(record["report"])
    hand = "**Looked** at it:\n\n- [x] the disk\n| a | b |"
    log.write_text(log.read_text().replace("- None\n\n---", f"{hand}\n\n---"))
    found = program("note", "last", "done", "--json").document
    assert (found["notes"], found["handwritten"]) == (["done"], hand)
    assert f"## Notes\n- done\n\n{hand}\n\n---\n" in log.read_text()
    log.write_text(log.read_text().replace("the disk", "the disks"))
    found = program("note", "last", "more", "--json").document
    assert found["handwritten"] == hand.replace("the disk", "the disks")
    assert f"## Notes\n- done\n- more\n\n{found['handwritten']}\n\n---\n" in log.read_text()
    assert program("show", "last").out == log.read_text()


def test_what_was_changed_elsewhere_in_the_run_log_is_set_aside(program: Program, write: Callable[..., Path]) -> None:
    write("flow.yaml", FLOW + STEP)
    log = Path(program("exec", "flow.yaml", "--json").document["report"])
    true = log.read_text()
    log.write_text(true.replace("**passed**", "**perfect**"))
    ended = program("note", "last", "done")
    assert ended.code == 0 and "it is kept in" in ended.err
    assert "**perfect**" not in log.read_text() and "- done" in log.read_text()
    [aside] = log.parent.glob("*_edited_*.md")
    assert "**perfect**" in aside.read_text()


def test_an_audit_that_is_away_gets_the_note_later(
    database: Database, program: Program, write: Callable[..., Path]
) -> None:
    write("flow.yaml", FLOW + DB + STEP)
    env, away = {"DATABASE_URL": database.url}, {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    program("exec", "flow.yaml", env=env)
    ended = program("note", "last", "later", env=away)
    assert ended.code == 6 and "the audit is not complete" in ended.err
    assert database.value("SELECT count(*) FROM runbook.chain WHERE kind = 'added'") == 0
    assert program("recover", env=env).code == 0
    assert database.value("SELECT count(*) FROM runbook.chain WHERE kind = 'added'") == 1
    assert program("recover", env=env).err == "nothing to recover\n"
    assert program("audit", "verify", env=env).code == 0


def test_secrets_are_masked(program: Program, write: Callable[..., Path]) -> None:
    write("flow.yaml", FLOW + "secrets:\n  key: {env: KEY}\n" + STEP)
    env = {"KEY": "hunter2hunter2"}
    program("exec", "flow.yaml", env=env)
    assert program("note", "last", "it was hunter2hunter2", "--json", env=env).document["notes"] == ["it was ***"]


def test_a_run_that_goes_on_takes_no_note(
    start: Callable[..., Background], program: Program, write: Callable[..., Path]
) -> None:
    write("flow.yaml", FLOW + "steps:\n  go: {command: [sleep, '60']}\n")
    running = start("exec", "flow.yaml")
    running.reached("step.started")
    ended = program("note", "last", "now")
    assert ended.code == 6 and "goes on" in ended.err


def test_usage(program: Program) -> None:
    assert program("note", "last", " ").code == 2
    assert program("note", "last", "x").code == 6
