"""Submitting: a run, or one for each combination of a matrix, is checked here and left to a worker."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any, NamedTuple

from runbook.database.connect import Connection, ServerError, connect, describe, passwords, translated
from runbook.fleet.desk import Desk
from runbook.fleet.schema import prepare
from runbook.fleet.turns import ATTEMPTS, Submission, insert, keep_files
from runbook.language.load import bind_params, file_contents
from runbook.language.model import Runbook
from runbook.language.problems import InvalidRunbook, Problem, RunbookError
from runbook.language.source import read_bytes, whole_file
from runbook.language.values import whole
from runbook.operate.audits import remember
from runbook.operate.circumstances import host
from runbook.operate.circumstances import operator as system_operator
from runbook.operate.naming import Naming
from runbook.operate.options import new_run_id
from runbook.operate.servers import NoConsent, project_folder, resolve
from runbook.records.audit import MORTAL
from runbook.records.masks import Masks

MOST = 10_000  # runs of one matrix
POLL = 1.0  # seconds between two looks whether runs have ended
_LOST = 6  # the exit code for a run of which nobody knows how it ended


class TooMany(RunbookError):
    """A matrix of more runs than anybody means."""


class Asked(NamedTuple):
    """What is asked for beside the runbook and its params. `at` is when it may begin; `databases` are URLs by connection."""

    databases: Mapping[str, str] = {}
    label: str = ""
    at: datetime | None = None
    operator: str = ""
    note: str = ""
    strict: bool = False
    overrides: Mapping[str, str] = {}
    command_line: Sequence[str] = ()


class Accepted(NamedTuple):
    """What was submitted, and where to: `experiment` is empty for a run by itself."""

    experiment: str
    runs: list[Submission]
    target: str


def submit(
    runbook: Runbook,
    params: Mapping[str, Any],
    matrix: Mapping[str, Sequence[Any]],
    asked: Asked,
    consent: Callable[[str], bool],
) -> Accepted:
    """Submits one run for each combination of the values in `matrix`, all of them or none.

    Raises InvalidRunbook (a param does not fit), NoConsent, TooMany, CannotStart or ServerError.
    """
    combined = _combinations(matrix)
    bound = [whole(bind_params(runbook, {**params, **values})) for values in combined]
    _refuse_secrets(runbook, bound)
    with queue_of(runbook, asked.databases) as (connection, _, target):
        facts = scheduled_facts(runbook, target, asked, consent)
        moment = _now(connection)
        experiment = f"{runbook.name}-{moment:%Y%m%d_%H%M%S}-{secrets.token_hex(2)}" if matrix else ""
        runs = [
            submission_of(runbook, facts, values, new_run_id(moment + timedelta(milliseconds=index)))
            for index, values in enumerate(bound)
        ]
        due = asked.at if asked.at and asked.at > moment else None
        runs = [item._replace(experiment=experiment, varied=list(matrix), due_at=due) for item in runs]
        with translated(), connection.transaction():
            keep_files(connection, contents(runbook))
            insert(connection, runs)
    return Accepted(experiment, runs, target)


def submission_of(runbook: Runbook, facts: Mapping[str, Any], params: Mapping[str, Any], run_id: str) -> Submission:
    """One run of a runbook, as it is submitted. Raises InvalidRunbook where the params do not make names."""
    naming = Naming(runbook, params, run_id, facts["operator"])
    naming.at(datetime.now(UTC))
    names = ("file", "sha256", "files", "options", "label", "rerun", "operator", "host")
    known = {name: facts[name] for name in names}
    return Submission(
        run_id=run_id, experiment="", runbook=runbook.name, params=params, varied=[], lock=naming.key(), **known
    )


class Place(NamedTuple):
    """A database that takes submissions: `target` says where it lies, for people."""

    connection: Connection
    url: str
    target: str


@contextmanager
def queue_of(runbook: Runbook, databases: Mapping[str, str]) -> Iterator[Place]:
    """The database that has the runbook's audit and queue, ready to take submissions.

    Raises InvalidRunbook where the runbook has no audit, CannotStart, NoFleet, AuditError or ServerError.
    """
    name = runbook.audit.connection
    if not name or not runbook.audit.enabled:
        message = "a run is submitted to the database that has its audit, and this runbook has none"
        raise InvalidRunbook([Problem(runbook.document.file, 0, 0, "audit", message, "declare a postgres connection")])
    only = runbook._replace(connections={name: runbook.connections[name]})
    with ExitStack() as stack:
        given = {name: databases[name]} if name in databases else {}
        url = resolve(only, given, project_folder(runbook.path), stack).urls[name]
        connection = stack.enter_context(closing(connect(url, "runbook submit")))
        prepare(connection)
        with translated():
            connection.execute(f"{MORTAL}; SET default_transaction_isolation = 'read committed'")
        yield Place(connection, url, Masks(passwords(url)).text(describe(url)))
        remember(project_folder(runbook.path), runbook.path)


def scheduled_facts(runbook: Runbook, target: str, asked: Asked, consent: Callable[[str], bool]) -> dict[str, Any]:
    """What all runs of a submission, or of a schedule, have in common. Raises NoConsent or InvalidRunbook."""
    root = project_folder(runbook.path).parent.absolute()
    operator = asked.operator or system_operator()
    consented = _consent(runbook, target, consent)
    options = {
        "note": asked.note,
        "strict": asked.strict,
        "overrides": dict(asked.overrides),
        "consent": consented,
        "command_line": list(asked.command_line),
    }
    given = [*asked.databases.values(), *(os.environ.get(item.env, "") for item in runbook.connections.values())]
    options = Masks([password for url in given for password in passwords(url)]).data(options)
    facts = {
        "file": os.path.relpath(runbook.path, root),
        "sha256": runbook.sha256,
        "files": {os.path.relpath(name, root): digest for name, digest in runbook.files.items()},
        "options": options,
        "label": asked.label,
        "rerun": runbook.rerun,
        "operator": operator,
        "host": host(),
    }
    _refuse_secrets(runbook, [options, asked.label])
    return facts


def contents(runbook: Runbook) -> list[bytes]:
    """The text of a runbook and of all that it reads. Raises InvalidRunbook where one has changed since it was loaded."""
    raw = read_bytes(runbook.path, runbook.document.file)
    if hashlib.sha256(raw).hexdigest() != runbook.sha256:
        raise whole_file(runbook.document.file, "the file changed while it was submitted", "submit it again")
    return [raw, *file_contents(runbook).values()]


def _consent(runbook: Runbook, target: str, consent: Callable[[str], bool]) -> list[str]:
    protected = [name for name, item in runbook.connections.items() if item.protected]
    for name in protected:
        where = f" ({target})" if name == runbook.audit.connection else ""
        if not consent(f"connection {name}{where} is protected: have a worker run there?"):
            raise NoConsent(f"connection `{name}` is protected{where}: consent with --yes")
    return protected


def _refuse_secrets(runbook: Runbook, given: Any) -> None:
    """A submission is stored as it is, so that no declared secret may be in it."""
    masks = Masks([os.environ[variable] for variable in runbook.secrets.values() if variable in os.environ])
    if masks.data(given) != given:
        message = "a secret would stand in the submission in the open"
        raise InvalidRunbook(
            [runbook.document.problem(("secrets",), message, "workers read it from their environment")]
        )


def _combinations(matrix: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    count = 1
    for values in matrix.values():
        count *= len(values)
    if count > MOST:
        raise TooMany(f"the matrix has {count} combinations; {MOST} are the limit: submit it in parts")
    return [dict(zip(matrix, values, strict=True)) for values in product(*matrix.values())]


def _now(connection: Connection) -> datetime:
    with translated():
        row = connection.execute("SELECT clock_timestamp()").fetchone()
    moment: datetime = row[0] if row else datetime.now(UTC)
    return moment.astimezone(UTC)


_ENDED = """
SELECT t.run_id, c.verdict, c.exit_code, n.run_id FROM unnest($1::text[]) AS t (run_id)
JOIN runbook.closings c ON c.run_id = t.run_id LEFT JOIN runbook_fleet.submissions n ON n.earlier = t.run_id
WHERE c.verdict <> 'lost' OR n.run_id IS NOT NULL OR NOT EXISTS (
    SELECT FROM runbook_fleet.submissions s JOIN runbook_fleet.turns u USING (run_id)
    WHERE s.run_id = t.run_id AND s.rerun AND s.attempt < $2 AND u.stop IS NULL)
"""


def awaited(runbook: Runbook, accepted: Accepted, databases: Mapping[str, str]) -> Iterator[tuple[str, str, int]]:
    """Each run with its verdict and exit code as it ends; a lost one that is done again counts as its last attempt.

    A server that is away is waited for. Raises CannotStart.
    """
    left = {item.run_id for item in accepted.runs}
    with queue_of(runbook, databases) as place:
        desk = Desk(place.url, "runbook submit")
        while left:
            for run_id, verdict, code, again in _ended(desk, left):
                left.discard(run_id)
                if again is not None:
                    left.add(again)
                    continue
                yield run_id, verdict, _LOST if code is None else code
            if left:
                time.sleep(POLL)


def _ended(desk: Desk, runs: Collection[str]) -> list[tuple[str, str, int | None, str | None]]:
    def ask(connection: Connection) -> list[tuple[str, str, int | None, str | None]]:
        with translated():
            return connection.execute(_ENDED, [list(runs), ATTEMPTS]).fetchall()

    try:
        return desk.do(ask)
    except ServerError as error:
        if not error.lost:
            raise
        return []


def worst(codes: Sequence[int]) -> int:
    """The exit code that says most: nobody knows (6), then failed (4), blocked (3), refuted (1), cancelled (130), passed (0)."""
    return next((code for code in (6, 4, 3, 1, 130) if code in codes), 0)
