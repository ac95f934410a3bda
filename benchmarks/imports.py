"""What the quick commands import, and how long `runbook --help` takes beside an interpreter that does nothing."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from bench import (
    Program,
    console_script,
    environment,
    forgetful,
    interleaved,
    machine,
    milliseconds,
    ratio,
    table,
    workplace,
)

HEAVY = ("psycopg", "httpx", "rich", "jsonschema", "jinja2", "yaml", "click", "psutil", "asyncio", "ctypes")
RUNBOOK = Path(__file__).resolve().parent / "cookbook" / "runbook.yaml"
COMMANDS = {"--help": ("--help",), "--version": ("--version",), "validate": ("validate", str(RUNBOOK))}


def main() -> None:
    """Prints the modules of each command, heavy ones by name, and one table of times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15, metavar="N", help="rounds (default 15)")
    runs = parser.parse_args().runs
    with workplace() as folder:
        print(f"{machine()}\n")
        command, known = console_script(folder), environment(folder)
        programs = [Program("python -c pass", (sys.executable, "-c", "pass"), known, folder)]
        programs += [Program(f"runbook {name}", (*command, *rest), known, folder) for name, rest in COMMANDS.items()]
        programs.append(forgetful(programs[-1], "runbook validate, a new file"))
        samples = interleaved(programs, runs)
        nothing = samples[programs[0].name]
        rows = []
        for program in programs:
            found, walls = _modules(program), [sample.wall for sample in samples[program.name]]
            times = [milliseconds(min(walls)), milliseconds(median(walls))]
            compared = f"{ratio(samples[program.name], nothing, lambda sample: sample.wall):.1f}"
            rows.append([program.name, *times, compared, str(len(found)), ", ".join(_heavy(found))])
        table(["command", "min ms", "median ms", "to pass", "modules", "among them"], rows)


def _modules(program: Program) -> set[str]:
    """The modules that a process imports, as the interpreter tells them."""
    argv = [program.argv[0], "-X", "importtime", *program.argv[1:]]
    done = subprocess.run(argv, env=program.env, cwd=program.folder, capture_output=True, text=True, check=True)
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def _heavy(found: Iterable[str]) -> list[str]:
    tops = {name.partition(".")[0] for name in found}
    return [name for name in HEAVY if name in tops]


if __name__ == "__main__":
    main()
