"""Runs one child process for a step or a `command` probe: bounded, streamed, and ended with all its descendants."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, NamedTuple

from runbook.system.tree import Tree, never, start_time, stop_tree

__all__ = ["Outcome", "run_process", "start_time", "stop_tree"]

CHUNK = 1 << 16  # bytes handed to the caller at once
TAIL = 8 << 10  # bytes of stderr that are kept
PIPE = 1 << 20  # bytes that a pipe may hold
BLIND = 0.01  # seconds between two looks at the child where the system does not announce its exit
POLL = 0.05  # seconds between two questions whether the run is cancelled
DRAIN = 1.0  # seconds for which the pipes are read after the child's exit
QUIET = 0.25  # seconds of silence after which they are taken to be empty

Ended = Literal["exited", "timed out", "cancelled", "not started"]
OnOutput = Callable[[str, bytes], None]


class Outcome(NamedTuple):
    """How a child ended.

    `exit_code` is the negative number of the signal that killed it, and None where it never started or where its status
    cannot be had (`because` then says why). `stdout` is what came first, `stdout_truncated` counts the bytes that were
    not kept. `duration` is in seconds, to the child's own end. `left` are the pids of descendants that are still alive:
    after a normal exit they are left alone, after a timeout or a cancel they could not be ended.
    """

    exit_code: int | None
    stdout: bytes
    stdout_truncated: int
    stderr_tail: bytes
    ended: Ended
    duration: float
    because: str
    left: tuple[int, ...]


def run_process(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    timeout: float,
    stdin: bytes | None = None,
    keep: int = 1 << 20,
    grace: float = 10.0,
    on_output: OnOutput,
    cancelled: Callable[[], str | None],
    on_start: Callable[[int, float | None], None] | None = None,
) -> Outcome:
    """Run a program in a session of its own until it exits, `timeout` seconds are over or `cancelled` gives a reason.

    The program is looked up on the PATH of `env`. `on_output` gets ("stdout" | "stderr", at most 64 KiB) from this
    thread, in order of arrival; while it works the child waits. `on_start` gets the pid and its `start_time`.

    The end is the child's exit, not that of its output: a descendant that holds the pipes is read for a second at most.
    A timeout or a cancel sends SIGTERM to all descendants, and SIGKILL after `grace` seconds to those that remain. A
    reason that differs from the first one (so any reason, after a timeout) hastens: a second of grace is left then.

    What goes wrong with the child is told by the outcome. What a callback raises passes through, the tree being killed.
    """
    if cancelled() is not None:
        return _never("cancelled", "")
    _mind_children()
    begun = time.monotonic()
    with Tree() as tree:
        try:
            tree.survey()
            child = _spawn(argv, env, cwd, stdin)
        except (OSError, ValueError) as error:
            return _never("not started", _why(error, argv, env, cwd))
        with _Pump(child, stdin, keep, on_output) as pump:
            tree.plant(child.pid)
            try:
                if on_start is not None:
                    on_start(child.pid, tree.started)
                ended, left = _attend(pump, tree, begun + timeout, grace, cancelled)
            except BaseException:  # a callback failed, or a signal handler raised: nothing may run on unseen
                tree.end(0, never, time.sleep)
                raise
            finally:
                code = pump.collect()
    lost = "" if code is not None else "its exit status cannot be had: it hangs in the kernel, or was reaped elsewhere"
    kept = bytes(pump.stdout)
    return Outcome(code, kept, pump.truncated, pump.stderr, ended, pump.ended_at - begun, lost, left)


def _attend(
    pump: _Pump, tree: Tree, deadline: float, grace: float, cancelled: Callable[[], str | None]
) -> tuple[Ended, tuple[int, ...]]:
    """Wait for the exit or a reason to bring it about; then take what is still in the pipes."""
    ended, reason = _watch(pump, tree, deadline, cancelled)
    if ended == "exited":
        closed = pump.settle()
        return ended, tree.left(suspicious=not closed)
    left = tree.end(grace, lambda: cancelled() not in (None, reason), pump.run)
    pump.settle()
    return ended, left


def _watch(pump: _Pump, tree: Tree, deadline: float, cancelled: Callable[[], str | None]) -> tuple[Ended, str | None]:
    while not pump.look():
        reason = cancelled()
        if reason is not None:
            return "cancelled", reason
        left = deadline - time.monotonic()
        if left <= 0:
            return "timed out", None
        pump.run(min(POLL, left))
        tree.reap()
    return "exited", None


class _Pump:
    """Moves bytes between one child and the caller, in bounded memory, and notices the child's exit."""

    def __init__(self, child: subprocess.Popen[bytes], stdin: bytes | None, keep: int, on_output: OnOutput) -> None:
        self.child, self._limit, self._on_output = child, keep, on_output
        self.stdout, self.truncated, self.stderr = bytearray(), 0, b""
        self.exited, self.ended_at = False, 0.0
        self._input = memoryview(stdin or b"")
        self._pipes: dict[str, IO[bytes]] = {}
        self._selector = selectors.PollSelector()
        self._handle: int | None = None

    def __enter__(self) -> _Pump:
        self._register("stdout", self.child.stdout, selectors.EVENT_READ)
        self._register("stderr", self.child.stderr, selectors.EVENT_READ)
        self._register("stdin", self.child.stdin, selectors.EVENT_WRITE)
        with contextlib.suppress(AttributeError, OSError):  # not on this system, or no descriptor is left
            self._handle = os.pidfd_open(self.child.pid)
            self._selector.register(self._handle, selectors.EVENT_READ, "exit")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for name in tuple(self._pipes):
            self._close(name)
        if self._handle is not None:
            os.close(self._handle)
        self._selector.close()

    def _register(self, name: str, pipe: IO[bytes] | None, event: int) -> None:
        if pipe is not None:
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, event, name)
            self._pipes[name] = pipe

    def look(self) -> bool:
        """Whether the child has exited; does not reap it where the system can tell otherwise."""
        if not self.exited and self._has_exited():
            self._note_exit()
        return self.exited

    def _has_exited(self) -> bool:
        if not hasattr(os, "waitid"):
            return self.child.poll() is not None
        try:
            return os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # reaped elsewhere
            return True

    def run(self, seconds: float) -> None:
        """Move what there is to move for so long, or until the child exits if it had not."""
        until, before = time.monotonic() + seconds, self.exited
        while (left := until - time.monotonic()) > 0 and self.exited == before:
            self._turn(left)

    def settle(self) -> bool:
        """Take what is in the pipes, and wait a little for those who still hold them; False where somebody does."""
        self._close("stdin")
        for name in tuple(self._pipes):
            self._read(name, PIPE)
        until = time.monotonic() + DRAIN
        while self._pipes and (left := until - time.monotonic()) > 0 and self._turn(min(QUIET, left)):
            pass
        return not self._pipes

    def collect(self) -> int | None:
        """Reap the child, killing it first if it still runs, and return its exit code; None where it cannot be had."""
        self._note_exit()
        with contextlib.suppress(ChildProcessError):
            for _ in range(20):
                if self.child.returncode is not None:
                    break
                pid, status = os.waitpid(self.child.pid, os.WNOHANG)
                if pid:
                    self.child.returncode = os.waitstatus_to_exitcode(status)
                else:
                    os.kill(self.child.pid, signal.SIGKILL)  # not reaped, so the pid is still its own
                    time.sleep(POLL)
        return self.child.returncode

    def _turn(self, seconds: float) -> bool:
        """Wait once and do what that brings; False where it brings nothing."""
        blind = self._handle is None and not self.exited
        ready = self._selector.select(min(seconds, BLIND) if blind else seconds)
        for key, _ in ready:
            if key.data == "exit":
                self._selector.unregister(key.fileobj)
                self._note_exit()
            elif key.data == "stdin":
                self._write()
            else:
                self._read(key.data, CHUNK)
        if blind:
            self.look()
        return bool(ready)

    def _note_exit(self) -> None:
        if not self.exited:
            self.exited, self.ended_at = True, time.monotonic()

    def _read(self, name: str, size: int) -> None:
        try:
            data = os.read(self._pipes[name].fileno(), size)
        except BlockingIOError:
            return
        if not data:
            self._close(name)
        for start in range(0, len(data), CHUNK):
            chunk = data[start : start + CHUNK]
            self._keep(name, chunk)
            self._on_output(name, chunk)

    def _keep(self, name: str, chunk: bytes) -> None:
        if name == "stderr":
            self.stderr = (self.stderr + chunk)[-TAIL:]
            return
        room = max(0, self._limit - len(self.stdout))
        self.stdout += chunk[:room]
        self.truncated += max(0, len(chunk) - room)

    def _write(self) -> None:
        try:
            sent = os.write(self._pipes["stdin"].fileno(), self._input[:CHUNK]) if self._input else 0
            self._input = self._input[sent:]
        except BlockingIOError:
            return
        except OSError:  # nobody reads it any more
            self._input = memoryview(b"")
        if not self._input:
            self._close("stdin")

    def _close(self, name: str) -> None:
        pipe = self._pipes.pop(name, None)
        if pipe is not None:
            self._selector.unregister(pipe)
            pipe.close()


def _never(ended: Ended, because: str) -> Outcome:
    return Outcome(None, b"", 0, b"", ended, 0.0, because, ())


def _spawn(argv: Sequence[str], env: Mapping[str, str], cwd: Path, stdin: bytes | None) -> subprocess.Popen[bytes]:
    if not argv or not argv[0]:
        raise ValueError("no program")
    return subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(env),
        cwd=cwd,
        start_new_session=True,
        bufsize=0,
    )


def _mind_children() -> None:
    """Undo an inherited disregard of SIGCHLD, under which the system throws exit codes away."""
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def cannot_start(argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> str:
    """Why this could not be started, as far as that shows without starting it; empty where nothing is known against it."""
    if not argv or not argv[0] or any("\0" in text for _, text in _strings(argv, env)):
        return _why_invalid(ValueError(), argv, env)
    program = str(cwd / argv[0]) if "/" in argv[0] else argv[0]
    found = shutil.which(program, path=os.pathsep.join(os.get_exec_path(env)))
    missing = found is None and not ("/" in program and Path(program).exists())
    if missing or not cwd.is_dir() or (found is not None and _lacks_interpreter(found)):
        return _why(FileNotFoundError(errno.ENOENT, ""), argv, env, cwd)
    if found is None or not os.access(cwd, os.X_OK):
        return _why(PermissionError(errno.EACCES, ""), argv, env, cwd)
    return ""


def _lacks_interpreter(program: str) -> bool:
    with contextlib.suppress(OSError), open(program, "rb") as file:
        line = file.readline(256)
        words = line[2:].split()
        return line.startswith(b"#!") and bool(words) and not os.path.exists(words[0])
    return False


def _why(error: OSError | ValueError, argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> str:
    """Why a program could not be started, and what to do."""
    if isinstance(error, ValueError):
        return _why_invalid(error, argv, env)
    if not cwd.is_dir():
        return f"not a folder: `{cwd}`" if cwd.exists() else f"no such folder: `{cwd}`"
    program = argv[0]
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return _why_missing(program, env, cwd)
    if error.errno == errno.EACCES:
        return _why_denied(program, cwd)
    if error.errno == errno.E2BIG:
        return _why_too_long(argv, env)
    return {
        errno.ENOEXEC: f"not a program: `{program}`; a script needs a first line such as `#!/bin/sh`",
        errno.EMFILE: "no file descriptor is left in this process; raise `ulimit -n`",
        errno.ENFILE: "no file descriptor is left on this machine; raise fs.file-max",
        errno.EAGAIN: "this user may have no more processes; end some, or raise `ulimit -u`",
        errno.ENOMEM: f"not enough memory to start `{program}`",
        errno.ETXTBSY: f"`{program}` is still being written; wait until that is done",
    }.get(error.errno or 0, f"`{program}` cannot be started: {error.strerror}")


def _why_invalid(error: ValueError, argv: Sequence[str], env: Mapping[str, str]) -> str:
    if not argv or not argv[0]:
        return "the command is empty; name a program"
    for name, text in _strings(argv, env):
        if "\0" in text:
            return f"{name} holds a NUL character, which no program can be given; remove it"
    return f"the command or its environment is not valid: {error}"


def _why_missing(program: str, env: Mapping[str, str], cwd: Path) -> str:
    if "/" not in program:
        if shutil.which(program, path=os.pathsep.join(os.get_exec_path(env))) is None:
            return f"no such program: `{program}`; install it, or add its folder to PATH"
    elif not (cwd / program).exists():
        return f"no such program: `{program}`; a relative path counts from `{cwd}`"
    return f"the interpreter of `{program}` is missing; correct its first line, or install what that names"


def _why_denied(program: str, cwd: Path) -> str:
    if not os.access(cwd, os.X_OK):
        return f"this user may not enter the folder `{cwd}`"
    if "/" in program and (cwd / program).is_dir():
        return f"a folder, not a program: `{program}`"
    return f"not executable: `{program}`; use `chmod +x`, or put its interpreter before it"


def _why_too_long(argv: Sequence[str], env: Mapping[str, str]) -> str:
    most = 32 * os.sysconf("SC_PAGE_SIZE") - 1
    for name, text in _strings(argv, env):
        if len(os.fsencode(text)) > most:
            return f"{name} is too long: {len(os.fsencode(text))} bytes of at most {most}; pass it by `stdin` or a file"
    total = sum(len(os.fsencode(text)) + 1 for _, text in _strings(argv, env))
    return f"the arguments and the environment are too long together: {total} bytes; pass them by `stdin` or a file"


def _strings(argv: Sequence[str], env: Mapping[str, str]) -> list[tuple[str, str]]:
    """All that a program is given, each with the name under which a person knows it."""
    arguments = [("the program" if n == 0 else f"argument {n}", text) for n, text in enumerate(argv)]
    return arguments + [(f"the environment variable `{name}`", f"{name}={value}") for name, value in env.items()]
