"""`runbook submit`: a run, or one for each combination of a matrix, is left to a worker."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from runbook.cli.documents import refusing
from runbook.cli.errors import CANCELLED
from runbook.cli.exec_command import ask
from runbook.cli.files import database_option, database_targets, given_params, label_option, load_file, params_options
from runbook.language.values import dumps, to_data
from runbook.records.markdown import visible

if TYPE_CHECKING:
    from runbook.language.model import Runbook
    from runbook.submit import Accepted

_SHOWN = 20  # runs that are named one by one


@click.command("submit", short_help="Leave a run, or a sweep of runs, to workers.")
@click.argument("file")
@params_options
@click.option(
    "--matrix", multiple=True, metavar="NAME=A,B,C", help="A run for each value; with more, for each combination."
)
@click.option("--at", metavar="TIME", help="Not before: 2026-12-24T03:00+01:00, 03:00 (local), or 'in 2h'.")
@label_option("Only for workers with this label.")
@database_option("Server of the audit and the queue; `embedded` for the private one.")
@click.option("--operator", metavar="NAME", help="Who asks for it. Default: the user of the operating system.")
@click.option("--note", metavar="TEXT", default="", help="Goes into the run logs' Notes.")
@click.option("--override", "overrides", multiple=True, metavar="CHECK", help="Go past this refuted preflight check.")
@click.option("--reason", metavar="TEXT", default="", help="Why; needed with --override.")
@click.option("--strict", is_flag=True, help="Warnings decide too.")
@click.option("--yes", is_flag=True, help="Consent to a protected connection.")
@click.option("--wait", is_flag=True, help="Wait for the end; the exit code is then the run's, or the worst of them.")
@click.option("--json", "as_json", is_flag=True, help="Print what was submitted as one JSON document on stdout.")
def command(**given: Any) -> None:
    """Check FILE and its params, and put it into the queue beside its audit, for `runbook worker` to execute.

    What a worker runs is what FILE and the files that it reads are now. Exit codes: 0 submitted, 2 usage, 5 invalid, 6 the
    server is away; with --wait those of `exec`.
    """
    if bool(given["overrides"]) != bool(given["reason"]):
        raise click.UsageError("--override and --reason go together")
    with refusing(given["as_json"], given["file"]):
        runbook = load_file(given["file"])
        accepted, databases = _submit(runbook, given)
    _tell(accepted, given["as_json"])
    if given["wait"]:
        sys.exit(_await(runbook, accepted, databases))


def _submit(runbook: Runbook, given: Mapping[str, Any]) -> tuple[Accepted, dict[str, str]]:
    from runbook.submit import Asked, submit

    unknown = [name for name in given["overrides"] if name not in {check.name for check in runbook.preflight}]
    if unknown:
        raise click.UsageError(f"--override {unknown[0]}: there is no such preflight check")
    params = given_params(runbook, given["params"], given["params_file"])
    matrix = _matrix(runbook, given["matrix"], params)
    databases = database_targets(runbook, given["databases"])
    asked = Asked(
        databases=databases,
        label=given["label"],
        at=_moment(given["at"]) if given["at"] is not None else None,
        operator=given["operator"] or "",
        note=given["note"],
        strict=given["strict"],
        overrides=dict.fromkeys(given["overrides"], given["reason"]),
        command_line=sys.argv[1:],
    )
    consent: Callable[[str], bool] = lambda question: given["yes"] or ask(question)  # noqa: E731
    return submit(runbook, params, matrix, asked, consent), databases


def _await(runbook: Runbook, accepted: Accepted, databases: Mapping[str, str]) -> int:
    """The exit code of the worst of the runs, each told when it ends."""
    from runbook.submit import awaited, worst

    codes = []
    try:
        for run_id, verdict, code in awaited(runbook, accepted, databases):
            click.echo(visible(f"{run_id}  {verdict}"), err=True)
            codes.append(code)
    except KeyboardInterrupt:
        click.echo("no longer waiting; the runs stay submitted (runbook stop RUN ends one)", err=True)
        return CANCELLED
    return worst(codes)


def _matrix(runbook: Runbook, given: tuple[str, ...], params: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What `--matrix NAME=A,B,C` means: the values of each param, as a YAML list has them."""
    from runbook.language.document import parse_document

    found: dict[str, list[Any]] = {}
    for text in given:
        name, equals, values = text.partition("=")
        if not equals or not values.strip():
            raise click.UsageError(f"--matrix {text}: write --matrix NAME=A,B,C")
        if name in found or name in params:
            raise click.UsageError(f"--matrix {name}: the param is given twice")
        found[name] = parse_document(f"value: [{values}]\n", f"--matrix {name}").data["value"]
    return found


def _moment(text: str) -> datetime:
    """What `--at` means: a time with its zone, a time of day in this machine's zone, or `in 2h`. It lies in the future."""
    cure = "write 2026-12-24T03:00+01:00, 03:00 (in this machine's zone), or 'in 1h30m'"
    try:
        if text.startswith("in"):
            moment = datetime.now(UTC) + timedelta(seconds=_wait(text[2:].strip()))
        elif re.fullmatch(r"\d{1,2}:\d{2}", text):
            today = datetime.combine(datetime.now().date(), datetime.strptime(text, "%H:%M").time()).astimezone()
            moment = today if today > datetime.now(UTC) else today + timedelta(days=1)
        else:
            moment = datetime.fromisoformat(text)
            moment = moment if moment.tzinfo else moment.astimezone()
    except (ValueError, OverflowError):
        raise click.UsageError(f"--at {text}: {cure}") from None
    if moment < datetime.now(UTC) - timedelta(seconds=1):
        raise click.UsageError(f"--at {text}: {moment:%Y-%m-%d %H:%M %Z} has passed; leave out --at to have it run now")
    return moment


def _wait(text: str) -> float:
    """Seconds in `1h30m`. Raises ValueError."""
    from runbook.language.fields import LONGEST, seconds

    if not re.fullmatch(r"(\d+(\.\d+)?(s|m|h|d))+", text) or seconds(text) > LONGEST:
        raise ValueError(text)
    return seconds(text)


def _tell(accepted: Accepted, as_json: bool) -> None:
    runs = accepted.runs
    if as_json:
        told = [{"id": item.run_id, "params": to_data(dict(item.params)), "due_at": item.due_at} for item in runs]
        click.echo(
            dumps(to_data({"experiment": accepted.experiment or None, "database": accepted.target, "runs": told}))
        )
    count = f"{len(runs)} run{'s' if len(runs) != 1 else ''}"
    lines = [f"submitted {count} to {accepted.target}"]
    if runs and runs[0].due_at:
        lines[0] += f", not before {runs[0].due_at.astimezone():%Y-%m-%d %H:%M:%S %Z}"
    for item in runs[:_SHOWN]:
        varied = " ".join(f"{name}={dumps(item.params[name])}" for name in item.varied)
        lines.append(f"  {item.run_id}  {varied}".rstrip())
    if len(runs) > _SHOWN:
        lines.append(f"  … and {len(runs) - _SHOWN} more")
    if len(runs) > 1 and len({item.lock for item in runs}) == 1:
        lines.append(f"  all have the lock `{runs[0].lock}`: they run one after the other")
    if accepted.experiment:
        lines.append(f"  Compare: runbook compare {accepted.experiment}")
    lines += ["  See:     runbook fleet", f"  Watch:   runbook watch {runs[0].run_id}"]
    click.echo(visible("\n".join(lines), keep="\n"), err=True)
