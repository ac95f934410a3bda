"""The journal: the write-ahead record of one run on disk, one JSON line an event, hash-chained."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from runbook.engine.record import Event
from runbook.language.problems import RunbookError
from runbook.language.values import dumps, loads

GENESIS = "0" * 64
RESERVED = 256 * 1024
_DURABLE = frozenset(
    (
        "run.opened",
        "predictions.registered",
        "audit.row",
        "step.started",
        "step.ended",
        "step.judged",
        "run.cancelled",
        "run.halted",
        "run.finished",
        "run.lost",
        "run.succeeded",
        "audit.closed",
        "note.added",
    )
)


class JournalError(RunbookError):
    """The journal cannot be written or read; without it nothing may happen."""


class Line(NamedTuple):
    """One line: its event, the text that is hashed, and the chain."""

    event: Event
    text: str
    previous: str
    hash: str


def written(line: Line) -> bytes:
    """The line as a journal has it on disk."""
    return f'{line.text[:-1]}, "previous": "{line.previous}", "hash": "{line.hash}"}}\n'.encode()


def chain(previous: str, text: str) -> str:
    """The hash of a record's text after `previous`."""
    return hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()


class Journal:
    """Appends events to `<folder>/journal.jsonl`, readable by its owner alone and held by a lock while this process lives.

    `full` says why the disk took no more; what is reserved for that case then serves the records of the run's end.
    """

    def __init__(self, folder: Path, descriptor: int, seq: int = 0, previous: str = GENESIS) -> None:
        self.path = folder / "journal.jsonl"
        self.seq, self.previous, self.full = seq, previous, ""
        self._descriptor = descriptor
        self._reserve = folder / "reserve"
        self._size = os.fstat(descriptor).st_size

    def append(self, at: str, kind: str, data: dict[str, Any]) -> Line:
        """Writes one event, and has it on disk before it returns where an effect may follow. Raises JournalError."""
        event = Event(self.seq + 1, at, kind, data)
        text = dumps({"seq": event.seq, "at": at, "kind": kind, "data": data})
        line = Line(event, text, self.previous, chain(self.previous, text))
        raw = written(line)
        try:
            self._put(raw, kind in _DURABLE)
        except OSError as error:
            self.full = self.full or str(error.strerror)
            self._put_into_reserve(raw)
        self.seq, self.previous = event.seq, line.hash
        return line

    def _put_into_reserve(self, raw: bytes) -> None:
        with suppress(OSError):
            self._reserve.unlink()
        try:
            self._put(raw, durable=True)
        except OSError as error:
            raise JournalError(f"the journal cannot be written: {self.path}: {error.strerror}") from None

    def _put(self, raw: bytes, durable: bool) -> None:
        """All of a line or nothing of it: half a line would spoil what comes after."""
        try:
            _write(self._descriptor, raw)
            if durable:
                os.fsync(self._descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(raw)

    def close(self) -> None:
        with suppress(OSError):
            self._reserve.unlink()
        os.close(self._descriptor)


def create_journal(folder: Path) -> Journal:
    """A new run's folder with its empty journal. Raises JournalError."""
    try:
        folder.parent.parent.mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(exist_ok=True, mode=0o700)
        folder.mkdir(mode=0o700)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW
        descriptor = os.open(folder / "journal.jsonl", flags, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # held while this process lives: that is how others know
        _reserve(folder / "reserve")
        _sync_folder(folder)
    except OSError as error:
        raise JournalError(f"the journal cannot be created: {error.filename or folder}: {error.strerror}") from None
    return Journal(folder, descriptor)


def reopen_journal(folder: Path) -> Journal | None:
    """The journal of a run whose runner is dead, to write down what became of it; None where somebody holds it.

    A torn last line goes. Raises JournalError.
    """
    path = folder / "journal.jsonl"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW)
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}") from None
    try:
        _take(descriptor)
        last = deque(read_journal(path), maxlen=1)
        os.ftruncate(descriptor, path.read_bytes().rfind(b"\n") + 1)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except JournalError:
        os.close(descriptor)
        raise
    seq, previous = (last[0].event.seq, last[0].hash) if last else (0, GENESIS)
    return Journal(folder, descriptor, seq, previous)


def _take(descriptor: int) -> None:
    """The lock of a dead runner's journal; who only looks holds it for an instant. Raises BlockingIOError."""
    for pause in (0.01, 0.02, 0.04, 0.08):
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(pause)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _reserve(path: Path) -> None:
    """Room on the disk for the records of the run's end, for the case that there is none left by then."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        _write(descriptor, bytes(RESERVED))
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_journal(path: Path) -> Iterator[Line]:
    """The lines of a journal, each proven against the chain. A torn last line is left out. Raises JournalError."""
    previous = GENESIS
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}") from None
    *whole, _torn = raw.split(b"\n")
    for number, text in enumerate(whole, 1):
        line = _parse(text, path, number)
        if line.previous != previous or line.hash != chain(previous, line.text):
            raise JournalError(f"{path}:{number}: this line was changed, or one before it is missing")
        previous = line.hash
        yield line


def _parse(raw: bytes, path: Path, number: int) -> Line:
    try:
        text, _, tail = raw.decode().rpartition(', "previous": ')
        links = loads('{"previous": ' + tail)
        data = loads(text + "}")
        return Line(
            Event(data["seq"], data["at"], data["kind"], data["data"]), text + "}", links["previous"], links["hash"]
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        raise JournalError(f"{path}:{number}: this line is no journal record") from None
