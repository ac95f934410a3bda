"""Following the files of a run while it writes them: its journal, and what its steps print. Bounded in memory."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from runbook.engine.record import Event
from runbook.language.values import loads
from runbook.operate.alive import running
from runbook.records.journal import JournalError
from runbook.records.markdown import visible
from runbook.watch.story import moment

CHUNK = 64 * 1024
TAIL = 16 * 1024
POLL = 0.2
LONGEST = 64 * 1024 * 1024
_LINE_END = re.compile(r"\r\n|\r|\n")


class JournalTail:
    """Reads what has come to a journal since the last look, whole lines only, and tells the time by the clock of the run."""

    def __init__(self, folder: Path, hear: Callable[[Event], None]) -> None:
        self._path, self._hear = folder / "journal.jsonl", hear
        self._offset = 0
        self._at = self._since = 0.0

    def read(self) -> None:
        """Tells each new event. Raises JournalError."""
        try:
            with open(self._path, "rb") as file:
                written = os.fstat(file.fileno()).st_mtime
                file.seek(self._offset)
                last = self._tell(file)
        except OSError as error:
            raise JournalError(f"{self._path}: {error.strerror}") from None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise JournalError(f"{self._path}: this is no journal ({type(error).__name__}: {error})") from None
        if last is not None:
            known = bool(self._at)
            self._at, self._since = moment(last.at), time.monotonic()
            if not known:
                self._since -= max(time.time() - written, 0)

    def _tell(self, file: BinaryIO) -> Event | None:
        event = None
        for line in iter(lambda: file.readline(LONGEST), b""):
            if not line.endswith(b"\n"):
                break  # torn, or about to be finished
            self._offset += len(line)
            data = loads(line)
            event = Event(data["seq"], data["at"], data["kind"], data["data"])
            self._hear(event)
        return event

    def now(self) -> float:
        """Seconds since the epoch by the clock of the run."""
        return self._at + time.monotonic() - self._since


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a step's output that are not empty, fit for a terminal; a progress line that was overwritten is gone."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - TAIL, 0))
            text = file.read(TAIL).decode("utf-8", "backslashreplace")
    except FileNotFoundError:
        return []
    lines = _LINE_END.split(text)[1 if size > TAIL else 0 :] or [text]
    return [visible(line.expandtabs()) for line in lines if line.strip()][-count:]


def start_of_last(file: BinaryIO, count: int) -> int:
    """The offset at which the last `count` lines of a file begin, found from its end."""
    end = position = file.seek(0, os.SEEK_END)
    while position > 0:
        start = max(position - CHUNK, 0)
        file.seek(start)
        block = file.read(position - start)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            count -= start + at + 1 < end
            if count <= 0:
                return start + at + 1
        position = start
    return 0


def output(folder: Path, lines: int | None, *, follow: bool) -> Iterator[bytes]:
    """What the steps of a run printed, in chunks, from the last `lines` on; with `follow` until the run is over.

    Empty chunks tell that time passes.
    """
    path = folder / "output.log"
    while follow and not path.exists() and running(folder):
        time.sleep(POLL)
    if not path.exists():
        return
    with open(path, "rb") as file:
        if lines is not None:
            file.seek(start_of_last(file, lines) if lines else file.seek(0, os.SEEK_END))
        while True:
            alive = follow and running(folder)  # asked before the look that may find nothing
            while chunk := file.read(CHUNK):
                yield chunk
            if not alive:
                return
            yield b""
            time.sleep(POLL)
