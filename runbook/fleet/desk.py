"""A worker's own connection to the queue's database: one question at a time, from any thread, and made anew when it is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from runbook.database.connect import Connection, ServerError, connect, translated
from runbook.records.audit import MORTAL

T = TypeVar("T")
STATEMENT_MS = 30_000
_LEVEL = "SET default_transaction_isolation = 'read committed'"  # what another committed meanwhile must be seen


class Desk:
    """`away` counts how often the server was missed."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self._name = url, name
        self._mutex = threading.Lock()
        self._connection: Connection | None = None
        self.away = 0

    def do(self, action: Callable[[Connection], T]) -> T:
        """What `action` gives. Raises ServerError, and whatever else it raises."""
        with self._mutex:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = connect(self.url, self._name)
                    with translated():
                        self._connection.execute(f"SET statement_timeout = {STATEMENT_MS}; {MORTAL}; {_LEVEL}".encode())
                return action(self._connection)
            except ServerError as error:
                if error.lost:
                    self.away += 1
                    self._drop()
                raise

    async def ask(self, action: Callable[[Connection], T]) -> T:
        """The same without holding up the loop."""
        return await asyncio.to_thread(self.do, action)

    def close(self) -> None:
        with self._mutex:
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
