"""The fleet under fire: workers killed and paused, the network cut, the server restarted, and not a run lost from sight."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tests.acceptance.helpers import until
from tests.conftest import ROOT
from tests.faults.hosts import CAN, Host, hosts
from tests.faults.parts import say
from tests.faults.server import Server, server

pytestmark = pytest.mark.skipif(not CAN, reason="network namespaces need root and iproute2")

RUNS = int(os.environ.get("RUNBOOK_SOAK_RUNS", "1000"))
SEED = int(os.environ.get("RUNBOOK_SOAK_SEED", "0")) or random.SystemRandom().randrange(10**9)
MARKS = "CREATE TABLE marks (run_id text NOT NULL, n integer NOT NULL)"
MARK = """
runbook: 1
name: mark
params: {n: {type: integer}, pause: {type: number, default: 0.2}}
connections: {db: {type: postgres, env: DATABASE_URL}}
lock: "mark-{{ params.n }}"
state: {marks: {sql: "SELECT count(*) AS total FROM marks WHERE n = {{ params.n }}"}}
expectations: {marks.total: {delta: 1}}
steps:
  mark: {sql: "INSERT INTO marks VALUES ({{ run.id }}, {{ params.n }})"}
  rest: {command: [sleep, "{{ params.pause }}"]}
"""


class Ground:
    """Hosts, a server that they reach over their links, and a project on each."""

    def __init__(self, folder: Path, machine: Server, found: list[Host]) -> None:
        self.folder, self.server, self.hosts = folder, machine, found
        hba = machine.data / "pg_hba.conf"
        hba.write_text(hba.read_text() + "host all all 10.213.0.0/16 trust\n")
        machine.admin("SELECT pg_reload_conf()")
        machine.admin("CREATE DATABASE fleet OWNER runner")
        self.url = machine.url("fleet")
        self.run(MARKS)
        (folder / "runbooks").mkdir()
        (folder / "runbooks" / "mark.yaml").write_text(MARK)

    def run(self, sql: str) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(sql)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def patiently(self, sql: str) -> list[Any]:
        """The same, also while the server is away."""
        found: list[Any] = []

        def asked() -> bool:
            with suppress(psycopg.OperationalError):
                found.append(self.run(sql))
            return bool(found)

        until(asked, 60)
        return list(found[0])

    def call(self, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "DATABASE_URL": self.url}
        words = [sys.executable, "-m", "runbook", *arguments]
        return subprocess.run(words, cwd=folder or self.folder, env=env, capture_output=True, text=True, check=False)

    def submit(self, count: int, *arguments: str) -> list[str]:
        numbers = ",".join(map(str, range(1, count + 1)))
        ended = self.call("submit", "mark", "--matrix", f"n={numbers}", *arguments, "--json")
        assert ended.returncode == 0, ended.stderr
        return [item["id"] for item in json.loads(ended.stdout)["runs"]]

    def worker(self, host: Host, concurrency: int = 2) -> psutil.Process:
        url = f"postgresql://runner@{host.gateway}:5432/fleet"
        log = host.folder / "worker.log"
        return host.start("worker", "--database", url, "-c", str(concurrency), log=log, env={"DATABASE_URL": url})


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    with hosts(tmp_path, 2) as found, server(",".join(host.gateway for host in found)) as machine:
        yield Ground(tmp_path, machine, found)


def whole(process: psutil.Process) -> list[psutil.Process]:
    """A worker with all its runs, as they go down with a host."""
    return [*process.children(recursive=True), process]


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.suspend()
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, 10)


class Trouble:
    """What happens to the fleet as time goes on; a supervisor starts again what was killed."""

    def __init__(self, ground: Ground, chance: random.Random) -> None:
        self.ground, self.chance = ground, chance
        self.workers = [(host, ground.worker(host)) for host in ground.hosts for _ in range(2)]
        self.began = time.monotonic()
        self.kills = 0
        self.told: list[str] = []
        self._later: list[tuple[float, Callable[[], Any]]] = []
        self._planned = [(20, self._pause), (45, self._cut), (80, self._restart)]
        self._next_kill = 5.0

    def go_on(self) -> None:
        """Whatever is due by now."""
        now = time.monotonic() - self.began
        for due in [item for item in self._later if item[0] <= now]:
            self._later.remove(due)
            due[1]()
        if self._planned and now > self._planned[0][0]:
            self._planned.pop(0)[1]()
        if now > self._next_kill:
            self._next_kill = now + 5
            self._kill()
        for index, (host, worker) in enumerate(self.workers):
            if not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE:
                self.workers[index] = (host, self.ground.worker(host))

    def _kill(self) -> None:
        _, worker = self.chance.choice(self.workers)
        with suppress(psutil.NoSuchProcess):
            kill(whole(worker) if self.kills % 2 else [worker])
            self.kills += 1

    def _pause(self) -> None:
        host, worker = self.workers[0]
        asleep = whole(worker)
        for process in asleep:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        self.workers[0] = (host, self.ground.worker(host))
        self.told.append(f"paused a worker with {len(asleep) - 1} processes")
        self._after(40, lambda: [process.resume() for process in asleep if process.is_running()])

    def _cut(self) -> None:
        host = self.ground.hosts[1]
        host.cut()
        self.told.append("cut the network of a host for 45 s")
        self._after(45, host.mend)

    def _restart(self) -> None:
        self.ground.server.stop("immediate")
        self.told.append("server down for 3 s")
        self._after(3, self.ground.server.start)

    def _after(self, seconds: float, action: Callable[[], Any]) -> None:
        self._later.append((time.monotonic() - self.began + seconds, action))

    @property
    def over(self) -> bool:
        return not self._planned and not self._later

    def calm(self) -> None:
        """Nothing happens any more; what is paused or cut is whole again."""
        for _, action in self._later:
            action()
        self._later = []
        for host, worker in self.workers:
            if not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE:
                self.ground.worker(host)


def test_hosts_share_nothing_but_the_database(ground: Ground) -> None:
    ids = ground.submit(6)
    for host in ground.hosts:
        ground.worker(host, 1)
    until(lambda: ground.run("SELECT count(*) FROM runbook.closings WHERE verdict = 'passed'") == [(6,)], 60)
    assert {row[0] for row in ground.run("SELECT host FROM runbook.runs")} == {host.name for host in ground.hosts}
    found = [{path.parent.name for path in host.folder.glob(".runbook/runs/*/journal.jsonl")} for host in ground.hosts]
    assert found[0] | found[1] == set(ids)
    assert not found[0] & found[1]


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_no_run_is_lost_from_sight_or_done_twice(ground: Ground) -> None:
    say(f"seed {SEED}")
    ids = ground.submit(RUNS)
    began = time.monotonic()
    trouble = Trouble(ground, random.Random(SEED))
    closed = "SELECT count(*) FROM runbook.closings"
    while True:
        with suppress(psycopg.OperationalError):
            if ground.run(closed)[0][0] == RUNS:
                break
        trouble.go_on()
        time.sleep(0.2)
        assert time.monotonic() - began < 3600
    took = time.monotonic() - began
    trouble.calm()
    facts(ground, ids, took, trouble)


def facts(ground: Ground, ids: list[str], took: float, trouble: Trouble) -> None:
    verdicts = dict(ground.run("SELECT run_id, verdict FROM runbook.closings"))
    marks = Counter(row[0] for row in ground.run("SELECT run_id FROM marks"))
    counts = Counter(verdicts.values())
    say(f"{RUNS} runs in {took:.0f} s, {trouble.kills} workers killed; {'; '.join(trouble.told)}: {dict(counts)}")
    ended = """SELECT line FROM runbook.events e JOIN runbook.closings c USING (run_id)
        WHERE kind = 'run.finished' AND c.verdict = 'errored'"""
    for because, count in Counter(json.loads(row[0])["data"]["because"][:200] for row in ground.run(ended)).most_common(
        5
    ):
        say(f"    errored, {count}: {because}")
    assert set(verdicts) == set(ids)
    assert max(marks.values()) == 1, "a run was done twice"
    assert all(marks[run] == 1 for run, verdict in verdicts.items() if verdict == "passed")
    assert set(counts) <= {"passed", "lost", "errored", "failed"}  # failed: the server went away in the midst of a step
    until(lambda: ground.run("SELECT count(*) FROM runbook_fleet.procrastinate_jobs")[0][0] == 0, 120)
    until(lambda: ground.run("SELECT count(*) FROM runbook_fleet.turns WHERE state <> 'over'")[0][0] == 0, 60)
    until(lambda: not ground.run("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"), 60)
    logs = [path.read_text() for host in ground.hosts for path in host.folder.rglob("logs/*.md")]
    logs += [path.read_text() for host in ground.hosts for path in (host.folder / ".runbook" / "runs").rglob("*.md")]
    without = [run for run in ids if not any(run in text for text in logs)]
    assert not without, f"without a run log: {without[:5]}"
    for host in ground.hosts:
        until(lambda host=host: not list((host.folder / ".runbook" / "open").glob("*")), 120)
        ended = ground.call("audit", "verify", "--database", ground.url, folder=host.folder)
        assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("how", ["process", "worker and runs", "host", "network"])
def test_how_soon_a_run_is_lost(ground: Ground, how: str) -> None:
    """From the death of what executes a run to its verdict: another worker of the project, or of another host, is there."""
    near, far = ground.hosts
    took = []
    for number in range(3):
        (run,) = ground.submit(1, "-p", "pause=300")
        dying = ground.worker(near, 1)
        query = f"SELECT 1 FROM runbook.events WHERE run_id = '{run}' AND kind = 'step.started'"
        until(lambda query=query: ground.run(query), 60)
        ground.worker(near if how == "worker and runs" else far)
        time.sleep(4 + number)
        (child,) = [child for child in dying.children() if "turn" in child.cmdline()]
        killed = time.monotonic()
        if how == "process":
            child.kill()
        elif how == "network":
            near.cut()
        else:
            kill(whole(dying))
        closing = f"SELECT verdict FROM runbook.closings WHERE run_id = '{run}'"
        assert until(lambda closing=closing: ground.run(closing), 120) == [("lost",)]
        took.append(time.monotonic() - killed)
        if how == "network":
            near.mend()
        for host in ground.hosts:
            for process in psutil.process_iter(["cwd"]):
                if process.info["cwd"] and Path(process.info["cwd"]).is_relative_to(host.folder):
                    process.kill()
    say(f"{how}: lost after {', '.join(f'{seconds:.1f}' for seconds in took)} s")
