"""Audits as the program chains them, of as many runs as a test wants, without a database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runbook.language.values import dumps
from runbook.records import chain as entries
from runbook.records.journal import GENESIS, chain
from runbook.records.ledger import COLUMNS, TABLES, Bundle, Ledger, versions

AT = "2026-01-02T03:04:05.678+00:00"
END = {"verdict": "passed", "exit_code": 0, "finished_at": AT, "duration": 0}


def an_audit(runs: int, events: int) -> Iterator[Bundle]:
    """Closed runs with so many events each, as the program chains them."""
    head = GENESIS
    for number in range(runs):
        run = f"20260102_{number:08}"
        row = dict.fromkeys(COLUMNS["runs"], "x") | {"run_id": run, "started_at": AT, "pid": 1, "epoch": number + 1}
        row["params"] = {"n": number}
        found: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}
        previous = GENESIS
        for seq in range(1, events + 1):
            kind = "run.opened" if seq == 1 else "run.finished" if seq == events else "stage.entered"
            data = {"run": {"id": run}} if seq == 1 else END
            line = dumps({"seq": seq, "at": AT, "kind": kind, "data": data})
            event = {"run_id": run, "seq": seq, "at": AT, "kind": kind, "line": line, "previous": previous}
            previous = chain(previous, line)
            found["events"].append({**event, "hash": previous, "epoch": number + 1})
        closing = {"run_id": run, **END, "last_seq": events, "last_hash": previous}
        given = {key: row[key] for key in row if key != "db_role"}
        for kind, text in (
            ("opened", entries.opened(given, "x", found["events"][0]["hash"])),
            ("closed", entries.closed(closing)),
        ):
            entry = {"number": 2 * number + 1 + (kind == "closed"), "kind": kind, "run_id": run, "line": text}
            found["chain"].append({**entry, "previous": head, "head": chain(head, text)})
            head = chain(head, text)
        found["runs"].append(row)
        found["closings"].append({**closing, "number": 2 * number + 2, "runbook": "x", "started_at": AT})
        yield Bundle(run, found)


def a_ledger(runs: int = 3, events: int = 4) -> Ledger:
    lease = dict.fromkeys(COLUMNS["leases"], "x") | {"epoch": runs, "pid": 1, "since": AT, "heartbeat": "-infinity"}
    lease["run_id"] = f"20260102_{runs - 1:08}"
    made = [{"version": version, "applied_at": AT} for version in versions()]
    return Ledger(an_audit(runs, events), {"leases": [lease], "migrations": made}, [])
