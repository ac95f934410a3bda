"""Examinations of the machine: the interpreter and what is installed for it, memory, clock, locale, git, sessions that end."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from runbook import __version__
from runbook.operate.circumstances import locale, operator, packages, time_zone
from runbook.operate.detach import ended_at_logout
from runbook.operate.examinations import MIB, Finding, fail, ok, room, unclear, warn
from runbook.operate.git import WITHIN, work_tree

PYTHON = (3, 11)
NEEDED = {  # the oldest versions that will do, by the names that records have
    "click": "8.1",
    "httpx": "0.27",
    "jinja2": "3.1.5",
    "jsonschema": "4.23",
    "psutil": "5.9",
    "psycopg": "3.2.2",
    "yaml": "6.0.1",
    "rich": "13",
}
ENOUGH, LEAST = 256 * MIB, 32 * MIB  # bytes of memory
_UNSYNCHRONISED = 5  # what adjtimex(2) gives for a clock that nothing sets right
_CGROUP = Path("/sys/fs/cgroup")


def python() -> Iterator[Finding]:
    found = f"{sys.version.split()[0]} ({sys.executable}), runbook {__version__}"
    wanted = ".".join(map(str, PYTHON))
    if sys.version_info >= PYTHON:
        yield ok("python", found)
    else:
        yield fail("python", found, f"install Python {wanted} or newer, and runbook for it")


def installed() -> Iterator[Finding]:
    """The packages that this program needs."""
    yield judge_packages(packages())


def judge_packages(there: Mapping[str, str]) -> Finding:
    """What is missing or too old among the versions that are `there`, by name."""
    cure = "python -m pip install --upgrade runbook-experiments"
    missing = [f"{name} is missing" for name in NEEDED if name not in there]
    old = [
        f"{name} is {there[name]}, {least} or newer is needed"
        for name, least in NEEDED.items()
        if name in there and numbers(there[name]) < numbers(least)
    ]
    if missing or old:
        return fail("packages", "; ".join(missing + old), cure)
    return ok("packages", ", ".join(f"{name} {version}" for name, version in there.items()))


def numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def memory() -> Iterator[Finding]:
    import psutil

    free = min(psutil.virtual_memory().available, *_left_to_group())
    yield room("memory", free, ENOUGH, LEAST, "", "end what else runs here, or run elsewhere")


def _left_to_group() -> list[int]:
    """What the control group of a container leaves, where it has a limit; never less than one number."""
    with suppress(OSError, ValueError):
        most, used = ((_CGROUP / f"memory.{name}").read_text(encoding="ascii") for name in ("max", "current"))
        return [int(most) - int(used)]
    return [sys.maxsize]


def clock() -> Iterator[Finding]:
    zone = time_zone()
    found = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, this host's zone is {zone}"
    if _synchronised() is False:
        yield warn(
            "clock",
            f"{found}; nothing keeps it right",
            "let chrony or systemd-timesyncd set it: timedatectl set-ntp on",
        )
    else:
        yield ok("clock", found)


def _synchronised() -> bool | None:
    """What the kernel says of its clock; None where it says nothing."""
    if sys.platform != "linux":
        return None
    with suppress(OSError, AttributeError):
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))  # of modes 0: it asks, and sets nothing
        return None if state < 0 else bool(state != _UNSYNCHRONISED)
    return None


def encoding() -> Iterator[Finding]:
    names = {"files": sys.getfilesystemencoding(), "output": getattr(sys.stdout, "encoding", "") or "utf-8"}
    found = f"{locale()}; " + ", ".join(f"{what} {name}" for what, name in names.items())
    if all(name.lower().replace("-", "") == "utf8" for name in names.values()):
        yield ok("locale", found)
    else:
        yield warn("locale", found, "export LC_ALL=C.UTF-8, or PYTHONUTF8=1")


def git() -> Iterator[Finding]:
    program = shutil.which("git")
    if program is None:
        yield warn("git", "there is none: records will not name the commit that ran", "install git")
        return
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=WITHIN).stdout
    except (OSError, subprocess.SubprocessError) as error:
        yield unclear("git", str(error), f"run {program} --version")
        return
    tree = work_tree(Path.cwd())
    where = (
        f"this folder is in the work tree {tree}" if tree else "this folder is in no work tree: records name no commit"
    )
    yield ok("git", f"{told.strip().removeprefix('git version ')}; {where}")


def logout() -> Iterator[Finding]:
    if ended_at_logout():
        cure = f"loginctl enable-linger {operator()}, or begin runs with systemd-run --user --scope"
        yield warn(
            "logout", "systemd ends what runs here when you log out, detached runs too (KillUserProcesses)", cure
        )
    else:
        yield ok("logout", "what was detached goes on")


MACHINE: dict[str, Callable[[], Iterator[Finding]]] = {
    "python": python,
    "packages": installed,
    "memory": memory,
    "clock": clock,
    "locale": encoding,
    "git": git,
    "logout": logout,
}
