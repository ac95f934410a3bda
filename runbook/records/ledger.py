"""Reading the audit as a whole, run by run: from the database, or from an export of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby
from typing import Any, NamedTuple

from runbook import __version__
from runbook.database.connect import Connection, translated
from runbook.language.problems import RunbookError
from runbook.language.values import brief, dumps, loads
from runbook.records.audit import queries, schema_sql
from runbook.records.chain import moment

Row = Mapping[str, Any]
BATCH = 500  # runs that are read at a time
FORMAT = 1
TABLES = ("runs", "events", "closings", "chain")
SIDE_TABLES = ("leases", "migrations")
_ANY = (object,)


def _columns(texts: str, wholes: str, **others: tuple[type, ...]) -> dict[str, tuple[type, ...]]:
    return {**dict.fromkeys(texts.split(), (str,)), **dict.fromkeys(wholes.split(), (int,)), **others}


COLUMNS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "runs": _columns("run_id runbook title lock operator db_role host started_at sha256", "pid epoch", params=_ANY),
    "events": _columns("run_id at kind line previous hash", "seq epoch"),
    "closings": _columns(
        "run_id verdict finished_at last_hash runbook started_at",
        "number last_seq",
        exit_code=(int, type(None)),
        duration=(int, Decimal),
    ),
    "chain": _columns("kind run_id line previous head", "number"),
    "leases": _columns("lock run_id host operator since heartbeat", "epoch pid"),
    "migrations": _columns("applied_at", "version"),
}
# The reader's own settings, and what the owner of the database set for its role, change nothing of what is read.
_SESSION = """SET LOCAL search_path = pg_catalog; SET LOCAL row_security = off;
SET LOCAL "TimeZone" = 'UTC'; SET LOCAL "DateStyle" = 'ISO, YMD'"""
_STATEMENT, _ROW = 58, 11  # pg_trigger.tgtype: before update, delete and truncate a statement; before delete a row
_GUARDS = {
    **dict.fromkeys(((table, "append_only") for table in ("runs", "closings", "chain", "migrations")), _STATEMENT),
    ("events", "append_only"): _STATEMENT - 8,
    ("events", "pruned_only"): _ROW,
}
_FIND_GUARDS = """SELECT c.relname::text, t.tgname::text, t.tgtype::int, p.prosrc FROM pg_trigger t
JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
WHERE c.relnamespace = to_regnamespace('runbook') AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgqual IS NULL"""


class LedgerError(RunbookError):
    """What should be an audit cannot be read as one."""


class Bundle(NamedTuple):
    """All that the audit holds of one run: rows by table, as they stand there."""

    run_id: str
    tables: Mapping[str, list[Row]]


class Ledger(NamedTuple):
    """A whole audit. `bundles` can be read once; what `aside` gives (rows by table) is complete after that.

    `unguarded` are the triggers that should refuse changes and do not; `taken` says when an export was made.
    """

    bundles: Iterator[Bundle]
    aside: dict[str, list[Row]]
    unguarded: list[str]
    taken: str = ""


@contextmanager
def one_moment(connection: Connection) -> Iterator[None]:
    """A transaction in which all that is read is of one moment, and nothing can be written. Raises ServerError."""
    with translated(), connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        connection.execute("SET LOCAL statement_timeout = 0")
        yield


def misfit(table: str, row: Row) -> str:
    """What a row has in a column where nothing of that kind can stand; empty where there is no such column."""
    for name, types in COLUMNS[table].items():
        if name not in row:
            return f"has no column {name}"
        value = row[name]
        if (type(value) not in types and object not in types) or (isinstance(value, str) and not _is_text(value)):
            return f"{name} was changed: {brief(value)} cannot stand there"
    return ""


def _is_text(value: str) -> bool:
    return value.isascii() or value.encode("utf-8", "replace").decode() == value


def versions() -> list[int]:
    """The versions of the schema that this program knows."""
    return [
        int(number) for number in re.findall(r"INTO runbook\.migrations \(version\) VALUES \((\d+)\)", schema_sql())
    ]


def read_database(connection: Connection) -> Ledger:
    """The audit in a database, at one moment of it: the caller holds a REPEATABLE READ transaction. Raises ServerError."""
    with translated():
        connection.execute(_SESSION)
        found = {(table, name): (kind, body) for table, name, kind, body in connection.execute(_FIND_GUARDS)}
        aside = {table: _rows(connection, f"SELECT * FROM runbook.{table} ORDER BY 1") for table in SIDE_TABLES}
    bodies = dict(re.findall(r"CREATE FUNCTION runbook\.(\w+)\(\).*?AS \$\$(.*?)\$\$", schema_sql(), re.DOTALL))
    wanted = {
        guard: (kind, bodies["refuse_unpruned" if kind == _ROW else "refuse_change"]) for guard, kind in _GUARDS.items()
    }
    unguarded = [f"{table}: {name}" for (table, name), guard in wanted.items() if found.get((table, name)) != guard]
    return Ledger(_bundles(connection), aside, sorted(unguarded))


def _bundles(connection: Connection) -> Iterator[Bundle]:
    with translated():
        yield from _nameless(connection)
        last = ""
        while True:
            names = [row[0] for row in connection.execute(queries()["run_ids"], [last, BATCH])]
            if not names:
                break
            yield from _read(connection, names)
            last = names[-1]
        for (name,) in connection.execute(queries()["strays"]).fetchall():
            if name:
                yield from _read(connection, [name])


def _nameless(connection: Connection) -> Iterator[Bundle]:
    """The rows that are of no run: no run has an empty id."""
    query = "SELECT * FROM runbook.{} WHERE run_id IS NULL OR run_id = ''"
    tables = {table: _rows(connection, query.format(table)) for table in TABLES}
    if any(tables.values()):
        yield Bundle("", tables)


def _read(connection: Connection, names: list[str]) -> Iterator[Bundle]:
    found: dict[str, dict[str, list[Row]]] = {name: {table: [] for table in TABLES} for name in names}
    try:
        for table in TABLES:
            for row in _rows(connection, queries()[f"all_{table}"], [names]):
                found[row["run_id"]][table].append(row)
    except RecursionError:
        if len(names) == 1:
            raise LedgerError(f"run {names[0]} cannot be read: its params are nested too deeply") from None
        for name in names:
            yield from _read(connection, [name])
        return
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
    if table != "export" or header.get("format") != FORMAT or type(header.get("database")) is not str:
        raise LedgerError(f"this is no export of an audit (of format {FORMAT}): its first line does not say so")
    unguarded: list[str] = []
    aside: dict[str, list[Row]] = {table: [] for table in SIDE_TABLES}
    bundles = _exported(rows, aside, unguarded)
    return header["database"], Ledger(bundles, aside, unguarded, str(header.get("at", "")))


def _exported(rows: Iterator[tuple[str, Row]], aside: dict[str, list[Row]], unguarded: list[str]) -> Iterator[Bundle]:
    count = dict.fromkeys((*TABLES, *SIDE_TABLES), 0)
    ended: dict[str, Any] = {}

    def of_runs() -> Iterator[tuple[str, str, Row]]:
        for table, row in rows:
            if "end" in ended or table == "export" or (table in TABLES and any(aside.values())):
                raise LedgerError(f"the export is not whole: a line of `{table}` stands where none can be")
            if table == "end":
                ended.update({**row, "end": True})
                continue
            count[table] += 1
            if table in SIDE_TABLES:
                aside[table].append(row)
            else:
                yield str(row.get("run_id") or "").encode("utf-8", "backslashreplace").decode(), table, row

    for name, found in groupby(of_runs(), key=lambda item: item[0]):
        tables: dict[str, list[Row]] = {table: [] for table in TABLES}
        for _, table, row in found:
            if any(tables[later] for later in TABLES[TABLES.index(table) + 1 :]):
                raise LedgerError(f"the export is not in order: of run {name}, a line of `{table}` comes too late")
            tables[table].append(row)
        yield Bundle(name, tables)
    if ended.get("rows") != count or not isinstance(ended.get("unguarded"), list):
        raise LedgerError(f"the export is not whole: its last line should count {dumps(count)}")
    unguarded.extend(str(guard) for guard in ended["unguarded"])


def _parsed(lines: Iterable[str]) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(lines, 1):
        try:
            line.encode()
            data = loads(line)
            table, row = data["table"], data["row"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise LedgerError(f"line {number} of the export is no row of an audit") from None
        if table not in (*TABLES, *SIDE_TABLES, "export", "end") or not isinstance(row, dict):
            raise LedgerError(f"line {number} of the export is of an unknown table")
        yield table, row
