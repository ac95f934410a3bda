"""Notes that must not be lost or leak: run logs from other editors, pruned runs, secrets, servers that are away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.helpers import DB, Background, until
from tests.conftest import Database, Program

FLOW = "runbook: 1\nname: flow\n"
STEP = "steps:\n  go: {command: ['true']}\n"
AWAY = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


@pytest.fixture
def log(program: Program, write: Callable[..., Path]) -> Path:
    """The run log of a run without an audit."""
    write("flow.yaml", FLOW + STEP)
    return Path(program("exec", "flow.yaml", "--json").document["report"])


def by_hand(log: Path, text: str) -> None:
    log.write_text(log.read_text().replace("- None\n\n---", f"{text}\n\n---"))


def test_a_note_while_the_audit_is_pruned_leaves_it_sound(
    database: Database, program: Program, start: Callable[..., Background], write: Callable[..., Path]
) -> None:
    write("flow.yaml", FLOW + DB + STEP)
    env = {"DATABASE_URL": database.url}
    program("exec", "flow.yaml", env=env)
    with psycopg.connect(database.url) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(hashtext('runbook.closings'))")
        prune = start("prune", "--older-than", "0s", "--what", "audit", "--yes", env=env)
        until(lambda: database.value(WAITING) == 1)
        note = start("note", "last", "late", env=env)
        until(lambda: database.value(WAITING) == 2)
    assert (prune.end().code, note.end().code) == (0, 0)
    assert database.value("SELECT count(*) FROM runbook.events") == 0
    verified = program("audit", "verify", env=env)
    assert verified.code == 0, verified.out + verified.err


def test_nothing_is_added_to_a_pruned_run(database: Database, program: Program, write: Callable[..., Path]) -> None:
    write("flow.yaml", FLOW + DB + STEP)
    env = {"DATABASE_URL": database.url}
    log = Path(program("exec", "flow.yaml", "--json", env=env).document["report"])
    program("prune", "--older-than", "0s", "--what", "audit", "--yes", env=env)
    for number in (1, 2):
        ended = program("note", "last", f"late {number}", env=env)
        assert ended.code == 0 and "was pruned from the audit" in ended.err
        assert f"- late {number}" in log.read_text()
    assert database.value("SELECT count(*) FROM runbook.events") == 0
    assert database.value("SELECT count(*) FROM runbook.chain WHERE kind = 'added'") == 0
    assert program("recover", env=env).err == "nothing to recover\n"
    verified = program("audit", "verify", env=env)
    assert verified.code == 0, verified.out + verified.err


def test_a_run_log_in_another_encoding_is_kept(program: Program, log: Path) -> None:
    by_hand(log, "gr\u00fcn")
    raw = log.read_text().encode("latin-1")
    log.write_bytes(raw)
    ended = program("note", "last", "done")
    assert ended.code == 0 and "is kept in" in ended.err
    [aside] = log.parent.glob("*_edited_*.md")
    assert aside.read_bytes() == raw


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_of_another_system_change_nothing(program: Program, log: Path, mark: bytes) -> None:
    by_hand(log, "one\ntwo")
    log.write_bytes(mark + log.read_bytes().replace(b"\n", b"\r\n"))
    ended = program("note", "last", "done", "--json")
    assert ended.document["handwritten"] == "one\ntwo" and "kept in" not in ended.err
    assert "- done\n\none\ntwo\n\n---\n" in log.read_text() and not list(log.parent.glob("*_edited_*"))


def test_a_run_log_without_its_notes_empties_none(program: Program, log: Path) -> None:
    by_hand(log, "mine")
    program("note", "last", "first")
    log.write_text(log.read_text().replace("## Notes\n", "## Remarks\n"))
    ended = program("note", "last", "second", "--json")
    assert ended.document["handwritten"] == "mine" and "is kept in" in ended.err
    assert len(list(log.parent.glob("*_edited_*"))) == 1


def test_each_outside_edit_has_a_copy_of_its_own(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runbook.operate.notes import add_note
    from runbook.operate.reaching import Way

    monkeypatch.chdir(log.parent.parent)
    [folder] = (log.parent.parent / ".runbook" / "runs").iterdir()
    for number in range(3):
        log.write_text(log.read_text().replace("**passed**", f"**perfect {number}**"))
        add_note(folder, f"note {number}", Way())
    kept = sorted(path.read_text() for path in log.parent.glob("*_edited_*"))
    assert [f"**perfect {number}**" in text for number, text in enumerate(kept)] == [True] * 3


@pytest.mark.parametrize("elsewhere", [False, True])
def test_headings_and_fences_within_the_notes_stay(program: Program, log: Path, elsewhere: bool) -> None:
    hand = "before\n\n## My heading\n\n```yaml\n---\na: 1\n---\n```\n\nafter"
    by_hand(log, hand)
    if elsewhere:
        log.write_text(log.read_text().replace("**passed**", "**perfect**"))
    for number in (1, 2):
        ended = program("note", "last", f"note {number}", "--json")
        assert ended.document["handwritten"] == hand and ("kept in" in ended.err) == (elsewhere and number == 1)
    assert f"- note 1\n- note 2\n\n{hand}\n\n---\n\n## Verdict" in log.read_text()
    assert log.read_text().count("My heading") == 1


def test_secrets_are_masked_when_a_file_of_the_runbook_is_gone(
    database: Database, program: Program, write: Callable[..., Path]
) -> None:
    script = write("work.sql", "SELECT 1")
    secrets, check = "secrets:\n  key: {env: KEY}\n", "preflight:\n  one: {sql: {file: work.sql}}\n"
    write("flow.yaml", FLOW + DB + secrets + check + STEP)
    env = {"KEY": "hunter2hunter2", "DATABASE_URL": database.url}
    program("exec", "flow.yaml", env=env)
    script.unlink()
    ended = program("note", "last", "it was hunter2hunter2", "--json", env=env)
    assert ended.document["notes"] == ["it was ***"]


def test_no_note_where_the_secrets_are_not_known(program: Program, write: Callable[..., Path]) -> None:
    shared = write("shared.yaml", "secrets:\n  key: {env: KEY}\n")
    write("flow.yaml", FLOW + "include: shared.yaml\n" + STEP)
    env = {"KEY": "hunter2hunter2"}
    program("exec", "flow.yaml", env=env)
    assert program("note", "last", "it was hunter2hunter2", "--json", env=env).document["notes"] == ["it was ***"]
    shared.unlink()
    ended = program("note", "last", "it was hunter2hunter2", env=env)
    assert ended.code == 6 and "which secrets to mask" in ended.err and "shared.yaml" in ended.err


def test_the_run_log_has_the_note_while_the_audit_is_away(
    database: Database, program: Program, write: Callable[..., Path]
) -> None:
    write("flow.yaml", FLOW + DB + STEP)
    log = Path(program("exec", "flow.yaml", "--json", env={"DATABASE_URL": database.url}).document["report"])
    assert program("note", "last", "seen", env=AWAY).code == 6
    assert "- seen" in log.read_text()


def test_a_note_makes_no_database(
    database: Database, program: Program, write: Callable[..., Path], tmp_path: Path
) -> None:
    write("seed.sql", "CREATE TABLE items (n integer)")
    write("flow.yaml", FLOW + DB.replace("}", ", embedded: [seed.sql]}") + STEP)
    assert program("exec", "flow.yaml", env={"DATABASE_URL": database.url}).code == 0
    ended = program("note", "last", "seen")
    assert ended.code == 6 and "set DATABASE_URL or pass --database db=URL" in ended.err
    assert not (tmp_path / ".runbook" / "embedded").exists()
    assert program("recover", env={"DATABASE_URL": database.url}).code == 0
