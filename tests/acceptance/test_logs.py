"""`runbook logs`: what the steps printed, byte for byte into a pipe, harmless on a terminal, and as it comes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.helpers import HEAD, Background, until
from tests.conftest import ROOT, Program

NO_AUDIT = "audit: {enabled: false}\n"
PRINTED = b"one\n\x1b[31mtwo\x1b[0m\r\n\xff\xfe three \xc3\xa4\n10%\r20%\nfour"


def print_bytes(write: Callable[..., Path], content: bytes) -> None:
    write("out.py", f"import sys\nsys.stdout.buffer.write({content!r})\n")
    write("small.yaml", HEAD + NO_AUDIT + f"steps:\n  s: {{command: ['{sys.executable}', out.py]}}\n")


@pytest.fixture
def printed(program: Program, write: Callable[..., Path], tmp_path: Path) -> bytes:
    """A run that printed what no terminal should obey."""
    print_bytes(write, PRINTED)
    assert program("exec", "small.yaml").code == 0
    return PRINTED


def call(folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "runbook", *arguments]
    return subprocess.run(command, cwd=folder, env=env, check=False, timeout=60, **{"capture_output": True, **options})


def test_a_pipe_gets_the_very_bytes(printed: bytes, tmp_path: Path) -> None:
    for arguments in (["last"], ["-f"], ["last", "-f", "-n", "10"]):
        done = call(tmp_path, "logs", *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, printed, b"")


@pytest.mark.parametrize(("count", "expected"), [(0, b""), (1, b"four"), (2, b"10%\r20%\nfour"), (9, PRINTED)])
def test_only_the_last_lines(printed: bytes, tmp_path: Path, count: int, expected: bytes) -> None:
    assert call(tmp_path, "logs", "-n", str(count)).stdout == expected


def test_json_lines(printed: bytes, program: Program, tmp_path: Path) -> None:
    ended = program("logs", "--json")
    assert [json.loads(line) for line in ended.out.splitlines()] == [
        {"text": text} for text in ("one", "\x1b[31mtwo\x1b[0m", "\\xff\\xfe three ä", "10%", "20%", "four")
    ]


def test_a_terminal_is_not_steered(printed: bytes, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    done = call(tmp_path, "logs", capture_output=False, stdout=slave, stderr=slave)
    os.close(slave)
    shown = os.read(master, 65536).replace(b"\r\n", b"\n").decode()
    os.close(master)
    assert done.returncode == 0
    assert shown == "one\n\\x1b[31mtwo\\x1b[0m\n\\xff\\xfe three ä\n10%\n20%\nfour"


def test_nothing_was_printed(program: Program, write: Callable[..., Path]) -> None:
    write("small.yaml", HEAD + NO_AUDIT + "steps:\n  s: {command: ['true']}\n")
    program("exec", "small.yaml")
    for arguments in ((), ("-f",), ("--json",)):
        ended = program("logs", *arguments)
        assert (ended.code, ended.out) == (0, "")
        assert ended.err.endswith(" has printed nothing\n")
    assert program("logs", "none-like-this").code == 6


def test_secrets_stay_masked(program: Program, write: Callable[..., Path]) -> None:
    write(
        "small.yaml", f"{HEAD}{NO_AUDIT}secrets: {{s: {{env: TOKEN}}}}\nsteps:\n  s: {{command: [echo, hush-hush]}}\n"
    )
    program("exec", "small.yaml", env={"TOKEN": "hush-hush"})
    assert program("logs").out == "***\n"


def test_following_ends_with_the_run(
    start: Callable[..., Background], write: Callable[..., Path], tmp_path: Path
) -> None:
    write(
        "out.py",
        "import os, time\nprint('begun', flush=True)\n"
        "while not os.path.exists('go'):\n    time.sleep(0.02)\nprint('done', flush=True)\n",
    )
    write("small.yaml", HEAD + NO_AUDIT + f"steps:\n  s: {{command: ['{sys.executable}', out.py]}}\n")
    background = start("exec", "small.yaml")
    background.reached('"step.started"')
    with open(tmp_path / "seen", "wb") as seen:
        follower = Background(tmp_path, "logs", "-f", stdout=seen)
    with open(tmp_path / "lines", "wb") as lines:
        leaver = Background(tmp_path, "logs", "-f", "--json", stdout=lines)
    try:
        until(lambda: (tmp_path / "seen").read_bytes() == b"begun\n")
        assert follower.process.poll() is None
        until(lambda: (tmp_path / "lines").read_bytes())
        assert leaver.end(signal.SIGINT).code == 0
        assert json.loads((tmp_path / "lines").read_text()) == {"text": "begun"}
        (tmp_path / "go").touch()
        assert background.end().code == 0
        assert follower.end().code == 0
    finally:
        follower.kill()
        leaver.kill()
    assert (tmp_path / "seen").read_bytes() == b"begun\ndone\n"


def test_a_closed_pipe_ends_it_quietly(program: Program, write: Callable[..., Path], tmp_path: Path) -> None:
    print_bytes(write, b"line\n")
    assert program("exec", "small.yaml").code == 0
    (output,) = tmp_path.glob(".runbook/runs/*/output.log")
    output.write_bytes(b"line\n" * 1_000_000)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "runbook", "logs"], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"line\n"
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == b""


def test_the_end_of_a_large_log_is_found_in_bounded_memory(
    program: Program, write: Callable[..., Path], tmp_path: Path
) -> None:
    print_bytes(write, b"line\n")
    assert program("exec", "small.yaml").code == 0
    (output,) = tmp_path.glob(".runbook/runs/*/output.log")
    with open(output, "r+b") as file:
        file.truncate(1024**3)
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast but one\nlast\n")
    code = (
        "import resource, sys\nresource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))\n"
        "from runbook.cli.main import main\nmain(['logs', '-n', '2'])\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"last but one\nlast\n"), done.stderr


def test_a_line_without_end_comes_in_pieces(program: Program, write: Callable[..., Path]) -> None:
    print_bytes(write, b"x" * 200_000 + b"\nend\n")
    assert program("exec", "small.yaml").code == 0
    found = [json.loads(line) for line in program("logs", "--json").out.splitlines()]
    assert "".join(item["text"] for item in found) == "x" * 200_000 + "end"
    assert [item.get("more", False) for item in found[-2:]] == [False, False]
    assert all(item["more"] for item in found[:-2])
