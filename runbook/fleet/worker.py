"""A worker: takes runs from the queue, has each executed in a process of its own, and looks after those of workers that died."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg

from runbook import __version__
from runbook.database.connect import Connection, ServerError, translated
from runbook.fleet.adopt import Here
from runbook.fleet.crew import Crew, News, trouble_with
from runbook.fleet.desk import Desk
from runbook.fleet.queue import SILENT, TURN, queue_of
from runbook.fleet.rescue import Rescue
from runbook.fleet.schedules import Tick, fire_due
from runbook.fleet.schema import prepare
from runbook.fleet.turns import Submission, insert
from runbook.language.problems import RunbookError
from runbook.operate.circumstances import host, operator
from runbook.operate.options import new_run_id

if TYPE_CHECKING:
    from procrastinate import App

BEAT = 2.0  # seconds between two signs of life
POLL = 2.0  # seconds after which the queue is looked into although nobody told of a run
NAME = "runbook worker"

_REGISTER = """
INSERT INTO runbook_fleet.workers (host, pid, folder, labels, concurrency, version, operator)
VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id
"""
_SEEN = "UPDATE runbook_fleet.workers SET seen_at = clock_timestamp(), state = $2 WHERE id = $1"
_WAITING = """
SELECT EXISTS (SELECT FROM runbook_fleet.turns t JOIN runbook_fleet.submissions s USING (run_id)
    WHERE t.state = 'queued' AND s.due_at <= clock_timestamp() AND s.label = ANY($1))
"""
_QUEUES_SIGN = """
WITH seen AS (UPDATE runbook_fleet.procrastinate_workers SET last_heartbeat = now() WHERE id = $1 RETURNING id)
SELECT EXISTS (SELECT FROM seen)
"""


class Unwell(RunbookError):
    """A worker's host can take no runs."""


class Worker:
    """Works until it is asked to end; then it takes no more runs, and waits for those that it has.

    `tell` hears what happens to runs; `say` what happens to the worker. `until_empty` ends it when nothing is queued.
    """

    def __init__(
        self,
        here: Here,
        labels: Sequence[str],
        concurrency: int,
        tell: Callable[[News], None],
        say: Callable[[str], None],
        *,
        until_empty: bool = False,
    ) -> None:
        self.here, self.labels, self.concurrency = here, list(labels), concurrency
        self._tell, self._say, self._until_empty = tell, say, until_empty
        self._desk, self._rescue_desk = Desk(here.url, NAME), Desk(here.url, "runbook rescue")
        self._crew = Crew(here, self._desk, concurrency, tell, self._unwell)
        self._rescue = Rescue(here)
        self._trouble = ""
        self._asked = 0
        self._queue: Any = None
        self._jobs: set[asyncio.Task[Any]] = set()
        self._missed = 0  # how often the server had been missed when the queue was begun

    async def run(self) -> None:
        """Works. Raises NoFleet, AuditError or ServerError where it cannot begin, Unwell where it can go on no longer."""
        trouble = trouble_with(self.here.project)
        if trouble:
            raise Unwell(trouble)
        await self._desk.ask(prepare)
        self._crew.worker = await self._desk.ask(self._register)
        self._say(
            f"worker {self._crew.worker} on {host()} (pid {os.getpid()}) takes {self._what()} from {self.here.target}"
        )
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: None)  # of jobs of a queue whose server was away
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._end)
        sides = [asyncio.create_task(side()) for side in (self._live, self._look_after)]
        try:
            await self._serve()
            await self._crew.empty()
        finally:
            for side in sides:
                side.cancel()
            await asyncio.gather(*sides, return_exceptions=True)
            with suppress(ServerError):
                await self._desk.ask(lambda connection: self._seen(connection, "ended"))
            self._desk.close()
            self._rescue_desk.close()
        if self._trouble:
            raise Unwell(self._trouble)

    def _what(self) -> str:
        labels = f"runs without a label, and with {' or '.join(self.labels)}" if self.labels else "runs without a label"
        return f"{labels}, {self.concurrency} at a time,"

    def _end(self) -> None:
        """The first time: no further runs. The second time: those under way are asked to end as well."""
        self._asked += 1
        if self._asked == 1:
            more = f"; {self._crew.size} under way go on (again to end them)" if self._crew.size else ""
            self._say(f"takes no more runs{more}")
            if self._queue is not None:
                self._queue.stop()
        else:
            self._say(f"ends {self._crew.size} runs")
            self._crew.stop()

    def _unwell(self, trouble: str) -> None:
        """This host can take no run: whoever supervises the worker may start it again."""
        self._trouble = trouble
        if not self._asked:
            self._say(trouble)
            self._end()

    # --- the queue ----------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Takes runs; anew, when the server was away or the queue has given this worker up for dead."""
        from procrastinate.exceptions import ConnectorException

        logging.getLogger("procrastinate").setLevel(logging.CRITICAL + 1)
        while not self._asked:
            away = self._desk.away
            try:
                async with self._app().open_async() as app:
                    await self._take_from(app)
            except (ConnectorException, psycopg.Error, OSError) as error:
                if not self._asked:
                    self._say(f"the queue is away ({_first(error)}): trying again")
                    await asyncio.sleep(1)
                continue
            if self._until_empty and away == self._desk.away:
                await self._crew.empty()
                await self._look_once()
                if not await self._desk.ask(self._waiting):
                    return
                await asyncio.sleep(1)

    async def _take_from(self, app: App) -> None:
        from procrastinate.worker import Worker as Queue

        queue: Any = Queue(
            app,
            queues=[queue_of(label) for label in ("", *self.labels)],
            name=NAME,
            concurrency=self.concurrency,
            wait=not self._until_empty,
            fetch_job_polling_interval=POLL,
            abort_job_polling_interval=3600,
            update_heartbeat_interval=3600,  # a sign of life that outlasts a server that is away is given by us
            stalled_worker_timeout=SILENT,
            delete_jobs="always",
            install_signal_handlers=False,
        )
        self._queue = queue
        if not self._asked:
            await queue.run()

    def _app(self) -> App:
        from procrastinate import App, PsycopgConnector

        app = App(
            connector=PsycopgConnector(
                conninfo=self.here.url,
                kwargs={
                    "application_name": NAME,
                    "keepalives_idle": 10,
                    "keepalives_interval": 5,
                    "keepalives_count": 3,
                },
                configure=_enter,
                min_size=1,
                max_size=3,
                timeout=10,
            )
        )
        app.task(name=TURN)(self._job)
        return app

    async def _job(self, run_id: str, waited: bool) -> None:
        """A job of the queue: it lasts as long as its run, so that the queue's lock does."""
        job = asyncio.current_task()
        assert job is not None
        self._jobs.add(job)
        try:
            await asyncio.shield(self._crew.begin(run_id, waited))
        finally:
            self._jobs.discard(job)

    def _waiting(self, connection: Connection) -> bool:
        """Whether a run waits that this worker takes, and whose time has come."""
        with translated():
            row = connection.execute(_WAITING, [["", *self.labels]]).fetchone()
        return bool(row and row[0])

    def _begin_anew(self) -> None:
        """Leaves the queue and comes back, the runs under way untouched."""
        if self._queue is not None and not self._asked:
            self._queue.stop()
            for job in self._jobs:
                job.cancel()

    # --- beside it ----------------------------------------------------------------------------------------------

    def _register(self, connection: Connection) -> int:
        folder = str(self.here.project.parent.absolute())
        values = [host(), os.getpid(), folder, self.labels, self.concurrency, __version__, operator()]
        with translated():
            row = connection.execute(_REGISTER, values).fetchone()
        assert row is not None
        return int(row[0])

    def _seen(self, connection: Connection, state: str) -> bool:
        """A sign of life; False where the queue does not know this worker any more."""
        queue = self._queue.worker_id if self._queue is not None else None
        with translated():
            connection.execute(_SEEN, [self._crew.worker, state])
            known = connection.execute(_QUEUES_SIGN, [queue]).fetchone() if queue is not None else None
        return known is None or bool(known[0])

    async def _live(self) -> None:
        """Gives signs of life, and sees that the queue is served."""
        while True:
            away = self._desk.away
            with suppress(ServerError):
                known = await self._desk.ask(lambda c: self._seen(c, "draining" if self._asked else "working"))
                await self._crew.signs()
                await self._fire()
                if not known or self._missed != self._desk.away:
                    self._missed = self._desk.away
                    self._begin_anew()
            await asyncio.sleep(BEAT if away == self._desk.away else 1)

    async def _fire(self) -> None:
        """Submits what schedules want by now."""
        try:
            seen_to = await self._desk.ask(fire)
        except ServerError as error:
            if error.lost:
                raise
            self._say(f"a schedule cannot be seen to: {error}")
        except RunbookError as error:
            self._say(f"a schedule cannot be seen to: {error}")
        else:
            for tick in seen_to:
                text = (
                    f"tick {tick.tick:%Y-%m-%d %H:%M} UTC {tick.outcome}{f': {tick.because}' if tick.because else ''}"
                )
                self._tell(News("scheduled", tick.run_id or "", tick.schedule, text))

    async def _look_after(self) -> None:
        """Looks after runs whose worker is gone."""
        while True:
            await self._look_once()
            await asyncio.sleep(self._rescue.pause)

    async def _look_once(self) -> None:
        try:
            for news in await self._rescue_desk.ask(lambda connection: list(self._rescue.look_after(connection))):
                self._tell(news)
        except (RunbookError, OSError) as error:
            if not getattr(error, "lost", False):
                self._say(f"cannot look after stalled runs: {error}")


def fire(connection: Connection) -> list[Tick]:
    """Sees to the ticks that are due; each that fires is a submission. Raises ServerError or NoZone."""

    def submit(schedule: Mapping[str, Any], tick: datetime) -> str:
        names = set(Submission._fields) & set(schedule)
        given = {name: schedule[name] for name in names}
        run_id = new_run_id(datetime.now(UTC))
        item = Submission(
            **given,
            run_id=run_id,
            experiment="",
            runbook=schedule["name"],
            varied=[],
            schedule=schedule["name"],
            tick=tick,
        )
        insert(connection, [item])
        return run_id

    return fire_due(connection, host(), submit)


async def _enter(connection: Any) -> None:
    await connection.execute("SET search_path = runbook_fleet")
    await connection.commit()


def _first(error: BaseException) -> str:
    text = str(error.__cause__ or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
