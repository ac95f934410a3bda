"""Fingerprints of the relations that were read: what they are, told by the server, without anything that a restore changes.

A relation that a statement touches is locked until the transaction, or the savepoint before it, is rolled back: so the locks
of the session itself say what was read, by whatever view or function.
"""

from __future__ import annotations

import hashlib
import select
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import psycopg
from psycopg import pq

from runbook.database.connect import Connection, ServerError, translated
from runbook.language.values import dumps

MOST = 500  # relations of one connection
WITHIN = 3.0  # seconds in which the server must answer
_FIRST = 16384  # the first OID that is not the server's own
# Whatever a check has set is still in force: no name and no operator may be looked for on its search path.
_TOUCHED = """\
SELECT l.relation FROM pg_catalog.pg_lock_status() AS l
WHERE l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"""
# What is told must not depend on how the session shows things; nobody's lock is waited for.
_PLAINLY = """\
SELECT pg_catalog.set_config(name, value, true) FROM (VALUES ('search_path', ''), ('lock_timeout', '200ms'),
  ('statement_timeout', '2s'), ('TimeZone', 'UTC'), ('DateStyle', 'ISO, MDY'), ('IntervalStyle', 'postgres'),
  ('bytea_output', 'hex'), ('extra_float_digits', '1'), ('quote_all_identifiers', 'off')) AS settings (name, value)"""
# Three plain questions instead of a join, which would take the server twice as long to plan as all of them to answer.
_DEFINITIONS = """\
SELECT oid, oid::regclass, relnamespace::regnamespace, relkind,
  CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(oid) WHEN relkind = 'p' THEN pg_get_partkeydef(oid) END,
  CASE WHEN relispartition THEN (SELECT inhparent FROM pg_inherits WHERE inhrelid = oid) END
FROM pg_class WHERE oid = ANY (ARRAY[{oids}]::oid[]) AND relkind IN ('r', 'p', 'v', 'm', 'f');
SELECT attrelid, json_agg(json_build_array(attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated,
  CASE WHEN attcollation NOT IN (0, 100) THEN attcollation::regcollation END) ORDER BY attnum)
FROM pg_attribute WHERE attrelid = ANY (ARRAY[{oids}]::oid[]) AND attnum > 0 AND NOT attisdropped GROUP BY attrelid;
SELECT adrelid, json_agg(json_build_array((SELECT attname FROM pg_attribute WHERE attrelid = adrelid AND attnum = adnum),
  pg_get_expr(adbin, adrelid)) ORDER BY adnum)
FROM pg_attrdef WHERE adrelid = ANY (ARRAY[{oids}]::oid[]) GROUP BY adrelid"""

_Row = list[str | None]


class Reads:
    """What was read on one connection so far: what each relation is, as a hash by its name, `public.postings`.

    The server is asked when a snapshot has ended, and its answer fetched when that is needed. Where it cannot be found out,
    nothing more is asked: what is then missing is missing.
    """

    def __init__(self) -> None:
        self.relations: dict[str, str] = {}
        self._statements: set[str] = set()
        self._touched: set[int] = set()
        self._known: set[int] = set()
        self._asked: Connection | None = None
        self._off = False

    def undo(self, connection: Connection, statement: str, rollback: str) -> bool:
        """Executes `rollback` after a statement, having noted what that touched; whether it was done."""
        if self._off or statement in self._statements:
            return False
        try:
            with translated():
                connection.pgconn.send_query(f"{_TOUCHED}; {rollback}".encode())
                locked, _ = _results(connection.pgconn)
        except (ServerError, ValueError):
            self._off = True
            return False
        self._statements.add(statement)
        found = (int(oid) for row in range(locked.ntuples) if (oid := locked.get_value(row, 0)))
        self._touched.update(oid for oid in found if oid >= _FIRST)
        return True

    def ask(self, connection: Connection) -> None:
        """Asks what has been touched for the first time; until `fetch`, the connection is good for nothing else."""
        new = sorted(self._touched - self._known)[: MOST - len(self._known)]
        if not new or self._off or self._asked is not None:
            return
        self._known.update(new)
        oids = ", ".join(map(str, new))
        try:
            with translated():
                connection.pgconn.send_query(f"{_PLAINLY}; {_DEFINITIONS.format(oids=oids)}".encode())
        except ServerError:
            self._off = True
            return
        self._asked = connection

    def fetch(self) -> dict[str, str]:
        """All that was read so far, the server's answer included. What was read before stays as it was then."""
        connection, self._asked = self._asked, None
        if connection is not None and not connection.closed:
            try:
                with translated():
                    _, *told = _results(connection.pgconn, WITHIN)
                relations, columns, defaults = map(_rows, told)
                self.relations = {**_hashed(relations, columns, defaults, self._known), **self.relations}
            except ServerError as error:
                self._off = True
                if error.lost:
                    connection.close()
        return self.relations


def _results(pgconn: pq.abc.PGconn, seconds: float | None = None) -> list[pq.abc.PGresult]:
    """What each of the statements that were sent gave. Raises psycopg.Error, or ServerError after so many seconds.

    Without the driver's cursor, which costs more than the question; signals are heard meanwhile.
    """
    found: list[pq.abc.PGresult] = []
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    while True:
        while pgconn.is_busy():
            if not poll.poll(None if seconds is None else seconds * 1000):
                raise ServerError("the server does not answer", lost=True)
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            break
        found.append(result)
    if not found or found[-1].status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
        raise psycopg.errors.error_from_result(found[-1]) if found else psycopg.OperationalError("no answer")
    return found


def _rows(result: pq.abc.PGresult) -> list[_Row]:
    return [[_text(result.get_value(row, column)) for column in range(result.nfields)] for row in range(result.ntuples)]


def _text(value: bytes | None) -> str | None:
    return None if value is None else bytes(value).decode("utf-8", "backslashreplace")


def _hashed(
    relations: Iterable[_Row], columns: Iterable[_Row], defaults: Iterable[_Row], known: Collection[int]
) -> dict[str, str]:
    """Each relation's hash by its name; left out are the server's own, and partitions of those that are `known`:
    which of these are read depends on the plan."""
    attributes, expressions = ({row[0]: row[1] for row in rows} for rows in (columns, defaults))
    found = {}
    for oid, name, schema, kind, definition, parent in relations:
        if schema is None or schema == "information_schema" or schema.startswith("pg_") or int(parent or 0) in known:
            continue
        text = dumps([name, kind, definition, attributes.get(oid), expressions.get(oid)])
        found[name or ""] = hashlib.sha256(text.encode()).hexdigest()
    return found


def whole(relations: Mapping[str, str]) -> dict[str, Any]:
    """The fingerprint of all that was read, and those of its parts, by name."""
    ordered = {name: relations[name] for name in sorted(relations)}
    return {"fingerprint": hashlib.sha256(dumps(ordered).encode()).hexdigest(), "relations": ordered}
