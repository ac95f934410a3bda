"""The thread that watches over a lock while a run has it, and says so when it is lost for good."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

from runbook.operate.lock import AGAIN, Lock
from runbook.operate.servers import CannotStart

PING = 3.0  # seconds after which the holder is asked, where nothing announces a loss before
FAREWELL = 1.0  # seconds for which the end of the thread is waited for


class Guardian:
    """Asks for the lock again and again; a lost one is taken again as soon as that can be done.

    Where another run had it since, `on_lost` gets the reason, from this thread, and again every second until `stop`: it
    breaks off what the run waits for, and a wait may begin just after.
    """

    def __init__(self, lock: Lock, epoch: int | None, on_lost: Callable[[str], None]) -> None:
        lock.epoch = epoch
        self._lock, self._on_lost = lock, on_lost
        self._over = False
        self._thread = threading.Thread(target=self._run, name="runbook lock", daemon=True)

    def start(self) -> None:
        """Begins the watch. Raises CannotStart."""
        try:
            self._thread.start()
        except RuntimeError as error:
            raise CannotStart(f"the lock cannot be watched: {error}; raise `ulimit -u`") from None

    def stop(self) -> None:
        """Ends the watch; a server that does not take a connection cannot hold this up."""
        self._over = True
        self._lock.wake()
        self._thread.join(FAREWELL)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._watch()
        except Exception as error:  # noqa: BLE001 - a lock that nobody watches any more must not be believed in
            self._on_lost(f"the lock cannot be watched any more ({type(error).__name__}: {error})")

    def _watch(self) -> None:
        while not self._over and not self._lock.lost:
            self._lock.rest(PING)
            while not (self._over or self._lock.beat() or self._lock.regain() or self._lock.lost):
                self._lock.rest(AGAIN)
        while not self._over:
            self._on_lost(self._lock.lost)
            self._lock.rest(AGAIN)
