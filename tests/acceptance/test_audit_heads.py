"""Heads from outside: which audit they are of, and what of a run's log or of an earlier audit is none of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runbook.language.values import dumps, loads
from runbook.operate.anchors import from_disk
from runbook.records.chain import moment
from tests.acceptance.helpers import DB, HEAD, ITEMS
from tests.conftest import Database, Ended, Program

STEP = "steps: {go: {command: ['true']}}\n"
EMBEDDED = "connections:\n  db: {type: postgres, env: NOWHERE_URL, embedded: []}\n"
Ask = Callable[..., Ended]


@pytest.fixture
def ask(database: Database, program: Program, write: Callable[..., Path]) -> Ask:
    """The program with the server at hand, and one run."""
    database.run(ITEMS)
    write("small.yaml", HEAD + DB + STEP)

    def ask(*arguments: str, **env: str) -> Ended:
        return program(*arguments, env={"DATABASE_URL": database.url, **env})

    assert ask("exec", "small.yaml").code == 0
    return ask


def logs(tmp_path: Path) -> list[str]:
    return sorted(str(path) for path in (tmp_path / "logs").glob("*.md"))


def test_logs_that_are_none_of_the_audit(ask: Ask, tmp_path: Path, write: Callable[..., Path]) -> None:
    """Of a rehearsal, of another database, of a run without an audit, and what is no run log at all."""
    (own,) = logs(tmp_path)
    assert ask("exec", "small.yaml", "--rehearse").code == 0
    text = Path(own).read_text()
    other = text.replace("- connection db: `", "- connection db: `other_").replace("- run: `2", "- run: `1")
    write("logs/elsewhere.md", other)
    write("logs/thrown_away.md", text.replace(" on ", "_tmp_0123abcd on "))
    write("logs/plain.md", "# Words\n")
    ended = ask("audit", "verify", "--no-journals", *logs(tmp_path))
    assert ended.code == 0, ended.err
    assert ended.err.count("skipped 4 of 5 run logs") == 1
    for other in logs(tmp_path):
        ended = ask("audit", "verify", "--no-journals", other)
        assert ended.code == (0 if other == own else 6), (other, ended.err)
    ask("audit", "export", "-o", "audit.jsonl")
    assert ask("audit", "verify", "--no-journals", "--file", "audit.jsonl", *logs(tmp_path)).code == 0
    lines = [line if "head `" not in line else f"- audit: confirmed, head `{'0' * 63}1`" for line in text.splitlines()]
    write("logs/forged.md", "\n".join(lines))
    assert ask("audit", "verify", "--no-journals", *logs(tmp_path)).code == 1


def test_one_of_several_audits_is_chosen(ask: Ask, tmp_path: Path, write: Callable[..., Path]) -> None:
    """By its database's name, or by what a run log says; one server has two embedded databases, another one's is here too."""
    for name in ("one", "two"):
        write(f"{name}.yaml", f"runbook: 1\nname: {name}\n{EMBEDDED}{STEP}")
        assert ask("exec", f"{name}.yaml").code == 0
    ended = ask("audit", "verify", "--no-journals", *logs(tmp_path), "--json")
    assert ended.code == 0, ended.err
    found = ended.document["audits"]
    assert [audit["counts"]["anchors"] for audit in found] == [1, 1, 1]
    ended = ask("audit", "export")
    assert ended.code == 2 and "--database" in ended.err
    name = next(audit["audit"] for audit in found if audit["audit"].startswith("two_")).split(" on ")[0]
    head = next(audit["head"] for audit in found if audit["audit"].startswith("two_"))
    ended = ask("audit", "verify", "--no-journals", "--head", head, "--database", name)
    assert ended.code == 0, ended.err
    assert ask("audit", "export", "--database", name).code == 0
    ended = ask("audit", "export", "--database", "three")
    assert ended.code == 6 and name in ended.err and "no audit in a database `three`" in ended.err
    assert ask("history", "--json", "--database", name).document["sources"][0].startswith(f"the audit in {name} on")


def test_an_audit_that_was_begun_anew_is_one_finding(ask: Ask, database: Database, tmp_path: Path) -> None:
    ask("exec", "small.yaml")
    ask("note", "last", "of old")
    database.run("DROP SCHEMA runbook CASCADE")
    assert ask("exec", "small.yaml").code == 0
    ended = ask("audit", "verify", "--json")
    assert ended.code == 1
    (finding,) = ended.document["audits"][0]["findings"]
    assert "begun anew at" in finding["what"] and "2 earlier runs" in finding["what"]
    newest = sorted((tmp_path / ".runbook" / "runs").iterdir())[-1]
    for folder in (tmp_path / ".runbook" / "runs").iterdir():
        if folder != newest:
            shutil.rmtree(folder)
    assert ask("audit", "verify").code == 0


def test_every_head_that_pruning_left_is_looked_for(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of before have one head; what cannot be read hides no other line."""
    monkeypatch.chdir(tmp_path)
    ended = ask("audit", "verify", "--json").document["audits"][0]
    kept = {"id": "r", "audit": ended["audit"], "head": "a" * 64, "finished_at": "2026-01-01T00:00:00+00:00"}
    lines = [
        "no json",
        dumps({**kept, "audit": None}),
        dumps(kept),
        dumps({**kept, "heads": ["a" * 64, "b" * 64], "at": moment("2026-02-01T00:00:00+00:00")}),
    ]
    (tmp_path / ".runbook" / "pruned.jsonl").write_text("".join(f"{line}\n" for line in lines))
    found = [anchor for anchor in from_disk(ended["audit"]) if anchor.run == "r"]
    assert [(anchor.head[0], anchor.later) for anchor in found] == [("a", False), ("a", False), ("b", True)]
    assert loads(lines[2])["head"] == found[0].head
