"""The WF3001 example holds every query of the cookbook, word for word, and its database answers them all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

ROOT = Path(__file__).parents[2]
RUNBOOK = ROOT / "runbooks" / "wf3001.yaml"
COOKBOOK = Path(__file__).with_name("cookbook.md").read_text(encoding="utf-8")


def normalised(sql: str) -> str:
    without_comments = re.sub(r"^\s*--.*$", "", sql, flags=re.MULTILINE)
    return " ".join(without_comments.split()).rstrip("; ")


def cookbook_statements() -> list[str]:
    """Statements of the cookbook as they stand there, repeated ones once."""
    found = re.findall(r'q\.sh "(.*?)"|```sql\n(.*?)```', COOKBOOK, flags=re.DOTALL)
    return list(dict.fromkeys(shell or block for shell, block in found))


def sql_fields(node: Any) -> Iterator[str]:
    """Every `sql` text of a runbook, wherever it stands."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "sql" and isinstance(value, str):
                yield value
            else:
                yield from sql_fields(value)


STATEMENTS = cookbook_statements()
AUDIT_QUERY = next(statement for statement in STATEMENTS if "conversation_id = 9198" in statement)
IDS = [normalised(statement)[:60] for statement in STATEMENTS]


def test_the_cookbook_has_eleven_different_statements() -> None:
    assert len(STATEMENTS) == 11


@pytest.mark.parametrize("statement", STATEMENTS, ids=IDS)
def test_the_runbook_has_the_statement_word_for_word(statement: str) -> None:
    declared = {normalised(sql) for sql in sql_fields(yaml.safe_load(RUNBOOK.read_text(encoding="utf-8")))}
    assert statement == AUDIT_QUERY or normalised(statement) in declared


@pytest.mark.parametrize("statement", STATEMENTS, ids=IDS)
def test_the_database_runs_the_statement(statement: str, example_database: str) -> None:
    with psycopg.connect(example_database) as connection:
        cursor = connection.execute(statement.encode())
        affected = cursor.rowcount
        connection.rollback()
    if normalised(statement).startswith("SELECT output->>'error'"):
        assert affected == 0, "the example has no failure in the last hour"
    elif "INTERVAL '1 hour'" in statement:
        assert affected == 0, "the example has no interaction in the last hour"
    else:
        assert affected > 0, "the example has nothing to show for this query"


def test_the_audit_query_shows_whole_runs(example_database: str) -> None:
    with psycopg.connect(example_database) as connection:
        rows = connection.execute(AUDIT_QUERY.encode()).fetchall()
    assert len(rows) == 9
    for _, _, workflow, before_total, after_total, changes in rows:
        assert workflow == "3001"
        assert int(before_total) == int(after_total)
        assert changes.keys() == {"total", "summaries", "skills", "ihl"}
