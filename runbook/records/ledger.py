"""Reading the audit as a whole, run by run: from the database, or from an export of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, NamedTuple

from runbook import __version__
from runbook.database.connect import Connection, translated
from runbook.language.problems import RunbookError
from runbook.language.values import dumps, loads
from runbook.records.audit import queries
from runbook.records.chain import moment

Row = Mapping[str, Any]
BATCH = 500  # runs that are read at a time
FORMAT = 1
TABLES = ("runs", "events", "closings", "chain")
SIDE_TABLES = ("leases", "migrations")
GUARDS = {(table, "append_only") for table in (*TABLES, "migrations")} | {("events", "pruned_only")}


class LedgerError(RunbookError):
    """What should be an audit cannot be read as one."""


class Bundle(NamedTuple):
    """All that the audit holds of one run: rows by table, as they stand there."""

    run_id: str
    tables: Mapping[str, list[Row]]


class Ledger(NamedTuple):
    """A whole audit. `bundles` can be read once; what `aside` gives (rows by table) is complete after that.

    `unguarded` are the triggers that should refuse changes and do not.
    """

    bundles: Iterator[Bundle]
    aside: dict[str, list[Row]]
    unguarded: list[str]


@contextmanager
def one_moment(connection: Connection) -> Iterator[None]:
    """A transaction in which all that is read is of one moment, and nothing can be written. Raises ServerError."""
    with translated(), connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def read_database(connection: Connection) -> Ledger:
    """The audit in a database, to be read within `one_moment`. Raises ServerError."""
    with translated():
        guards = {tuple(row) for row in connection.execute(queries()["guards"])}
        aside = {table: _rows(connection, f"SELECT * FROM runbook.{table} ORDER BY 1") for table in SIDE_TABLES}
    unguarded = [f"{table}: {name}" for table, name in sorted(GUARDS - guards)]
    return Ledger(_bundles(connection), aside, unguarded)


def _bundles(connection: Connection) -> Iterator[Bundle]:
    with translated():
        last = ""
        while True:
            names = [row[0] for row in connection.execute(queries()["run_ids"], [last, BATCH])]
            if not names:
                break
            yield from _read(connection, names)
            last = names[-1]
        for (name,) in connection.execute(queries()["strays"]).fetchall():
            yield from _read(connection, [name])


def _read(connection: Connection, names: list[str]) -> Iterator[Bundle]:
    found: dict[str, dict[str, list[Row]]] = {name: {table: [] for table in TABLES} for name in names}
    for table in TABLES:
        for row in _rows(connection, queries()[f"all_{table}"], [names]):
            found[row["run_id"]][table].append(row)
    for name, tables in found.items():
        yield Bundle(name, tables)


def _rows(connection: Connection, query: str, values: list[Any] | None = None) -> list[Row]:
    cursor = connection.execute(query, values)
    names = [column.name for column in cursor.description or ()]
    return [{name: _plain(value) for name, value in zip(names, row, strict=True)} for row in cursor]


def _plain(value: Any) -> Any:
    return moment(value) if isinstance(value, datetime) else value


# --- an export ----------------------------------------------------------------------------------------------------


def export(ledger: Ledger, database: str) -> Iterator[str]:
    """The whole audit as JSON lines: a header, every row of every table run by run, and an end that counts them."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    yield _json("export", {"format": FORMAT, "program": __version__, "database": database, "at": now})
    count = dict.fromkeys((*TABLES, *SIDE_TABLES), 0)
    for bundle in ledger.bundles:
        for table, rows in bundle.tables.items():
            for row in rows:
                yield _json(table, row)
            count[table] += len(rows)
    for table, rows in ledger.aside.items():
        for row in rows:
            yield _json(table, row)
        count[table] += len(rows)
    yield _json("end", {"rows": count, "unguarded": ledger.unguarded})


def _json(table: str, row: Row) -> str:
    return dumps({"table": table, "row": row})


def newest_head(connection: Connection) -> str:
    """The head of the chain in a database; empty where nothing is chained yet."""
    row = connection.execute("SELECT head FROM runbook.chain ORDER BY number DESC LIMIT 1").fetchone()
    return str(row[0]) if row else ""


def read_export(lines: Iterable[str]) -> tuple[str, Ledger]:
    """Where the audit lay, for people, and the audit that an export holds. Raises LedgerError, also while bundles are read."""
    rows = _parsed(lines)
    table, header = next(rows, ("", {}))
    if table != "export" or header.get("format") != FORMAT:
        raise LedgerError(f"this is no export of an audit (of format {FORMAT}): its first line does not say so")
    unguarded: list[str] = []
    aside: dict[str, list[Row]] = {table: [] for table in SIDE_TABLES}
    return str(header["database"]), Ledger(_exported(rows, aside, unguarded), aside, unguarded)


def _exported(rows: Iterator[tuple[str, Row]], aside: dict[str, list[Row]], unguarded: list[str]) -> Iterator[Bundle]:
    count = dict.fromkeys((*TABLES, *SIDE_TABLES), 0)
    ended: dict[str, Any] = {}

    def of_runs() -> Iterator[tuple[str, str, Row]]:
        for table, row in rows:
            if table == "end":
                ended.update(row)
                unguarded.extend(row["unguarded"])
                continue
            count[table] += 1
            if table in SIDE_TABLES:
                aside[table].append(row)
            else:
                yield row["run_id"], table, row

    for name, found in groupby(of_runs(), key=lambda item: item[0]):
        tables: dict[str, list[Row]] = {table: [] for table in TABLES}
        for _, table, row in found:
            tables[table].append(row)
        yield Bundle(name, tables)
    if ended.get("rows") != count:
        raise LedgerError(f"the export is not whole: its last line should count {dumps(count)}")


def _parsed(lines: Iterable[str]) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(lines, 1):
        try:
            data = loads(line)
            table, row = data["table"], data["row"]
            known = table in TABLES and isinstance(row["run_id"], str)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise LedgerError(f"line {number} of the export is no row of an audit") from None
        if not known and table not in (*SIDE_TABLES, "export", "end"):
            raise LedgerError(f"line {number} of the export is of an unknown table")
        yield table, row
