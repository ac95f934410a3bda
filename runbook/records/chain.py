"""The chain of the audit: the text of its entries, each of which repeats the row that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from runbook.language.values import dumps


def opened(row: Mapping[str, Any], db_role: str, first_hash: str) -> str:
    """The entry of a run that opens: its row, and the hash of its first event."""
    known = {**row, "started_at": moment(row["started_at"])}
    return _line("opened", row["run_id"], {**known, "db_role": db_role, "first_hash": first_hash})


def closed(row: Mapping[str, Any], trouble: str = "") -> str:
    """The entry of a run that closes: its row; `trouble` says why the user's own rows are not beside it."""
    known = {**row, "finished_at": moment(row["finished_at"])}
    return _line("closed", row["run_id"], {**known, **({"trouble": trouble} if trouble else {})})


def added(run_id: str, first_seq: int, last_seq: int, last_hash: str) -> str:
    """The entry of events that were added to a closed run, such as a note."""
    return _line("added", run_id, {"first_seq": first_seq, "last_seq": last_seq, "last_hash": last_hash})


def pruned(run_id: str, facts: Mapping[str, Any]) -> str:
    """The entry of a run whose events go: how many, up to which hash, by whom, when and why."""
    return _line("pruned", run_id, facts)


def _line(kind: str, run_id: str, facts: Mapping[str, Any]) -> str:
    return dumps({"kind": kind, "run": run_id, **{key: facts[key] for key in facts if key != "run_id"}})


def moment(value: datetime | str) -> str:
    """A time as the chain has it: UTC, ISO 8601, to the microsecond where it has any."""
    time = datetime.fromisoformat(value) if isinstance(value, str) else value
    return time.astimezone(UTC).isoformat()
