"""What surrounds a run: who, where, which versions, which commit. Recorded so that the run can be believed and repeated."""

from __future__ import annotations

import getpass
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from runbook import __version__
from runbook.engine.record import Record
from runbook.language.model import Runbook


def operator() -> str:
    """The name of the operating system's user, not what `$USER` claims."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return getpass.getuser() if "USER" in os.environ else f"uid {os.getuid()}"


def host() -> str:
    return socket.gethostname()


def versions(runbook: Runbook) -> dict[str, str]:
    """Of the runbook's text, of this program, of Python and of the packages that are in use."""
    found = {"runbook file": f"sha256 {runbook.sha256}"}
    found |= {f"file {Path(name).name}": f"sha256 {digest}" for name, digest in runbook.files.items()}
    found |= {"runbook": __version__, "Python": sys.version.split()[0]}
    for name in ("psycopg", "jinja2", "yaml", "httpx"):
        if name in sys.modules:
            found[name] = str(getattr(import_module(name), "__version__", "unknown"))
    return found


def noted(record: Record, versions: dict[str, str], warning: str = "") -> dict[str, Any]:
    """The data of `circumstances.noted`: what `record` has, and what came to light."""
    known = record["circumstances"]
    data: dict[str, Any] = {"versions": {**known["versions"], **versions}}
    return {**data, "warnings": [*known["warnings"], warning]} if warning else data


def git_state(folder: Path) -> Callable[[], dict[str, Any]]:
    """Asks git for the commit and whether the tree is dirty; the answer is fetched when it is needed."""
    if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        return dict
    command = ["git", "-C", str(folder), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return dict

    def answer() -> dict[str, Any]:
        try:
            output, _ = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return {"git": "no answer"}
        if process.returncode != 0:
            return {}
        lines = output.decode("utf-8", "replace").splitlines()
        commit = next((line.split()[2] for line in lines if line.startswith("# branch.oid")), "none")
        dirty = sum(not line.startswith("#") for line in lines)
        return {"git": f"{commit} ({f'dirty: {dirty} files differ' if dirty else 'clean'})"}

    return answer
