"""One database poured into another with pg_dump and pg_restore, without a file in between.

The data goes through this process: when it ends, however it ends, both programs lose their pipe and end too.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runbook.database.binaries import SUPPLIER, SYSTEM_FOLDERS
from runbook.database.connect import ServerError

CHUNK = 1 << 18
LOCK_TIMEOUT_MS = 30_000
GRACE = 5.0  # seconds between SIGTERM and SIGKILL
SECRETS = ("password", "sslpassword")
# pg_restore of 17 and newer sets it on every server; older ones do not know it and nothing else is wrong with that.
HARMLESS = 'unrecognized configuration parameter "transaction_timeout"'
KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}


class Programs(NamedTuple):
    """A folder with pg_dump and pg_restore, and their major version."""

    folder: Path
    major: int


class Reach(NamedTuple):
    """How pg_dump and pg_restore get at a database: a conninfo, and the password where it asks for one."""

    conninfo: str
    password: str


def find_dump_programs(server: int) -> Programs:
    """The programs nearest to the server's major version, and not older. Raises ServerError."""
    found = [Programs(folder, _major(folder)) for folder in _folders()]
    fit = [programs for programs in found if programs.major >= server]
    if fit:
        return min(fit, key=lambda programs: programs.major)
    older = ", ".join(f"{major} in {folder}" for folder, major in found if major)
    raise ServerError(
        f"there is no pg_dump of version {server} or newer ({f'only {older}' if older else 'none was found'}): install the"
        f" system's package of PostgreSQL {server}'s client programs, or pip install 'runbook-experiments[embedded]'"
    )


def _folders() -> Iterator[Path]:
    """Folders with both programs: PATH's, the system's, the wheel's."""
    on_path = [Path(folder) for folder in os.get_exec_path()]
    system = [Path(folder) for pattern in SYSTEM_FOLDERS for folder in sorted(glob.glob(pattern))]
    spec = importlib.util.find_spec(SUPPLIER)
    wheel = [Path(place) / "pginstall" / "bin" for place in (spec.submodule_search_locations or ())] if spec else []
    for folder in dict.fromkeys([*on_path, *system, *wheel]):
        # Debian's wrapper chooses a version by the local clusters, whatever server is asked.
        programs = [shutil.which(name, path=str(folder)) for name in ("pg_dump", "pg_restore")]
        if all(program and Path(program).resolve().name != "pg_wrapper" for program in programs):
            yield folder


def _major(folder: Path) -> int:
    """The version that both programs in a folder say they are, or 0."""
    majors = set()
    for name in ("pg_dump", "pg_restore"):
        told = ""
        with suppress(OSError, subprocess.SubprocessError):
            told = subprocess.run([folder / name, "--version"], capture_output=True, text=True, timeout=30).stdout
        version = re.search(r"PostgreSQL\) (\d+)", told)
        majors.add(int(version[1]) if version else 0)
    return min(majors)


def pour(programs: Programs, server: int, source: Reach, target: Reach, *, without_rows: str, seconds: float) -> None:
    """Dumps `source` and restores it into `target`, an empty database of the same server, within `seconds`.

    `server` is its major version; of the tables in the schema `without_rows` only the definitions are taken. Raises
    ServerError. On any exception both programs are ended before it passes.
    """
    dump = [f"{programs.folder}/pg_dump", "-Fc", "--compress=0", "--no-subscriptions"]
    dump.append(f"--lock-wait-timeout={LOCK_TIMEOUT_MS}")
    if without_rows:
        dump.append(f"--exclude-table-data={without_rows}.*")
    lenient = programs.major >= 17 > server
    restore = [f"{programs.folder}/pg_restore", *([] if lenient else ["--exit-on-error"])]
    deadline = time.monotonic() + seconds
    with (
        tempfile.TemporaryFile() as dump_says,
        tempfile.TemporaryFile() as restore_says,
        _child(dump, source, dump_says) as dumping,
        _child(restore, target, restore_says) as restoring,
    ):
        try:
            _pump(dumping, restoring, deadline)
            codes = [child.wait(max(deadline - time.monotonic(), 0)) for child in (dumping, restoring)]
        except (subprocess.TimeoutExpired, TimeoutError):
            raise ServerError(f"dump and restore took longer than {seconds:.0f} s, and were ended") from None
        _judge(codes, _errors(dump_says), _errors(restore_says), lenient)


@contextmanager
def _child(command: list[str], reach: Reach, says: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is over when the block is."""
    env = {**os.environ, "LC_ALL": "C", "PG_COLOR": "never"}
    if reach.password:
        env["PGPASSWORD"] = reach.password
    where = f"--dbname={_without_secrets(reach.conninfo)}"
    argv = [*command, "--no-password", where]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=says, env=env)
    try:
        yield child
    finally:
        _end(child)


def _without_secrets(conninfo: str) -> str:
    """Everybody may read the arguments of a process."""
    given = conninfo_to_dict(conninfo)
    if given.get("sslpassword"):
        raise ServerError(
            "the key of this connection has a passphrase (sslpassword), which pg_dump takes from its arguments alone, for"
            " everyone to see: end the other sessions on the database, so that no dump is needed"
        )
    plain = {name: value for name, value in given.items() if name not in SECRETS}
    return make_conninfo("", **{**KEEPALIVE, **plain})


def _end(child: subprocess.Popen[bytes]) -> None:
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(GRACE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _pump(source: subprocess.Popen[bytes], sink: subprocess.Popen[bytes], deadline: float) -> None:
    """Carries bytes until the source ends or the sink takes no more. Raises TimeoutError."""
    assert source.stdin and source.stdout and sink.stdin and sink.stdout
    source.stdin.close()
    sink.stdout.close()
    reading, writing = source.stdout.fileno(), sink.stdin.fileno()
    os.set_blocking(writing, False)
    with suppress(BrokenPipeError):
        while _ready(reading, select.POLLIN, deadline) and (chunk := os.read(reading, CHUNK)):
            rest = memoryview(chunk)
            while rest and _ready(writing, select.POLLOUT, deadline):
                rest = rest[os.write(writing, rest) :]
    source.stdout.close()
    sink.stdin.close()


def _ready(descriptor: int, event: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
        raise TimeoutError
    return True


def _errors(says: IO[bytes]) -> list[str]:
    """What a program called an error, each with the lines that explain it."""
    says.seek(0)
    text = says.read(1 << 20).decode("utf-8", "backslashreplace")
    parts = re.split(r"^pg_(?:dump|restore): ", text, flags=re.M)
    kept = [part.removeprefix("error: ") for part in parts if part.startswith("error: ")]
    return [" ".join(part.split())[:600].rstrip(";") for part in kept] or [" ".join(text.split())[:600]] * bool(
        text.strip()
    )


def _judge(codes: list[int], dump_errors: list[str], restore_errors: list[str], lenient: bool) -> None:
    """Raises ServerError with the error that came first: a failed restore ends the dump's pipe, a failed dump its input."""
    dumped, restored = codes
    if dumped > 0:
        raise ServerError(f"pg_dump: {(dump_errors or [f'exit code {dumped}'])[0]}")
    if restored and lenient:
        restore_errors = [error for error in restore_errors if HARMLESS not in error]
        restored = restored if restore_errors else 0
    if restored:
        raise ServerError(f"pg_restore: {(restore_errors or [f'exit code {restored}'])[0]}")
    if dumped:
        raise ServerError(f"pg_dump was ended by signal {-dumped}")
