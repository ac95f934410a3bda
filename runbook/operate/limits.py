"""Bounds for commands that read files which nobody vouches for."""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from runbook.language.problems import InvalidRunbook, Problem

SECONDS = 8.0
MEMORY = 512 * 1024 * 1024


@contextmanager
def bounded(file: str, *, memory: bool = False, seconds: float = SECONDS) -> Iterator[None]:
    """Refuses a file whose loading takes longer than `seconds`, or with `memory` more than 512 MiB of address space.

    Raises InvalidRunbook. The limits end with the block; outside the main thread there is no limit on time.
    """
    earlier = resource.getrlimit(resource.RLIMIT_AS)
    if memory and earlier[0] in (resource.RLIM_INFINITY, -1):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, earlier[1]))
    try:
        with _alarm(file, seconds):
            yield
    except MemoryError:
        raise _refused(file, f"reading it needs more than {MEMORY // 2**20} MiB of memory") from None
    finally:
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, earlier)


@contextmanager
def _alarm(file: str, seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _refused(file, f"reading it takes longer than {SECONDS:g} s")

    earlier = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.05))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


def _refused(file: str, message: str) -> InvalidRunbook:
    return InvalidRunbook(
        [Problem(file, 0, 0, "", message, "look for a pattern that backtracks, or make the file smaller")]
    )
