"""What a run leaves: the run log in the cookbook's shape, the journal that tells the same, and who may read them."""

from __future__ import annotations

import copy
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from runbook.engine.record import fold
from runbook.language.values import dumps
from runbook.records.journal import JournalError, read_journal
from runbook.records.report import render
from runbook.records.runlog import run_log
from tests.acceptance.helpers import ADD, DB, HEAD, ITEMS, STATE, Run, log_of
from tests.conftest import Database, Program

EXPECTED = "expectations:\n  items.total: {delta: 3}\n"
TEMPLATE = """\
# small
**Date**: DATE
**Duration**: DURATION
**Operator**: Ada

## Before
- Total: 0

## Expected
- Process ~3 total

## After
- Total: 3 (+3)

## Interactions
- Created: 5
- Completed: 4
- Failed: 1

## Issues
- None

## Notes
- Any observations

---
"""
INTERACTIONS = """postconditions:
  interactions: {sql: "SELECT 5 AS created, 4 AS completed, 1 AS failed", returns: row, section: Interactions}
"""


def test_the_run_log_has_the_shape_of_the_cookbook(database: Database, run: Run) -> None:
    database.run(ITEMS)
    body = DB + STATE + EXPECTED + INTERACTIONS + ADD
    log = log_of(run(body, database.url, operator="Ada", note="Any observations"))
    shown = re.sub(r"(?<=\*\*Date\*\*: )\d{4}-\d\d-\d\d \d\d:\d\d$", "DATE", log, flags=re.MULTILINE)
    shown = re.sub(r"(?<=\*\*Duration\*\*: )[0-9.]+ s$", "DURATION", shown, flags=re.MULTILINE)
    assert shown.startswith(TEMPLATE)
    rest = re.findall(r"^## (.*)$", shown[len(TEMPLATE) :], flags=re.MULTILINE)
    assert rest == ["Verdict", "Predicted and actual", "Postconditions", "Steps", "Versions", "Record"]


ENDINGS = {
    "passed": EXPECTED + ADD,
    "blocked": "preflight:\n  a: {expect: 1 > 2}\n" + EXPECTED + ADD,
    "failed": EXPECTED + "steps:\n  s: {shell: 'echo half; exit 3', retry: {attempts: 2, delay: 1ms}}\n",
    "refuted": EXPECTED + "steps:\n  s: {command: ['true']}\n",
    "errored": EXPECTED + ADD + "postconditions:\n  a: {sql: SELECT 1/0}\n",
}


@pytest.mark.parametrize("verdict", ENDINGS)
def test_the_journal_alone_tells_the_record_and_the_run_log(verdict: str, database: Database, run: Run) -> None:
    database.run(ITEMS)
    record = run(DB + STATE + ENDINGS[verdict], database.url)
    assert record["run"]["verdict"] == verdict
    folded = fold(line.event for line in read_journal(Path(record["journal"])))
    assert dumps(folded) == dumps(record)
    assert run_log(folded) == run_log(copy.deepcopy(folded)) == log_of(record)
    assert render(folded) == log_of(record)
    assert Path(record["journal"]).parent.name == record["run"]["id"]


def test_a_changed_line_is_found(run: Run) -> None:
    path = Path(run("steps:\n  s: {command: ['true']}\n")["journal"])
    whole = path.read_bytes()
    for change in (whole.replace(b'"passed"', b'"failed"', 1), whole[whole.index(b"\n") + 1 :]):
        path.write_bytes(change)
        with pytest.raises(JournalError):
            list(read_journal(path))
    path.write_bytes(whole[:-10])
    assert len(list(read_journal(path))) == whole.count(b"\n") - 1


def test_records_are_readable_by_their_owner_alone(run: Run, tmp_path: Path) -> None:
    record = run("steps:\n  s: {command: [echo, x]}\n")
    folder = Path(record["journal"]).parent

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    assert [mode(path) for path in (folder, folder.parent)] == [0o700, 0o700]
    assert {mode(path) for path in folder.iterdir()} == {0o600} and mode(Path(record["report"])) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["journal.jsonl", "output.log"]
    assert (folder / "output.log").read_text() == "x\n"
    assert [path for path in tmp_path.rglob("*") if path.name.startswith(".small")] == []


def test_the_stamp_gets_a_part_of_the_id_where_a_run_log_stands(run: Run, tmp_path: Path) -> None:
    body = """report: {path: "logs/{{ 'same' ~ run.stamp[15:] }}.md"}\nsteps:\n  s: {command: ['true']}\n"""
    records = [run(body) for _ in range(3)]
    places = [Path(record["report"]) for record in records]
    assert len(set(places)) == 3
    for record, place in zip(records, places, strict=True):
        assert record["run"]["id"] in place.read_text()
        assert record["run"]["stamp"][:15].replace("_", "").isdigit()
    assert records[1]["run"]["stamp"].endswith(records[1]["run"]["id"][-4:])
    assert len(list((tmp_path / "logs").iterdir())) == 3


def test_a_run_log_is_never_written_through_a_link(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "x.md").symlink_to(target)
    record = run("report: {path: logs/x.md}\nsteps:\n  s: {command: ['true']}\n")
    assert target.read_text() == "mine" and record["run"]["verdict"] == "passed"
    assert Path(record["report"]) != tmp_path / "logs" / "x.md"


def test_a_run_log_that_cannot_be_written_is_a_problem_and_no_verdict(run: Run, tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    record = run("report: {path: logs/x.md}\nsteps:\n  s: {command: ['true']}\n")
    assert (record["run"]["verdict"], record["report"]) == ("passed", None)
    assert "the run log was not written" in record["problems"][0]["message"]


def test_a_template_of_ones_own(database: Database, run: Run, write: Callable[..., Path]) -> None:
    database.run(ITEMS)
    write("own.md.j2", "{{ run.title }}: {{ run.verdict }} {{ delta['items'].total }}\n---\n{{ run_log }}")
    body = "title: 'a *b*'\nreport: {path: logs/x.md, template: own.md.j2}\n"
    record = run(DB + STATE + EXPECTED + body + ADD, database.url)
    log = log_of(record)
    assert log.startswith("a \\*b\\*: passed 3\n---\n# a \\*b\\*\n**Date**")


def test_show(database: Database, program: Program, run: Run, tmp_path: Path) -> None:
    database.run(ITEMS)
    first = run(DB + STATE + EXPECTED + ADD, database.url)
    assert program("show").out == program("show", "last").out == log_of(first)
    last = run(DB + STATE + EXPECTED + "steps:\n  s: {command: ['true']}\n", database.url)
    (tmp_path / "sub").mkdir()
    assert program("show", first["run"]["id"], cwd=tmp_path / "sub").out == log_of(first)
    shown = program("show", last["run"]["id"], "--json").document
    assert (shown["run"]["id"], shown["run"]["verdict"]) == (last["run"]["id"], "refuted")
    several = program("show", first["run"]["id"][:4])
    assert several.code != 0 and first["run"]["id"] in several.err and several.out == ""


def test_an_empty_project_has_no_runs(program: Program) -> None:
    ended = program("show", "last")
    assert ended.code != 0 and "there are no runs" in ended.err and "Traceback" not in ended.err


def test_records_go_to_the_project_and_logs_to_the_working_folder(
    program: Program, write: Callable[..., Path], tmp_path: Path
) -> None:
    write("project/runbooks/small.yaml", HEAD + "steps:\n  s: {command: [touch, here]}\n")
    (tmp_path / "project" / ".runbook").mkdir()
    assert program("exec", "project/runbooks/small.yaml").code == 0
    assert len(list((tmp_path / "project" / ".runbook" / "runs").iterdir())) == 1
    assert len(list((tmp_path / "logs").iterdir())) == 1 and not (tmp_path / ".runbook").exists()
    assert (tmp_path / "project" / "runbooks" / "here").exists()
    assert program("exec", "small", cwd=tmp_path / "project").code == 0
