"""Going on with a run that did not come to its end: what it left, and whether everything is as it was."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runbook import __version__
from runbook.engine.ports import Resumed
from runbook.engine.record import Record
from runbook.engine.replay import resumed_from
from runbook.language.model import Runbook
from runbook.language.problems import InvalidRunbook, Problem
from runbook.language.values import dumps, to_data
from runbook.operate.alive import running
from runbook.operate.lock import Holder, Locked
from runbook.operate.runs import record_of
from runbook.operate.servers import CannotStart
from runbook.records.journal import reopen_journal

UNFINISHED = ("lost", "cancelled", "errored", "failed", None)


def resume(folder: Path, record: Record, runbook: Runbook, params: Mapping[str, Any], force: bool) -> Resumed:
    """What the run in `folder` leaves to its successor.

    Raises Locked where it still runs, InvalidRunbook where it is over, or where runbook, params or program are not what
    they were and nobody insists (`force`); that is then recorded.
    """
    run = record["run"]
    if running(folder):
        known = Holder(run["id"], run.get("host", ""), run.get("pid"), run["operator"] or "", run["started_at"] or "")
        raise Locked(run.get("lock", ""), known)
    if record["rehearsal"] or run.get("rehearsal"):
        raise _refused(runbook, f"run {run['id']} was a rehearsal: what it did is gone with its copies", "run it anew")
    if run.get("remedy"):
        raise _refused(runbook, f"run {run['id']} was the remedy `{run['remedy']}`", "look with `runbook remedy` again")
    if "versions" not in record["circumstances"]:
        raise _refused(runbook, "it had not begun when its runner died", "run it anew, without --resume")
    if run.get("successor"):
        raise _refused(
            runbook, f"run {run['id']} was gone on with by {run['successor']}", f"--resume {run['successor']}"
        )
    if run["verdict"] not in UNFINISHED:
        raise _refused(runbook, f"run {run['id']} came to its end: {run['verdict']}", "run it anew, without --resume")
    changed = _changes(record, runbook, params)
    if changed and not force:
        raise _refused(
            runbook,
            f"not as in run {run['id']}: {'; '.join(changed)}",
            "go back to what it was, run it anew, or insist with --force (which is recorded)",
        )
    return resumed_from(record, runbook, "; ".join(changed))


def claim(folder: Path, successor: str) -> None:
    """Writes into the journal of the run in `folder` who goes on with it: nobody else may. Raises CannotStart."""
    journal = reopen_journal(folder)
    if journal is None:
        raise CannotStart(f"run {folder.name} is being looked after by another command: try again")
    try:
        taken = record_of(folder)["run"].get("successor")
        if taken:
            raise CannotStart(f"run {folder.name} was gone on with by {taken} meanwhile")
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        journal.append(at, "run.succeeded", {"by": successor})
    finally:
        journal.close()


def _changes(record: Record, runbook: Runbook, params: Mapping[str, Any]) -> list[str]:
    versions = record["circumstances"]["versions"]
    now = {"runbook file": f"sha256 {runbook.sha256}", "runbook": __version__}
    now |= {f"file {Path(name).name}": f"sha256 {digest}" for name, digest in runbook.files.items()}
    found = [f"{name} was {versions.get(name)}, is {text}" for name, text in now.items() if versions.get(name) != text]
    before, given = record["params"], to_data(dict(params))
    return found + [
        f"param {name} was {dumps(before.get(name))}, is {dumps(given[name])}"
        for name in given
        if given[name] != before.get(name)
    ]


def _refused(runbook: Runbook, message: str, hint: str) -> InvalidRunbook:
    return InvalidRunbook([Problem(runbook.document.file, 0, 0, "--resume", message, hint)])
