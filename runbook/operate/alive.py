"""Who is alive: a runner holds its journal, and the kernel lets go of it when the runner dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def running(folder: Path) -> bool:
    """Whether a living runner, on any machine that shares the folder, holds the journal of the run in `folder`."""
    try:
        descriptor = os.open(folder / "journal.jsonl", os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def boot_id() -> str:
    """What tells one boot of this machine from another; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
