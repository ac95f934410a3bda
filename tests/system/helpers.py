"""What the tests of real processes share.

What must not last lasts minutes where it goes wrong, and is asked to be over in `SOON`: slow and busy machines pass.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

import psutil

SOON = 30.0  # seconds


def wait_until(holds: Callable[[], object]) -> None:
    limit = time.monotonic() + SOON
    while not holds():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.01)


def alive(pid: int | None) -> bool:
    assert pid is not None, "the child never wrote its pid"
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def gone(pid: int | None) -> bool:
    wait_until(lambda: not alive(pid))
    return True


def end(*pids: int | None) -> None:
    for pid in pids:
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
