"""The journal: the write-ahead record of one run on disk, one JSON line an event, hash-chained."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from runbook.engine.record import Event
from runbook.language.problems import RunbookError
from runbook.language.values import dumps, loads

GENESIS = "0" * 64
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
        "audit.closed",
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


def chain(previous: str, text: str) -> str:
    """The hash of a record's text after `previous`."""
    return hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()


class Journal:
    """Appends events to `<folder>/journal.jsonl`, readable by its owner alone."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.jsonl"
        self.previous = GENESIS
        self.seq = 0
        try:
            folder.parent.parent.mkdir(parents=True, exist_ok=True)
            folder.parent.mkdir(exist_ok=True, mode=0o700)
            folder.mkdir(mode=0o700)
            self._descriptor = os.open(
                self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW, 0o600
            )
            _sync_folder(folder)
        except OSError as error:
            raise JournalError(f"the journal cannot be created: {error.filename}: {error.strerror}") from None

    def append(self, at: str, kind: str, data: dict[str, Any]) -> Line:
        """Writes one event, and has it on disk before it returns where an effect may follow. Raises JournalError."""
        self.seq += 1
        event = Event(self.seq, at, kind, data)
        text = dumps({"seq": event.seq, "at": at, "kind": kind, "data": data})
        line = Line(event, text, self.previous, chain(self.previous, text))
        try:
            _write(self._descriptor, f'{text[:-1]}, "previous": "{line.previous}", "hash": "{line.hash}"}}\n'.encode())
            if kind in _DURABLE:
                os.fsync(self._descriptor)
        except OSError as error:
            raise JournalError(f"the journal cannot be written: {self.path}: {error.strerror}") from None
        self.previous = line.hash
        return line

    def close(self) -> None:
        os.close(self._descriptor)


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
