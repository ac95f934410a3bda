"""What the fleet's tests share: a runbook that may be swept over, and workers beside the test."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg

from tests.acceptance.helpers import Background, until
from tests.conftest import Database, Ended

SWEEP = """
runbook: 1
name: sweep
params: {n: {type: integer, default: 1}, pause: {type: number, default: 0}, fail: {type: boolean, default: false}}
connections: {db: {type: postgres, env: DATABASE_URL}}
lock: "sweep-{{ params.n }}"
state: {items: {sql: "SELECT count(*) AS total FROM items WHERE n = {{ params.n }}"}}
expectations: {items.total: {delta: params.n}}
steps:
  wait:
    command: [sh, -c, 'echo "n is $N"; sleep "$PAUSE"; test "$FAIL" = false']
    env: {N: "{{ params.n }}", PAUSE: "{{ params.pause }}", FAIL: "{{ 'true' if params.fail else 'false' }}"}
  add: {sql: "INSERT INTO items SELECT {{ params.n }} FROM generate_series(1, {{ params.n }})"}
"""
ITEMS = "CREATE TABLE items (n integer)"


class Fleet:
    """A project with the runbook `sweep`, a database with its table, and workers that end with the test."""

    def __init__(self, folder: Path, database: Database, program: Callable[..., Ended]) -> None:
        self.folder, self.database, self._program = folder, database, program
        self.env = {"DATABASE_URL": database.url}
        self._workers: list[Background] = []
        database.run(ITEMS)
        self.write(SWEEP)

    def write(self, text: str) -> None:
        (self.folder / "runbooks").mkdir(exist_ok=True)
        (self.folder / "runbooks" / "sweep.yaml").write_text(text, encoding="utf-8")

    def call(self, *arguments: str) -> Ended:
        return self._program(*arguments, env=self.env)

    def submit(self, *arguments: str) -> list[str]:
        """The ids of the runs that were submitted."""
        ended = self.call("submit", "sweep", *arguments, "--json")
        assert ended.code == 0, ended.err
        return [item["id"] for item in json.loads(ended.out)["runs"]]

    def worker(self, *arguments: str, folder: Path | None = None, env: dict[str, str] | None = None) -> Background:
        """A worker beside the test, which has begun."""
        place = folder or self.folder
        (place / ".runbook").mkdir(parents=True, exist_ok=True)
        known = self.value("SELECT count(*) FROM runbook_fleet.workers", 0)
        where = ["--database", self.database.url] if folder else []
        made = Background(place, "worker", *where, *arguments, env={**self.env, **(env or {})})
        self._workers.append(made)

        def begun() -> bool:
            assert made.process.poll() is None, made.end()
            return bool(self.value("SELECT count(*) FROM runbook_fleet.workers", 0) > known)

        until(begun)
        return made

    def work(self, *arguments: str) -> Ended:
        """A worker that ends when the queue is empty."""
        ended = self.call("worker", "--until-empty", *arguments)
        assert ended.code == 0, ended.err
        return ended

    def value(self, sql: str, default: Any = None) -> Any:
        """The first value that the database gives; `default` where what is asked for is not there yet."""
        with suppress(psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            rows = self.database.rows(sql)
            return rows[0][0] if rows else default
        return default

    def verdict(self, run_id: str) -> str | None:
        return self.value(f"SELECT verdict FROM runbook.closings WHERE run_id = '{run_id}'")

    def verdicts(self, run_ids: list[str], seconds: float = 60) -> list[str]:
        """The verdicts of runs, in their order, when all have one."""
        return list(until(lambda: found if all(found := [self.verdict(run) for run in run_ids]) else None, seconds))

    def running(self, run_id: str) -> bool:
        """Whether the run's step has begun, as far as its relay told."""
        return bool(
            self.value(f"SELECT 1 FROM runbook.events WHERE run_id = '{run_id}' AND kind = 'step.started'")
            or self.value(f"SELECT 1 FROM runbook_fleet.output WHERE run_id = '{run_id}'")
        )

    def end(self) -> None:
        for worker in self._workers:
            worker.kill()


@contextmanager
def orphans_ended(folder: Path) -> Iterator[None]:
    """Ends what a killed worker left running in `folder`."""
    try:
        yield
    finally:
        for process in psutil.process_iter(["cmdline", "cwd"]):
            if process.info["cwd"] and Path(process.info["cwd"]).is_relative_to(folder) and process.pid != os.getpid():
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
