"""`--json`: one valid document for every ending; and a run that goes on when nobody reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from jsonschema import Draft202012Validator

from runbook.operate.lock import lock_number
from tests.acceptance.helpers import ADD, DB, HEAD, ITEMS, STATE, Background
from tests.conftest import ROOT, Database, Ended, Program

SCHEMA = json.loads((ROOT / "schemas" / "run.schema.json").read_text())
AWAY = "postgresql://me@127.0.0.1:9/x"
ENDINGS: dict[str, tuple[int, str | None, tuple[str, ...], str]] = {
    "passed": (0, "passed", (), "expectations:\n  items.total: {delta: 3}\n" + ADD),
    "refuted": (1, "refuted", (), "expectations:\n  items.total: {delta: 4}\n" + ADD),
    "usage": (2, None, ("--override", "nothing", "--reason", "x"), ADD),
    "unknown option": (2, None, ("--nonsense",), ADD),
    "blocked": (3, "blocked", (), "preflight:\n  a: {expect: 1 > 2}\n" + ADD),
    "failed": (4, "failed", (), "steps:\n  add: {sql: SELECT 1/0}\n"),
    "invalid": (5, None, (), "nonsense: 1\n"),
    "bad param": (5, None, ("-p", "n=x"), "params:\n  n: {type: integer, default: 1}\n" + ADD),
    "unknown param": (5, None, ("-p", "m=1"), "params:\n  n: {type: integer, default: 1}\n" + ADD),
    "errored": (6, "errored", (), "preflight:\n  a: {sql: SELECT 1/0}\n" + ADD),
    "server away": (6, "errored", ("--database", AWAY), ADD),
    "locked": (7, "locked", (), ADD),
}


def valid(ended: Ended) -> dict[str, Any]:
    """The only thing on stdout, which is one document of the schema."""
    assert ended.out.count("\n") == 1
    document = ended.document
    problems = [
        f"{list(error.absolute_path)}: {error.message}" for error in Draft202012Validator(SCHEMA).iter_errors(document)
    ]
    assert problems == []
    assert document["run"]["exit_code"] == ended.code
    return document


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_is_one_valid_document(
    ending: str, database: Database, program: Program, write: Callable[..., Path]
) -> None:
    code, verdict, arguments, body = ENDINGS[ending]
    database.run(ITEMS)
    write("small.yaml", HEAD + DB + STATE + body)
    with psycopg.connect(database.url, autocommit=True) as holder:
        if ending == "locked":
            holder.execute("SELECT pg_advisory_lock(%s)", [lock_number("small")])
        ended = program("exec", "small.yaml", "--json", *arguments, env={"DATABASE_URL": database.url})
    document = valid(ended)
    assert (ended.code, document["run"]["verdict"]) == (code, verdict), ended.err
    assert "Traceback" not in ended.err and ended.err
    if code in (2, 5, 6, 7) and ending != "errored":
        assert document["problems"][0]["message"]
        assert database.value("SELECT count(*) FROM items") == 0
    if code == 5 and ending == "invalid":
        assert document["problems"][0]["line"] > 0


def test_a_missing_file_is_invalid(program: Program) -> None:
    assert valid(program("exec", "nowhere.yaml", "--json"))["run"]["exit_code"] == 5


def test_step_output_goes_to_stderr(program: Program, write: Callable[..., Path]) -> None:
    write("small.yaml", HEAD + "steps:\n  s: {shell: 'echo loud; echo louder >&2'}\n")
    ended = program("exec", "small.yaml", "--json")
    valid(ended)
    assert "    │ loud\n" in ended.err and "    │ louder\n" in ended.err


CLOSED: dict[str, tuple[str, int]] = {
    "stdout closed": ("exec >&-; exec {}", 0),
    "stderr closed": ("exec 2>&-; exec {}", 0),
    "all closed": ("exec <&- >&- 2>&-; exec {}", 0),
    "stderr read by head": ("set -o pipefail; {} 2>&1 >/dev/null | head -1 >/dev/null", 0),
    "stderr on a full disk": ("exec {} 2>/dev/full", 0),
}


@pytest.mark.parametrize("case", CLOSED)
def test_a_run_goes_on_when_nobody_reads_it(
    case: str, program: Program, write: Callable[..., Path], tmp_path: Path
) -> None:
    script, code = CLOSED[case]
    step = "steps:\n  s: {shell: 'seq 1 20000; sleep 0.1; echo end'}\n  t: {command: [touch, ran]}\n"
    write("small.yaml", HEAD + step)
    command = f"{sys.executable} -m runbook exec small.yaml"
    known = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path / "state")}
    done = subprocess.run(
        ["bash", "-c", script.format(command)], cwd=tmp_path, env=known, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    assert (tmp_path / "ran").exists()
    [log] = (tmp_path / "logs").iterdir()
    assert "**passed** (exit code 0)" in log.read_text()
    journal = next(tmp_path.glob(".runbook/runs/*/journal.jsonl")).read_text()
    assert all(line.startswith('{"seq": ') for line in journal.splitlines())


def test_a_document_that_cannot_be_printed_changes_no_record(write: Callable[..., Path], tmp_path: Path) -> None:
    write("small.yaml", HEAD + "steps:\n  s: {command: ['true']}\n")
    known = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path / "state")}
    command = f"{sys.executable} -m runbook exec small.yaml --json > /dev/full"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=known, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 6 and b"could not be printed" in done.stderr and b"Traceback" not in done.stderr
    [log] = (tmp_path / "logs").iterdir()
    assert "**passed** (exit code 0)" in log.read_text()


def test_a_cancelled_run_is_a_valid_document_too(start: Callable[..., Background], write: Callable[..., Path]) -> None:
    write("small.yaml", HEAD + "steps:\n  s: {command: [sleep, '300']}\n")
    background = start("exec", "small.yaml", "--json")
    background.reached('"step.started"')
    assert valid(background.end(15))["run"]["verdict"] == "cancelled"
