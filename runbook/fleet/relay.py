"""What a submitted run tells while it goes on, so that it can be watched and stopped from anywhere that reaches its audit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runbook.language.values import dumps

if TYPE_CHECKING:
    from runbook.database.connect import Connection
    from runbook.records.audit import Audit

BEAT = 1.0  # seconds between two signs of life
CHUNK = 256 * 1024  # bytes of output that are sent at once
MOST = 4 * 1024 * 1024  # bytes of output that are sent of one run; all of it stays in its output.log

_BEAT = """
UPDATE runbook_fleet.turns SET seen_at = clock_timestamp(), doing = $2::jsonb WHERE run_id = $1 AND state = 'running'
RETURNING stop
"""
# A piece whose commit arrived although its answer did not comes again, and may have grown meanwhile.
_OUTPUT = """
INSERT INTO runbook_fleet.output AS o (run_id, start, data) VALUES ($1, $2, $3)
ON CONFLICT (run_id, start) DO UPDATE SET data = excluded.data WHERE length(excluded.data) > length(o.data)
"""


class Relay:
    """Sends events, output and a sign of life once a second, in a thread of its own and over the audit's connection.

    `doing` tells what the run does at the moment; `request` hears, once, who asked for its end from elsewhere.
    """

    def __init__(
        self,
        audit: Audit,
        run_id: str,
        output: Path,
        doing: Callable[[], Mapping[str, Any]],
        request: Callable[[str], None],
    ) -> None:
        self._audit, self._run_id, self._output = audit, run_id, output
        self._doing, self._request = doing, request
        self._sent = 0
        self._asked = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Sends what is left, once, and ends. A server that is away has the journal's import to make up for it."""
        if self._over.is_set():
            return
        self._over.set()
        self._thread.join()
        self._try(self._last)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while not self._over.wait(BEAT):
            self._try(self._beat)

    def _try(self, action: Callable[[], None]) -> None:
        from runbook.database.connect import ServerError

        try:
            action()
        except (ServerError, OSError):
            return  # the guardian of the lock and the next write of the run find out what it means
        except RuntimeError:
            return  # the record changed under the eye that looked at it

    def _beat(self) -> None:
        self._audit.flush()
        doing = dumps(self._doing())
        stop, self._sent = self._audit.beside(lambda connection: self._tell(connection, doing))
        if stop and not self._asked:
            self._asked = True
            self._request(f"stopped by {stop}")

    def _last(self) -> None:
        self._sent = self._audit.beside(self._send_output)

    def _tell(self, connection: Connection, doing: str) -> tuple[str, int]:
        sent = self._send_output(connection)
        row = connection.execute(_BEAT, [self._run_id, doing]).fetchone()
        return (str(row[0]) if row and row[0] else ""), sent

    def _send_output(self, connection: Connection) -> int:
        """Sends what is new; how much was sent by then, which counts when the transaction has ended."""
        sent = self._sent
        with self._output.open("rb") as file:
            file.seek(sent)
            while sent < MOST and (data := file.read(min(CHUNK, MOST - sent))):
                connection.execute(_OUTPUT, [self._run_id, sent, data])
                sent += len(data)
        return sent
