"""`runbook prune`: old detail goes, on record."""

from __future__ import annotations

import re
import sys
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from runbook.cli.documents import print_document, refusing
from runbook.cli.files import database_option, named_urls
from runbook.records.markdown import visible

if TYPE_CHECKING:
    from runbook.operate.prune import Old, Plan

PARTS = ("folders", "output", "audit")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@click.command("prune", short_help="Remove old run folders, output and audit detail, on record.")
@click.option("--older-than", required=True, metavar="TIME", help="Runs that ended so long ago: 180d, 26w, 12h.")
@click.option("--what", "parts", multiple=True, type=click.Choice(PARTS), help="Only this. Default: folders and audit.")
@click.option("--dry-run", is_flag=True, help="Tell what would go; remove nothing.")
@click.option("--yes", is_flag=True, help="Consent.")
@database_option("Where the audit lies. Default: wherever the project's runbooks say.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    older_than: str, parts: tuple[str, ...], dry_run: bool, yes: bool, databases: tuple[str, ...], as_json: bool
) -> None:
    """Remove what is old: the folders of closed runs (journal and output), only their output, or their events in the audit.

    What goes leaves a trace: in the audit the run's row and verdict, its last hash and an entry of the chain that says who pruned
    it, so that `runbook audit verify` still proves all the rest; on this disk a line in .runbook/pruned.jsonl. Keep a copy
    first: runbook audit export -o FILE. Runs that are not closed stay.
    """
    from runbook.operate.prune import find_old, prune

    age = re.fullmatch(r"(\d{1,6})([smhdw])", older_than)
    if age is None:
        raise click.UsageError(f"--older-than {older_than}: a time is written 180d, 26w, 12h, 30m or 10s")
    before = datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})
    parts = parts or ("folders", "audit")
    with refusing(as_json), ExitStack() as stack:
        plan = find_old(before, parts, named_urls(databases), stack)
        for trouble in plan.troubles:
            click.echo(f"not reached: {visible(trouble)}", err=True)
        document = _document(plan, parts, dry_run)
        _tell(document, older_than, plan.runs if "folders" in parts else [])
        nothing = not (document["folders"] or document["outputs"] or document["audit_runs"])
        if not (dry_run or nothing):
            _ask(yes)
            prune(plan, parts, older_than)
            click.echo("pruned", err=True)
    if as_json:
        print_document(document)


def _document(plan: Plan, parts: tuple[str, ...], dry_run: bool) -> dict[str, Any]:
    runs, whole = plan.runs, "folders" in parts
    printed = [] if whole else [old for old in runs if old.output]
    details = [detail for _, found in plan.details.values() for detail in found]
    return {
        "folders": len(runs) if whole else 0,
        "outputs": len(printed),
        "bytes": sum(old.size for old in runs) if whole else sum(old.output for old in printed),
        "audit_runs": len(details),
        "events": sum(detail.events for detail in details),
        "dry_run": dry_run,
        "problems": [],
    }


def _tell(document: dict[str, Any], older_than: str, folders: list[Old]) -> None:
    size = f"{document['bytes'] / 1e6:,.1f} MB"
    click.echo(f"of runs that ended more than {older_than} ago:", err=True)
    if document["folders"] or not document["outputs"]:
        click.echo(f"  {document['folders']:,} run folders on this disk ({size})", err=True)
    if document["outputs"]:
        click.echo(f"  the output of {document['outputs']:,} runs on this disk ({size})", err=True)
    click.echo(
        f"  {document['events']:,} events of {document['audit_runs']:,} runs in the audit; their rows and verdicts stay",
        err=True,
    )
    only = sum(old.record["run"].get("audit") == "disabled" for old in folders)
    if only:
        click.echo(f"  {only:,} of these folders hold the only record of their run: it is in no audit", err=True)


def _ask(yes: bool) -> None:
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError("without a terminal, consent with --yes (or look with --dry-run)")
    if not click.confirm("remove them?", err=True):
        raise click.UsageError("nothing was removed")
