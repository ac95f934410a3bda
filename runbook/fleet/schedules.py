"""Schedules in force: which ticks are due, and the one row that each of them gets, however many workers look."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, NamedTuple

from runbook.database.connect import Connection, ServerError, translated
from runbook.fleet.cron import next_tick, ticks
from runbook.fleet.turns import keep_files
from runbook.language.problems import RunbookError
from runbook.language.values import dumps
from runbook.records.audit import storable

PATIENCE = timedelta(minutes=10)  # by which a tick may be late and still be run
MOST = 1000  # missed ticks that get a row each
COUNTED = 100_000  # missed ticks that are counted
SHOWN = 5  # ticks of a schedule that a listing has
_MOMENT = timedelta(microseconds=1)
_NOBODY = "no worker was there"

Submit = Callable[[Mapping[str, Any], datetime], str]


class Tick(NamedTuple):
    """What became of one tick: submitted as `run_id`, skipped for the sake of `run_id`, or missed."""

    schedule: str
    tick: datetime
    outcome: str
    run_id: str | None
    because: str


_GIVEN = (
    *("name", "file", "sha256", "files", "cron", "timezone", "params"),
    *("on_overlap", "options", "label", "lock", "rerun", "operator", "host"),
)
_ENABLE = f"""
INSERT INTO runbook_fleet.schedules ({", ".join(_GIVEN)}, next_tick)
VALUES ({", ".join(f"${index}" for index in range(1, len(_GIVEN) + 2))})
ON CONFLICT (name) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in _GIVEN[1:])},
    next_tick = excluded.next_tick, enabled = true, changed_at = clock_timestamp()
"""
_DISABLE = """
UPDATE runbook_fleet.schedules SET enabled = false, changed_at = clock_timestamp() WHERE name = $1 AND enabled RETURNING name
"""
_DUE = """
SELECT name FROM runbook_fleet.schedules WHERE enabled AND next_tick <= clock_timestamp() ORDER BY next_tick, name
"""
_TAKE = """
SELECT *, clock_timestamp() AS now FROM runbook_fleet.schedules
WHERE name = $1 AND enabled AND next_tick <= clock_timestamp() FOR UPDATE SKIP LOCKED
"""
_KNOWN = "SELECT FROM runbook_fleet.ticks WHERE schedule = $1 AND tick = $2"
_GOING_ON = """
SELECT t.run_id FROM runbook_fleet.turns t JOIN runbook_fleet.submissions s USING (run_id)
WHERE t.state <> 'over' AND s.schedule = $1 ORDER BY t.run_id DESC LIMIT 1
"""
_RECORD = """
INSERT INTO runbook_fleet.ticks (schedule, tick, outcome, run_id, because, host) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
"""
_LIST = "SELECT *, clock_timestamp() AS now FROM runbook_fleet.schedules ORDER BY name"
_LAST = """
SELECT s.name AS schedule, k.tick, k.outcome, k.run_id, k.because, k.host, k.noticed_at, t.state, c.verdict
FROM runbook_fleet.schedules s
CROSS JOIN LATERAL (SELECT * FROM runbook_fleet.ticks k WHERE k.schedule = s.name ORDER BY k.tick DESC LIMIT $1) k
LEFT JOIN runbook_fleet.turns t ON t.run_id = k.run_id
LEFT JOIN runbook.closings c ON c.run_id = k.run_id
ORDER BY s.name, k.tick DESC
"""


def enable(connection: Connection, facts: Mapping[str, Any], contents: Iterable[bytes] = ()) -> datetime:
    """Puts a schedule in force, in the place of an earlier one of that name, and gives its first tick from now on, in UTC.

    `facts` are the columns of `schedules` but `next_tick`, `contents` the texts whose hashes they name. Raises ServerError.
    """
    with translated(), connection.transaction():
        keep_files(connection, contents)
        for replaced in _rows(connection, _TAKE, [facts["name"]]):
            for tick in _missed(replaced, replaced["next_tick"] - _MOMENT, replaced["now"]):
                connection.execute(_RECORD, [*tick, facts["host"]])
        first = next_tick(facts["cron"], facts["timezone"], _now(connection))
        stored = {name: facts[name] for name in _GIVEN}
        for name in ("files", "params", "options"):
            stored[name] = dumps(storable(stored[name]))
        connection.execute(_ENABLE.encode(), [*stored.values(), first])
    return first


def disable(connection: Connection, name: str) -> bool:
    """Ends a schedule; whether it was in force. Raises ServerError."""
    with translated():
        return connection.execute(_DISABLE, [name]).fetchone() is not None


def listing(connection: Connection) -> list[dict[str, Any]]:
    """Every schedule by name: its columns, `now` on the server's clock, and its last `ticks`, newest first, with what became of
    their runs (`state`, `verdict`). Raises ServerError.
    """
    with translated(), connection.transaction():
        rows = _rows(connection, _LIST, [])
        last = _rows(connection, _LAST, [SHOWN])
    known = {name: list(found) for name, found in groupby(last, key=lambda row: row.pop("schedule"))}
    return [{**row, "ticks": known.get(row["name"], [])} for row in rows]


def fire_due(connection: Connection, host: str, submit: Submit) -> list[Tick]:
    """Sees to every tick that is due on the server's clock and that nobody saw to, and tells what became of each.

    Only the newest tick of a schedule is submitted, and only within PATIENCE; `submit` is given the schedule's columns and the
    tick, within the transaction that records it. Raises ServerError or NoZone, once the other schedules were seen to.
    """
    with translated():
        names = [row[0] for row in connection.execute(_DUE)]
    seen_to: list[Tick] = []
    failed: RunbookError | None = None
    for name in names:
        try:
            with translated(), connection.transaction():
                for schedule in _rows(connection, _TAKE, [name]):
                    seen_to += _see_to(connection, schedule, schedule.pop("now"), host, submit)
        except RunbookError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    return seen_to


def _see_to(
    connection: Connection, schedule: Mapping[str, Any], now: datetime, host: str, submit: Submit
) -> list[Tick]:
    """What becomes of the due ticks of one schedule, whose row is locked."""
    name, cron, timezone = schedule["name"], schedule["cron"], schedule["timezone"]
    start = schedule["next_tick"] - _MOMENT
    newest = ticks(cron, timezone, max(start, now - PATIENCE - _MOMENT), now)[-1:]
    found = [_fired(connection, schedule, tick, submit) for tick in newest if not _known(connection, name, tick)]
    found = [*_missed(schedule, start, newest[0] - _MOMENT if newest else now), *found]
    following = next_tick(cron, timezone, now)
    connection.execute("UPDATE runbook_fleet.schedules SET next_tick = $2 WHERE name = $1", [name, following])
    for tick in found:
        connection.execute(_RECORD, [*tick, host])
    return found


def _missed(schedule: Mapping[str, Any], start: datetime, until: datetime) -> list[Tick]:
    """A row for each tick that came later than `start` and up to `until`; one for all of them where they are too many."""
    name, cron, timezone = schedule["name"], schedule["cron"], schedule["timezone"]
    found = ticks(cron, timezone, start, until, MOST + 1)
    if len(found) <= MOST:
        return [Tick(name, tick, "missed", None, _NOBODY) for tick in found]
    found = ticks(cron, timezone, start, until, COUNTED + 1)
    number = f"{len(found)}" if len(found) <= COUNTED else f"more than {COUNTED}"
    because = f"{_NOBODY} for {number} ticks, from this one up to {until.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return [Tick(name, found[0], "missed", None, because)]


def _fired(connection: Connection, schedule: Mapping[str, Any], tick: datetime, submit: Submit) -> Tick:
    name = schedule["name"]
    if schedule["on_overlap"] == "skip":
        for row in connection.execute(_GOING_ON, [name]):
            return Tick(name, tick, "skipped", row[0], f"run {row[0]} was not over")
    try:
        with connection.transaction():
            return Tick(name, tick, "submitted", submit(schedule, tick), "")
    except ServerError:
        raise  # the next look may find the server well
    except RunbookError as error:
        return Tick(name, tick, "missed", None, storable(f"it could not be submitted: {error}"))


def _known(connection: Connection, name: str, tick: datetime) -> bool:
    return connection.execute(_KNOWN, [name, tick]).fetchone() is not None


def _now(connection: Connection) -> datetime:
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    now: datetime = row[0]
    return now


def _rows(connection: Connection, query: str, values: list[Any]) -> list[dict[str, Any]]:
    cursor = connection.execute(query.encode(), values)
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor]
