"""Whether a connection has a server session of its own, or a pooler that hands sessions around stands in between.

A pooler of that kind (transaction or statement pooling) gives a session to whoever asks next: a session lock taken through
it belongs to nobody, and stays behind when its taker is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from runbook.database.asking import ask
from runbook.database.connect import Connection, ServerError

ROUNDS = 3


class HandedAround(ServerError):
    """A pooler hands server sessions around."""

    def __init__(self) -> None:
        super().__init__(
            "a pooler stands before this server and hands its sessions around (transaction or statement pooling), so that "
            "no session, and no lock, can be one run's own; connect to PostgreSQL itself (often port 5432, where the "
            "pooler has 6432), or let the pooler use session pooling"
        )


def own_session(first: Connection, connect: Callable[[], Connection], seconds: float, ear: int = -1) -> int:
    """The number of the server session behind `first`, which a pooler holds for it alone.

    A second connection keeps a session busy in a transaction. Where sessions are handed around, either it got the one of
    `first`, or `first` gets another one now; asked twice, since in a queue of three its own would come back every second
    time. `seconds` bound each answer. Raises HandedAround or ServerError.
    """
    mine = _session(first, seconds, ear)
    with closing(connect()) as second:
        _session(second, seconds, ear)
        for _ in range(ROUNDS):
            try:
                ask(second, "BEGIN", (), seconds, ear)
                taken = _session(second, seconds, ear)
            except ServerError:
                _session(first, seconds, ear)
                raise HandedAround from None  # it answers, and only refuses a transaction: statement pooling
            if taken == mine or any(_session(first, seconds, ear) != mine for _ in range(2)):
                raise HandedAround
            ask(second, "COMMIT", (), seconds, ear)
    return mine


def _session(connection: Connection, seconds: float, ear: int) -> int:
    return int(ask(connection, "SELECT pg_backend_pid()", (), seconds, ear)[0] or 0)
