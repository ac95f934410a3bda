"""Remembers what this very program has loaded, so that the next run of the same text need neither read nor judge it anew.

YAML, Jinja's parser and the validator are slow to import; a run of a text that was run before needs none of them. What is
kept lies in a folder of this user alone, as Python's own compiled modules do, under a hash of the text, its place and this
program; a folder that others may write is not believed.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import secrets
import sys
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import runbook.language
from runbook import __version__
from runbook.language.model import Runbook

MOST = 500


class Seen:
    """What was found valid, beyond the end of the process. Where the folder cannot be used, it is empty and stays so."""

    def __init__(self, folder: Path | None = None) -> None:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path("~").expanduser() / ".cache")
        self._folder = folder or Path(base) / "runbook" / "valid"

    @cached_property
    def _program(self) -> str:
        """This program, down to the state of the modules that make what is kept."""
        room = Path(runbook.language.__path__[0])
        facts = sorted((entry.name, entry.stat().st_mtime_ns, entry.stat().st_size) for entry in os.scandir(room))
        schema = (room.parent / "schemas" / "runbook.schema.json").stat()
        return f"{__version__} {sys.version_info} {facts} {schema.st_mtime_ns} {schema.st_size}"

    @cached_property
    def _ours(self) -> bool:
        """Whether the folder is there, and only its owner may write into it."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            facts = self._folder.stat()
        except OSError:
            return False
        return facts.st_uid == os.getuid() and not facts.st_mode & 0o022

    def _path(self, key: str) -> Path:
        return self._folder / hashlib.sha256(f"{self._program} {key}".encode("utf-8", "backslashreplace")).hexdigest()

    def __contains__(self, key: str) -> bool:
        return self._ours and self._path(key).exists()

    def add(self, key: str) -> None:
        """Remembers that `key` was found valid."""
        self._write(key, b"")

    def runbook(self, key: str) -> Runbook | None:
        """The runbook that was kept under `key`, or None."""
        if not self._ours:
            return None
        try:
            kept = pickle.loads(self._path(key).read_bytes())
        except Exception:  # noqa: BLE001 - whatever a damaged file makes pickle raise, it only means: load anew
            return None
        return kept if isinstance(kept, Runbook) else None

    def keep(self, key: str, runbook: Runbook) -> None:
        """Keeps a valid runbook."""
        self._write(key, pickle.dumps(runbook, protocol=5))

    def _write(self, key: str, data: bytes) -> None:
        if not self._ours:
            return
        with suppress(OSError):
            kept = list(self._folder.iterdir())
            for old in kept if len(kept) >= MOST else ():
                old.unlink()
            aside = self._folder / secrets.token_hex(8)
            aside.write_bytes(data)
            aside.replace(self._path(key))
