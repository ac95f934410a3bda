"""What git says of the tree that a runbook lies in: its commit, and which files differ from it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

WITHIN = 5.0  # seconds from its start in which git must have told the state of the tree
FILES = 200  # files that are named
_FIELDS = {b"1": 8, b"2": 9, b"u": 10}  # of an entry before its path
_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")


class Changed(NamedTuple):
    """A tracked file that differs from the commit: its path in the tree, `XY` as git has it, and its submodule field."""

    path: bytes
    how: str
    submodule: str


def work_tree(folder: Path) -> Path | None:
    """The tree that `folder` lies in, without git being asked; None where there is none."""
    folder = folder.absolute()
    return next((place for place in (folder, *folder.parents) if (place / ".git").exists()), None)


def git_state(folder: Path) -> Callable[[], dict[str, Any]]:
    """Asks git for the commit and what differs from it; the answer is fetched when it is needed.

    It has `git`, a text, and `dirty` where files differ: what each is now, by its path in the tree.
    """
    tree = work_tree(folder)
    if tree is None:
        return dict
    try:
        process = git(tree, "status", "--porcelain=v2", "-z", "--branch", "--untracked-files=no")
    except OSError:
        return dict
    deadline = time.monotonic() + WITHIN

    def answer() -> dict[str, Any]:
        try:
            output, _ = process.communicate(timeout=max(deadline - time.monotonic(), 0.05))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return {"git": "no answer"}
        return _told(tree, output) if process.returncode == 0 else {}

    return answer


def git(tree: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Git in this tree and no other, taking no lock that the run's own steps could meet. Raises OSError."""
    command = ["git", "--no-optional-locks", "-C", str(tree), *arguments]
    env = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    none = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=none, stdout=subprocess.PIPE, stderr=none, env=env)


def _told(tree: Path, output: bytes) -> dict[str, Any]:
    entries = output.split(b"\0")
    oid = next((entry for entry in entries if entry.startswith(b"# branch.oid ")), b"# branch.oid none")
    changed = sorted(parsed(entries))
    text = f"dirty: {len(changed)} files differ" if changed else "clean"
    found: dict[str, Any] = {"git": f"{oid.split()[2].decode()} ({text})"}
    if changed:
        from runbook.operate.differences import contents

        found["dirty"] = contents(tree, changed[:FILES])
    return found


def parsed(entries: Iterable[bytes]) -> Iterator[Changed]:
    """The files that `git status --porcelain=v2 -z` lists, renamed ones under their new name."""
    waiting = iter(entries)
    for entry in waiting:
        count = _FIELDS.get(entry[:2].rstrip())
        if count is None:
            continue
        fields = entry.split(b" ", count)
        yield Changed(fields[count], fields[1].decode(), fields[2].decode())
        if entry.startswith(b"2"):
            next(waiting, None)  # the old name
