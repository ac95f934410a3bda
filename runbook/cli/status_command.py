"""`runbook status`: what is running here, and what became of the rest."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runbook.cli.dashboard import Line, plain, progress_lines
from runbook.cli.documents import print_document, printable, refusing
from runbook.cli.files import database_option, named_urls
from runbook.language.values import duration_text
from runbook.records.markdown import visible

if TYPE_CHECKING:
    from runbook.operate.overview import Seen
    from runbook.watch.frame import Frame

WIDTH = 110  # characters of a line of progress


@click.command("status", short_help="What is running here; finds the lost.")
@click.argument("run", required=False)
@database_option("Where the audit of the run lies.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(run: str | None, databases: tuple[str, ...], as_json: bool) -> None:
    """What is running here: verdict so far, progress, pid. A run whose runner is dead is concluded `lost`, and its audit is
    completed where the server can be reached; what still runs of its step is told, and left for `runbook recover` to end.
    """
    from runbook.operate.overview import overview
    from runbook.operate.reaching import Way
    from runbook.operate.runs import runs_folder

    with refusing(as_json):
        folder = runs_folder()
        only = _folder_of(run, databases, as_json) if run else None
        seen = overview(folder.parent, only, Way(named_urls(databases)))
    progress: dict[str, Any] = {}
    for item in seen:
        frame = _measured(item) if item.running and item.record else None
        tell_seen(item, progress_lines(frame, WIDTH, "progress") if frame else [])
        if frame and item.record:
            progress[item.record["run"]["id"]] = frame
    if not seen:
        click.echo(f"nothing is running here ({folder})", err=True)
    if as_json and run and seen[0].record:
        print_document(seen[0].record)
    elif as_json:
        print_document({"runs": [printable(item.record) for item in seen if item.record], "progress": progress})


def _folder_of(run: str, databases: tuple[str, ...], as_json: bool) -> Path:
    """The folder of a run; of one that is on no disk here, what the audit has of it is told, and the command ends."""
    from runbook.fleet.elsewhere import locate, waiting_text
    from runbook.operate.finding import find_record
    from runbook.operate.overview import Seen

    found = locate(run, named_urls(databases))
    if isinstance(found, Path):
        return found
    standing = found.standing
    if not standing.opened:
        click.echo(f"queued    run {found.run_id}\n    {visible(waiting_text(found.run_id, standing))}", err=True)
        if as_json:
            print_document({"run": {"id": found.run_id, "verdict": None}, "state": standing.state})
        sys.exit(0)
    record = find_record(found.run_id, named_urls(databases)).record
    alive = standing.verdict is None
    began = datetime.fromisoformat(record["run"]["started_at"] or "").timestamp()
    doing = record["run"].get("stage", "beginning")
    tell_seen(Seen(Path(found.run_id), record, alive, standing.now - began, doing), [])
    if as_json:
        print_document(record)
    sys.exit(0)


def _measured(seen: Seen) -> Frame:
    """How far a living run has come, asked of its database."""
    from runbook.watch.frame import Watch

    watch = Watch(seen.folder, {}, None, 2.0)
    watch.measure()
    return watch.frame()


def tell_seen(seen: Seen, progress: list[Line]) -> None:
    """One run, in a few lines."""
    record = seen.record
    if record is None:
        click.echo(f"{Path(seen.folder).name}  {visible(seen.trouble)}", err=True)
        return
    run = record["run"]
    state = "running" if seen.running else run["verdict"] or "beginning"
    click.echo(f"{state:<9} {visible(run['title'])}   run {run['id']}", err=True)
    for line in _facts(seen, run):
        click.echo(f"    {visible(line)}", err=True)
    for text in plain(progress).splitlines():
        click.echo(f"    {text}", err=True)
    if seen.running:
        click.echo(f"    watch it: runbook watch {run['id']}", err=True)


def _facts(seen: Seen, run: Any) -> list[str]:
    lines = [f"pid {run.get('pid')} on {run.get('host')}, operator {run['operator']}, since {run['started_at'][:19]}Z"]
    if seen.running:
        lines[0] += f" ({duration_text(seen.elapsed)})"
        return [*lines, f"stage: {seen.doing}", *seen.so_far]
    if run.get("because") and run["verdict"] != "passed":
        lines.append(f"because: {run['because']}")
    lines += [f"still running: pid {item.pid}: {item.command}" for item in seen.left]
    if seen.left:
        lines.append(f"end it: runbook recover {run['id']}")
    if seen.trouble:
        lines.append(f"not closed: {seen.trouble}")
    submitted = seen.record["circumstances"].get("submitted") if seen.record else None
    if run["verdict"] == "lost" and submitted and submitted.get("rerun"):
        lines.append("its runbook says `rerun: true`: a worker does it again, up to three times (runbook fleet)")
    elif run["verdict"] == "lost" and seen.resumable:
        lines.append(f"go on with it: runbook exec --resume {run['id']}")
    if seen.record and seen.record["notifications"]:
        from runbook.operate.notify import told_of

        lines += map(told_of, seen.record["notifications"])
    if seen.record and seen.record["report"]:
        lines.append(f"run log: {seen.record['report']}")
    return lines
