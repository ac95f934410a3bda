"""What a dead runner's steps have left: all of it is found and ended, and nothing else is touched."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from runbook.system import remains, tree
from runbook.system.remains import Remnant, end_remains, find_remains
from runbook.system.tree import start_time
from tests.system.helpers import SOON, alive, end, gone, wait_until

PYTHON = [sys.executable, "-IS", "-c"]
LOOP = "while :; do sleep 0.05; done"
DAEMON = """
    import os, signal, sys, time
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    with open("daemon.new", "w") as file:
        print(os.getpid(), file=file)
    os.rename("daemon.new", "daemon")
    time.sleep(300)
"""


class Run:
    """One run, with an id of its own, and what its steps started."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.id = folder, f"test-{os.urandom(6).hex()}"
        self._roots: list[subprocess.Popen[bytes]] = []
        self._started: list[int] = []

    def launch(self, *argv: str, marked: bool = True, wait: str = "root", **variables: str) -> tuple[int, float]:
        """Start a session and wait for a pid file; with the environment of a step or without. That pid's identity."""
        mark = {"RUNBOOK_RUN_ID": self.id, "RUNBOOK_STEP": "load"} if marked else {}
        env = {"PATH": os.environ["PATH"], **mark, **variables}
        self._roots.append(subprocess.Popen(argv, cwd=self.folder, env=env, start_new_session=True))
        wait_until(lambda: self.has(wait))
        pid = self.pid(wait)
        return pid, start_time(pid) or 0.0

    def sh(self, script: str, *, marked: bool = True, wait: str = "root", **variables: str) -> tuple[int, float]:
        """A shell that writes its own pid into `root`, does what the script says, and waits until it is told to go."""
        last = "until test -e go; do sleep 0.02; done"
        return self.launch("sh", "-c", f"echo $$ > root; {script}; {last}", marked=marked, wait=wait, **variables)

    def has(self, name: str) -> bool:
        path = self.folder / name
        return path.exists() and path.read_text().endswith("\n")

    def pid(self, name: str) -> int:
        pid = int((self.folder / name).read_text())
        self._started.append(pid)
        return pid

    def await_child(self) -> None:
        """Wait until `child` is the pid of a `sleep 300` that works, in the environment that it was given."""
        wait_until(lambda: self.has("child") and psutil.Process(self.pid("child")).cmdline() == ["sleep", "300"])

    def let_go(self) -> None:
        """Have the shell end, and bury it."""
        (self.folder / "go").touch()
        self._roots[-1].wait(SOON)

    def clear(self) -> None:
        end(*(item.pid for item in find_remains(self.id)), *self._started)
        for root in self._roots:
            root.kill()
            root.wait()

    def pids(self, *roots: tuple[int, float], step: str = "") -> set[int]:
        return {item.pid for item in find_remains(self.id, roots, step)}

    def end(self, *roots: tuple[int, float], grace: float = SOON) -> list[Remnant]:
        return end_remains(find_remains(self.id, roots), grace)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    yield run
    run.clear()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process without any relation to the run, which is alive before and after."""
    env = {"PATH": os.environ["PATH"], "RUNBOOK_RUN_ID": "another", "RUNBOOK_STEP": "load"}
    with subprocess.Popen(["sleep", "300"], env=env, start_new_session=True) as process:
        yield process
        outlived = process.poll() is None
        process.kill()
    assert outlived


# ------------------------------------------------------------------------------------------------------------- found


def test_a_root_and_what_it_started_are_found_and_ended(run: Run, stranger: subprocess.Popen[bytes]) -> None:
    root, started = run.sh("sleep 300 & echo $! > child")
    run.await_child()
    found = {item.pid: item for item in find_remains(run.id)}
    assert {root, run.pid("child")} <= found.keys()
    assert found[root].started == started
    assert found[root].command.startswith("sh -c echo $$ > root; sleep 300 &")
    assert found[run.pid("child")][2:] == ("sleep 300", "load")
    assert run.end() == []
    assert gone(root)
    assert gone(run.pid("child"))
    assert find_remains(run.id, [(root, started)]) == []


def test_a_daemon_is_found_by_its_environment_alone(run: Run, stranger: subprocess.Popen[bytes]) -> None:
    daemon, _ = run.launch(*PYTHON, textwrap.dedent(DAEMON), wait="daemon")
    assert run.pids() == {daemon}
    assert run.end() == []
    assert gone(daemon)


def test_a_daemon_without_the_environment_is_found_by_the_session_of_its_root(
    run: Run, stranger: subprocess.Popen[bytes]
) -> None:
    root, started = run.sh("(env -i sleep 300 & echo $! > child)")
    run.await_child()
    run.let_go()
    child = run.pid("child")
    assert run.pids() == set()
    assert run.pids((root, started + 1000)) == set()
    assert run.pids((root, started)) == {child}
    assert run.end((root, started)) == []
    assert gone(child)


def test_who_left_the_session_without_the_environment_is_found_by_its_parent(run: Run) -> None:
    root, started = run.sh("env -i setsid sleep 300 & echo $! > child", marked=False)
    run.await_child()
    assert os.getsid(run.pid("child")) == run.pid("child")
    assert run.pids() == set()
    assert {root, run.pid("child")} <= run.pids((root, started))
    assert run.end((root, started)) == []
    assert gone(run.pid("child"))


def test_the_children_of_the_found_are_found_whatever_their_environment(run: Run) -> None:
    root, _ = run.sh("env -i setsid sleep 300 & echo $! > child")
    run.await_child()
    assert os.getsid(run.pid("child")) == run.pid("child")
    assert {root, run.pid("child")} <= run.pids()


def test_a_step_is_told_from_another(run: Run) -> None:
    load, _ = run.launch("sh", "-c", f"echo $$ > load; {LOOP}", wait="load")
    check, _ = run.launch("sh", "-c", f"echo $$ > check; {LOOP}", wait="check", RUNBOOK_STEP="check")
    assert load in run.pids(step="load") and check not in run.pids(step="load")
    assert {load, check} <= run.pids()
    assert run.pids(step="none") == set()


def test_a_mark_that_another_environment_only_resembles_is_none(run: Run) -> None:
    run.sh(":", marked=False, RUNBOOK_RUN_ID=f"{run.id}0", OTHER=f"RUNBOOK_RUN_ID={run.id}")
    run.launch("sh", "-c", f"echo $$ > empty; {LOOP}", wait="empty", RUNBOOK_RUN_ID="")
    assert run.pids() == set()
    assert find_remains("") == []


def test_the_dead_are_not_found(run: Run) -> None:
    env = {"PATH": os.environ["PATH"], "RUNBOOK_RUN_ID": run.id}
    process = subprocess.Popen(["sleep", "300"], env=env, start_new_session=True)
    root = process.pid, start_time(process.pid) or 0.0
    process.kill()
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    assert run.pids(root) == set()
    process.wait()


SEARCHER = """
    import os, sys
    sys.path[:0] = {path!r}
    from runbook.system.remains import Remnant, end_remains, find_remains
    from runbook.system.tree import start_time
    family = [(pid, start_time(pid)) for pid in (os.getpid(), os.getppid())]
    found = find_remains({run!r}, family)
    print(*sorted(item.pid for item in found), file=open("found", "w", 1))
    left = end_remains([Remnant(pid, started, "", "") for pid, started in family] + found, 9)
    print(len(left), file=open("left", "w", 1))
"""


def test_this_process_and_its_ancestors_are_never_part(run: Run) -> None:
    """Nor is who shares their session, if nothing else tells that it is."""
    search = [*PYTHON, textwrap.dedent(SEARCHER.format(path=sys.path, run=run.id))]
    script = 'sleep 300 & echo $! > child; env -i sleep 301 & echo $! > mate; "$@"; echo $$ > root; sleep 300'
    root, _ = run.launch("sh", "-c", script, "sh", *search)
    assert (run.folder / "found").read_text() == f"{run.pid('child')}\n"
    assert run.pid("left") == 0
    assert gone(run.pid("child"))
    assert alive(run.pid("mate"))
    assert alive(root)


def test_an_ancestor_that_is_an_orphan_in_the_session_of_the_found_is_no_part(run: Run) -> None:
    search = [*PYTHON, textwrap.dedent(SEARCHER.format(path=sys.path, run=run.id))]
    orphan = 'until test -e go; do sleep 0.02; done; "$@"; echo $$ > after; exec sleep 300'
    script = '(env -i PATH="$PATH" "$@" &); echo $$ > root; sleep 300'
    root, _ = run.launch("sh", "-c", script, "sh", "sh", "-c", orphan, "sh", *search)
    (run.folder / "go").touch()
    wait_until(lambda: run.has("after"))
    assert str(root) in (run.folder / "found").read_text().split()
    assert run.pid("left") == 0
    assert gone(root)
    assert alive(run.pid("after"))


def test_a_command_is_one_short_line_and_a_name_where_it_has_no_words(run: Run) -> None:
    root, _ = run.sh(f": 'two\nlines' {'x' * 300}")
    [shown] = [item.command for item in find_remains(run.id) if item.pid == root]
    assert shown.startswith("sh -c echo $$ > root; : 'two lines' xxx")
    assert len(shown) == 200
    env = {"RUNBOOK_RUN_ID": run.id, "RUNBOOK_STEP": "nameless"}
    with subprocess.Popen([""], executable="/bin/cat", stdin=subprocess.PIPE, env=env) as nameless:
        wait_until(lambda: run.pids(step="nameless"))
        wait_until(lambda: [item.command for item in find_remains(run.id, step="nameless")] == ["cat"])
        nameless.kill()


# ------------------------------------------------------------------------------------------------------------- ended


@pytest.mark.parametrize("marked", [True, False])
def test_who_ignores_sigterm_is_killed_after_the_grace(run: Run, marked: bool) -> None:
    root = run.launch("sh", "-c", f"trap '' TERM; echo $$ > root; {LOOP}", marked=marked)
    begun = time.monotonic()
    assert run.end(root, grace=0.3) == []
    assert 0.3 <= time.monotonic() - begun < SOON
    assert gone(root[0])


def test_who_obeys_sigterm_is_not_waited_for(run: Run) -> None:
    root = run.launch("sh", "-c", f"trap 'echo bye > said; exit' TERM; echo $$ > root; {LOOP}")
    begun = time.monotonic()
    assert run.end(root, grace=200) == []
    assert time.monotonic() - begun < SOON
    assert (run.folder / "said").read_text() == "bye\n"


@pytest.mark.parametrize("trap", ["trap 'exit 0' TERM", "trap '' TERM"])
def test_who_is_stopped_is_ended(run: Run, trap: str) -> None:
    root = run.launch("sh", "-c", f"{trap}; echo $$ > root; {LOOP}")
    os.kill(root[0], signal.SIGSTOP)
    wait_until(lambda: psutil.Process(root[0]).status() == psutil.STATUS_STOPPED)
    assert run.end(grace=0.3 if "''" in trap else 200) == []
    assert gone(root[0])


def test_what_is_forked_meanwhile_is_ended_too(run: Run) -> None:
    """Its parent has gone, and the leader of its session long before."""
    (run.folder / "late.sh").write_text(
        f"trap 'env -i sleep 300 & echo $! > late; exit' TERM; echo $$ > child; {LOOP}\n"
    )
    root, started = run.sh("(env -i sh late.sh &)")
    wait_until(lambda: run.has("child"))
    run.let_go()
    assert run.pids((root, started)) >= {run.pid("child")}
    assert run.end((root, started), grace=1.5) == []
    assert gone(run.pid("child"))
    assert gone(run.pid("late"))


def test_a_pid_with_another_start_time_is_not_signalled(run: Run) -> None:
    root, started = run.sh("sleep 300 & echo $! > child", marked=False)
    run.await_child()
    for shift in (-1.0, 0.01, 1.0):
        assert run.pids((root, started + shift)) == set()
        assert end_remains([Remnant(root, started + shift, "sh", "")], 0.1) == []
    time.sleep(0.1)
    assert alive(root)
    assert alive(run.pid("child"))


def test_another_runs_processes_in_a_session_with_the_number_of_a_root_are_left(run: Run) -> None:
    root, started = run.sh("(RUNBOOK_RUN_ID=another sleep 300 & echo $! > child)")
    run.await_child()
    run.let_go()
    assert run.pids((root, started)) == set()
    assert alive(run.pid("child"))


def test_nothing_is_nothing(run: Run) -> None:
    assert run.pids((2**22 + 1, 1.0), (0, 0.0)) == set()
    assert end_remains([], 1) == []
    assert end_remains([Remnant(2**22 + 1, 1.0, "gone", "")], 1) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not signal")
def test_who_cannot_be_ended_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "KILLING", 0.2)
    root = run.launch("sh", "-c", f"echo $$ > root; {LOOP}", marked=False)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setuid(pwd.getpwnam("nobody").pw_uid)
            left = run.end(root, grace=0.1)
            os.write(writer, " ".join(str(item.pid) for item in left if item.command.startswith("sh -c")).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 99).decode() == str(root[0])
    for descriptor in (reader, writer):
        os.close(descriptor)


# ----------------------------------------------------------------------------------------------------- other systems


@pytest.fixture
def poor_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """No /proc and no process descriptors."""
    for module in (tree, remains):
        monkeypatch.setattr(module, "_HAS_PROC", False)
    monkeypatch.delattr(os, "pidfd_open", raising=False)


@pytest.mark.usefixtures("poor_system")
def test_without_proc_all_the_same(run: Run, stranger: subprocess.Popen[bytes]) -> None:
    marked = run.launch(*PYTHON, textwrap.dedent(DAEMON), wait="daemon")
    root = run.sh("sleep 300 & echo $! > child", marked=False)
    run.await_child()
    found = {item.pid: item for item in find_remains(run.id, [root])}
    assert {marked[0], root[0], run.pid("child")} <= found.keys()
    assert (found[marked[0]].step, found[run.pid("child")].command) == ("load", "sleep 300")
    assert run.pids((root[0], root[1] + 1)) == {marked[0]}
    assert run.end(root) == []
    assert gone(marked[0])
    assert gone(run.pid("child"))


def test_psutil_is_not_imported_where_there_is_proc() -> None:
    if not Path("/proc/self/environ").exists():
        pytest.skip("no /proc")
    script = (
        f"import sys; sys.path[:0] = {sys.path!r}; from runbook.system.remains import *; "
        "find_remains('none'); end_remains([], 0); print('psutil' in sys.modules)"
    )
    assert subprocess.run([*PYTHON, script], capture_output=True, text=True, check=True).stdout == "False\n"
