"""Experiments: the runs that one matrix asked for, as the audits with a fleet have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from runbook.database.connect import Connection, ServerError, translated
from runbook.engine.record import Record
from runbook.language.problems import RunbookError, did_you_mean

if TYPE_CHECKING:
    from runbook.operate.finding import History

_LAST = 200  # experiments that a mistyped name is compared to

_HAS_FLEET = b"SELECT to_regclass('runbook_fleet.turns') IS NOT NULL"
_READABLE = b"SELECT FROM runbook_fleet.submissions LIMIT 1"
_NEWEST = b"""\
SELECT experiment, max(submitted_at) FROM runbook_fleet.submissions WHERE experiment <> ''
GROUP BY experiment ORDER BY 2 DESC, 1 DESC LIMIT $1"""
_BEGINNING = b"""\
SELECT experiment, max(submitted_at) FROM runbook_fleet.submissions
WHERE experiment <> '' AND (experiment = $1 OR starts_with(experiment, $1))
GROUP BY experiment ORDER BY experiment = $1 DESC, 2 DESC LIMIT 6"""
_OF_A_RUN = b"""\
SELECT DISTINCT experiment FROM runbook_fleet.submissions WHERE experiment <> '' AND starts_with(run_id, $1) LIMIT 2"""
_RUNS = b"""\
SELECT s.runbook, s.varied, s.run_id, s.params, coalesce(t.state, 'over'), s.attempt
FROM runbook_fleet.submissions s LEFT JOIN runbook_fleet.turns t ON t.run_id = s.run_id
WHERE s.experiment = $1
    AND NOT EXISTS (SELECT FROM runbook_fleet.submissions later WHERE later.earlier = s.run_id)
ORDER BY s.run_id"""


class Submitted(NamedTuple):
    """One run of an experiment, its last attempt; `state` is queued, running or over, `attempt` counts from 1."""

    run_id: str
    params: dict[str, Any]
    state: str
    attempt: int


class Experiment(NamedTuple):
    """The runs of one matrix, with the records of those that have one, by run id.

    `varied` are the params that the matrix varies; `troubles` says which audits could not be read, and why.
    """

    id: str
    runbook: str
    varied: list[str]
    runs: list[Submitted]
    records: dict[str, Record]
    troubles: list[str]


class NoSuchExperiment(RunbookError):
    """No experiment, or more than one, is meant."""


def find_experiment(name: str, databases: Mapping[str, str]) -> Experiment:
    """The experiment that `name` means: its id, a unique beginning of it, or `last`.

    `databases` are URLs by connection name ("" for any) of audits to look into, else the project's. Raises NoSuchExperiment,
    or ServerError where the audit that has it goes away meanwhile.
    """
    from runbook.operate.finding import History

    with History(databases) as history:
        fleets = _fleets(history)
        found, connection = _meant(name, fleets, history.troubles)
        with translated():
            rows = connection.execute(_RUNS, [found]).fetchall()
        runs = [Submitted(*row[2:]) for row in rows]
        records = history.records([run.run_id for run in runs])
        runbook, varied = rows[0][:2]
        return Experiment(found, runbook, list(varied), runs, records, list(dict.fromkeys(history.troubles)))


def _fleets(history: History) -> list[Connection]:
    """The audits that have a fleet beside them; one that does not let itself be asked is told among the troubles."""
    found = []
    for target, connection in history.audits.found.items():
        try:
            with translated():
                row = connection.execute(_HAS_FLEET).fetchone()
                if row and row[0]:
                    connection.execute(_READABLE)
                    found.append(connection)
        except ServerError as error:
            history.troubles.append(f"{target}: {error}")
    return found


def _meant(name: str, fleets: list[Connection], troubles: list[str]) -> tuple[str, Connection]:
    """The id of the experiment that is meant, and the audit that has it. Raises NoSuchExperiment."""
    asked = "any experiment" if name == "last" else f"an experiment `{name}`"
    silence = f"an audit does not answer, so it is not known whether there is {asked}: {'; '.join(troubles)}"
    if not fleets:
        nothing = "nothing was submitted, no audit at hand has a fleet: `runbook submit --matrix` makes experiments"
        raise NoSuchExperiment(silence if troubles else nothing)
    found: dict[str, tuple[Any, Connection]] = {}
    for connection in fleets:
        query, value = (_NEWEST, 1) if name == "last" else (_BEGINNING, name)
        with translated():
            for experiment, at in connection.execute(query, [value]):
                found.setdefault(experiment, (at, connection))
    if name == "last" and found:
        name = max(found, key=lambda experiment: found[experiment][0])
    if name not in found and len(found) > 1:
        raise NoSuchExperiment(f"`{name}` could be {', '.join(list(found)[:5])}")
    if not found:
        raise NoSuchExperiment(silence if troubles else "; ".join(filter(None, _unknown(name, fleets))))
    experiment = name if name in found else next(iter(found))
    return experiment, found[experiment][1]


def _unknown(name: str, fleets: list[Connection]) -> list[str]:
    """What to say of a name that is no experiment's: whose it may be, or which is near."""
    if name == "last":
        return ["there are no experiments: `runbook submit --matrix` makes them"]
    known: list[str] = []
    owners: list[str] = []
    for connection in fleets:
        with translated():
            known += [row[0] for row in connection.execute(_NEWEST, [_LAST])]
            owners += [row[0] for row in connection.execute(_OF_A_RUN, [name])] if name else []
    hint = f"it is a run of experiment `{owners[0]}`" if len(set(owners)) == 1 else did_you_mean(name, known)
    return [f"there is no experiment `{name}`", hint]
