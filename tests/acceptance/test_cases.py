"""`runbook test`: whether runbooks come out as their cases say, on databases that nothing is left of."""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

import runbook
from runbook.database.clone import PREFIX, drop_leftovers
from runbook.language.cases import load_cases
from runbook.language.problems import InvalidRunbook
from tests.acceptance.helpers import Background, Site, until
from tests.acceptance.trials import COPIES, LOSSY, SMALL, project, sleepers, slow
from tests.conftest import Database, Program

Write = Callable[..., Path]
Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the program makes its folders: none but the test's own are there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def make(tmp_path: Path, server_folder: Path) -> Make:
    """Writes a runbook of the project, and its cases."""
    return lambda **given: project(tmp_path, server_folder, **given)


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("runbook-test-*/*"))


# --- as wanted --------------------------------------------------------------------------------------------------------

AS_WANTED = f"""\
adds:
  description: The plain run.
  verdict: passed
  checks:
    preflight.some: passed
    preflight.spare: refuted
    expectations.items.total: passed
    steps.add: passed
    postconditions.whole: passed
blocks:
  sql: {{file: empty.sql}}
  verdict: blocked
  because: nothing there
  checks: {{preflight.some: refuted, expectations.items.total: not reached, steps.add: not reached}}
wants_more:
  params: {{least: 2}}
  verdict: blocked
refutes:
  sql: |
    {LOSSY.replace(chr(10), chr(10) + "    ")}
  verdict: refuted
  because: predicted 3, measured 0
  checks: {{steps.add: passed, expectations.items.total: refuted}}
fails:
  sql: ALTER TABLE items ADD CHECK (n < 2) NOT VALID
  verdict: failed
  because: steps.add
  checks: {{steps.add: failed, postconditions.whole: passed}}
errs: {{sql: ALTER TABLE items RENAME TO things, verdict: errored, checks: {{preflight.some: unknown}}}}
"""


def test_cases_come_out_as_they_say_and_leave_nothing(
    make: Make, write: Write, program: Program, database: Database, own_temporary_folder: Path, tmp_path: Path
) -> None:
    make(cases=AS_WANTED)
    write("runbooks/empty.sql", "DELETE FROM items;\n-- all of it\n")
    ended = program("test", "small", "--json", env={"DATABASE_URL": database.url}, timeout=120)
    assert ended.code == 0, ended.err
    cases = {case["case"]: (case["verdict"], case["came"]) for case in ended.document["cases"]}
    assert cases == {
        "adds": ("passed", "passed"),
        "blocks": ("passed", "blocked"),
        "wants_more": ("passed", "blocked"),
        "refutes": ("passed", "refuted"),
        "fails": ("passed", "failed"),
        "errs": ("passed", "errored"),
    }
    assert ended.err.splitlines()[-1] == "6 cases: 6 as wanted"
    assert "✓ small: blocks       blocked" in ended.err
    assert kept(own_temporary_folder) == [] and list(own_temporary_folder.iterdir()) == []
    assert not (tmp_path / "logs").exists() and not (tmp_path / ".runbook" / "runs").exists()
    assert database.rows("SELECT relname FROM pg_class WHERE relname = 'items'") == []


def test_without_cases_a_runbook_must_pass(make: Make, program: Program) -> None:
    make(name="good")
    make(name="bad", text=SMALL.replace("delta: 3", "delta: 4").replace("name: small", "name: bad"))
    ended = program("test", "runbooks/good.yaml", "runbooks/bad.yaml", "runbooks/good.yaml")
    assert ended.code == 1
    assert "✓ good: passes   passed" in ended.err and "✗ bad: passes    refuted" in ended.err
    assert "2 cases: 1 as wanted, 1 otherwise than wanted" in ended.err


def test_checks_read_with_the_reading_role(make: Make, program: Program) -> None:
    roles = SMALL.replace(
        "postconditions:\n",
        """\
postconditions:
  reader: {sql: SELECT current_user, returns: value, expect: result == 'runbook_reader'}
  owner: {sql: SELECT tableowner FROM pg_tables WHERE tablename = 'items', returns: value, expect: result == 'runbook_owner'}
""",
    )
    make(text=roles.replace("env: DATABASE_URL", "env: DATABASE_URL, read_env: READ_URL"))
    ended = program("test", "small", env={"READ_URL": "postgresql://nobody@127.0.0.1:9/away"})
    assert ended.code == 0, ended.err


# --- otherwise --------------------------------------------------------------------------------------------------------


def test_a_miss_is_told_with_what_was_wanted_and_what_came(make: Make, program: Program, tmp_path: Path) -> None:
    make(
        cases="""\
adds: {verdict: passed}
blocks:
  description: An empty table is no reason to run.
  params: {least: 2}
  verdict: refuted
  because: something else
  checks: {steps.add: passed, preflight.some: refuted}
"""
    )
    ended = program("test", "small", "--json", "--junit", "out/junit.xml")
    assert ended.code == 1
    case = ended.document["cases"][1]
    assert (case["verdict"], case["wanted"], case["came"], case["line"]) == ("refuted", "refuted", "blocked", 3)
    assert [miss["what"] for miss in case["misses"]] == ["verdict", "because", "steps.add"]
    report = Path(case["report"])
    assert "**blocked** (exit code 3)" in report.read_text(encoding="utf-8")
    told = [
        "runbooks/small.cases.yaml:3",
        "An empty table is no reason to run.",
        "verdict: wanted refuted, came blocked",
        "reason: wanted one with 'something else' in it",
        "steps.add: wanted passed, came not reached",
        "reason: preflight.some refuted: nothing there (result >= params.least   where result = 1, params.least = 2)",
        "preflight.spare refuted: 1 > 2",
        f"run log: {report}",
    ]
    lines = [line.strip() for line in ended.err.splitlines()]
    assert lines[lines.index(told[0]) :][: len(told)] == told
    suite = ElementTree.parse(tmp_path / "out" / "junit.xml").getroot()[0]
    assert (suite.attrib["tests"], suite.attrib["failures"], suite.attrib["errors"]) == ("2", "1", "0")
    failure = suite.find("testcase[@name='blocks']/failure")
    assert failure is not None and failure.attrib["message"].startswith("verdict: wanted refuted, came blocked; ")


def test_what_the_step_printed_is_told(make: Make, program: Program) -> None:
    make(text=SMALL.replace('{sql: "INSERT', '{shell: "printf \'one\\\\ntwo\\\\033[1m\\\\n\'; exit 3"} # "'))
    ended = program("test", "small")
    assert ended.code == 1
    assert "│ one\n      │ two\\x1b[1m\n" in ended.err


def test_records_are_kept_when_asked_for(make: Make, program: Program, own_temporary_folder: Path) -> None:
    make(cases="adds: {verdict: passed, env: {WORD: hello}}\n")
    ended = program("test", "small", "--keep")
    assert ended.code == 0, ended.err
    [folder] = kept(own_temporary_folder)
    assert f"kept in {folder.parent}" in ended.err
    assert len(list(folder.glob("logs/small_*.md"))) == len(list(folder.glob(".runbook/runs/*/journal.jsonl"))) == 1


def test_secrets_and_variables_are_the_cases_own(make: Make, program: Program, own_temporary_folder: Path) -> None:
    text = """\
runbook: 1
name: small
secrets: {token: {env: API_TOKEN}}
steps:
  use: {shell: 'echo "$WORD $API_TOKEN"; test ${#API_TOKEN} = 11', env: {API_TOKEN: "{{ secrets.token }}"}}
"""
    make(
        text=text,
        cases="""\
has: {verdict: passed, env: {WORD: "I say:"}, secrets: {token: open-sesame}}
other: {verdict: failed, secrets: {token: close-sesame}}
none: {verdict: passed}
""",
    )
    ended = program("test", "small", "--keep", "--json")
    assert ended.code == 6
    assert [case["verdict"] for case in ended.document["cases"]] == ["passed", "passed", "unknown"]
    assert "? small: none    not run" in ended.err and "the environment variable API_TOKEN is not set" in ended.err
    files = [path for path in own_temporary_folder.rglob("*") if path.is_file()]
    assert not any(b"-sesame" in path.read_bytes() for path in files)
    assert [path.read_text() for path in files if path.name == "output.log" and "has" in str(path)] == ["I say: ***\n"]


def test_a_protected_service_is_not_called(make: Make, program: Program, site: Site) -> None:
    site.put("/", "ok")
    text = """\
runbook: 1
name: small
connections: {api: {type: http, env: API_URL, protected: true}}
steps: {call: {http: {get: /}}}
"""
    make(text=text, cases="real: {verdict: passed}\n")
    ended = program("test", "small", env={"API_URL": site.url})
    assert ended.code == 6 and "have the case name a stand-in, env: {API_URL: …}" in ended.err
    assert site.asked == []
    make(text=text, cases=f"stands_in: {{verdict: passed, env: {{API_URL: '{site.url}'}}}}\n")
    assert program("test", "small").code == 0
    assert len(site.asked) == 1


# --- a database of a name ---------------------------------------------------------------------------------------------


def test_each_case_has_a_copy_of_a_named_database(make: Make, program: Program, database: Database) -> None:
    database.run("CREATE TABLE items (n integer); INSERT INTO items VALUES (7), (8)")
    make(
        cases="""\
adds: {params: {least: 2}, verdict: passed}
blocks: {params: {least: 2}, sql: DELETE FROM items WHERE n = 8, verdict: blocked}
adds_again: {params: {least: 2}, verdict: passed}
"""
    )
    ended = program("test", "small", "--database", database.url)
    assert ended.code == 0, ended.err
    assert database.rows("SELECT n FROM items ORDER BY n") == [(7,), (8,)]
    assert database.rows("SELECT nspname FROM pg_namespace WHERE nspname = 'runbook'") == []
    assert database.rows(COPIES) == []


def test_a_server_that_is_away_is_no_verdict(make: Make, program: Program) -> None:
    make(cases="blocks: {verdict: errored}\n")
    ended = program("test", "small", "--database", "db=postgresql://nobody@127.0.0.1:9/none")
    assert ended.code == 6
    assert "? small: blocks   not run" in ended.err and "connection `db`: " in ended.err
    assert "1 case: 1 could not be run" in ended.err


# --- processes --------------------------------------------------------------------------------------------------------

MEETING = """\
runbook: 1
name: small
params: {mine: {type: string}, other: {type: string}}
steps:
  meet: {shell: "touch {{ params.mine }}; until test -e {{ params.other }}; do sleep 0.02; done", timeout: 30s}
lock: "{{ params.mine }}"
"""


def test_cases_run_at_the_same_time(make: Make, program: Program) -> None:
    make(
        text=MEETING,
        cases="""\
one: {verdict: passed, params: {mine: a, other: b}}
two: {verdict: passed, params: {mine: b, other: a}}
""",
    )
    assert program("test", "small", "-j", "2").code == 0


def test_cases_that_share_a_lock_without_a_database_follow_one_another(make: Make, program: Program) -> None:
    text = "runbook: 1\nname: small\nsteps: {alone: {shell: mkdir alone && sleep 0.3 && rmdir alone}}\n"
    make(text=text, cases="one: {verdict: passed}\ntwo: {verdict: passed}\n")
    ended = program("test", "small", "-j", "2")
    assert ended.code == 0, ended.err


def test_a_case_that_takes_too_long_is_ended(make: Make, program: Program) -> None:
    make(text=slow("611.25"), cases="waits: {verdict: cancelled}\n")
    ended = program("test", "small", "--timeout", "4000ms", "--json")
    assert ended.code == 1, ended.err
    assert "time: wanted at most 4.0 s, came more" in ended.err
    assert ended.document["cases"][0]["came"] == "cancelled"
    assert sleepers("611.25") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_who_stops_it_stops_every_run_and_leaves_no_copy(
    number: signal.Signals, make: Make, start: Callable[..., Background], database: Database
) -> None:
    database.run("CREATE TABLE items (n integer); INSERT INTO items VALUES (7)")
    seconds = f"6{number}.5"
    make(text=slow(seconds), cases="one: {verdict: passed}\ntwo: {verdict: passed}\nthree: {verdict: passed}\n")
    testing = start("test", "small", "-j", "1", "--json", "--database", database.url)
    until(lambda: sleepers(seconds))
    ended = testing.end(number)
    assert ended.code == 130
    assert [case["verdict"] for case in ended.document["cases"]] == ["skipped"] * 3
    assert "3 cases: 3 not run to the end" in ended.err
    assert sleepers(seconds) == [] and database.rows(COPIES) == []


@pytest.mark.slow
def test_runs_end_when_their_tester_is_killed(
    make: Make, start: Callable[..., Background], database: Database, own_temporary_folder: Path
) -> None:
    database.run("CREATE TABLE items (n integer); INSERT INTO items VALUES (7)")
    make(text=slow("615.75"))
    testing = start("test", "small", "--database", database.url)
    until(lambda: sleepers("615.75"))
    testing.end(signal.SIGKILL)
    until(lambda: not sleepers("615.75"))
    [answer] = until(lambda: list(own_temporary_folder.rglob("answer.json")))
    run = json.loads(answer.read_bytes())["record"]["run"]
    assert (run["verdict"], run["because"]) == ("cancelled", "who tried this out is gone")
    [(copy,)] = database.rows(COPIES)
    assert drop_leftovers(database.url, copy.removeprefix(PREFIX)) == [copy] and database.rows(COPIES) == []


def test_a_run_that_is_killed_is_not_known_and_its_step_is_ended(make: Make, program: Program) -> None:
    text = SMALL.replace('{sql: "INSERT', '{shell: "sleep 617.25 & kill -9 $PPID; sleep 617.25"} # "')
    make(text=text, cases="dies: {verdict: failed}\n")
    ended = program("test", "small")
    assert ended.code == 6
    assert "reason: the run broke off: it was killed" in ended.err
    assert sleepers("617.25") == []


# --- mistakes ---------------------------------------------------------------------------------------------------------

MISTAKES: dict[str, tuple[str, str, str]] = {
    "an unknown key": ("a: {verdict: passed, sqll: x}", "2:24: cases.a.sqll: unknown key", "did you mean `sql`?"),
    "no verdict": ("a: {because: x}", "2:3: cases.a: `verdict` is missing", "The verdict that the run must come to."),
    "an unknown verdict": (
        "a: {verdict: pased}",
        '2:16: cases.a.verdict: "pased" is not one of',
        "did you mean `passed`?",
    ),
    "a bad name": ("a-b: {verdict: passed}", "2:3: cases.a-b: `a-b` cannot be a name here", "lower-case letters"),
    "a check that is not there": (
        "a: {verdict: passed, checks: {preflight.sone: refuted}}",
        "2:33: cases.a.checks.preflight.sone: the runbook has no `preflight.sone`",
        "did you mean `preflight.some`?",
    ),
    "a check of another section": (
        "a: {verdict: passed, checks: {preflight.whole: passed}}",
        "2:33: cases.a.checks.preflight.whole: the runbook has no `preflight.whole`",
        "did you mean `postconditions.whole`?",
    ),
    "a metric without its state": (
        "a: {verdict: passed, checks: {expectations.total: passed}}",
        "2:33: cases.a.checks.expectations.total: the runbook has no `expectations.total`",
        "did you mean `expectations.items.total`?",
    ),
    "a verdict that is none of a step": (
        "a: {verdict: passed, checks: {steps.add: refuted}}",
        "2:44: cases.a.checks.steps.add: `steps.add` never comes to `refuted`",
        "one of passed, failed, skipped, cancelled, not reached",
    ),
    "a param that is not there": (
        "a: {verdict: passed, params: {leest: 1}}",
        "2:33: cases.a.params.leest: there is no param `leest`",
        "did you mean `least`?",
    ),
    "a param that does not fit": (
        "a: {verdict: passed, params: {least: -1}}",
        "2:40: cases.a.params.least: -1 is less than the minimum 0",
        "",
    ),
    "a secret that is not there": (
        "a: {verdict: passed, secrets: {token: x}}",
        "2:34: cases.a.secrets.token: there is no secret `token`",
        "this runbook has no secrets",
    ),
    "a server as a variable": (
        "a: {verdict: passed, env: {DATABASE_URL: x}}",
        "2:30: cases.a.env.DATABASE_URL: `DATABASE_URL` is the server of connection `db`",
        "pass --database",
    ),
    "a number as a variable": (
        "a: {verdict: passed, env: {PORT: 1}}",
        "2:36: cases.a.env.PORT: must be text",
        "quotes",
    ),
    "a reason to pass": (
        "a: {verdict: passed, because: x}",
        "2:24: cases.a.because: a run that passes gives no reason",
        "leave it out",
    ),
    "a file that is not there": (
        "a: {verdict: passed, sql: {file: no.sql}}",
        "2:36: cases.a.sql.file: cannot be read: the file does not exist",
        "paths are relative to the runbook's folder",
    ),
    "an unknown connection": (
        "a: {verdict: passed, sql: SELECT 1, connection: dd}",
        "2:51: cases.a.connection: `dd` is not a postgres connection",
        "known here: `db`",
    ),
    "a connection for nothing": (
        "a: {verdict: passed, connection: db}",
        "2:24: cases.a.connection: `connection` has no meaning without sql",
        "",
    ),
    "the same name twice": ("a: {verdict: passed}\na: {verdict: passed}", "3:3: cases.a: ", ""),
    "no cases": ("{}", "2:3: cases: must not be empty", ""),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_its_place_and_its_cure(mistake: str, make: Make) -> None:
    text, place, cure = MISTAKES[mistake]
    path = make(cases=f"{text}\n")
    with pytest.raises(InvalidRunbook) as caught:
        load_cases(runbook.load(path))
    [problem] = caught.value.problems
    told = f"{problem.line}:{problem.column}: {problem.where}: {problem.message}"
    assert problem.file == str(path.with_suffix(".cases.yaml"))
    assert told.startswith(place) and cure in problem.hint, (told, problem.hint)


TWO_SERVERS = SMALL.replace("params:\n", "  other: {type: postgres, env: OTHER_URL, embedded: []}\nparams:\n").replace(
    "postconditions:\n", '  alone: {shell: test -z "$PGHOST"}\npostconditions:\n'
)


def test_sql_says_which_connection_where_there_are_several(make: Make, program: Program) -> None:
    text = TWO_SERVERS.replace("returns: value, ", "returns: value, connection: db, ")
    text = text.replace("FROM items}", "FROM items, connection: db}").replace(
        'series(1, 3)"', 'series(1, 3)", connection: db'
    )
    path = make(text=text, cases="a: {verdict: blocked, sql: DELETE FROM items}\n")
    with pytest.raises(InvalidRunbook) as caught:
        load_cases(runbook.load(path))
    assert caught.value.problems[0].message == "several postgres connections: say which"
    make(
        text=text,
        cases="""\
a: {verdict: blocked, sql: DELETE FROM items, connection: db}
b: {verdict: passed, sql: CREATE TABLE things (), connection: other, checks: {steps.alone: passed}}
""",
    )
    ended = program("test", "small", env={"PGHOST": "production.example"})
    assert ended.code == 0, ended.err


def test_all_files_are_read_before_anything_runs(make: Make, program: Program, own_temporary_folder: Path) -> None:
    make(name="good")
    make(name="bad", text="runbook: 1\nname: bad\nstepz: {}\n")
    make(name="worse", cases="a: {verdict: pased, params: {n: 1}}\n")
    ended = program("test", "good", "bad", "runbooks/worse.cases.yaml", "--json")
    assert ended.code == 5
    assert ended.document["cases"] == [] and len(ended.document["problems"]) == 2
    assert "runbooks/bad.yaml:3:1: stepz: unknown key" in ended.err
    assert "runbooks/worse.cases.yaml:2:16: cases.a.verdict" in ended.err
    assert list(own_temporary_folder.iterdir()) == []


def test_sql_that_fails_is_a_mistake_at_its_place(make: Make, write: Write, program: Program) -> None:
    make(
        cases="""\
here:
  sql: |
    DELETE FROM items;
    DELETE FROM itemz;
  verdict: blocked
there: {sql: {file: before.sql}, verdict: blocked}
goes_on: {verdict: passed}
"""
    )
    write("runbooks/before.sql", "DELETE FROM items;\n\n  INSERT INTO items VALUES (1/0);\n")
    ended = program("test", "small")
    assert ended.code == 5
    assert 'runbooks/small.cases.yaml:5:19: cases.here.sql: relation "itemz" does not exist' in ended.err
    assert "runbooks/before.sql:3:3: division by zero" in ended.err
    assert "3 cases: 1 as wanted, 2 could not be run" in ended.err


USAGE: dict[str, tuple[tuple[str, ...], str]] = {
    "an unknown case": (("--case", "ads"), "--case ads: there is no such case; did you mean `adds`?"),
    "a time without a unit": (("--timeout", "10"), "--timeout 10: a time is written 90s, 5m, 2h or 1h30m"),
    "an unknown connection": (("--database", "dc=postgresql://x/y"), "no such connection"),
}


@pytest.mark.parametrize("mistake", USAGE)
def test_a_misuse_is_told(mistake: str, make: Make, program: Program) -> None:
    arguments, told = USAGE[mistake]
    make(cases="adds: {verdict: passed}\n")
    ended = program("test", "small", *arguments)
    assert ended.code == 2 and told in ended.err


def test_only_the_named_case_is_run(make: Make, program: Program) -> None:
    make(cases="adds: {verdict: passed}\nother: {verdict: blocked}\n")
    ended = program("test", "small", "--case", "adds")
    assert ended.code == 0 and ended.err.splitlines()[-1] == "1 case: 1 as wanted"


def test_a_report_of_files_that_are_not_valid_is_not_green(make: Make, program: Program, write: Write) -> None:
    make(cases="adds: {verdict: pased}\n")
    report = write("junit.xml", "<testsuites/>")
    assert program("test", "small", "--junit", "junit.xml").code == 5
    suite = ElementTree.parse(report).getroot()[0]
    assert (suite.attrib["tests"], suite.attrib["errors"]) == ("1", "1")
    assert suite[0].attrib["name"] == "cases.adds.verdict"


def test_a_report_that_cannot_be_written_is_no_success(make: Make, program: Program, write: Write) -> None:
    make()
    write("file", "")
    ended = program("test", "small", "--junit", "file/junit.xml")
    assert ended.code == 6 and "error: --junit file/junit.xml: " in ended.err


def test_validate_reads_cases_too(write: Write, program: Program) -> None:
    write("small.yaml", "runbook: 1\nname: small\nsteps: {a: {command: ['true']}}\n")
    write("small.cases.yaml", "cases: {good: {verdict: passed}}\n")
    assert program("validate", "small.yaml", "small.cases.yaml").code == 0
    write("small.cases.yaml", "cases: {bad: {verdict: pased}}\n")
    refused = program("validate", "small.yaml", "small.cases.yaml")
    assert refused.code == 5 and "small.cases.yaml:1:24" in refused.err and "pased" in refused.err
