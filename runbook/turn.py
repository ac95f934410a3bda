"""A submitted run, executed: as `exec` does it, with the text, the files and the params that were submitted."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from runbook.database.connect import connect
from runbook.engine.record import Record
from runbook.fleet.adopt import Here, runbook_here
from runbook.fleet.turns import Turn, submission
from runbook.language.problems import RunbookError
from runbook.operate.cancel import Cancellation
from runbook.operate.options import Options
from runbook.operate.seen import Seen
from runbook.session import execute


class NotSubmitted(RunbookError):
    """There is no such submission."""


class Order(NamedTuple):
    """What a worker tells the process that executes a run. `databases` is as given to it, by connection; "" is the queue's."""

    run_id: str
    epoch: int
    url: str
    project: str
    databases: Mapping[str, str]


def execute_turn(order: Order, cancellation: Cancellation) -> Record:
    """Executes the run that was claimed under `order.epoch`. Raises whatever `execute` raises before a run begins."""
    here, seen = Here(order.url, Path(order.project), order.databases), Seen()
    with closing(connect(order.url, f"runbook turn {order.run_id}")) as connection:
        item = submission(connection, order.run_id)
        if item is None:
            raise NotSubmitted(f"run {order.run_id} was not submitted to {here.target}")
        runbook = runbook_here(connection, here, item, seen)
    given = {name: url for name, url in order.databases.items() if name in runbook.connections}
    audit = runbook.audit.connection
    given.setdefault(audit, order.databases.get("") or order.url)
    options = Options(
        database=given,
        operator=item.operator,
        note=str(item.options.get("note", "")),
        strict=bool(item.options.get("strict")),
        overrides=dict(item.options.get("overrides", {})),
        command_line=tuple(item.options.get("command_line", ())),
        seen=seen,
        submitted=Turn(item, order.epoch).submitted,
        project=here.project,
    )
    agreed = bool(item.options.get("consent"))
    return execute(
        runbook, params=item.params, options=options, consent=lambda question: agreed, cancellation=cancellation
    )
