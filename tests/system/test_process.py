"""One child process, real in every test: whatever it does, it ends with a true outcome and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped,unused-ignore]
import pytest

from runbook.system import process, tree
from runbook.system.process import Outcome, _why, run_process, start_time, stop_tree
from tests.system.helpers import SOON, alive, end, gone, wait_until

PYTHON = [sys.executable, "-IS", "-c"]
LINUX = sys.platform == "linux"
linux_only = pytest.mark.skipif(not LINUX, reason="needs a sub-reaper")


class Child:
    """Runs programs in one folder, and collects what they print."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[tuple[str, bytes]] = []

    def text(self, stream: str = "stdout") -> bytes:
        return b"".join(chunk for name, chunk in self.events if name == stream)

    def run(self, *argv: str, **options: Any) -> Outcome:
        defaults: dict[str, Any] = {
            "env": dict(os.environ),
            "cwd": self.folder,
            "timeout": 100,
            "grace": 60,
            "on_output": lambda name, chunk: self.events.append((name, chunk)),
            "cancelled": lambda: None,
        }
        return run_process(argv, **(defaults | options))

    def sh(self, script: str, **options: Any) -> Outcome:
        return self.run("sh", "-c", script, **options)

    def python(self, script: str, **options: Any) -> Outcome:
        return self.run(*PYTHON, textwrap.dedent(script), **options)

    def pid(self, name: str = "pid") -> int | None:
        """The pid that the child wrote to a file, once it is there."""
        path = self.folder / name
        text = path.read_text() if path.exists() else ""
        return int(text) if text.endswith("\n") else None

    def once_written(self, *names: str) -> Callable[[], str | None]:
        """A reason to cancel as soon as the child has written all these pid files."""
        return lambda: "the test is over" if all(self.pid(name) for name in names) else None

    def waiting_for(self, *names: str) -> Callable[[int, float | None], None]:
        """What `on_start` can do: a time limit ends only when the child has written all these pid files."""
        return lambda pid, started: wait_until(lambda: all(self.pid(name) for name in names))


@pytest.fixture
def child(tmp_path: Path) -> Child:
    return Child(tmp_path)


@pytest.fixture
def poor_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """No /proc, no process descriptors, no waitid, no sub-reaper: what is left on other systems."""
    monkeypatch.setattr(tree, "_HAS_PROC", False)
    monkeypatch.setattr(tree, "_LISTS_CHILDREN", False)
    for name in ("pidfd_open", "waitid"):
        if hasattr(os, name):
            monkeypatch.delattr(os, name)


def stopped(pid: int, started: float | None) -> None:
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)


DAEMON = """
    import os, time
    if os.fork():
        {parent}
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    with open("pid.new", "w") as file:
        print(os.getpid(), file=file)
    os.rename("pid.new", "pid")
    time.sleep(300)
"""


# ------------------------------------------------------------------------------------------------- exit and output


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -KILL $$", -9), ("kill -SEGV $$", -11), ("kill $$", -15)],
)
def test_exit_code(child: Child, script: str, code: int) -> None:
    outcome = child.sh(script)
    assert (outcome.exit_code, outcome.ended, outcome.because, outcome.left) == (code, "exited", "", ())


def test_both_streams_come_in_order_of_arrival(child: Child) -> None:
    def note(name: str, chunk: bytes) -> None:
        child.events.append((name, chunk))
        (child.folder / f"seen{len(child.events)}").touch()

    seen = "until test -e seen{}; do sleep 0.02; done"
    outcome = child.sh(
        f"echo one; {seen.format(1)}; echo two >&2; {seen.format(2)}; sleep 0.2; echo three", on_output=note
    )
    assert child.events == [("stdout", b"one\n"), ("stderr", b"two\n"), ("stdout", b"three\n")]
    assert (outcome.stdout, outcome.stderr_tail, outcome.stdout_truncated) == (b"one\nthree\n", b"two\n", 0)
    assert 0.2 <= outcome.duration < SOON


def test_any_bytes_pass_unchanged(child: Child) -> None:
    odd = bytes(range(256)) + b"\xff\xfe\x00\xed\xa0\x80\x1b[2J\x1b]0;title\x07\r\x08no newline"
    outcome = child.python(f"import os; os.write(1, {odd!r}); os.write(2, {odd!r})")
    assert outcome.stdout == odd == child.text()
    assert outcome.stderr_tail == odd == child.text("stderr")


def test_the_first_of_stdout_and_the_last_of_stderr_are_kept(child: Child) -> None:
    outcome = child.python(
        "import os; os.write(1, b'a' * 10 + b'b' * 300000); os.write(2, b'a' * 9000 + b'z')", keep=10
    )
    assert (outcome.stdout, outcome.stdout_truncated) == (b"a" * 10, 300000)
    assert outcome.stderr_tail == b"a" * 8191 + b"z"
    assert len(child.text()) == 300010
    assert max(len(chunk) for _, chunk in child.events) <= 1 << 16


@linux_only
def test_all_that_was_printed_before_the_exit_arrives_at_a_slow_reader(child: Child) -> None:
    def slow(name: str, chunk: bytes) -> None:
        time.sleep(0.25)
        child.events.append((name, chunk))

    script = "import fcntl, os; fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 1 << 19); os.write(1, b'x' * 450000)"
    assert len(child.python(script, on_output=slow).stdout) == 450000 == len(child.text())


def test_a_slow_reader_holds_the_child_back(child: Child) -> None:
    written = child.folder / "written"

    def slow(name: str, chunk: bytes) -> None:
        if not child.events:
            time.sleep(0.3)
            child.events.append((name, written.read_bytes()))

    child.python(
        """
        import os
        with open("written", "ab", 0) as file:
            for _ in range(100):
                os.write(1, b"x" * 65536)
                file.write(b".")
        """,
        on_output=slow,
    )
    assert len(child.events[0][1]) <= 4
    assert len(written.read_bytes()) == 100


def _flood(child: Child, megabytes: int) -> tuple[Outcome, int]:
    """Print so much, with no newline; returns the outcome and by how many bytes this process grew meanwhile."""
    me, sizes, printed = psutil.Process(), [0], [0]
    before = me.memory_info().rss

    def measure(name: str, chunk: bytes) -> None:
        printed[0] += len(chunk)
        if printed[0] % (1 << 22) < len(chunk):
            sizes.append(me.memory_info().rss)

    script = f"import os\nblock = b'x' * (1 << 20)\nfor _ in range({megabytes}): os.write(1, block)"
    outcome = child.python(script, on_output=measure, timeout=120)
    assert printed[0] == megabytes << 20 == len(outcome.stdout) + outcome.stdout_truncated
    return outcome, max(sizes) - before


@pytest.mark.parametrize("megabytes", [200, pytest.param(2048, marks=pytest.mark.slow)])
def test_memory_is_bounded_whatever_is_printed(child: Child, megabytes: int) -> None:
    outcome, growth = _flood(child, megabytes)
    assert (outcome.exit_code, len(outcome.stdout)) == (0, 1 << 20)
    assert growth < 32 << 20


# --------------------------------------------------------------------------------------------- what the child is given


def test_environment_folder_and_session(child: Child) -> None:
    outcome = child.run("/bin/sh", "-c", "echo $ONLY; pwd; ps -o sid= -p $$; echo $$", env={"ONLY": "this"} | _path())
    only, folder, session, pid = outcome.stdout.decode().split()
    assert (only, folder, session) == ("this", str(child.folder.resolve()), pid)


def _path() -> dict[str, str]:
    return {"PATH": os.environ["PATH"]}


def test_the_program_is_found_on_the_path_of_its_own_environment(child: Child) -> None:
    program = child.folder / "bin" / "only-here"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    assert child.run("only-here", env={"PATH": str(program.parent)}).stdout == b"found\n"


@linux_only
def test_no_descriptor_is_inherited(child: Child) -> None:
    inherited = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(inherited, True)
    try:
        names = child.python("import os; print(*sorted(os.listdir('/proc/self/fd')))").stdout.split()
    finally:
        os.close(inherited)
    assert names == [b"0", b"1", b"2", b"3"]  # the last one lists the folder


def test_stdin_is_empty_unless_given(child: Child) -> None:
    assert child.run("cat").stdout == b""
    assert child.run("cat", stdin=b"").stdout == b""
    assert child.run("cat", stdin=b"some\x00text").stdout == b"some\x00text"


def test_a_large_stdin_does_not_deadlock_with_the_output(child: Child) -> None:
    data = os.urandom(1 << 20) * 5
    assert child.run("cat", stdin=data, keep=1 << 23).stdout == data


@pytest.mark.parametrize("script", ["sleep 0.2", "exec 0<&-; sleep 0.2", "head -c 10 >/dev/null"])
def test_a_stdin_that_nobody_reads_is_dropped(child: Child, script: str) -> None:
    outcome = child.sh(script, stdin=b"x" * 5_000_000)
    assert (outcome.exit_code, outcome.ended) == (0, "exited")


def test_the_pid_is_told_with_its_start_time(child: Child) -> None:
    told: list[tuple[int, float | None]] = []

    def note(pid: int, started: float | None) -> None:
        told.append((pid, started))
        assert start_time(pid) == started is not None

    outcome = child.sh("echo $$", on_start=note)
    assert [pid for pid, _ in told] == [int(outcome.stdout)]


# ------------------------------------------------------------------------------------------------------ odd endings


def test_a_child_that_closes_its_output_is_waited_for(child: Child) -> None:
    outcome = child.sh("exec >&- 2>&-; sleep 0.4; exit 5")
    assert (outcome.exit_code, outcome.ended) == (5, "exited")
    assert outcome.duration >= 0.4


def test_a_background_child_that_holds_the_pipes_is_reported_and_left(child: Child) -> None:
    begun = time.monotonic()
    outcome = child.sh("sleep 300 & echo $! > pid; echo done")
    try:
        whole = time.monotonic() - begun
        assert whole < SOON
        assert outcome.duration < whole - 0.2  # which is spent on waiting for the pipes
        assert (outcome.exit_code, outcome.stdout, outcome.left) == (0, b"done\n", (child.pid(),))
        assert alive(child.pid())
    finally:
        end(child.pid())


def test_a_background_child_that_floods_the_pipes_does_not_keep_the_run(child: Child) -> None:
    outcome = child.sh("yes & exit 3")
    assert (outcome.exit_code, outcome.ended) == (3, "exited")
    assert len(outcome.left) == 1
    assert gone(outcome.left[0])


def test_late_output_of_a_background_child_is_taken(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "QUIET", SOON)
    monkeypatch.setattr(process, "DRAIN", SOON)
    outcome = child.sh("(sleep 0.1; echo late) & exit 0")
    assert (outcome.stdout, outcome.left) == (b"late\n", ())


@linux_only
def test_a_silent_daemon_is_reported_and_left(child: Child) -> None:
    outcome = child.python(
        DAEMON.format(parent='[time.sleep(0.01) for _ in range(2000) if not os.path.exists("pid")]; os._exit(0)')
    )
    try:
        assert (outcome.exit_code, outcome.left) == (0, (child.pid(),))
    finally:
        end(child.pid())


def test_an_exit_status_that_another_took_is_not_zero(child: Child) -> None:
    def take(pid: int, started: float | None) -> None:
        os.waitpid(pid, 0)

    outcome = child.sh("exit 1", on_start=take)
    assert (outcome.exit_code, outcome.ended) == (None, "exited")
    assert "reaped elsewhere" in outcome.because


def test_an_inherited_disregard_of_sigchld_loses_no_exit_code(child: Child) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert child.sh("exit 4").exit_code == 4
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_signals_that_arrive_do_not_end_the_wait(child: Child) -> None:
    arrived: list[int] = []

    def note(number: int, frame: object) -> None:
        arrived.append(number)
        (child.folder / f"arrived{len(arrived)}").touch()

    before = signal.signal(signal.SIGUSR1, note)
    try:
        wait = "until test -e arrived$i; do sleep 0.02; done"
        outcome = child.sh(f"for i in 1 2 3; do kill -USR1 {os.getpid()}; {wait}; done; exit 6")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (outcome.exit_code, len(arrived)) == (6, 3)


# --------------------------------------------------------------------------------------------------- timeout, cancel


def test_a_timeout_lets_the_child_say_goodbye(child: Child) -> None:
    script = "trap 'head -c 300000 /dev/zero; echo bye; exit 7' TERM; echo $$ > pid; while :; do sleep 0.05; done"
    outcome = child.sh(script, timeout=0.3, on_start=child.waiting_for("pid"))
    assert (outcome.ended, outcome.exit_code, outcome.left) == ("timed out", 7, ())
    assert outcome.stdout == bytes(300000) + b"bye\n"
    assert 0.3 <= outcome.duration < SOON


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(child: Child) -> None:
    script = "trap '' TERM; echo $$ > pid; while :; do echo tick; sleep 0.05; done"
    outcome = child.sh(script, timeout=0.3, grace=0.4, on_start=child.waiting_for("pid"))
    assert (outcome.ended, outcome.exit_code, outcome.left) == ("timed out", -9, ())
    assert 0.7 <= outcome.duration < SOON


def test_a_child_that_was_done_in_time_did_not_time_out(child: Child) -> None:
    def look_away(pid: int, started: float | None) -> None:
        assert gone(pid)
        time.sleep(0.3)

    outcome = child.sh("echo text; exit 3", timeout=0.3, on_start=look_away)
    assert (outcome.ended, outcome.exit_code) == ("exited", 3)


def test_cancel_is_noticed_at_once(child: Child) -> None:
    asked: list[float] = []

    def cancelled() -> str | None:
        asked.append(time.monotonic())
        return "stop" if child.events else None

    outcome = child.sh("echo ready; sleep 300", cancelled=cancelled)
    assert (outcome.ended, outcome.exit_code) == ("cancelled", -15)
    assert outcome.duration < SOON
    assert time.monotonic() - asked[-1] < SOON


def test_cancelled_is_asked_again_and_again_but_not_at_every_chunk_of_a_flood(child: Child) -> None:
    asked: list[float] = []

    def cancelled() -> str | None:
        asked.append(time.monotonic())
        return "stop" if len(asked) >= 10 else None

    outcome = child.run("yes", cancelled=cancelled, on_output=lambda name, chunk: None)
    assert outcome.ended == "cancelled"
    assert 8 * process.POLL < asked[9] - asked[0] < SOON


def test_nothing_starts_once_cancelled(child: Child) -> None:
    outcome = child.sh("touch started", cancelled=lambda: "stop")
    assert (outcome.ended, outcome.exit_code) == ("cancelled", None)
    assert not (child.folder / "started").exists()


def test_another_reason_hastens_the_end(child: Child) -> None:
    begun: list[float] = []

    def cancelled() -> str | None:
        if not child.events:
            return None
        begun.append(time.monotonic())
        return "SIGINT" if time.monotonic() - begun[0] < 0.3 else "SIGINT twice"

    outcome = child.sh("trap '' TERM; echo ready; while :; do sleep 0.05; done", cancelled=cancelled)
    assert (outcome.ended, outcome.exit_code) == ("cancelled", -9)
    assert 1.2 <= time.monotonic() - begun[0] < SOON


def test_a_stopped_child_ends(child: Child) -> None:
    outcome = child.sh("kill -STOP $$", timeout=0.1, on_start=stopped)
    assert (outcome.ended, outcome.exit_code) == ("timed out", -15)
    assert outcome.duration < SOON


def test_a_stopped_child_that_ignores_sigterm_ends(child: Child) -> None:
    outcome = child.sh("trap '' TERM; while :; do kill -STOP $$; done", timeout=0.1, grace=0.3, on_start=stopped)
    assert (outcome.ended, outcome.exit_code) == ("timed out", -9)
    assert outcome.duration < SOON


def test_grandchildren_end_with_the_child(child: Child) -> None:
    script = "sh -c 'trap \"\" TERM; echo $$ > deep; while :; do sleep 0.05; done' & sleep 300 & echo $! > flat; wait"
    outcome = child.sh(script, cancelled=child.once_written("deep", "flat"), grace=0.3)
    assert (outcome.ended, outcome.left) == ("cancelled", ())
    assert not alive(child.pid("deep"))
    assert not alive(child.pid("flat"))


@linux_only
@pytest.mark.parametrize("way", ["timed out", "cancelled"])
def test_a_daemon_that_left_the_session_ends_too(child: Child, way: str) -> None:
    begun = time.monotonic()
    options: dict[str, Any] = {"cancelled": child.once_written("pid")}
    if way == "timed out":
        options = {"timeout": 0.1, "on_start": child.waiting_for("pid")}
    outcome = child.python(DAEMON.format(parent="time.sleep(300)"), **options)
    assert (outcome.ended, outcome.left) == (way, ())
    assert not alive(child.pid())
    assert time.monotonic() - begun < SOON


@linux_only
def test_a_daemon_whose_child_has_gone_does_not_outlive_the_grace(child: Child) -> None:
    ready = "signal.signal(signal.SIGTERM, signal.SIG_DFL); print(1, file=open('ready', 'w', 1)); time.sleep(300)"
    script = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + textwrap.dedent(
        DAEMON.format(parent=ready)
    )
    outcome = child.run(*PYTHON, script, cancelled=child.once_written("pid", "ready"), grace=0.3)
    assert (outcome.ended, outcome.exit_code, outcome.left) == ("cancelled", -15, ())
    assert not alive(child.pid())


@linux_only
def test_a_daemon_that_goes_on_forking_ends(child: Child) -> None:
    script = """
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork():
            time.sleep(300)
        until, trace = time.monotonic() + 100, os.open("trace", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        while time.monotonic() < until:
            os.setsid()
            os.write(trace, b".")
            if os.fork():
                os._exit(0)
        """
    trace = child.folder / "trace"

    def many(pid: int, started: float | None) -> None:
        wait_until(lambda: trace.exists() and trace.stat().st_size > 20)

    outcome = child.python(script, timeout=0.1, grace=0.3, on_start=many)
    assert (outcome.ended, outcome.left) == ("timed out", ())
    before = trace.read_text()
    time.sleep(0.2)
    assert trace.read_text() == before


RUNAWAY = """
#include <signal.h>
#include <time.h>
#include <unistd.h>
int main(void) {
    time_t until = time(0) + 60;
    signal(SIGTERM, SIG_IGN);
    if (fork()) sleep(300);
    while (time(0) < until) { setsid(); if (fork()) _exit(0); }
}
"""


@pytest.mark.slow  # by hand and alone: where the killer gets no CPU, the machine is out of processes soon
@linux_only
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_daemon_that_forks_faster_than_the_table_can_be_read_ends(child: Child) -> None:
    compiler = ["cc", "-O2", "-static", "-x", "c", "-o", "runaway", "-"]
    if subprocess.run(compiler, input=RUNAWAY, text=True, cwd=child.folder, capture_output=True).returncode:
        pytest.skip("needs a static C library")
    for _ in range(2):
        begun = time.monotonic()
        outcome = child.run("./runaway", timeout=0.4, grace=0.1)
        assert (outcome.ended, outcome.left) == ("timed out", ())
        assert time.monotonic() - begun < SOON
    assert _zombies() == []


def test_other_children_of_this_process_are_not_touched(child: Child) -> None:
    with subprocess.Popen(["sleep", "300"], start_new_session=True) as earlier:
        during: list[subprocess.Popen[bytes]] = []
        try:
            outcome = child.sh(
                "sleep 300",
                timeout=0.3,
                on_start=lambda pid, started: during.append(subprocess.Popen(["sleep", "300"])),
            )
            assert outcome.ended == "timed out"
            assert earlier.poll() is None
            assert during[0].poll() is None
        finally:
            for other in [earlier, *during]:
                other.kill()
                other.wait()


@pytest.mark.parametrize("where", ["on_output", "on_start", "cancelled"])
def test_a_callback_that_fails_leaves_nothing_running(child: Child, where: str) -> None:
    def fail(*_: object) -> None:
        if where != "cancelled" or child.pid():
            raise OSError(errno.ENOSPC, "disk full")

    with pytest.raises(OSError, match="disk full"):
        child.sh("trap '' TERM; sleep 300 & echo $! > deep; echo $$ > pid; echo text; sleep 300; exit", **{where: fail})
    if where != "on_start":
        assert not alive(child.pid())
        assert not alive(child.pid("deep"))
    assert _zombies() == []


# ------------------------------------------------------------------------------------------------------- not started


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["no-such-program-here"], ["no such program: `no-such-program-here`", "PATH"]),
        (["./absent"], ["no such program: `./absent`", "counts from"]),
        (["./plain"], ["not executable: `./plain`", "chmod +x"]),
        (["./"], ["a folder, not a program: `./`"]),
        (["./plain/x"], ["no such program: `./plain/x`"]),
        (["./orphan"], ["interpreter of `./orphan` is missing"]),
        (["./headless"], ["not a program: `./headless`", "#!"]),
        (["true", "fine", "x" * 200_000], ["argument 2 is too long: 200000 bytes of at most 131071", "stdin"]),
        (["true"] + ["x" * 100_000] * 120, ["too long together: 1200"]),
        (["true", "a\0b"], ["argument 1 holds a NUL"]),
        (["true", "\ud800"], ["not valid"]),
        ([""], ["the command is empty"]),
        ([], ["the command is empty"]),
    ],
)
def test_a_program_that_cannot_start_says_why(child: Child, argv: list[str], words: list[str]) -> None:
    for name, text, mode in [("plain", "text", 0o644), ("orphan", "#!/no/such\n", 0o755), ("headless", "text", 0o755)]:
        (child.folder / name).write_text(text)
        (child.folder / name).chmod(mode)
    outcome = child.run(*argv)
    assert (outcome.ended, outcome.exit_code, outcome.left) == ("not started", None, ())
    for word in words:
        assert word in outcome.because


@pytest.mark.parametrize(("folder", "words"), [("absent", "no such folder"), ("file", "not a folder")])
def test_a_folder_that_cannot_be_used_is_told_from_a_missing_program(child: Child, folder: str, words: str) -> None:
    (child.folder / "file").touch()
    outcome = child.run("true", cwd=child.folder / folder)
    assert outcome.ended == "not started"
    assert outcome.because == f"{words}: `{child.folder / folder}`"


def test_an_environment_that_cannot_be_passed_says_which_variable(child: Child) -> None:
    assert "`BIG` is too long" in child.run("true", env=_path() | {"BIG": "x" * 200_000}).because
    assert "`ODD` holds a NUL" in child.run("true", env=_path() | {"ODD": "\0"}).because
    assert "not valid" in child.run("true", env=_path() | {"A=B": "c"}).because


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EAGAIN, "ulimit -u"), (errno.ENOMEM, "memory"), (errno.ENFILE, "fs.file-max"), (errno.EIO, "Input/output")],
)
def test_a_lack_of_means_says_what_to_do(child: Child, number: int, words: str) -> None:
    assert words in _why(OSError(number, os.strerror(number)), ["true"], {}, child.folder)


def test_no_descriptor_left(child: Child) -> None:
    script = f"""
        import os, resource, sys
        sys.path[:0] = {sys.path!r}
        from pathlib import Path
        from runbook.system.process import run_process
        quiet = {{"on_output": print, "cancelled": lambda: None}}
        def attempt():
            return run_process(["true"], env=os.environ, cwd=Path("."), timeout=60, **quiet)
        assert attempt().exit_code == 0
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        spare, held = [], []
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        while True:
            outcome = attempt()
            free = len(held)
            if outcome.ended != "not started":
                break
            assert "ulimit -n" in outcome.because, outcome
            spare.append(outcome)
            os.close(held.pop())
        print(len(spare), outcome.exit_code)
        """
    outcome = child.python(script)
    refused, code = outcome.stdout.split() or (b"0", outcome.stderr_tail)
    assert (int(refused) >= 5, code) == (True, b"0")


# ---------------------------------------------------------------------------------------------------------- stop_tree


def _launch(child: Child, script: str) -> tuple[int, float]:
    """Start a session that is no child of this process's runs, as a run whose engine died leaves it."""
    subprocess.run(
        [
            *PYTHON,
            "import subprocess, sys; subprocess.Popen(['sh', '-c', sys.argv[1]], start_new_session=True)",
            script,
        ],
        cwd=child.folder,
        check=True,
    )
    wait_until(child.pid)
    pid = child.pid()
    assert pid is not None
    started = start_time(pid)
    assert started is not None
    return pid, started


def test_another_process_can_stop_a_tree(child: Child) -> None:
    script = "trap '' TERM; sh -c 'echo $$ > deep; exec setsid sleep 300' & echo $$ > pid; wait; sleep 300"
    pid, started = _launch(child, script)
    wait_until(lambda: (deep := child.pid("deep")) and os.getsid(deep) == deep)
    assert stop_tree(pid, started, 0.3) == ()
    assert gone(pid)
    assert gone(child.pid("deep"))


def test_stop_tree_can_be_hastened(child: Child) -> None:
    pid, started = _launch(child, "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done")
    begun = time.monotonic()
    assert stop_tree(pid, started, 60, lambda: True) == ()
    assert 1.0 <= time.monotonic() - begun < SOON
    assert gone(pid)


@pytest.mark.parametrize("shift", [None, -1.0, 0.01, 1.0])
def test_a_pid_with_another_start_time_is_not_signalled(child: Child, shift: float | None) -> None:
    pid, started = _launch(child, "trap 'echo signalled > trace' TERM; echo $$ > pid; while :; do sleep 0.02; done")
    try:
        assert stop_tree(pid, None if shift is None else started + shift, 0.1) == ()
        time.sleep(0.1)
        assert alive(pid)
        assert not (child.folder / "trace").exists()
    finally:
        end(pid)
    assert gone(pid)


def test_a_pid_that_is_gone_is_not_signalled(child: Child) -> None:
    pid, started = _launch(child, "echo $$ > pid; until test -e go; do sleep 0.02; done")
    (child.folder / "go").touch()
    assert gone(pid)
    assert stop_tree(pid, started, 0.1) == ()


# --------------------------------------------------------------------------------------------------- what stays behind


def _open_descriptors() -> int:
    return int(psutil.Process().num_fds())


def _zombies() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if p.status() == psutil.STATUS_ZOMBIE]


def test_many_runs_leave_no_descriptor_and_no_zombie(child: Child) -> None:
    child.run("true")
    before = _open_descriptors()
    for turn in range(50):
        match turn % 5:
            case 0:
                child.run("true", stdin=b"x" * 100_000)
            case 1:
                child.run("no-such-program-here", stdin=b"x")
            case 2:
                child.sh("(sleep 0.01 &) ; exit 1")
            case 3:
                child.sh("sleep 300", timeout=0.01)
            case _:
                child.run("true", cwd=child.folder / "absent")
    wait_until(lambda: child.run("true") and not _zombies())
    assert _open_descriptors() == before


@linux_only
def test_a_daemon_that_was_left_is_buried_by_a_later_run(child: Child) -> None:
    outcome = child.sh("(setsid sleep 300 >/dev/null 2>&1 &); sleep 0.1")
    assert len(outcome.left) == 1
    end(*outcome.left)
    assert gone(outcome.left[0])
    child.run("true")
    assert not psutil.pid_exists(outcome.left[0])


@linux_only
def test_orphans_are_buried_while_the_child_runs(child: Child) -> None:
    zombies: list[int] = []

    def count(name: str, chunk: bytes) -> None:
        zombies.append(len(_zombies()))

    def buried() -> str | None:
        return "buried" if len(zombies) > 5 and zombies[-1] == 0 else None

    script = "for i in 1 2 3 4 5 6 7 8; do (true &); done; for i in $(seq 300); do sleep 0.05; echo now; done"
    assert child.sh(script, on_output=count, cancelled=buried).ended == "cancelled", zombies


def test_an_ordinary_child_costs_little_more_than_popen(child: Child) -> None:
    def duration(action: Callable[[], object]) -> float:
        begun = time.perf_counter()
        action()
        return time.perf_counter() - begun

    ours, bare = 9.0, 9.0
    for turn in range(500):
        ours = min(ours, duration(lambda: child.run("true")))
        bare = min(bare, duration(lambda: subprocess.Popen(["true"]).wait()))
        if turn > 20 and ours < 3 * bare:
            return
    pytest.fail(f"{ours * 1000:.2f} ms against {bare * 1000:.2f} ms at best")


def test_psutil_is_not_imported() -> None:
    script = f"import sys; sys.path[:0] = {sys.path!r}; import runbook.system.process; print('psutil' in sys.modules)"
    assert subprocess.run([*PYTHON, script], capture_output=True, text=True, check=True).stdout == "False\n"


# ----------------------------------------------------------------------------------------------------- other systems


@pytest.mark.usefixtures("poor_system")
class TestPoorSystem:
    def test_exit(self, child: Child) -> None:
        outcome = child.sh("echo text; exit 3")
        assert (outcome.exit_code, outcome.stdout, outcome.left) == (3, b"text\n", ())
        assert outcome.duration < SOON

    def test_closed_output(self, child: Child) -> None:
        assert child.sh("exec >&- 2>&-; sleep 0.2; exit 5").exit_code == 5

    def test_background_child(self, child: Child) -> None:
        outcome = child.sh("sleep 300 & echo $! > pid; exit 0")
        try:
            assert (outcome.exit_code, outcome.left) == (0, (child.pid(),))
        finally:
            end(child.pid())

    def test_timeout_reaches_the_grandchildren(self, child: Child) -> None:
        script = "trap '' TERM; sh -c 'echo $$ > pid; while :; do sleep 0.05; done' & wait; wait"
        outcome = child.sh(script, cancelled=child.once_written("pid"), grace=0.3)
        assert (outcome.ended, outcome.exit_code, outcome.left) == ("cancelled", -9, ())
        assert gone(child.pid())

    def test_pid_with_another_start_time(self, child: Child) -> None:
        pid, started = _launch(child, "echo $$ > pid; sleep 300")
        assert stop_tree(pid, started + 1, 0.1) == ()
        assert alive(pid)
        assert stop_tree(pid, started, 1) == ()
        assert gone(pid)
