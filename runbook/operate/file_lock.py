"""The lock where there is no PostgreSQL: a flock on a file of this user on this machine, which its kernel gives back."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
import time
from pathlib import Path

from runbook.operate.alive import running
from runbook.operate.circumstances import host
from runbook.operate.lock import Holder, Locked, lost_to
from runbook.operate.servers import CannotStart
from runbook.system.tree import start_time

_NOTE = 1 << 14  # bytes of a note that are read
_PAUSE = 0.02  # seconds after which the note of a holder who has just begun is there


def state_folder() -> Path:
    """The folder for what one user's runs on this machine share."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(base) / "runbook"


def look_at(key: str, folder: Path | None = None) -> None:
    """The lock of `key`, looked at and not taken. Raises Locked.

    It is the note that is read, and believed where its writer lives: whoever tried the lock itself, if only for a moment,
    would keep a run from it that begins in that moment.
    """
    try:
        holder = _note_at(_place(key, folder))
    except OSError:
        return
    if holder.run_id and _lives(holder):
        raise Locked(key, holder)


def _lives(holder: Holder) -> bool:
    if holder.journal:
        return running(Path(holder.journal).parent)
    return holder.host != host() or start_time(holder.pid or 0) is not None


def _place(key: str, folder: Path | None) -> Path:
    return (folder or state_folder() / "locks") / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.lock"


class FileLock:
    """A flock on a file that holds a note about its holder; a note that stands there unheld was left by a dead one."""

    epoch: int | None = None

    def __init__(self, key: str, folder: Path | None = None) -> None:
        self.lost = ""
        self._key = key
        self._path = _place(key, folder)
        self._descriptor = -1
        self._holder = Holder()
        self._unfinished: Holder | None = None
        self._mutex = threading.RLock()
        self._woken = threading.Event()

    def acquire(self, holder: Holder) -> Holder | None:
        """Takes the lock at once; the note of a holder that died with it, or None. Raises Locked or CannotStart."""
        try:
            with self._mutex:
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                while not self._take(os.O_CREAT):
                    pass
                earlier = _read(self._descriptor)
                # Until this run has a journal, the dead one's stays known: this one may be refused, or die, before that.
                self._unfinished = earlier if earlier and earlier.journal and not holder.journal else None
                self.note(holder._replace(journal=earlier.journal) if self._unfinished and earlier else holder)
        except OSError as error:
            raise CannotStart(f"the lock file {self._path} cannot be used: {error.strerror}") from None
        return earlier

    def _take(self, flags: int) -> bool:
        """Opens and locks the file; false where it is no longer what stands at its path. Raises Locked or OSError."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE)
            holder = _read(descriptor)
            os.close(descriptor)
            raise Locked(self._key, holder or Holder()) from None
        if not self._in_place(descriptor):
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def _in_place(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.stat(self._path, follow_symlinks=False), os.fstat(descriptor))
        except OSError:
            return False

    def note(self, holder: Holder) -> None:
        """Says who holds the lock. A reader meets the old note or the new one."""
        with self._mutex:
            self._holder = holder
            text = json.dumps(holder._asdict()).encode() + b"\n"
            os.pwrite(self._descriptor, text, 0)
            os.ftruncate(self._descriptor, len(text))

    def held(self) -> bool:
        with self._mutex:
            return not self.lost and self._descriptor >= 0 and self._in_place(self._descriptor)

    def beat(self) -> bool:
        return self.held()

    def regain(self) -> bool:
        """Puts the file back where it was removed; where another stands there, another run had the lock since."""
        with self._mutex:
            if self.held():
                return True
            if self.lost or self._descriptor < 0:
                return False
            removed = self._descriptor
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                if self._take(os.O_CREAT | os.O_EXCL):
                    self.note(self._holder)
            except FileExistsError:
                self.lost = lost_to(self._found())
            except Locked as locked:
                self.lost = lost_to(locked.holder)
            except OSError:
                return False
            if self._descriptor != removed:
                os.close(removed)
            return self.held()

    def _found(self) -> Holder:
        try:
            return _note_at(self._path)
        except OSError:
            return Holder()

    def rest(self, seconds: float) -> None:
        self._woken.wait(seconds)

    def wake(self) -> None:
        self._woken.set()

    def release(self) -> None:
        with self._mutex:
            if self._descriptor >= 0:
                if self._unfinished is not None and self._unfinished.journal == self._holder.journal:
                    self.note(self._unfinished)
                else:
                    os.ftruncate(self._descriptor, 0)
                os.close(self._descriptor)
                self._descriptor = -1


def _note_at(path: Path) -> Holder:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return _read(descriptor) or Holder()
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> Holder | None:
    """The note in a lock file; its first line, since what follows may be the end of an older one."""
    try:
        return Holder(**json.loads(os.pread(descriptor, _NOTE, 0).partition(b"\n")[0]))
    except (ValueError, TypeError):
        return None
