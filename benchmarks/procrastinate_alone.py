"""A worker of procrastinate with nothing around it, and who puts jobs into its queue: what `benchmarks/fleet.py` compares to.

    python procrastinate_alone.py put URL noop|process JOBS
    python procrastinate_alone.py work URL CONCURRENCY

`put` prints the seconds that it took; `work` ends when the queue is empty, and prints when its first job began and its last
one ended. The tables are in the schema `alone`, made where they are missing.
"""

from __future__ import annotations

import asyncio
import sys
import time
from importlib import resources
from typing import Any

import psycopg
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector
from procrastinate.jobs import Job
from procrastinate.manager import JobManager

ENTER = "-c search_path=alone"
moments: list[float] = []


def main() -> None:
    command, url, *given = sys.argv[1:]
    if command == "put":
        _make(url)
        print(put(url, given[0], int(given[1])))
    else:
        asyncio.run(_work(url, int(given[0])))
        print(min(moments, default=0), max(moments, default=0))


def put(url: str, kind: str, count: int) -> float:
    """Puts jobs into the queue, each under a lock of its own; the seconds that it took on a connection that was there."""
    jobs = [
        Job(queue="alone", task_name=kind, lock=f"{kind}-{number}", queueing_lock=None, task_kwargs={"number": number})
        for number in range(count)
    ]
    with psycopg.connect(url, autocommit=True, options=ENTER) as connection:
        began = time.perf_counter()
        JobManager(SyncPsycopgConnector()).batch_defer_jobs(jobs, connection=connection)
        return time.perf_counter() - began


def _make(url: str) -> None:
    with psycopg.connect(url, autocommit=True, options=ENTER) as connection:
        if connection.execute("SELECT to_regclass('procrastinate_jobs')").fetchone() == (None,):
            connection.execute("CREATE SCHEMA IF NOT EXISTS alone")
            schema = resources.files("procrastinate") / "sql" / "schema.sql"
            connection.execute(schema.read_text(encoding="utf-8").encode())


async def _work(url: str, concurrency: int) -> None:
    app = App(connector=PsycopgConnector(conninfo=url, kwargs={"options": ENTER}, min_size=1, max_size=3))
    app.task(name="noop")(noop)
    app.task(name="process")(process)
    async with app.open_async():
        await app.run_worker_async(queues=["alone"], concurrency=concurrency, wait=False, delete_jobs="always")


async def noop(number: int) -> None:
    moments.append(time.time())


async def process(number: int) -> None:
    moments.append(time.time())
    child: Any = await asyncio.create_subprocess_exec(sys.executable, "-c", "pass", stdin=asyncio.subprocess.DEVNULL)
    await child.wait()
    moments.append(time.time())


if __name__ == "__main__":
    main()
