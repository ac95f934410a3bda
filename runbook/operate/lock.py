"""One run at a time: a session advisory lock where there is a PostgreSQL, a flock in a per-user folder where there is none."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from runbook.language.problems import RunbookError

if TYPE_CHECKING:
    from runbook.database.connect import Connection


class Holder(NamedTuple):
    """Who holds a lock, as far as it can be told."""

    run_id: str = ""
    host: str = ""
    pid: int | None = None
    operator: str = ""
    since: str = ""


class Locked(RunbookError):
    """Another run holds the lock."""

    def __init__(self, key: str, holder: Holder) -> None:
        self.key, self.holder = key, holder
        known = [
            f"by run {holder.run_id}" if holder.run_id else "by another session",
            f"on {holder.host}" if holder.host else "",
            f"pid {holder.pid}" if holder.pid else "",
            f"operator {holder.operator}" if holder.operator else "",
            f"since {holder.since}" if holder.since else "",
        ]
        super().__init__(f"the lock `{key}` is held {', '.join(part for part in known if part)}")


class Lock(Protocol):
    """Held from before the journal opens until the run log is written."""

    def held(self) -> bool: ...

    def regain(self) -> bool: ...

    def release(self) -> None: ...


def lock_number(key: str) -> int:
    """The 64-bit number of PostgreSQL's advisory lock for `key`."""
    return int.from_bytes(hashlib.sha256(f"runbook:{key}".encode()).digest()[:8], "big", signed=True)


_HOLDER = """
SELECT a.application_name, a.client_hostname, to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.granted AND l.classid::bigint = $1 AND l.objid::bigint = $2 AND l.objsubid = 1
"""
_LEASE = """
SELECT run_id, host, pid, operator, to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
FROM runbook.leases WHERE lock = $1
"""


class DatabaseLock:
    """A session lock on a connection that does nothing else."""

    def __init__(self, key: str, connect: Callable[[], Connection]) -> None:
        self._key, self._connect = key, connect
        self.connection = connect()

    def acquire(self) -> datetime:
        """Takes the lock at once and tells the server's time. Raises Locked or ServerError."""
        from runbook.database.connect import translated

        with translated():
            row = self.connection.execute(
                "SELECT pg_try_advisory_lock($1), clock_timestamp()", [lock_number(self._key)]
            ).fetchone()
        assert row is not None
        if not row[0]:
            holder = self._holder()
            self.connection.close()
            raise Locked(self._key, holder)
        moment: datetime = row[1]
        return moment.astimezone(UTC)

    def _holder(self) -> Holder:
        import psycopg

        number = lock_number(self._key) & 0xFFFFFFFFFFFFFFFF
        row = self.connection.execute(_HOLDER, [number >> 32, number & 0xFFFFFFFF]).fetchone()
        known = Holder(run_id=row[0].removeprefix("runbook "), since=row[2]) if row else Holder()
        with suppress(psycopg.Error):
            lease = self.connection.execute(_LEASE, [self._key]).fetchone()
            if lease is not None and (not known.run_id or lease[0] == known.run_id):
                return Holder(*lease)
        return known

    def held(self) -> bool:
        """Asks the server; a connection that does not answer holds nothing."""
        import psycopg

        try:
            self.connection.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True

    def regain(self) -> bool:
        """Takes the lock again after its connection was lost; false where another run was quicker or the server is away."""
        from runbook.database.connect import ServerError

        self.connection.close()
        try:
            self.connection = self._connect()
            self.acquire()
        except (ServerError, Locked):
            return False
        return True

    def release(self) -> None:
        """Gives the lock back before it hangs up: a closed session's locks go only when the server notices."""
        import psycopg

        with suppress(psycopg.Error):
            self.connection.execute("SELECT pg_advisory_unlock($1)", [lock_number(self._key)])
        self.connection.close()


def state_folder() -> Path:
    """The folder for what one user's runs on this machine share."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(base) / "runbook"


class FileLock:
    """A flock on a file of this user on this machine; the kernel releases it when the holder dies."""

    def __init__(self, key: str, folder: Path | None = None) -> None:
        self._key = key
        self._path = (folder or state_folder() / "locks") / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.lock"
        self._descriptor = -1

    def acquire(self, holder: Holder) -> None:
        """Takes the lock at once and leaves a note on who holds it. Raises Locked."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(self._key, self._read()) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(holder._asdict()).encode(), 0)

    def _read(self) -> Holder:
        time.sleep(0.02)
        try:
            return Holder(**json.loads(os.pread(self._descriptor, 4096, 0)))
        except (ValueError, TypeError):
            return Holder()
        finally:
            self.release()

    def held(self) -> bool:
        return self._descriptor >= 0

    def regain(self) -> bool:
        return self.held()

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
