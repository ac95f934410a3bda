"""Running a recorded run again: the same text with the same params on the same servers, beside what was recorded then."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from runbook.engine.ports import Inputs
from runbook.engine.record import Event, Record, fold
from runbook.language.load import bind_params, load_text
from runbook.language.model import Connection, File, Runbook, Sql
from runbook.language.problems import InvalidRunbook, RunbookError
from runbook.language.source import read_bytes
from runbook.language.values import MAX_ITEMS, MAX_TEXT
from runbook.look import chains
from runbook.operate.cancel import Cancellation
from runbook.operate.circumstances import operator as system_operator
from runbook.operate.finding import Found
from runbook.operate.git import git_state
from runbook.operate.opening import opening
from runbook.operate.options import Options
from runbook.operate.reaching import recorded_text
from runbook.operate.runs import runs_folder
from runbook.operate.servers import EMBEDDED, NoConsent
from runbook.operate.world import without_credentials
from runbook.records.masks import MASK, Masks
from runbook.records.repeat import Circumstance, Judged, Repetition, circumstances, repetition
from runbook.session import execute


class CannotRepeat(RunbookError):
    """The record of a run does not say enough to repeat it."""


class Servers(NamedTuple):
    """Where a repetition runs: what to say to the session, and what a person should know or be asked.

    `targets` are the connections whose server is known before anything is contacted, as people see them.
    """

    databases: dict[str, str]
    fresh: bool
    targets: dict[str, str]
    notes: list[str]
    questions: list[str]

    @property
    def embedded(self) -> list[str]:
        return [name for name, url in self.databases.items() if url == EMBEDDED]


class Plan(NamedTuple):
    """What is going to be repeated, and how. `notes` say what a person should know before."""

    record: Record
    runbook: Runbook
    params: dict[str, Any]
    servers: Servers
    notes: list[str]
    project: Path | None


class Repeated(NamedTuple):
    """A repetition: the record of the new run, how it came out beside the first, and which circumstances differ."""

    record: Record
    repetition: Repetition
    circumstances: list[Circumstance]


def recorded_runbook(record: Record) -> Runbook:
    """The runbook that a run executed, as its record has it. Raises CannotRepeat, or InvalidRunbook where a file is gone."""
    around, run = record["circumstances"], record["run"]
    if "runbook file" not in around.get("versions", {}):
        raise CannotRepeat(f"run {run['id']} had not begun when its runner died: there is nothing to repeat")
    text = recorded_text(record)
    if text is None:
        raise CannotRepeat(
            f"run {run['id']} cannot be repeated faithfully: its record masks a part of the runbook (a secret stands in its text)"
        )
    return load_text(text, _place(Path(around["file"])))


def _place(recorded: Path) -> Path:
    """Where the files that a runbook reads are: where it was, else where this project has it. Raises CannotRepeat."""
    if recorded.parent.is_dir():
        return recorded
    project = runs_folder().parent.parent
    for start in range(1, len(recorded.parts)):
        here = project.joinpath(*recorded.parts[start:])
        if here.is_file():
            return here
    raise CannotRepeat(
        f"{recorded.parent} is not here, and this project has no {recorded.name}: nothing says what it reads"
    )


def plan(found: Found, runbook: Runbook, given: Mapping[str, str], fresh: bool | None) -> Plan:
    """What repeating a run comes to; nothing is contacted.

    `given` are URLs by connection. `fresh` asks for throw-away embedded databases or for the kept ones; None: as it was then.
    Raises CannotRepeat or InvalidRunbook.
    """
    record = found.record
    _refuse_unknowable(record)
    params = bind_params(runbook, record["params"])
    servers = _servers(record, runbook, given, fresh)
    project = found.folder.parent.parent if found.folder else None
    return Plan(record, runbook, params, servers, [*_words(record, runbook), *servers.notes], project)


def _refuse_unknowable(record: Record) -> None:
    if record["run"].get("remedy"):
        raise CannotRepeat(
            f"run {record['run']['id']} was the remedy `{record['run']['remedy']}`: nothing repeats a repair"
        )
    for name, value in record["params"].items():
        for leaf in _leaves(value):
            masked = isinstance(leaf, str) and MASK in leaf
            if masked or (leaf == MAX_ITEMS if isinstance(leaf, int) else len(leaf) > MAX_TEXT):
                because = f"holds {MASK}, as a masked secret does" if masked else "is too long to be recorded whole"
                raise CannotRepeat(
                    f"run {record['run']['id']} cannot be repeated faithfully: its param `{name}` {because}"
                )


def _leaves(value: Any) -> Iterator[str | int]:
    """The texts in a value, and the length of each list."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _leaves(item)
    elif isinstance(value, list):
        yield len(value)
        for item in value:
            yield from _leaves(item)


def _words(record: Record, runbook: Runbook) -> Iterator[str]:
    """What is to be said of the run that is repeated."""
    run = record["run"]
    name, verdict = f"run {run['id']}", run["verdict"]
    if verdict is None:
        yield f"{name} has not ended: its repetition is compared with what its record has by now"
    elif verdict not in ("passed", "refuted"):
        yield f"{name} ended {verdict}: {run.get('because') or 'no reason is recorded'}"
    if runbook.expectations and not record["expectations"]:
        yield f"{name} never got to its predictions"
    if record["resumed"]:
        yield f"{name} went on with an earlier one; its repetition begins at the beginning"
    if run.get("rehearsal"):
        yield f"{name} was a rehearsal, and so is its repetition"
    if str(runbook.path) != record["circumstances"]["file"]:
        yield f"{record['circumstances']['file']} is not here: what the runbook reads is taken from {runbook.folder}"


# --- servers ----------------------------------------------------------------------------------------------------------


def _servers(record: Record, runbook: Runbook, given: Mapping[str, str], fresh: bool | None) -> Servers:
    around = record["circumstances"]
    made: list[str] | None = around.get("made")
    databases = dict(given)
    for name, item in runbook.connections.items():
        private = name in around.get("embedded", []) or (fresh is not None and item.embedded is not None)
        if name not in given and item.type == "postgres" and private:
            databases[name] = EMBEDDED
    embedded = [name for name, url in databases.items() if url == EMBEDDED]
    throw_away = bool(set(embedded) & set(made or [])) if fresh is None else fresh
    servers = Servers(databases, throw_away, {}, [], [])
    recorded = {**around["connections"], **record["rehearsal"].get("sources", {})}
    for name in embedded:
        elsewhere = "" if name in around.get("embedded", []) else recorded.get(name, "nothing")
        servers.notes.append(f"connection {name}: {_of_private(name, made, elsewhere)}; {_of_now(throw_away)}")
    for name, item in runbook.connections.items():
        if name not in embedded:
            _follow(runbook, item, given.get(name), recorded.get(name), servers)
    return servers


def _of_private(name: str, made: list[str] | None, elsewhere: str) -> str:
    if elsewhere:
        return f"the run used {elsewhere}"
    if made is None:
        return "nothing says whether its embedded database was new for the run"
    new = name in made
    return (
        "its embedded database was new for the run"
        if new
        else "the run met its embedded database as others had left it"
    )


def _of_now(throw_away: bool) -> str:
    if throw_away:
        return "the repetition gets a new embedded one, which is dropped at its end with the audit in it"
    return "the repetition uses the kept embedded one as it is by now (--fresh for a new one)"


def _follow(runbook: Runbook, item: Connection, given: str | None, then: str | None, servers: Servers) -> None:
    """Where a connection leads by now; where nobody said so and it is another place, that is a question."""
    url = given or os.environ.get(item.env, "") or item.default
    if not url and item.embedded is None:
        return  # the session says what is missing
    now = "the embedded PostgreSQL" if not url or url == EMBEDDED else _target(runbook, item, url)
    servers.targets[item.name] = now
    if given is None and then is not None and now != then:
        servers.questions.append(f"connection {item.name} led to {then} then and leads to {now} now: run there?")


def _target(runbook: Runbook, item: Connection, url: str) -> str:
    """A server as records describe it. Raises ServerError."""
    from runbook.database.connect import describe, passwords

    secrets = [os.environ[variable] for variable in runbook.secrets.values() if variable in os.environ]
    if item.type == "http":
        return Masks(secrets).text(without_credentials(url if "://" in url else f"http://{url}"))
    return Masks([*secrets, *passwords(url)]).text(describe(url))


# --- the run ----------------------------------------------------------------------------------------------------------


def repeat(
    plan: Plan,
    tell: Callable[[Circumstance], None],
    *,
    operator: str = "",
    note: str = "",
    command_line: tuple[str, ...] = (),
    on_event: Callable[[Event], None],
    on_output: Callable[[str, bytes], None],
    consent: Callable[[str], bool],
    cancellation: Cancellation,
) -> Repeated:
    """Runs it, and compares. `tell` hears once of each circumstance that is known to differ before anything is measured.

    Raises NoConsent where a connection leads elsewhere by now and nobody agrees, and whatever `execute` raises.
    """
    told: set[str] = set()

    def look(found: list[Circumstance]) -> None:
        for item in found:
            if item.what not in told:
                told.add(item.what)
                tell(item)

    opening_events: list[Event] = []

    def see(event: Event) -> None:
        on_event(event)
        if event.kind in ("rehearsal.begun", "run.opened"):
            opening_events.append(event)
        if event.kind == "run.opened":
            look(circumstances(plan.record, fold(opening_events)))

    on_disk = list(_on_disk(plan))
    look([*on_disk, *circumstances(plan.record, _beforehand(plan, operator))])
    for question in plan.servers.questions:
        if not consent(question):
            raise NoConsent(
                f"{question.removesuffix(': run there?')}: say where with --database, or consent with --yes"
            )
    options = _options(plan, operator, note, command_line)
    record = execute(
        plan.runbook,
        params=plan.params,
        options=options,
        on_event=see,
        on_output=on_output,
        consent=consent,
        cancellation=cancellation,
    )
    differing = [*on_disk, *circumstances(plan.record, record)]
    return Repeated(record, repetition(plan.record, record, judged(plan.runbook)), differing)


def _options(plan: Plan, operator: str, note: str, command_line: tuple[str, ...]) -> Options:
    run = plan.record["run"]
    overridden = {name: check.get("overridden", "") for name, check in plan.record["preflight"].items()}
    return Options(
        database=plan.servers.databases,
        operator=operator,
        note=f"repeats run {run['id']}{f': {note}' if note else ''}",
        strict=bool(run.get("strict")),
        overrides={name: reason for name, reason in overridden.items() if reason},
        command_line=command_line,
        fresh=plan.servers.fresh,
        rehearse=bool(run.get("rehearsal")),
        repeats=run["id"],
        project=plan.project,
    )


def _beforehand(plan: Plan, operator: str) -> Record:
    """A record of what is known of the repetition before anything is contacted."""
    git, now = git_state(plan.runbook.folder), datetime.now(UTC)
    inputs = Inputs(plan.params, {}, "", "", now, operator or system_operator(), plan.runbook.name)
    known = opening(plan.runbook, inputs, connections=plan.servers.targets, embedded=[], warnings=[])
    for key in ("made", "command_line"):
        known["circumstances"].pop(key, None)
    known["circumstances"] |= git()
    return fold([Event(1, now.isoformat(), "run.opened", known)])


def _on_disk(plan: Plan) -> Iterator[Circumstance]:
    """Where the runbook's file has another text by now: it is the recorded one that is run."""
    path = plan.runbook.path
    then = plan.record["circumstances"]["versions"]["runbook file"]
    try:
        now = f"sha256 {hashlib.sha256(read_bytes(path, str(path))).hexdigest()}"
    except InvalidRunbook as error:
        now = error.problems[0].message
    if now != then:
        yield Circumstance(f"{path.name} (the recorded text is run)", then, now)


def judged(runbook: Runbook) -> Judged:
    """What the runbook does with its checks."""
    checks = (*runbook.preflight, *runbook.postconditions)
    used = {f"{chain[0]}.{chain[1]}" for chain in chains(runbook) if len(chain) > 1}
    read = {check.shown for check in checks if isinstance(check.probe, Sql | File)}
    return Judged(frozenset(used), frozenset(read))


def exit_code(then: Record, repeated: Repeated) -> int:
    """0 where every outcome is the same, 1 where one is not; a run that could not find out, or was stopped, keeps its own code.

    One that could not find out as the first could not, with every outcome the same, counts as the same.
    """
    run = repeated.record["run"]
    if run["verdict"] == "errored" and not (then["run"]["verdict"] == "errored" and repeated.repetition.same):
        return int(run["exit_code"] or 0)
    if run["verdict"] == "cancelled":
        return int(run["exit_code"] or 0)
    return 0 if repeated.repetition.same else 1
