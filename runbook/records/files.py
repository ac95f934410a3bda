"""Writing a file aside and putting it in its place at once, so that nobody ever reads half of it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

PRIVATE, PUBLIC = 0o600, 0o666  # before the umask


def write_aside(path: Path, chunks: Iterable[bytes], mode: int = PRIVATE) -> None:
    """Writes `chunks` where `path` leads, instead of what is there. Raises OSError; then nothing has changed.

    What is there and is no regular file (a device, a pipe) stays and takes them.
    """
    if path.exists() and not path.is_file():
        with open(os.open(path, os.O_WRONLY), "wb") as file:
            file.writelines(chunks)
        return
    place = Path(os.path.realpath(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        write_new(aside, chunks, mode)
        aside.replace(place)
    finally:
        aside.unlink(missing_ok=True)


def write_new(path: Path, chunks: Iterable[bytes], mode: int = PRIVATE) -> None:
    """Writes a file that is not there yet, and has it on disk before it returns. Raises OSError."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as file:
        file.writelines(chunks)
        file.flush()
        os.fsync(file.fileno())
