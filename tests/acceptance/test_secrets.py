"""A canary in every stream, file and row: it must be counted nowhere, and the step that names it must get it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.acceptance.helpers import DB, HEAD, Run, Site
from tests.conftest import Database, Program

CANARY = 'kanari/+"ä geheim=%7'
FORMS = {
    "raw": CANARY,
    "json": json.dumps(CANARY)[1:-1],
    "json utf-8": json.dumps(CANARY, ensure_ascii=False)[1:-1],
    "url": quote(CANARY, safe=""),
    "path": quote(CANARY),
    "base64": base64.b64encode(CANARY.encode()).decode(),
    "base64 of more": base64.b64encode(b"user:" + CANARY.encode() + b":end").decode()[8:28],
}
SAY = """import base64, json, os, sys, time, urllib.parse
s = os.environ["GIVEN"]
open("got", "w").write(s)
print("raw", s); print(json.dumps({"s": s})); print(json.dumps(s, ensure_ascii=False))
print(urllib.parse.quote(s, safe=""), urllib.parse.quote(s), urllib.parse.quote_plus(s))
print(base64.b64encode(s.encode()).decode(), base64.b64encode(b"user:" + s.encode() + b":end").decode())
for char in s:
    sys.stderr.write(char); sys.stderr.flush(); time.sleep(0.002)
sys.stderr.write("\\n")
sys.exit(int(sys.argv[1]))
"""
BODY = """secrets:
  token: {env: CANARY}
state:
  one: {sql: SELECT 1 AS n}
preflight:
  sql:
    sql: SELECT {{ secrets.token }}::text AS s
    returns: value
    expect: result == 'x'
    severity: warn
    message: "{{ result }}"
  fails: {sql: "SELECT {{ secrets.token }}::int", returns: value, severity: warn}
  http: {http: {connection: web, get: /echo, auth: {bearer: secrets.token}}, expect: "json.said == 'x'", severity: warn}
  command: {command: [printenv, GIVEN], env: {GIVEN: "{{ secrets.token }}"}, expect: "result == 'x'", severity: warn}
  plain: {command: [printenv, CANARY], severity: warn}
steps:
  says: {command: [python, say.py, 0], env: {GIVEN: "{{ secrets.token }}"}}
  inherits: {shell: 'echo "inherited: $CANARY" > inherited'}
  sql: {sql: "SELECT {{ secrets.token }}::text AS s", returns: value}
  dies: {command: [python, say.py, 3], env: {GIVEN: "{{ secrets.token }}"}, message: "it said {{ stdout }}"}
on_failure:
  sql_dies: {sql: "SELECT {{ secrets.token }}::int"}
audit:
  started: {sql: "SELECT length({{ secrets.token }}::text)"}
"""


def occurrences(haystack: str) -> dict[str, int]:
    return {name: haystack.count(form) for name, form in FORMS.items() if form in haystack}


def test_the_canary_is_nowhere(
    database: Database, site: Site, program: Program, write: Callable[..., Path], tmp_path: Path
) -> None:
    site.put("/echo", {"said": CANARY, CANARY: 1}, X_Said=quote(CANARY))
    write("say.py", SAY)
    write("small.yaml", HEAD + DB + "  web: {type: http, env: WEB}\n" + BODY)
    env = {"DATABASE_URL": database.url, "WEB": site.url, "CANARY": CANARY}
    ended = program("exec", "small.yaml", "--json", "--note", f"note {CANARY}", "--operator", CANARY, env=env)
    assert ended.code == 4, ended.err
    shown = program("show", "last", env={})
    assert occurrences(ended.out + shown.out) == {} and occurrences(ended.err + shown.err) == {}
    for path in [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "got"]:
        assert occurrences(path.read_bytes().decode("utf-8", "replace")) == {}, path
    for table in ("runs", "events", "closings", "leases"):
        rows = database.rows(f"SELECT row_to_json(t)::text FROM runbook.{table} t")
        assert rows and occurrences("\n".join(row[0] for row in rows)) == {}, table
    assert "***" in ended.err and "***" in Path(ended.document["report"]).read_text()
    assert (tmp_path / "got").read_text() == CANARY
    assert (tmp_path / "inherited").read_text() == "inherited: \n"
    assert ended.document["preflight"]["plain"]["verdict"] == "unknown"
    assert ended.document["steps"]["says"]["verdict"] == ended.document["steps"]["sql"]["verdict"] == "passed"
    assert database.value("SELECT line::jsonb->'data'->'value' FROM runbook.events WHERE kind = 'audit.row'") == len(
        CANARY
    )


def test_the_test_is_not_blind(program: Program, write: Callable[..., Path]) -> None:
    write(
        "small.yaml",
        HEAD
        + "steps:\n  says: {command: [python, say.py, 0], env: {GIVEN: '{{ params.t }}'}}\nparams:\n  t: {type: string}\n",
    )
    write("say.py", SAY)
    ended = program("exec", "small.yaml", "-p", f"t='{CANARY}'", "--json")
    assert set(occurrences(ended.err)) == set(FORMS)


def test_passwords_in_urls_are_secrets(
    database: Database, program: Program, write: Callable[..., Path], tmp_path: Path
) -> None:
    write("small.yaml", HEAD + DB + "steps:\n  s: {shell: 'echo $DATABASE_URL; echo $PGPASSWORD'}\n")
    url = database.url.replace("runbook_owner@", "runbook_owner:pass-9f3e1c@")
    ended = program("exec", "small.yaml", "--json", "--database", url)
    assert ended.code == 0, ended.err
    everything = (
        ended.out
        + ended.err
        + "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file() and p.name != "small.yaml")
    )
    rows = database.rows("SELECT line FROM runbook.events")
    assert "pass-9f3e1c" not in everything + str(rows)
    away = program("exec", "small.yaml", "--json", "--database", "postgresql://me:pass-9f3e1c@127.0.0.1:9/x")
    assert away.code == 6 and "pass-9f3e1c" not in away.out + away.err


@pytest.mark.parametrize(("value", "said"), [("abc", "fewer than 4"), (None, "CANARY is not set")])
def test_a_secret_that_is_missing_or_too_short_is_refused(
    value: str | None, said: str, program: Program, write: Callable[..., Path], tmp_path: Path
) -> None:
    write("small.yaml", HEAD + "secrets:\n  token: {env: CANARY}\nsteps:\n  s: {command: [touch, ran]}\n")
    ended = program("exec", "small.yaml", env={"CANARY": value} if value else {})
    assert ended.code == 6 and said in ended.err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["lock: '{{ params.t }}'", "report: {path: 'logs/{{ params.t }}.md'}"])
def test_a_param_that_is_the_secret_may_not_stand_in_the_open(
    place: str, program: Program, write: Callable[..., Path], tmp_path: Path
) -> None:
    body = "params:\n  t: {type: string}\nsecrets:\n  token: {env: CANARY}\nsteps:\n  s: {command: [touch, ran]}\n"
    write("small.yaml", f"{HEAD}{place}\n{body}")
    ended = program("exec", "small.yaml", "-p", "t=canary-4711", "--json", env={"CANARY": "canary-4711"})
    assert ended.code == 5 and "canary-4711" not in ended.out + ended.err
    assert not (tmp_path / "ran").exists()


def test_a_commands_answer_keeps_its_facts_where_a_secret_is_declared(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "canary-4711")
    body = "secrets: {t: {env: CANARY}}\npreflight:\n  a: {command: [echo, '{\"a\": 1}'], expect: result.json.a == 1}\n"
    assert run(body)["run"]["verdict"] == "passed"
