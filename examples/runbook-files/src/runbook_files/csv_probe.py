"""The probe `csv:`: how many rows a CSV file has, its columns, and the sums of some."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from runbook.extend import CannotTell, Context

NAME = "csv"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "Rows, columns and sums of a CSV file whose first row has the names of its columns.",
    "required": ["path"],
    "additionalProperties": False,
    "properties": {
        "path": {"type": "string", "minLength": 1, "description": "The file, relative to the runbook's folder."},
        "sums": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Columns of numbers to be summed up.",
        },
        "delimiter": {
            "enum": [",", ";", "|", "\t"],
            "description": "What stands between two values. Default: a comma.",
        },
    },
}
safe = True  # it only reads, so a dry run may ask it


def read(given: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """`{rows, columns, sums}` of the file; sums are exact."""
    path = context.folder / given["path"]
    sums = dict.fromkeys(given.get("sums", []), Decimal(0))
    rows = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=given.get("delimiter", ","))
            columns = list(reader.fieldnames or [])
            for name in sums:
                if name not in columns:
                    raise CannotTell(f"{path.name} has no column {name!r}, but {', '.join(columns) or 'none at all'}")
            for row in reader:
                if context.cancelled():
                    raise CannotTell("the time is over")
                rows += 1
                for name in sums:
                    sums[name] += _number(row[name], name, reader.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CannotTell(f"{path}: {error}") from None
    return {"rows": rows, "columns": columns, "sums": sums}


def _number(text: str | None, column: str, line: int) -> Decimal:
    try:
        return Decimal((text or "").strip())
    except InvalidOperation:
        raise CannotTell(f"line {line}: {column} is {text!r}, not a number") from None
