"""The one funnel from exceptions to exit codes. Nothing that a user can cause ends in a traceback."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from runbook import __version__
from runbook.language.problems import InvalidRunbook, RunbookError

USAGE, BLOCKED, INVALID, ERRORED, LOCKED, CANCELLED = 2, 3, 5, 6, 7, 130


def open_standard_streams() -> None:
    """Opens /dev/null where 0, 1 or 2 is closed, so that no journal or socket gets that number and is written into."""
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            stream = os.fdopen(number, "r" if number == 0 else "w", closefd=False)
            setattr(sys, name, stream)


def exit_code(error: BaseException) -> int:
    """The documented exit code for an exception of ours."""
    if isinstance(error, InvalidRunbook):
        return INVALID
    known = {
        "NoConsent": USAGE,
        "NoSuchRemedy": USAGE,
        "NotRehearsed": BLOCKED,
        "TooManyRows": BLOCKED,
        "TooMany": USAGE,
        "Locked": LOCKED,
        "StoppedWaiting": CANCELLED,
    }
    return known.get(type(error).__name__, ERRORED)


def tell(error: RunbookError) -> None:
    """What went wrong, on stderr, for people."""
    if isinstance(error, InvalidRunbook):
        from runbook.cli.telling import problem_text

        for problem in error.problems:
            click.echo(problem_text(problem), err=True)
        count = len(error.problems)
        click.echo(f"{count} problem{'s' if count != 1 else ''}", err=True)
        return
    cures = getattr(error, "cures", None)
    if cures is None:
        click.echo(f"error: {error}", err=True)
        return
    from runbook.records.markdown import visible

    for line in (f"error: {error}", *(f"  {cure}" for cure in cures)):
        click.echo(visible(line), err=True)


@contextmanager
def funnel() -> Iterator[None]:
    """Exceptions become messages and exit codes; a fault of our own is reported with what a maintainer needs."""
    try:
        yield
    except RunbookError as error:
        tell(error)
        sys.exit(exit_code(error))
    except BrokenPipeError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ERRORED)
    except KeyboardInterrupt:
        sys.exit(CANCELLED)
    except (click.exceptions.Exit, click.ClickException, click.Abort):
        raise
    except Exception:  # noqa: BLE001 - the last resort: a fault of this program, told in full so that it can be mended
        click.echo(f"error: a fault in runbook {__version__}, not in your runbook. Please report this:", err=True)
        click.echo(traceback.format_exc(), err=True)
        sys.exit(ERRORED)
