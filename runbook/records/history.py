"""What ran: runs as rows, asked of an audit or of records, and whole records as an audit has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple, TypedDict

from runbook.database.connect import Connection, translated
from runbook.engine.record import Event, Record, apply, empty_record
from runbook.language.values import Jsonb, dumps, loads, to_data
from runbook.records.audit import queries
from runbook.records.chain import moment

BATCH = 2000  # rows that are fetched at a time
OPEN = "open"  # asked for as a verdict: the runs that have none yet


class Entry(TypedDict):
    """One run; `verdict` is None while it is open, times are UTC in ISO 8601, `duration` is in seconds."""

    id: str
    runbook: str
    title: str
    verdict: str | None
    exit_code: int | None
    started_at: str
    finished_at: str | None
    duration: Decimal | int | None
    operator: str
    host: str
    params: dict[str, Any]
    sha256: str


class Asked(NamedTuple):
    """Which runs; what is None or empty does not matter. `since` is inclusive and `until` exclusive, `params` has for each
    name the one or two values that fit; no `limit` means all.
    """

    runbook: str | None = None
    verdict: str | None = None
    operator: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    params: Mapping[str, Sequence[Any]] = {}
    limit: int | None = None


def from_audit(connection: Connection, asked: Asked) -> Iterator[Entry]:
    """The runs of an audit, newest first, never all of them in memory. Raises ServerError."""
    from psycopg import RawServerCursor

    query, values = _question(asked)
    with translated(), connection.transaction(), RawServerCursor(connection, "runbook_history") as cursor:
        cursor.itersize = BATCH
        for row in cursor.execute(query.encode(), values):
            yield _entry(row)


def count_in_audit(connection: Connection, asked: Asked) -> int:
    """How many runs of an audit are asked for. Raises ServerError."""
    query, values = _question(asked)
    with translated():
        row = connection.execute(f"SELECT count(*) FROM ({query}) AS found".encode(), values).fetchone()
    return int(row[0]) if row else 0


def _question(asked: Asked) -> tuple[str, list[Any]]:
    """The query for what is asked, and its values. An index answers for the first param, each row is then asked for them all."""
    query = "history" if asked.verdict in (None, OPEN) else "history_of_verdict"
    first = dict([next(iter(asked.params.items()))]) if asked.params else {}
    one, other = (
        Jsonb({name: values[index] for name, values in first.items()}) if first else None for index in (0, -1)
    )
    ones, others = ([dumps(to_data(values[index])) for values in asked.params.values()] for index in (0, -1))
    known = [asked.runbook, asked.verdict, asked.operator, asked.since, asked.until]
    return queries()[query], [*known, one, other, list(asked.params), ones, others, asked.limit]


def _entry(row: Sequence[Any]) -> Entry:
    entry: Any = dict(zip(Entry.__annotations__, row, strict=True))
    if not isinstance(entry["params"], dict):
        entry["params"] = {}  # nothing that a run wrote
    return _timed(entry)


def _timed(entry: Any) -> Entry:
    for name in ("started_at", "finished_at"):
        entry[name] = _milliseconds(entry[name])
    return entry  # type: ignore[no-any-return]


def _milliseconds(time: Any) -> str | None:
    """A time in UTC; what PostgreSQL takes for one and no calendar has (infinity) as it stands."""
    if time is None:
        return None
    try:
        return datetime.fromisoformat(moment(time)).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError):
        return str(time)


def entry_of(record: Record) -> Entry:
    """The row of a run that is known by its record."""
    run: Any = record["run"]
    digest = record["circumstances"].get("versions", {}).get("runbook file", "").removeprefix("sha256 ")
    entry: Any = {name: run.get(name) for name in Entry.__annotations__}
    return _timed({**entry, "params": record["params"], "sha256": digest})


def fits(entry: Entry, asked: Asked) -> bool:
    """Whether a run is among those that are asked for."""
    try:
        started = datetime.fromisoformat(entry["started_at"])
    except (TypeError, ValueError):
        return False
    return all(
        (
            asked.runbook in (None, entry["runbook"]),
            asked.verdict in (None, entry["verdict"] or OPEN),
            asked.operator in (None, entry["operator"]),
            asked.since is None or started >= asked.since,
            asked.until is None or started < asked.until,
            all(_among(entry["params"].get(name, ...), values) for name, values in asked.params.items()),
        )
    )


def _among(found: Any, wanted: Sequence[Any]) -> bool:
    return any(found == value and isinstance(found, bool) == isinstance(value, bool) for value in wanted)


def age(entry: Entry) -> tuple[str, str]:
    """What runs are ordered by."""
    return entry["started_at"], entry["id"]


def records_from(connection: Connection, run_ids: Sequence[str]) -> dict[str, Record]:
    """The records of runs, by id, as an audit tells them. Raises ServerError.

    One whose events were pruned, or are no longer the events of a run, is not among them.
    """
    found = {run_id: empty_record() for run_id in run_ids}
    told: set[str] = set()
    broken: set[str] = set()
    with translated():
        for run_id, line in connection.execute(queries()["lines"], [list(run_ids)]):
            told.add(run_id)
            try:
                data = loads(line)
                apply(found[run_id], Event(data["seq"], data["at"], data["kind"], data["data"]))
            except (KeyError, TypeError, AttributeError, ValueError):
                broken.add(run_id)
        for run_id, kind, line, head in connection.execute(queries()["later_entries"], [list(run_ids)]):
            if kind == "closed" and run_id in told and not found[run_id]["audit"].get("status"):
                _close(found[run_id], line, head)
    return {run_id: found[run_id] for run_id in run_ids if run_id in told - broken}


def _close(record: Record, line: str, head: str) -> None:
    """What the run could only write down once the audit had it: that it was closed, and where its run log is."""
    trouble = ""
    with suppress(ValueError, AttributeError):
        trouble = loads(line).get("trouble", "")
    closed = {"status": "failed" if trouble else "confirmed", "head": head, "because": trouble}
    apply(record, Event(0, "", "audit.closed", closed))
    apply(record, Event(0, "", "report.written", {"path": record["run"].get("report_path") or None}))
