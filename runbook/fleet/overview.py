"""The fleet at a glance: who works, what waits, what runs where, what ended, and what is scheduled. It only reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypedDict

from runbook.database.connect import Connection, translated
from runbook.fleet.elsewhere import SILENT, UNCLOSED, cure_of
from runbook.language.problems import InvalidRunbook
from runbook.language.values import dumps, loads, whole

RECENT = 600  # seconds
GONE = 300  # seconds without a sign of life after which a worker that has no run is told of no more
KEPT = 3600  # the same, where every worker is asked for, also those that ended
FEW, MARGIN = 500, 50  # closings that are looked at first for the recent ones, and before them
STATEMENT_SECONDS = 30  # in which the audit must answer


class Worker(TypedDict):
    """`running` of `concurrency` turns are taken; lengths are seconds; `silent` says that nobody knows whether it lives."""

    id: int
    host: str
    pid: int
    labels: list[str]
    running: int
    concurrency: int
    state: str
    since: str
    up: float
    seen_at: str
    seen: float
    silent: bool
    operator: str
    version: str


class Waiting(TypedDict):
    """What waits for workers with one label (empty: any): `locked` of the `waiting` do so behind a lock, whoever has it; `later`
    are others, whose time has not come. `cure` is what starts a worker, where there is none."""

    label: str
    waiting: int
    locked: int
    oldest: str | None
    waited: float | None
    later: int
    next: str | None
    until: float | None
    workers: int
    cure: str


class Running(TypedDict):
    """One run; `shown` are the names of the params that tell it from others: those that its experiment varies, else those that
    are not the default, else all. `progress` is a share of 1 of what was predicted.
    """

    run: str
    runbook: str
    experiment: str
    params: dict[str, Any]
    shown: list[str]
    host: str
    worker: int | None
    since: str
    elapsed: float
    stage: str
    step: str
    tries: int
    progress: float | None
    done: dict[str, Any]
    attempt: int
    stop: str | None
    seen: float
    silent: bool


class Scheduled(TypedDict):
    """A schedule; `until` is seconds to its next tick, which a disabled one has not."""

    name: str
    cron: str
    timezone: str
    next_tick: str | None
    until: float | None
    enabled: bool


class Fleet(TypedDict):
    """One fleet. `queue` has `waiting` and `later`, the sums, and `labels`; `recent` counts verdicts."""

    database: str
    workers: list[Worker]
    queue: dict[str, Any]
    running: list[Running]
    recent: dict[str, int]
    schedules: list[Scheduled]


def _iso(expression: str) -> str:
    return f"to_char({expression} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"+00:00\"')"


def _age(expression: str) -> str:
    return f"extract(epoch FROM clock_timestamp() - {expression})::float8"


_WORKERS = f"""
SELECT w.id, w.host, w.pid, w.labels, coalesce(t.running, 0), w.concurrency, w.state, {_iso("w.since")}, {_age("w.since")},
    {_iso("w.seen_at")}, {_age("w.seen_at")}, w.operator, w.version
FROM runbook_fleet.workers w
LEFT JOIN (SELECT r.worker, count(*) AS running FROM runbook_fleet.turns r
    WHERE r.state = 'running' AND {UNCLOSED.format(turn="r")} GROUP BY r.worker) t ON t.worker = w.id
WHERE w.state <> 'ended' AND (w.seen_at > clock_timestamp() - make_interval(secs => $1) OR t.running > 0)
    OR $2::boolean AND w.seen_at > clock_timestamp() - make_interval(secs => $3)
ORDER BY w.state = 'ended', w.host, w.id
"""
_QUEUE = f"""
WITH open AS (SELECT t.run_id, t.state, t.because, s.label, s.lock, s.due_at, s.due_at > statement_timestamp() AS later
    FROM runbook_fleet.turns t JOIN runbook_fleet.submissions s ON s.run_id = t.run_id
    WHERE t.state <> 'over' AND {UNCLOSED.format(turn="t")}),
queued AS (SELECT *, lock <> '' AND NOT later AND (
        row_number() OVER (PARTITION BY label, lock, later ORDER BY due_at, run_id) > 1
        OR lock IN (SELECT lock FROM open WHERE state = 'running')
        OR position('the lock `' || lock || '` is held' IN because) > 0) AS locked
    FROM open WHERE state = 'queued'),
labels AS (SELECT label, count(*) FILTER (WHERE NOT later) AS waiting, count(*) FILTER (WHERE locked) AS locked,
    min(due_at) FILTER (WHERE NOT later) AS oldest, count(*) FILTER (WHERE later) AS later,
    min(due_at) FILTER (WHERE later) AS next FROM queued GROUP BY label)
SELECT label, waiting, locked, {_iso("oldest")}, {_age("oldest")}, later, {_iso("next")}, -{_age("next")},
    (SELECT count(*) FROM runbook_fleet.workers w
        WHERE w.state = 'working' AND w.seen_at > clock_timestamp() - make_interval(secs => $1)
            AND (label = '' OR label = ANY(w.labels)))
FROM labels ORDER BY label
"""
_RUNNING = f"""
SELECT t.run_id, s.runbook, s.experiment, s.params::text, s.varied, s.sha256 || s.file || s.files::text,
    t.host, t.worker, {_iso("t.since")}, {_age("t.since")}, t.doing::text, s.attempt, nullif(t.stop, ''), {_age("t.seen_at")}
FROM runbook_fleet.turns t JOIN runbook_fleet.submissions s ON s.run_id = t.run_id
WHERE t.state = 'running' AND {UNCLOSED.format(turn="t")} ORDER BY t.since, t.run_id
"""
_RECENT = """
SELECT c.verdict, count(*) FROM (SELECT * FROM runbook.closings ORDER BY number DESC LIMIT $2) c
JOIN runbook_fleet.submissions s ON s.run_id = c.run_id
WHERE c.finished_at > clock_timestamp() - make_interval(secs => $1) GROUP BY c.verdict ORDER BY 2 DESC, 1
"""
# A lost run's end may be long before its closing, so that more than one of the older ones is asked.
_MORE = """
SELECT max(finished_at) > clock_timestamp() - make_interval(secs => $1)
FROM (SELECT finished_at FROM runbook.closings ORDER BY number DESC OFFSET $2 LIMIT $3) c
"""
_SCHEDULES = f"""
SELECT name, cron, timezone, {_iso("tick")}, -{_age("tick")}, enabled
FROM (SELECT *, CASE WHEN enabled THEN next_tick END AS tick FROM runbook_fleet.schedules) s ORDER BY NOT enabled, tick, name
"""


def look(connection: Connection, database: str, *, every: bool = False) -> Fleet:
    """The fleet of the audit in `database`; `every` worker is among them, also those that ended within the hour.

    Raises ServerError.
    """
    with translated():
        connection.execute(f"SET statement_timeout = '{STATEMENT_SECONDS}s'".encode())
        workers = connection.execute(_WORKERS.encode(), [GONE, every, KEPT]).fetchall()
        queue = connection.execute(_QUEUE.encode(), [SILENT]).fetchall()
        running = connection.execute(_RUNNING.encode()).fetchall()
        recent = connection.execute(_RECENT, [RECENT, _many(connection)]).fetchall()
        schedules = connection.execute(_SCHEDULES.encode()).fetchall()
    labels = [_waiting(row) for row in queue]
    defaults = _defaults(connection, running)
    return {
        "database": database,
        "workers": [_worker(row) for row in workers],
        "queue": {
            "waiting": sum(item["waiting"] for item in labels),
            "locked": sum(item["locked"] for item in labels),
            "later": sum(item["later"] for item in labels),
            "labels": labels,
        },
        "running": [_running(row, defaults) for row in running],
        "recent": {str(verdict): int(count) for verdict, count in recent},
        "schedules": [_scheduled(row) for row in schedules],
    }


def _many(connection: Connection) -> int:
    """How many of the newest closings have all the recent ones among them; an audit of any size is not read to its end."""
    many = FEW
    while (row := connection.execute(_MORE, [RECENT, many, MARGIN]).fetchone()) and row[0]:
        many *= 4
    return many + MARGIN


def _seconds(value: Any) -> float | None:
    return None if value is None else round(float(value), 1)


def _worker(row: Sequence[Any]) -> Worker:
    ident, host, pid, labels, running, concurrency, state, since, up, seen_at, seen, operator, version = row
    return {
        "id": ident,
        "host": host,
        "pid": pid,
        "labels": labels,
        "running": running,
        "concurrency": concurrency,
        "state": state,
        "since": since,
        "up": _seconds(up) or 0.0,
        "seen_at": seen_at,
        "seen": _seconds(seen) or 0.0,
        "silent": state != "ended" and seen > SILENT,
        "operator": operator,
        "version": version,
    }


def _waiting(row: Sequence[Any]) -> Waiting:
    label, waiting, locked, oldest, waited, later, following, until, workers = row
    return {
        "label": label,
        "waiting": waiting,
        "locked": locked,
        "oldest": oldest,
        "waited": _seconds(waited),
        "later": later,
        "next": following,
        "until": _seconds(until),
        "workers": workers,
        "cure": "" if workers else cure_of(label),
    }


def _defaults(connection: Connection, rows: Sequence[Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """The defaults of the runbooks of those runs that no experiment varies, by the text that was submitted; not where it cannot
    be read here. Raises ServerError.
    """
    found: dict[str, dict[str, Any]] = {}
    for key, run_id in {row[5]: row[0] for row in rows if not row[4] and loads(row[3])}.items():
        with suppress(InvalidRunbook, KeyError, ValueError):
            found[key] = _defaults_of(connection, run_id)
    return found


def _defaults_of(connection: Connection, run_id: str) -> dict[str, Any]:
    from runbook.fleet.adopt import Here, runbook_here
    from runbook.fleet.turns import submission
    from runbook.operate.runs import project_here
    from runbook.operate.seen import Seen

    item = submission(connection, run_id)
    assert item is not None
    runbook = runbook_here(connection, Here("", project_here(), {}), item, Seen())
    known = {name: schema["default"] for name, schema in runbook.params.items() if "default" in schema}
    return dict(loads(dumps(whole(known))))


def _shown(params: Mapping[str, Any], varied: Sequence[str], defaults: Mapping[str, Any] | None) -> list[str]:
    """The names of the params that tell a run from others of its runbook."""
    if varied or defaults is None:
        return list(varied or params)
    return [name for name, value in params.items() if name not in defaults or defaults[name] != value]


def _running(row: Sequence[Any], defaults: Mapping[str, Mapping[str, Any]]) -> Running:
    run, runbook, experiment, params, varied, text, host, worker, since, elapsed, doing, attempt, stop, seen = row
    told = _told(doing)
    done = told.get("done")
    done = done if isinstance(done, dict) else {}
    return {
        "run": run,
        "runbook": runbook,
        "experiment": experiment,
        "params": loads(params),
        "shown": _shown(loads(params), varied, defaults.get(text)),
        "host": host,
        "worker": worker,
        "since": since,
        "elapsed": _seconds(elapsed) or 0.0,
        "stage": str(told.get("stage") or ""),
        "step": str(told.get("step") or ""),
        "tries": told["attempt"] if isinstance(told.get("attempt"), int) else 0,
        "progress": progress(done),
        "done": done,
        "attempt": attempt,
        "stop": stop,
        "seen": _seconds(seen) or 0.0,
        "silent": seen > SILENT,
    }


def _told(doing: str | None) -> dict[str, Any]:
    found = loads(doing) if doing else {}
    return found if isinstance(found, dict) else {}


def progress(done: Mapping[str, Any]) -> float | None:
    """The share of what was predicted that is done, of the metric that is furthest behind; None where nothing tells it."""
    shares = []
    for pair in done.values():
        try:
            so_far, predicted = (float(number) for number in pair)
            shares.append(min(max(so_far / predicted, 0.0), 1.0))
        except (TypeError, ValueError, ZeroDivisionError):
            continue  # no pair of numbers, or no change predicted
    return round(min(shares), 3) if shares else None


def _scheduled(row: Sequence[Any]) -> Scheduled:
    name, cron, timezone, next_tick, until, enabled = row
    return {
        "name": name,
        "cron": cron,
        "timezone": timezone,
        "next_tick": next_tick,
        "until": _seconds(until),
        "enabled": enabled,
    }
