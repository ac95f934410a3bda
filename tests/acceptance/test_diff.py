"""`runbook diff`: what differs between two runs, for people and as a document."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.helpers import DB, HEAD, ITEMS, NO_AUDIT, STATE
from tests.conftest import ROOT, Database, Program

BODY = f"""\
{DB}{NO_AUDIT}{STATE}
params: {{n: {{type: integer, default: 3}}, word: {{type: string, default: plain}}}}
preflight:
  kinds:
    sql: SELECT n % 2 AS odd, count(*) FROM items GROUP BY 1 ORDER BY 1
  said: {{sql: "SELECT {{{{ params.word }}}}::text", returns: value}}
expectations:
  items.total: {{delta: params.n}}
steps:
  add: {{sql: "INSERT INTO items SELECT generate_series(1, {{{{ params.n }}}})"}}
"""


@pytest.fixture
def runs(database: Database, program: Program, write: Callable[..., Path]) -> list[str]:
    """Two runs of one runbook: another param, another text, and what the first has left behind."""
    database.run(ITEMS)
    env, found = {"DATABASE_URL": database.url}, []
    for text, arguments in ((BODY, ()), (BODY.replace("ORDER BY 1", "ORDER BY 2"), ("-p", "n=4"))):
        write("small.yaml", HEAD + text)
        ended = program("exec", "small.yaml", "--json", *arguments, env=env)
        assert ended.code == 0, ended.err
        found.append(ended.document["run"]["id"])
    return found


def told(document: dict[str, Any]) -> dict[tuple[str, str], tuple[Any, Any]]:
    return {(item["section"], item["what"]): (item["left"], item["right"]) for item in document["differences"]}


def test_a_document_of_what_differs_and_only_that(runs: list[str], program: Program) -> None:
    ended = program("diff", *runs, "--json")
    document = ended.document
    assert ended.code == 0 and ended.err == "" and document["problems"] == []
    assert [run["id"] for run in document["runs"]] == runs
    assert {run["verdict"] for run in document["runs"]} == {"passed"}
    found = told(document)
    assert found[("params", "n")] == (3, 4)
    assert found[("before", "items.total")] == (0, 3) and found[("delta", "items.total")] == (3, 4)
    assert found[("predicted", "expectations.items.total")] == (3, 4)
    assert found[("results", "preflight.kinds.odd=0")] == (None, {"count": 1})
    assert [what for section, what in found if section == "verdicts"] == ["steps.add: rows"]
    assert not {"code", "versions", "models", "schema", "servers"} & {section for section, _ in found}
    changed = [line for line in document["text"] if line[:1] in "+-" and line[:3] not in ("---", "+++")]
    assert [line.split("BY")[-1] for line in changed] == [" 1", " 2"]


def test_what_people_read(runs: list[str], program: Program) -> None:
    ended = program("diff", runs[0], "last")
    lines = ended.out.splitlines()
    assert lines[0].startswith(f"left   {runs[0]}  small  ") and lines[0].endswith("  passed")
    assert lines[1].startswith(f"right  {runs[1]}")
    assert "  n   3 → 4" in lines and "  items.total   0 → 3" in lines
    assert "\x1b" not in ended.out and lines.count("params") == 1 and "versions" not in lines
    assert any(line.startswith("  -") and "ORDER BY 1" in line for line in lines)


def test_the_same_run_twice_does_not_differ(runs: list[str], program: Program) -> None:
    ended = program("diff", "last", runs[1])
    assert ended.code == 0 and ended.out.splitlines()[-1] == "the two runs do not differ in anything that is recorded"
    document = program("diff", "last", "last", "--json").document
    assert document["differences"] == [] and document["text"] == []


def test_a_run_that_is_not_there(runs: list[str], program: Program) -> None:
    ended = program("diff", "last", "20190101", "--json")
    assert ended.code == 6 and "20190101" in ended.err
    assert ended.document["run"]["exit_code"] == 6 and "20190101" in ended.document["problems"][0]["message"]
    assert program("diff", "last").code == 2


def test_runs_of_different_runbooks(runs: list[str], program: Program, write: Callable[..., Path]) -> None:
    write("other.yaml", "runbook: 1\nname: other\nsteps: {go: {command: ['true']}}\n")
    assert program("exec", "other.yaml").code == 0
    ended = program("diff", runs[0], "last")
    assert "note: these are runs of different runbooks" in ended.out
    assert "  steps.go" in ended.out and "  steps.add" in ended.out


def test_values_cannot_forge_a_line(database: Database, program: Program, write: Callable[..., Path]) -> None:
    database.run(ITEMS)
    write("small.yaml", HEAD + BODY)
    for word in ("one", '"\\u001b[31mred\\nforged line\\u202e"'):
        assert program("exec", "small.yaml", "-p", f"word={word}", env={"DATABASE_URL": database.url}).code == 0
    first, second = sorted(path.name for path in Path(".runbook/runs").iterdir())
    ended = program("diff", first, second)
    assert "\x1b" not in ended.out and "\u202e" not in ended.out
    assert not any(line.startswith("forged") for line in ended.out.splitlines())
    assert "\\x1b[31mred\\nforged line\\u202e" in ended.out


def test_secrets_stay_masked(database: Database, program: Program, write: Callable[..., Path]) -> None:
    database.run(ITEMS)
    env = {"DATABASE_URL": database.url, "TOKEN": "hunter2hunter2"}
    for note in ("# hunter2hunter2 a", "# b"):
        write("small.yaml", f"{HEAD}{note}\nsecrets: {{token: {{env: TOKEN}}}}\n{BODY}")
        assert program("exec", "small.yaml", env=env).code == 0
    first, second = sorted(path.name for path in Path(".runbook/runs").iterdir())
    ended = program("diff", first, second)
    assert "-# *** a" in ended.out and "hunter2" not in ended.out


@pytest.mark.parametrize(("more", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_on_a_terminal_only(runs: list[str], tmp_path: Path, more: dict[str, str], coloured: bool) -> None:
    ours, theirs = pty.openpty()
    env = {**{name: value for name, value in os.environ.items() if name != "NO_COLOR"}, "PYTHONPATH": str(ROOT), **more}
    subprocess.run([sys.executable, "-m", "runbook", "diff", *runs], cwd=tmp_path, env=env, stdout=theirs, check=True)
    os.close(theirs)
    seen = os.read(ours, 65536).decode()
    os.close(ours)
    assert ("\x1b[" in seen) is coloured and "params" in seen
