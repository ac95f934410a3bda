"""`runbook prune`: old detail goes, on record."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from runbook.cli.ages import ago
from runbook.cli.documents import print_document, refusing
from runbook.cli.files import database_option, named_urls
from runbook.records.markdown import visible

if TYPE_CHECKING:
    from runbook.operate.prune import Plan

PARTS = ("folders", "output", "audit")


@click.command("prune", short_help="Remove old run folders, output and audit detail, on record.")
@click.option("--older-than", required=True, metavar="TIME", help="Runs that ended so long ago: 180d, 26w, 12h.")
@click.option("--what", "parts", multiple=True, type=click.Choice(PARTS), help="Only this. Default: folders and audit.")
@click.option("--runbook", "runbooks", multiple=True, metavar="NAME", help="Only runs of this runbook; repeatable.")
@click.option(
    "--even-the-only-record", "even_only", is_flag=True, help="Folders of runs that no audit at hand has, too."
)
@click.option("--dry-run", is_flag=True, help="Tell what would go; remove nothing.")
@click.option("--yes", is_flag=True, help="Consent.")
@database_option("Where the audit lies. Default: wherever the project's runbooks say.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    older_than: str,
    parts: tuple[str, ...],
    runbooks: tuple[str, ...],
    even_only: bool,
    dry_run: bool,
    yes: bool,
    databases: tuple[str, ...],
    as_json: bool,
) -> None:
    """Remove what is old: the folders of closed runs (journal and output), only their output, or their events in the audit.

    What goes leaves a trace: in the audit the run's row and verdict, its last hash and an entry of the chain that says who pruned
    it, so that `runbook audit verify` still proves all the rest; on this disk a line in .runbook/pruned.jsonl. Keep a copy
    first: runbook audit export -o FILE. Runs that are not closed stay; so does a folder that holds the only record of its run.
    """
    from runbook.operate.prune import Wanted, find_old, prune

    parts = parts or ("folders", "audit")
    wanted = Wanted(_moment(older_than), parts, runbooks, even_only)
    with refusing(as_json), ExitStack() as stack:
        plan = find_old(wanted, named_urls(databases), stack)
        for trouble in plan.troubles:
            click.echo(f"not reached: {visible(trouble)}", err=True)
        document = _document(plan, dry_run)
        _tell(document, older_than, parts)
        nothing = not (document["folders"] or document["outputs"] or document["audit_runs"])
        if not (dry_run or nothing):
            _ask(yes)
            for run_id in prune(plan, older_than):
                click.echo(f"left alone: run {run_id}: another command is at it, or it has changed meanwhile", err=True)
            click.echo("pruned", err=True)
    if as_json:
        print_document(document)


def _moment(older_than: str) -> datetime:
    """The moment so long ago. Raises a usage error."""
    try:
        moment = ago(older_than, "smhdw")
    except OverflowError:
        raise click.UsageError(f"--older-than {older_than}: that is before all time") from None
    if moment is None:
        raise click.UsageError(f"--older-than {older_than}: a time is written 180d, 26w, 12h, 30m or 10s")
    return moment


def _document(plan: Plan, dry_run: bool) -> dict[str, Any]:
    audits = [
        {
            "audit": target,
            "runs": len(found),
            "events": sum(detail.events for detail in found),
            "runbooks": dict(Counter(detail.runbook for detail in found)),
        }
        for target, (_, found) in plan.details.items()
    ]
    return {
        "folders": len(plan.folders),
        "outputs": sum(old.output > 0 for old in plan.outputs),
        "bytes": sum(old.size for old in plan.folders) + sum(old.output for old in plan.outputs),
        "only_record": sum(old.only for old in plan.folders),
        "kept": len(plan.kept),
        "audit_runs": sum(len(found) for _, found in plan.details.values()),
        "events": sum(audit["events"] for audit in audits),
        "audits": audits,
        "dry_run": dry_run,
        "problems": [],
    }


def _tell(document: dict[str, Any], older_than: str, parts: tuple[str, ...]) -> None:
    size = f"{document['bytes'] / 1e6:,.1f} MB"
    click.echo(f"of runs that ended more than {older_than} ago:", err=True)
    if "folders" in parts:
        click.echo(f"  {document['folders']:,} run folders on this disk ({size})", err=True)
    if document["only_record"]:
        click.echo(f"  {document['only_record']:,} of these folders hold the only record of their run", err=True)
    if document["kept"]:
        click.echo(
            f"  left alone: {document['kept']:,} folders that hold the only record of their run: no audit at hand has it"
            " (--even-the-only-record removes them too)",
            err=True,
        )
    if "output" in parts and (document["outputs"] or "folders" not in parts):
        click.echo(f"  the output of {document['outputs']:,} runs on this disk ({size})", err=True)
    for audit in document["audits"]:
        each = ", ".join(f"{visible(name)} {runs:,}" for name, runs in sorted(audit["runbooks"].items()))
        click.echo(
            f"  {audit['events']:,} events of {audit['runs']:,} runs in the audit in {visible(audit['audit'])}"
            f"{f' ({each})' if each else ''}; their rows and verdicts stay",
            err=True,
        )
    if "audit" in parts and not document["audits"]:
        click.echo("  no audit is at hand", err=True)


def _ask(yes: bool) -> None:
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError("without a terminal, consent with --yes (or look with --dry-run)")
    if not click.confirm("remove them?", err=True):
        raise click.UsageError("nothing was removed")
