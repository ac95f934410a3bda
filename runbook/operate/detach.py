"""Leaving the session: the run goes on in a process of its own, and who started it returns once it is under way."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from runbook.engine.record import Event

READY = b"ready "


class Left(Exception):
    """Raised in the process that started the run, once the run is under way (`folder`) or has ended (`code`)."""

    def __init__(self, pid: int, folder: Path | None, code: int = 0) -> None:
        super().__init__(pid)
        self.pid, self.folder, self.code = pid, folder, code


def leave() -> Callable[[Event], None]:
    """Goes on in a new process without a terminal; there, returns what must be told every event.

    Its output stays where it is until the run has its lock and its first record, so that a refusal is read by who asked.
    In the process that called, raises Left. To be called before any server is contacted or any thread is started.
    """
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(told)
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        _redirect(os.devnull, os.O_RDONLY, 0)
        _close_others(tell)
        return _announcer(tell)
    os.close(tell)
    raise _wait(pid, told)


def _wait(pid: int, told: int) -> Left:
    message = b""
    try:
        while not message.endswith(b"\n") and (chunk := os.read(told, 4096)):
            message += chunk
    except KeyboardInterrupt:
        os.kill(pid, signal.SIGTERM)
    if message.startswith(READY):
        return Left(pid, Path(os.fsdecode(message[len(READY) :].strip())))
    _, status = os.waitpid(pid, 0)
    return Left(pid, None, os.waitstatus_to_exitcode(status))


def _announcer(tell: int) -> Callable[[Event], None]:
    folder: Path | None = None

    def see(event: Event) -> None:
        """At the first stage the run has its lock and its first record: from here it is on its own."""
        nonlocal folder, tell
        if event.kind == "run.opened":
            folder = Path(event.data["journal"]).parent
        elif event.kind == "stage.entered" and tell >= 0 and folder is not None:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            _redirect(os.devnull, os.O_WRONLY, 1)
            _redirect(str(folder / "runner.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 2)
            with suppress(OSError):  # whoever started it may be gone; the run goes on
                os.write(tell, READY + os.fsencode(folder) + b"\n")
            os.close(tell)
            tell = -1

    return see


def _redirect(path: str, flags: int, number: int) -> None:
    descriptor = os.open(path, flags, 0o600)
    os.dup2(descriptor, number)
    os.close(descriptor)


def _close_others(keep: int) -> None:
    """Closes what was inherited beside the standard streams: a pipe held open for hours keeps its reader waiting."""
    limit = os.sysconf("SC_OPEN_MAX")
    os.closerange(3, keep)
    os.closerange(keep + 1, min(limit, 1 << 16))


def ended_at_logout() -> bool:
    """Whether this machine ends a user's processes when the session ends (systemd's KillUserProcesses)."""
    if "XDG_SESSION_ID" not in os.environ or os.getuid() == 0:
        return False
    found = False
    places = [Path("/usr/lib/systemd/logind.conf"), Path("/etc/systemd/logind.conf")]
    for folder in ("/usr/lib/systemd/logind.conf.d", "/run/systemd/logind.conf.d", "/etc/systemd/logind.conf.d"):
        places += sorted(Path(folder).glob("*.conf"))
    for place in places:
        try:
            lines = place.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError):
            continue
        for line in lines:
            name, _, value = line.partition("=")
            if name == "KillUserProcesses":
                found = value.lower() in ("yes", "true", "1", "on")
    return found
