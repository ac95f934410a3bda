"""The runs that a worker has under way: each a process of its own, watched to its end, and its books closed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from runbook.database.connect import Connection, ServerError
from runbook.engine.record import Record
from runbook.fleet.adopt import Here, clear, conclude_unbegun, has_begun
from runbook.fleet.desk import Desk
from runbook.fleet.turns import FAILURES, Turn, admit, claim, give_back, is_held, requeue, see, settle
from runbook.language.problems import RunbookError
from runbook.language.values import dumps
from runbook.operate.alive import running
from runbook.operate.predecessors import GRACE
from runbook.operate.recovery import recover
from runbook.operate.runs import record_of
from runbook.records.journal import RESERVED

LOCKED = 7  # the exit code of a process that met a held lock
LOCK_AGAIN = 5.0  # seconds after which a held lock is tried again
AGAIN = 2.0  # seconds, more each time, after which a run that could not begin is tried again
PATIENCE = 30.0  # seconds for which a server that is away is waited for
WORDS = 2000  # bytes of what a process said last, where its run did not begin


class News(NamedTuple):
    """What became of a run, for people: `what` is started, ended, waits or refused."""

    what: str
    run_id: str
    runbook: str
    text: str = ""
    seconds: float | None = None


class Crew:
    """`tell` hears what happens. Runs go on when the queue's job is gone: what counts is the run's own lock and record.

    At most `size` are under way at a time. `unwell` hears why this host can take no run.
    """

    def __init__(
        self, here: Here, desk: Desk, size: int, tell: Callable[[News], None], unwell: Callable[[str], None]
    ) -> None:
        self._here, self._desk, self._tell, self._unwell = here, desk, tell, unwell
        self.worker: int | None = None
        self._room = asyncio.Semaphore(size)
        self._stopping = False
        self._runs: dict[str, asyncio.subprocess.Process] = {}
        self._turns: dict[str, Turn] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def size(self) -> int:
        """How many runs are under way."""
        return len(self._turns)

    def begin(self, run_id: str, waited: bool) -> asyncio.Task[None]:
        """Looks after a run that the queue gives, in a task that outlives the queue's job."""
        work: Coroutine[Any, Any, None] = self._admit(run_id) if waited else self._take(run_id)
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def empty(self) -> None:
        """Returns when all have ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def stop(self) -> None:
        """Asks every run to end; each closes its record. One that has not begun goes back into the queue."""
        self._stopping = True
        for process in self._runs.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    async def signs(self) -> None:
        """Tells that the runs live which have not begun to tell it themselves. Raises ServerError."""
        turns = list(self._turns.values())

        def tell(connection: Connection) -> None:
            for turn in turns:
                if not (self._here.folder(turn.submission.run_id) / "output.log").exists():
                    see(connection, turn.submission.run_id, turn.epoch)

        await self._desk.ask(tell)

    # --- one run ------------------------------------------------------------------------------------------------

    async def _admit(self, run_id: str) -> None:
        await self._desk.ask(lambda connection: admit(connection, run_id))

    async def _take(self, run_id: str) -> None:
        async with self._room:
            trouble = "" if self._stopping else await asyncio.to_thread(trouble_with, self._here.project)
            if trouble:
                self._unwell(trouble)
            elif not self._stopping:
                await self._execute(run_id)
                return
        await self._desk.ask(lambda connection: give_back(connection, run_id))

    async def _execute(self, run_id: str) -> None:
        turn = await self._desk.ask(lambda connection: claim(connection, run_id, self.worker))
        if turn is None:
            return
        self._turns[run_id] = turn
        try:
            if turn.stop:
                because = f"withdrawn by {turn.stop} before it began"
                await self._patiently(lambda connection: self._conclude(connection, turn, "cancelled", because))
                return
            self._tell(News("started", run_id, turn.submission.runbook, _params(turn)))
            began = time.monotonic()
            await asyncio.to_thread(clear, self._here.folder(run_id))  # what an earlier start left here
            code, words = await self._process(turn)
            news = await self._after(turn, code, words)
            if news is not None:
                self._tell(news._replace(seconds=time.monotonic() - began))
        finally:
            del self._turns[run_id]

    async def _process(self, turn: Turn) -> tuple[int, str]:
        """Executes the run in a process of its own; its exit code, and what it said last."""
        run_id, here = turn.submission.run_id, self._here
        order = {"epoch": turn.epoch, "url": here.url, "project": str(here.project), "databases": dict(here.databases)}
        told = dumps(order).encode()  # not in its environment, which its steps could read: there are passwords in it
        with tempfile.TemporaryFile() as said:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "runbook", "turn", run_id),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )
            self._runs[run_id] = process
            try:
                if self._stopping:
                    process.terminate()
                with suppress(BrokenPipeError, ConnectionResetError):
                    await process.communicate(told)
                code = await process.wait()
            finally:
                del self._runs[run_id]
            said.seek(max(said.seek(0, os.SEEK_END) - WORDS, 0))
            return code, said.read().decode("utf-8", "replace").strip()

    async def _patiently(self, action: Callable[[Connection], News | None]) -> News | None:
        """Does it as soon as the server is there; what is not done by then is left to whoever looks after stalled runs."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return await self._desk.ask(action)
            except ServerError as error:
                if not error.lost or time.monotonic() > deadline:
                    return News("refused", "", "", str(error))
            except (RunbookError, OSError) as error:
                return News("refused", "", "", str(error))
            await asyncio.sleep(1)

    async def _after(self, turn: Turn, code: int, words: str) -> News | None:
        """What is left to do when the process of a run has ended."""
        item = turn.submission
        folder = self._here.folder(item.run_id)
        if running(folder):
            return None  # somebody else concludes it at this moment
        try:
            record = await asyncio.to_thread(self._closed, folder)
        except (RunbookError, OSError) as error:
            return News("refused", item.run_id, item.runbook, str(error))
        if record is None:
            return await self._patiently(lambda connection: self._not_begun(connection, turn, code, words))
        await self._patiently(lambda connection: settle(connection, item.run_id))
        run = record["run"]
        because = f": {run['because']}" if run["verdict"] != "passed" and run.get("because") else ""
        return News("ended", item.run_id, item.runbook, f"{run['verdict']}{because}")

    def _not_begun(self, connection: Connection, turn: Turn, code: int, words: str) -> News | None:
        """What becomes of a run whose process ended before the run began."""
        item = turn.submission
        with connection.transaction():
            if not is_held(connection, turn):
                return None  # it was given up meanwhile, and is somebody else's
        clear(self._here.folder(item.run_id))
        because = _reason(words) or f"its process ended with {code}"
        if code == LOCKED or self._stopping:
            because = "its worker was told to end before it began" if self._stopping else because
            requeue(connection, turn, because, LOCK_AGAIN, failed=False)
            return News("waits", item.run_id, item.runbook, because)
        once_more = code not in (2, 5) and turn.failures + 1 < FAILURES
        if once_more and requeue(connection, turn, because, AGAIN * (turn.failures + 1), failed=True):
            return News("waits", item.run_id, item.runbook, because)
        return self._conclude(connection, turn, "errored", words or because)

    def _closed(self, folder: Path) -> Record | None:
        """The record of the run, its books closed as far as that can be done; None where it never began."""
        if not has_begun(folder):
            return None
        record = record_of(folder)
        if (folder.parent.parent / "open" / folder.name).exists():
            found = recover(folder, self._here.way(), lambda record: GRACE)
            return found.record if found else record
        return record

    def _conclude(self, connection: Connection, turn: Turn, verdict: str, because: str) -> News | None:
        item = turn.submission
        conclude_unbegun(connection, self._here, turn, verdict, because)
        settle(connection, item.run_id)
        return News("ended", item.run_id, item.runbook, f"{verdict}: {because.splitlines()[0] if because else ''}")


def _reason(words: str) -> str:
    """The line of what a process said last that tells why, without the cures that follow it."""
    lines = [line for line in words.splitlines() if line.strip()]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (told or lines or [""])[-1].strip()


def trouble_with(project: Path) -> str:
    """Why no run can be recorded in `project`, or nothing."""
    try:
        (project / "runs").mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=project / "runs") as file:
            file.write(bytes(RESERVED))
            file.flush()
    except OSError as error:
        return f"no run can be recorded in {project}: {error.strerror}"
    return ""


def _params(turn: Turn) -> str:
    """What tells this run from others of its runbook."""
    item = turn.submission
    shown = {name: item.params[name] for name in (item.varied or item.params)}
    again = f"  (attempt {item.attempt})" if item.attempt > 1 else ""
    return " ".join(f"{name}={dumps(value)}" for name, value in shown.items()) + again
