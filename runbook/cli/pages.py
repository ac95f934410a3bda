"""Pages of runs as files that link to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from runbook.engine.record import Record
from runbook.records.files import write_aside

if TYPE_CHECKING:
    from runbook.operate.finding import Found, History
    from runbook.records.history import Asked, Entry

SIBLINGS = 12  # runs of the same runbook that a page links to
OUTPUT = 64 * 1024  # bytes of the output's end that a page shows
MOST = 500  # runs that a history page shows


def page_of(found: Found, databases: Mapping[str, str], folder: Path | None) -> str:
    """The page of one run; it links to the pages of its runbook's runs that lie in `folder`."""
    from runbook.operate.finding import History
    from runbook.records.history import Asked

    with History(databases) as history:
        entries = history.entries(Asked(runbook=found.record["run"]["runbook"], limit=SIBLINGS))
    there = {entry["id"] for entry in entries if folder and (folder / f"{entry['id']}.html").is_file()}
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
    if folder is None or not (folder / "output.log").is_file():
        return "", 0
    with (folder / "output.log").open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - OUTPUT, 0))
        return file.read().decode("utf-8", "backslashreplace"), max(size - OUTPUT, 0)


def write_history(history: History, entries: Sequence[Entry], asked: Asked, path: Path) -> int:
    """Writes the page of a history at `path`, and the pages of its runs in a folder beside it; their number. Raises OSError."""
    from runbook.operate.runs import runs_folder
    from runbook.records.pages.history_page import history_page

    shown = entries[:MOST]
    records = history.records([entry["id"] for entry in shown])
    folder = path.with_name(f"{path.stem}_runs")
    for run_id, record in records.items():
        same = [entry for entry in shown if entry["runbook"] == record["run"]["runbook"]]
        around = _around(same, run_id)
        page = _page(record, runs_folder() / run_id, around, set(records))
        write_aside(folder / f"{run_id}.html", [page.encode()])
    hrefs = {run_id: f"{quote(folder.name)}/{quote(run_id)}.html" for run_id in records}
    title = f"History of {asked.runbook}" if asked.runbook else "History"
    runs = [record for record in records.values() if not record["run"].get("remedy")]
    page = history_page(title, runs, hrefs, more=len(entries) - len(records))
    write_aside(path, [page.encode()])
    return len(records)


def _around(entries: Sequence[Entry], run_id: str) -> Sequence[Entry]:
    """The runs nearest to one in time."""
    place = next(index for index, entry in enumerate(entries) if entry["id"] == run_id)
    first = max(min(place - SIBLINGS // 2, len(entries) - SIBLINGS - 1), 0)
    return entries[first : first + SIBLINGS + 1]
