"""Connections to PostgreSQL: how they are opened, what values look like on the way in and out, the one door for errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

import psycopg
from psycopg import RawCursor, abc, adapt, pq
from psycopg.adapt import PyFormat
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg.types.numeric import Int4, Int4Dumper, Int8, Int8Dumper, IntNumeric, IntNumericDumper
from psycopg.types.string import StrDumperUnknown, TextLoader

from runbook.language.problems import RunbookError
from runbook.language.values import Jsonb, Output, dumps, to_data

Connection = psycopg.Connection[TupleRow]
CONNECT_TIMEOUT = 10
_SETTINGS: dict[str, Any] = {
    "connect_timeout": CONNECT_TIMEOUT,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


class ServerError(RunbookError):
    """PostgreSQL refused something.

    `position` is the offset from 0 in the statement, or None; `lost` says that the connection is gone.
    """

    def __init__(self, message: str, *, position: int | None = None, lost: bool = False, sqlstate: str = "") -> None:
        super().__init__(message)
        self.position, self.lost, self.sqlstate = position, lost, sqlstate


def connect(url: str, application: str, **settings: Any) -> Connection:
    """An autocommit connection that speaks UTF-8 and reads values losslessly. Raises ServerError."""
    with translated():
        given = conninfo_to_dict(url)
        options = {name: value for name, value in {**_SETTINGS, **settings}.items() if name not in given}
        conninfo = make_conninfo(url, application_name=application[:63], client_encoding="UTF8", **options)
        return psycopg.connect(
            conninfo, autocommit=True, prepare_threshold=None, cursor_factory=RawCursor, context=_adapters()
        )


def describe(url: str) -> str:
    """Where a URL leads, for people: database, host and user, without the password."""
    with translated():
        given = conninfo_to_dict(url)
    user = given.get("user") or "the default user"
    port = given.get("port")
    host = f"{given.get('host') or 'the local socket'}{f':{port}' if port and str(port) != '5432' else ''}"
    return f"{given.get('dbname') or user} on {host} as {user}"


def libpq_environment(url: str) -> dict[str, str]:
    """The `PG*` variables that make libpq programs connect as `url` says."""
    known = {option.keyword.decode(): option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar}
    given = conninfo_to_dict(url)
    return {known[name]: str(value) for name, value in given.items() if name in known}


def passwords(url: str) -> list[str]:
    """The passwords in `url`."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return []
    return [str(given[name]) for name in ("password", "sslpassword") if given.get(name)]


@contextmanager
def translated() -> Iterator[None]:
    """Driver errors become ServerError."""
    try:
        yield
    except psycopg.Error as error:
        raise server_error(error) from None
    except UnicodeEncodeError as error:
        raise ServerError(f"a text cannot be sent to the server: {error.reason}") from None


def server_error(error: psycopg.Error) -> ServerError:
    """What the server said, in one line or two, with its hint."""
    diag = error.diag
    text = diag.message_primary or str(error).strip() or type(error).__name__
    hint = diag.message_hint or ("write its type behind it: {{ … }}::text" if diag.sqlstate == "42P18" else None)
    parts = [text.removeprefix("connection failed: "), diag.message_detail, hint]
    lost = isinstance(error, psycopg.OperationalError) and (diag.sqlstate is None or diag.sqlstate[:2] in ("08", "57"))
    lost = (lost and diag.sqlstate != "57014") or diag.sqlstate == "53300"
    position = int(diag.statement_position) - 1 if diag.statement_position else None
    message = "; ".join(" ".join(part.split()) for part in parts if part)
    return ServerError(message, position=position, lost=lost, sqlstate=diag.sqlstate or "")


# --- values -------------------------------------------------------------------------------------------------------


class _LenientText(TextLoader):
    """Text as UTF-8; bytes that are not (an SQL_ASCII database) stay visible."""

    def load(self, data: abc.Buffer) -> str:
        return bytes(data).decode("utf-8", "backslashreplace")


def _or_text(base: type[abc.Loader]) -> type[adapt.Loader]:
    """A loader that gives the server's own text for values that Python has no type for (infinity, BC, 24:00)."""

    class OrText(adapt.Loader):
        def __init__(self, oid: int, context: abc.AdaptContext | None = None) -> None:
            super().__init__(oid, context)
            self._inner = base(oid, context)

        def load(self, data: abc.Buffer) -> Any:
            try:
                return self._inner.load(data)
            except (psycopg.DataError, ValueError, OverflowError):
                return bytes(data).decode("utf-8", "backslashreplace")

    return OrText


class _ExactFloat(adapt.Loader):
    """A float as the shortest decimal that the server prints for it."""

    def load(self, data: abc.Buffer) -> Decimal:
        return Decimal(bytes(data).decode())


class _ExactJson(adapt.Loader):
    """JSON with exact numbers."""

    def load(self, data: abc.Buffer) -> Any:
        return json.loads(bytes(data), parse_float=Decimal)


class _Context(NamedTuple):
    """What a new connection takes its adapters from."""

    adapters: adapt.AdaptersMap
    connection: None = None


_AS_TEXT = [
    *("uuid", "inet", "cidr", "macaddr", "macaddr8", "bit", "varbit", "interval", "money", "xml"),
    *("int4range", "int8range", "numrange", "daterange", "tsrange", "tstzrange"),
    *("int4multirange", "int8multirange", "nummultirange", "datemultirange", "tsmultirange", "tstzmultirange"),
]


@lru_cache(maxsize=1)
def _adapters() -> _Context:
    """psycopg's adapters with ours on top. Arrays take their items' loaders from here too."""
    adapters = adapt.AdaptersMap(psycopg.adapters)
    for name in ("text", "varchar", "bpchar", "name", '"char"', *_AS_TEXT):
        adapters.register_loader(adapters.types[name].oid, _LenientText)
    adapters.register_loader(0, _LenientText)
    for name in ("date", "time", "timetz", "timestamp", "timestamptz"):
        oid = adapters.types[name].oid
        loader = adapters.get_loader(oid, pq.Format.TEXT)
        assert loader is not None
        adapters.register_loader(oid, _or_text(loader))
    for name in ("float4", "float8"):
        adapters.register_loader(name, _ExactFloat)
    for name in ("json", "jsonb"):
        adapters.register_loader(name, _ExactJson)
    adapters.register_dumper(Jsonb, _JsonbDumper)
    adapters.register_dumper(int, _IntDumper)
    adapters.register_dumper(Output, StrDumperUnknown)
    return _Context(adapters)


def _int_type(number: int) -> type:
    if -(2**31) <= number < 2**31:
        return Int4
    return Int8 if -(2**63) <= number < 2**63 else IntNumeric


_INT_DUMPERS: dict[type, type[adapt.Dumper]] = {Int4: Int4Dumper, Int8: Int8Dumper, IntNumeric: IntNumericDumper}


class _IntDumper(adapt.Dumper):
    """Whole numbers as integer, bigint or numeric, but never smallint, whose arrays and functions are nobody's choice."""

    oid = psycopg.adapters.types["int4"].oid

    def get_key(self, obj: int, format: PyFormat) -> abc.DumperKey:
        return _int_type(obj)

    def upgrade(self, obj: int, format: PyFormat) -> adapt.Dumper:
        return _INT_DUMPERS[_int_type(obj)](int)

    def dump(self, obj: int) -> bytes:
        return str(obj).encode()


class _JsonbDumper(adapt.Dumper):
    """A value marked as jsonb, its decimals digit by digit."""

    oid = psycopg.adapters.types["jsonb"].oid

    def dump(self, obj: Any) -> bytes:
        return dumps(to_data(obj)).encode()


class Dumped(NamedTuple):
    """A statement with its values as the server reads them: texts, or None for null, and the numbers of their types."""

    query: str
    texts: list[str | None]
    types: list[int]


def dumped(query: str, values: list[Any]) -> Dumped:
    """The statement in a form that a journal can keep. Raises ServerError."""
    with translated():
        transformer = adapt.Transformer(_adapters())
        raw = transformer.dump_sequence(values, [PyFormat.TEXT] * len(values))
        texts = [None if value is None else bytes(value).decode() for value in raw]
        return Dumped(query, texts, list(transformer.types or ()))


def execute_dumped(connection: Connection, statement: Dumped) -> None:
    """Runs such a statement. Raises psycopg.Error."""
    values = [None if text is None else text.encode() for text in statement.texts]
    result = connection.pgconn.exec_params(statement.query.encode(), values, statement.types)
    if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
        raise psycopg.errors.error_from_result(result)


def bound(values: tuple[Any, ...]) -> list[Any]:
    """Values as the driver takes them; a mapping needs its type said. Raises ServerError."""
    for index, value in enumerate(values, 1):
        if isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(v, Mapping) for v in value)):
            raise ServerError(
                f"value ${index} is a mapping or has one in it; say what it is to be: {{{{ … | jsonb }}}}"
            )
        if isinstance(value, str) and "\x00" in value:
            raise ServerError(f"value ${index} has a NUL character, which PostgreSQL cannot store in text")
    return list(values)
