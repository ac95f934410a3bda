"""How a run is asked to end: signals become a reason that the engine reads, and break off what is being waited for."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "the terminal was closed (SIGHUP)"}

TICK = 0.05  # seconds between two looks whether the end is asked for


class Cancellation:
    """A request to end. A second one says `again`, which makes haste without being careless.

    `lost` says for what reason the run may touch nothing any more; that is never heeded and done with. Requests come from
    signal handlers, so nothing here takes a lock.
    """

    def __init__(self) -> None:
        self.lost = ""
        self._reason: str | None = None
        self._asked = self._heeded = 0
        self._interrupt: Callable[[], None] | None = None

    def request(self, reason: str) -> None:
        self._reason = reason + ", again" * self._asked
        self._asked += 1
        self._break_off()

    def lose(self, because: str) -> None:
        """Ends the run for a reason that leaves it no right to act."""
        self.lost = because
        self._break_off()

    def _break_off(self) -> None:
        interrupt = self._interrupt
        if interrupt is not None:
            interrupt()

    def heed(self) -> None:
        """What was asked so far has been heeded: from here only further requests count."""
        self._heeded = self._asked

    def reason(self) -> str | None:
        """Why the end is asked for, or None."""
        if self._asked != self._heeded:
            return self._reason
        return self.lost or None

    def interrupt_with(self, action: Callable[[], None] | None) -> None:
        """What breaks off the wait that begins now; None when it is over."""
        self._interrupt = action

    def sleep(self, seconds: float) -> None:
        """Sleeps, but not past a request to end."""
        deadline = time.monotonic() + seconds
        while self.reason() is None and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, TICK))


def listen(cancellation: Cancellation) -> dict[signal.Signals, Any]:
    """Turns SIGINT, SIGTERM and SIGHUP into requests; what handled them before. In another thread than the main one, nothing."""
    if threading.current_thread() is not threading.main_thread():
        return {}

    def handle(number: int, frame: FrameType | None) -> None:
        cancellation.request(_NAMES[signal.Signals(number)])

    return {number: signal.signal(number, handle) for number in _NAMES if signal.getsignal(number) != signal.SIG_IGN}


@contextmanager
def signals(cancellation: Cancellation) -> Iterator[None]:
    """Listens while the block lasts."""
    earlier = listen(cancellation)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
