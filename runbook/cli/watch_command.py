"""`runbook watch`: a run as it goes on."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from runbook.cli.dashboard import frame_lines, plain
from runbook.cli.documents import refusing
from runbook.cli.errors import ERRORED
from runbook.cli.files import database_option
from runbook.cli.terminal import can_move
from runbook.language.values import dumps
from runbook.records.markdown import visible

if TYPE_CHECKING:
    from runbook.watch.frame import Frame, Watch

POLL = 0.25  # seconds between two looks at the files
PLAIN_WIDTH = 120  # characters where there is no terminal to measure


@click.command("watch", short_help="Watch a run as it goes on.")
@click.argument("run", default="last")
@click.option("--once", is_flag=True, help="Print one picture and end.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: one document with --once, else a line an interval.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=2.0,
    metavar="S",
    help="Seconds between measurements, at least. Default: 2.",
)
@database_option("Server to measure on, if it is the run's.")
def command(run: str, once: bool, as_json: bool, interval: float, databases: tuple[str, ...]) -> None:
    """Watch RUN (an id, a unique beginning of one, or `last`): its stages, and how far each expectation has come.

    A run that is not on this disk is looked for in the audits that the project's runbooks name; one that is queued is waited
    for. It only reads, and never disturbs the run; Ctrl-C leaves it. Exit codes: the run's own when it is over, 6 where it is
    lost, 0 while it goes on.
    """
    moving = not (as_json or once) and can_move(sys.stdout)
    notices = _Notices(quiet=moving)
    with ExitStack() as stack:
        with refusing(as_json):
            watch = _watch(run, databases, interval, notices, stack, wait=not once)
        if watch is None:
            click.echo(f"no longer watching; run {run} is not touched (runbook stop ends it)", err=True)
            return
        if once:
            watch.measure()
            frame = watch.frame()
            _print(frame, as_json)
            sys.exit(_code(frame))
        with leaving() as left:
            from runbook.cli.live import show

            notices.begin()
            frame = show(watch, left) if moving else _follow(watch, left, as_json, interval)
        if frame["run"]["state"] == "running":
            click.echo(f"no longer watching; run {frame['run']['id']} goes on (runbook stop ends it)", err=True)
        sys.exit(_code(frame))


class _Notices:
    """What there is to tell of following a run on another host: on stderr, or in the picture where that has the whole screen."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._begun, self._last = quiet, False, ""

    def __call__(self, text: str) -> None:
        self._last = text
        if text and not (self._quiet and self._begun):
            click.echo(visible(text), err=True)

    def begin(self) -> None:
        """From now on the picture is shown."""
        self._begun, self._last = True, ""

    @property
    def shown(self) -> str:
        """What belongs into the picture."""
        return self._last if self._quiet and self._begun else ""


def _watch(
    run: str, databases: tuple[str, ...], interval: float, notices: _Notices, stack: ExitStack, *, wait: bool
) -> Watch | None:
    """The run, on this disk or followed from afar; None where Ctrl-C came before it began."""
    from runbook.cli.files import database_targets, named_urls
    from runbook.fleet.mirror import run_folder
    from runbook.operate.runs import record_of
    from runbook.watch.frame import Watch
    from runbook.watch.meter import recorded_runbook

    class Noticing(Watch):
        def frame(self, usage_age: float = 0.0) -> Frame:
            frame = super().frame(usage_age)
            measured = frame["measured"]
            measured["because"] = "; ".join(filter(None, [notices.shown, measured["because"]]))
            return frame

    try:
        folder = stack.enter_context(run_folder(run, named_urls(databases), notices, wait=wait))
    except KeyboardInterrupt:
        return None
    urls = tuple(value for value in databases if "://" in value or "=" in value or value == "embedded")
    if not urls or not (folder / "journal.jsonl").stat().st_size:
        return Noticing(folder, {}, None, interval)
    runbook = recorded_runbook(record_of(folder))
    return Noticing(folder, database_targets(runbook, urls), runbook, interval)


@contextmanager
def leaving() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM asked to leave; a second one ends at once."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            os._exit(0)
        asked.append(number)

    earlier = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _follow(watch: Watch, left: Callable[[], bool], as_json: bool, interval: float) -> Frame:
    """Without a terminal: a JSON line an interval, or a plain picture when something has changed."""
    shown = None
    watch.measuring.start()
    while True:
        over = watch.look() != "running"
        frame = watch.frame()
        news = time.monotonic() if as_json else _news(frame)
        if news != shown:
            if shown is not None and not as_json:
                click.echo()
            _print(frame, as_json)
        shown = news
        if over or _rest(interval, left, watch):
            return frame


def _rest(seconds: float, left: Callable[[], bool], watch: Watch) -> bool:
    """Waits, but not past the end of the run; whether to leave."""
    deadline = time.monotonic() + seconds
    while not left() and time.monotonic() < deadline:
        time.sleep(min(POLL, max(deadline - time.monotonic(), 0)))
        if watch.look() != "running":
            break
    return left()


def _news(frame: Frame) -> Any:
    """What of a picture is worth another one: all but what time alone changes."""
    stages = [
        (stage["state"], stage["verdict"], [(s["state"], s["verdict"], s["attempt"]) for s in stage["steps"]])
        for stage in frame["stages"]
    ]
    values = [(item["now"], item["verdict"]) for item in frame["expectations"]]
    others = [item["now"] for item in frame["metrics"]]
    run = frame["run"]
    return (
        run["state"],
        run["verdict"],
        run["stopping"],
        stages,
        values,
        others,
        frame["output"],
        frame["measured"]["because"],
    )


def _print(frame: Frame, as_json: bool) -> None:
    if as_json:
        click.echo(dumps(rounded(frame)))
        return
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    click.echo(plain(frame_lines(frame, PLAIN_WIDTH), colour=colour), nl=False, color=colour)


def rounded(value: Any) -> Any:
    """`value` with every float to three digits; exact numbers stay."""
    if isinstance(value, float):
        return Decimal(f"{value:.3f}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def _code(frame: Frame) -> int:
    run = frame["run"]
    if run["state"] == "running":
        return 0
    return ERRORED if run["exit_code"] is None else int(run["exit_code"])
