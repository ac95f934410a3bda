"""Runs on another host, as their audit shows them: real ones in a folder of their own, and a relay that passes them on."""

from __future__ import annotations

import hashlib
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg

import runbook.fleet
from runbook.database.connect import connect
from runbook.fleet.schema import present
from runbook.records.audit import columns_of, migrate, queries
from runbook.records.journal import read_journal
from tests.acceptance.helpers import DB, HEAD, Background
from tests.conftest import Database, Ended, Program

SQL = Path(runbook.fleet.__file__).parent / "sql"

# Prints a line, waits for the file `go`, and prints another.
PRINTER = """
import os, time
print("begun", flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
print("done", flush=True)
"""
RUNBOOK = f"{HEAD}{DB}steps:\n  work: {{command: ['{sys.executable}', printer.py]}}\n"


def make_fleet(database: Database) -> None:
    """The audit and the fleet's own tables, without the queue."""
    with connect(database.url, "test") as connection:
        migrate(connection)
        if not present(connection):
            texts = [path.read_text() for path in sorted(SQL.glob("[0-9]*.sql"))]
            connection.execute("\n".join(["CREATE SCHEMA runbook_fleet;", *texts]).encode())


def put(database: Database, table: str, **values: Any) -> None:
    """A row of a table of the fleet."""
    names = ", ".join(values)
    marks = ", ".join(["%s"] * len(values))
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute(f"INSERT INTO runbook_fleet.{table} ({names}) VALUES ({marks})".encode(), [*values.values()])


def submit(database: Database, run_id: str, turn: dict[str, Any] | None = None, **given: Any) -> None:
    """A submission with its turn, queued unless `turn` says otherwise."""
    text = RUNBOOK.encode()
    digest = hashlib.sha256(text).hexdigest()
    database.run(f"INSERT INTO runbook_fleet.files VALUES ('{digest}', '\\x{text.hex()}') ON CONFLICT DO NOTHING")
    blank = dict.fromkeys(("experiment", "label", "lock"), "") | dict.fromkeys(("files", "params", "options"), "{}")
    known = {"runbook": "small", "file": "small.yaml", "sha256": digest, "varied": [], "rerun": False}
    who = {"operator": "ada", "host": "here"}
    put(database, "submissions", **{"run_id": run_id, **blank, **known, **who, **given})
    put(database, "turns", run_id=run_id, **(turn or {}))


class Host:
    """A folder that stands for another host, in which runs are executed."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder, self.database = folder, database
        folder.mkdir()
        (folder / "printer.py").write_text(PRINTER)
        (folder / "small.yaml").write_text(RUNBOOK)

    def exec(self, program: Program) -> Ended:
        """A whole run; its id is in the document."""
        (self.folder / "go").touch()
        return program("exec", "small.yaml", "--json", env={"DATABASE_URL": self.database.url}, cwd=self.folder)

    def start(self) -> Background:
        """A run that waits for `go`."""
        background = Background(self.folder, "exec", "small.yaml", "--json", env={"DATABASE_URL": self.database.url})
        background.reached('"process.started"')
        return background

    @property
    def run(self) -> Path:
        """The folder of the newest run."""
        return max((self.folder / ".runbook" / "runs").iterdir())


class Relay:
    """Does what a submitted run does for those who look on, from outside: its turn, its events, its output; `stop` is heeded."""

    def __init__(self, host: Host, background: Background) -> None:
        self._host, self._background = host, background
        self._over = threading.Event()
        self._sent = 0
        self.run_id = host.run.name
        submit(host.database, self.run_id, {"state": "running", "host": "far"})
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()

    def _go_on(self) -> None:
        with connect(self._host.database.url, "test relay") as connection:
            while True:
                over = self._background.process.poll() is not None or self._over.is_set()
                self._pass_on(connection)
                row = connection.execute(
                    "UPDATE runbook_fleet.turns SET seen_at = clock_timestamp(), state = $2 WHERE run_id = $1 RETURNING stop",
                    [self.run_id, "over" if over else "running"],
                ).fetchone()
                if row and row[0] and not over:
                    self._background.process.terminate()
                if over:
                    return
                self._over.wait(0.1)

    def _pass_on(self, connection: Any) -> None:
        lines = list(read_journal(self._host.run / "journal.jsonl"))
        known = connection.execute("SELECT epoch FROM runbook.runs WHERE run_id = $1", [self.run_id]).fetchone()
        closed = connection.execute(queries()["closing"], [self.run_id]).fetchone()
        if known and not closed:
            connection.execute(queries()["insert_events"], [self.run_id, known[0], *columns_of(lines)])
        data = (self._host.run / "output.log").read_bytes()[self._sent :]
        if data:
            put(self._host.database, "output", run_id=self.run_id, start=self._sent, data=data)
            self._sent += len(data)

    def end(self) -> Ended:
        """Lets the run end, and waits for it."""
        (self._host.folder / "go").touch()
        ended = self._background.end()
        self._thread.join(30)
        return ended

    def leave(self) -> None:
        """Whatever happened, nothing is left."""
        self._over.set()
        self._thread.join(30)
        self._background.kill()
