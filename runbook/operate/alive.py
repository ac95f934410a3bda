"""Who is alive: a runner holds its journal, and the kernel lets go of it when the runner dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runbook.operate.circumstances import host
from runbook.system.tree import start_time


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


def here(run: Mapping[str, Any]) -> bool:
    """Whether a run, as its record tells it, was on this machine; its name may have changed since."""
    return run.get("host") == host() or bool(run.get("boot_id") and run["boot_id"] == boot_id())


def runner_lives(run: Mapping[str, Any]) -> bool:
    """Whether a run's runner may live: who holds its journal may also be closing it. True where it cannot be told."""
    if not here(run) or not run.get("pid") or run.get("process_started") is None:
        return True
    return run.get("boot_id") == boot_id() and start_time(run["pid"]) == float(run["process_started"])


def boot_id() -> str:
    """What tells one boot of this machine from another; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
