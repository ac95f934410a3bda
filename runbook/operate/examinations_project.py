"""Examinations of a project: its folder and the room in it, its runbooks, and what its runs left behind."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from runbook.database import binaries, embedded
from runbook.engine.record import Record, under_way
from runbook.language.load import load
from runbook.language.model import Runbook
from runbook.language.problems import InvalidRunbook, RunbookError
from runbook.operate.alive import boot_id, here, runner_lives, running
from runbook.operate.examinations import MIB, Finding, amount, fail, ok, room, several, unclear, warn
from runbook.operate.examine import unwritable
from runbook.operate.runs import open_runs, outline_of, record_of

ENOUGH, LEAST = 1024 * MIB, 16 * MIB  # bytes of a disk
INODES = 1000
MUCH = 10 * 1024 * MIB  # bytes of run folders
TOLD = 5  # of one kind that are named


def folder(project: Path) -> Iterator[Finding]:
    """Whether this user may write into `.runbook`, and nobody else."""
    trouble = unwritable(project)
    if trouble:
        yield fail("folder", trouble, "work in a folder of your own, or have its rights changed")
    elif not project.exists():
        yield ok("folder", f"{project} is not there yet; the first run makes it")
    else:
        facts = project.stat()
        found = f"{project}, mode {stat.S_IMODE(facts.st_mode):o}"
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            yield warn("folder", f"{found}: others may change its records", f"chmod go-w {project}")
        elif facts.st_uid != os.geteuid():
            yield warn("folder", f"{found}: it belongs to the user id {facts.st_uid}", "run as its owner")
        else:
            yield ok("folder", found)


def disk(project: Path) -> Iterator[Finding]:
    """Room for journals, for run logs, and for what steps print."""
    known: set[int] = set()
    for place in (project, Path.cwd()):
        there = next(above for above in (place, *place.parents) if above.exists())
        if there.stat().st_dev not in known:
            known.add(there.stat().st_dev)
            yield judge_disk(there)


def judge_disk(place: Path) -> Finding:
    """Whether there is room for records in a folder."""
    cure = "make room there: runbook prune removes old run folders"
    system = os.statvfs(place)
    if system.f_files and system.f_favail < INODES:
        return fail("disk", f"{several(system.f_favail, 'inode')} left in {place}; {INODES} are wanted", cure)
    return room("disk", shutil.disk_usage(place).free, ENOUGH, LEAST, f"in {place}", cure)


# --- runs ---------------------------------------------------------------------------------------------------------


def runs(project: Path) -> Iterator[Finding]:
    """Runs that are not closed: those that go on, those whose runner is gone, those whose books are not complete."""
    going: list[str] = []
    lost: list[str] = []
    pending: list[str] = []
    for run in open_runs(project):
        if not (run / "journal.jsonl").exists():
            continue
        try:
            record = outline_of(run)
        except RunbookError as error:
            yield warn("runs", f"run {run.name}: {error}", f"look at {run}")
            continue
        name = f"{run.name} ({record['run']['runbook']})"
        if running(run):
            (going if runner_lives(record["run"]) else pending).append(name)
        else:
            (pending if record["run"]["verdict"] else lost).append(name)
    if lost:
        yield warn("lost runs", _named(lost), "runbook recover")
    if pending:
        yield warn(
            "runs not closed",
            f"{_named(pending)}: ended, but their audit or run log is not complete",
            "runbook recover",
        )
    if going:
        yield ok("runs going on", _named(going))
    elif not lost and not pending:
        yield ok("runs", "none is open, none was lost")


def processes(project: Path) -> Iterator[Finding]:
    """What still runs of runs whose runner is dead."""
    found = False
    for run in open_runs(project):
        if running(run) or not (run / "journal.jsonl").exists():
            continue
        left = remains(record_of(run))
        if left:
            found = True
            cure = f"runbook recover {run.name}"
            yield warn("processes", f"still running of run {run.name}: {_named(left)}", cure)
    if not found:
        yield ok("processes", "none is left of a dead run")


def remains(record: Record) -> list[str]:
    """The processes of a dead run's step, for people: an argument may be a secret, so programs alone."""
    from runbook.system.remains import find_remains

    run, step = record["run"], under_way(record)
    if not here(run):
        return []
    tries = record["steps"][step]["tries"] if step and run.get("boot_id") == boot_id() else []
    roots = [(item["pid"], float(item["started"])) for item in tries if item.get("started") is not None]
    known = {pid for pid, _ in roots}
    found = [item for item in find_remains(run["id"], roots) if item.step in (step, "") or item.pid in known]
    return [f"pid {item.pid} ({Path(item.command.split(' ')[0]).name})" for item in found]


def folders(project: Path) -> Iterator[Finding]:
    """How many runs are kept here, and how much room they take."""
    count = size = 0
    with suppress(FileNotFoundError):
        for run in os.scandir(project / "runs"):
            count += 1
            with suppress(OSError):
                size += sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(run.path))
    found = f"{several(count, 'run')} in {project / 'runs'}, {amount(size)}"
    if size > MUCH:
        yield warn("run folders", found, "runbook prune removes old ones, on record")
    else:
        yield ok("run folders", found)


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return ", ".join(names[:TOLD]) + more


# --- the private PostgreSQL ---------------------------------------------------------------------------------------


def private(project: Path) -> Iterator[Finding]:
    """The embedded PostgreSQL: which programs there are, and whether the one that was made here runs or can be started."""
    found = programs()
    if found:
        yield ok("programs", "PostgreSQL " + ", ".join(f"{version} ({place})" for version, place in found))
    else:
        yield warn("programs", "no PostgreSQL that could be started here was found", binaries.INSTALL)
    base = project / "embedded"
    if not base.is_dir():
        what = "the first runbook that asks for one makes it" if found else "none can be made"
        yield ok("server", f"there is none in {base}; {what}")
        return
    with embedded.kept_databases(base) as urls:
        yield ok("server", f"the one in {base} runs, with {several(len(urls), 'database')}")
        yield from copies(urls[0] if urls else "")


def programs() -> list[tuple[str, str]]:
    """Versions and folders of the PostgreSQL programs that a private server could be made of, the best first."""
    found = []
    for place in binaries.program_folders():
        with suppress(OSError, subprocess.SubprocessError):
            asked = str(place / "postgres")
            told = subprocess.run([asked, "-V"], capture_output=True, text=True, check=True, timeout=5).stdout
            version = re.search(r"PostgreSQL\) (\d+)(\.\d+)?", told)
            if version and int(version[1]) >= binaries.OLDEST_MAJOR and os.access(place / "initdb", os.X_OK):
                found.append((version[0].removeprefix("PostgreSQL) "), str(place)))
    return found


@contextmanager
def kept(base: Path, name: str, scripts: Sequence[Path]) -> Iterator[str]:
    """The URL of the private database that `scripts` made for the runbook `name`; empty where there is none yet.

    The server is started where it is there and does not run. Raises EmbeddedError.
    """
    wanted = embedded.database_name(name, [embedded.read_script(path) for path in scripts])
    with embedded.kept_databases(base) as urls:
        yield next((url for url in urls if f"/{wanted}?" in url), "")


def copies(url: str) -> Iterator[Finding]:
    """The copies that killed rehearsals left on a server."""
    if not url:
        return
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    from runbook.database.clone import leftovers
    from runbook.database.connect import translated

    with translated():
        patient = make_conninfo(url, **{"connect_timeout": "4", **conninfo_to_dict(url)})
    names = leftovers(patient)
    if names:
        cure = f'runbook recover, in the project that rehearsed; or by hand: DROP DATABASE "{names[0]}" WITH (FORCE)'
        yield warn("copies", f"left by rehearsals that were killed: {_named(names)}", cure)
    else:
        yield ok("copies", "no rehearsal left one")


# --- runbooks -----------------------------------------------------------------------------------------------------


def readable(path: Path, found: list[Runbook]) -> Iterator[Finding]:
    """Whether a runbook of the project can be read; it is added to `found`."""
    try:
        runbook = load(path)
    except InvalidRunbook as error:
        first = error.problems[0]
        count = several(len(error.problems), "problem")
        yield fail(path.stem, f"{count}; {first.file}:{first.line}: {first.message}", f"runbook validate {path}")
        return
    except RecursionError:
        yield unclear(path.stem, "it is nested too deeply", f"runbook validate {path}")
        return
    found.append(runbook)
    parts = {"check": runbook.preflight, "step": runbook.steps, "postcondition": runbook.postconditions}
    has = ", ".join(several(len(items), word) for word, items in parts.items())
    yield ok(path.stem, f"{path}: {has}; look closer: runbook doctor {path.stem}")


def runbooks(found: list[Runbook]) -> dict[str, Callable[[], Iterator[Finding]]]:
    """An examination of each runbook in runbooks/, which adds it to `found`."""
    paths = [path for path in sorted(Path("runbooks").glob("*.y*ml")) if not path.stem.endswith(".cases")]
    return {path.stem: partial(readable, path, found) for path in paths}


PROJECT: dict[str, Callable[[Path], Iterator[Finding]]] = {
    "folder": folder,
    "disk": disk,
    "runs": runs,
    "processes": processes,
    "run folders": folders,
}
