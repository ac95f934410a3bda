"""Many records of one runbook beside each other: params against outcomes, and what else differs between the runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from runbook.engine.judge import number
from runbook.engine.record import CheckDoc, ExpectationDoc, Record
from runbook.language.values import Absent, as_text, dumps, to_data
from runbook.records.diff import expectations
from runbook.records.evidence import NOTHING, same
from runbook.records.surroundings import files, surroundings, unknown

NO_RECORD = "no record"  # stands for the verdict of a run that is over and of which nothing can be read
_OWN = (
    "command line",
    "runbook file",
)  # what differs between the runs of any experiment; the file's hash is told of itself
_SHORT = 60  # characters of a result that has a column


class Sought(NamedTuple):
    """One run that is to be compared: what was asked for, and its record where there is one.

    `state` is queued, running or over.
    """

    id: str
    params: Mapping[str, Any]
    state: str = "over"
    attempts: int = 1
    record: Record | None = None


class Row(NamedTuple):
    """One run. `verdict` is also `queued`, `running`, `unfinished` or NO_RECORD; `how` says what kind of run it was.

    `expectations` are by their whole names; `measured` has every metric of the state, judged or not: its delta, or what it was
    afterwards where there is no delta. `duration` is in seconds, None where it is not known.
    """

    id: str
    params: Mapping[str, Any]
    verdict: str
    how: str
    duration: Any
    attempts: int
    expectations: Mapping[str, ExpectationDoc]
    measured: Mapping[str, ExpectationDoc]
    postconditions: Mapping[str, CheckDoc]
    record: Record | None

    def outcome(self, name: str) -> ExpectationDoc | None:
        """What came of a metric: its expectation, or what was measured where nothing was expected of it."""
        return self.expectations.get(name) or self.measured.get(name)


class Differing(NamedTuple):
    """One circumstance that is not the same in all runs: each value with the ids of its runs, the most common first."""

    section: str
    what: str
    values: list[tuple[Any, list[str]]]


class Comparison(NamedTuple):
    """Runs beside each other, in the order of the params that vary.

    `expectations`, `metrics` and `postconditions` are the names that have a column; of `metrics` nothing was expected, and
    each says whether its column has `delta` or what was measured `after`. `same` is what all known runs have in common,
    `counts` how many runs came to each verdict, `missing` those without a record. `fastest` and `slowest` are of the runs
    that passed, or of those that were refuted where none passed; None where fewer than two did.
    """

    experiment: str
    runbooks: list[str]
    varied: list[str]
    rows: list[Row]
    expectations: list[str]
    metrics: dict[str, str]
    postconditions: list[str]
    same: dict[str, Any]
    differs: list[Differing]
    counts: dict[str, int]
    missing: list[str]
    fastest: Row | None
    slowest: Row | None


def compare_runs(
    runs: Iterable[Sought], *, experiment: str = "", runbook: str = "", varied: Sequence[str] = ()
) -> Comparison:
    """Compares runs. `varied` are the params that are meant to differ; others that do are found. Pure."""
    rows = [_row(run) for run in runs]
    names = list(dict.fromkeys([*varied, *_varying(rows)]))
    rows.sort(key=lambda row: ([order(row.params.get(name, NOTHING)) for name in names], row.id))
    records = [row.record for row in rows if row.record is not None]
    differs = differing(records)
    fastest, slowest = _extremes(rows)
    expected = list(dict.fromkeys(name for row in rows for name in row.expectations))
    metrics, alike = _unexpected(rows, expected)
    return Comparison(
        experiment,
        list(dict.fromkeys([*[runbook] * bool(runbook), *(record["run"]["runbook"] for record in records)])),
        names,
        rows,
        expected,
        metrics,
        _telling_postconditions(rows),
        {**_same(rows, names, differs, runbook), **({"measured": alike} if alike else {})},
        differs,
        dict(Counter(row.verdict for row in rows).most_common()),
        [row.id for row in rows if row.verdict == NO_RECORD],
        fastest,
        slowest,
    )


def _row(run: Sought) -> Row:
    record = run.record
    waiting = run.state if run.state != "over" else ""
    if record is None:
        return Row(run.id, dict(run.params), waiting or NO_RECORD, "", None, run.attempts, {}, {}, {}, None)
    of = record["run"]
    how = "dry run" if of["dry_run"] else "rehearsal" if of.get("rehearsal") else ""
    own = {name.removeprefix("expectations."): item for name, item in expectations(record).items()}
    verdict = of["verdict"] or waiting or "unfinished"
    params = {**run.params, **record["params"]}
    checks, measured = record["postconditions"], _measured(record)
    return Row(run.id, params, verdict, how, of["duration"], run.attempts, own, measured, checks, record)


def _measured(record: Record) -> dict[str, ExpectationDoc]:
    """Every metric that was measured afterwards; null is what was not."""
    found: dict[str, ExpectationDoc] = {}
    for state, row in record["after"].items():
        for metric, after in (row if isinstance(row, Mapping) else {}).items():
            delta = record["delta"].get(state, {}).get(metric)
            of, actual = ("after", after) if delta is None else ("delta", delta)
            if actual is not None:
                found[f"{state}.{metric}"] = {"of": of, "actual": actual}
    return found


def _unexpected(rows: Sequence[Row], expected: Sequence[str]) -> tuple[dict[str, str], dict[str, ExpectationDoc]]:
    """The metrics of which nothing was expected: those that have a column, and those that came out alike in all runs.

    Where nothing was expected at all, each has a column.
    """
    known = [row.measured for row in rows if row.measured]
    names = [name for name in dict.fromkeys(name for item in known for name in item) if name not in expected]
    changed = {name for item in known for name, held in item.items() if held.get("of") == "delta"}
    apart = {
        name: "delta" if name in changed else "after"
        for name in names
        if not expected or len({_reading(item.get(name)) for item in known}) > 1
    }
    return apart, {name: known[0][name] for name in names if name not in apart}


def _reading(item: ExpectationDoc | None) -> str:
    """What was measured, in a word that tells it from other measurements."""
    return dumps([item.get("of"), to_data(item.get("actual"))]) if item else ""


def decides(row: Row, item: CheckDoc | ExpectationDoc) -> bool:
    """Whether something that was judged made its run refuted."""
    weighs = item.get("severity") != "warn" or bool(row.record and row.record["run"].get("strict"))
    return item.get("verdict") == "refuted" and weighs and not item.get("overridden")


def most_telling(found: Comparison) -> str:
    """The metric that is refuted most often, else the one that has most values, else the first; empty where there is none."""
    deciding = Counter(name for row in found.rows for name, item in row.expectations.items() if decides(row, item))

    def told(name: str) -> tuple[int, int, int]:
        items = [item for row in found.rows if (item := row.outcome(name)) and item.get("actual") is not None]
        refuted = sum(item.get("verdict") == "refuted" for item in items)
        return deciding[name], refuted, len({_reading(item) for item in items})

    return max([*found.expectations, *found.metrics], key=told, default="")


def order(value: Any) -> tuple[int, Any]:
    """What values are sorted by: numbers as numbers, then texts; what there is none of comes first."""
    found = number(to_data(value))
    if found is not None:
        return 1, found
    return (0, 0) if value is None or isinstance(value, Absent) else (2, as_text(value))


def _varying(rows: Sequence[Row]) -> list[str]:
    """The params that are not the same in all records; a run without a record may not tell its defaults."""
    known = [row for row in rows if row.record is not None]
    names = dict.fromkeys(name for row in known for name in row.params)
    return [name for name in names if any(not _alike(row, known[0], name) for row in known)]


def _alike(row: Row, other: Row, name: str) -> bool:
    return same(row.params.get(name, NOTHING), other.params.get(name, NOTHING))


def _telling_postconditions(rows: Sequence[Row]) -> list[str]:
    """The postconditions that came out differently: another verdict, or another result where that is short."""
    names = dict.fromkeys(name for row in rows for name in row.postconditions)
    return [name for name in names if len({_outcome(row.postconditions.get(name)) for row in rows} - {""}) > 1]


def _outcome(check: CheckDoc | None) -> str:
    """What a check came to, in a word that tells it from others; empty where it was not asked."""
    if not check or not check.get("verdict"):
        return ""
    return dumps([check["verdict"], short_result(check)])


def short_result(check: CheckDoc) -> Any:
    """What a check read, where it is one short value; None otherwise."""
    result = check.get("result")
    return None if isinstance(result, list | dict) or len(as_text(result)) > _SHORT else result


def _extremes(rows: Sequence[Row]) -> tuple[Row | None, Row | None]:
    wanted = "passed" if any(row.verdict == "passed" for row in rows) else "refuted"
    timed = [row for row in rows if row.verdict == wanted and row.duration is not None]
    if len(timed) < 2:
        return None, None
    ordered = sorted(timed, key=lambda row: row.duration)
    return ordered[0], ordered[-1]


# --- circumstances ------------------------------------------------------------------------------------------------


def differing(records: Sequence[Record]) -> list[Differing]:
    """The circumstances that are not the same in all runs; a run that does not tell of one is not counted for it."""
    if len(records) < 2:
        return []
    reference = max(records, key=_told)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    left: dict[tuple[str, str], Any] = {}
    silent: dict[str, set[str]] = {}
    for record in records:
        if record is reference:
            continue
        run_id = record["run"]["id"]
        silent[run_id] = {item.what for item in unknown(reference, record) if item.unknown_to == "right"}
        for item in (*files(reference, record), *surroundings(reference, record)):
            if item.what not in _OWN or item.section == "text":
                found.setdefault((item.section, item.what), {})[run_id] = item.right
                left[item.section, item.what] = item.left
    ids = [record["run"]["id"] for record in records]
    return [
        Differing(
            *key,
            _grouped((run, own.get(run, left[key])) for run in ids if not _is_silent(silent.get(run, set()), *key)),
        )
        for key, own in found.items()
    ]


def _is_silent(names: set[str], section: str, what: str) -> bool:
    """Whether a run to which `names` are unknown does not tell of one circumstance."""
    of_all = {"servers": "settings of the servers"} if ": " in what else {}
    return bool(names & {what, section, f"{section} of {what.partition(':')[0]}", of_all.get(section, section)})


def _told(record: Record) -> int:
    """How much a record tells of its circumstances."""
    return len(record["circumstances"]) + len(record["circumstances"].get("versions", {}))


def _grouped(known: Iterable[tuple[str, Any]]) -> list[tuple[Any, list[str]]]:
    groups: dict[str, tuple[Any, list[str]]] = {}
    for run_id, value in known:
        groups.setdefault(dumps(to_data(value)), (value, []))[1].append(run_id)
    return sorted(groups.values(), key=lambda group: -len(group[1]))


def _same(rows: Sequence[Row], varied: Sequence[str], differs: Sequence[Differing], runbook: str) -> dict[str, Any]:
    """What the runs have in common, as far as their records tell."""
    known = [row for row in rows if row.record is not None] or rows[:1]
    params = {name: value for name, value in known[0].params.items() if name not in varied} if known else {}
    records = [row.record for row in rows if row.record is not None]
    if not records:
        return {**({"runbook": runbook} if runbook else {}), "params": params}
    apart = {item.what for item in differs}
    found: dict[str, Any] = {key: _common(records, read) for key, read in _FACTS.items()}
    versions = max(records, key=_told)["circumstances"].get("versions", {})
    found["versions"] = {
        name: text
        for name, text in versions.items()
        if name not in apart and name != "git" and not name.startswith(("runbook file", "file "))
    }
    told = {key: value for key, value in found.items() if value not in (None, "", {})}
    return {**told, "params": params}


def _common(records: Sequence[Record], read: Callable[[Record], Any]) -> Any:
    """What all records that tell of it have; None where they differ."""
    values = [value for value in map(read, records) if value]
    return values[0] if values and all(value == values[0] for value in values) else None


def _around(record: Record, name: str) -> Any:
    found = record["circumstances"].get("versions", {}).get(name)
    return None if found == "no answer" else found


_FACTS: dict[str, Callable[[Record], Any]] = {
    "runbook": lambda record: record["run"]["runbook"],
    "sha256": lambda record: str(_around(record, "runbook file") or "").removeprefix("sha256 "),
    "git": lambda record: record["circumstances"].get("git") or _around(record, "git"),
    "host": lambda record: record["run"].get("host"),
    "operator": lambda record: record["run"]["operator"],
}
