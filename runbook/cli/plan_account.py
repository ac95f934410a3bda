"""What people read of a dry run: line by line what was evaluated, would run or cannot be known; then what stands in the way."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from runbook.cli.account import Account
from runbook.cli.files import database_targets, given_params, load_file
from runbook.cli.telling import problem_text
from runbook.language.load import bind_params
from runbook.language.problems import Problem
from runbook.operate.servers import project_folder
from runbook.records.markdown import visible

if TYPE_CHECKING:
    from runbook.engine.record import Event, Record

WIDEST = 120  # characters of what is shown on a line
_HEADINGS = {
    "lock": "Start",
    "before": "Preflight",
    "preflight": "Preflight",
    "expectations": "Expected",
    "audit.started": "Steps",
    "steps": "Steps",
    "after": "Postconditions",
    "postconditions": "Postconditions",
    "on_failure": "On failure",
    "finally": "Finally",
    "audit.finished": "End",
    "notify": "Notifications",
    "remedies": "Remedies",
}
_KINDS = {"evaluated": "measured", "would run": "", "cannot know": "unknown"}
_EXCLUDED = ("detach", "wait", "resume", "force", "rehearse")


def dry_run(given: dict[str, Any], account: Account) -> Record:
    """`exec --dry-run`: the record of what is known; the account goes to stderr. Raises a usage error or RunbookError."""
    from runbook import dry_run as composition
    from runbook.operate.cancel import Cancellation, listen

    for name in _EXCLUDED:
        if given[name]:
            raise click.UsageError(f"--dry-run starts nothing: --{name} has no place beside it")
    if not given["file"]:
        raise click.UsageError("which FILE?")
    cancellation = Cancellation()
    runbook = load_file(given["file"])
    unknown = [name for name in given["overrides"] if name not in {check.name for check in runbook.preflight}]
    if unknown:
        raise click.UsageError(f"--override {unknown[0]}: there is no such preflight check")
    params = given_params(runbook, given["params"], given["params_file"])
    if given["require_rehearsal"]:
        from runbook.operate.rehearsal import require_proof

        require_proof(project_folder(runbook.path), runbook, bind_params(runbook, params))
    listen(cancellation)
    return composition.dry_run(
        runbook,
        params=params,
        database=database_targets(runbook, given["databases"]),
        operator=given["operator"] or "",
        strict=given["strict"],
        overrides=dict.fromkeys(given["overrides"], given["reason"]),
        command_line=tuple(sys.argv[1:]),
        on_event=PlanAccount(account).event,
        cancellation=cancellation,
    )


class PlanAccount:
    """The account of one dry run, stage by stage."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._heading = ""
        self._states: Counter[str] = Counter()

    def event(self, event: Event) -> None:
        """Shows one event."""
        if event.kind in ("run.opened", "circumstances.noted", "run.cancelled"):
            self._account.event(event)
        if event.kind == "run.opened":
            self._account.say("  dry run: nothing is started")
        elif event.kind == "plan.line":
            self._line(event.data)
        elif event.kind == "plan.finished":
            self._finish(event.data)

    def _line(self, data: Mapping[str, Any]) -> None:
        account, where, state = self._account, data["where"], data["state"]
        stage, _, name = where.partition(".")
        heading = _HEADINGS.get(where) or _HEADINGS.get(stage) or self._heading
        if heading != self._heading:
            self._title(heading)
        self._states[state] += 1
        shown = where if where in _HEADINGS or stage in ("before", "report", "connections") else name or where
        account.say(f"  {account.style(f'{state:<12}', _KINDS[state])} {shown:<20} {_cut(data['what'])}".rstrip())
        if data["because"]:
            account.say(f"{'':14} {visible(data['because'])}")

    def _title(self, heading: str) -> None:
        self._heading = heading
        self._account.say()
        self._account.say(self._account.heading(heading))

    def _finish(self, data: Mapping[str, Any]) -> None:
        obstacles, account = data["obstacles"], self._account
        if obstacles:
            self._title("What stands in the way")
        for item in obstacles:
            account.say(_told(item))
        states = ", ".join(f"{state} {count}" for state, count in self._states.items())
        count = f"{len(obstacles)} thing{'s stand' if len(obstacles) != 1 else ' stands'} in the way"
        ending = count if obstacles else "nothing known stands in the way"
        if data["verdict"] == "cancelled":
            ending = "cancelled"
        account.say()
        account.say(f"dry run: {account.style(ending, data['verdict'] or '')} ({states})")


def _cut(text: str) -> str:
    line = visible(" ".join(text.split()))
    return line if len(line) <= WIDEST else f"{line[: WIDEST - 1]}…"


def _told(item: Mapping[str, Any]) -> str:
    if item["kind"] == "invalid":
        return problem_text(Problem(**{name: item[name] for name in Problem._fields}))
    place = f"{item['file']}:{item['line']}: " if item.get("line") else ""
    return f"{place}{visible(item['message'])}"
