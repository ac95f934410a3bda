"""`runbook watch`, and the bars of `runbook exec` on a terminal: real runs, measured from a real database."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.acceptance.helpers import DB, HEAD, ITEMS, STATE, Background, lines_of, until
from tests.conftest import ROOT, Database, Program

# Adds rows one by one, and waits after the first `pause` of them until a file `go` is there.
SLOWLY = """
import os, sys, time, psycopg
count, pause = int(sys.argv[1]), int(sys.argv[2])
with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
    for number in range(count):
        connection.execute("INSERT INTO items VALUES (%s)", [number])
        print(f"row {number} \\x1b]0;forged\\x07", flush=True)
        time.sleep(0.02)
        while number + 1 >= pause and not os.path.exists("go"):
            time.sleep(0.02)
"""
SLOW = (
    HEAD
    + DB
    + STATE
    + f"""
title: Forty rows
expectations:
  items.total: {{delta: 40, tolerance: 5%}}
steps:
  load: {{command: ["{sys.executable}", slowly.py, "40", "10"]}}
  check: {{command: ["true"]}}
finally:
  tidy: {{command: ["true"]}}
"""
)
ESCAPE = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def slow(
    database: Database, start: Callable[..., Background], write: Callable[..., Path], tmp_path: Path
) -> Iterator[Background]:
    """A run that has added ten of its forty rows, and waits for the file `go`."""
    begun = begin(database, start, write)
    yield begun
    (tmp_path / "go").touch()


def begin(database: Database, start: Callable[..., Background], write: Callable[..., Path], **more: Any) -> Background:
    database.run(ITEMS)
    write("slowly.py", SLOWLY)
    write("small.yaml", SLOW)
    background = start("exec", "small.yaml", "--json", env={"DATABASE_URL": database.url}, **more)
    until(lambda: background.process.poll() is not None or database.value("SELECT count(*) FROM items") == 10)
    return background


def test_one_picture_tells_how_far_a_run_has_come(slow: Background, database: Database, program: Program) -> None:
    env = {"DATABASE_URL": database.url}
    ended = program("watch", "--once", "--json", env=env)
    assert (ended.code, ended.err) == (0, "")
    frame = ended.document
    run = frame["run"]
    assert (run["state"], run["verdict"], run["title"], run["pid"]) == ("running", None, "Forty rows", slow.process.pid)
    (bar,) = frame["expectations"]
    assert (bar["name"], bar["before"], bar["now"], bar["aim"], bar["standing"]) == (
        "items.total",
        0,
        10,
        40,
        "under way",
    )
    assert bar["fraction"] == 0.25
    assert bar["rate"] > 0
    assert bar["eta"] > 0
    assert frame["eta"] == bar["eta"]
    assert frame["measured"]["because"] == ""
    stages = {stage["stage"]: stage["state"] for stage in frame["stages"]}
    assert stages == {
        "preflight": "done",
        "predictions": "done",
        "steps": "now",
        "postconditions": "to come",
        "finally": "to come",
    }
    assert [step["state"] for stage in frame["stages"] for step in stage["steps"]] == ["now", "to come", "to come"]
    assert frame["output"][-1] == "row 9 \\x1b]0;forged\\x07"
    assert frame["usage"]["processes"] == 1
    assert frame["usage"]["memory"] > 1024 * 1024

    shown = program("watch", "last", "--once", env=env)
    assert shown.code == 0
    assert "\x1b" not in shown.out
    for text in ("Forty rows", "running for", "▶ load", "○ check", "25 %", "0 → 40 ± 5%", "row 9", "1 process"):
        assert text in shown.out, (text, shown.out)


def test_a_watcher_leaves_no_transaction_and_no_trace(slow: Background, database: Database, tmp_path: Path) -> None:
    with open(tmp_path / "seen", "wb") as seen:
        env = {"DATABASE_URL": database.url}
        watcher = Background(tmp_path, "watch", "--json", "--interval", "0.1", env=env, stdout=seen)
    sessions = (
        "SELECT state FROM pg_stat_activity WHERE application_name = 'runbook watch' AND datname = current_database()"
    )

    def files() -> dict[Path, int]:
        return {path: path.stat().st_size for path in tmp_path.rglob("*") if path.is_file() and path.name != "seen"}

    before = files()
    try:
        until(lambda: (tmp_path / "seen").read_text().count('"now": 10,') >= 2)
        until(lambda: database.rows(sessions) == [("idle",)])
        ended = watcher.end(signal.SIGINT)
    finally:
        watcher.kill()
    assert ended.code == 0
    assert ended.err.count("goes on") == 1
    assert files() == before
    frames = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    assert {frame["run"]["state"] for frame in frames} == {"running"}
    assert frames[-1]["expectations"][0]["now"] == 10
    (tmp_path / "go").touch()
    assert slow.end().document["run"]["verdict"] == "passed"


def other_place(url: str, name: str) -> str:
    return (
        url.replace(f"/{conninfo_to_dict(url)['dbname']}?", f"/{name}?")
        .replace("://", "://nobody:hush-hush@", 1)
        .replace("hush-hush@runbook_owner@", "hush-hush@")
    )


def test_another_database_gives_a_reason_and_no_numbers(slow: Background, database: Database, program: Program) -> None:
    wrong = other_place(database.url, "elsewhere")
    ended = program("watch", "--once", "--json", env={"DATABASE_URL": wrong})
    frame = ended.document
    assert ended.code == 0
    assert frame["measured"]["because"].startswith("DATABASE_URL leads to elsewhere on ")
    assert ", the run uses test_" in frame["measured"]["because"]
    assert (frame["expectations"][0]["now"], frame["expectations"][0]["standing"]) == (None, "unmeasured")
    assert frame["eta"] is None
    assert "hush" not in ended.out + ended.err
    shown = program("watch", "--once", env={"DATABASE_URL": wrong}).out
    assert "not measured: DATABASE_URL leads to elsewhere" in shown
    given = program("watch", "--once", "--json", "--database", database.url, env={"DATABASE_URL": wrong})
    assert given.document["expectations"][0]["now"] == 10
    unset = program("watch", "--once", "--json").document["measured"]["because"]
    assert unset.startswith("DATABASE_URL is not set here, the run uses test_")


def test_a_server_that_only_looks_like_the_runs_is_not_believed(
    database: Database, start: Callable[..., Background], write: Callable[..., Path], program: Program, tmp_path: Path
) -> None:
    """Where the URL leaves the place to PG* variables, its description is the same for any database."""
    known = conninfo_to_dict(database.url)
    vague = f"postgresql://{known['user']}@?port={known['port']}"
    env = {"DATABASE_URL": vague, "PGHOST": str(known["host"]), "PGDATABASE": str(known["dbname"])}
    database.run(ITEMS)
    write("slowly.py", SLOWLY)
    write("small.yaml", SLOW)
    background = start("exec", "small.yaml", "--json", env=env)
    until(lambda: background.process.poll() is not None or database.value("SELECT count(*) FROM items") == 10)
    frame = program("watch", "--once", "--json", env=env).document
    assert frame["expectations"][0]["now"] == 10, frame["measured"]
    frame = program("watch", "--once", "--json", env={**env, "PGDATABASE": "postgres"}).document
    assert "has no session" in frame["measured"]["because"]
    assert frame["expectations"][0]["now"] is None
    (tmp_path / "go").touch()
    assert background.end().code == 0


def test_a_run_that_is_over_is_shown_once_more_with_its_own_exit_code(
    slow: Background, database: Database, program: Program, tmp_path: Path
) -> None:
    database.run("DELETE FROM items")
    (tmp_path / "go").touch()
    assert slow.end().code == 1
    for arguments in (["--once"], ["--json"], []):
        ended = program("watch", *arguments)  # no server is needed for what is in the journal
        assert ended.code == 1, ended
        assert ended.err == ""
    frame = program("watch", "--json").document
    assert (frame["run"]["state"], frame["run"]["verdict"], frame["run"]["exit_code"]) == ("ended", "refuted", 1)
    (bar,) = frame["expectations"]
    assert (bar["now"], bar["verdict"], bar["eta"]) == (30, "refuted", None)
    shown = program("watch").out
    assert "ended: refuted (exit code 1)" in shown
    assert "✗ refuted" in shown
    assert "Last output" not in shown


def rests(path: Path, seconds: float) -> bool:
    """Whether nothing is written to a file for so long."""
    size = path.stat().st_size
    time.sleep(seconds)
    return path.stat().st_size == size


def test_without_a_terminal_pictures_come_when_something_has_changed(
    slow: Background, database: Database, tmp_path: Path
) -> None:
    env = {"DATABASE_URL": database.url}
    with open(tmp_path / "seen", "wb") as seen:
        watcher = Background(tmp_path, "watch", "--interval", "0.2", env=env, stdout=seen)
    try:
        until(lambda: "25 %" in (tmp_path / "seen").read_text())
        until(lambda: rests(tmp_path / "seen", 1))
        (tmp_path / "go").touch()
        assert slow.end().code == 0
        assert watcher.end().code == 0
    finally:
        watcher.kill()
    pictures = (tmp_path / "seen").read_text().split("\n\nForty rows")
    assert "ended: passed" in pictures[-1]
    assert "✓ passed" in pictures[-1]
    assert "ended" not in "".join(pictures[:-1])


def test_a_run_whose_runner_died_is_lost(
    slow: Background, database: Database, program: Program, tmp_path: Path
) -> None:
    children = psutil.Process(slow.process.pid).children(recursive=True)
    slow.process.kill()
    slow.process.wait()
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    frame = program("watch", "--once", "--json", env={"DATABASE_URL": database.url})
    assert (frame.code, frame.document["run"]["state"], frame.document["run"]["verdict"]) == (6, "lost", "lost")
    states = {stage["stage"]: stage["state"] for stage in frame.document["stages"]}
    assert (states["steps"], states["postconditions"], states["finally"]) == ("lost", "not reached", "not reached")
    shown = program("watch")
    assert shown.code == 6
    assert "runbook recover" in shown.out


def test_earlier_runs_of_the_same_runbook_tell_how_long_it_takes(
    database: Database, start: Callable[..., Background], write: Callable[..., Path], program: Program, tmp_path: Path
) -> None:
    (tmp_path / "go").touch()
    assert begin_over(database, start, write) == 0
    (tmp_path / "go").unlink()
    database.run("DROP TABLE items")
    begin(database, start, write)
    frame = program("watch", "--once", "--json", env={"DATABASE_URL": database.url}).document
    assert frame["earlier"]["runs"] == 1
    assert 0.5 < frame["earlier"]["median"] < 60
    (tmp_path / "go").touch()


def begin_over(database: Database, start: Callable[..., Background], write: Callable[..., Path]) -> int:
    database.run(ITEMS)
    write("slowly.py", SLOWLY)
    write("small.yaml", SLOW)
    return start("exec", "small.yaml", env={"DATABASE_URL": database.url}).end().code


STATES = """
state:
  items: {sql: SELECT count(*) AS total FROM items}
  asked: {command: [echo, '{"n": 1}'], select: json}
  stuck:
    sql: SELECT 5 AS five FROM (SELECT pg_sleep(CASE WHEN count(*) > 0 THEN 30 ELSE 0 END) FROM items) AS s
    timeout: 1s
  size: {file: big, select: "{'bytes': result.size}"}
"""


def test_what_cannot_be_measured_has_a_reason_and_the_rest_has_numbers(
    database: Database, start: Callable[..., Background], write: Callable[..., Path], program: Program, tmp_path: Path
) -> None:
    database.run(ITEMS)
    write("slowly.py", SLOWLY)
    write("big", "12345")
    write("small.yaml", HEAD + DB + STATES + SLOW.partition("title: Forty rows")[2])
    background = start("exec", "small.yaml", env={"DATABASE_URL": database.url})
    until(lambda: background.process.poll() is not None or database.value("SELECT count(*) FROM items") == 10)
    frame = program("watch", "--once", "--json", env={"DATABASE_URL": database.url}).document
    because = frame["measured"]["because"]
    assert "asked: a watcher runs no commands" in because
    assert "stuck: no answer within 1 s" in because
    assert frame["expectations"][0]["now"] == 10
    known = {item["name"]: item["now"] for item in frame["metrics"]}
    assert known == {"asked.n": None, "stuck.five": None, "size.bytes": 5}
    (tmp_path / "go").touch()
    assert background.end().code == 6  # `stuck` cannot be measured afterwards either


def test_a_runbook_that_was_changed_meanwhile_is_measured_as_it_was(
    slow: Background, database: Database, program: Program, write: Callable[..., Path]
) -> None:
    write("small.yaml", SLOW.replace("FROM items", "FROM elsewhere"))
    frame = program("watch", "--once", "--json", env={"DATABASE_URL": database.url}).document
    assert frame["expectations"][0]["now"] == 10


def test_the_own_expectations_of_a_step_have_bars(
    database: Database, start: Callable[..., Background], write: Callable[..., Path], program: Program, tmp_path: Path
) -> None:
    database.run(ITEMS)
    write("slowly.py", SLOWLY)
    steps = SLOW.replace("title: Forty rows\nexpectations:\n  items.total: {delta: 40, tolerance: 5%}\n", "")
    write("small.yaml", steps.replace(', "10"]}', ', "10"], expectations: {items.total: {delta: 20}}}'))
    background = start("exec", "small.yaml", env={"DATABASE_URL": database.url})
    until(lambda: background.process.poll() is not None or database.value("SELECT count(*) FROM items") == 10)
    (bar,) = program("watch", "--once", "--json", env={"DATABASE_URL": database.url}).document["expectations"]
    assert (bar["step"], bar["name"], bar["before"], bar["now"], bar["aim"]) == ("load", "items.total", 0, 10, 20)
    (tmp_path / "go").touch()
    background.end()


def test_an_embedded_server_is_joined_and_never_started(
    start: Callable[..., Background], write: Callable[..., Path], program: Program, tmp_path: Path
) -> None:
    write("schema.sql", ITEMS)
    write("slowly.py", SLOWLY)
    write("small.yaml", SLOW.replace("env: DATABASE_URL}", "env: DATABASE_URL, embedded: [schema.sql]}"))
    background = start("exec", "small.yaml", "--json")

    def now() -> Any:
        assert background.process.poll() is None, background.end()
        done = program("watch", "--once", "--json") if list(tmp_path.glob(".runbook/runs/*/journal.jsonl")) else None
        bars = done.document["expectations"] if done and done.code == 0 else []
        return bars and bars[0]["now"] == 10

    until(now, 60)
    write("schema.sql", f"{ITEMS}; INSERT INTO items VALUES (1)")
    bars = program("watch", "--once", "--json").document["expectations"]
    assert bars[0]["now"] == 10
    (tmp_path / "go").touch()
    assert background.end().code == 0
    assert program("watch", "--once").code == 0


def test_no_such_run(program: Program) -> None:
    ended = program("watch", "nothing")
    assert (ended.code, ended.out) == (6, "")
    assert "there are no runs" in ended.err
    refused = program("watch", "nothing", "--once", "--json")
    assert (refused.code, refused.document["run"]["exit_code"]) == (6, 6)


def test_a_run_that_died_before_its_first_record_never_began(program: Program, write: Callable[..., Path]) -> None:
    write(".runbook/runs/20251210_140000-000-abcd/journal.jsonl", '{"seq": 1, "at": "2025-')
    ended = program("watch")
    assert ended.code == 6
    assert "run 20251210_140000-000-abcd\n  never began\n" in ended.out
    frame = program("watch", "--json").document
    assert (frame["run"]["state"], frame["run"]["elapsed"], frame["expectations"]) == ("lost", 0, [])


# --- on a terminal --------------------------------------------------------------------------------------------------


class Terminal:
    """The program on a pseudo-terminal; `seen` is all that it wrote there."""

    def __init__(self, folder: Path, *arguments: str, env: Mapping[str, str], **streams: Any) -> None:
        self.master, slave = pty.openpty()
        inherited = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "NO_COLOR") and k[:2] != "PG"}
        known = {**inherited, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
        self.process = subprocess.Popen(
            [sys.executable, *(arguments if arguments[0] == "-c" else ("-m", "runbook", *arguments))],
            cwd=folder,
            env={**known, "XDG_STATE_HOME": str(folder / "state"), **env},
            start_new_session=True,
            **{"stdin": slave, "stdout": slave, "stderr": slave, **streams},
        )
        os.close(slave)
        self.seen = b""
        self._done = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while not self._done.is_set():
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    chunk = os.read(self.master, 65536)
                except OSError:
                    return
                self.seen += chunk

    def shows(self, text: str) -> None:
        until(lambda: text.encode() in self.seen or self.process.poll() is not None, 60)
        assert text.encode() in self.seen, self.seen.decode()

    def hang_up(self) -> None:
        self._done.set()
        self._reader.join()
        os.close(self.master)

    def end(self, number: int | None = None) -> int:
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join(60)
        return code

    @property
    def text(self) -> str:
        """What was written, without what moves and colours."""
        return ESCAPE.sub(b"", self.seen).replace(b"\r", b"").decode()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_terminal(*arguments: str, env: Mapping[str, str], **streams: Any) -> Terminal:
        opened.append(Terminal(tmp_path, *arguments, env=env, **streams))
        return opened[-1]

    yield open_terminal
    for item in opened:
        item.process.kill()
        item.process.wait()


def on_terminal(
    database: Database, terminal: Callable[..., Terminal], write: Callable[..., Path], **env: str
) -> Terminal:
    database.run(ITEMS)
    write("slowly.py", SLOWLY)
    write("small.yaml", SLOW)
    return terminal("exec", "small.yaml", env={"DATABASE_URL": database.url, **env})


def test_exec_shows_bars_below_its_account(
    database: Database, terminal: Callable[..., Terminal], write: Callable[..., Path], tmp_path: Path
) -> None:
    shown = on_terminal(database, terminal, write)
    shown.shows("25 %")
    (tmp_path / "go").touch()
    assert shown.end() == 0, shown.text
    text = shown.text
    assert "███░░░░░░░░░" in text
    assert "┄┄ load, " in text
    for number in range(40):
        assert text.count(f"    │ row {number} \\x1b]0;forged\\x07\n") == 1, number
    assert b"\x1b]" not in shown.seen
    assert re.search(r"\n  ✓ load\s+passed", text)
    assert re.search(r"\n  ✓ items.total\s+passed\s+predicted 40 ± 5%, actual 40\n", text)
    assert text.rpartition("✓ load")[2].count("┄┄ load") == 0
    assert re.search(r"\npassed   run log: logs/small_\w+.md\n$", text)
    assert shown.seen.count(b"\x1b[?25l") == shown.seen.count(b"\x1b[?25h") == 1


def test_a_line_that_is_not_finished_is_neither_lost_nor_torn(
    terminal: Callable[..., Terminal], write: Callable[..., Path], tmp_path: Path
) -> None:
    write(
        "dots.py",
        "import os, time\n"
        "print('begun: ', end='', flush=True)\n"
        "while not os.path.exists('seen'):\n    time.sleep(0.02)\n"
        "print('more' * 2, end='', flush=True)\n"
        "while not os.path.exists('go'):\n    time.sleep(0.02)\n"
        "print(' and done')\nprint('no end', end='', flush=True)\n"
        "time.sleep(0.3)\n",
    )
    body = "audit: {enabled: false}\nsteps:\n  dots: {command: ['" + sys.executable + "', dots.py]}\n"
    write("small.yaml", HEAD + body)
    shown = terminal("exec", "small.yaml", env={})
    shown.shows("┄┄ dots, ")
    assert "    │ begun: \n  ┄┄ dots" in shown.text
    assert b"    \xe2\x94\x82 begun: \r\x1b[J" in shown.seen  # it moved into the place at the bottom
    (tmp_path / "seen").touch()
    shown.shows("moremore")
    (tmp_path / "go").touch()
    assert shown.end() == 0
    assert shown.text.count("    │ begun: moremore and done\n") == 1
    assert re.search(r"    │ no end\n  ✓ dots", shown.text)


def test_without_colour_there_are_bars_and_no_colours(
    database: Database, terminal: Callable[..., Terminal], write: Callable[..., Path], tmp_path: Path
) -> None:
    shown = on_terminal(database, terminal, write, NO_COLOR="1")
    shown.shows("25 %")
    (tmp_path / "go").touch()
    assert shown.end() == 0
    assert not re.search(rb"\x1b\[[0-9;]*m", shown.seen.replace(b"\x1b[0m", b""))


def test_a_dumb_terminal_gets_no_bars(terminal: Callable[..., Terminal], write: Callable[..., Path]) -> None:
    write("small.yaml", HEAD + "audit: {enabled: false}\nsteps:\n  s: {command: [sleep, '1.6']}\n")
    shown = terminal("exec", "small.yaml", env={"TERM": "dumb", "NO_COLOR": "1"})
    assert shown.end() == 0
    assert "┄┄" not in shown.text
    assert b"\x1b" not in shown.seen


def test_a_short_run_pays_nothing_for_bars(
    terminal: Callable[..., Terminal], write: Callable[..., Path], tmp_path: Path
) -> None:
    write("small.yaml", HEAD + "audit: {enabled: false}\nsteps:\n  s: {command: ['true']}\n")
    code = (
        "import sys\nfrom runbook.cli.main import main\n"
        "try:\n    main(['exec', 'small.yaml'])\nexcept SystemExit:\n"
        "    open('modules', 'w').write(' '.join(sys.modules))\n"
    )
    shown = terminal("-c", code, env={})
    assert shown.end() == 0, shown.text
    modules = set((tmp_path / "modules").read_text().split())
    assert "runbook.cli.live" in modules
    assert not {"rich", "psutil", "psycopg"} & modules


def test_a_terminal_that_goes_away_does_not_end_the_run(
    database: Database, terminal: Callable[..., Terminal], write: Callable[..., Path], tmp_path: Path
) -> None:
    shown = on_terminal(database, terminal, write)
    shown.shows("25 %")
    shown.hang_up()
    time.sleep(0.5)
    (tmp_path / "go").touch()
    assert shown.process.wait(60) == 0
    (journal,) = tmp_path.glob(".runbook/runs/*/journal.jsonl")
    finished = [line for line in lines_of({"journal": journal}) if line["kind"] == "run.finished"]
    assert finished[0]["data"]["verdict"] == "passed"
    assert (journal.parent / "output.log").read_bytes().count(b"\n") == 40


def test_a_run_is_stopped_as_ever_while_bars_are_shown(
    database: Database, terminal: Callable[..., Terminal], write: Callable[..., Path]
) -> None:
    shown = on_terminal(database, terminal, write)
    shown.shows("25 %")
    assert shown.end(signal.SIGINT) == 130
    assert re.search(r"\n  ■ load\s+cancelled", shown.text)
    assert shown.seen.count(b"\x1b[?25l") == shown.seen.count(b"\x1b[?25h")


def test_watch_has_a_screen_of_its_own_and_leaves_the_last_picture(
    slow: Background, database: Database, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    shown = terminal("watch", env={"DATABASE_URL": database.url}, stderr=subprocess.DEVNULL)
    shown.shows("25 %")
    (tmp_path / "go").touch()
    assert slow.end().code == 0
    assert shown.end() == 0
    assert shown.seen.count(b"\x1b[?1049h") == shown.seen.count(b"\x1b[?1049l") == 1
    moving, _, rest = shown.seen.partition(b"\x1b[?1049l")
    assert "▶ load" in moving.decode()
    assert b"\x1b]" not in shown.seen
    last = ESCAPE.sub(b"", rest).decode()
    assert "ended: passed (exit code 0)" in last
    assert "100 %" in last


def test_leaving_a_watch_leaves_the_run(
    slow: Background, database: Database, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    shown = terminal("watch", env={"DATABASE_URL": database.url})
    shown.shows("25 %")
    assert shown.end(signal.SIGINT) == 0
    rest = shown.text.rpartition("Forty rows")[2]
    assert "running for" in rest
    assert rest.count("no longer watching; run ") == 1
    assert b"\x1b[?1049l" in shown.seen
    assert slow.process.poll() is None
    (tmp_path / "go").touch()
    assert slow.end().document["run"]["verdict"] == "passed"
