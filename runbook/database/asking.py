"""One short question on a connection that may be dead: its answer is waited for only so long, whatever the server does."""

from __future__ import annotations

import select
import time
from collections.abc import Sequence

import psycopg
from psycopg import pq

from runbook.database.connect import Connection, ServerError, translated

Row = list[str | None]


def ask(connection: Connection, query: str, values: Sequence[object], seconds: float, ear: int = -1) -> Row:
    """The first row that one statement gives, as text; empty where there is none.

    Raises ServerError: `lost` where the connection is gone, or no answer came within `seconds`, or the descriptor `ear`
    became readable meanwhile. After a lost one the connection is of no more use.
    """
    with translated():
        result = _exchange(connection.pgconn, query, values, time.monotonic() + seconds, ear)
        if result is None or result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            raise psycopg.OperationalError("no answer") if result is None else psycopg.errors.error_from_result(result)
    if not result.ntuples:
        return []
    found = [result.get_value(0, column) for column in range(result.nfields)]
    return [None if value is None else bytes(value).decode("utf-8", "backslashreplace") for value in found]


def _exchange(
    pgconn: pq.abc.PGconn, query: str, values: Sequence[object], deadline: float, ear: int
) -> pq.abc.PGresult | None:
    """The first result of a statement, when the server is ready for the next."""
    pgconn.send_query_params(query.encode(), [None if value is None else str(value).encode() for value in values])
    while pgconn.flush():
        _await(pgconn.socket, select.POLLIN | select.POLLOUT, deadline, ear)
        pgconn.consume_input()
    first = None
    while True:
        while pgconn.is_busy():
            _await(pgconn.socket, select.POLLIN, deadline, ear)
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            return first
        first = first or result


def _await(socket: int, events: int, deadline: float, ear: int) -> None:
    poll = select.poll()
    poll.register(socket, events)
    if ear >= 0:
        poll.register(ear, select.POLLIN)
    ready = [descriptor for descriptor, _ in poll.poll(max(deadline - time.monotonic(), 0) * 1000)]
    if socket not in ready:
        raise ServerError("the question was broken off" if ready else "the server does not answer", lost=True)
