"""Probes and an action for Chaos Toolkit: the same statements over one psycopg connection."""

import os
from functools import lru_cache
from typing import Any

import psycopg


@lru_cache(maxsize=1)
def _connection() -> "psycopg.Connection[Any]":
    return psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)


def rows(sql: str) -> list[list[Any]]:
    return [list(row) for row in _connection().execute(sql).fetchall()]


def value(sql: str) -> Any:
    return _connection().execute(sql).fetchone()[0]


def execute(sql: str) -> None:
    _connection().execute(sql)
