"""Following the files of a run: journals that grow, and the end of an output of any size."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from runbook.engine.record import Event
from runbook.records.journal import JournalError
from runbook.watch.story import moment
from runbook.watch.tail import TAIL, JournalTail, last_lines, start_of_last


@pytest.mark.parametrize(
    ("content", "count", "expected"),
    [
        (b"", 2, b""),
        (b"one", 1, b"one"),
        (b"one\n", 1, b"one\n"),
        (b"one\ntwo\n", 1, b"two\n"),
        (b"one\ntwo", 1, b"two"),
        (b"one\ntwo\nthree\n", 2, b"two\nthree\n"),
        (b"one\ntwo\nthree\n", 9, b"one\ntwo\nthree\n"),
        (b"\n\n\n", 2, b"\n\n"),
        (b"first\n" + b"x" * 200_000 + b"\nlast\n", 2, b"x" * 200_000 + b"\nlast\n"),
        (b"line\n" * 100_000, 30_000, b"line\n" * 30_000),
    ],
)
def test_the_last_lines_are_found_from_the_end(content: bytes, count: int, expected: bytes) -> None:
    file = io.BytesIO(content)
    assert content[start_of_last(file, count) :] == expected


def test_the_last_lines_of_output_are_fit_for_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    assert last_lines(path, 3) == []
    path.write_bytes(b"10%\r20%\r30%\n\n\x1b[31mred\xff\tx\r\n\nend")
    assert last_lines(path, 3) == ["30%", "\\x1b[31mred\\xff    x", "end"]


def test_only_the_end_of_a_large_output_is_read(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    with open(path, "wb") as file:
        file.truncate(1024**3)
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast but one\nlast\n")
    began = time.process_time()
    assert last_lines(path, 2) == ["last but one", "last"]
    assert time.process_time() - began < 1
    path.write_bytes(b"x" * (TAIL + 5))
    assert last_lines(path, 2) == ["x" * TAIL]


def line(seq: int, at: str) -> bytes:
    return json.dumps({"seq": seq, "at": at, "kind": "stage.entered", "data": {"n": seq}}).encode() + b"\n"


def test_a_journal_is_read_on_from_where_it_was_left(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    heard: list[Event] = []
    tail = JournalTail(tmp_path, heard.append)
    first, second, third = (line(seq, f"2025-12-10T14:00:0{seq}+00:00") for seq in (1, 2, 3))
    path.write_bytes(first + second[:20])
    tail.read()
    assert [event.seq for event in heard] == [1]
    path.write_bytes(first + second + third)
    tail.read()
    tail.read()
    assert [event.seq for event in heard] == [1, 2, 3]


def test_the_time_is_that_of_the_run(tmp_path: Path) -> None:
    path, heard = tmp_path / "journal.jsonl", list[Event]()
    path.write_bytes(line(1, "2001-01-01T00:00:00+00:00"))
    written = time.time() - 100
    os.utime(path, (written, written))
    tail = JournalTail(tmp_path, heard.append)
    tail.read()
    assert tail.now() - moment("2001-01-01T00:00:00+00:00") == pytest.approx(100, abs=30)


@pytest.mark.parametrize(
    "content", [b"nonsense\n", b"{}\n", b"[1]\n", b'{"seq": 1, "at": 5, "kind": "k", "data": {}}\n']
)
def test_what_is_no_journal_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(content)

    def hear(event: Event) -> Any:
        moment(event.at)

    with pytest.raises(JournalError):
        JournalTail(tmp_path, hear).read()
