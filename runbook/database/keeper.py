"""The process that owns one embedded server: it starts it, waits until nobody uses it any more, and stops it.

Run as a script by `embedded.py`, apart from the environment it comes from (`python -I -S keeper.py`), so it imports
nothing but a little of the standard library, and all of it before it gives up root: as another account it may no longer
reach it. It holds the keeper's lock as long as it lives; the server is its child and, on Linux, dies with it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
import time
from contextlib import suppress

SERVER_OPTIONS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "16MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# initdb's own choice of locale would follow the user's environment; the second is for a libc without the first.
LOCALES = ("C.UTF-8", "C")
WAKING = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.005
RETRY_SECONDS = 20.0

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class Woken(Exception):
    """A signal ended the wait: the server is gone, or this process is asked to go."""


def main(arguments: list[str]) -> None:
    """Become the account, the daemon, and the keeper.

    `arguments`: the descriptors of the users' and of the keeper's lock, uid, gid, our folder, the socket's folder, then
    pairs of a major version and the folder of its programs, the best first.
    """
    users, keeper, uid, gid = map(int, arguments[:4])
    folder, sockets, *programs = arguments[4:]
    os.set_inheritable(users, False)
    os.set_inheritable(keeper, False)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _become(uid, gid)
    os.umask(0o077)
    os.chdir(folder)
    _log_to("server.log")
    if os.fork():
        os._exit(0)
    _keep(users, sockets, folder, list(zip(programs[::2], programs[1::2], strict=True)))


def _become(uid: int, gid: int) -> None:
    if os.geteuid() == uid:
        return
    try:
        os.setgroups([gid])
        os.setgid(gid)
        os.setuid(uid)
    except OSError as error:
        sys.exit(f"root may not become the account {uid} here: {error.strerror}")


def _log_to(name: str) -> None:
    if os.path.exists(name):
        os.replace(name, f"{name}.old")
    log = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _keep(users: int, sockets: str, folder: str, programs: list[tuple[str, str]]) -> None:
    _clear_away(sockets, folder)
    binaries, data = _data_directory(folder, programs)
    command = [f"{binaries}/postgres", "-D", data, "-k", sockets]
    for name, value in SERVER_OPTIONS.items():
        command += ["-c", f"{name}={value}"]
    deadline = time.monotonic() + RETRY_SECONDS
    while True:
        logged = os.fstat(2).st_size
        server = _spawn(command, signal.SIGINT)
        _wait_for_the_last_user(users, server)
        if _is_running_child(server):
            return _stop(server)
        # The sessions of a killed server hold its shared memory until they notice, which a busy one never does.
        if b"still in use" not in os.pread(2, 1 << 16, logged) or time.monotonic() > deadline:
            sys.exit("the server has ended")
        _end_sessions(data)
        time.sleep(0.02)


def _data_directory(folder: str, programs: list[tuple[str, str]]) -> tuple[str, str]:
    """The programs to use and their data directory, made with the first programs that can where there is none."""
    for major, binaries in programs:
        data = f"{folder}/data-{major}"
        if os.path.exists(f"{data}/PG_VERSION") or _initialise(int(major), binaries, data):
            return binaries, data
    sys.exit("no data directory could be made: see what initdb says above")


def _initialise(major: int, binaries: str, data: str) -> bool:
    """Make a data directory beside its place and move it there when it is whole."""
    unfinished = f"{data}.{os.getpid()}.new"
    options = ["-N", "--wal-segsize=1", "-E", "UTF8", "-A", "trust", "-U", "postgres", "--no-instructions"]
    if major >= 17:
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    for locale in LOCALES:
        child = _spawn([f"{binaries}/initdb", "-D", unfinished, f"--locale={locale}", *options], signal.SIGTERM)
        if os.waitpid(child, 0)[1] == 0:
            os.rename(unfinished, data)
            return True
    return False


def _spawn(command: list[str], at_our_death: int) -> int:
    """Start a program that inherits nothing of this process but its log, and (on Linux) dies with it; its pid."""
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        # A shell starts what it runs in the background with these two ignored, and that is inherited.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        if _libc is not None:
            _libc.prctl(PR_SET_PDEATHSIG, at_our_death, 0, 0, 0)
        if os.getppid() == parent:
            os.execv(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _wait_for_the_last_user(users: int, server: int) -> None:
    """Return when nobody holds the users' lock (it is then ours), the server has ended, or we are asked to go."""
    with suppress(Woken):
        for number in WAKING:
            signal.signal(number, _wake)
        if _is_running_child(server):
            fcntl.flock(users, fcntl.LOCK_EX)
        _disarm()


def _wake(*_: object) -> None:
    _disarm()
    raise Woken


def _disarm() -> None:
    for number in WAKING:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN)


def _is_running_child(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False


def _stop(pid: int, data: str = "") -> None:
    """Shut a server down: fast, then at once, then by force. It is our child, or else one that works on `data`."""
    for number, patience in ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        if not _is_running(pid, data):
            return
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + patience
        while _is_running(pid, data) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def _is_running(pid: int, data: str) -> bool:
    return _is_server(pid, data) if data else _is_running_child(pid)


def _clear_away(sockets: str, folder: str) -> None:
    """End a server that outlived its keeper, and remove what a killed one left.

    PostgreSQL takes a left pid file for a running server when the pid lives, whosever it is by now; here it counts
    only if the process is a server on the very same data.
    """
    for name in os.listdir(folder):
        data = f"{folder}/{name}"
        if name.startswith("data-") and os.path.exists(f"{data}/postmaster.pid"):
            _stop(_recorded_pid(f"{data}/postmaster.pid"), data)
            _remove(f"{data}/postmaster.pid")
    _remove(f"{sockets}/.s.PGSQL.5432")
    _remove(f"{sockets}/.s.PGSQL.5432.lock")


def _end_sessions(data: str) -> None:
    """End what works in a data directory without a server (where /proc tells; elsewhere they end by themselves)."""
    for name in os.listdir("/proc") if os.path.exists("/proc/self/cwd") else ():
        with suppress(OSError):
            if name.isdigit() and os.readlink(f"/proc/{name}/cwd") == data:
                os.kill(int(name), signal.SIGQUIT)


def _recorded_pid(path: str) -> int:
    with open(path, "rb") as file:
        first = file.readline().strip()
    return int(first) if first.isdigit() else 0


def _is_server(pid: int, data: str) -> bool:
    """Whether this process is a PostgreSQL server on that data directory."""
    if pid <= 1:
        return False
    try:
        if os.path.exists("/proc/self/cmdline"):
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        else:
            with os.popen(f"ps -o args= -p {pid}") as answer:
                words = os.fsencode(answer.read()).split(b" ")
    except OSError:
        return False
    return words[0].endswith(b"/postgres") and os.fsencode(data) in b" ".join(words)


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


if __name__ == "__main__":
    main(sys.argv[1:])
