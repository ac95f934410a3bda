"""Where `benchmarks/fleet.py` measures: a project, a server of its own, and what can be asked of both."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import psycopg
from bench import NONE, console_script, environment

ALONE = str(Path(__file__).resolve().parent / "procrastinate_alone.py")
SHORT = """\
runbook: 1
name: short
params: {n: {type: integer, default: 0}}
connections: {db: {type: postgres, env: DATABASE_URL}}
lock: "short-{{ params.n }}"
steps:
  add: {sql: "INSERT INTO done VALUES ({{ params.n }})"}
"""
LONG = """\
runbook: 1
name: long
params: {n: {type: integer, default: 0}}
connections: {db: {type: postgres, env: DATABASE_URL}}
lock: "long-{{ params.n }}"
state: {done: {sql: "SELECT count(*) AS total FROM done"}}
expectations: {done.total: {delta: 0}}
steps:
  wait: {command: [sleep, "600"]}
"""


class Place(NamedTuple):
    """Where it all happens: the project's folder, the server's URL, the environment of programs and the command `runbook`."""

    folder: Path
    url: str
    env: Mapping[str, str]
    command: tuple[str, ...]

    def value(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(sql.encode()).fetchall()

    def run(self, sql: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.encode())

    def runbook(self, *arguments: str) -> str:
        """What `runbook ARGUMENT...` prints. Raises CalledProcessError unless it exits with 0."""
        return self._output(*self.command, *arguments)

    def alone(self, *arguments: str) -> str:
        return self._output(sys.executable, ALONE, arguments[0], self.url, *arguments[1:])

    def _output(self, *argv: str) -> str:
        done = subprocess.run(
            argv, env=self.env, cwd=self.folder, stdin=NONE, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stderr[-3000:]}")
        return done.stdout


def make_place(folder: Path, url: str) -> Place:
    project = folder / "project"
    (project / "runbooks").mkdir(parents=True)
    (project / ".runbook").mkdir()
    for name, text in (("short", SHORT), ("long", LONG)):
        (project / "runbooks" / f"{name}.yaml").write_text(text, encoding="utf-8")
    place = Place(project, url, environment(folder, url), console_script(folder))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE done (n integer)")
    place.runbook("exec", "short")
    place.runbook("submit", "short")
    place.runbook("worker", "--until-empty")
    place.alone("put", "noop", "1")
    place.alone("work", "1")
    return place


def server_process(url: str) -> psutil.Process:
    with psycopg.connect(url) as connection:
        return psutil.Process(psutil.Process(connection.info.backend_pid).ppid())


def server_cpu(place: Place) -> float:
    """The CPU seconds of PostgreSQL so far: of the processes that it has, and of those that it had."""
    postmaster = server_process(place.url)
    own = postmaster.cpu_times()
    found = own.user + own.system + own.children_user + own.children_system
    for child in postmaster.children():
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        found += times.user + times.system
    return found


def numbers(count: int) -> str:
    return ",".join(str(number) for number in range(count))
