"""`command` and `shell` steps: what they are given, what is known of them, and how they end."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.acceptance.helpers import DB, NO_AUDIT, Run, log_of, until
from tests.conftest import Database

SHOW = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd(), sys.stdin.read()]))"


@pytest.fixture
def shown(run: Run, write: Callable[..., Path]) -> Callable[..., Any]:
    """Runs a step that shows what it was given: (arguments, environment, folder, stdin)."""
    write("show.py", SHOW)

    def shown(arguments: str, keys: str = "", head: str = "", database: str = "", **given: Any) -> Any:
        script = "../show.py" if "cwd" in keys else "show.py"
        body = f'{head}steps:\n  s:\n    command: ["{sys.executable}", {script}, {arguments}]\n{keys}'
        record = run(body, database, **given)
        assert record["run"]["verdict"] == "passed", record["run"]
        return json.loads(record["steps"]["s"]["tries"][0]["result"])

    return shown


def test_each_item_is_one_argument_and_a_list_becomes_several(shown: Callable[..., Any]) -> None:
    head = """params:
  n: {type: integer, default: 7}
  t: {type: string, default: "a b'c\\"d $(id) *"}
  items: {type: array, default: [1, "x y"]}
  off: {type: "null", default: null}
"""
    off = "['--off', params.off] if params.off is not none else []"
    arguments = f"""-1, 2.5, "{{{{ params.t }}}}", "{{{{ params.items }}}}", "--n={{{{ params.n }}}}", "{{{{ {off} }}}}", \"\""""
    found = shown(arguments, head=head)
    assert found[0] == ["-1", "2.5", "a b'c\"d $(id) *", "1", "x y", "--n=7", ""]


def test_environment_folder_and_standard_input(shown: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    keys = "    env: {N: 5, T: '{{ params.t }}', PATH: '/nowhere'}\n    cwd: '{{ params.t }}'\n    stdin: 'in: {{ params.t }}'\n"
    arguments, environment, folder, text = shown('"x"', keys, "params:\n  t: {type: string, default: sub}\n")
    assert (environment["N"], environment["T"], environment["PATH"]) == ("5", "sub", "/nowhere")
    assert (Path(folder), text, arguments) == (tmp_path / "sub", "in: sub", ["x"])


def test_steps_see_the_servers_in_force(shown: Callable[..., Any], database: Database) -> None:
    _, environment, _, text = shown('"x"', head=DB, database=database.url)
    assert environment["DATABASE_URL"] == database.url
    assert environment["PGDATABASE"] == database.value("SELECT current_database()")
    assert environment["PGUSER"] == "runbook_owner" and environment["PGHOST"] in database.url
    assert environment["RUNBOOK_RUN_ID"] == database.value("SELECT run_id FROM runbook.runs")
    assert text == ""


def test_with_two_databases_no_pg_variables_are_set(shown: Callable[..., Any], database: Database) -> None:
    two = DB + f"  other: {{type: postgres, env: OTHER_URL, default: '{database.read_url}'}}\n" + NO_AUDIT
    _, environment, _, _ = shown('"x"', head=two, database=database.url)
    assert environment["OTHER_URL"] == database.read_url
    assert not [name for name in environment if name.startswith("PG")]


def test_psql_in_a_step_simply_works(database: Database, run: Run) -> None:
    if shutil.which("psql") is None:
        pytest.skip("no psql on this machine")
    database.run("CREATE TABLE made (n int)")
    record = run(DB + NO_AUDIT + "steps:\n  s: {command: [psql, -c, INSERT INTO made VALUES (1)]}\n", database.url)
    assert (record["run"]["verdict"], database.value("SELECT count(*) FROM made")) == ("passed", 1)


def test_python_is_ours_where_none_is_on_the_path(run: Run, tmp_path: Path) -> None:
    code = "import sys; print(sys.executable)"
    body = f"steps:\n  s: {{command: [python, -c, '{code}'], env: {{PATH: {tmp_path}}}}}\n"
    record = run(body)
    assert Path(record["steps"]["s"]["tries"][0]["result"]).samefile(sys.executable)


def test_what_is_known_of_a_command(run: Run) -> None:
    body = """steps:
  s:
    shell: |
      echo working; echo oops >&2; echo '{"done": 0.10, "name": "x"}'
    expect: [json.done == 0.1, exit_code == 0, "'working' in stdout", "stderr == 'oops'", "result.json.name == 'x'"]
postconditions:
  known: {expect: [steps.s.json.done == 0.1, steps.s.attempts == 1, steps.s.exit_code == 0, steps.s.duration > 0]}
"""
    record = run(body)
    assert record["run"]["verdict"] == "passed", record["run"]
    assert str(record["postconditions"]["known"]["result"]) == "True"


ENDINGS = {
    "exit code": ("command: ['false']", "failed", "exit code 1"),
    "with its last words": ("shell: 'echo all is lost >&2; exit 3'", "failed", "exit code 3: all is lost"),
    "excused": ("command: ['false'], expect: exit_code == 1", "passed", ""),
    "excused in result": ("command: ['false'], expect: 'result.exit_code in [0, 1]'", "passed", ""),
    "not as excused": ("shell: exit 2, expect: exit_code == 1", "failed", "exit_code = 2"),
    "not as expected": ("command: [echo, a], expect: stdout == 'b'", "failed", 'stdout = "a"'),
    "unclear": ("command: [echo, a], expect: json.done == 1", "failed", "json is null"),
    "no such program": ("command: [no-such-program]", "failed", "no-such-program"),
    "no such folder": ("command: ['true'], cwd: nowhere", "failed", "nowhere"),
    "killed": ("shell: kill -9 $$", "failed", "killed by signal 9"),
    "out of time": ("command: [sleep, '300'], timeout: 200ms", "failed", "timed out after 0.2 s"),
    "out of time, not excused": (
        "command: [sleep, '300'], timeout: 200ms, expect: exit_code != 0",
        "failed",
        "timed out",
    ),
    "-e": ("shell: 'false; touch ran'", "failed", "exit code 1"),
    "no arguments at all": ("command: ['{{ [] }}']", "failed", "the command is empty"),
}


@pytest.mark.parametrize("case", ENDINGS)
def test_how_a_command_ends(case: str, run: Run, tmp_path: Path) -> None:
    step, verdict, because = ENDINGS[case]
    began = time.monotonic()
    record = run(f"steps:\n  s: {{{step}, message: 'see {{{{ exit_code }}}}'}}\n")
    found = record["steps"]["s"]
    assert (found["verdict"], record["run"]["verdict"]) == (verdict, verdict)
    assert because in found["because"]
    assert (found["message"] is None) == (verdict == "passed")
    assert because == "" or because.split(":")[0] in log_of(record)
    assert not (tmp_path / "ran").exists() and time.monotonic() - began < 60


def test_a_value_in_a_shell_is_one_quoted_word(run: Run, tmp_path: Path) -> None:
    body = """params:
  t: {type: string}
steps:
  s: {shell: "printf '<%s>' {{ params.t }} \\"{{ params.t }}\\" x{{ params.t }}y"}
"""
    text = "a b; touch ran `id` $(id) $HOME 'q' \"d\" \\ *"
    record = run(body, params={"t": text})
    assert record["steps"]["s"]["tries"][0]["result"] == f"<{text}><{text}><x{text}y>"
    assert not (tmp_path / "ran").exists()


def test_a_time_limit_ends_the_grandchildren_too(run: Run, tmp_path: Path) -> None:
    seconds = f"300.{int.from_bytes(os.urandom(4)):010}"
    here = f"sleep {seconds} & setsid sleep {seconds} & touch up; wait"
    assert run(f"steps:\n  s: {{shell: '{here}', timeout: 1s}}\n")["steps"]["s"]["verdict"] == "failed"
    assert (tmp_path / "up").exists()
    until(lambda: not [p for p in psutil.process_iter(["cmdline"]) if seconds in (p.info["cmdline"] or [])])


def test_output_of_any_size_streams_through(run: Run) -> None:
    seen: list[int] = []
    body = "steps:\n  s: {shell: 'head -c 8000000 /dev/zero | tr \"\\\\0\" x; echo end', expect: exit_code == 0}\n"
    record = run(body, on_output=lambda stream, chunk: seen.append(len(chunk)))
    assert (record["run"]["verdict"], sum(seen)) == ("passed", 8_000_004)
    log = Path(record["journal"]).with_name("output.log")
    assert log.stat().st_size == 8_000_004
    assert Path(record["journal"]).stat().st_size < 2_000_000
