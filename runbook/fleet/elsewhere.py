"""Runs that are not on this disk: found in the audits of the project, and how they stand there."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runbook.language.problems import did_you_mean
from runbook.operate.runs import NoSuchRun, all_runs, find_run, has_journal, is_run_id, project_here, runs_folder

if TYPE_CHECKING:
    from runbook.database.connect import Connection

SILENT = 40.0  # seconds without a sign of life after which somebody should hear of it
PATIENCE = 3  # seconds in which a server must take a connection
STATEMENT_SECONDS = 30  # in which it must answer
NOWHERE = "no runbook in runbooks/ leads to an audit from here: for a run on another host, pass --database URL"


class Standing(NamedTuple):
    """How a run stands in the audit. `state` is queued, running or over, and empty for one that was not submitted.

    `now` is the server's clock in seconds since the epoch, `closed` and `seen` are seconds since its closing and since its last
    sign of life, `due` seconds until it may begin; `takers` are workers that may take it, `before` the runs that come first.
    `ahead` is the run that has its `lock`, on host `holds` where it runs by now: else it is queued for the same label.
    """

    state: str
    host: str
    stop: str | None
    because: str | None
    opened: bool
    verdict: str | None
    now: float
    closed: float | None
    seen: float | None
    label: str
    due: float
    before: int
    takers: int
    lock: str
    ahead: str
    holds: str


class Elsewhere(NamedTuple):
    """A run that is not on this disk: `target` says where its audit lies, for people; `url` leads there, and is not for them."""

    run_id: str
    target: str
    url: str
    fleet: bool
    standing: Standing


_OPEN = """SELECT {turn}, r.run_id IS NOT NULL, c.verdict, extract(epoch FROM clock_timestamp())::float8,
    extract(epoch FROM clock_timestamp() - c.finished_at)::float8, {rest}
FROM (SELECT $1::text AS run_id) k
LEFT JOIN runbook.runs r ON r.run_id = k.run_id
LEFT JOIN runbook.closings c ON c.run_id = k.run_id
LEFT JOIN runbook.leases l ON l.run_id = k.run_id AND isfinite(l.heartbeat)
"""
_BEAT = "extract(epoch FROM clock_timestamp() - l.heartbeat)::float8"
_ALONE = _OPEN.format(turn="'', coalesce(r.host, ''), NULL, NULL", rest=f"{_BEAT}, '', 0, 0, 0, '', '', ''")
_TAKERS = f"""(SELECT count(*) FROM runbook_fleet.workers w
    WHERE w.state = 'working' AND w.seen_at > clock_timestamp() - make_interval(secs => {SILENT})
        AND ({{label}} = '' OR {{label}} = ANY(w.labels)))"""
UNCLOSED = "NOT EXISTS (SELECT FROM runbook.closings e WHERE e.run_id = {turn}.run_id)"
_WITH_TURN = (
    _OPEN.format(
        turn="coalesce(t.state, ''), coalesce(nullif(t.host, ''), r.host, ''), t.stop, t.because",
        rest=f"""coalesce(extract(epoch FROM clock_timestamp() - t.seen_at)::float8, {_BEAT}), coalesce(s.label, ''),
    coalesce(extract(epoch FROM s.due_at - clock_timestamp())::float8, 0),
    CASE WHEN t.state = 'queued' THEN (SELECT count(*) FROM runbook_fleet.turns w
        JOIN runbook_fleet.submissions o ON o.run_id = w.run_id
        WHERE w.state = 'queued' AND {UNCLOSED.format(turn="w")} AND o.label = s.label
            AND (o.due_at, o.run_id) < (s.due_at, s.run_id)) ELSE 0 END,
    CASE WHEN t.state = 'queued' THEN {_TAKERS.format(label="s.label")} ELSE 0 END,
    coalesce(s.lock, ''), coalesce(a.run_id, ''), coalesce(a.holds, '')""",
    )
    + f"""LEFT JOIN runbook_fleet.turns t ON t.run_id = k.run_id
LEFT JOIN runbook_fleet.submissions s ON s.run_id = k.run_id
LEFT JOIN LATERAL (
    SELECT w.run_id, CASE WHEN w.state = 'running' THEN w.host ELSE '' END AS holds
    FROM runbook_fleet.turns w JOIN runbook_fleet.submissions o ON o.run_id = w.run_id
    WHERE t.state = 'queued' AND w.state <> 'over' AND o.lock = s.lock AND s.lock <> '' AND {UNCLOSED.format(turn="w")}
        AND (w.state = 'running' OR o.label = s.label AND (o.due_at, o.run_id) < (s.due_at, s.run_id))
    ORDER BY w.state = 'queued', o.due_at, o.run_id LIMIT 1
) a ON true
"""
)
_SUBMITTED = "SELECT run_id FROM runbook_fleet.submissions"
_SUBMITTED_BEGINNING = f"{_SUBMITTED} WHERE run_id LIKE $1 ORDER BY run_id = $2 DESC, run_id LIMIT 6"
_SUBMITTED_LAST = f"{_SUBMITTED} ORDER BY submitted_at DESC, run_id DESC LIMIT 1"


def find_elsewhere(name: str, databases: Mapping[str, str]) -> Elsewhere | None:
    """The run, or the submission that has not begun, that `name` means in the audits of `databases` (URLs by connection name;
    none: of the project) and that is not on this disk. Raises NoSuchRun where more than one is meant, or ServerError.
    """
    return _search(name, databases)[0]


def locate(name: str, databases: Mapping[str, str]) -> Path | Elsewhere:
    """The folder of the run that `name` means on this disk, else where it is. Raises NoSuchRun, which says where was looked."""
    try:
        return find_run(name)
    except NoSuchRun:
        found, looked, troubles = _search(name, databases)
        if found is not None:
            return found
        here = [path.name for path in all_runs()]
        if any(run.startswith(name) for run in here):
            raise
        if troubles:
            raise NoSuchRun(_unseen(name, looked, troubles)) from None
        none = f"there is no run `{name}` in" if here else "there are no runs in"
        tried = [f"nor is `{name}` in {target}" for target in looked] or [NOWHERE]
        hint = did_you_mean(name, here[-200:])
        raise NoSuchRun("; ".join(filter(None, [f"{none} {runs_folder()}", *tried, hint]))) from None


def _unseen(name: str, looked: Sequence[str], troubles: Sequence[str]) -> str:
    """That nobody knows whether there is such a run, since an audit could not be looked into."""
    places = " or in ".join([str(runs_folder()), *looked])
    return f"an audit does not answer: {'; '.join(troubles)}; `{name}` may be there: it is not in {places}"


def _search(name: str, databases: Mapping[str, str]) -> tuple[Elsewhere | None, list[str], list[str]]:
    """What was found, in which audits was looked, and why others could not be looked into."""
    from runbook.operate.audits import open_audits

    here = {path.name for path in all_runs() if path.name.startswith(name)}
    with open_audits(databases) as audits:
        places: dict[str, str] = {}
        for target, connection in audits.found.items():
            for run_id in _named(connection, name):
                places.setdefault(run_id, target)
        run_id = _one(name, set(places) | here)
        if run_id in places and not has_journal(runs_folder() / run_id):
            target = places[run_id]
            return _elsewhere(run_id, target, audits.found[target]), [], []
        return None, list(audits.found), audits.troubles


def _one(name: str, known: set[str]) -> str:
    """The one that is meant; empty where there is none. Raises NoSuchRun."""
    if name == "last" or name in known or len(known) < 2:
        return name if name in known else max(known, default="")
    raise NoSuchRun(f"`{name}` could be {', '.join(sorted(known)[:5])}")


def _named(connection: Connection, name: str) -> list[str]:
    from runbook.database.connect import translated
    from runbook.fleet.schema import present
    from runbook.records.audit import queries

    last = name == "last"
    pattern = name.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%") + "%"
    asked = [queries()["newest_run" if last else "runs_beginning"]]
    if present(connection):
        asked.append(_SUBMITTED_LAST if last else _SUBMITTED_BEGINNING)
    with translated():
        rows = [row for text in asked for row in connection.execute(text.encode(), [] if last else [pattern, name])]
    return [row[0] for row in rows if is_run_id(row[0])]


def _elsewhere(run_id: str, target: str, connection: Connection) -> Elsewhere:
    from psycopg.conninfo import make_conninfo

    from runbook.fleet.schema import present

    info = connection.info
    url = make_conninfo("", **{**info.get_parameters(), **({"password": info.password} if info.password else {})})
    fleet = present(connection)
    return Elsewhere(run_id, target, url, fleet, standing(connection, run_id, fleet))


def standing(connection: Connection, run_id: str, fleet: bool) -> Standing:
    """How a run stands; `fleet` says whether there are submissions. Raises ServerError."""
    from runbook.database.connect import translated

    with translated():
        row = connection.execute((_WITH_TURN if fleet else _ALONE).encode(), [run_id]).fetchone()
    assert row is not None
    values: list[Any] = [float(value) if isinstance(value, Decimal) else value for value in row]
    return Standing(*values)


@contextmanager
def way_to(elsewhere: Elsewhere) -> Iterator[Callable[[], Connection]]:
    """What connects to the audit of a run, again and again; the private PostgreSQL of the project stays up meanwhile."""
    from runbook.database.embedded import EmbeddedError, kept_databases

    def connected() -> Connection:
        from runbook.database.connect import connect, translated

        connection = connect(elsewhere.url, "runbook elsewhere", connect_timeout=PATIENCE)
        with translated():
            connection.execute(f"SET statement_timeout = '{STATEMENT_SECONDS}s'".encode())
        return connection

    with ExitStack() as stack:
        with suppress(EmbeddedError):  # then the audit is not in it, or does not answer, which is told there
            stack.enter_context(kept_databases(project_here() / "embedded"))
        yield connected


def waiting_text(run_id: str, found: Standing) -> str:
    """Why a submitted run has not begun, for people."""
    if found.state == "running":
        return f"run {run_id} was taken by a worker on {found.host}, and begins"
    if found.holds and found.due <= 0:
        why = f"run {run_id} {_behind(found, f'running on {found.holds}')}"
    elif found.because:
        why = f"run {run_id} waits again: {found.because}"
    elif found.due > 0:
        why = f"run {run_id} may begin at {datetime.fromtimestamp(found.now + found.due).astimezone():%Y-%m-%d %H:%M:%S %Z}"
    elif found.ahead:
        what = f"label {found.label}" if found.label else "any worker"
        why = f"run {run_id} {_behind(found, f'waiting for {what}')}"
    elif found.before:
        why = f"run {run_id} is queued behind {found.before} other{'s' if found.before > 1 else ''}"
    else:
        why = f"run {run_id} is queued and comes next"
    return why if found.takers else f"{why}; no worker takes it: start one with `{cure_of(found.label)}`"


def _behind(found: Standing, how: str) -> str:
    return f"waits behind run {found.ahead}, which has the lock `{found.lock}` ({how})"


def cure_of(label: str) -> str:
    """The command that starts a worker for runs with that label."""
    return f"runbook worker --label {shlex.quote(label)}" if label else "runbook worker"


def takers(connection: Connection, label: str) -> int:
    """How many workers are seen that take runs with that label. Raises ServerError."""
    from runbook.database.connect import translated

    with translated():
        row = connection.execute(f"SELECT {_TAKERS.format(label='$1::text')}".encode(), [label]).fetchone()
    return int(row[0]) if row else 0
