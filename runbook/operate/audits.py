"""The audits of a project: where its runbooks say that they are, and in its private PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from runbook.database.connect import Connection, ServerError, connect, describe, passwords, translated
from runbook.language.load import load
from runbook.language.model import Runbook
from runbook.language.problems import RunbookError
from runbook.operate.runs import all_runs, outline_of, project_here
from runbook.operate.seen import Seen
from runbook.operate.servers import EMBEDDED
from runbook.records.audit import queries
from runbook.records.files import write_aside
from runbook.records.masks import Masks

LAST = 20  # runs whose runbooks are asked where their audit is
REMEMBERED = "submitted.txt"  # in .runbook: the runbooks whose runs were left to workers, the last first
PATIENCE = 3  # seconds in which a server must take a connection
LOCK_SECONDS = 10  # in which another session must let go of a table


class NoAudit(RunbookError):
    """No audit is at hand; the message has the cure."""


class Audits(NamedTuple):
    """Open connections by where they lead; `troubles` says which servers should be there and do not answer."""

    found: dict[str, Connection]
    troubles: list[str]


@contextmanager
def open_audits(given: Mapping[str, str], runbook: Runbook | None = None) -> Iterator[Audits]:
    """Every audit that can be reached: in the databases of `given` (URLs by connection name) where there are any, else in those
    that `runbook`, or all of the project's runbooks, name by their environment, and in the project's private PostgreSQL. The
    name of a database instead of a URL chooses among those.

    Audits of an older version than this program's are read as well, once they are brought up to date by a run.
    """
    with ExitStack() as stack:
        audits = Audits({}, [])
        names = [name for name in given.values() if _is_name(name)]
        given = {key: url for key, url in given.items() if url not in names}
        urls = [url for url in given.values() if url != EMBEDDED]
        known = urls or _declared([runbook] if runbook else _runbooks()) if not given or urls else []
        for url in known:
            _open(url, audits, stack, told=bool(urls))
        if not urls:
            _open_embedded(audits, stack)
        if names and not urls:
            _choose(names, audits)
        yield audits


def _is_name(given: str) -> bool:
    """Whether it is no URL, no `key=value` of libpq and no word of ours."""
    return given != EMBEDDED and "://" not in given and "=" not in given


def _choose(names: Sequence[str], audits: Audits) -> None:
    """Leaves the audits in databases of these names. Raises NoAudit where one of them is in none."""
    known = {target: target.rpartition(" as ")[0].partition(" on ")[0] for target in audits.found}
    for name in names:
        if name not in known.values():
            hint = f"there are {', '.join(sorted(known.values()))}" if known else "there is none at hand"
            raise NoAudit("; ".join([f"there is no audit in a database `{name}`: {hint}", *audits.troubles]))
    for target in [target for target, name in known.items() if name not in names]:
        del audits.found[target]


def _open(url: str, audits: Audits, stack: ExitStack, *, told: bool) -> None:
    """Connects where there is an audit; `told` wants to hear where there is none."""
    masks = Masks(passwords(url))
    try:
        target = masks.text(describe(url))
        if target in audits.found:
            return
        connection = connect(url, "runbook history", connect_timeout=PATIENCE)
        stack.callback(connection.close)
        with translated():
            connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'".encode())
            found = connection.execute("SELECT to_regclass('runbook.chain'), to_regclass('runbook.runs')").fetchone()
    except ServerError as error:
        audits.troubles.append(masks.text(str(error)))
        return
    if found and found[0]:
        audits.found[target] = connection
    elif told or (found and found[1]):
        older = (
            "its audit is of an older version: the next run brings it up to date"
            if found and found[1]
            else "it has no audit"
        )
        audits.troubles.append(f"{target}: {older}")


def _open_embedded(audits: Audits, stack: ExitStack) -> None:
    from runbook.database.embedded import EmbeddedError, kept_databases

    try:
        for url in stack.enter_context(kept_databases(project_here() / "embedded")):
            _open(url, audits, stack, told=False)
    except EmbeddedError as error:
        audits.troubles.append(str(error))


def declared_urls() -> list[str]:
    """The URLs that lead to the audits of the project's runbooks from this environment."""
    return _declared(_runbooks())


def _declared(runbooks: Sequence[Runbook]) -> list[str]:
    """The URLs that lead to the audits of `runbooks` from this environment."""
    found = []
    for runbook in runbooks:
        connection = runbook.connections.get(runbook.audit.connection)
        if connection is not None and runbook.audit.enabled:
            url = os.environ.get(connection.env, "") or connection.default
            if url and url != EMBEDDED:
                found.append(url)
    return list(dict.fromkeys(found))


def _runbooks() -> list[Runbook]:
    """The runbooks of the project that can be read: those in runbooks/, and those that ran last."""
    found, seen = [], Seen()
    known = [path for path in sorted(Path("runbooks").glob("*.y*ml")) if not path.stem.endswith(".cases")]
    for path in dict.fromkeys([*(path.absolute() for path in known), *_last_files()]):
        with suppress(RunbookError):
            found.append(load(path, seen))
    return found


def remember(project: Path, runbook: Path) -> None:
    """Remembers a runbook that no run on this disk tells of, so that its audit is found from the project (`.runbook`)."""
    known = [line for line in _remembered(project) if line != str(runbook)][: LAST - 1]
    with suppress(OSError):
        project.mkdir(mode=0o700, exist_ok=True)
        write_aside(project / REMEMBERED, [f"{line}\n".encode() for line in (str(runbook), *known)])


def _remembered(project: Path) -> list[str]:
    try:
        return (project / REMEMBERED).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _last_files() -> list[Path]:
    found = [Path(line) for line in _remembered(project_here())]
    for folder in all_runs()[-LAST:]:
        with suppress(RunbookError):
            found.append(Path(outline_of(folder)["circumstances"].get("file", "")).absolute())
    return found


def known_runs(connection: Connection, run_ids: Sequence[str]) -> set[str]:
    """Those of the runs that an audit has rows of. Raises ServerError."""
    with translated():
        return {row[0] for row in connection.execute(queries()["known_runs"], [list(run_ids)])}
