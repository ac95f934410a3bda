"""`--junit` and `--github`: what CI reads of every ending of a real run; nothing unverified is green, no value is a command."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from jsonschema import Draft202012Validator
from junitparser import JUnitXml

from runbook.operate.lock import lock_number
from tests.acceptance.helpers import DB, HEAD, ITEMS, NO_AUDIT, Background, until
from tests.acceptance.test_json import SCHEMA
from tests.conftest import Database, Ended, Program
from tests.records.ci import Suite, Told, github, read_junit

Write = Callable[..., Path]
TOP = HEAD + DB + NO_AUDIT  # 5 lines
STATE = "state:\n  items: {sql: SELECT count(*) AS total FROM items}\n"  # lines 6 and 7
ADD = "steps:\n  add: {sql: 'INSERT INTO items SELECT generate_series(1, 3)'}\n"
PASSES = "expectations:\n  items.total: {delta: 3}\n" + ADD
BLOCKS = "preflight:\n  room:\n    sql: SELECT count(*) FROM items\n    returns: value\n    expect: result > 5\n" + ADD
ENDINGS = {
    "passed": (0, STATE + PASSES, {"expectations.items.total": "passed", "steps.add": "passed"}),
    "refuted": (
        1,
        STATE + PASSES.replace("delta: 3", "delta: 4"),
        {"expectations.items.total": "failure", "steps.add": "passed"},
    ),
    "blocked": (3, BLOCKS, {"preflight.room": "failure", "steps.add": "skipped"}),
    "failed": (
        4,
        "steps:\n  add: {sql: SELECT 1/0}\n  more: {sql: SELECT 1}\n",
        {"steps.add": "failure", "steps.more": "skipped"},
    ),
    "errored": (
        6,
        "preflight:\n  room: {sql: SELECT 1/0}\n" + ADD,
        {"preflight.room": "error", "steps.add": "skipped"},
    ),
    "nothing measured before": (
        6,
        STATE.replace("FROM items", "FROM nowhere") + ADD,
        {"steps.add": "skipped", "run": "error"},
    ),
    "a prediction of a step": (
        1,
        STATE
        + "steps:\n  add:\n    sql: INSERT INTO items VALUES (1)\n    expectations:\n      items.total: {delta: 2}\n",
        {"steps.add": "passed", "steps.add.items.total": "failure"},
    ),
    "a warning": (
        0,
        STATE + "preflight:\n  room: {expect: before.items.total > 5, severity: warn}\n" + PASSES,
        {"preflight.room": "skipped", "expectations.items.total": "passed", "steps.add": "passed"},
    ),
    "nothing verified": (0, ADD, {"steps.add": "passed", "run": "skipped"}),
}


def told(ended: Ended) -> list[Told]:
    """What GitHub takes of a run; its commands are stopped by the first line that is printed."""
    first, _, rest = ended.out.partition("\n")
    return github(first, ended.err, rest)


def junit(path: Path) -> Suite:
    JUnitXml.fromfile(str(path))
    return read_junit(path.read_bytes())


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_is_told_to_ci(
    ending: str, database: Database, program: Program, write: Write, tmp_path: Path
) -> None:
    code, body, statuses = ENDINGS[ending]
    database.run(ITEMS)
    write("small.yaml", TOP + body)
    ended = program("exec", "small.yaml", "--junit", "out/j.xml", "--github", env={"DATABASE_URL": database.url})
    assert ended.code == code, ended.err
    found = junit(tmp_path / "out" / "j.xml")
    assert found.statuses == {f"small.{name}": status for name, status in statuses.items()}
    assert found.red == (code != 0) == any(item.name == "error" for item in told(ended))
    assert found.properties["exit_code"] == str(code)
    assert os.listdir(tmp_path / "out") == ["j.xml"]


def test_what_missed_is_told_at_its_line(database: Database, program: Program, write: Write, tmp_path: Path) -> None:
    database.run(ITEMS)
    body = """preflight:
  # a comment
  room: {expect: before.items.total > 5, severity: warn}
expectations:

  items.total: {delta: 4, message: 'not {{ predicted }}'}
steps:
  add:
    sql: INSERT INTO items SELECT generate_series(1, 3)
    expectations:
      items.total: {delta: 5}
postconditions:
  gone: {sql: SELECT * FROM nowhere}
finally:
  last: {shell: echo bad; exit 3}
"""
    write("deep/books/small.yaml", TOP + STATE + body)
    env = {"DATABASE_URL": database.url, "GITHUB_WORKSPACE": str(tmp_path / "deep")}
    ended = program("exec", "small.yaml", "--github", "--junit", "j.xml", env=env, cwd=tmp_path / "deep" / "books")
    assert ended.code == 4, ended.err
    places = [(*item.place, item.properties["title"].partition(": ")[2]) for item in told(ended)]
    assert places == [
        ("warning", "books/small.yaml", "10", "preflight.room refuted"),
        ("error", "books/small.yaml", "13", "expectations.items.total refuted"),
        ("error", "books/small.yaml", "18", "steps.add.items.total refuted"),
        ("error", "books/small.yaml", "20", "postconditions.gone unknown"),
        ("error", "books/small.yaml", "22", "finally.last failed"),
        ("notice", "books/small.yaml", "", "failed"),
    ]
    assert "not 4: predicted 4, measured 3, off by 1" in told(ended)[1].message
    found = junit(tmp_path / "deep" / "books" / "j.xml")
    assert [(case.file, case.line) for case in found.cases.values()] == [
        ("books/small.yaml", line) for line in (10, 13, 15, 18, 20, 22)
    ]
    assert found.cases["small.finally.last"].output == "bad"


def test_the_lines_are_in_the_record(database: Database, program: Program, write: Write) -> None:
    database.run(ITEMS)
    write("small.yaml", TOP + STATE + PASSES + "postconditions:\n  p: {expect: 1 < 2}\n")
    for _ in range(2):  # the second time from what was remembered of the file
        ended = program("exec", "small.yaml", "--json", env={"DATABASE_URL": database.url})
        record = ended.document
        lines = [record["expectations"]["items.total"], record["steps"]["add"], record["postconditions"]["p"]]
        assert [item["line"] for item in lines] == [9, 11, 13]
        Draft202012Validator(SCHEMA).validate(record)


REFUSED = {
    "invalid": (5, (), TOP + "stepz: 1\nsteps:\n  a: {sql: SELECT 1, timeout: soon}\n", [("6", "1"), ("8", "31")]),
    "a param": (5, ("-p", "n=x"), TOP + "params:\n  n: {type: integer, default: 1}\n" + ADD, [("7", "3")]),
    "no file": (5, (), None, [("", "")]),
    "server away": (6, ("--database", "postgresql://me@127.0.0.1:9/x"), TOP + ADD, [("", "")]),
    "locked": (7, (), TOP + ADD, [("", "")]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_run_that_never_began_is_one_error_and_never_green(
    case: str, database: Database, program: Program, write: Write, tmp_path: Path
) -> None:
    code, arguments, text, places = REFUSED[case]
    if text is not None:
        write("small.yaml", text)
    env = {"DATABASE_URL": database.url, "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    with psycopg.connect(database.url, autocommit=True) as holder:
        if case == "locked":
            holder.execute("SELECT pg_advisory_lock(%s)", [lock_number("small")])
        ended = program("exec", "small.yaml", "--junit", "j.xml", "--github", *arguments, env=env)
    assert ended.code == code, ended.err
    found = junit(tmp_path / "j.xml")
    assert found.statuses == {"small.yaml.run": "error"}
    assert found.properties["exit_code"] == str(code)
    known = told(ended)
    assert [(item.properties.get("line", ""), item.properties.get("col", "")) for item in known] == places
    assert {(item.name, item.properties["file"]) for item in known} == {("error", "small.yaml")}
    assert known[0].message.partition(" (")[0] in found.cases["small.yaml.run"].message
    assert "### What missed\n- **" in (tmp_path / "summary.md").read_text()


def test_a_run_that_cannot_be_resumed_is_told_without_a_file(program: Program, tmp_path: Path) -> None:
    ended = program("exec", "--resume", "nothing", "--junit", "j.xml", "--github", "--json")
    assert ended.code == 6, ended.err
    Draft202012Validator(SCHEMA).validate(ended.document)
    assert junit(tmp_path / "j.xml").statuses == {"runbook.run": "error"}
    assert [(*item.place, item.properties["title"]) for item in github(ended.err)] == [
        ("error", "", "", "runbook: run errored")
    ]


def test_an_earlier_green_report_does_not_outlive_its_run(
    write: Write, start: Callable[..., Background], tmp_path: Path
) -> None:
    write("small.yaml", HEAD + "steps:\n  s: {command: [sleep, '300']}\n")
    write("j.xml", '<?xml version="1.0"?><testsuites><testsuite name="green"/></testsuites>')
    begun = start("exec", "small.yaml", "--junit", "j.xml")
    begun.reached('"step.started"')
    case = junit(tmp_path / "j.xml").cases["small.yaml.run"]
    assert case.status == "error" and "no end was reported" in case.message
    assert begun.end(signal.SIGTERM).code == 130
    found = junit(tmp_path / "j.xml")
    assert (found.statuses, found.cases["small.steps.s"].type) == ({"small.steps.s": "error"}, "cancelled")


def test_a_usage_error_leaves_no_green_report(program: Program, write: Write, tmp_path: Path) -> None:
    write("small.yaml", HEAD + "steps:\n  s: {command: ['true']}\n")
    assert program("exec", "small.yaml", "--junit", "j.xml").code == 0
    given = ("--junit", "j.xml", "--github", "--override", "x", "--reason", "y")
    ended = program("exec", "small.yaml", *given)
    assert ended.code == 2 and junit(tmp_path / "j.xml").red
    assert told(ended) == []


STANDS = {
    "the runbook": "small.yaml",
    "a folder": "folder",
    "below a file": "small.yaml/j.xml",
    "a pipe": "pipe",
}


@pytest.mark.parametrize("case", STANDS)
def test_nothing_but_a_report_is_written_over(case: str, program: Program, write: Write, tmp_path: Path) -> None:
    text = HEAD + "steps:\n  s: {command: [touch, ran]}\n"
    path = write("small.yaml", text)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    ended = program("exec", "small.yaml", "--junit", STANDS[case])
    assert ended.code == 2 and f"--junit {STANDS[case]}: " in ended.err
    assert path.read_text() == text and not (tmp_path / "ran").exists()
    assert program("exec", "--junit", "small.yaml").code == 2 and path.read_text() == text


def test_a_report_that_cannot_be_written_at_the_end_is_no_green_run(
    program: Program, write: Write, tmp_path: Path
) -> None:
    write("small.yaml", HEAD + "steps:\n  s: {shell: 'rm out/j.xml; mkdir out/j.xml'}\n")
    ended = program("exec", "small.yaml", "--junit", "out/j.xml")
    assert ended.code == 6 and "a report for CI was not written" in ended.err and "Traceback" not in ended.err
    assert os.listdir(tmp_path / "out") == ["j.xml"]
    [log] = (tmp_path / "logs").iterdir()
    assert "**passed** (exit code 0)" in log.read_text()


def test_others_may_read_the_report_as_the_umask_says(program: Program, write: Write, tmp_path: Path) -> None:
    write("small.yaml", HEAD + "steps:\n  s: {command: ['true']}\n")
    before = os.umask(0o027)
    try:
        program("exec", "small.yaml", "--junit", "j.xml")
    finally:
        os.umask(before)
    assert (tmp_path / "j.xml").stat().st_mode & 0o777 == 0o640


HOSTILE = """::error::forged
  ::stop-commands::forever
##[error]forged
]]></failure><testcase name="forged"/>\x07\x1b[2J\u202e"""


@pytest.mark.parametrize("as_json", [False, True])
def test_no_value_is_a_command_or_a_case(
    as_json: bool, database: Database, program: Program, write: Write, tmp_path: Path
) -> None:
    database.run("CREATE TABLE texts (text text)")
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("INSERT INTO texts VALUES (%s)", [HOSTILE])
    body = """preflight:
  text: {sql: SELECT text FROM texts, returns: value, expect: result == 'x', message: '{{ result }}', severity: warn}
  seen: {sql: SELECT text FROM texts, returns: value}
steps:
  loud: {sql: "SELECT 1"}
  print: {shell: 'printf "::error::forged\\n##[error]forged\\n\\r::error::forged\\n"; exit 1', message: '::error::forged'}
"""
    write("small.yaml", TOP + body)
    given = ("--junit", "j.xml", "--github", *(["--json"] if as_json else []))
    env = {"DATABASE_URL": database.url, "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    ended = program("exec", "small.yaml", *given, env=env)
    assert ended.code == 4, ended.err
    known = github(ended.err) if as_json else told(ended)
    assert [item.name for item in known] == ["warning", "error", "notice"]
    assert known[0].message.startswith("::error::forged\n  ::stop-commands::forever\n")
    assert set(junit(tmp_path / "j.xml").statuses) == {"small.preflight.text", "small.steps.loud", "small.steps.print"}
    assert "\u202e" not in (tmp_path / "j.xml").read_text() + (tmp_path / "summary.md").read_text()
    if as_json:
        assert ended.out.count("\n") == 1 and ended.document["run"]["exit_code"] == 4


def test_secrets_are_masked_for_ci_too(program: Program, write: Write, tmp_path: Path) -> None:
    body = "secrets:\n  key: {env: KEY}\nsteps:\n  s: {shell: 'echo it is $KEY; exit 1', env: {KEY: '{{ secrets.key }}'}}\n"
    write("small.yaml", HEAD + body)
    env = {"KEY": "hunter2hunter2", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    ended = program("exec", "small.yaml", "--junit", "j.xml", "--github", env=env)
    assert ended.code == 4, ended.err
    output = junit(tmp_path / "j.xml").cases["small.steps.s"].output
    assert output.startswith("it is ") and "hunter2" not in output
    assert "hunter2" not in ended.out + (tmp_path / "summary.md").read_text() + (tmp_path / "j.xml").read_text()


def test_the_job_page_gets_predicted_beside_actual(
    database: Database, program: Program, write: Write, tmp_path: Path
) -> None:
    database.run(ITEMS)
    write("small.yaml", TOP + STATE + PASSES.replace("delta: 3", "delta: 4"))
    page = write("summary.md", "what was there\n")
    env = {"DATABASE_URL": database.url, "GITHUB_STEP_SUMMARY": str(page)}
    program("exec", "small.yaml", env=env)
    assert page.read_text() == "what was there\n"
    ended = program("exec", "small.yaml", "--github", env=env)
    assert ended.code == 1, ended.err
    text = page.read_text()
    assert text.startswith("what was there\n## small: refuted\n")
    assert "| items.total | delta | 4 | none | 3 | refuted |" in text
    assert "- expectations.items.total: **refuted** (`small.yaml:9`): `predicted 4, measured 3, off by 1`" in text
    logs = sorted((tmp_path / "logs").iterdir())
    assert f"Run log: `{logs[-1].relative_to(tmp_path)}`" in text


def test_a_full_job_page_keeps_what_it_has(program: Program, write: Write) -> None:
    write("small.yaml", HEAD + "steps:\n  s: {command: ['true']}\n")
    page = write("summary.md", "x" * (1024 * 1024 - 10))
    ended = program("exec", "small.yaml", "--github", env={"GITHUB_STEP_SUMMARY": str(page)})
    assert (ended.code, page.stat().st_size) == (0, 1024 * 1024 - 10) and "has no room left" in ended.err


def test_strict_fails_in_ci_too(database: Database, program: Program, write: Write, tmp_path: Path) -> None:
    database.run(ITEMS)
    write("small.yaml", TOP + STATE + "preflight:\n  room: {expect: before.items.total > 5, severity: warn}\n" + PASSES)
    given = ("--strict", "--junit", "j.xml", "--github")
    ended = program("exec", "small.yaml", *given, env={"DATABASE_URL": database.url})
    assert ended.code == 3
    assert junit(tmp_path / "j.xml").cases["small.preflight.room"].status == "failure"
    assert told(ended)[0].place == ("error", "small.yaml", "9")


def test_a_dry_run_is_told_too(database: Database, program: Program, write: Write, tmp_path: Path) -> None:
    database.run(ITEMS)
    write("small.yaml", TOP + STATE + "preflight:\n  room: {expect: before.items.total == 0}\n" + PASSES)
    given = ("exec", "small.yaml", "--dry-run", "--junit", "j.xml", "--github")
    ended = program(*given, env={"DATABASE_URL": database.url})
    assert ended.code == 0, ended.err
    statuses = {"preflight.room": "passed", "expectations.items.total": "skipped", "steps.add": "skipped"}
    assert junit(tmp_path / "j.xml").statuses == {f"small.{name}": status for name, status in statuses.items()}
    assert [item.properties["title"] for item in told(ended)] == ["small: nothing known in the way (dry run)"]
    write("small.yaml", TOP + STATE + "steps:\n  add:\n    sql: |\n      INSERT INTO items\n      SELECT nothing\n")
    ended = program(*given, env={"DATABASE_URL": database.url})
    assert ended.code == 5, ended.err
    [case] = [case for case in junit(tmp_path / "j.xml").cases.values() if case.status == "error"]
    assert (case.type, case.line) == ("invalid", 12) and "nothing" in case.message
    assert told(ended)[0].place == ("error", "small.yaml", "12")


def test_a_run_in_the_background_writes_its_report_too(program: Program, write: Write, tmp_path: Path) -> None:
    write("small.yaml", HEAD + "steps:\n  s: {shell: 'sleep 0.2; exit 1'}\n")
    assert program("exec", "small.yaml", "--detach", "--github").code == 2
    assert program("exec", "small.yaml", "--detach", "--junit", "j.xml").code == 0
    until(lambda: "small.steps.s" in junit(tmp_path / "j.xml").statuses)
    assert junit(tmp_path / "j.xml").red
