"""One run of the cookbook by `runbook exec`, beside the same statements by a script, by psql and by Chaos Toolkit."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from shutil import copy
from statistics import median

from bench import (
    Program,
    Sample,
    console_script,
    environment,
    find_psql,
    forgetful,
    interleaved,
    machine,
    milliseconds,
    ratio,
    server,
    table,
    workplace,
)

COOKBOOK = Path(__file__).resolve().parent / "cookbook"
FURTHER = "SELECT COUNT(*) FROM postings WHERE posting_id = {n}"
CHECK = f"  further_{{n}}: {{sql: {FURTHER}, returns: value, expect: result >= 0}}"
CHAOS_PROBE = f"""\
  - type: probe
    name: further_{{n}}
    tolerance: 0
    provider: {{type: python, module: chaos_probes, func: value, arguments: {{sql: {FURTHER}}}}}"""
SCRIPT, RUNBOOK, UNSEEN = "(a) psycopg script", "runbook exec", "runbook exec, a new file"
PSQL, PER_QUERY, CHAOS = "(b) one psql -f", "(c) psql per query", "(d) Chaos Toolkit"
MANY = 1000  # further checks from which on a third of the rounds is enough
MOST_PROCESSES = 100  # further checks beyond which a process for each is not waited for


def main() -> None:
    """Prints one table for the whole run, and one for growth and memory where further checks are asked for."""
    given = _arguments()
    with workplace() as folder, server(folder) as url:
        print(f"{machine()}; {_server_version(url)}\n")
        (folder / "logs").mkdir()
        programs = _programs(folder, url, given, 0)
        _print_whole_run(interleaved(programs, given.runs))
        if given.queries:
            table(*_growth(folder, url, given))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15, metavar="N", help="rounds (default 15)")
    parser.add_argument(
        "--queries",
        type=int,
        nargs="*",
        default=[],
        metavar="N",
        help="also with N further checks, and the peak of memory",
    )
    parser.add_argument("--psql", default=find_psql(), metavar="PATH", help="the program itself, not Debian's wrapper")
    parser.add_argument("--chaostoolkit", metavar="PYTHON", help="an interpreter that has chaostoolkit and psycopg")
    return parser.parse_args()


def _programs(folder: Path, url: str, given: argparse.Namespace, further: int) -> list[Program]:
    """The rivals with so many further checks, the script first, to which the others are compared."""
    known, python = environment(folder, url), sys.executable

    def program(name: str, *argv: str) -> Program:
        return Program(name, argv, known, folder)

    script = str(copy(COOKBOOK / "straight_line.py", folder))
    runbook = _extended(folder, "runbook.yaml", further, CHECK)
    run = program(RUNBOOK, *console_script(folder), "exec", runbook)
    found = [program(SCRIPT, python, script, str(further)), run, forgetful(run, UNSEEN)]
    if given.psql:
        file = _extended(folder, "one_file.sql", further, f"{FURTHER};")
        found.append(program(PSQL, given.psql, "-X", "-q", "-d", url, "-f", file))
    if given.psql and further <= MOST_PROCESSES:
        found.append(program(PER_QUERY, "/bin/sh", str(COOKBOOK / "psql_per_query.sh"), given.psql, str(further)))
    if given.chaostoolkit:
        copy(COOKBOOK / "chaos_probes.py", folder)
        experiment = _extended(folder, "chaos.yaml", further, CHAOS_PROBE)
        argv = (given.chaostoolkit, "-m", "chaostoolkit", "--no-version-check", "run", experiment)
        found.append(Program(CHAOS, argv, {**known, "PYTHONPATH": str(folder)}, folder))
    return found


def _extended(folder: Path, name: str, further: int, line: str) -> str:
    """A copy of a file of the cookbook with `line` for each further check in its place."""
    text = (COOKBOOK / name).read_text(encoding="utf-8")
    mark = "-- further" if name.endswith(".sql") else "# further"
    lines = [line.replace("{n}", str(number)) for number in range(further)]
    copied = folder / f"{further}_{name}"
    copied.write_text(text.replace(mark, "\n".join(lines)), encoding="utf-8")
    return str(copied)


def _print_whole_run(samples: dict[str, list[Sample]]) -> None:
    script = samples[SCRIPT]
    rows = [
        [
            name,
            milliseconds(min(sample.wall for sample in found)),
            milliseconds(median(sample.wall for sample in found)),
            f"{ratio(found, script, lambda sample: sample.wall):.2f}",
            milliseconds(median(sample.cpu for sample in found)),
            f"{ratio(found, script, lambda sample: sample.cpu):.2f}",
        ]
        for name, found in samples.items()
    ]
    table(["whole run", "min ms", "median ms", "to (a)", "cpu ms", "to (a)"], rows)


def _growth(folder: Path, url: str, given: argparse.Namespace) -> tuple[list[str], list[list[str]]]:
    """What one further check costs, beside what its query costs in a loop of nothing but queries."""
    rows = []
    for further in given.queries:
        runs = max(3, given.runs // 3) if further >= MANY else given.runs
        extended = _programs(folder, url, given, further)
        names = {program.name for program in extended}
        plain = [program for program in _programs(folder, url, given, 0) if program.name in names]
        renamed = [program._replace(name=f"{further} {program.name}") for program in extended]
        loops: list[float] = []
        samples = interleaved([*plain, *renamed], runs, partial(_time_queries, url, further, loops))
        own = median(loops)
        rows.append([f"{further}: the query alone", f"{own * 1000:.2f}", "", ""])
        for program in extended:
            each = _each(samples[program.name], samples[f"{further} {program.name}"], further)
            beside = f"{(each - own) * 1000:.2f}"
            rows.append([f"{further}: {program.name}", f"{each * 1000:.2f}", beside, f"{program.peak():.0f}"])
    return ["a further check, of", "ms", "beside its query", "peak MB"], rows


def _each(plain: Sequence[Sample], extended: Sequence[Sample], further: int) -> float:
    return median((more.wall - less.wall) / further for less, more in zip(plain, extended, strict=True))


def _time_queries(url: str, further: int, into: list[float]) -> None:
    """Adds the seconds that one query takes in a bare loop over one connection."""
    import psycopg

    with psycopg.connect(url) as connection:
        connection.execute("SELECT 1")
        began = time.perf_counter()
        for number in range(further):
            connection.execute(FURTHER.replace("{n}", str(number)).encode()).fetchone()
        into.append((time.perf_counter() - began) / further)


def _server_version(url: str) -> str:
    import psycopg

    with psycopg.connect(url) as connection:
        return f"PostgreSQL {connection.info.parameter_status('server_version')}, psycopg {psycopg.__version__}"


if __name__ == "__main__":
    main()
