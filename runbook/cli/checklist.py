"""The preflight as a table: what was asked, what came, what was expected of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from runbook.cli.terminal import fit
from runbook.engine.record import CheckDoc, Record
from runbook.language.values import as_text, brief, duration_text
from runbook.records.markdown import visible
from runbook.records.outcomes import remedy_command

Style = Callable[[str, str], str]
HEAD = ("check", "verdict", "result", "expected", "took")
WIDEST = 44  # characters of a cell


def checklist(record: Record, style: Style, changed: set[str]) -> list[str]:
    """The lines of the table; a check in `changed` is marked."""
    rows = [(name, check, _cells(name, check, name in changed)) for name, check in record["preflight"].items()]
    if not rows:
        return ["no checks"]
    limit = max((shutil.get_terminal_size((120, 24)).columns - 34) // 2, 20)
    widths = [_width([HEAD[i], *(cells[i] for _, _, cells in rows)], min(limit, WIDEST)) for i in range(len(HEAD))]
    titles = [f" {HEAD[0]}", *HEAD[1:]]
    lines = ["  ".join(title.ljust(width) for title, width in zip(titles, widths, strict=True)).rstrip()]
    for _, check, cells in rows:
        text = [fit(cell, width).ljust(width) for cell, width in zip(cells, widths, strict=True)]
        text[1] = style(text[1], _kind(check))
        lines.append("  ".join(text).rstrip())
        lines += [f"    {line}" for line in _below(check, record["circumstances"]["file"])]
    return lines


def _cells(name: str, check: CheckDoc, changed: bool) -> tuple[str, ...]:
    result = check["result"]
    value = f"{len(result)} row{'' if len(result) == 1 else 's'}" if isinstance(result, list) else brief(result)
    if check["verdict"] in ("unknown", "skipped"):
        value = check["because"]
    expect = check.get("expect")
    wanted = "" if expect is None else "; ".join(map(as_text, expect)) if isinstance(expect, list) else as_text(expect)
    took = duration_text(float(check.get("duration") or 0))
    return (f"{'*' if changed else ' '}{name}", _shown(check), visible(value), visible(wanted), took)


def _kind(check: CheckDoc) -> str:
    verdict = check["verdict"] or "not asked"
    if verdict == "passed" and check.get("expect") is None:
        return "measured"
    return "warning" if check["severity"] == "warn" and verdict in ("refuted", "unknown") else verdict


def _shown(check: CheckDoc) -> str:
    kind = _kind(check)
    return f"{kind}: {check['verdict']}" if kind == "warning" else kind


def _below(check: CheckDoc, file: str) -> Iterator[str]:
    if check["verdict"] == "refuted":
        yield visible(f"{check['message']}: {check['because']}" if check.get("message") else check["because"])
        if check.get("remedy"):
            yield f"remedy: {visible(remedy_command(file, check['remedy']))}"


def _width(cells: list[str], limit: int) -> int:
    return min(max(map(len, cells)), limit)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """The checks whose verdict or result is another one."""
    seen = {name: (check["verdict"], check["result"]) for name, check in before.items()}
    return {name for name, check in after.items() if name in seen and seen[name] != (check["verdict"], check["result"])}
