"""What ran: runs as rows, asked of an audit or of records, and whole records as an audit has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple, TypedDict

from runbook.database.connect import Connection, translated
from runbook.engine.record import Event, Record, apply, empty_record
from runbook.language.values import Jsonb, loads
from runbook.records.audit import queries
from runbook.records.chain import moment

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
    name the values that fit; no `limit` means all.
    """

    runbook: str | None = None
    verdict: str | None = None
    operator: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    params: Mapping[str, Sequence[Any]] = {}
    limit: int | None = None


def from_audit(connection: Connection, asked: Asked) -> list[Entry]:
    """The runs of an audit, newest first. Raises ServerError."""
    query = "history" if asked.verdict in (None, OPEN) else "history_of_verdict"
    one, other = (_params(asked.params, index) for index in (0, -1))
    values = [asked.runbook, asked.verdict, asked.operator, asked.since, asked.until, one, other, asked.limit]
    with translated():
        rows = connection.execute(queries()[query], values).fetchall()
    return [_entry(row) for row in rows]


def _params(params: Mapping[str, Sequence[Any]], index: int) -> Jsonb | None:
    return Jsonb({name: values[index] for name, values in params.items()}) if params else None


def _entry(row: Sequence[Any]) -> Entry:
    entry: Any = dict(zip(Entry.__annotations__, row, strict=True))
    for name in ("started_at", "finished_at"):
        entry[name] = _milliseconds(entry[name])
    return entry  # type: ignore[no-any-return]


def _milliseconds(time: Any) -> str | None:
    return None if time is None else datetime.fromisoformat(moment(time)).isoformat(timespec="milliseconds")


def entry_of(record: Record) -> Entry:
    """The row of a run that is known by its record."""
    run: Any = record["run"]
    digest = record["circumstances"].get("versions", {}).get("runbook file", "").removeprefix("sha256 ")
    names = (
        "id",
        "runbook",
        "title",
        "verdict",
        "exit_code",
        "started_at",
        "finished_at",
        "duration",
        "operator",
        "host",
    )
    entry: Any = {**{name: run.get(name) for name in names}, "params": record["params"], "sha256": digest}
    for name in ("started_at", "finished_at"):
        entry[name] = _milliseconds(entry[name])
    return entry  # type: ignore[no-any-return]


def fits(entry: Entry, asked: Asked) -> bool:
    """Whether a run is among those that are asked for."""
    started = datetime.fromisoformat(entry["started_at"])
    return all(
        (
            asked.runbook in (None, entry["runbook"]),
            asked.verdict in (None, entry["verdict"] or OPEN),
            asked.operator in (None, entry["operator"]),
            asked.since is None or started >= asked.since,
            asked.until is None or started < asked.until,
            any(_has(entry, {name: values[index] for name, values in asked.params.items()}) for index in (0, -1)),
        )
    )


def _has(entry: Entry, params: Mapping[str, Any]) -> bool:
    return all(_same(entry["params"].get(name, ...), value) for name, value in params.items())


def _same(found: Any, wanted: Any) -> bool:
    return found == wanted and isinstance(found, bool) == isinstance(wanted, bool)


def newest(entries: Sequence[Entry], limit: int | None) -> list[Entry]:
    """The newest of `entries`, newest first."""
    return sorted(entries, key=lambda entry: (entry["started_at"], entry["id"]), reverse=True)[:limit]


def records_from(connection: Connection, run_ids: Sequence[str]) -> dict[str, Record]:
    """The records of runs, by id, as an audit tells them; one whose events were pruned is not among them. Raises ServerError."""
    found = {run_id: empty_record() for run_id in run_ids}
    last: dict[str, str] = {}
    with translated():
        for run_id, line in connection.execute(queries()["lines"], [list(run_ids)]):
            data = loads(line)
            apply(found[run_id], Event(data["seq"], data["at"], data["kind"], data["data"]))
            last[run_id] = data["kind"]
        for run_id, kind, line, head in connection.execute(queries()["later_entries"], [list(run_ids)]):
            if kind == "closed" and run_id in last and not found[run_id]["audit"].get("status"):
                _close(found[run_id], line, head)
    return {run_id: found[run_id] for run_id in last}


def _close(record: Record, line: str, head: str) -> None:
    """What the run could only write down once the audit had it: that it was closed, and where its run log is."""
    trouble = loads(line).get("trouble", "") if line.startswith("{") else ""
    closed = {"status": "failed" if trouble else "confirmed", "head": head, "because": trouble}
    apply(record, Event(0, "", "audit.closed", closed))
    apply(record, Event(0, "", "report.written", {"path": record["run"].get("report_path") or None}))
