"""Whatever the file, the answer is a document or problems, soon and in little memory."""

import json
import os
import socket
import string
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runbook.language.assemble import MAX_DEPTH, MAX_NODES, MAX_SCALAR
from runbook.language.document import Document, parse_document, read_document, read_text
from runbook.language.problems import InvalidRunbook, Problem
from runbook.language.source import MAX_BYTES, MAX_PROBLEMS

MEGABYTE = MAX_BYTES


def refused(call: Callable[[], Document]) -> tuple[Problem, ...]:
    with pytest.raises(InvalidRunbook) as caught:
        call()
    return caught.value.problems


# --- files ----------------------------------------------------------------------------------------------------------


def whole(path: Path) -> str:
    """The message about a file that is refused as a whole, whatever reads it."""
    [problem] = refused(lambda: read_document(path, "shown.yaml"))
    [same] = refused(lambda: read_text(path, "shown.yaml"))
    assert problem == same
    assert (problem.file, problem.line, problem.column, problem.source) == ("shown.yaml", 0, 0, "")
    return problem.message


def test_a_file_is_read_and_called_as_the_user_called_it(tmp_path: Path) -> None:
    path = tmp_path / "book.yaml"
    path.write_bytes(b"a: 1\r\nb: \xc3\xa9\n")
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    assert read_document(link).data == {"a": 1, "b": "é"}
    assert read_document(link).file == str(link)
    assert read_document(path, "./book.yaml").file == "./book.yaml"


def test_missing_files_and_folders(tmp_path: Path) -> None:
    assert whole(tmp_path / "gone.yaml") == "the file does not exist"
    assert whole(tmp_path / "gone" / "x.yaml") == "the file does not exist"
    assert whole(tmp_path) == "this is a directory, not a file"
    (tmp_path / "loop").symlink_to("loop")
    assert "too many levels" in whole(tmp_path / "loop")
    assert "null byte" in whole(Path("a\0b"))
    assert "too long" in whole(tmp_path / ("x" * 5000))


def test_no_pipe_socket_or_device_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert whole(tmp_path / "pipe") == "this is a named pipe, not a file"
    assert whole(Path("/dev/zero")) == "this is a device, not a file"
    folder = os.open(tmp_path, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{folder}/socket")
        assert whole(tmp_path / "socket") == "this is a socket, not a file"
    os.close(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "secret.yaml"
    path.write_text("a: 1\n")
    path.chmod(0)
    assert whole(path) == "the file cannot be read: permission denied"


def test_large_files_are_not_read_to_their_end(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"a: 1\n".ljust(MEGABYTE))
    assert read_document(path).data == {"a": 1}
    path.write_bytes(b"a: 1\n".ljust(MEGABYTE + 1))
    assert whole(path) == "the file is larger than 1048576 bytes"
    os.truncate(path, 1 << 40)
    assert whole(path) == "the file is larger than 1048576 bytes"
    assert "larger" in refused(lambda: parse_document(b"a: 1\n".ljust(MEGABYTE + 1), "f"))[0].message


def test_a_file_of_unknown_size_is_read_to_the_limit() -> None:
    assert read_document(Path("/proc/self/status")).data["Name"]
    huge = Path("/proc/kallsyms")
    if huge.exists() and len(huge.read_bytes()) > MEGABYTE:
        assert whole(huge) == "the file is larger than 1048576 bytes"


def test_a_text_file_is_its_own_value(tmp_path: Path) -> None:
    path = tmp_path / "query.sql"
    path.write_bytes("\ufeffSELECT 'é',\r\n\t\"pendng\"\r\n".encode())
    document = read_text(path, "query.sql")
    assert document.data == document.text == "SELECT 'é',\r\n\t\"pendng\"\r\n"
    problem = document.problem((), "no such column", offset=document.text.index("pendng"))
    assert (problem.line, problem.column, problem.width, problem.source) == (2, 3, 6, '\t"pendng"')
    path.write_bytes(b'"a  b" |\n c')
    assert [read_text(path).locate((), offset) for offset in (0, 5, 9)] == [(1, 1), (1, 6), (2, 1)]
    path.write_bytes(b"")
    assert read_text(path).data == ""
    path.write_bytes(b"SELECT\n\xff")
    assert refused(lambda: read_text(path))[0][1:3] == (2, 1)


# --- encodings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_other_encodings_are_named(encoding: str) -> None:
    [problem] = refused(lambda: parse_document("runbook: 1\n".encode(encoding), "f"))
    assert f"the file is UTF-{encoding[4:6]}, not UTF-8" in problem.message


@pytest.mark.parametrize(
    ("raw", "line", "column"),
    [
        (b"a: \xe9\n", 1, 4),
        ("é: ü".encode() + b"\r\n\xc3\xa9\xc3", 2, 2),
        (b"\xef\xbb\xbfa: 1\n# \xff x", 2, 3),
        (b"a: \xed\xa0\x80", 1, 4),
        (b"a: \xc0\x80", 1, 4),
    ],
)
def test_the_first_byte_that_is_no_utf8_is_pointed_at(raw: bytes, line: int, column: int) -> None:
    [problem] = refused(lambda: parse_document(raw, "f"))
    assert (problem.line, problem.column) == (line, column)
    assert "is not UTF-8" in problem.message and problem.source


# --- limits ---------------------------------------------------------------------------------------------------------


def nested(depth: int) -> str:
    return "a: " + "[" * (depth - 1) + "]" * (depth - 1)


def test_depth() -> None:
    assert parse_document(nested(MAX_DEPTH), "f").data
    [problem] = refused(lambda: parse_document(nested(MAX_DEPTH + 1), "f"))
    assert (problem.line, problem.column) == (1, 3 + MAX_DEPTH)
    assert "64 levels" in problem.message


def test_depth_through_aliases() -> None:
    chain = "- &a1 []\n" + "".join(f"- &a{i} [*a{i - 1}]\n" for i in range(2, 100))
    [problem] = refused(lambda: parse_document(chain, "f"))
    assert (problem.line, problem.message) == (MAX_DEPTH, "more than 64 levels of nesting")


def test_number_of_values() -> None:
    entries = (MAX_NODES - 1) // 2
    fitting = "".join(f"k{i}: 1\n" for i in range(entries))
    assert len(parse_document(fitting, "f").data) == entries
    [problem] = refused(lambda: parse_document(fitting + "k: 1\n", "f"))
    assert problem.line == entries + 1 and "100000 values" in problem.message


def test_aliases_count_in_full() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
    [problem] = refused(lambda: parse_document(bomb, "f"))
    assert problem.line == 6 and "100000 values, aliases counted in full" in problem.message
    for value in ("x" * 200_000, f"[[{'x' * 200_000}]]"):
        long = f"a: &a {value}\nb: [{', '.join(['*a'] * 100)}]\n"
        [problem] = refused(partial(parse_document, long, "f"))
        assert problem.line == 2 and problem.source and "characters, aliases counted in full" in problem.message


def test_length_of_a_value() -> None:
    assert len(parse_document(f"a: {'x' * MAX_SCALAR}\n", "f").data["a"]) == MAX_SCALAR
    [problem] = refused(lambda: parse_document(f"a: {'x' * (MAX_SCALAR + 1)}\n", "f"))
    assert (problem.line, problem.column, problem.where) == (1, 4, "a")


NASTY = {
    "[": "[" * MEGABYTE,
    "{": "{" * MEGABYTE,
    "[{": "[{" * (MEGABYTE // 2),
    "- ": "- " * (MEGABYTE // 2),
    "? ": "? " * (MEGABYTE // 2),
    "? [": "? [" * 300_000,
    "{a: ": "{a: " * 250_000,
    '{"a":': '{"a":' * 200_000,
    "[a, ": "[" + "a, " * 300_000,
    "[[], ": "[" + "[], " * 200_000,
    "[ below each other": "a:\n" + "".join(f"{' ' * i}[\n" for i in range(1, 1400)),
    "steps to the right": "".join(f"{' ' * i}a:\n" for i in range(1400)),
    "one line": "a: " + "x" * (MEGABYTE - 3),
    "one line with a mistake": "a: " + "x" * (MEGABYTE - 20) + ": b",
    "one line of quotes": "a: " + '": "' * 250_000,
    "one line of braces": "a: x" + " {{" * 340_000 + ": b",
    "same keys": "a: b\n" * 200_000,
    "keys": "".join(f"k{i}: v\n" for i in range(80_000)),
    "numbers as keys": "".join(f"{i}: v\n" for i in range(80_000)),
    "anchors": "".join(f"- &a{i} x\n" for i in range(75_000)),
    "anchors and unknown aliases": "".join(f"- &a{i} x\n" for i in range(45_000)) + "- *zz\n" * 200,
    "merges": "a: &a {" + ", ".join(f"k{i}: 1" for i in range(1000)) + "}\nb: {<<: [" + "*a, " * 200_000 + "]}",
    "a chain of merges": "- &a0 {}\n" + "".join(f"- &a{i} {{<<: *a{i - 1}, k{i}: 1}}\n" for i in range(1, 20_000)),
    "comment": "#" + "x" * (MEGABYTE - 9) + "\na: b\n",
    "comments": "#\n" * (MEGABYTE // 2),
    "comments behind an anchor": "a: &x " + "# c\n " * 200_000 + " b",
    "spaces behind an anchor": "a: &x " + " " * (MEGABYTE - 40) + "# c\n b: !t c",
    "long key": "x" * (MEGABYTE - 3) + ": b",
    "long quoted key": '"' + "x" * (MEGABYTE - 5) + '": b',
    "long keys": ("y" * 1000 + ": 1\n") * 1000,
    "long tag": "!" * MEGABYTE,
    "tags": "- !!a b\n" * 100_000,
    "%": "%" * MEGABYTE,
    "%TAG": "".join(f"%TAG !a{i}! b\n" for i in range(60_000)) + "--- a: b\n",
    "%TAG below": "a: 1\n...\n" + "".join(f"%TAG !a{i}! b\n" for i in range(60_000)) + "--- a: b\n",
    "%TAG right below": "a: 1\n" + "".join(f"%TAG !a{i}! b\n" for i in range(60_000)) + "--- a: b\n",
    "%TAG behind comments": "# \n" * 340_000 + "%TAG ! b",
    "tabs": "\t" * MEGABYTE,
    "tab behind spaces": "a:\n" + " " * (MEGABYTE // 2) + "\t b: c",
    "documents": "---\n" * 250_000,
    "document ends": "a: 1\n" + "...\n" * 250_000,
    "blank lines": "\n" * MEGABYTE,
    "carriage returns": "a: 1" + "\r" * (MEGABYTE - 4),
    "lines of a literal": "a: |\n" + " x\n" * 340_000,
    "blank lines of a literal": "a: |\n" + "\n" * (MEGABYTE - 5),
    "lines of a quoted text": 'a: "' + "\n" * (MEGABYTE - 9) + '" b',
    "escapes": 'a: "' + "\\x41" * 250_000 + '"',
    "number": "a: " + "9" * (MEGABYTE - 3),
    "hexadecimal": "a: 0x" + "f" * (MEGABYTE - 5),
    "dots": "a: " + "." * (MEGABYTE - 3),
    "words": "a: 1\n" + "w." * (MEGABYTE // 2 - 9) + "\nb: 1",
    "controls": "\x01" * MEGABYTE,
    "marks": "\ufeff" * 300_000,
}


@pytest.mark.parametrize("name", NASTY)
def test_nasty_files_cost_little(name: str) -> None:
    raw = NASTY[name].encode()
    assert len(raw) <= MEGABYTE
    started = time.process_time()
    try:
        parse_document(raw, "f")
    except InvalidRunbook as error:
        assert 1 <= len(error.problems) <= MAX_PROBLEMS
        assert all(len(str(problem)) < 2000 for problem in error.problems)
    assert time.process_time() - started < 20  # minutes, where the cost grows with the square


LITTLE_MEMORY = """\
import sys
import psutil
import yaml
from runbook.language.document import parse_document
from runbook.language.problems import InvalidRunbook
for text in sys.stdin.buffer.read().split(b"\\0"):
    try:
        parse_document(text, "f")
    except InvalidRunbook:
        pass
try:  # since this program began; ru_maxrss would count what its parent held when it forked
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
except OSError:
    peak = psutil.Process().memory_info().rss // 1024
print(peak)
"""


def test_nasty_files_need_little_memory() -> None:
    texts = b"\0".join(NASTY[name].encode() for name in ("keys", "anchors", "[[], ", "comments", "["))
    run = subprocess.run([sys.executable, "-c", LITTLE_MEMORY], input=texts, capture_output=True, check=True)
    assert int(run.stdout) < 200 * 1024


SCARCE = """\
import resource, sys
from runbook.language.document import parse_document
from runbook.language.problems import InvalidRunbook
text = "".join(f"k{i}: [a, b]\\n" for i in range(20_000))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 4_000_000, used + 4_000_000))
try:
    parse_document(text, "f")
except InvalidRunbook as error:
    print(error.problems[0].message)
"""


def test_too_little_memory_is_a_problem_of_the_file() -> None:
    run = subprocess.run([sys.executable, "-c", SCARCE], capture_output=True, text=True, check=True)
    assert run.stdout == "the file needs more memory than there is\n"


def test_speed_of_an_ordinary_runbook() -> None:
    check = "  check_{}:\n    sql: |\n      SELECT 1\n      FROM postings\n    returns: value\n    expect: result > 0\n"
    text = "runbook: 1\nname: x\npreflight:\n" + "".join(check.format(i) for i in range(50))
    times = []
    for _ in range(20):
        started = time.process_time()
        parse_document(text, "f")
        times.append(time.process_time() - started)
    assert min(times) < 0.05


# --- anything at all ------------------------------------------------------------------------------------------------


def plain(data: Any) -> bool:
    if isinstance(data, dict):
        return all(isinstance(key, str) and plain(value) for key, value in data.items())
    if isinstance(data, list):
        return all(map(plain, data))
    return data is None or type(data) in (str, int, float, bool)


def check_anything(raw: str | bytes) -> None:
    try:
        document = parse_document(raw, "f")
    except InvalidRunbook as error:
        assert 1 <= len(error.problems) <= MAX_PROBLEMS
        for problem in error.problems:
            assert problem.message and problem.hint
            assert problem.line == 0 or problem.column - 1 + problem.width <= max(len(problem.source), 1)
            assert json.dumps(problem.as_data()).isascii()
            assert "\n" not in problem.message + problem.hint + problem.where + problem.source
    else:
        assert plain(document.data)
        json.dumps(document.data, allow_nan=False)


@given(st.binary(max_size=200))
@example(b"\xff\xfe")
@example(b"a: \x00")
def test_any_bytes(raw: bytes) -> None:
    check_anything(raw)


YAML_PARTS = st.sampled_from(
    [
        *"[]{},:?-&*!|>'\"%@`#\n\r\t ~<=\\a1.é\ufeff\u2028\x85",
        *(": ", "- ", "? ", "---", "...", "<<: ", "*a", "&a ", "{{ ", " }}", "!!str ", "%TAG ! b", "\n  ", "|+2\n"),
        *(">-\n", "\\x41", "\\ud800", "0x", "1e9", ".inf", "null", "true", "a: ", "\r\n"),
    ]
)


@given(st.lists(YAML_PARTS, max_size=40).map("".join))
@example("{&a <<: {}, b: *a }")
@example("- &a\n- *a")
@example("? &a\n: *a")
def test_any_mix_of_yaml(text: str) -> None:
    check_anything(text)


BOOK = """\
runbook: 1
name: wf3001   # a comment
title: "Workflow Run: {{ params.workflow_id }}"
params:
  limit: {type: [integer, "null"], default: null}
base: &base
  sql: |
    SELECT COUNT(*) AS total
    FROM postings
steps:
  - <<: *base
    when: 'it''s'
    text: >-
      folded
      words
"""


@given(st.integers(0, len(BOOK)), st.integers(0, 12), st.lists(YAML_PARTS, max_size=3).map("".join))
def test_any_small_mistake_in_a_runbook(at: int, length: int, new: str) -> None:
    check_anything(BOOK[:at] + new + BOOK[at + length :])


TEXT = st.text(st.sampled_from(string.printable[:95] + "é€🎉\t\n"), max_size=20)
NUMBERS = st.integers(-(10**39), 10**39) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=8)


@given(st.dictionaries(TEXT, VALUES))
def test_json_is_yaml(data: dict[str, Any]) -> None:
    document = parse_document(json.dumps(data, ensure_ascii=False), "f")
    assert document.data == data
    for key, value in data.items():
        span = document.value_span((key,))
        written = document.text[span.column - 1 : span.column - 1 + span.width]
        assert json.loads(written) == value
