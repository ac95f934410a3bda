"""`runbook audit`: the audit in the database: verified, exported, and how it is made."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runbook.cli.documents import print_document, refusing
from runbook.cli.files import database_option, named_urls
from runbook.records.markdown import visible

if TYPE_CHECKING:
    from runbook.operate.audits import Audits
    from runbook.records.verify import Anchor, Report

_WHERE = "Where the audit lies, or the name of its database. Default: wherever the project's runbooks say."


@click.group("audit", short_help="The audit in the database.")
def command() -> None:
    """The audit in the database: append-only, hash-chained within a run and from run to run."""


@command.command("verify")
@click.argument("logs", nargs=-1, metavar="[LOG]...", type=click.Path(path_type=Path))
@click.option("--head", "heads", multiple=True, metavar="HEAD", help="A head of the chain that was kept elsewhere.")
@click.option("--file", "file", type=click.Path(path_type=Path), metavar="EXPORT", help="Verify an export, offline.")
@click.option("--no-journals", is_flag=True, help="Do not compare with the journals on this disk.")
@database_option(_WHERE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def verify_command(
    logs: tuple[Path, ...],
    heads: tuple[str, ...],
    file: Path | None,
    no_journals: bool,
    databases: tuple[str, ...],
    as_json: bool,
) -> None:
    """Was anything in the audit changed, inserted, reordered or removed?

    Every record is compared with the chain, the chain with itself, and with the heads that are kept outside of the database: in
    run logs (LOG), in --head, and in the journals on this disk, which also tell which record is another one now. Only a head
    from outside can show that the newest records are gone, or that all was written anew.

    Exit codes: 0 sound, 1 something was changed (it says which record), 6 the audit cannot be read.
    """
    from runbook.records.verify import Anchor

    with refusing(as_json):
        anchors = [Anchor(_whole(head), "--head") for head in heads]
        if file is not None:
            reports = {str(file): _verify_file(file, anchors, logs, no_journals)}
        else:
            reports = _verify_databases(databases, anchors, logs, no_journals)
    for name, report in reports.items():
        _tell(name, report)
    if as_json:
        found = [{"audit": name, **_document(report)} for name, report in reports.items()]
        print_document({"sound": all(report.sound for report in reports.values()), "audits": found, "problems": []})
    sys.exit(0 if all(report.sound for report in reports.values()) else 1)


def _whole(head: str) -> str:
    """A head as it was given on the command line. Raises a usage error."""
    text = head.strip().lower()
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise click.UsageError(f"--head {head}: a head has 64 hexadecimal digits")
    return text


def _of_logs(
    logs: Sequence[Path], targets: Sequence[str], knows: Callable[[str, str], bool] = lambda target, run: False
) -> dict[str, list[Anchor]]:
    """The heads that run logs tell, by the audit to whose place a connection of the run led, or which `knows` the run; a log that
    tells no place is taken for any. Raises NoHead where no log tells a head.
    """
    from runbook.operate.anchors import NoHead, from_log, place_of

    found: dict[str, list[Anchor]] = {target: [] for target in targets}
    skipped: list[str] = []
    for path in logs:
        try:
            anchor, places = from_log(path)
        except NoHead as error:
            skipped.append(str(error))
            continue
        there = [target for target in targets if place_of(target) in places]
        knowing = [target for target in there or targets if knows(target, anchor.run)]
        chosen = [*knowing, *there, *([] if places else targets)]
        if chosen:
            found[chosen[0]].append(anchor)
        else:
            skipped.append(f"{path}: its audit lies elsewhere, in {' or '.join(places)}")
    if skipped and len(skipped) == len(logs):
        raise NoHead("; ".join(skipped[:3]) + (f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""))
    if skipped:
        click.echo(f"skipped {len(skipped)} of {len(logs)} run logs, such as {visible(skipped[0])}", err=True)
    return found


def _verify_file(file: Path, anchors: list[Anchor], logs: Sequence[Path], no_journals: bool) -> Report:
    from runbook.operate.anchors import from_disk, own_journal
    from runbook.records.ledger import LedgerError, read_export
    from runbook.records.verify import verify

    try:
        with file.open(encoding="utf-8", errors="surrogateescape") as lines:
            target, ledger = read_export(lines)
            anchors = [*anchors, *_of_logs(logs, [target])[target]]
            if no_journals:
                return verify(ledger, anchors)
            return verify(ledger, [*anchors, *from_disk(target)], own_journal)
    except OSError as error:
        raise LedgerError(f"{file}: {error.strerror}") from None


def _verify_databases(
    databases: tuple[str, ...], anchors: list[Anchor], logs: Sequence[Path], no_journals: bool
) -> dict[str, Report]:
    from runbook.operate.anchors import from_disk, own_journal
    from runbook.operate.audits import known_runs
    from runbook.records.ledger import one_moment, read_database
    from runbook.records.verify import verify

    reports = {}
    with _audits(databases) as audits:
        if anchors and len(audits.found) > 1:
            raise click.UsageError(f"of which audit is the head? {_choice(audits)}")

        of_logs = _of_logs(logs, list(audits.found), lambda target, run: bool(known_runs(audits.found[target], [run])))
        for target, connection in audits.found.items():
            with one_moment(connection):
                known = [] if no_journals else list(from_disk(target))
                ledger = read_database(connection)
                reports[target] = verify(
                    ledger, [*anchors, *of_logs[target], *known], *([] if no_journals else [own_journal])
                )
    return reports


def _choice(audits: Audits) -> str:
    return f"Choose one by its database's name or URL (--database): {'; '.join(audits.found)}"


@contextmanager
def _audits(databases: tuple[str, ...]) -> Iterator[Audits]:
    """The audits that are at hand, at least one. Raises NoAudit."""
    from runbook.operate.audits import NoAudit, open_audits

    with open_audits(named_urls(databases)) as audits:
        for trouble in audits.troubles:
            click.echo(f"not reached: {visible(trouble)}", err=True)
        if not audits.found:
            raise NoAudit("there is no audit at hand; say where it lies with --database URL")
        yield audits


def _tell(name: str, report: Report) -> None:
    count = {key: f"{value:,}" for key, value in report.counts.items()}
    runs = f"{count['runs']} runs ({count['open']} open, {count['pruned']} pruned)"
    for finding in report.findings:
        run = f"run {finding.run}, " if finding.run else ""
        click.echo(visible(f"{finding.table}: {run}{finding.record}: {finding.what}"), err=True)
    if report.more:
        click.echo(f"… and {report.more:,} more", err=True)
    verdict = "sound" if report.sound else "NOT as it was written"
    click.echo(
        f"the audit in {visible(name)} is {verdict}: {count['entries']} entries, {runs}, {count['events']} events",
        err=True,
    )
    click.echo(f"  head {report.head}", err=True)
    if not report.counts["anchors"]:
        click.echo(
            "  no head from outside was at hand: whether the newest records are all there cannot be told;", err=True
        )
        click.echo("  give a later run log (runbook audit verify LOG), or a head (--head)", err=True)
    elif report.sound:
        click.echo(f"  {count['anchors']} heads that are kept outside of it stand in it", err=True)


def _document(report: Report) -> dict[str, Any]:
    return {
        "sound": report.sound,
        "head": report.head,
        "counts": report.counts,
        "findings": [finding._asdict() for finding in report.findings],
        "more": report.more,
    }


@command.command("export")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Default: standard output.")
@database_option(_WHERE)
def export_command(output: Path | None, databases: tuple[str, ...]) -> None:
    """Write the whole audit as JSON lines, which `runbook audit verify --file` checks offline.

    Standard error tells the head of its chain: kept elsewhere, it shows later that nothing before it was changed.
    """
    from runbook.records.files import write_aside
    from runbook.records.ledger import export, newest_head, one_moment, read_database

    with _audits(databases) as audits:
        if len(audits.found) > 1:
            raise click.UsageError(f"which audit? {_choice(audits)}")
        [(target, connection)] = audits.found.items()
        with one_moment(connection):
            lines = export(read_database(connection), target)
            if output is None:
                for line in lines:
                    click.echo(line)
            else:
                write_aside(output, (f"{line}\n".encode() for line in lines))
            head = newest_head(connection)
    click.echo(f"exported the audit in {visible(target)}, head {head or 'none'}", err=True)


@command.command("schema")
@click.option(
    "--since", type=click.IntRange(0), default=0, metavar="VERSION", help="Only what comes after this version."
)
@click.option("--fleet", is_flag=True, help="The schema of the fleet, which lies beside the audit.")
def schema_command(since: int, fleet: bool) -> None:
    """Print the SQL that makes the audit's schema, for a DBA, with a role that may only append and one that may only read."""
    if fleet:
        from runbook.fleet.schema import schema_sql as fleet_sql

        click.echo(fleet_sql(), nl=False)
        return
    from runbook.records.audit import schema_sql

    click.echo(schema_sql(since), nl=False)
