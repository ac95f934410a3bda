"""How a run is asked to end: signals become a reason that the engine reads, and break off what is being waited for."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "the terminal was closed (SIGHUP)"}


class Cancellation:
    """A request to end. A second one says `again`, which makes haste without being careless."""

    def __init__(self) -> None:
        self._reason: str | None = None
        self._asked = self._heeded = 0
        self._wake = threading.Event()
        self._interrupt: Callable[[], None] | None = None

    def request(self, reason: str) -> None:
        self._reason = reason + ", again" * self._asked
        self._asked += 1
        self._wake.set()
        if self._interrupt is not None:
            self._interrupt()

    def heed(self) -> None:
        """What was asked so far has been heeded: from here only further requests count."""
        self._heeded = self._asked
        self._wake.clear()

    def reason(self) -> str | None:
        """Why the end is asked for, or None."""
        return None if self._asked == self._heeded else self._reason

    def interrupt_with(self, action: Callable[[], None] | None) -> None:
        """What breaks off the wait that begins now; None when it is over."""
        self._interrupt = action

    def sleep(self, seconds: float) -> None:
        """Sleeps, but not past a request to end."""
        deadline = time.monotonic() + seconds
        while not self._wake.is_set() and (left := deadline - time.monotonic()) > 0:
            self._wake.wait(min(left, 0.2))


@contextmanager
def signals(cancellation: Cancellation) -> Iterator[None]:
    """Turns SIGINT, SIGTERM and SIGHUP into requests while the block lasts; in another thread than the main one, nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        cancellation.request(_NAMES[signal.Signals(number)])

    earlier = {number: signal.signal(number, handle) for number in _NAMES if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
