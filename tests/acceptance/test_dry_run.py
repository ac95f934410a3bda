"""`exec --dry-run`: what is known of a run is told, what cannot be known is said, and nothing is started or written."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from jsonschema import Draft202012Validator

from runbook.database.embedded import embedded_database
from runbook.operate.lock import lock_number
from tests.acceptance.helpers import DB, HEAD, ITEMS, NO_AUDIT, STATE, Background, Site
from tests.conftest import ROOT, WF3001, Database, Ended, Program

FILE = ROOT / "runbooks" / "wf3001.yaml"
SCHEMA = Draft202012Validator(json.loads((ROOT / "schemas" / "run.schema.json").read_text()))
NOTHING = "dry run: nothing known stands in the way"
XMAX = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
OBJECTS = "SELECT string_agg(oid::text, ',' ORDER BY oid) FROM (SELECT oid FROM pg_class UNION SELECT oid FROM pg_namespace) x"

Dry = Callable[..., Ended]
Write = Callable[..., Path]


@pytest.fixture
def dry(program: Program, write: Write) -> Dry:
    """A dry run of a small runbook, its record against the schema."""

    def dry(body: str, *arguments: str, database: str = "", **env: str) -> Ended:
        write("small.yaml", HEAD + body)
        known = {**env, "DATABASE_URL": database} if database else env
        ended = program("exec", "small.yaml", "--dry-run", "--json", *arguments, env=known)
        assert ended.out, ended.err
        SCHEMA.validate(ended.document)
        assert ended.document["run"]["dry_run"]
        assert "passed\n" not in ended.err[-30:]
        return ended

    return dry


def plan_of(ended: Ended) -> dict[str, dict[str, Any]]:
    return {line["where"]: line for line in ended.document["plan"]}


def states_of(ended: Ended) -> dict[str, str]:
    return {line["where"]: line["state"] for line in ended.document["plan"]}


def pointed(problem: dict[str, Any]) -> str:
    """What stands in the file where a problem points."""
    line: str = Path(problem["file"]).read_text().splitlines()[problem["line"] - 1]
    return line[problem["column"] - 1 :]


def tree_of(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file and folder below, with its time and its contents."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(folder))] = (path.stat().st_mtime_ns, digest)
    return found


# --- WF3001 -------------------------------------------------------------------------------------------------------


def wf3001(program: Program, database: Database, *arguments: str) -> Ended:
    ended = program("exec", str(FILE), "--dry-run", "--json", *arguments, env={"DATABASE_URL": database.url})
    SCHEMA.validate(ended.document)
    return ended


def test_on_a_good_database_nothing_stands_in_the_way(example: Database, program: Program) -> None:
    ended = wf3001(program, example)
    record, plan = ended.document, plan_of(ended)
    assert ended.code == 0, ended.err
    assert ended.err.strip().splitlines()[-1].startswith(NOTHING)
    assert (record["run"]["verdict"], record["run"]["exit_code"], record["run"]["id"]) == (None, 0, "")
    assert (record["problems"], record["report"], record["journal"]) == ([], None, None)
    assert record["preflight"]["pending"]["verdict"] == "passed"
    assert record["preflight"]["disk"]["verdict"] is None
    assert {step["verdict"] for step in record["steps"].values()} == {None}
    assert {check["verdict"] for check in record["postconditions"].values()} == {None}
    assert {item["verdict"] for item in record["expectations"].values()} == {None}
    assert record["expectations"]["postings.summaries"]["predicted"] > 0
    assert plan["steps.process"]["what"].endswith("run_workflow.py 3001 --mode batch --limit 500")
    assert plan["preflight.disk"] | {"because": ""} == {
        "where": "preflight.disk",
        "state": "would run",
        "what": "df -Pk .",
        "because": "",
        "line": FILE.read_text().splitlines().index("  disk:") + 1,
    }
    told = {"before.postings": "evaluated", "preflight.pending": "evaluated", "expectations.postings.ihl": "evaluated"}
    told |= {"audit.started": "would run", "steps.process": "would run", "postconditions.failures": "would run"}
    told |= {"postconditions.account": "cannot know", "audit.finished": "cannot know"}
    told |= {"remedies.reset-stuck.sql": "evaluated"}
    assert told.items() <= states_of(ended).items()
    assert plan["postconditions.account"]["because"] == "steps.process has not run"
    for state in ("evaluated", "would run", "cannot know"):
        assert f"\n  {state}" in ended.err


def test_nothing_is_written_on_the_server_or_on_disk(program: Program, tmp_path: Path, write: Write) -> None:
    for path in (FILE, *WF3001):
        write(f"runbooks/{path.relative_to(FILE.parent)}", path.read_text())
    homes = {"HOME": "home", "XDG_CACHE_HOME": "cache", "XDG_STATE_HOME": "state", "TMPDIR": "tmp"}
    env = {name: str(tmp_path / folder) for name, folder in homes.items()}
    for folder in homes.values():
        (tmp_path / folder).mkdir()
    with embedded_database(tmp_path / "server", "alone", WF3001) as server, psycopg.connect(server.url) as look:
        look.autocommit = True
        (tmp_path / "work").mkdir()
        files = {name: tree_of(tmp_path / name) for name in ("work", "runbooks", *homes.values())}
        before = [look.execute(sql).fetchone() for sql in (XMAX, OBJECTS)]
        ended = program(
            "exec", "../runbooks/wf3001", "--dry-run", env={**env, "DATABASE_URL": server.url}, cwd=tmp_path / "work"
        )
        assert ended.code == 0, ended.err
        assert [look.execute(sql).fetchone() for sql in (XMAX, OBJECTS)] == before
        assert {name: tree_of(tmp_path / name) for name in files} == files
        look.execute("CREATE TABLE proof (n integer)")
        assert [look.execute(sql).fetchone() for sql in (XMAX, OBJECTS)] != before


def test_on_an_empty_database_the_missing_tables_are_pointed_at(database: Database, program: Program) -> None:
    ended = wf3001(program, database)
    assert (ended.code, ended.document["run"]["verdict"]) == (5, None)
    refused = [problem for problem in ended.document["problems"] if problem["kind"] == "invalid"]
    missing = {problem["message"].split('"')[1]: problem for problem in refused}
    assert {"postings", "interactions", "workflows", "workflow_runs", "actors"} <= set(missing)
    for table, problem in missing.items():
        assert pointed(problem).startswith(table)
    first = next(problem for problem in refused if problem["where"] == "state.postings.sql")
    assert f"wf3001.yaml:{first['line']}:{first['column']}: state.postings.sql: relation" in ended.err
    assert f"{first['line']:>5} |       FROM postings\n      |            ^^^^^^^^" in ended.err


def test_a_column_that_is_missing_is_pointed_at(example: Database, program: Program) -> None:
    example.run("ALTER TABLE interactions DROP COLUMN output")
    ended = wf3001(program, example)
    assert ended.code == 5
    found = {problem["where"]: problem for problem in ended.document["problems"]}
    assert set(found) == {"postconditions.failures.sql", "postconditions.errors.sql", "audit.finished.sql"}
    assert all("output" in problem["message"] and pointed(problem).startswith("output") for problem in found.values())
    assert "or steps.process makes it first" in found["postconditions.failures.sql"]["hint"]
    assert "output->>'error' AS error_type" in ended.err and "^^^^^^" in ended.err
    assert {problem["kind"] for problem in found.values()} == {"invalid"}


def test_a_refuted_preflight_blocks(example: Database, program: Program) -> None:
    ended = wf3001(program, example, "-p", "mode=single_posting")
    assert (ended.code, ended.document["run"]["verdict"]) == (3, "blocked")
    assert "preflight.request refuted: posting_id goes with mode=single_posting" in ended.document["run"]["because"]
    assert states_of(ended)["steps.process"] == "would run"
    assert "dry run: " in ended.err.splitlines()[-1] and "nothing known" not in ended.err.splitlines()[-1]


def test_a_server_that_is_away(program: Program) -> None:
    ended = program("exec", str(FILE), "--dry-run", "--json", "--database", "postgresql://nobody@127.0.0.1:1/none")
    SCHEMA.validate(ended.document)
    run = ended.document["run"]
    assert (ended.code, run["verdict"], run["exit_code"], run["dry_run"]) == (6, "errored", 6, True)
    assert "connection `db`" in ended.err


def test_validate_has_the_same_statements_prepared(example: Database, database: Database, program: Program) -> None:
    ended = program("validate", str(FILE), "--database", example.url)
    assert ended.code == 0 and "no problems" in ended.err, ended.err
    ended = program("validate", str(FILE), "--database", database.url, "--json")
    assert ended.code == 5
    assert all(pointed(problem).startswith(problem["message"].split('"')[1]) for problem in ended.document["problems"])
    assert {problem["where"] for problem in ended.document["problems"]} > {"preflight.stuck.sql", "audit.finished.sql"}


def test_values_are_shown_at_their_place(dry: Dry, database: Database) -> None:
    body = """params: {n: {default: 3}, word: {default: a b}}
steps:
  ask: {sql: "SELECT {{ params.n }} + 1, {{ params.word }}::text"}
  say: {shell: "echo {{ params.word }} x"}
"""
    plan = plan_of(dry(DB + body, database=database.url))
    assert plan["steps.ask"]["what"] == "SELECT $1 + 1, $2::text"
    assert '$1 = 3, $2 = "a b"' in plan["steps.ask"]["because"]
    assert plan["steps.say"]["what"] == "echo 'a b' x"


# --- what is asked, and what is not ----------------------------------------------------------------------------------


def test_only_what_is_sure_to_read_is_asked(dry: Dry, site: Site, tmp_path: Path) -> None:
    site.put("/seen", {"total": 4})
    body = f"""connections: {{site: {{type: http, env: SITE}}}}
state:
  orders: {{http: {{get: /seen}}}}
  counted: {{command: [touch, {tmp_path}/counted]}}
preflight:
  asked: {{http: {{get: /seen}}, expect: result.total == 4}}
  posted: {{http: {{post: "/made/{{{{ before.orders.total }}}}"}}, expect: result.ok}}
  ran: {{command: [touch, {tmp_path}/ran], expect: exit_code == 0}}
  there: {{file: small.yaml, expect: result.exists}}
  depends: {{expect: preflight.ran == ''}}
  half: {{http: {{get: /seen}}, expect: result.total == preflight.ran}}
  settled: {{http: {{get: /seen}}, expect: [result.total == preflight.ran, result.total == 5], severity: warn}}
expectations:
  orders.total: {{delta: before.orders.total}}
  counted.n: {{delta: preflight.ran | length}}
steps:
  tell: {{http: {{post: /told, json: {{n: "{{{{ before.orders.total }}}}"}}}}}}
postconditions:
  later: {{http: {{get: "/seen/{{{{ steps.tell.status }}}}"}}, expect: result.ok}}
"""
    ended = dry(body, SITE=site.url.replace("://", "://me:hushhush@"))
    assert ended.code == 0, ended.err
    assert {(request.method, request.path) for request in site.asked} == {("GET", "/seen")}
    assert not (tmp_path / "ran").exists() and not (tmp_path / "counted").exists()
    plan = plan_of(ended)
    would_run = {"before.counted", "preflight.posted", "preflight.ran", "steps.tell", "after"}
    open_ = {"preflight.depends", "preflight.half", "expectations.counted.n", "postconditions.later"}
    states = states_of(ended)
    assert {name for name, state in states.items() if state == "would run"} == would_run
    assert {name for name, state in states.items() if state == "cannot know"} == open_
    assert plan["preflight.posted"]["what"] == f"POST {site.url}/made/4"
    assert plan["preflight.depends"]["because"].endswith("preflight.ran is not asked in a dry run")
    assert plan["preflight.half"]["what"] == '{"total": 4}'
    assert plan["preflight.settled"]["what"].startswith("refuted")  # one condition is false whatever the other is
    assert plan["postconditions.later"]["because"] == "steps.tell has not run"
    assert [name for name, check in ended.document["preflight"].items() if check["verdict"] is None] == [
        "posted",
        "ran",
        "depends",
        "half",
    ]
    assert "hushhush" not in ended.out + ended.err


def test_what_depends_on_an_earlier_step_cannot_be_known(dry: Dry, database: Database) -> None:
    database.run(ITEMS)
    body = """steps:
  first: {command: [echo, "1"]}
  second: {command: [echo, "{{ steps.first.stdout }}"]}
  third: {sql: "INSERT INTO {{ 'items' | identifier }} VALUES ({{ steps.first.json }}), ({{ before.items.total }})"}
  fourth: {command: [echo, x], when: steps.first.exit_code == 0}
  fifth: {command: [echo, x], when: before.items.total > 0}
  sixth: {command: [no-such-program, "{{ steps.first.stdout }}"], when: before.items.total > 0}
  seventh: {command: [echo, x], when: before.items.total == 0, retry: {attempts: 3, delay: 2s}, timeout: 5m}
on_failure:
  tidy: {command: [echo, "{{ run.id }}"]}
finally:
  end: {command: [echo, "{{ run.outcome }}"]}
"""
    ended = dry(DB + STATE + body, database=database.url)
    assert ended.code == 0, ended.err
    plan, states = plan_of(ended), states_of(ended)
    assert {name: states[name] for name in states if name.startswith(("steps", "on_failure", "finally"))} == {
        "steps.first": "would run",
        "steps.second": "cannot know",
        "steps.third": "cannot know",
        "steps.fourth": "cannot know",
        "steps.fifth": "evaluated",
        "steps.sixth": "evaluated",
        "steps.seventh": "would run",
        "on_failure.tidy": "cannot know",
        "finally.end": "cannot know",
    }
    assert plan["steps.second"]["because"].startswith("steps.first has not run")
    assert plan["steps.second"]["what"] == "echo {{ steps.first.stdout }}"
    assert plan["steps.third"]["because"].startswith("steps.first has not run; the server prepared it")
    assert plan["steps.fourth"]["because"].startswith("when: steps.first has not run")
    assert plan["steps.fifth"]["what"] == "would be skipped"
    assert "where before.items.total = 0" in plan["steps.fifth"]["because"]
    assert "at most 5 min 00 s; up to 3 attempts, 2.0 s apart" in plan["steps.seventh"]["because"]
    assert "-dry-run" in plan["on_failure.tidy"]["what"]
    assert plan["finally.end"]["because"].startswith("run.outcome is known at the end")
    assert database.value("SELECT count(*) FROM items") == 0


def test_a_check_that_would_be_asked_again_is_asked_once(dry: Dry, database: Database) -> None:
    body = """preflight:
  soon: {sql: SELECT 1, returns: value, expect: result == 2, until: {every: 1s, timeout: 10m}}
  now: {sql: SELECT 2, returns: value, expect: result == 2, until: {every: 1s, timeout: 10m}}
  both: {expect: preflight.soon == preflight.now}
"""
    began = time.monotonic()
    ended = dry(DB + body, database=database.url)
    assert time.monotonic() - began < 30
    assert ended.code == 0, ended.err
    assert states_of(ended)["preflight.soon"] == states_of(ended)["preflight.both"] == "cannot know"
    assert "does not hold now (result == 2   where result = 1); a run asks again for 10 min" in ended.err
    assert ended.document["preflight"]["now"]["verdict"] == "passed"


def test_statements_after_a_change_of_the_schema_cannot_be_known(dry: Dry, database: Database) -> None:
    body = """steps:
  make: {sql: "CREATE TABLE made (n integer); INSERT INTO made VALUES (1)"}
  fill: {sql: INSERT INTO made VALUES (2)}
postconditions:
  made: {sql: SELECT count(*) FROM made, returns: value, expect: result == 2}
"""
    ended = dry(DB + body, database=database.url)
    assert ended.code == 0, ended.err
    assert states_of(ended)["steps.make"] == "would run"
    assert states_of(ended)["steps.fill"] == states_of(ended)["postconditions.made"] == "cannot know"
    assert plan_of(ended)["steps.fill"]["because"].startswith("steps.make changes the schema before it")


# --- what stands in the way ---------------------------------------------------------------------------------------

OBSTACLES = {
    "no program": ("steps:\n  go: {command: [no-such-program, x]}\n", "steps.go: no such program: `no-such-program`"),
    "its arguments not known": (
        "steps:\n  a: {command: [echo]}\n  go: {command: [no-such-program, '{{ steps.a.stdout }}']}\n",
        "steps.go: no such program",
    ),
    "no path": ("steps:\n  go: {command: [ls], env: {PATH: /nowhere}}\n", "steps.go: no such program: `ls`"),
    "no folder": ("steps:\n  go: {command: [ls], cwd: nowhere}\n", "steps.go: no such folder: `"),
    "no execute": ("steps:\n  go: {command: [./small.yaml]}\n", "steps.go: not executable: `"),
    "no host": ("steps:\n  go: {http: {get: 'http://no.such.host.invalid/x'}}\n", "the host `no.such.host.invalid` is"),
    "no value": ("params: {n: {default: null}}\nsteps:\n  go: {command: [echo, '{{ params.n }}']}\n", "is null"),
    "no probe": ("preflight:\n  a: {command: [no-such-program]}\n", "preflight.a: no such program"),
    "no probe afterwards": (
        "postconditions:\n  a: {command: [no-such-program]}\n",
        "postconditions.a: no such program",
    ),
    "no place for the run log": ("report: {path: small.yaml/a/b.md}\n", "report.path: "),
    "no condition": ("steps:\n  go: {command: [ls], when: params.n > 1}\nparams: {n: {default: null}}\n", "when:"),
    "a file that is not there": ("preflight:\n  a: {file: nowhere}\n", "preflight.a unknown: there is no file"),
}


@pytest.mark.parametrize("case", OBSTACLES)
def test_what_is_known_to_stand_in_the_way(case: str, dry: Dry) -> None:
    body, message = OBSTACLES[case]
    ended = dry(body)
    assert (ended.code, ended.document["run"]["verdict"]) == (6, "errored"), ended.err
    assert message in ended.document["run"]["because"]
    assert message in ended.document["problems"][0]["message"]
    assert message in ended.err.partition("What stands in the way")[2]
    assert ended.document["problems"][0]["line"] > 0
    assert "1 thing stands in the way" in ended.err.splitlines()[-1]


IN_DATABASE = {
    "the role may not": ("steps:\n  go: {sql: INSERT INTO items VALUES (1)}\n", "permission denied for table items", 6),
    "the role may not what is not whole": (
        "steps:\n  a: {sql: SELECT 1}\n  go: {sql: 'INSERT INTO items VALUES ({{ steps.a.rowcount }})'}\n",
        "permission denied for table items",
        6,
    ),
    "a value does not fit": ("steps:\n  go: {sql: \"SELECT {{ 'x' }}::integer\"}\n", "invalid input syntax", 6),
    "a metric is null": ("expectations:\n  nulls.n: {delta: 1}\n", "nulls.n before: is null, not a number", 6),
    "a state is not measured": ("state:\n  a: {sql: SELECT 1/0 AS n}\n", "before.a could not be measured: division", 6),
    "a check is unknown": ("preflight:\n  a: {sql: SELECT 1/0}\n", "preflight.a unknown: division by zero", 6),
    "a prediction is unknown": ("expectations:\n  nulls.m: {delta: before.nulls.n + 1}\n", "could not be predicted", 6),
    "a metric is not there": ("expectations:\n  nulls.x: {delta: 1}\n", "state `nulls` does not measure `x`", 5),
    "a step": ("steps:\n  go: {sql: SELECT wrong FROM items}\n", 'column "wrong" does not exist', 5),
    "a remedy": ("remedies:\n  r: {sql: DELETE FROM wrong, max_rows: 1}\n", 'relation "wrong" does not exist', 5),
    "a finally": ("finally:\n  f: {sql: SELECT wrong()}\n", "function wrong() does not exist", 5),
    "a postcondition": ("postconditions:\n  a: {sql: SELECT 1 FROM wrong}\n", 'relation "wrong" does not exist', 5),
    "refused before refuted": (
        "preflight:\n  a: {expect: 1 > 2}\nsteps:\n  go: {sql: SELECT wrong}\n",
        'column "wrong" does not exist',
        5,
    ),
    "refuted before unknown": ("preflight:\n  a: {sql: SELECT 1/0}\n  b: {expect: 1 > 2}\n", "preflight.b refuted", 3),
    "refuted at the end": ("postconditions:\n  a: {expect: before.items.total > 1}\n", "will be refuted", 3),
}


@pytest.mark.parametrize("case", IN_DATABASE)
def test_what_the_server_is_known_to_refuse(case: str, dry: Dry, database: Database) -> None:
    body, message, code = IN_DATABASE[case]
    database.run(f"{ITEMS}; CREATE VIEW nulls AS SELECT NULL::integer AS n, 1 AS m")
    nulls = "  nulls: {sql: SELECT * FROM nulls}\n"
    state = "" if body.startswith("state") else STATE + nulls
    url = database.read_url + "&options=-cdefault_transaction_read_only%3Doff"
    ended = dry(DB + NO_AUDIT + state + body, database=url)
    assert (ended.code, ended.document["run"]["exit_code"]) == (code, code), ended.err
    assert ended.document["run"]["verdict"] == {3: "blocked", 5: None, 6: "errored"}[code]
    assert message in ended.document["run"]["because"]
    assert any(message in problem["message"] for problem in ended.document["problems"])


def test_warnings_stand_in_the_way_only_with_strict(dry: Dry, database: Database) -> None:
    database.run(ITEMS)
    body = """preflight:
  a: {expect: 1 > 2, severity: warn}
  b: {command: [no-such-program], severity: warn}
  c: {sql: SELECT * FROM nowhere, severity: warn}
"""
    ended = dry(DB + body, database=database.url)
    assert ended.code == 0, ended.err
    assert ended.err.count("a warning, which does not decide") == 3
    assert dry(DB + body, "--strict", database=database.url).code == 5
    assert dry(DB + body.partition("  b:")[0], "--strict", database=database.url).code == 3


def test_an_override_is_told(dry: Dry, database: Database) -> None:
    body = "preflight:\n  a: {expect: 1 > 2}\n"
    ended = dry(DB + body, "--override", "a", "--reason", "Ada said so", database=database.url)
    assert ended.code == 0, ended.err
    assert "gone past: Ada said so" in plan_of(ended)["preflight.a"]["because"]
    assert ended.document["preflight"]["a"]["overridden"] == "Ada said so"


def test_an_audit_that_cannot_be_written_stands_in_the_way(dry: Dry, database: Database) -> None:
    ended = dry(DB, database=database.read_url)
    assert ended.code == 6 and "the server takes no writes" in ended.err
    ended = dry(DB, database=database.read_url + "&options=-cdefault_transaction_read_only%3Doff")
    assert ended.code == 6 and "may not create the schema `runbook`" in ended.err


def test_secrets_are_masked(dry: Dry, database: Database) -> None:
    body = """secrets: {token: {env: TOKEN}}
params: {other: {type: string}}
preflight:
  a: {sql: "SELECT {{ secrets.token }}::text", returns: value}
  b: {command: [curl, "https://{{ params.other }}/"], env: {T: "{{ secrets.token }}"}}
steps:
  go: {command: [no-such-program, "{{ params.other }}", "{{ preflight.a }}"]}
"""
    secret = "hush-hush-4711"
    ended = dry(DB + body, "-p", f"other={secret}", database=database.url, TOKEN=secret)
    assert ended.code == 6
    assert secret not in ended.out + ended.err and "***" in ended.err


def test_locks_are_looked_at(dry: Dry, database: Database, start: Callable[..., Background], write: Write) -> None:
    with psycopg.connect(database.url, application_name="runbook 20251210_143522-417-3f9a 77@far Ada") as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [lock_number("small")])
        ended = dry(DB, database=database.url)
        assert (ended.code, ended.document["run"]["verdict"]) == (7, "locked")
        assert "held by run 20251210_143522-417-3f9a, on far, pid 77, operator Ada" in ended.err
    write("small.yaml", HEAD + "steps:\n  go: {command: [sleep, '60']}\n")
    running = start("exec", "small.yaml")
    running.reached("step.started")
    ended = dry("steps:\n  go: {command: [sleep, '60']}\n")
    assert ended.code == 7 and "held by run 2" in ended.err, ended.err
    assert running.process.poll() is None
    running.kill()
    assert dry("steps:\n  go: {command: [sleep, '60']}\n").code == 0


@pytest.mark.parametrize("other", [["--detach"], ["--wait"], ["--resume", "last"], ["--rehearse"]])
def test_what_starts_or_waits_has_no_place_beside_it(other: list[str], program: Program, write: Write) -> None:
    write("small.yaml", HEAD)
    ended = program("exec", "small.yaml", "--dry-run", *other)
    assert ended.code == 2 and f"{other[0]} has no place beside it" in ended.err


def test_params_and_names_are_refused_as_ever(dry: Dry) -> None:
    body = "params: {n: {type: integer}}\nlock: small-{{ params.n }}\n"
    assert dry(body).code == 5
    assert dry(body, "-p", "n=x").code == 5
    ended = dry(body, "-p", "n=3")
    assert ended.code == 0 and plan_of(ended)["lock"]["what"] == "small-3: free"


def test_ctrl_c_ends_it(database: Database, start: Callable[..., Background], write: Write) -> None:
    write("small.yaml", HEAD + DB + "preflight:\n  slow: {sql: SELECT pg_sleep(60)}\n")
    begun = start("exec", "small.yaml", "--dry-run", "--json", env={"DATABASE_URL": database.url})
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()"
    while not database.value(asleep):
        time.sleep(0.05)
    ended = begun.end(signal.SIGINT)
    assert ended.code == 130, ended.err
    assert ended.document["run"]["verdict"] == "cancelled"


def test_an_embedded_database_that_has_to_be_made_is_told(dry: Dry, tmp_path: Path, write: Write) -> None:
    write("items.sql", ITEMS)
    body = "connections:\n  db: {type: postgres, env: DATABASE_URL, embedded: [items.sql]}\n" + STATE
    ended = dry(body)
    assert ended.code == 0, ended.err
    assert "its database had to be made to be looked at" in ended.err
    assert {path.name for path in (tmp_path / ".runbook").iterdir()} <= {"embedded"}
    assert plan_of(ended)["before.items"]["what"] == "total 0"
    assert "had to be made" not in dry(body).err


def test_ci_counts_nothing_as_passed_that_did_not_run(dry: Dry, database: Database, tmp_path: Path) -> None:
    database.run(ITEMS)
    body = """preflight:
  a: {sql: SELECT 1, returns: value, expect: result == 1}
  b: {command: ["true"], expect: exit_code == 0}
steps:
  go: {sql: SELECT wrong}
postconditions:
  c: {expect: delta.items.total == 0}
"""
    ended = dry(DB + STATE + body, "--junit", "j.xml", database=database.url)
    assert ended.code == 5
    report = (tmp_path / "j.xml").read_text()
    assert report.count("<skipped") == 3 and report.count("<error") == 1 and "does not exist" in report
