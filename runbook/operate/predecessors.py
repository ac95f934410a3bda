"""Before a run begins: what the runs before it left open."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from runbook.engine.record import Record
from runbook.language.problems import RunbookError
from runbook.operate.circumstances import host
from runbook.operate.reaching import Way
from runbook.operate.recovery import Recovered, recover
from runbook.operate.runs import open_runs
from runbook.operate.servers import CannotStart

GRACE = 10.0  # seconds between SIGTERM and SIGKILL for what a lost run left running


def close_predecessors(project: Path, lock: str, way: Way, earlier: Record | None, resumed: str = "") -> list[str]:
    """Closes the books of runs that are over but open; what a person should know of it.

    `earlier` is the record, as far as it is known, of the run that had this lock before and was never closed. What still
    runs of a lost run with the same lock, or of the one that is `resumed`, is ended, since its successor would meet it.
    Raises CannotStart if it cannot be.
    """

    def meets(record: Record) -> bool:
        return record["run"].get("lock") == lock or record["run"]["id"] == resumed

    notes = []
    folders = open_runs(project)
    if earlier is not None:
        folder = Path(earlier["journal"] or "").parent
        if earlier["run"].get("host") != host() or not folder.is_dir():
            run = earlier["run"]
            notes.append(
                f"run {run['id']} had this lock before, on {run.get('host')}, and was never closed; if it is over, close it "
                f"there: runbook recover {run['id']}"
            )
        elif folder not in folders:
            folders.append(folder)
    for folder in folders:
        try:
            found = recover(folder, way, lambda record: GRACE if meets(record) else None)
        except RunbookError as error:
            notes.append(f"run {folder.name} is not closed: {error}")
            continue
        if found is not None:
            if meets(found.record):
                _refuse_company(found)
            notes += told(found)
    return notes


def _refuse_company(found: Recovered) -> None:
    if found.left:
        pids = ", ".join(str(item.pid) for item in found.left)
        raise CannotStart(
            f"run {found.record['run']['id']} was lost and its step still runs (pid {pids}); it could not be ended: end it, "
            "then run again"
        )


def told(found: Recovered) -> Iterable[str]:
    """What was found of a run, for people."""
    run = found.record["run"]
    if run["verdict"] == "lost":
        yield f"run {run['id']} was lost: {run['because']}"
    for item in found.left:
        yield f"run {run['id']}: still running: pid {item.pid}: {item.command}"
    if found.trouble and not found.elsewhere:
        yield f"run {run['id']}: {found.trouble}"
    for tried in found.record["notifications"]:
        if tried["status"] == "not sent":
            yield f"run {run['id']}: notify {tried['name']}: not sent: {tried['because']}"
