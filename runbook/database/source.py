"""The database that a copy is to be made of: where it is, what it is from outside, and whether it may be copied."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import class_row

from runbook.database.connect import Connection, ServerError, connect, describe, translated

AUDIT = "runbook"
LEAVING, PAUSE = 0.3, 0.05  # seconds
# Settings that are lists of names: each of these is to be quoted by itself.
NAME_LISTS = ("local_preload_libraries", "search_path", "session_preload_libraries", "temp_tablespaces")
# The user part ends at the first `@` that comes before a `/`, as libpq reads it.
_URI = re.compile(
    r"(?P<server>postgres(?:ql)?://(?:[^@/]*@)?(?:\[[^\]]*\]|[^/?\[])*)(?:/[^?]*)?(?:\?(?P<query>.*))?", re.S
)

_LOOK = """
SELECT d.datname::text AS name, d.oid::bigint AS oid, pg_database_size(d.oid) AS size, to_jsonb(d) AS row,
    pg_get_userbyid(d.datdba)::text AS owner, current_user::text AS role,
    r.rolsuper AS superuser, r.rolsuper OR r.rolcreatedb AS creates,
    pg_has_role(d.datdba, 'USAGE') AND pg_has_role(d.datdba, $1) AS owns,
    pg_encoding_to_char(d.encoding)::text AS encoding, t.spcname::text AS tablespace,
    to_regnamespace('public') IS NOT NULL AS has_public, pg_is_in_recovery() AS standby,
    pg_postmaster_start_time()::text AS server,
    (SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = $2
        AND EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = pg_namespace.oid AND relname = 'closings')) AS audit_owner,
    coalesce((SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = $2), true) AS owns_audit,
    ARRAY(SELECT coalesce(nullif(application_name, ''), 'without a name') FROM pg_stat_activity
        WHERE datid = d.oid AND pid <> pg_backend_pid() AND usesysid IS NOT NULL)
    || ARRAY(SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts WHERE database = d.datname) AS users,
    ARRAY(SELECT srvname::text FROM pg_foreign_server ORDER BY 1) AS foreign_servers
FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace, pg_roles r
WHERE d.datname = current_database() AND r.rolname = current_user
"""
_SETTINGS = """
SELECT r.rolname::text, split_part(item, '=', 1), substr(item, strpos(item, '=') + 1)
FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) AS item
WHERE s.setdatabase = $1::bigint::oid ORDER BY 1, 2
"""
_GRANTS = """
SELECT CASE WHEN grantee <> 0 THEN pg_get_userbyid(grantee)::text END, privilege_type, is_grantable
FROM pg_database, aclexplode(datacl) WHERE oid = $1::bigint::oid
"""


class Source(NamedTuple):
    """A database, and the role that looks at it.

    `size` is in bytes, `row` its line in pg_database, `server` tells one running server from all others, `users` names the
    other sessions and the prepared transactions in it. `audit_owner` is None where it has no audit. `version` is the
    server's major one, `password` the one that it was entered with.
    """

    name: str
    oid: int
    size: int
    row: dict[str, Any]
    owner: str
    role: str
    superuser: bool
    creates: bool
    owns: bool
    encoding: str
    tablespace: str
    has_public: bool
    standby: bool
    server: str
    audit_owner: str | None
    owns_audit: bool
    users: list[str]
    foreign_servers: list[str]
    version: int = 0
    password: str = ""


def look(url: str, read_url: str = "") -> Source:
    """The database of `url`, which may be copied. Raises ServerError where it may not, with the cure."""
    source = _seen(url)
    _refuse(source)
    if read_url and read_url != url:
        other = _seen(read_url)
        if (other.oid, other.server) != (source.oid, source.server):
            raise ServerError(
                f"the URL for reading leads to another place ({describe(read_url)}) than the one for writing ({describe(url)}),"
                " and a copy is in one place: unset the URL for reading, or let it lead to the same database"
            )
    return source


def _seen(url: str) -> Source:
    with closing(connect(url, "runbook")) as connection, translated():
        version = connection.info.server_version // 10000
        cursor = connection.cursor(row_factory=class_row(Source))
        values = ["SET" if version >= 16 else "MEMBER", AUDIT]
        deadline = time.monotonic() + LEAVING
        # A session that has just been closed is still there for a moment.
        while (found := cursor.execute(_LOOK, values).fetchone()) and found.users and time.monotonic() < deadline:
            time.sleep(PAUSE)
        assert found is not None
        return found._replace(version=version, password=connection.info.password)


def known_password(url: str) -> str:
    """The password for this database: a password file that says it need not say it for the server's other ones."""
    with suppress(ServerError), closing(connect(url, "runbook")) as connection:
        return connection.info.password
    return ""


def _refuse(source: Source) -> None:
    name, role, owner = source.name, source.role, source.owner
    if source.standby:
        raise ServerError(f"{name} is on a standby, where nothing can be copied: connect to the primary")
    if not source.creates:
        raise ServerError(
            f"role {role} may not create databases, so it cannot copy {name}: ALTER ROLE {_quoted(role)} CREATEDB"
        )
    if not source.owns:
        raise ServerError(
            f"role {role} may not copy {name}, which belongs to {owner}: connect as {owner}, or let {role} inherit its"
            f" rights: GRANT {_quoted(owner)} TO {_quoted(role)}"
        )
    if source.audit_owner is not None and not source.owns_audit:
        raise ServerError(
            f"role {role} may not take the audit out of a copy of {name}, since its schema {AUDIT} belongs to"
            f" {source.audit_owner}: connect as {source.audit_owner}, or GRANT {_quoted(source.audit_owner)} TO {_quoted(role)}"
        )


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)


def renamed(url: str, database: str) -> str:
    """`url`, a URI or a conninfo, with another database and nothing else changed. Raises ServerError."""
    with translated():
        wanted = {**conninfo_to_dict(url), "dbname": database}
        if found := _URI.fullmatch(url):
            words = [word for word in (found["query"] or "").split("&") if unquote(word.partition("=")[0]) != "dbname"]
            tail = "?" + "&".join(words) if any(words) else ""
            uri = f"{found['server']}/{quote(database, safe='')}{tail}"
            if conninfo_to_dict(uri) == wanted:
                return uri
        return make_conninfo("", **wanted)


def empty_like(source: Source) -> sql.Composed:
    """The options of CREATE DATABASE for an empty one with the source's encoding, locale and tablespace."""
    row = source.row
    given = {"ENCODING": source.encoding, "LC_COLLATE": row["datcollate"], "LC_CTYPE": row["datctype"]}
    provider = {"i": "icu", "b": "builtin"}.get(row.get("datlocprovider", "c"), "libc")
    locale = row.get("datlocale") or row.get("daticulocale")
    if provider != "libc":
        given |= {"LOCALE_PROVIDER": provider, f"{provider}_LOCALE": locale, "ICU_RULES": row.get("daticurules")}
    words = [sql.SQL(f"{name} {{}}").format(sql.Literal(value)) for name, value in given.items() if value]
    if source.tablespace != "pg_default":  # which is template0's, and which not every role may name
        words.append(sql.SQL("TABLESPACE {}").format(sql.Identifier(source.tablespace)))
    return sql.SQL(" ").join([sql.SQL("TEMPLATE template0"), *words])


def grants(connection: Connection, source: Source, name: str) -> Iterator[sql.Composed]:
    """Statements that give the database `name` the rights that roles have in the source."""
    if source.row["datacl"] is None:
        return
    database, owner = sql.Identifier(name), sql.Identifier(source.owner)
    yield sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC, {}").format(database, owner)
    for role, privilege, grantable in connection.execute(_GRANTS, [source.oid]).fetchall():
        yield sql.SQL("GRANT {} ON DATABASE {} TO {} {}").format(
            sql.SQL(privilege),
            database,
            sql.SQL("PUBLIC") if role is None else sql.Identifier(role),
            sql.SQL("WITH GRANT OPTION" if grantable else ""),
        )


def settings(connection: Connection, source: Source, name: str) -> Iterator[sql.Composed]:
    """Statements that give the database `name` the settings of the source, and of roles in it."""
    for role, setting, value in connection.execute(_SETTINGS, [source.oid]).fetchall():
        target = sql.SQL("DATABASE {}").format(sql.Identifier(name))
        if role is not None:
            target = sql.SQL("ROLE {} IN {}").format(sql.Identifier(role), target)
        values = _names(value) if setting.lower() in NAME_LISTS else [value]
        yield sql.SQL("ALTER {} SET {} TO {}").format(
            target, sql.Identifier(*setting.split(".")), sql.SQL(", ").join(map(sql.Literal, values))
        )


def _names(value: str) -> list[str]:
    """The names in a list of names, as the server reads it."""
    found = re.findall(r'"((?:[^"]|"")*)"|([^\s,"]+)', value)
    return [quoted.replace('""', '"') if not plain else plain.lower() for quoted, plain in found] or [""]
