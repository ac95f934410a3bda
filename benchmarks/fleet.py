"""The fleet beside procrastinate alone and `runbook exec`: submitting, working, connections, room in the database, asking.

python benchmarks/fleet.py                 # all of it, less than 5 minutes
python benchmarks/fleet.py --runs 100      # more runs for each combination of workers and concurrency
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench import NONE, Program, machine, progress, server, table, workplace
from fleet_place import ALONE, Place, make_place, numbers, server_cpu, server_process
from fleet_room import print_sessions, print_written, room

BEGINS, ENDS = "<!-- figures of benchmarks/fleet.py -->", "<!-- end of the figures -->"
JOBS = {"noop": 10, "process": 4}  # jobs of procrastinate alone for each run, since they are so much shorter


class Did(NamedTuple):
    """Some work: how many a second from the first one's start to the last one's end, and CPU seconds for each.

    `cpu` is that of the workers and all their children, without what a worker takes that finds nothing to do; `server` is
    that of PostgreSQL.
    """

    rate: float
    cpu: float
    server: float


def main() -> None:
    given = _arguments()
    told = StringIO()
    with redirect_stdout(told):
        _measure(given)
    print(told.getvalue(), end="")
    if given.into:
        text = given.into.read_text(encoding="utf-8")
        before, begins, rest = text.partition(BEGINS)
        _, ends, after = rest.partition(ENDS)
        given.into.write_text(f"{before}{begins}\n{told.getvalue()}{ends}{after}", encoding="utf-8")


def _measure(given: argparse.Namespace) -> None:
    with workplace() as folder:
        with server(folder) as url:
            postmaster = server_process(url)
            _print_all(make_place(folder, url), given)
        postmaster.wait(60)  # it has much to write at its end, and nobody may remove its folder before


def _print_all(place: Place, given: argparse.Namespace) -> None:
    [(version,)] = place.value("SHOW server_version")
    print(f"{machine()}; PostgreSQL {version}; {given.runs} runs a row\n")
    before = room(place)
    _working(place, given)
    print_written(place, before)
    print_sessions(place)
    _submitting(place, given)
    _asking(place, given)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="runs for each combination (default 20)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], metavar="N")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 4], metavar="N")
    parser.add_argument("--queued", type=int, nargs="+", default=[1000, 10_000], metavar="N")
    parser.add_argument(
        "--into", type=Path, metavar="FILE", help="also put the figures between their marks in a document"
    )
    return parser.parse_args()


# --- (b) runs a second -----------------------------------------------------------------------------------------------


def _working(place: Place, given: argparse.Namespace) -> None:
    idle, _ = _together(place, _worker(place, 1), 1)
    loops: list[Did] = []
    rows = []
    for workers in given.workers:
        for concurrency in given.concurrency:
            progress(f"{workers} workers, {concurrency} at a time")
            loops.append(_loop(place, max(given.runs // 4, 2)))
            fleet = _fleet(place, workers, concurrency, given.runs)
            fleet = fleet._replace(cpu=fleet.cpu - idle * workers / given.runs)
            noop, process = (_alone(place, workers, concurrency, kind, given.runs * JOBS[kind]) for kind in JOBS)
            beside = [
                f"{fleet.rate / loops[-1].rate:.2f}",
                *(f"{fleet.rate / other.rate:.3f}" for other in (process, noop)),
            ]
            cells = [f"{fleet.rate:.1f}", *beside, _ms(fleet.cpu), _ms(fleet.server)]
            rows.append([f"{workers} × `worker -c {concurrency}`", str(workers * concurrency), *cells])
    loop = Did(*(median(values) for values in zip(*loops, strict=True)))
    rows.insert(0, ["`runbook exec` in a loop", "1", f"{loop.rate:.1f}", "1", "", "", _ms(loop.cpu), _ms(loop.server)])
    progress("")
    head = ["runs of one SQL step", "slots", "runs/s", "to exec", "to a process each", "to no-op jobs"]
    table([*head, "cpu ms a run", "server's cpu ms"], rows)


def _loop(place: Place, runs: int) -> Did:
    """`runbook exec` again and again."""
    program = Program("exec", (*place.command, "exec", "short"), place.env, place.folder)
    served, began = server_cpu(place), time.perf_counter()
    samples = [program.run() for _ in range(runs)]
    wall = time.perf_counter() - began
    return Did(runs / wall, sum(sample.cpu for sample in samples) / runs, (server_cpu(place) - served) / runs)


def _fleet(place: Place, workers: int, concurrency: int, runs: int) -> Did:
    told = json.loads(place.runbook("submit", "short", "--matrix", f"n={numbers(runs)}", "--json"))
    served = server_cpu(place)
    cpu, _ = _together(place, _worker(place, concurrency), workers)
    served = server_cpu(place) - served
    [(seconds, passed)] = place.value(
        "SELECT extract(epoch FROM max(c.finished_at) - min(r.started_at))::float8, count(*) FILTER (WHERE verdict = 'passed') "
        "FROM runbook.runs r JOIN runbook.closings c USING (run_id) JOIN runbook_fleet.submissions s USING (run_id) "
        f"WHERE s.experiment = '{told['experiment']}'"
    )
    if passed != runs:
        sys.exit(f"{passed} of {runs} runs passed")
    return Did(runs / seconds, cpu / runs, served / runs)


def _worker(place: Place, concurrency: int) -> Sequence[str]:
    return (*place.command, "worker", "--until-empty", "-c", str(concurrency))


def _alone(place: Place, workers: int, concurrency: int, kind: str, jobs: int) -> Did:
    place.alone("put", kind, str(jobs))
    served = server_cpu(place)
    cpu, told = _together(place, (sys.executable, ALONE, "work", place.url, str(concurrency)), workers)
    moments = [float(word) for text in told for word in text.split() if float(word)]
    return Did(jobs / (max(moments) - min(moments)), cpu / jobs, (server_cpu(place) - served) / jobs)


def _together(place: Place, argv: Sequence[str], count: int) -> tuple[float, list[str]]:
    """The CPU seconds of processes that work beside each other and of their children, and what each printed."""
    files = [(place.folder / f"printed-{number}").open("w+", encoding="utf-8") for number in range(count)]
    children = [
        subprocess.Popen(argv, env=place.env, cwd=place.folder, stdin=NONE, stdout=f, stderr=NONE) for f in files
    ]
    cpu = 0.0
    for child in children:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            sys.exit(f"{' '.join(argv)}: exit code {child.returncode}")
        cpu += usage.ru_utime + usage.ru_stime
    told = []
    for file in files:
        with file:
            file.seek(0)
            told.append(file.read())
    return cpu, told


# --- (a) submitting, and (e) asking ----------------------------------------------------------------------------------


def _submitting(place: Place, given: argparse.Namespace) -> None:
    rows = []
    for count in given.queued:
        progress(f"submitting {count}")
        bare = float(place.alone("put", "noop", str(count)))
        place.run("TRUNCATE alone.procrastinate_jobs CASCADE")
        ours = _submit(place, count)
        place.run("TRUNCATE runbook_fleet.procrastinate_jobs CASCADE")
        rows.append([f"a matrix of {count:,}", f"{count / ours:.0f}", f"{count / bare:.0f}", f"{bare / ours:.2f}"])
    progress("")
    table(["submit", "runs/s", "bare jobs/s", "ratio"], rows)


def _submit(place: Place, count: int) -> float:
    """The seconds that it takes to submit so many runs in a process that is there already, with a new connection."""
    from runbook import load
    from runbook.submit import Asked, submit

    runbook = load(place.folder / "runbooks" / "short.yaml")
    began = time.perf_counter()
    submit(runbook, {}, {"n": list(range(count))}, Asked({"db": place.url}), lambda question: True)
    return time.perf_counter() - began


def _asking(place: Place, given: argparse.Namespace) -> None:
    """`fleet` and `compare` as whole processes, beside themselves with next to nothing queued."""
    rows: list[list[str]] = []
    first: dict[str, float] = {}
    for count in [1, *given.queued]:
        place.run("UPDATE runbook_fleet.turns SET state = 'over' WHERE state = 'queued'")
        _submit(place, count)
        for name, arguments in (("fleet", ["fleet", "--json"]), ("compare", ["compare", "last", "--json"])):
            program = Program(name, (*place.command, *arguments), place.env, place.folder)
            progress(f"{name} of {count}")
            shown = median(_answered(program) for _ in range(3))
            first.setdefault(name, shown)
            rows.append([f"`runbook {name}`, {count:,} queued", f"{shown * 1000:.0f}", f"{shown / first[name]:.1f}"])
    progress("")
    table(["asking", "median ms", "to 1 queued"], sorted(rows, key=lambda row: row[0].split(",")[0]))


def _answered(program: Program) -> float:
    """Seconds until it has answered; `compare` says with 6 that records are still missing."""
    began = time.perf_counter()
    done = subprocess.run(
        program.argv, env=program.env, cwd=program.folder, stdin=NONE, capture_output=True, check=False
    )
    if done.returncode not in (0, 6) or not done.stdout:
        sys.exit(f"{program.name}: exit code {done.returncode}\n{done.stderr.decode()[-3000:]}")
    return time.perf_counter() - began


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"


if __name__ == "__main__":
    main()
