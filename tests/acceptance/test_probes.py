"""`command` and `file` probes, `until`, `select`, `message` and `severity`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from tests.acceptance.helpers import DB, NO_AUDIT, Run, log_of, verdicts_of
from tests.conftest import Database

SUM = hashlib.sha256(b"a\nb\nc\n").hexdigest()
CHECKS = {
    "text": ("command: [echo, ' a '], expect: \"result == ' a '\"", "passed"),
    "json": ("command: [echo, '{\"n\": 2}'], expect: 'json.n == 2'", "passed"),
    "exit_refused": ("command: ['false'], expect: \"result == ''\"", "unknown"),
    "exit_named": ("command: ['false'], expect: exit_code == 1", "passed"),
    "exit_in_result": ("command: ['false'], expect: result.exit_code == 0", "refuted"),
    "no_program": ("command: [no-such-program], expect: exit_code == 1", "unknown"),
    "too_slow": ("command: [sleep, '300'], timeout: 200ms, expect: exit_code == 0", "unknown"),
    "selected": ("command: [echo, a b c], select: 'stdout.split()[1]', expect: \"result == 'b'\"", "passed"),
    "select_fails": ("command: [echo, a], select: 'stdout.split()[5]', expect: \"result == 'b'\"", "unknown"),
    "value_as_argument": ("command: [printf, '<%s>', '{{ params.t }}'], expect: \"result == '<a; b>'\"", "passed"),
    "file": (
        "file: some.txt, expect: [result.exists, result.size == 6, result.lines == 3, \"result.kind == 'file'\"]",
        "passed",
    ),
    "file_text": ("file: some.txt, expect: [\"result.text == 'a\\nb\\nc\\n'\", result.age < 3600]", "passed"),
    "file_json": ("file: some.json, expect: [result.json.n == 0.10]", "passed"),
    "file_sum": (f"file: some.txt, expect: \"result.sha256 == '{SUM}'\"", "passed"),
    "no_file": ("file: nowhere, expect: result.size > 0", "unknown"),
    "no_file_named": ("file: nowhere, expect: not result.exists", "passed"),
    "no_file_wanted": ("file: nowhere, expect: result.exists", "refuted"),
    "folder": ("file: ., expect: \"result.kind == 'folder'\"", "passed"),
    "evidence": ("command: [echo, seen]", "passed"),
}


def test_command_and_file_probes(run: Run, write: Callable[..., Path]) -> None:
    write("some.txt", "a\nb\nc\n")
    write("some.json", '{"n": 0.10}')
    head = "params:\n  t: {type: string, default: 'a; b'}\npreflight:\n"
    lines = [f"  {name}: {{{body}, severity: warn}}" for name, (body, _) in CHECKS.items()]
    record = run(head + "\n".join(lines) + "\n")
    assert verdicts_of(record["preflight"]) == {name: verdict for name, (_, verdict) in CHECKS.items()}
    assert record["run"]["verdict"] == "passed"


def test_until_asks_again_until_it_holds(database: Database, run: Run) -> None:
    database.run("CREATE TABLE items (n int)")
    body = """steps:
  later:
    shell: |
      ( until grep -q '"postconditions"' .runbook/runs/*/journal.jsonl; do sleep 0.05; done
        sleep 1
        psql -qc 'INSERT INTO items VALUES (1)'
      ) > /dev/null 2>&1 &
postconditions:
  arrived: {sql: SELECT count(*) FROM items, returns: value, expect: result == 1, until: {every: 100ms, timeout: 60s}}
"""
    began = time.monotonic()
    check = run(DB + NO_AUDIT + body, database.url)["postconditions"]["arrived"]
    assert check["verdict"] == "passed" and 2 <= check["attempts"] <= 1 + (time.monotonic() - began) / 0.1


def test_until_gives_up_with_its_last_answer(run: Run, tmp_path: Path) -> None:
    body = """preflight:
  never:
    command: [sh, -c, echo x >> tries; wc -l < tries]
    expect: result | int > 1000
    until: {every: 50ms, timeout: 1s}
"""
    began = time.monotonic()
    record = run(body)
    check = record["preflight"]["never"]
    assert (record["run"]["verdict"], check["verdict"]) == ("blocked", "refuted")
    assert int(check["result"]) == check["attempts"] == (tmp_path / "tries").read_text().count("x") >= 2
    assert 1 <= time.monotonic() - began < 60


def test_until_outlasts_an_unknown(run: Run, tmp_path: Path) -> None:
    body = "steps:\n  later: {shell: '(sleep 0.3; touch made) > /dev/null 2>&1 &'}\npostconditions:\n"
    check = "  made: {file: made, expect: result.size == 0, until: {every: 50ms, timeout: 60s}}\n"
    assert run(body + check)["run"]["verdict"] == "passed"


def test_message_severity_and_description_reach_the_run_log(run: Run) -> None:
    body = """preflight:
  a: {command: [echo, '3'], description: How many?, expect: result | int > 5, severity: warn, message: "only {{ result }}"}
  b: {command: [echo, '3'], expect: result | int > 1, message: not shown}
  c: {command: [echo, x], expect: "result == 'y'", severity: warn, message: "{{ json.n }}"}
"""
    record = run(body)
    assert record["run"]["verdict"] == "passed"
    assert [check["message"] for check in record["preflight"].values()][:2] == ["only 3", None]
    log = log_of(record)
    assert "- preflight.a refuted (warning): only 3: `result | int > 5" in log
    assert "refuted (warning)" in log and "not shown" not in log
    assert "json.n" in record["preflight"]["c"]["message"]


def test_a_command_probe_is_quiet_and_bounded(run: Run) -> None:
    seen: list[bytes] = []
    body = "preflight:\n  a: {command: [sh, -c, echo loud; echo louder >&2], expect: 'result == ''loud'''}\n"
    record = run(body, on_output=lambda stream, chunk: seen.append(chunk))
    assert (record["run"]["verdict"], seen) == ("passed", [])
