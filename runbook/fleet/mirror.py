"""A run that is not on this disk, as files: its journal and what it printed, out of the audit, in step while it goes on."""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from runbook.engine.record import Event
from runbook.fleet.elsewhere import SILENT, Elsewhere, Standing, locate, standing, waiting_text, way_to
from runbook.fleet.relay import MOST
from runbook.language.problems import RunbookError
from runbook.language.values import loads
from runbook.operate.runs import NoSuchRun
from runbook.records.journal import Line, written

if TYPE_CHECKING:
    from runbook.database.connect import Connection

POLL = 1.0  # seconds between two looks
GRACE = 3.0  # seconds in which what a run printed last may come after its closing


Tell = Callable[[str], None]

_LINES = "SELECT seq, at, line, previous, hash FROM runbook.events WHERE run_id = $1 AND seq > $2 ORDER BY seq"
_OUTPUT = """SELECT start, data FROM runbook_fleet.output
WHERE run_id = $1 AND start >= $2 AND start + octet_length(data) > $3 ORDER BY start LIMIT 64"""


@contextmanager
def run_folder(name: str, databases: Mapping[str, str], tell: Tell, *, wait: bool = True) -> Iterator[Path]:
    """The folder of the run that `name` means: its own on this disk, else a mirror of it. Raises NoSuchRun or ServerError."""
    found = locate(name, databases)
    if isinstance(found, Path):
        yield found
        return
    with mirrored(found, tell, wait=wait) as folder:
        yield folder


@contextmanager
def mirrored(elsewhere: Elsewhere, tell: Tell = lambda text: None, *, wait: bool = True) -> Iterator[Path]:
    """A folder with the journal and the output of a run, kept in step until it is left; its journal is locked while the run is
    not over, as a living runner would. Where the run is queued, `wait` waits for its beginning. `tell` hears what people should
    know, and "" when there is nothing of it any more. Raises ServerError, or NoSuchRun where there will be no record.
    """
    with (
        way_to(elsewhere) as connected,
        _tidy(),
        tempfile.TemporaryDirectory(prefix="runbook-", ignore_cleanup_errors=True) as base,
    ):
        folder = Path(base) / "runs" / elsewhere.run_id
        folder.mkdir(parents=True, mode=0o700)
        mirror = _Mirror(elsewhere, folder, connected, tell)
        try:
            mirror.begin(wait)
            yield folder
        finally:
            mirror.end()


@contextmanager
def _tidy() -> Iterator[None]:
    """Signals that would end this process at once let it take its copy away first."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP) if threading.current_thread() is threading.main_thread() else ()
    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


class _Mirror:
    """Brings a copy up to the audit, once a second in a thread of its own; a server that does not answer is asked again."""

    def __init__(self, elsewhere: Elsewhere, folder: Path, connected: Callable[[], Connection], tell: Tell) -> None:
        self._run_id, self._fleet = elsewhere.run_id, elsewhere.fleet
        self._connected, self._say = connected, tell
        self._connection: Connection | None = None
        self._copy = Copy(folder)
        self._left = threading.Event()
        self._thread: threading.Thread | None = None
        self._trouble, self._told, self._silent = "", "", False

    def begin(self, wait: bool) -> None:
        """The first copy, once there is something to copy, or as it stands."""
        over = self._look()
        while wait and not over and not self._copy.seq:
            time.sleep(POLL)
            over = self._try()
        if not over and (wait or self._copy.seq):
            self._thread = threading.Thread(target=self._follow, name="mirror", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Leaves it; what is being asked is not waited for."""
        self._left.set()
        if self._thread is not None:
            self._thread.join(POLL)
        if self._connection is not None and (self._thread is None or not self._thread.is_alive()):
            self._connection.close()
        self._copy.let_go()

    def _follow(self) -> None:
        while not self._left.wait(POLL):
            if self._try():
                return

    def _try(self) -> bool:
        """One look; what fails is told once, and tried again at the next. Raises NoSuchRun."""
        try:
            over = self._look()
        except NoSuchRun:
            raise
        except (RunbookError, OSError) as error:
            if not self._trouble:
                self._trouble = str(error)
                self._tell(f"the audit cannot be followed, trying again: {error}")
            return False
        if self._trouble:
            self._trouble = ""
            self._tell("the audit can be followed again")
            self._tell("")
        return over

    def _look(self) -> bool:
        """Brings the copy up to the audit; whether the run is over, and all of it is there. Raises ServerError or OSError."""
        from runbook.database.connect import translated

        if self._connection is None or self._connection.closed:
            self._connection = self._connected()
        found = standing(
            self._connection, self._run_id, self._fleet
        )  # asked first: what was written by then is then copied
        over = _over(found)
        with translated():
            self._copy.lines(self._connection.execute(_LINES, [self._run_id, self._copy.seq]), found.now, over)
            while self._fleet and (rows := self._pieces(self._connection)):
                self._copy.output(rows, found.host)
        if over and not self._copy.seq:
            raise NoSuchRun(_gone(self._run_id, found))
        self._news(found)
        if over or self._copy.end >= MOST or not found.state:
            self._copy.remark(_remark(found, self._copy.end), found.host)
        if over:
            self._copy.let_go()
        return over

    def _pieces(self, connection: Connection) -> list[Any]:
        return connection.execute(_OUTPUT, [self._run_id, self._copy.start, self._copy.end]).fetchall()

    def _news(self, found: Standing) -> None:
        if found.state == "queued" and not self._copy.seq:
            self._tell(waiting_text(self._run_id, found))
        silent = found.seen is not None and found.seen > SILENT and found.verdict is None and found.state != "queued"
        if silent and not self._silent:
            self._tell(f"no sign of life of run {self._run_id} on {found.host} for {found.seen:.0f} s")
        elif self._silent and not silent:
            self._tell("")
        self._silent = silent
        if found.state == "over" and found.verdict is None:
            self._tell(f"the end of run {self._run_id} is not in the audit; it was on {found.host}")

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._say(text)


def _over(found: Standing) -> bool:
    """Whether nothing is to come any more: a moment after its closing, what a submitted run printed last may still come."""
    late = found.closed is not None and found.closed > GRACE
    return found.state == "over" or (found.verdict is not None and (not found.state or late))


def _gone(run_id: str, found: Standing) -> str:
    if found.opened:
        return f"the records of run {run_id} were pruned: its row is left (runbook history)"
    return f"run {run_id} never began{f': {found.because}' if found.because else ''}"


def _remark(found: Standing, end: int) -> str:
    """What is to be said of the output that is not here."""
    if not found.state:
        return "what it printed, if anything, is"
    if end >= MOST:
        return "the rest is"
    return "what it printed last may only be" if found.verdict == "lost" else ""


class Copy:
    """The files of a mirrored run: `seq` is the last event, `start` and `end` the offsets of the last piece of output."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.seq, self.start, self.end = 0, 0, 0
        self._size = 0
        self._place, self._remarked, self._open_line = "", "", False
        self._journal = os.open(folder / "journal.jsonl", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._journal, fcntl.LOCK_EX)

    def lines(self, rows: Any, now: float, over: bool) -> None:
        """Adds the lines of the journal that come next, (seq, at, line, previous, hash), byte for byte, and dates the file as the
        run's own was by the server's clock; where one is missing, those after it wait for it until the run is over.
        """
        for seq, at, text, previous, digest in rows:
            if seq != self.seq + 1 and not over:
                break
            data = written(Line(Event(seq, "", "", {}), text, previous, digest))
            if not self._size:
                self._place = _place(text)
            self._put(data)
            self.seq = seq
            with suppress(AttributeError, OverflowError):  # a time that no calendar has
                then = time.time() - max(now - at.timestamp(), 0)
                os.utime(self._journal, (then, then))

    def _put(self, data: bytes) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self._journal, data[done:], self._size + done)
        self._size += len(data)

    def output(self, rows: Sequence[tuple[int, bytes]], host: str) -> None:
        """Adds pieces of output, (start, data); where some of it is missing, that is said in its place."""
        with open(self._folder / "output.log", "ab") as file:
            for start, data in rows:
                if start > self.end:
                    file.write(self._said(f"{start - self.end} bytes are missing here: they are", host))
                new = data[max(self.end - start, 0) :]
                file.write(new)
                file.flush()
                if new:
                    self._open_line = not new.endswith(b"\n")
                self.start, self.end = start, max(self.end, start + len(data))

    def remark(self, what: str, host: str) -> None:
        """Says once at the end of the output what is not here."""
        if what and what != self._remarked and self.seq:
            with open(self._folder / "output.log", "ab") as file:
                file.write(self._said(what, host))
            self._remarked = what

    def _said(self, what: str, host: str) -> bytes:
        text = f"{chr(10) * self._open_line}… ({what} on {host} in {self._place or 'its folder'})\n"
        self._open_line = False
        return text.encode("utf-8", "backslashreplace")

    def let_go(self) -> None:
        """The run is over: whoever looks finds the journal free."""
        if self._journal >= 0:
            os.close(self._journal)
        self._journal = -1


def _place(text: str) -> str:
    """Where the output of a run lies on its host, by the first event of its journal."""
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        journal = str(loads(text)["data"]["journal"])
        return f"{journal.rpartition('/')[0]}/output.log"
    return ""
