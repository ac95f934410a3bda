"""Many runbooks in one process: `runbook validate` of 200 files of 60 lines, and a loop over `runbook.execute`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench import (
    Program,
    Sample,
    console_script,
    environment,
    forgetful,
    interleaved,
    machine,
    milliseconds,
    server,
    table,
    workplace,
)

FILES, LINES, WARM = 200, 60, 3
RUNBOOK = Path(__file__).resolve().parent / "cookbook" / "runbook.yaml"
CHECK = "  further_{}: {{sql: SELECT COUNT(*) FROM postings, returns: value, expect: result > 0}}"


def main() -> None:
    """Prints one table: what a further file costs `validate`, and what a further run costs a process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15, metavar="N", help="rounds (default 15)")
    runs = parser.parse_args().runs
    with workplace() as folder, server(folder) as url:
        print(f"{machine()}\n")
        found = {**_validation(folder, runs), **_runs(folder, url, max(runs, 15))}
        rows = [_row(name, seconds) for name, seconds in found.items()]
        table(["in one process", "min ms", "median ms"], rows)


def _row(name: str, seconds: Sequence[float]) -> list[str]:
    return [name, milliseconds(min(seconds)), milliseconds(median(seconds))]


def _validation(folder: Path, runs: int) -> dict[str, list[float]]:
    """Seconds a file: a process with 200 files less one with a single file; files seen before, and new ones."""
    text = _of_length(RUNBOOK.read_text(encoding="utf-8"))
    names = [f"file_{number}.yaml" for number in range(FILES)]
    for number, name in enumerate(names):
        (folder / name).write_text(text.replace("name: cookbook", f"name: cookbook_{number}"), encoding="utf-8")
    command, known = console_script(folder), environment(folder)
    one = Program("one", (*command, "validate", names[0]), known, folder)
    all_ = Program("all", (*command, "validate", *names), known, folder)
    samples = interleaved([one, all_, forgetful(one, "one new"), forgetful(all_, "all new")], runs)
    pairs = {f"validate, a further file of {LINES} lines": "", f"validate, a further new file of {LINES} lines": " new"}
    return {
        name: [_further(*pair) for pair in zip(samples[f"one{new}"], samples[f"all{new}"], strict=True)]
        for name, new in pairs.items()
    }


def _further(less: Sample, more: Sample) -> float:
    return (more.wall - less.wall) / (FILES - 1)


def _of_length(text: str) -> str:
    """The cookbook's runbook brought to 60 lines: without its comments, and cut or filled up in its preflight."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    missing = LINES - len(lines)
    at = lines.index("expectations:")
    filled = [*lines[:at], *(CHECK.format(number) for number in range(missing)), *lines[at:]]
    return "\n".join(filled) + "\n"


def _runs(folder: Path, url: str, count: int) -> dict[str, list[float]]:
    """Seconds of loading and of running in this process; the first rounds, which import, are left out."""
    import runbook

    os.chdir(folder)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    loads, runs = [], []
    for _ in range(count + WARM):
        began = time.perf_counter()
        loaded = runbook.load(RUNBOOK)
        ready = time.perf_counter()
        record = runbook.execute(loaded, database=url)
        runs.append(time.perf_counter() - ready)
        loads.append(ready - began)
        if record["run"]["verdict"] != "passed":
            sys.exit(f"the run ended {record['run']['verdict']}: {record['run']['because']}")
    return {"load the runbook again": loads[WARM:], "execute, a further run": runs[WARM:]}


if __name__ == "__main__":
    main()
