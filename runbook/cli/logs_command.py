"""`runbook logs`: what the steps of a run printed."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import click

from runbook.cli.files import database_option, named_urls
from runbook.language.values import dumps
from runbook.records.markdown import visible

LONGEST = 64 * 1024


@click.command("logs", short_help="What the steps of a run printed.")
@click.argument("run", default="last")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run is over.")
@click.option("-n", "--lines", type=click.IntRange(min=0), metavar="LINES", help="Only the last so many lines.")
@database_option("Where the audit of a run on another host lies.")
@click.option("--json", "as_json", is_flag=True, help='Print a JSON line {"text": ...} for each line.')
def command(run: str, follow: bool, lines: int | None, databases: tuple[str, ...], as_json: bool) -> None:
    """Print what the steps of RUN (an id, a unique beginning of one, or `last`) printed, secrets masked.

    A run is looked for on this disk, else in the audits that the project's runbooks name: what a submitted run prints on
    another host is passed on, up to 4 MiB; -f waits for one that is queued. Into a pipe or a file go the bytes as they came; on
    a terminal what could steer it is written out. Ctrl-C leaves, and stops nothing.
    """
    from runbook.fleet.mirror import run_folder
    from runbook.watch.tail import output

    shape = _json_lines() if as_json else _shown() if sys.stdout.isatty() else _raw()
    try:
        with run_folder(run, named_urls(databases), _tell, wait=follow) as folder:
            anything = _copy(output(folder, lines, follow=follow), shape)
            if not anything:
                click.echo(f"run {folder.name} has printed nothing", err=True)
    except BrokenPipeError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        click.echo("", err=True)


def _tell(text: str) -> None:
    if text:
        click.echo(visible(text), err=True)


Shape = Callable[[bytes, bool], bytes]


def _copy(chunks: Iterable[bytes], shape: Shape) -> bool:
    """Whether there was anything."""
    anything = False
    for chunk in chunks:
        anything = anything or bool(chunk)
        _write(shape(chunk, False))
    _write(shape(b"", True))
    return anything


def _write(data: bytes) -> None:
    if data:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _raw() -> Shape:
    return lambda chunk, last: chunk


def _decoder() -> io.IncrementalNewlineDecoder:
    return io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("backslashreplace"), translate=True)


def _shown() -> Shape:
    decoder = _decoder()

    def shape(chunk: bytes, last: bool) -> bytes:
        return visible(decoder.decode(chunk, last), keep="\n\t").encode()

    return shape


def _json_lines() -> Shape:
    """A document for each line; a very long line comes in pieces, all but the last with `"more": true`."""
    decoder, held = _decoder(), ""

    def shape(chunk: bytes, last: bool) -> bytes:
        nonlocal held
        *whole, held = (held + decoder.decode(chunk, last)).split("\n")
        found: list[dict[str, Any]] = [{"text": line} for line in whole]
        if len(held) > LONGEST:
            found, held = [*found, {"text": held, "more": True}], ""
        if last and held:
            found, held = [*found, {"text": held}], ""
        return "".join(f"{dumps(item)}\n" for item in found).encode()

    return shape
