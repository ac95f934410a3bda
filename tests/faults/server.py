"""A PostgreSQL that the fault suite may kill, stop, pause and start again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg

from runbook.database import binaries
from tests.acceptance.helpers import until
from tests.conftest import Database
from tests.faults.parts import HANG, TABLES

FAST = "/dev/shm" if os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > 1 << 30 else "/tmp"


class Server:
    """A PostgreSQL that a test may kill, stop, pause and start again. It waits for no disk. `listen` is an address for TCP."""

    def __init__(self, base: Path, listen: str = "") -> None:
        self.listen = listen
        self.place = binaries.find_place(base)
        self.programs = binaries.find_programs(self.place.folder, self.place.account)[0]
        self.data = self.place.folder / "data"
        made = [
            self.programs.folder / "initdb",
            "-D",
            self.data,
            *["-U", "postgres", "-A", "trust", "-N", "-E", "UTF8"],
        ]
        subprocess.run([str(part) for part in made], check=True, capture_output=True, cwd="/", **self._as_account())
        self.process: psutil.Popen | None = None
        self.start()
        self.admin("CREATE ROLE runner LOGIN")

    def _as_account(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        account = self.place.account
        return {"user": account.uid, "group": account.gid, "extra_groups": []}

    def url(self, name: str, role: str = "runner") -> str:
        return f"postgresql://{role}@/{name}?host={self.place.sockets}&port=5432"

    def admin(self, sql: str) -> None:
        with closing(psycopg.connect(self.url("postgres", "postgres"), autocommit=True)) as connection:
            connection.execute(sql.encode())

    def database(self, name: str) -> Database:
        """A new database with the tables of RUNBOOK, which the role of the runs owns."""
        self.admin(f"CREATE DATABASE {name} OWNER runner")
        found = Database(self.url(name), self.url(name))
        found.run(TABLES)
        return found

    def start(self) -> None:
        """Starts it, and waits until it answers; one that was killed leaves shared memory for a moment."""
        command = [str(self.programs.folder / "postgres"), "-D", str(self.data), "-k", str(self.place.sockets)]
        options = ["-c", f"listen_addresses={self.listen}", "-c", "fsync=off", "-c", "shared_buffers=16MB"]
        with (self.place.folder / "server.log").open("ab") as log:
            for _ in range(100):
                self.process = psutil.Popen(
                    [*command, *options],
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    cwd="/",
                    **self._as_account(),
                )
                if until(self._answers_or_ended, HANG) == "answers":
                    return
                time.sleep(0.1)
        raise AssertionError("the server does not start")

    def _answers_or_ended(self) -> str:
        if self.process is None or self.process.poll() is not None:
            return "ended"
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.url("postgres", "postgres"), connect_timeout=2).close()
            return "answers"
        return ""

    def all(self) -> list[psutil.Process]:
        """The server's processes."""
        if self.process is None or self.process.poll() is not None:
            return []
        return [*self.process.children(recursive=True), self.process]

    def kill(self) -> None:
        """As the kernel would: every process at once."""
        everyone = self.all()
        for process in everyone:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(everyone, 10)

    def stop(self, mode: str) -> None:
        """`fast` ends its sessions, `immediate` ends without closing its books."""
        everyone = self.all()
        if self.process is not None:
            self.process.send_signal({"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode])
            self.process.wait(HANG)
        psutil.wait_procs(everyone, 10)

    def restart(self, mode: str) -> None:
        self.stop(mode)
        self.start()

    def pause(self) -> list[psutil.Process]:
        """Stops every process where it is, as a machine that does not answer; they may be resumed."""
        everyone = self.all()
        for process in everyone:
            with suppress(psutil.Error):
                process.suspend()
        return everyone


@contextmanager
def server(listen: str = "") -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=FAST)).resolve()
    folder.chmod(0o711)
    found: Server | None = None
    try:
        found = Server(folder / "base", listen)
        yield found
    finally:
        if found is not None:
            found.kill()
        shutil.rmtree(folder, ignore_errors=True)
