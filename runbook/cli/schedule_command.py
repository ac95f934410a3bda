"""`runbook schedule`: which runbooks run by themselves, when, and what became of their last ticks."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any

import click

from runbook.cli.documents import print_document, refusing
from runbook.cli.errors import ERRORED
from runbook.cli.exec_command import ask
from runbook.cli.files import database_option, database_targets, label_option, load_file, named_urls
from runbook.language.problems import InvalidRunbook, Problem, did_you_mean
from runbook.language.values import as_text
from runbook.records.markdown import visible

if TYPE_CHECKING:
    from runbook.language.model import Runbook, Schedule

_WHERE = "Where the audit lies. Default: wherever the project's runbooks say."
_NOT_GIVEN = ("options", "lock", "now", "sha256", "files")
Schedules = list[dict[str, Any]]


@click.group("schedule", short_help="Which runbooks run by themselves, and when.")
def command() -> None:
    """Runbooks with a `schedule:` that workers run by themselves, from when it is enabled until it is disabled."""


# --- list -------------------------------------------------------------------------------------------------------------


@command.command("list")
@database_option(_WHERE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_command(databases: tuple[str, ...], as_json: bool) -> None:
    """Every schedule: its next tick in its own time zone, its params and label, its last ticks, and what became of their runs.

    --json: {"schedules": [{name, file, cron, timezone, params, on_overlap, enabled, changed, next_tick, until (seconds), ticks
    [{tick, outcome, run_id, because, verdict, ...}], database, ...}], "problems": [...]}, times in UTC. Exit codes: 0, 6 where an
    audit did not answer.
    """
    with refusing(as_json), _fleets(databases) as (fleets, troubles):
        from runbook.fleet.schedules import listing

        found = [{**item, "database": target} for target, fleet in fleets.items() for item in listing(fleet)]
    for item in found:
        item["changed"] = _changed(item)
        item["next_tick"] = item["next_tick"] if item["enabled"] else None
        item["until"] = (item["next_tick"] - item["now"]).total_seconds() if item["enabled"] else None
    if as_json:
        told = [_document({key: value for key, value in item.items() if key not in _NOT_GIVEN}) for item in found]
        print_document({"schedules": told, "problems": [{"message": trouble} for trouble in troubles]})
    else:
        for line in _account(found):
            click.echo(visible(line))
        if not found and not troubles:
            click.echo("no schedules here: put one in force with `runbook schedule enable FILE`", err=True)
    for trouble in troubles:
        click.echo(f"not reached: {visible(trouble)}", err=True)
    sys.exit(ERRORED if troubles else 0)


@contextmanager
def _fleets(databases: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """The audits that have a fleet, by where they lie, and why others cannot be read. Raises NoAudit or ServerError."""
    from runbook.fleet.schema import present
    from runbook.operate.audits import open_audits

    with open_audits(named_urls(databases)) as audits:
        yield {target: found for target, found in audits.found.items() if present(found)}, audits.troubles


def _changed(item: Mapping[str, Any]) -> bool:
    """Whether a file that the schedule was enabled with is another one by now; not where it is not here at all."""
    from runbook.operate.runs import project_here

    for name, digest in {item["file"]: item["sha256"], **item["files"]}.items():
        path = project_here().parent / name
        try:
            if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                return True
        except OSError:
            continue
    return False


def _document(value: Any) -> Any:
    """Data whose moments are texts in UTC."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Mapping):
        return {key: _document(item) for key, item in value.items()}
    return [_document(item) for item in value] if isinstance(value, list) else value


def _account(found: Schedules) -> Iterator[str]:
    rows = [(item["name"], item["cron"], item["timezone"], _next(item)) for item in found]
    widths = [max((len(row[at]) for row in rows), default=0) for at in range(3)]
    several = len({item["database"] for item in found}) > 1
    for item, row in zip(found, rows, strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)]
        yield "  ".join(cells) + (f"   in {item['database']}" if several else "")
        yield from _given(item)
        if item["enabled"] and item["changed"]:
            yield f"    ! {item['file']}, or what it reads, has changed since: what runs is what was enabled"
            yield f"      put it in force: runbook schedule enable {item['file']}"
        for tick in item["ticks"]:
            yield f"    {_moment(tick['tick'], item['timezone'])}  {_outcome(tick)}"


def _given(item: Mapping[str, Any]) -> Iterator[str]:
    """For which workers its runs are, and with which params, where that is said at all."""
    params = " ".join(f"{name}={as_text(value)}" for name, value in item["params"].items())
    told = [f"label {item['label']}" if item["label"] else "", params]
    if any(told):
        yield f"    {'  '.join(filter(None, told))}"


def _next(item: Mapping[str, Any]) -> str:
    from runbook.watch.progress import span_text

    if not item["enabled"]:
        return f"disabled since {_moment(item['changed_at'], item['timezone'])}"
    late = item["until"] < 0
    when = f"due for {span_text(-item['until'])}: is a worker there?" if late else f"in {span_text(item['until'])}"
    return f"next {_moment(item['next_tick'], item['timezone'])} ({when})"


def _outcome(tick: Mapping[str, Any]) -> str:
    if tick["outcome"] == "submitted":
        return f"{tick['verdict'] or tick['state'] or 'submitted':<9}  run {tick['run_id']}"
    return f"{tick['outcome']:<9}  {tick['because']}"


def _moment(moment: datetime, timezone: str) -> str:
    """A moment on the clock of a time zone, or in UTC where this machine does not know it."""
    from runbook.fleet.cron import NoZone, zone_of

    zone: tzinfo = UTC
    with suppress(NoZone):
        zone = zone_of(timezone)
    return f"{moment.astimezone(zone):%Y-%m-%d %H:%M %Z}"


# --- enable and disable -----------------------------------------------------------------------------------------------


@command.command("enable")
@click.argument("file")
@database_option("Server of the audit and the queue; `embedded` for the private one.")
@label_option("Only for workers with this label.")
@click.option("--operator", metavar="NAME", help="Whose runs they are. Default: the user of the operating system.")
@click.option("--yes", is_flag=True, help="Consent to a protected connection, for every run to come.")
def enable_command(file: str, **given: Any) -> None:
    """Put the schedule of FILE in force, from now on; in the place of the one that a runbook of that name had.

    What runs is what FILE and the files that it reads are now: after a change, enable it again.
    """
    runbook = load_file(file)
    from runbook.fleet.elsewhere import cure_of

    if runbook.schedule is None:
        message, hint = "this runbook has no schedule", 'schedule: {cron: "0 2 * * *", timezone: Europe/Berlin}'
        raise InvalidRunbook([Problem(runbook.document.file, 0, 0, "schedule", message, hint)])
    first, target, workers = _enable(runbook, runbook.schedule, given)
    shown = _moment(first, runbook.schedule.timezone)
    click.echo(visible(f"{runbook.name} is scheduled in {target}: next {shown}"), err=True)
    if not workers:
        click.echo(
            f"  somebody must run it, and no worker is seen: start one with `{cure_of(given['label'])}`", err=True
        )


def _enable(runbook: Runbook, schedule: Schedule, given: Mapping[str, Any]) -> tuple[datetime, str, int]:
    """The first tick, where the schedule lies, and how many workers are seen that take its runs."""
    from runbook.fleet.elsewhere import takers
    from runbook.fleet.schedules import enable
    from runbook.language.load import bind_params
    from runbook.language.values import whole
    from runbook.submit import Asked, contents, queue_of, scheduled_facts, submission_of

    databases = database_targets(runbook, given["databases"])
    asked = Asked(databases, given["label"], None, given["operator"] or "", command_line=sys.argv[1:])
    consent: Callable[[str], bool] = lambda question: given["yes"] or ask(question)  # noqa: E731
    params = whole(bind_params(runbook, schedule.params))
    with queue_of(runbook, databases) as (connection, _, target):
        facts = scheduled_facts(runbook, target, asked, consent)
        lock = submission_of(runbook, facts, params, "").lock
        facts |= {"name": runbook.name, "params": params, "lock": lock}
        facts |= {"cron": schedule.cron, "timezone": schedule.timezone, "on_overlap": schedule.on_overlap}
        return enable(connection, facts, contents(runbook)), target, takers(connection, given["label"])


@command.command("disable")
@click.argument("name")
@database_option(_WHERE)
def disable_command(name: str, databases: tuple[str, ...]) -> None:
    """End the schedule of the runbook NAME. Runs that were submitted already stay so."""
    from runbook.fleet.schedules import disable, listing

    with _fleets(databases) as (fleets, troubles):
        known = {target: {item["name"]: item for item in listing(fleet)} for target, fleet in fleets.items()}
        there = [target for target, found in known.items() if name in found]
        in_force = [target for target in there if known[target][name]["enabled"]]
        if not there:
            _refuse(name, [other for found in known.values() for other in found], troubles)
        if len(in_force) > 1:
            raise click.UsageError(f"`{name}` is scheduled in {' and in '.join(in_force)}: say which with --database")
        done = any(disable(fleets[target], name) for target in in_force)
    click.echo(visible(f"{name} is {'' if done else 'already '}disabled in {(in_force or there)[0]}"), err=True)


def _refuse(name: str, known: Sequence[str], troubles: Sequence[str]) -> None:
    hint = did_you_mean(name, known) or "`runbook schedule list` shows them"
    raise click.UsageError("; ".join([f"there is no schedule `{name}`: {hint}", *troubles]))
