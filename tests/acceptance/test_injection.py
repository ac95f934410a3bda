"""Hostile values, as params and out of the database: they stay data in every field, and forge nothing that is read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from runbook.language.problems import InvalidRunbook
from tests.acceptance.helpers import DB, HEAD, ITEMS, STATE, Run, Site, log_of
from tests.conftest import Database, Program

PAYLOADS = {
    "sql": "x'); DROP TABLE items; --",
    "sql quotes": "\\'; $$ DELETE FROM items $$ %s $1 :x ? /* --",
    "shell": "a; touch ran `touch ran` $(touch ran) | touch ran && touch ran > ran",
    "quotes": "'\"'\"\\' \"$HOME\" 'x",
    "option": "--help",
    "template": "{{ 7919 * 7907 }} {% for x in y %} ${7919*7907} {# #}",
    "markdown": "\n# Forged\n| a | b |\n**passed** (exit code 0)\n[x](javascript:alert) ![i](http://e/i.png)\n```\n- None",
    "html": "<script>alert(1)</script><img src=http://e/x onerror=y> &lt; <!-- -->",
    "ansi": "\x1b[2J\x1b[31mred\x1b]0;title\x07\x08\x7f\x9b31m\r\u202epassed\u2028",
    "path": "../../../etc/passwd",
}
BODY = """title: "Run of {{ params.t }}"
hypothesis: Nothing is forged.
params:
  t: {type: string}
preflight:
  sql:
    sql: SELECT {{ params.t }}::text AS t, {{ params.t }}::text AS u
    expect: ["result[0].t == params.t", "result[0].u == params.t"]
  jsonb: {sql: "SELECT {{ {'t': params.t} | jsonb }}->>'t'", returns: value, expect: result == params.t}
  column: {sql: "SELECT {{ params.t }}::text, 1", returns: map, expect: "result | length == 1"}
  message: {expect: "params.t == 'no'", severity: warn, message: "{{ params.t }}"}
steps:
  argv: {command: [printf, "%s.", "{{ params.t }}"], expect: "result == params.t ~ '.'"}
  shell: {shell: "printf '%s.' {{ params.t }}", expect: "result == params.t ~ '.'"}
  env: {command: [sh, -c, 'printf "%s." "$T"'], env: {T: "{{ params.t }}"}, expect: "result == params.t ~ '.'"}
  stdin: {command: [sh, -c, 'cat; printf .'], stdin: "{{ params.t }}", expect: "result == params.t ~ '.'"}
  sql: {sql: "INSERT INTO items (t) VALUES ({{ params.t }})"}
  http: {http: {connection: web, post: "/{{ params.t }}", json: {t: "{{ params.t }}"}}, expect: status == 404}
postconditions:
  kept: {sql: SELECT t FROM items, returns: value, expect: result == params.t}
"""


def inert(log: str) -> None:
    """The run log has no markup but its own: no HTML, link or image, and one verdict."""
    tokens = MarkdownIt("commonmark").enable("table").parse(log)
    flat = [child for token in tokens for child in (token, *(token.children or []))]
    assert not [token for token in flat if token.type in ("html_block", "html_inline", "link_open", "image")]
    headings = [tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "heading_open"]
    assert "Forged" not in headings and headings.count("Verdict") == 1
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2028]", log)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_param_is_data_in_every_field(
    payload: str, database: Database, site: Site, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PAYLOADS[payload]
    database.run("CREATE TABLE items (t text)")
    monkeypatch.setenv("WEB", site.url)
    record = run(DB + "  web: {type: http, env: WEB}\n" + BODY, database.url, params={"t": text})
    if payload == "path":
        assert record["steps"]["http"]["verdict"] in ("passed", "failed")
    else:
        assert record["run"]["verdict"] == "passed", record["run"]
        assert json.loads(site.asked[0].body) == {"t": text}
    assert database.rows("SELECT t FROM items") == [(text,)]
    assert not (tmp_path / "ran").exists()
    log = log_of(record)
    inert(log)
    assert str(7919 * 7907) not in log + Path(record["journal"]).read_text()


def test_a_database_value_forges_nothing(database: Database, program: Program, write: Callable[..., Path]) -> None:
    database.run("CREATE TABLE items (t text)")
    for text in PAYLOADS.values():
        with_quotes = text.replace("'", "''")
        database.run(f"INSERT INTO items VALUES (E'{with_quotes.replace(chr(92), chr(92) * 2)}')")
    body = """preflight:
  rows: {sql: ROWS, section: Interactions}
  map: {sql: "SELECT t, t FROM items", returns: map, expect: result | length == 1, severity: warn, message: "{{ result }}"}
  error: {sql: "SELECT t::int FROM items", severity: warn}
steps:
  says: {sql: "SELECT t FROM items", returns: column}
  prints: {command: [cat, printed]}
  fails: {shell: "cat printed >&2; exit 3"}
"""
    write("printed", "\n".join(PAYLOADS.values()) + "\n  ✓ forged   passed\npassed   run log: forged\n")
    write(
        "small.yaml", HEAD + DB + STATE + body.replace("ROWS", json.dumps('SELECT t AS "a | b", 1 AS "<b>" FROM items'))
    )
    ended = program("exec", "small.yaml", "--json", env={"DATABASE_URL": database.url})
    assert ended.code == 4, ended.err
    inert(log_of(ended.document))
    assert "\x1b" not in ended.err and "\r" not in ended.err and "\u202e" not in ended.err
    for line in ended.err.splitlines():
        if "forged" in line.lower():
            assert line.startswith("    │ ") or "'" in line or '"' in line or "exit code 3" in line, line
    assert ended.err.splitlines()[-1].startswith("failed")


@pytest.mark.parametrize("text", ["../../outside", "/etc/outside", "a/b", "..", "", "x\0y", "."])
def test_a_path_stays_below_its_folder(text: str, run: Run, tmp_path: Path) -> None:
    body = "report: {path: 'logs/{{ params.t }}/x.md'}\nparams:\n  t: {type: string}\nsteps:\n  s: {command: [touch, ran]}\n"
    with pytest.raises(InvalidRunbook):
        run(body, params={"t": text})
    assert not (tmp_path / "ran").exists() and not list(tmp_path.parent.glob("outside*"))


def test_a_lock_cannot_be_chosen_to_collide_with_markup(database: Database, run: Run) -> None:
    database.run(ITEMS)
    record = run(
        DB + "lock: 'a{{ params.t }}'\nparams:\n  t: {type: string}\n" + "steps:\n  s: {command: ['true']}\n",
        database.url,
        params={"t": "'; --"},
    )
    assert database.rows("SELECT lock FROM runbook.runs") == [("a'; --",)] and record["run"]["verdict"] == "passed"
