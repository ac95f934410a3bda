"""What moves on a terminal: the picture that `watch` shows, and the bars below the account of a run in the foreground."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runbook.cli.account import Account
from runbook.cli.dashboard import KINDS, Line, frame_lines, plain, progress_lines
from runbook.watch.progress import earlier, span_text
from runbook.watch.story import Story

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live
    from rich.text import Text

    from runbook.engine.record import Event
    from runbook.language.model import Runbook
    from runbook.watch.frame import Frame, Watch
    from runbook.watch.meter import Measuring
    from runbook.watch.usage import Usage

REFRESH = 0.25  # seconds between two pictures
TICK = 0.1  # seconds that whole lines of output wait at most
PATIENCE = 1.0  # seconds that a step has to last before it gets bars
INTERVAL = 2.0  # seconds between measurements
USAGE_AGE = 2.0  # seconds for which the use of processors and memory is shown on
BURST = 64 * 1024  # characters that wait at most
LONGEST = 2000  # characters of an unfinished line that are held back
MARK = "    │ "


def _console(stream: Any) -> Console:
    from rich.console import Console

    return Console(file=stream, force_terminal=True, markup=False, highlight=False, emoji=False)


def _text(lines: list[Line]) -> Text:
    """Lines as rich takes them, each cut at the edge."""
    from rich.text import Text

    colour = "NO_COLOR" not in os.environ
    made = [
        Text.assemble(
            *((piece, _style(kind) if colour else "") for piece, kind in line), no_wrap=True, overflow="ellipsis"
        )
        for line in lines
    ]
    return Text("\n", no_wrap=True, overflow="ellipsis").join(made)


def _style(kind: str) -> str:
    return "bold" if kind == "bold" else KINDS.get(kind) or ""


# --- watch ----------------------------------------------------------------------------------------------------------


def show(watch: Watch, left: Callable[[], bool]) -> Frame:
    """Shows a run on a screen of its own until it is over or left; the last picture stays on the ordinary screen."""
    from rich.live import Live

    console = _console(sys.stdout)
    live = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    watch.measuring.start()
    with _suspending(live), live:
        while True:
            over = watch.look() != "running"
            frame = watch.frame(USAGE_AGE)
            live.update(_text(_fitted(frame, console.width, console.height)), refresh=True)
            if over or left():
                break
            time.sleep(REFRESH)
    sys.stdout.write(plain(frame_lines(frame, console.width), colour="NO_COLOR" not in os.environ))
    return frame


def _fitted(frame: Frame, width: int, height: int) -> list[Line]:
    """The picture; where the screen is too low for it, with those steps only that are under way."""
    lines = frame_lines(frame, width)
    if len(lines) <= height:
        return lines
    for stage in frame["stages"]:
        stage["steps"] = [step for step in stage["steps"] if step["state"] == "now"]
    return frame_lines(frame, width)


@contextmanager
def _suspending(live: Live) -> Iterator[None]:
    """Ctrl-Z gives the ordinary screen back, and `fg` the picture."""

    def suspend(number: int, frame: Any) -> None:
        live.stop()
        os.kill(os.getpid(), signal.SIGSTOP)
        live.start()

    earlier_handler = signal.signal(signal.SIGTSTP, suspend)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, earlier_handler)


# --- exec -----------------------------------------------------------------------------------------------------------


@contextmanager
def bars(account: Account, runbook: Runbook, given: Mapping[str, str]) -> Iterator[Callable[[Event], None]]:
    """What is to be told of each event, so that the account, on a terminal, has bars below it while a step goes on."""
    region = Region(account, runbook, given)
    account.sink = region.write
    try:
        yield region.event
    finally:
        region.close()


class Region:
    """Bars below the text that scrolls. The text above always consists of whole lines; an unfinished one is held back.

    Drawing and measuring have threads of their own, and whatever goes wrong there only ends the bars.
    """

    def __init__(self, account: Account, runbook: Runbook, given: Mapping[str, str]) -> None:
        self._account, self._runbook, self._given = account, runbook, given
        self._story, self._heard = Story(), 0.0
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._live: Live | None = None
        self._measuring: Measuring | None = None
        self._usage: Usage | None = None
        self._durations: list[float] = []
        self._waiting = self._open = ""

    # --- what the run tells, in its own thread

    def event(self, event: Event) -> None:
        """Passes an event on to the account; bars begin and end with a step's attempt."""
        if event.kind == "step.ended":
            self._end()
        if event.kind == "stage.entered" and event.data["stage"] == "postconditions":
            self._leave_servers()
        with self._lock:
            self._story.hear(event)
            self._heard = time.monotonic()
        self._account.event(event)
        if event.kind == "step.started":
            self._begin()

    def write(self, text: str) -> None:
        """Text of the account. Raises OSError where the terminal has gone away."""
        with self._lock:
            if self._live is None:
                _put(text)
                self._open = (self._open + text).rpartition("\n")[2][-LONGEST - 1 :]
                return
            self._waiting += text
            if len(self._waiting) > BURST:
                self._flush(self._live)

    def close(self) -> None:
        """No more bars."""
        self._end()
        self._leave_servers()

    def _leave_servers(self) -> None:
        if self._measuring is not None:
            self._measuring.stop()

    def _begin(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._draw, args=(self._over,), name="bars", daemon=True)
        self._thread.start()

    def _end(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        live, self._live = self._live, None
        if live is None:
            return
        with suppress(OSError, ValueError):  # the account finds out for itself that its terminal has gone away
            self._flush(live)
            live.stop()
            _put(self._open)

    # --- drawing, in a thread

    def _draw(self, over: threading.Event) -> None:
        if over.wait(PATIENCE):
            return
        try:
            self._prepare()
            self._appear(over)
            while not over.wait(TICK):
                self._refresh()
        except Exception:  # noqa: BLE001 - no fault in drawing, and no terminal that goes away, may end the run
            with self._lock:
                self._waiting, self._live = "", None

    def _prepare(self) -> None:
        from runbook.watch.frame import earlier_durations
        from runbook.watch.meter import Measuring, Meter
        from runbook.watch.usage import Usage

        if self._measuring is not None:
            return
        record = self._story.record
        self._usage = Usage()
        if record["journal"]:
            self._durations = earlier_durations(Path(record["journal"]).parent, self._runbook.name)
        meter = Meter(record, self._given, self._runbook)
        self._measuring = Measuring(meter, INTERVAL, self._now, lambda: self._live is not None)
        self._measuring.start()

    def _now(self) -> float:
        return self._story.last + time.monotonic() - self._heard

    def _appear(self, over: threading.Event) -> None:
        """Takes the place at the bottom; an unfinished line moves into it."""
        from rich.cells import cell_len
        from rich.live import Live

        console = _console(sys.stderr)
        with self._lock:
            if over.is_set():
                return
            if len(self._open) > LONGEST:
                _put("\n")
                self._open = MARK
            elif self._open:
                rows = max(math.ceil(cell_len(self._open.expandtabs()) / console.width), 1)
                _put("\r" + "\x1b[A" * (rows - 1) + "\x1b[J")
            live = Live(
                console=console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="crop",
            )
            live.start()
            self._live = live
        self._refresh()

    def _refresh(self) -> None:
        assert self._usage is not None
        usage = self._usage.look(self._story.record, USAGE_AGE)
        with self._lock:
            if self._live is None:
                return
            self._flush(self._live)
            self._live.update(_text(self._lines(self._live.console.width, usage)), refresh=True)

    def _lines(self, width: int, usage: Any) -> list[Line]:
        from runbook.watch.frame import picture

        assert self._measuring is not None
        now = self._now()
        frame = picture(self._story, "running", now, self._measuring)
        frame["usage"], frame["earlier"] = usage, earlier(self._durations, self._story.elapsed(now))
        held: list[Line] = [[(_end_of(self._open, width), "")]] if self._open else []
        heading = f"  ┄┄ {_running(frame)} ┄┄"
        return [*held, *(progress_lines(frame, width, heading) or [[(heading, "bold")]])]

    def _flush(self, live: Live) -> None:
        """Prints the whole lines that wait, above the bars."""
        text, self._waiting = self._open + self._waiting, ""
        whole, newline, self._open = text.rpartition("\n")
        if len(self._open) > LONGEST:
            whole, newline, self._open = text, "\n", MARK
        if newline:
            live.console.print(_Raw(f"{whole}\n"), soft_wrap=True, end="")


def _end_of(line: str, width: int) -> str:
    """As much of the end of an unfinished line as has room, marked as what it is."""
    text = line.expandtabs()
    return text if len(text) < width else f"{MARK}…{text[len(MARK) + 2 - width :]}"


def _running(frame: Frame) -> str:
    for stage in frame["stages"]:
        for step in stage["steps"]:
            if step["state"] == "now":
                return f"{step['step']}, {span_text(step['duration'] or 0)}"
    return span_text(frame["run"]["elapsed"])


def _put(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


class _Raw:
    """Text that rich passes on as it is."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        yield Segment(self._text)
