"""The lock in PostgreSQL: a session advisory lock on a direct connection that does nothing else."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime

from runbook.database.connect import Connection, ServerError
from runbook.database.pooling import HandedAround
from runbook.operate.circumstances import host
from runbook.operate.lock import Fading, Holder, Locked, lost_to
from runbook.operate.lock_session import LockSession, Look

COURTESY = 5.0  # seconds for which a run that lost its session may take the lock again before another does
PATIENCE = 60.0  # seconds for which a lock that is waited for may be on a server that is away


def look_at(key: str, connect: Callable[[], Connection]) -> Look:
    """The lock of `key`, looked at and not taken. Raises Locked, ServerError or HandedAround."""
    with closing(connect()) as connection:
        seen = LockSession(connection, key, -1).look(connect)
    if seen.holder is not None:
        raise Locked(key, seen.holder)
    return seen


class DatabaseLock:
    """A session lock; its session's `application_name` tells whoever asks who has it. Any thread may use it.

    `again` connects when the first connection was lost; `leased` says that an audit on this server has leases.
    """

    def __init__(
        self,
        key: str,
        connect: Callable[[], Connection],
        again: Callable[[], Connection] | None = None,
        *,
        leased: bool = True,
    ) -> None:
        self.lost = ""
        self.epoch: int | None = None
        self._key = key
        self._connect, self._again, self._leased = connect, again or connect, leased
        self._holder = Holder()
        self._session: LockSession | None = None
        self._ours: set[int] = set()  # every server session that may have the lock for us
        self._released = False
        self._awaited: Holder | None = None
        self._seen = self._met = 0.0  # when the one that is waited for was seen last, and when the server was met again
        self._mutex = threading.RLock()
        self._ear, self._mouth = os.pipe()

    # --- taking -----------------------------------------------------------------------------------------------

    def acquire(self, holder: Holder) -> datetime:
        """Takes the lock at once and tells the server's time. Raises Locked, Fading, ServerError or HandedAround.

        It may be tried again; a server that goes away while another has the lock is then waited for a minute.
        """
        with self._mutex:
            self._holder = holder
            try:
                return self._acquire()
            except ServerError as error:
                self._drop()
                if self._awaited is None or not error.lost or time.monotonic() - self._seen > PATIENCE:
                    raise
                raise Locked(self._key, self._awaited) from None

    def _acquire(self) -> datetime:
        if self._session is None:
            self._session = LockSession(self._connect(), self._key, self._ear)
            self._met = time.monotonic() if self._awaited is not None else 0.0
        moment = self._take(self._session)
        if moment is None:
            self._seen = time.monotonic()
            number, self._awaited = self._session.who()
            raise (Locked if number else Fading)(self._key, self._awaited)
        self._ours.add(self._session.number)
        return moment

    def _take(self, session: LockSession) -> datetime | None:
        again = self._met and time.monotonic() - self._met < COURTESY
        courtesy = PATIENCE if again else COURTESY
        found = session.take(self._holder, self._again, courtesy if self._leased else None)
        if found.rival:
            lease = session.lease()
            if lease.run_id == found.rival and lease.host == host() and _is_over(lease.pid):
                found = session.take(self._holder, self._again, courtesy, found.rival)
        return found.moment

    # --- having -----------------------------------------------------------------------------------------------

    def held(self) -> bool:
        """Asks the server, which must have the same session still, and the lease the same number."""
        return self._holds(heartbeat=False)

    def beat(self) -> bool:
        return self._holds(heartbeat=True)

    def _holds(self, *, heartbeat: bool) -> bool:
        with self._mutex:
            if self.lost or self._session is None:
                return False
            try:
                if self._session.holds(self.epoch, heartbeat=heartbeat):
                    return True
                self._lose(self._session.lease())
            except ServerError:
                self._drop()
            return False

    def regain(self) -> bool:
        """Takes the lock again on a new connection, unless another run had it since: then it is `lost` for good.

        Without a lease nobody can tell who had it in between; then it is enough that nobody has it now.
        """
        if self.held():
            return True
        if self.lost or self._released:
            return False
        try:
            connection = self._again()
        except ServerError:
            return False
        with self._mutex:
            if self._released or self.lost or self._session is not None:
                connection.close()
                return self.held()
            self._session = LockSession(connection, self._key, self._ear)
            try:
                if self._retake(self._session):
                    return True
            except HandedAround as error:
                self.lost = f"the lock was lost: {error}"
            except ServerError:
                pass
            self._drop()
            return False

    def _retake(self, session: LockSession) -> bool:
        ours = set(self._ours)
        self._ours.add(session.number)
        found = session.take(self._holder, self._again)
        self._ours.add(session.number)
        if found.moment is not None:
            return self.held()
        number, holder = session.who()
        if holder.run_id == self._holder.run_id and number in ours:
            session.end(number)
        elif number:
            self._lose(holder)
        return False

    def _lose(self, holder: Holder) -> None:
        self.lost = lost_to(holder) if holder != Holder() else "the lock was lost: its lease is gone"
        self._drop()

    # --- waiting and ending -----------------------------------------------------------------------------------

    def rest(self, seconds: float) -> None:
        poll = select.poll()
        with self._mutex:
            if self._released:
                return
            poll.register(self._ear, select.POLLIN)
            if self._session is not None:
                poll.register(self._session.connection.pgconn.socket, select.POLLIN)
        poll.poll(seconds * 1000)

    def wake(self) -> None:
        os.write(self._mouth, b"!")

    def release(self) -> None:
        """Gives the lock back before it hangs up: a closed session's locks go only when the server notices."""
        with self._mutex:
            if self._released:
                return
            self._released = True
            if self._session is not None:
                self._session.give_back()
            self._drop()
            os.close(self._ear)
            os.close(self._mouth)

    def _drop(self) -> None:
        if self._session is not None:
            self._session.connection.close()
            self._session = None


def _is_over(pid: int | None) -> bool:
    """Whether there is no process `pid` on this machine."""
    try:
        if pid:
            os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
