"""What surrounds a run: who, where, which versions. Recorded so that the run can be believed and repeated."""

from __future__ import annotations

import getpass
import os
import pwd
import re
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from runbook import __version__
from runbook.engine.record import Record
from runbook.language.model import Runbook

_PACKAGES = {  # what this program needs, as it is installed and as records name it
    "click": "click",
    "httpx": "httpx",
    "jinja2": "jinja2",
    "jsonschema": "jsonschema",
    "psutil": "psutil",
    "psycopg": "psycopg",
    "psycopg-binary": "psycopg-binary",
    "pyyaml": "yaml",
    "rich": "rich",
}
_INSTALLED = re.compile(r"([A-Za-z0-9._]+)-([^-]+)(?:-[^/]*)?\.(?:dist|egg)-info")
_CATEGORIES = ("LC_COLLATE", "LC_CTYPE", "LC_MESSAGES", "LC_MONETARY", "LC_NUMERIC", "LC_TIME")
_ZONES = "zoneinfo/"


def operator() -> str:
    """The name of the operating system's user, not what `$USER` claims."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return getpass.getuser() if "USER" in os.environ else f"uid {os.getuid()}"


def host() -> str:
    return socket.gethostname()


def versions(runbook: Runbook) -> dict[str, str]:
    """Of the runbook's text, of this program, of Python and of the packages that this program needs."""
    found = {"runbook file": f"sha256 {runbook.sha256}"}
    found |= {f"file {Path(name).name}": f"sha256 {digest}" for name, digest in runbook.files.items()}
    found |= {kind.package: kind.version for kind in runbook.kinds}
    return found | {"runbook": __version__, "Python": sys.version.split()[0]} | packages()


@lru_cache(maxsize=1)
def packages() -> dict[str, str]:
    """Versions of what this program needs, as installed, imported or not; found by the names of folders alone."""
    found: dict[str, str] = {}
    for folder in _places(sys.path):
        for name, version in _installed(folder):
            if name in _PACKAGES:
                found.setdefault(_PACKAGES[name], version)
    return {name: found[name] for name in _PACKAGES.values() if name in found}


def _places(path: list[str]) -> list[str]:
    """Where packages are looked for: not in the folder of a script, or the working one, which may hold very much."""
    return path if path and path[0].endswith("-packages") else path[1:]


def _installed(folder: str) -> list[tuple[str, str]]:
    """Name and version of all that is installed in `folder`."""
    names: list[str] = []
    with suppress(OSError):
        names = sorted(name for name in os.listdir(folder) if name.endswith("-info"))
    matches = [match for name in names if (match := _INSTALLED.fullmatch(name))]
    return [(re.sub(r"[-_.]+", "-", match[1]).lower(), match[2]) for match in matches]


def locale() -> str:
    """The locale that the environment asks for, and in which categories it asks for another."""
    everywhere = os.environ.get("LC_ALL")
    if everywhere:
        return everywhere
    base = os.environ.get("LANG") or "C"
    own = {name: os.environ.get(name) for name in _CATEGORIES}
    differing = ", ".join(f"{name} {value}" for name, value in own.items() if value and value != base)
    return f"{base} ({differing})" if differing else base


def time_zone() -> str:
    """The name of this host's time zone: of the environment, else of the host's own setting; `UTC` where there is none."""
    given = os.environ.get("TZ", "").removeprefix(":")
    if given:
        return given.rpartition(_ZONES)[2]
    with suppress(OSError):
        target = os.readlink("/etc/localtime")
        if _ZONES in target:
            return target.rpartition(_ZONES)[2]
    with suppress(OSError, UnicodeDecodeError):
        return Path("/etc/timezone").read_text(encoding="utf-8").strip()
    return "unknown" if os.path.exists("/etc/localtime") else "UTC"


def noted(record: Record, versions: Mapping[str, str], warning: str = "", **more: Any) -> dict[str, Any]:
    """The data of `circumstances.noted`: what `record` has, and what came to light, `more` by its key."""
    known = record["circumstances"]
    if versions:
        more["versions"] = {**known["versions"], **versions}
    if warning:
        more["warnings"] = [*known["warnings"], warning]
    return more
