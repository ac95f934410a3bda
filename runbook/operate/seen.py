"""Remembers, by hash, what this version has found valid, so that the next run of the same text need not ask the validator.

The validator is the slowest import of all. A mark is an empty file named by a hash in a folder of this user alone.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from runbook import __version__
from runbook.language.schema import SCHEMAS

MOST = 1000


class Seen:
    """A set of keys that outlives the process. Where the folder cannot be used, it is empty and stays so."""

    def __init__(self, folder: Path | None = None) -> None:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path("~").expanduser() / ".cache")
        self._folder = folder or Path(base) / "runbook" / "valid"

    @cached_property
    def _version(self) -> bytes:
        return f"{__version__}\n".encode() + (SCHEMAS / "runbook.schema.json").read_bytes()

    @cached_property
    def _ours(self) -> bool:
        """Whether the folder is there, and only its owner may put marks into it."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            facts = self._folder.stat()
        except OSError:
            return False
        return facts.st_uid == os.getuid() and not facts.st_mode & 0o022

    def _path(self, key: str) -> Path:
        return self._folder / hashlib.sha256(self._version + key.encode()).hexdigest()

    def __contains__(self, key: str) -> bool:
        return self._ours and self._path(key).exists()

    def add(self, key: str) -> None:
        """Remembers `key`; the folder is emptied first where it has grown too large."""
        if not self._ours:
            return
        with suppress(OSError):
            marks = list(self._folder.iterdir())
            for mark in marks if len(marks) >= MOST else ():
                mark.unlink()
            self._path(key).touch(mode=0o600)
