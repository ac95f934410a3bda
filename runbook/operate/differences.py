"""In what a tree differs from its commit: what each file is now, and the patch, where it is to be kept."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from runbook.language.problems import RunbookError
from runbook.operate.git import WITHIN, Changed, git, work_tree
from runbook.records.masks import Masks

LARGEST = 64 * 1024 * 1024  # bytes of one file, and of the patch
ALTOGETHER = 256 * 1024 * 1024  # bytes of all files that are read
PATCH_WITHIN = 60.0  # seconds
_CHUNK = 1024 * 1024
_PASSWORD = re.compile(rb"(://[^\s:/@]*:)[^\s@/]+@")


class NoPatch(RunbookError):
    """The patch could not be kept."""


def contents(tree: Path, changed: Iterable[Changed]) -> dict[str, str]:
    """What each of the files is now, by its path in the tree: a hash, `deleted`, or why there is none."""
    found = {}
    left = ALTOGETHER
    for item in changed:
        place = os.path.join(os.fsencode(tree), item.path)
        text, read = _submodule(place, item) if item.submodule.startswith("S") else _content(place, item, left)
        found[item.path.decode("utf-8", "backslashreplace")] = text
        left -= read
    return found


def _content(place: bytes, item: Changed, left: int) -> tuple[str, int]:
    """What the file is now, and how many bytes were read for that."""
    if "D" in item.how:
        return "deleted", 0
    try:
        known = os.lstat(place)
        if stat.S_ISLNK(known.st_mode):
            return f"sha256 {hashlib.sha256(os.readlink(place)).hexdigest()}", 0
        if not stat.S_ISREG(known.st_mode):
            return "not a file", 0
        if known.st_size > min(LARGEST, left):
            return f"too large: {known.st_size} bytes", 0
        with open(place, "rb") as file:
            return f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}", known.st_size
    except FileNotFoundError:
        return "deleted", 0
    except OSError as error:
        return f"not readable: {error.strerror}", 0


def _submodule(place: bytes, item: Changed) -> tuple[str, int]:
    """A submodule by the commit that is checked out in it, and whether it is changed beyond that."""
    if "D" in item.how:
        return "deleted", 0
    folder = Path(os.fsdecode(place))
    if not (folder / ".git").exists():  # git would tell the commit of the tree around it
        return "commit unknown", 0
    try:
        process = git(folder, "rev-parse", "HEAD")
        output, _ = process.communicate(timeout=WITHIN)
    except (OSError, subprocess.TimeoutExpired):
        return "commit unknown", 0
    commit = output.decode().strip() if process.returncode == 0 else "unknown"
    return f"commit {commit}{' (dirty)' if item.submodule[2:].strip('.') else ''}", 0


# --- the patch ----------------------------------------------------------------------------------------------------


def keep_patch(folder: Path, path: Path, masks: Masks) -> dict[str, Any]:
    """Writes what differs from the commit to `path`, for its owner alone, declared secrets and passwords in URLs masked.

    Gives what the record has of it, which is nothing where nothing differs. Raises NoPatch.
    """
    tree = work_tree(folder)
    if tree is None:
        raise NoPatch("the runbook lies in no git repository")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        digest = _write_patch(tree, aside, masks)
        if not digest:
            aside.unlink()
            return {}
        aside.replace(path)
    except OSError as error:
        raise NoPatch(error.strerror or str(error)) from None
    finally:
        with suppress(OSError):
            aside.unlink()
    return {"file": path.name, "sha256": digest}


def _write_patch(tree: Path, aside: Path, masks: Masks) -> str:
    """The hash of what was written; empty where it is nothing. Raises NoPatch or OSError."""
    plain = ("--no-color", "--no-ext-diff", "--no-textconv", "--submodule=short", "--src-prefix=a/", "--dst-prefix=b/")
    process = git(tree, "diff", "--binary", *plain, "HEAD")
    assert process.stdout is not None
    limit = threading.Timer(PATCH_WITHIN, process.kill)
    limit.daemon = True
    limit.start()
    try:
        size, digest = _copy(_masked(process.stdout, masks), aside)
        if process.wait():
            raise NoPatch("git gave none: is there a commit, and was there time?")
    finally:
        limit.cancel()
        process.kill()
        process.stdout.close()
        process.wait()
    return digest if size else ""


def _copy(pieces: Iterable[bytes], aside: Path) -> tuple[int, str]:
    """Writes the pieces to a new file of this user alone; how many bytes, and their hash. Raises NoPatch or OSError."""
    size, digest = 0, hashlib.sha256()
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        for piece in pieces:
            size += len(piece)
            if size > LARGEST:
                raise NoPatch(f"it is larger than {LARGEST} bytes")
            digest.update(piece)
            file.write(piece)
    return size, digest.hexdigest()


def _masked(stream: IO[bytes], masks: Masks) -> Iterator[bytes]:
    """The lines of a stream, masked; a secret may be of several lines."""
    held = masks.stream()
    for line in iter(lambda: stream.readline(_CHUNK), b""):
        yield held.feed(_PASSWORD.sub(rb"\1***@", line))
    yield held.rest()
