"""The shape that an sql result takes: rows, row, value, column or map."""

from __future__ import annotations

from typing import Any

from runbook.database.connect import ServerError
from runbook.language.values import as_text, brief


def shape(columns: list[str], rows: list[tuple[Any, ...]], returns: str) -> Any:
    """Rows of named columns as `returns` says. Raises ServerError where they do not have that shape."""
    if returns in ("value", "row") and len(rows) != 1:
        raise ServerError(f"`returns: {returns}` wants exactly one row, and {len(rows)} came")
    if returns in ("value", "column") and rows and len(columns) != 1:
        raise ServerError(
            f"`returns: {returns}` wants exactly one column, and {len(columns)} came: {', '.join(columns)}"
        )
    if returns == "value":
        return rows[0][0]
    if returns == "column":
        return [row[0] for row in rows]
    if returns == "map":
        return _map(columns, rows)
    _refuse_twins(columns)
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    return named[0] if returns == "row" else named


def _map(columns: list[str], rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    if rows and len(columns) < 2:
        raise ServerError("`returns: map` wants at least two columns, and one came")
    _refuse_twins(columns[1:])
    found: dict[str, Any] = {}
    for row in rows:
        key = as_text(row[0])
        if key in found:
            raise ServerError(f"`returns: map` wants different keys, and {brief(key)} came twice")
        found[key] = row[1] if len(columns) == 2 else dict(zip(columns[1:], row[1:], strict=True))
    return found


def _refuse_twins(columns: list[str]) -> None:
    for index, name in enumerate(columns):
        if name in columns[:index]:
            raise ServerError(f"two columns are named `{name}`: give them names with AS")
