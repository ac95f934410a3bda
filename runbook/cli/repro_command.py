"""`runbook repro`: a recorded run again, and whether it came out the same."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from runbook.cli.account import Account
from runbook.cli.documents import print_document, printable, refusing
from runbook.cli.exec_command import ask, close_account, seeing
from runbook.cli.files import database_option, database_targets, named_urls
from runbook.cli.side_by_side import Line, shown, table
from runbook.language.values import to_data
from runbook.records.markdown import visible
from runbook.records.repeat import Pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook.engine.record import Event, Record
    from runbook.records.repeat import Circumstance, Repetition
    from runbook.repro import Plan, Repeated

_SHORT = 80  # characters of a value in the answer


@click.command("repro", short_help="Run a recorded run again; which outcomes differ?")
@click.argument("run", default="last")
@database_option("Run on this server; `embedded` for the private one.")
@click.option("--fresh/--keep", default=None, help="A new embedded database, or the kept one. Default: as it was then.")
@click.option("--operator", metavar="NAME", help="Who runs it. Default: the user of the operating system.")
@click.option("--note", metavar="TEXT", default="", help="Goes into the run log's Notes.")
@click.option("--yes", is_flag=True, help="Consent: to a protected connection, to a server that is another one by now.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def command(
    run: str, databases: tuple[str, ...], fresh: bool | None, operator: str | None, note: str, yes: bool, as_json: bool
) -> None:
    """Run again what RUN (an id, a unique beginning of one, or `last`) recorded: the same text of the runbook, the same
    params and overrides. It warns of each circumstance that differs, and says for every outcome whether it is the same.

    Outcomes are verdicts, what was predicted and what came, how steps ended, metrics after the run and their delta, and
    numbers from a database or a file that a postcondition judges. Inputs are metrics before the run, and what preflight read
    and the runbook uses. What else checks read is evidence: told where it differs, and not counted.

    Exit codes: 0 every outcome is the same, 1 an outcome differs, 2 usage or no consent, 5 the record's runbook is not valid
    here, 6 it could not be repeated or could not find out (0 where the first could not either, and all else is the same),
    7 locked, 130 cancelled.
    """
    from runbook.operate.cancel import Cancellation, listen
    from runbook.repro import exit_code, repeat

    account, cancellation = Account(), Cancellation()
    consent: Callable[[str], bool] = lambda question: yes or ask(question)  # noqa: E731 - one line, and typed
    with refusing(as_json):
        plan = _plan(run, databases, fresh)
        listen(cancellation)
        for text in plan.notes:
            account.say(account.style(f"note: {visible(text)}", "warning"))
        with _seeing(account, plan) as see:
            repeated = repeat(
                plan,
                lambda item: _warn(account, item),
                operator=operator or "",
                note=note,
                command_line=tuple(sys.argv[1:]),
                on_event=see,
                on_output=account.output,
                consent=consent,
                cancellation=cancellation,
            )
    close_account(account, repeated.record)
    _tell(account, plan.record, repeated)
    if as_json:
        print_document(_document(plan.record, repeated))
    sys.exit(exit_code(plan.record, repeated))


def _plan(run: str, databases: tuple[str, ...], fresh: bool | None) -> Plan:
    from runbook.operate.finding import find_record
    from runbook.operate.limits import bounded
    from runbook.repro import plan, recorded_runbook

    audits = {name: url for name, url in named_urls(databases).items() if url != "embedded"}
    found = find_record(run, audits)
    if found.trouble:
        click.echo(f"not read: {visible(found.trouble)}", err=True)
    with bounded(str(found.record["circumstances"].get("file", run))):
        runbook = recorded_runbook(found.record)
    made = plan(found, runbook, database_targets(runbook, databases), fresh)
    if fresh and not made.servers.embedded:
        raise click.UsageError(
            "--fresh: no connection of this run has an embedded database; --database embedded gives one"
        )
    return made


def _seeing(account: Account, plan: Plan) -> AbstractContextManager[Callable[[Event], None]]:
    if plan.record["run"].get("rehearsal"):
        return nullcontext(account.event)
    return seeing(account, plan.runbook, dict(plan.servers.databases))


def _warn(account: Account, item: Circumstance) -> None:
    text = f"  warning: {visible(item.what)}: then {shown(item.then)}, now {shown(item.now)}"
    account.say(account.style(text, "warning"))


def _tell(account: Account, then: Record, repeated: Repeated) -> None:
    """Outcome by outcome, those that differ first; then what else differs, and the answer."""
    found = repeated.repetition
    account.say()
    account.say(account.heading(f"Beside run {then['run']['id']}: then → now"))
    _table(account, _lines(found.outcomes))
    differing = [pair for pair in found.inputs if not pair.same]
    if differing:
        account.say()
        account.say(account.heading("Inputs that differ"))
        _table(account, _lines(differing))
    if repeated.circumstances:
        account.say()
        account.say(account.heading("Circumstances that differ"))
        lines = [Line(item.what, shown(item.then), shown(item.now), "warning", "!") for item in repeated.circumstances]
        _table(account, lines)
    if found.evidence:
        account.say()
        account.say(account.heading("Evidence that differs, and does not count"))
        _table(account, [Line(part.name, shown(part.left), shown(part.right), mark="·") for part in found.evidence])
    account.say()
    account.say(_closing(account, repeated, found))


def _table(account: Account, lines: list[Line]) -> None:
    for text in table(lines, account.style):
        account.say(text)


def _lines(pairs: list[Pair]) -> list[Line]:
    """The pairs as lines, those that differ first."""
    ordered = sorted(pairs, key=lambda pair: pair.same)
    return [
        Line(
            pair.what,
            outcome_text(pair.then),
            outcome_text(pair.now),
            "" if pair.same else "refuted",
            "✓" if pair.same else "✗",
        )
        for pair in ordered
    ]


def outcome_text(value: Any) -> str:
    """An outcome for people: `passed (actual 97, predicted 97)`."""
    if not isinstance(value, dict) or "verdict" not in value:
        return shown(value)
    told = {name: item for name, item in value.items() if name != "verdict" and item is not None}
    if told.get("attempts", 2) < 2:
        del told["attempts"]
    facts = ", ".join(f"{name} {shown(item)}" for name, item in told.items())
    return f"{value['verdict']} ({facts})" if facts else str(value["verdict"])


def _in_short(value: Any) -> str:
    text = outcome_text(value)
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}…"


def _closing(account: Account, repeated: Repeated, found: Repetition) -> str:
    differing = len(repeated.circumstances)
    around = {0: "", 1: "   (1 circumstance differs)"}.get(differing, f"   ({differing} circumstances differ)")
    answer = visible(found.answer(_in_short))
    return f"{account.style(answer, 'passed' if found.same else 'refuted')}{around}"


def _document(then: Record, repeated: Repeated) -> dict[str, Any]:
    found = repeated.repetition
    return {
        "repeats": then["run"]["id"],
        "run": printable(repeated.record),
        "same": found.same,
        "inputs_same": found.inputs_same,
        "answer": found.answer(_in_short),
        "outcomes": [{**_item(pair), "same": pair.same} for pair in found.outcomes],
        "inputs": [{**_item(pair), "same": pair.same} for pair in found.inputs],
        "evidence": [_item(Pair(*part)) for part in found.evidence],
        "circumstances": [_item(Pair(*item)) for item in repeated.circumstances],
        "problems": repeated.record["problems"],
    }


def _item(pair: Pair) -> dict[str, Any]:
    return {"what": pair.what, "then": to_data(pair.then), "now": to_data(pair.now)}
