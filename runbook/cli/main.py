"""The command line: its commands, each in a file of its own that is imported when it is used."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

import click

from runbook import __version__
from runbook.cli.errors import funnel, open_standard_streams

COMMANDS = {
    "exec": "Run a runbook: predict, run, measure, judge, record, report.",
    "validate": "Look for problems in runbooks, without running anything.",
    "check": "Ask the preflight alone, read-only.",
    "doctor": "Is all there that a run needs? With the cure where it is not.",
    "test": "Try runbooks out: do they come out as their cases say?",
    "new": "Write a commented runbook to start from.",
    "status": "What is running here; finds the lost.",
    "watch": "Watch a run as it goes on: stages, expectations, rate, time left.",
    "logs": "What the steps of a run printed.",
    "stop": "End a run: its step's processes, then its records.",
    "recover": "Close the lost: conclude, end what still runs, complete the audit.",
    "history": "What ran: by day, runbook, verdict, operator or param.",
    "show": "Show a run: its run log, its record, or a page with plots.",
    "diff": "What differs between two runs.",
    "repro": "Run a recorded run again: does it come out the same?",
    "note": "Add to the notes of a run, and render its run log again.",
    "remedy": "Repairs that a runbook declares: list, look, apply.",
    "prune": "Remove old run folders, output and audit detail, on record.",
    "submit": "Leave a run, or a sweep of runs, to workers.",
    "worker": "Execute what was submitted.",
    "fleet": "Workers, queue, and what runs where.",
    "compare": "The runs of an experiment side by side.",
    "schedule": "Runs by the clock: list, enable, disable.",
    "schema": "The JSON Schema of runbooks, for editors.",
    "audit": "The audit in the database: verify, export, schema.",
}


_HIDDEN = {"turn"}  # the process in which a worker has a run executed


class LazyGroup(click.Group):
    """Imports a command when it is asked for, so that help and validation stay quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS and cmd_name not in _HIDDEN:
            return None
        command: click.Command = import_module(f"runbook.cli.{cmd_name}_command").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, *args: Any, **kwargs: Any) -> Any:
        open_standard_streams()
        with funnel():
            return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if "--json" in sys.argv:
                from runbook.cli.documents import print_document, refusal

                print_document(refusal(error, ""))
            raise


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="runbook")
def main() -> None:
    """Reproducible experiment runbooks for database-backed workflows.

    FILE is a path, or the name of a runbook in runbooks/.
    """


def entry() -> NoReturn:
    """The console script. It ends the process itself: taking the interpreter down would cost a fifth of a short run."""
    gc.set_threshold(50_000, 20, 50)
    code: object = 0
    try:
        main(prog_name="runbook")
    except SystemExit as end:
        code = end.code
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 1)
