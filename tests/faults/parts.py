"""What the fault suite shares: a server that can be killed, a project whose runs are examined, and the figures."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil

from runbook.engine.record import fold
from runbook.records.journal import Line, read_journal
from tests.acceptance.helpers import Background, until
from tests.conftest import Database, Ended

MANY = int(os.environ.get("RUNBOOK_FAULTS_N", "200"))
SEED = int(os.environ.get("RUNBOOK_FAULTS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
SOON = 5.0  # seconds within which a command must answer
HANG = 120.0  # seconds after which something is said to hang
TAIL = 1 << 14  # bytes of a command's output that are looked at

TABLES = """
CREATE TABLE items (run text, step text);
CREATE TABLE log (id serial PRIMARY KEY, run text, status text);
"""
# A step with a grandchild that leaves the session, a step in the database, a step after it, and rows of the user's own.
RUNBOOK = """\
runbook: 1
name: small
connections:
  db: {type: postgres, env: DATABASE_URL}
state:
  items: {sql: SELECT count(*) AS total FROM items}
preflight:
  there: {sql: SELECT count(*) FROM items, returns: value, expect: result >= 0}
expectations:
  items.total: {delta: 1}
steps:
  work:
    shell: "echo $RUNBOOK_RUN_ID work >> $STARTS; setsid sleep 300 & pid=$!; echo working; sleep $PAUSE; kill $pid"
  add: {sql: "INSERT INTO items VALUES ({{ run.id }}, 'add')"}
  last: {shell: "echo $RUNBOOK_RUN_ID last >> $STARTS"}
postconditions:
  there: {sql: SELECT count(*) FROM items, returns: value, expect: result > 0}
audit:
  started: {sql: "INSERT INTO log (run, status) VALUES ({{ run.id }}, 'processing') RETURNING id"}
  finished: {sql: "UPDATE log SET status = {{ run.verdict }} WHERE id = {{ audit.started }}"}
finally:
  tidy: {sql: SELECT 1}
"""


class Figures:
    """What a case counted, and what was wrong; printed at once, so that `pytest -s` shows how far it is."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.count: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.slowest: dict[str, float] = {}
        self.noted: list[str] = []
        say(f"{title} (seed {SEED})")

    def fault(self, kind: str, where: str, what: object) -> None:
        self.count[kind] += 1
        self.wrong.append(f"{where}: {kind}: {_end_of(str(what))}")
        say(f"  FAULT {self.wrong[-1]}")

    def took(self, what: str, seconds: float) -> None:
        self.slowest[what] = max(seconds, self.slowest.get(what, 0.0))

    def close(self, line: str) -> None:
        """Prints the figures, and fails where anything was wrong."""
        slowest = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in self.slowest.items())
        say(f"{self.title}: {line}" + (f"; slowest: {slowest}" if slowest else ""))
        assert not self.wrong, "\n".join(self.wrong)


def _end_of(text: str) -> str:
    """What decides stands in the first and in the last lines."""
    lines = [line.strip()[:300] for line in text.strip().splitlines()]
    return " | ".join(lines if len(lines) < 7 else [*lines[:1], "…", *lines[-5:]])


def say(line: str) -> None:
    sys.stdout.write(f"\n{line}" if line else "\n")
    sys.stdout.flush()


# --- a project whose runs are examined -----------------------------------------------------------------------------


class Project:
    """A folder in which RUNBOOK is run. What its steps write down beside their work lies in `outside`."""

    def __init__(
        self, folder: Path, database: Database | None, outside: Path | None = None, pause: float = 0.1
    ) -> None:
        self.folder, self.database = folder, database
        self.outside = outside or folder
        self.starts = self.outside / "starts"
        self.env = {"STARTS": str(self.starts), "PAUSE": str(pause), "XDG_STATE_HOME": str(self.outside / "state")}
        if database is not None:
            self.env["DATABASE_URL"] = database.url
        self.write("small.yaml", RUNBOOK)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def start(self, *arguments: str, env: dict[str, str] | None = None, **options: Any) -> Background:
        """Output goes to files, so that nothing waits for a reader."""
        with (self.outside / "out").open("wb") as out, (self.outside / "err").open("wb") as err:
            given = {"stdout": out, "stderr": err, "preexec_fn": _heed_signals, **options}
            return Background(self.folder, *arguments, env={**self.env, **(env or {})}, **given)

    def ended(self, background: Background, timeout: float = HANG) -> Ended:
        code = background.process.wait(timeout)
        return Ended(code, self.said("out"), self.said("err"))

    def said(self, name: str) -> str:
        with (self.outside / name).open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - TAIL, 0))
            return file.read().decode(errors="replace")

    def rb(self, *arguments: str, env: dict[str, str] | None = None, timeout: float = HANG) -> Ended:
        """The program to its end."""
        background = Background(self.folder, *arguments, env={**self.env, **(env or {})})
        try:
            return background.end(timeout=timeout)
        finally:
            background.kill()

    def runs(self) -> dict[str, Path]:
        return {path.name: path for path in self.folder.glob(".runbook/runs/*")}

    def open(self) -> set[str]:
        """The runs that are marked as not closed."""
        return {path.name for path in self.folder.glob(".runbook/open/*")}

    def journal(self, run_id: str) -> list[Line]:
        path = self.runs()[run_id] / "journal.jsonl"
        return list(read_journal(path)) if path.exists() else []

    def began(self) -> list[tuple[str, str]]:
        """(run, step) for every time a step's work began, as the steps themselves wrote it down."""
        written = self.starts.read_text().splitlines() if self.starts.exists() else []
        began = [(line.split()[0], line.split()[1]) for line in written if len(line.split()) == 2]
        if self.database is not None:
            began += [(row[0], row[1]) for row in self.database.rows("SELECT run, step FROM items")]
        return began


def _heed_signals() -> None:
    """Whatever started the tests may have had some ignored (`nohup`, `&` in a script)."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def kinds(lines: Sequence[Line]) -> list[str]:
    return [line.event.kind for line in lines]


def ending(lines: Sequence[Line]) -> str | None:
    """The verdict that a journal has, or None."""
    for line in lines:
        if line.event.kind in ("run.finished", "run.lost"):
            return str(line.event.data.get("verdict", "lost"))
    return None


def processes_of(run_id: str) -> dict[int, str]:
    """The living processes that bear the run's id in their environment."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("RUNBOOK_RUN_ID") == run_id and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = " ".join(process.cmdline())
    return found


def end_processes(run_id: str) -> None:
    for pid in processes_of(run_id):
        with suppress(psutil.Error):
            psutil.Process(pid).kill()


def untrue(project: Project, run_id: str) -> list[tuple[str, str]]:
    """(kind, what) for everything in the books of a closed run that does not agree with the rest, or with the world."""
    found: list[tuple[str, str]] = []
    lines = project.journal(run_id)
    verdict = ending(lines)
    if not lines:
        return (
            [("lost record", "effects without a journal")] if any(run == run_id for run, _ in project.began()) else []
        )
    if verdict is None:
        return [("lost record", f"no end in the journal after {kinds(lines)[-1]}")]
    started = Counter(line.event.data["step"] for line in lines if line.event.kind == "step.started")
    for step, times in Counter(step for run, step in project.began() if run == run_id).items():
        if times > 1 or started[step] > 1:
            found.append(("double start", f"step {step}: {times} times, {started[step]} records"))
        if times > started[step]:
            found.append(("lost record", f"step {step} began without a record"))
    if run_id in project.open():
        found.append(("open", "still marked as open"))
    report = next((line.event.data["path"] for line in lines if line.event.kind == "report.written"), "")
    if not report or not Path(report).is_file():
        found.append(("lost record", "no run log"))
    if project.database is not None:
        found += _untrue_audit(project.database, run_id, lines)
    return found


def _untrue_audit(database: Database, run_id: str, lines: list[Line]) -> list[tuple[str, str]]:
    found = []
    end = next(i for i, line in enumerate(lines) if line.event.kind in ("run.finished", "run.lost"))
    rows = database.rows(f"SELECT line, hash FROM runbook.events WHERE run_id = '{run_id}' ORDER BY seq")
    if rows != [(line.text, line.hash) for line in lines[: end + 1]]:
        found.append(("lost record", f"the audit has {len(rows)} of {end + 1} lines, or others"))
    closings = database.rows(f"SELECT verdict FROM runbook.closings WHERE run_id = '{run_id}'")
    run = fold(line.event for line in lines)["run"]  # passed becomes errored where the audit is not confirmed at once
    due, failed = run["verdict"], run["audit"] == "failed"
    if closings != [(due,)]:
        found.append(("lost record", f"closings are {closings}, the record says {due}"))
    journaled = any("value" in line.event.data for line in lines if line.event.kind == "audit.row")
    user = [row[0] for row in database.rows(f"SELECT status FROM log WHERE run = '{run_id}'")]
    if journaled and user != [due] and not failed:
        found.append(("open row", f"the user's rows are {user}, the verdict is {due}"))
    if not journaled and "processing" in user:
        found.append(("row between", "the user's row is there, its record is not"))
    return found


# --- instants ------------------------------------------------------------------------------------------------------


class Life(NamedTuple):
    """Seconds from the start of the program to the first byte of its journal, and from there to its end."""

    opened: float
    ended: float


def life_of(project: Project, tries: int = 3) -> Life:
    """How long an undisturbed run lasts, by the median of so many."""
    lives = [_one_life(project) for _ in range(tries)]
    return Life(median(life.opened for life in lives), median(life.ended for life in lives))


def _one_life(project: Project) -> Life:
    known = set(project.runs())
    begun = time.monotonic()
    background = project.start("exec", "small.yaml")
    wait_opened(project, background, known)
    opened = time.monotonic()
    assert background.process.wait(HANG) == 0
    return Life(opened - begun, time.monotonic() - opened)


def wait_opened(project: Project, background: Background, known: set[str]) -> None:
    """Waits for the first byte of a new journal, or for the end."""
    while background.process.poll() is None:
        for path in project.folder.glob(".runbook/runs/*/journal.jsonl"):
            with suppress(OSError):
                if path.parent.name not in known and path.stat().st_size:
                    return
        time.sleep(0.001)


# --- places --------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """The `nth` time (from 1) that a runner comes to a failpoint; `at` is where that is among all places of a run."""

    name: str
    nth: int
    at: int

    def __str__(self) -> str:
        return self.name if self.nth == 1 else f"{self.name}#{self.nth}"


def places_of(lines: Sequence[Line]) -> list[Place]:
    """Every failpoint that the run of a journal came by, in order."""
    met: Counter[str] = Counter()
    found: list[Place] = []
    for kind in kinds(lines):
        for when in ("before", "after"):
            name = f"{when}-{kind}"
            met[name] += 1
            found.append(Place(name, met[name], len(found)))
    return found


def places(project: Project, name: str = "small.yaml") -> list[Place]:
    """The failpoints of an undisturbed run."""
    known = project.runs()
    ended = project.rb("exec", name)
    assert ended.code == 0, ended.err
    (run_id,) = set(project.runs()) - set(known)
    return places_of(project.journal(run_id))


def stopped_at(project: Project, place: Place, *arguments: str) -> Background:
    """A runner that has stopped at `place`."""
    background = project.start(*arguments, env={"RUNBOOK_FAILPOINT": f"{place.name}:stop"})
    for turn in range(place.nth):
        wait_stopped(background)
        if turn + 1 < place.nth:
            resume(background)
    return background


def wait_stopped(background: Background) -> None:
    def look() -> bool:
        assert background.process.poll() is None, f"it ended with {background.process.returncode}"
        return psutil.Process(background.process.pid).status() == psutil.STATUS_STOPPED

    until(look, HANG)


def resume(background: Background) -> None:
    background.process.send_signal(signal.SIGCONT)


def go_on(background: Background, seconds: float = HANG) -> int:
    """Lets a stopped runner go on to its end, past later failpoints of the same name; its exit code."""
    deadline = time.monotonic() + seconds
    resume(background)
    while background.process.poll() is None:
        assert time.monotonic() < deadline, f"it hangs: not over after {seconds:g} s"
        with suppress(psutil.Error):
            if psutil.Process(background.process.pid).status() == psutil.STATUS_STOPPED:
                resume(background)
        time.sleep(0.01)
    return int(background.process.returncode)
