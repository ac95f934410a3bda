"""`runbook turn`: the process in which a worker has a submitted run executed; nobody calls it by hand."""

from __future__ import annotations

import os
import sys

import click

from runbook.language.values import loads


@click.command("turn", hidden=True)
@click.argument("run")
def command(run: str) -> None:
    """Execute RUN, which a worker has claimed."""
    from runbook.operate.cancel import Cancellation, listen
    from runbook.turn import Order, execute_turn

    told = "" if sys.stdin.isatty() else sys.stdin.buffer.read().decode()
    if not told:
        raise click.UsageError("only a worker starts this: runbook worker")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    cancellation = Cancellation()
    listen(cancellation)
    record = execute_turn(Order(run, **loads(told)), cancellation)
    sys.exit(record["run"]["exit_code"])
