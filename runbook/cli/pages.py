"""Pages of runs as files that link to each other."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from runbook.engine.record import Record
from runbook.operate.runs import is_run_id, project_here
from runbook.records.files import PRIVATE, PUBLIC, write_aside

if TYPE_CHECKING:
    from runbook.operate.finding import Found, History
    from runbook.records.history import Asked, Entry

SIBLINGS = 12  # runs of the same runbook that a page links to
OUTPUT = 64 * 1024  # bytes of the output's end that a page shows
MOST = 500  # runs that a history page shows


def write_page(path: Path, page: str) -> None:
    """Writes a page: as private as the journals where it lies among them, else as the umask says. Raises OSError."""
    private = path.resolve().is_relative_to(project_here().resolve())
    write_aside(path, [page.encode()], PRIVATE if private else PUBLIC)


def page_of(found: Found, databases: Mapping[str, str], folder: Path | None) -> str:
    """The page of one run; it links to the pages of its runbook's runs that lie in `folder`."""
    from runbook.operate.finding import History
    from runbook.records.history import Asked

    with History(databases) as history:
        entries = history.entries(Asked(runbook=found.record["run"]["runbook"], limit=SIBLINGS))
    names = [entry["id"] for entry in entries if is_run_id(entry["id"])]
    there = {name for name in names if folder and (folder / f"{name}.html").is_file()}
    return _page(found.record, found.folder, entries, there)


def _page(record: Record, folder: Path | None, entries: Sequence[Entry], there: set[str]) -> str:
    from runbook.records.pages.run_page import Sibling, run_page

    output, dropped = _output(folder)
    siblings = [
        Sibling(
            entry["id"],
            entry["verdict"],
            entry["started_at"],
            entry["duration"],
            f"{quote(entry['id'])}.html" if entry["id"] in there else "",
        )
        for entry in entries
        if entry["id"] != record["run"]["id"]
    ]
    return run_page(record, output=output, output_dropped=dropped, siblings=siblings)


def _output(folder: Path | None) -> tuple[str, int]:
    """The end of what the steps printed, and how many bytes before it are left out."""
    if folder is None:
        return "", 0
    try:
        with (folder / "output.log").open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(size - OUTPUT, 0))
            return file.read().decode("utf-8", "backslashreplace"), max(size - OUTPUT, 0)
    except OSError:
        return "", 0


def write_history(history: History, asked: Asked, path: Path) -> int:
    """Writes the page of a history at `path`, and the pages of its runs in a folder beside it; their number. Raises OSError."""
    from runbook.operate.runs import runs_folder
    from runbook.records.pages.history_page import history_page

    limit = asked.limit or sys.maxsize
    shown = history.entries(asked._replace(limit=min(limit, MOST)))
    more = min(history.count(asked), limit) - len(shown) if len(shown) == MOST < limit else 0
    records = history.records([entry["id"] for entry in shown])
    folder = path.with_name(f"{path.stem}_runs")
    named = {run_id for run_id in records if is_run_id(run_id)}
    for run_id in named:
        same = [entry for entry in shown if entry["runbook"] == records[run_id]["run"]["runbook"]]
        page = _page(records[run_id], runs_folder() / run_id, _around(same, run_id), named)
        write_page(folder / f"{run_id}.html", page)
    hrefs = {run_id: f"{quote(folder.name)}/{quote(run_id)}.html" for run_id in named}
    title = f"History of {asked.runbook}" if asked.runbook else "History"
    runs = [record for record in records.values() if not record["run"].get("remedy")]
    rows = [entry for entry in shown if entry["id"] not in records]
    write_page(path, history_page(title, runs, hrefs, more=max(more, 0), pruned=rows))
    return len(named)


def _around(entries: Sequence[Entry], run_id: str) -> Sequence[Entry]:
    """The runs nearest to one in time."""
    place = next((index for index, entry in enumerate(entries) if entry["id"] == run_id), 0)
    first = max(min(place - SIBLINGS // 2, len(entries) - SIBLINGS - 1), 0)
    return entries[first : first + SIBLINGS + 1]
