"""The lexical surface of PostgreSQL: pieces, statements, columns."""

from __future__ import annotations

import pytest

from runbook.language.sqltext import query_columns, statements, tokens

PIECES = {
    "'it''s'": ["string"],
    r"E'it\'s'": ["string"],
    r"'\' 1": ["string", "number"],
    "U&'d\\0061t'": ["string"],
    "B'01' x'1F' N'a'": ["string"] * 3,
    "name'text'": ["word", "string"],
    "'never closed": ["string"],
    '"a""b"': ["quoted"],
    'U&"a"': ["quoted"],
    "$$ it's $$": ["dollar"],
    "$tag$ $$ $other$ $tag$": ["dollar"],
    "$$ never closed": ["dollar"],
    "a$b$c": ["word"],
    "$1": ["argument"],
    "-- it's\n1": ["comment", "number"],
    "/* /* ' */ */1": ["comment", "number"],
    "/* never closed": ["comment"],
    "a/**/b": ["word", "comment", "word"],
    "a::int": ["word", "sign", "word"],
    "-1.5e3": ["sign", "number"],
    "a->>'b'": ["word", "sign", "sign", "sign", "string"],
    "größe": ["word"],
}


@pytest.mark.parametrize("sql", PIECES)
def test_pieces(sql: str) -> None:
    found = list(tokens(sql))
    assert "".join(token.text for token in found) == sql
    assert [token.kind for token in found if token.kind != "space"] == PIECES[sql]


STATEMENTS = {
    "SELECT 1": ["SELECT 1"],
    " SELECT 1 ; ": ["SELECT 1"],
    "SELECT 1; -- end": ["SELECT 1"],
    "-- before\nSELECT 1": ["SELECT 1"],
    "SELECT ';'; SELECT $$;$$": ["SELECT ';'", "SELECT $$;$$"],
    "SELECT 1 /* ; */ + 1;;SELECT 2": ["SELECT 1 /* ; */ + 1", "SELECT 2"],
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN a THEN 1 END; END; SELECT 2": [
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN a THEN 1 END; END",
        "SELECT 2",
    ],
    "; ;": [],
    "-- nothing": [],
}


@pytest.mark.parametrize("sql", STATEMENTS)
def test_statements(sql: str) -> None:
    assert [sql[start:end] for start, end in statements(sql)] == STATEMENTS[sql]


COLUMNS = {
    "SELECT count(*) AS total FROM t": ["total"],
    "SELECT COUNT(*) FROM t": ["count"],
    "SELECT count(*) FILTER (WHERE a) FROM t": ["count"],
    "SELECT sum(n) OVER (ORDER BY a) FROM t": ["sum"],
    "SELECT a, t.b, s.t.c FROM t": ["a", "b", "c"],
    'SELECT a AS "Total", B AS Other FROM t': ["Total", "other"],
    "SELECT f(a, b) AS x, ',' AS y FROM t": ["x", "y"],
    "SELECT (SELECT 1 AS inner_one FROM u) AS outer_one": ["outer_one"],
    "WITH c AS (SELECT 1 AS z) SELECT count(*) AS total FROM c": ["total"],
    "SELECT 1 AS a UNION SELECT 2 AS b": ["a"],
    "SELECT EXTRACT(EPOCH FROM t) AS seconds FROM u": ["seconds"],
    "SELECT /* a, */ 1 -- , b\n AS total": ["total"],
    "SELECT * FROM t": None,
    "SELECT t.* FROM t": None,
    "SELECT a + 1 FROM t": None,
    "SELECT count(*) total FROM t": None,
    "SELECT a::int FROM t": None,
    "SELECT DISTINCT a FROM t": None,
    "VALUES (1)": None,
    "TABLE t": None,
    "": None,
}


@pytest.mark.parametrize("sql", COLUMNS)
def test_columns(sql: str) -> None:
    assert query_columns(sql) == COLUMNS[sql]
