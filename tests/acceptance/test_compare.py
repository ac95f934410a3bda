"""`runbook compare`: the runs of an experiment beside each other, in the terminal, for programs, and as a page."""

from __future__ import annotations

import csv
import fcntl
import io
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg.types.json import Jsonb

from runbook.fleet import experiments
from tests.acceptance.helpers import DB, HEAD, ITEMS, STATE
from tests.conftest import ROOT, Database, Ended, Program

SQL = Path(experiments.__file__).parent / "sql" / "001_fleet.sql"
BODY = f"""\
{DB}{STATE}
params: {{n: {{type: integer, default: 3}}, mode: {{type: string, default: plain}}, fixed: {{type: integer, default: 7}}}}
expectations:
  items.total: {{delta: params.n}}
postconditions:
  few: {{sql: "SELECT {{{{ params.n }}}}::integer", returns: value, expect: result < 10}}
steps:
  add: {{sql: "INSERT INTO items SELECT generate_series(1, {{{{ params.n if params.n < 20 else 1 }}}})"}}
"""
EXPERIMENT = "20260101_120000-7-abcd"


class Made(NamedTuple):
    """An experiment of three runs by `n` that are over, one that is running and one that is queued."""

    ask: Callable[..., Ended]
    runs: Mapping[int, str]
    database: Database


def submit(url: str, run_id: str, params: dict[str, Any], state: str = "over", **given: Any) -> None:
    """Writes down that a run was asked for, as `submit` does, and where it stands."""
    row = {
        "run_id": run_id,
        "experiment": EXPERIMENT,
        "runbook": "small",
        "file": "small.yaml",
        "sha256": "aa",
        "files": Jsonb({}),
        "params": Jsonb(params),
        "varied": ["n", "mode"],
        "options": Jsonb({}),
        "label": "",
        "lock": "small",
        "rerun": False,
        "operator": "Ada",
        "host": "here",
        **given,
    }
    names = ", ".join(row)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO runbook_fleet.files VALUES ('aa', '') ON CONFLICT DO NOTHING")
        places = ", ".join(f"%({name})s" for name in row)
        connection.execute(f"INSERT INTO runbook_fleet.submissions ({names}) VALUES ({places})", row)
        connection.execute("INSERT INTO runbook_fleet.turns (run_id, state) VALUES (%s, %s)", [run_id, state])


@pytest.fixture
def made(database: Database, program: Program, write: Callable[..., Path]) -> Made:
    database.run(ITEMS)
    database.run("CREATE SCHEMA runbook_fleet")
    database.run(SQL.read_text(encoding="utf-8"))
    write("small.yaml", HEAD + BODY)

    def ask(*arguments: str, **given: Any) -> Ended:
        return program(*arguments, env={"DATABASE_URL": database.url}, **given)

    runs = {}
    for n in (20, 2, 11):
        ended = ask("exec", "small.yaml", "-p", f"n={n}", "-p", "mode=x", "--json")
        runs[n] = ended.document["run"]["id"]
        submit(database.url, runs[n], {"n": n, "mode": "x"})
    submit(database.url, "20991231_235959-1-0000", {"n": 5, "mode": "y"}, "queued")
    submit(database.url, "20991231_235959-2-0000", {"n": 3, "mode": "y"}, "running")
    return Made(ask, runs, database)


def test_a_document_of_all_runs_in_the_order_of_their_params(made: Made) -> None:
    ended = made.ask("compare", EXPERIMENT[:12], "--json")
    found = ended.document
    assert (ended.code, ended.err) == (0, "")
    assert set(found) >= {"experiment", "runbook", "varied", "runs", "same", "differs", "counts", "missing", "problems"}
    assert found["experiment"] == EXPERIMENT and found["runbook"] == "small" and found["varied"] == ["n", "mode"]
    assert [(run["params"]["n"], run["state"], run["verdict"]) for run in found["runs"]] == [
        (2, "over", "passed"),
        (3, "running", None),
        (5, "queued", None),
        (11, "over", "refuted"),
        (20, "over", "refuted"),
    ]
    last = found["runs"][-1]
    assert last["id"] == made.runs[20] and last["attempts"] == 1 and last["exit_code"] == 1
    assert last["expectations"]["items.total"]["actual"] == 1 and last["delta"] == {"items": {"total": 1}}
    assert last["expectations"]["items.total"]["verdict"] == "refuted"
    assert found["runs"][3]["postconditions"]["few"] == {"verdict": "refuted", "result": 11}
    assert found["counts"] == {"refuted": 2, "passed": 1, "running": 1, "queued": 1}
    assert found["same"]["params"] == {"fixed": 7} and re.fullmatch("[0-9a-f]{64}", found["same"]["sha256"])
    assert found["differs"] == {} and found["missing"] == [] and found["problems"] == []


def test_what_people_read(made: Made) -> None:
    ended = made.ask("compare", "last")
    lines = ended.out.splitlines()
    assert ended.code == 0 and lines[0] == f"experiment {EXPERIMENT} of small"
    table = [re.split(r"  +", line.strip()) for line in lines[4:9]]
    assert re.split(r"  +", lines[3].strip()) == ["n", "mode", "verdict", "items.total", "few", "took", "run"]
    assert table[0][:5] == ["2", "x", "passed", "+2 ✓", "2 ✓"] and table[0][6] == made.runs[2]
    assert table[1][:6] == ["3", "y", "running", "–", "–", "–"]
    assert table[4][:4] == ["20", "x", "refuted", "+1 ✗ (predicted +20)"]
    same = lines[lines.index("the same in all") + 1 :]
    assert same[0] == "  params: fixed=7" and same[1].startswith("  runbook small, runbook sha256 ")
    assert same[2].startswith("  versions: runbook ") and "circumstances that differ" not in lines


def test_runs_that_other_machines_made_are_read_from_the_audit(made: Made) -> None:
    here = made.ask("compare", EXPERIMENT, "--json").document
    shutil.rmtree(".runbook")
    assert made.ask("compare", EXPERIMENT, "--json", "--database", made.database.url).document == here


def test_a_run_that_was_done_again_shows_its_last_attempt(made: Made) -> None:
    ended = made.ask("exec", "small.yaml", "-p", "n=4", "-p", "mode=x", "--json")
    again = ended.document["run"]["id"]
    submit(made.database.url, again, {"n": 4, "mode": "x"}, attempt=2, earlier=made.runs[20])
    found = made.ask("compare", EXPERIMENT, "--json").document
    assert made.runs[20] not in [run["id"] for run in found["runs"]] and len(found["runs"]) == 5
    assert [(run["id"], run["attempts"]) for run in found["runs"] if run["attempts"] > 1] == [(again, 2)]
    assert "  attempts  " in made.ask("compare", EXPERIMENT).out


def test_a_run_without_its_record_is_told_and_known_by_the_exit_code(made: Made) -> None:
    submit(made.database.url, "20991231_235959-3-0000", {"n": 6, "mode": "y"})
    for options, code in (((), 6), (("--json",), 6), (("--markdown",), 6)):
        ended = made.ask("compare", EXPERIMENT, *options)
        assert ended.code == code and "20991231_235959-3-0000" in ended.out
    assert made.ask("compare", EXPERIMENT, "--json").document["missing"] == ["20991231_235959-3-0000"]


def test_an_audit_that_cannot_be_read_is_told(made: Made) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    ended = made.ask(
        "compare", EXPERIMENT, "--json", "--database", f"a={nowhere}", "--database", f"b={made.database.url}"
    )
    assert ended.code == 6 and "not reached: " in ended.err
    assert len(ended.document["runs"]) == 5 and len(ended.document["problems"]) == 1


def test_a_name_that_is_no_experiment(made: Made) -> None:
    ended = made.ask("compare", "20260101_120000-7-abce", "--json")
    assert ended.code == 6 and f"did you mean `{EXPERIMENT}`" in ended.err
    assert f"did you mean `{EXPERIMENT}`" in ended.document["problems"][0]["message"]
    assert f"it is a run of experiment `{EXPERIMENT}`" in made.ask("compare", made.runs[2]).err
    submit(made.database.url, "20991231_235959-4-0000", {}, experiment="20260101_120001-1-0000")
    ended = made.ask("compare", "20260101")
    assert ended.code == 6 and "could be 20260101_120001-1-0000, " in ended.err
    assert made.ask("compare").code == 2 and made.ask("compare", "").code == 2
    assert made.ask("compare", "last", "--json", "--csv").code == 2


def test_without_a_fleet_nothing_was_submitted(
    database: Database, program: Program, write: Callable[..., Path]
) -> None:
    database.run(ITEMS)
    write("small.yaml", HEAD + BODY)
    assert program("exec", "small.yaml", env={"DATABASE_URL": database.url}).code == 0
    ended = program("compare", "last", env={"DATABASE_URL": database.url})
    assert ended.code == 6 and "nothing was submitted" in ended.err


def test_runs_instead_of_an_experiment(made: Made) -> None:
    one, other = made.runs[2], made.runs[20]
    found = made.ask("compare", other, one, "--json").document
    assert found["experiment"] is None and found["varied"] == ["n"]
    assert [run["id"] for run in found["runs"]] == [one, other]
    assert found["same"]["params"] == {"mode": "x", "fixed": 7} and found["differs"] == {}
    ended = made.ask("compare", one, "19990101")
    assert ended.code == 6 and "19990101" in ended.err and ended.out == ""


def test_the_same_run_twice_is_refused(made: Made) -> None:
    ended = made.ask("compare", made.runs[2], made.runs[20], made.runs[2], "--json")
    assert ended.code == 2 and f"run {made.runs[2]} is named twice" in ended.err
    assert ended.document["run"]["exit_code"] == 2
    assert made.ask("compare", made.runs[11], "last").code == 2


def test_with_the_server_away_nobody_says_that_nothing_was_submitted(made: Made) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    for name in ("last", EXPERIMENT):
        ended = made.ask("compare", name, "--json", "--database", nowhere)
        assert ended.code == 6 and "an audit does not answer" in ended.err and "127.0.0.1" in ended.err
        assert "submitted" not in ended.err and "there is no experiment" not in ended.err
        assert "an audit does not answer" in ended.document["problems"][0]["message"]
    environment = {"DATABASE_URL": nowhere}
    assert "an audit does not answer" in on_a_terminal(200, "compare", "last", env=environment, stderr=True)


def test_what_nobody_expected_is_in_every_form(made: Made) -> None:
    state = STATE + "  seen:\n    sql: SELECT count(*) AS rows FROM items\n"
    Path("small.yaml").write_text(HEAD + BODY.replace(STATE, state), encoding="utf-8")
    ids = [made.ask("exec", "small.yaml", "-p", f"n={n}", "--json").document["run"]["id"] for n in (4, 12)]
    table = made.ask("compare", *ids).out
    assert re.search("n +verdict +items.total +seen.rows +few", table), table
    assert "  why runs did not pass" not in table and f"\n  {ids[1]}  refuted  " in table
    rows = list(csv.DictReader(io.StringIO(made.ask("compare", *ids, "--csv").out)))
    assert [row["delta.seen.rows"] for row in rows] == ["4", "12"] and "few refuted" in rows[1]["because"]
    assert "delta.items.total" not in rows[0]
    document = made.ask("compare", *ids, "--json").document
    assert document["runs"][1]["after"]["seen"]["rows"] - document["runs"][0]["after"]["seen"]["rows"] == 12
    made.ask("compare", *ids, "--html", "found.html")
    page = Path("found.html").read_text(encoding="utf-8")
    assert "Change of seen.rows against n" in page and f'href="#run-{ids[1]}"' in page


def test_comma_separated_values(made: Made) -> None:
    ended = made.ask("compare", EXPERIMENT, "--csv")
    rows = list(csv.DictReader(io.StringIO(ended.out)))
    assert ended.code == 0 and len(rows) == 5
    assert rows[4]["params.n"] == "20" and rows[4]["params.fixed"] == "7" and rows[4]["verdict"] == "refuted"
    assert rows[4]["expectations.items.total"] == "1" and rows[4]["expectations.items.total.predicted"] == "20"
    assert rows[3]["postconditions.few"] == "refuted" and rows[3]["postconditions.few.result"] == "11"
    assert list(rows[0])[:2] == ["params.n", "params.mode"] and list(rows[0])[-1] == "run"
    assert "few refuted: result < 10" in rows[3]["because"] and rows[4]["expectations.items.total.severity"] == "error"
    assert rows[1]["verdict"] == "running" and rows[1]["duration"] == ""


def test_a_page_and_markdown(made: Made) -> None:
    ended = made.ask("compare", EXPERIMENT, "--html", "pages/found.html")
    assert (ended.code, ended.out) == (0, "") and "wrote pages/found.html" in ended.err
    page = Path("pages/found.html").read_text(encoding="utf-8")
    assert f"Experiment {EXPERIMENT} of small" in page and "<script" not in page and "Duration against n" in page
    assert made.ask("compare", EXPERIMENT, "--html", "/proc/found.html").code == 6
    Path(f"pages/{made.runs[2]}.html").write_text("a page", encoding="utf-8")
    made.ask("compare", EXPERIMENT, "--html", "pages/found.html")
    assert f'href="{made.runs[2]}.html"' in Path("pages/found.html").read_text(encoding="utf-8")
    told = made.ask("compare", EXPERIMENT, "--markdown").out
    assert f"`{made.runs[20]}` |" in told and "| +1 ✗ (predicted +20) |" in told


def on_a_terminal(width: int, *arguments: str, env: Mapping[str, str], stderr: bool = False) -> str:
    """What the program writes on a terminal that is so wide."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    known = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    known |= {"PYTHONPATH": str(ROOT), **env}
    process = subprocess.Popen(
        [sys.executable, "-m", "runbook", *arguments], env=known, stdout=theirs, stderr=theirs if stderr else None
    )
    os.close(theirs)
    seen = b""
    with suppress(OSError):
        while part := os.read(ours, 65536):
            seen += part
    os.close(ours)
    process.wait(60)
    return seen.decode()


@pytest.mark.parametrize(("more", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_is_never_overrun_and_what_is_left_out_is_said(
    made: Made, more: dict[str, str], coloured: bool
) -> None:
    env = {"DATABASE_URL": made.database.url, **more}
    for width in (150, 80, 45):
        seen = on_a_terminal(width, "compare", EXPERIMENT, env=env)
        assert ("\x1b[" in seen) is coloured
        lines = re.sub(r"\x1b\[[0-9;]*m", "", seen).splitlines()
        assert max(map(len, lines)) <= width
        assert any(line.startswith("not shown for want of room: ") for line in lines) is (width < 80)
        assert any(line.startswith(("20 ", " 20 ")) for line in lines)
    assert "want of room" in on_a_terminal(60, "compare", EXPERIMENT, env=env)


def test_values_cannot_forge_a_line(made: Made) -> None:
    word = '"\\u001b[31mred\\nforged line\\u202e | <b>x</b>"'
    ended = made.ask("exec", "small.yaml", "-p", f"mode={word}", "--json")
    run_id = ended.document["run"]["id"]
    submit(made.database.url, run_id, {"n": 3, "mode": "z"})
    for options in ((), ("--markdown",)):
        out = made.ask("compare", EXPERIMENT, *options).out
        assert "\x1b" not in out and "\u202e" not in out
        assert not any(line.startswith("forged") for line in out.splitlines())
        assert "\\x1b[31mred\\nforged line\\u202e" in out
    made.ask("compare", EXPERIMENT, "--html", "found.html")
    assert "<b>x" not in Path("found.html").read_text(encoding="utf-8")
