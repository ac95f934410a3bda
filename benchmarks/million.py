"""A generated audit of many runs, and how long it takes to ask it: each question beside a single look-up by primary key.

    python benchmarks/million.py --runs 1000000 --url postgresql://owner@host/empty_database

Without --url it uses the embedded PostgreSQL in --folder. The audit is made once and kept; its chain is real and verifies.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from runbook.database.connect import Connection, connect
from runbook.database.embedded import embedded_database
from runbook.language.values import dumps
from runbook.records import chain
from runbook.records.audit import migrate
from runbook.records.diff import compare
from runbook.records.history import Asked, from_audit, records_from
from runbook.records.journal import GENESIS
from runbook.records.journal import chain as hashed
from runbook.records.ledger import one_moment, read_database
from runbook.records.verify import verify

VERDICTS = ("passed",) * 90 + ("refuted",) * 4 + ("blocked",) * 3 + ("failed",) * 2 + ("errored",)
CODES = {"passed": 0, "refuted": 1, "blocked": 3, "failed": 4, "errored": 6}
FIRST = datetime(2023, 1, 1, tzinfo=UTC)
TEXT = """runbook: 1
name: {name}
connections:
  db: {{type: postgres, env: DATABASE_URL}}
state:
  t: {{sql: SELECT count(*) AS n FROM t}}
"""
KEYS = {
    "events": "ALTER TABLE runbook.events {} CONSTRAINT events_run_id_fkey {}",
    "closings": "ALTER TABLE runbook.closings {} CONSTRAINT closings_run_id_fkey {}",
    "number": "ALTER TABLE runbook.closings {} CONSTRAINT closings_number_fkey {}",
    "chain": "ALTER TABLE runbook.chain {} CONSTRAINT chain_run_id_fkey {}",
}
TARGETS = {"number": "FOREIGN KEY (number) REFERENCES runbook.chain"}
RUNS = "FOREIGN KEY (run_id) REFERENCES runbook.runs"
BATCH = 20_000


def made_run(number: int, started: datetime, dice: random.Random) -> dict[str, Any]:
    """One run: its row, its events as kind and data, its verdict."""
    name, verdict = f"flow_{dice.randrange(50)}", dice.choice(VERDICTS)
    run_id = f"{started:%Y%m%d_%H%M%S}-{started.microsecond // 1000:03d}-{number & 0xFFFF:04x}"
    params = {
        "workflow_id": dice.randrange(3000, 3200),
        "limit": dice.choice((50, 100, 500)),
        "mode": dice.choice(("batch", "single")),
    }
    before, delta = dice.randrange(10_000), dice.randrange(params["limit"])
    predicted = delta if verdict == "passed" else delta + 7
    seconds = dice.randrange(1000, 900_000) / 1000
    row = {
        "run_id": run_id, "runbook": name, "title": f"Flow {name}", "lock": name, "operator": f"operator_{dice.randrange(20)}",
        "host": f"host-{dice.randrange(4)}", "pid": dice.randrange(1000, 30000), "started_at": started, "epoch": number + 1,
        "sha256": hashlib.sha256(name.encode()).hexdigest(), "params": params,
    }  # fmt: skip
    ended = started + timedelta(seconds=seconds)
    done = {"verdict": verdict, "exit_code": CODES[verdict], "finished_at": ended, "duration": seconds}
    return {"row": row, "done": done, "events": list(events(row, done, before, delta, predicted))}


def events(
    row: dict[str, Any], done: dict[str, Any], before: int, delta: int, predicted: int
) -> Iterator[tuple[str, Any]]:
    own = {name: row[name] for name in ("runbook", "title", "lock", "operator", "host", "pid", "epoch")}
    run = {
        "id": row["run_id"],
        **own,
        "started_at": row["started_at"].isoformat(),
        "dry_run": False,
        "stamp": row["run_id"][:15],
    }
    versions = {"runbook file": f"sha256 {row['sha256']}"}
    connections = {"connections": {"db": "app on db as runner"}, "audit": "db", "embedded": [], "warnings": []}
    text = TEXT.format(name=row["runbook"])
    around = {"file": f"{row['runbook']}.yaml", "text": text, "versions": versions, **connections}
    declared = {
        "preflight": {}, "postconditions": {}, "steps": {"go": {"stage": "steps", "description": "", "line": 9}},
        "expectations": {"t.n": {"description": "", "line": 7}}, "step_expectations": {},
    }  # fmt: skip
    opened = {
        "run": run,
        "params": row["params"],
        "note": "",
        "journal": None,
        "labels": {"t": {}},
        "declared": declared,
    }
    yield "run.opened", {**opened, "circumstances": around}
    yield "snapshot.measured", {"which": "before", "state": {"t": {"n": before}}, "errors": {}, "duration": 0.004}
    expectation = {"of": "delta", "predicted": predicted, "tolerance": None, "because": "", "severity": "error"}
    yield "predictions.registered", {"expectations": {"t.n": expectation}}
    yield "step.started", {"step": "go", "stage": "steps", "attempt": 1, "what": "python flow.py"}
    ended = {"step": "go", "stage": "steps", "attempt": 1, "exit_code": 0, "duration": done["duration"], "because": ""}
    yield "step.ended", ended
    yield (
        "step.judged",
        {"step": "go", "verdict": "passed", "exit_code": 0, "duration": done["duration"], "attempts": 1, "because": ""},
    )
    yield (
        "snapshot.measured",
        {"which": "after", "state": {"t": {"n": before + delta}}, "errors": {}, "duration": 0.004},
    )
    judged = {
        "name": "t.n",
        "verdict": "passed" if predicted == delta else "refuted",
        "actual": delta,
        "because": "",
        "message": None,
    }
    yield "expectation.judged", judged
    yield "run.finished", {**done, "finished_at": done["finished_at"].isoformat(), "because": ""}


def fill(connection: Connection, runs: int) -> None:
    """Writes so many runs, one chain over all of them."""
    dice, head, number = random.Random(1), GENESIS, 0
    step = timedelta(days=3 * 365) / runs
    for text in KEYS.values():
        connection.execute(text.format("DROP", ""))
    for start in range(0, runs, BATCH):
        tables: dict[str, list[tuple[Any, ...]]] = {"runs": [], "events": [], "closings": [], "chain": []}
        for index in range(start, min(start + BATCH, runs)):
            made = made_run(index, FIRST + step * index, dice)
            head, number = add(tables, made, head, number)
        for table, rows in tables.items():
            copy(connection, table, rows)
        print(f"\r{min(start + BATCH, runs):,} of {runs:,} runs", end="", flush=True)
    print()
    for name, text in KEYS.items():
        connection.execute(text.format("ADD", TARGETS.get(name, RUNS)))
    connection.execute(
        "INSERT INTO runbook.leases SELECT DISTINCT ON (lock) lock, epoch, run_id, host, pid, operator, started_at, '-infinity'"
        " FROM runbook.runs ORDER BY lock, epoch DESC"
    )
    connection.execute("VACUUM ANALYZE runbook.runs, runbook.events, runbook.closings, runbook.chain")


COLUMNS = {
    "runs": (
        "run_id",
        "runbook",
        "title",
        "lock",
        "operator",
        "host",
        "pid",
        "started_at",
        "epoch",
        "sha256",
        "params",
        "db_role",
    ),
    "events": ("run_id", "epoch", "seq", "at", "kind", "line", "previous", "hash"),
    "closings": (
        "number",
        "run_id",
        "verdict",
        "exit_code",
        "finished_at",
        "duration",
        "last_seq",
        "last_hash",
        "runbook",
        "started_at",
    ),
    "chain": ("number", "kind", "run_id", "line", "previous", "head"),
}


def add(tables: dict[str, list[tuple[Any, ...]]], made: dict[str, Any], head: str, number: int) -> tuple[str, int]:
    row, done = made["row"], made["done"]
    run_id, previous, first = row["run_id"], GENESIS, ""
    at = row["started_at"].isoformat(timespec="milliseconds")
    seq = 0
    for seq, (kind, data) in enumerate(made["events"], 1):
        line = dumps({"seq": seq, "at": at, "kind": kind, "data": data})
        digest = hashed(previous, line)
        tables["events"].append((run_id, row["epoch"], seq, at, kind, line, previous, digest))
        previous, first = digest, first or digest
    closing = {"run_id": run_id, **done, "last_seq": seq, "last_hash": previous}
    for kind, text in (("opened", chain.opened(row, "runner", first)), ("closed", chain.closed(closing))):
        number += 1
        before, head = head, hashed(head, text)
        tables["chain"].append((number, kind, run_id, text, before, head))
    tables["runs"].append((*(row[name] for name in COLUMNS["runs"][:-2]), dumps(row["params"]), "runner"))
    tables["closings"].append((number, *closing.values(), row["runbook"], row["started_at"]))
    return head, number


def copy(connection: Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
    with (
        psycopg.Cursor(connection) as cursor,
        cursor.copy(f"COPY runbook.{table} ({', '.join(COLUMNS[table])}) FROM STDIN") as lines,
    ):
        for row in rows:
            lines.write_row(row)


def best(question: Callable[[], Any], times: int) -> tuple[float, Any]:
    """The median time of a question in milliseconds, and its answer."""
    taken, answer = [], None
    for _ in range(times):
        began = time.perf_counter()
        answer = question()
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken), answer


def questions(connection: Connection) -> dict[str, Callable[[], Any]]:
    ids = [entry["id"] for entry in from_audit(connection, Asked(runbook="flow_7", limit=60))]
    day = datetime(2024, 12, 2, tzinfo=UTC)
    ask = lambda **wanted: lambda: from_audit(connection, Asked(**{"limit": 20, **wanted}))  # noqa: E731

    def changes() -> Any:
        return records_from(connection, [entry["id"] for entry in from_audit(connection, Asked(limit=10))])

    def diff() -> Any:
        found = records_from(connection, ids[:2])
        return compare(found[ids[0]], found[ids[1]]).differences

    return {
        "the last ten, with before, after and changes": changes,
        "what ran on Dec 2?": ask(since=day, until=day + timedelta(days=1), limit=None),
        "one runbook over time: 60 runs with all their records": lambda: records_from(connection, ids),
        "one run: before, after, delta, errors": lambda: records_from(connection, ids[:1]),
        "how long did it take: a runbook's last 100": ask(runbook="flow_7", limit=100),
        "what went wrong: failed": ask(verdict="failed"),
        "what went wrong with one runbook: errored": ask(runbook="flow_7", verdict="errored"),
        "by operator": ask(operator="operator_3"),
        "by a param that is rare": ask(params={"workflow_id": [3007]}),
        "by a param that is common": ask(params={"mode": ["batch"]}),
        "by params of one runbook": ask(runbook="flow_7", params={"workflow_id": [3007], "limit": [500]}),
        "an operator's failures in a month": ask(
            operator="operator_3", verdict="failed", since=day, until=day + timedelta(days=30)
        ),
        "a param and a verdict": ask(params={"workflow_id": [3007]}, verdict="errored"),
        "open runs": ask(verdict="open"),
        "diff of two runs": diff,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=1_000_000)
    options.add_argument("--url")
    options.add_argument("--folder", type=Path, default=Path("million"))
    options.add_argument("--verify", action="store_true", help="verify the whole audit as well")
    given = options.parse_args()
    with ExitStack() as stack:
        url = given.url or stack.enter_context(embedded_database(given.folder.absolute(), "million", [])).url
        connection = stack.enter_context(connect(url, "million"))
        migrate(connection)
        if not connection.execute("SELECT 1 FROM runbook.runs LIMIT 1").fetchone():
            began = time.perf_counter()
            fill(connection, given.runs)
            print(f"made in {time.perf_counter() - began:.0f} s")
        size = connection.execute(
            "SELECT count(*), pg_size_pretty(pg_database_size(current_database())) FROM runbook.runs"
        ).fetchone()
        print(f"{size[0]:,} runs, {size[1]}" if size else "")
        run_id = from_audit(connection, Asked(limit=1))[0]["id"]
        unit, _ = best(
            lambda: connection.execute("SELECT * FROM runbook.runs WHERE run_id = $1", [run_id]).fetchone(), 50
        )
        print(f"{'a look-up by primary key':<56} {unit:9.2f} ms")
        for name, question in questions(connection).items():
            taken, answer = best(question, 5)
            print(f"{name:<56} {taken:9.2f} ms  {taken / unit:8.1f} x  {len(answer):>6} found")
        if given.verify:
            began = time.perf_counter()
            with one_moment(connection):
                report = verify(read_database(connection))
            print(f"audit verify: {time.perf_counter() - began:.0f} s, sound: {report.sound}, {report.counts}")


if __name__ == "__main__":
    main()
