"""The output of steps: masked, kept in `output.log` up to a size, and passed on as it comes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from runbook.records.masks import Masks

MAX_LOG = 1024 * 1024 * 1024


class OutputLog:
    """Writes what steps print, and hands it to whoever shows it. `trouble` says why it stopped to be kept."""

    def __init__(self, folder: Path, masks: Masks, show: Callable[[str, bytes], None]) -> None:
        self.path = folder / "output.log"
        self._masks, self._show = masks, show
        self._streams = {name: masks.stream() for name in ("stdout", "stderr")}
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        self._size = 0
        self._full, self.trouble = False, ""

    def take(self, stream: str, chunk: bytes) -> None:
        self._put(stream, self._streams[stream].feed(chunk))

    def settle(self) -> None:
        """After a process has ended: what was held back is written too."""
        for name, stream in self._streams.items():
            self._put(name, stream.rest())

    def _put(self, stream: str, data: bytes) -> None:
        if not data:
            return
        if not self._full:
            self._write(data)
        self._show(stream, data)

    def _write(self, data: bytes) -> None:
        rest = data[: MAX_LOG - self._size]
        try:
            while rest:  # a disk that is nearly full takes a part
                written = os.write(self._descriptor, rest)
                self._size += written
                rest = rest[written:]
            if self._size >= MAX_LOG:
                self._stop(f"{MAX_LOG} bytes are the limit")
                os.write(self._descriptor, f"\n… (the rest is not kept: {MAX_LOG} bytes are the limit)\n".encode())
        except OSError as error:
            self._stop(str(error.strerror))

    def _stop(self, trouble: str) -> None:
        self._full, self.trouble = True, trouble

    def close(self) -> None:
        self.settle()
        os.close(self._descriptor)
