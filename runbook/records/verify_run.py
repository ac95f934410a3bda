"""Whether the audit has of one run what was written: its rows against the chain's entries, its events against each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from runbook.language.values import brief, loads
from runbook.records.chain import moment
from runbook.records.journal import GENESIS, Line, chain
from runbook.records.ledger import COLUMNS, TABLES, Bundle, Row, misfit

_TIMES = ("started_at", "finished_at", "at")
_END = ("verdict", "exit_code", "finished_at", "duration")
_TOLD_BY = {"opened": tuple(COLUMNS["runs"])[1:], "closed": (*_END, "last_seq", "last_hash")}
_FACTS: Mapping[str, Mapping[str, type]] = {
    "opened": {},
    "closed": {"last_seq": int, "last_hash": str},
    "added": {"first_seq": int, "last_seq": int, "last_hash": str},
    "pruned": {"events": int, "last_seq": int, "last_hash": str},
}
MOST_DIGITS = 200_000  # of a number; jsonb and numeric hold fewer


class Finding(NamedTuple):
    """Something that is not as it was written: in which table, of which run, which record, and what is wrong with it."""

    table: str
    run: str
    record: str
    what: str


Entries = Mapping[str, Sequence[tuple[Row, dict[str, Any]]]]


def well_formed(bundle: Bundle) -> tuple[Bundle, list[Finding]]:
    """The rows that have in every column what can stand there, and what is wrong with the others."""
    good: dict[str, list[Row]] = {table: [] for table in TABLES}
    wrong: list[Finding] = []
    for table in TABLES:
        for row in bundle.tables[table]:
            what = misfit(table, row)
            if what:
                place = next((f"{name} {brief(row[name])}" for name in ("seq", "number") if name in row), "its row")
                wrong.append(Finding(table, bundle.run_id, place, what))
            else:
                good[table].append(row)
    return Bundle(bundle.run_id, good), wrong


def check_run(bundle: Bundle, journal: Sequence[Line] | None = None) -> Iterator[Finding]:
    """What is wrong with the records of one run."""
    run, tables = bundle
    entries: dict[str, list[tuple[Row, dict[str, Any]]]] = {kind: [] for kind in _FACTS}
    for row in tables["chain"]:
        facts, what = _read_entry(row)
        if what:
            yield Finding("chain", run, f"entry {row['number']} ({row['kind']})", what)
        entries.setdefault(row["kind"], []).append((row, facts))
    for entry, facts in entries["closed"]:
        yield from _check_end(bundle, entry, facts)
    for table, kind in (("runs", "opened"), ("closings", "closed")):
        yield from _check_row(run, table, tables[table], kind, entries[kind])
    for closing in tables["closings"]:
        numbers = [row["number"] for row, _ in entries["closed"]]
        if numbers and closing["number"] not in numbers:
            what = f"number was changed: {closing['number']}, the chain has {numbers[0]}"
            yield Finding("closings", run, "its row", what)
        for row in tables["runs"]:
            yield from _compared("closings", run, closing, row, ("runbook", "started_at"), "the run's row")
    yield from _check_events(bundle, entries)
    yield from _check_pruned(bundle, entries)
    if journal is not None:
        yield from _check_journal(run, tables["events"], journal, pruned=bool(entries["pruned"]))


def _read_entry(row: Row) -> tuple[dict[str, Any], str]:
    """What an entry says, and what is wrong with it in itself."""
    wrong = ""
    if chain(row["previous"], row["line"]) != row["head"]:
        wrong = "was changed: its text and its hash do not fit together"
    try:
        facts = loads(row["line"])
        kind, run = facts["kind"], facts["run"]
    except (ValueError, KeyError, TypeError, RecursionError):
        run, _, last_hash = str(row["line"]).partition(" ")
        facts, kind = {"old": True, "last_hash": last_hash}, "closed"  # as it was before openings were chained
    if not wrong and (kind, run) != (row["kind"], row["run_id"]):
        wrong = f"was changed: its columns say {row['kind']} of run {row['run_id']}, its text {kind} of run {run}"
    needs = {} if "old" in facts else _FACTS.get(row["kind"], {})
    ill = [name for name, known in needs.items() if type(facts.get(name)) is not known]
    if ill:
        facts = {name: value for name, value in facts.items() if name not in ill}
        wrong = wrong or f"was changed: its text has no {ill[0]}"
    return facts, wrong


def _check_end(bundle: Bundle, entry: Row, facts: dict[str, Any]) -> Iterator[Finding]:
    """How the run ended as its last event tells it, beside the chain's entry; an old entry takes it from there."""
    for row in bundle.tables["events"]:
        if row["hash"] != facts.get("last_hash"):
            continue
        try:
            data = loads(row["line"])["data"]
            said = {"verdict": "lost", "exit_code": None, **data} if row["kind"] == "run.lost" else data
            said = {name: said[name] for name in _END}
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if "old" in facts:
            unaudited = [(c["verdict"], c["exit_code"]) for c in bundle.tables["closings"]] == [("errored", 6)]
            trouble = {"verdict": "errored", "exit_code": 6} if unaudited and said["verdict"] == "passed" else {}
            facts.update({**said, "last_seq": row["seq"], **trouble})
            return
        if said["verdict"] == "passed" and facts.get("verdict") == "errored":  # its audit failed, or came too late
            said |= {"verdict": "errored", "exit_code": facts.get("exit_code")}
        record = f"entry {entry['number']} (closed)"
        yield from _compared("chain", bundle.run_id, facts, said, _END, "the run's last event", record)


def _check_pruned(bundle: Bundle, entries: Entries) -> Iterator[Finding]:
    """Whether what was pruned is what was there by then; an entry may also keep how the run had ended."""
    run = bundle.run_id
    for row, facts in entries["pruned"]:
        before = [item for item in (*entries["closed"], *entries["added"]) if item[0]["number"] < row["number"]]
        last = max(before, key=lambda item: int(item[0]["number"]))[1] if before else {}
        there = (last.get("last_hash"), last.get("last_seq", facts.get("last_seq")))
        record = f"entry {row['number']} (pruned)"
        if not before:
            yield Finding("chain", run, record, "the run was not closed by then: it was inserted")
        elif there != (facts.get("last_hash"), facts.get("last_seq")) or facts.get("events") != facts.get("last_seq"):
            what = f"tells of {facts.get('events')} events up to {facts.get('last_seq')}: those are not the run's"
            yield Finding("chain", run, record, what)
        kept = facts.get("closing")
        if not isinstance(kept, dict):
            continue
        for closing in bundle.tables["closings"]:
            yield from _compared("closings", run, closing, kept, _END, f"entry {row['number']} of the chain")


def _check_row(
    run: str, table: str, rows: Sequence[Row], kind: str, entries: Sequence[tuple[Row, Mapping[str, Any]]]
) -> Iterator[Finding]:
    """One row, one entry, and both say the same."""
    for row in rows[1:]:
        yield Finding(table, run, "its row", f"stands there {len(rows)} times: {brief(dict(row), 120)}")
    for entry, _ in entries[1:]:
        what = f"the run is {kind} in entry {entries[0][0]['number']} already"
        yield Finding("chain", run, f"entry {entry['number']} ({kind})", what)
    if rows and not entries:
        yield Finding(
            table,
            run,
            "its row",
            f"the chain has no entry of a run that {kind}: the row was inserted, or its entry removed",
        )
    if entries and not rows:
        yield Finding(
            table, run, "its row", f"was removed: entry {entries[0][0]['number']} of the chain says that it was there"
        )
    if rows and entries:
        facts = entries[0][1]
        names = [name for name in _TOLD_BY[kind] if name in facts or "old" not in facts]
        yield from _compared(table, run, rows[0], facts, names, f"entry {entries[0][0]['number']} of the chain")


def _compared(
    table: str,
    run: str,
    row: Row,
    facts: Mapping[str, Any],
    names: Sequence[str],
    source: str,
    record: str = "its row",
) -> Iterator[Finding]:
    for name in names:
        if name not in facts or name not in row:
            yield Finding(table, run, record, f"{source} does not tell {name}: it was written anew")
        elif not _same(name, row[name], facts[name]):
            what = f"{name} was changed: {brief(row[name])}, {source} has {brief(facts[name])}"
            yield Finding(table, run, record, what)


def _same(name: str, one: Any, other: Any) -> bool:
    if type(one) is type(other) and type(one) in (str, int) and one == other:
        return True
    return bool(_value(name, one) == _value(name, other))


def _value(name: str, value: Any) -> Any:
    """A value as two that mean the same have it: times in UTC, numbers digit by digit, true is not 1."""
    try:
        return moment(value) if name in _TIMES and isinstance(value, str) else _exact(value)
    except (ValueError, OverflowError, RecursionError):
        return id(value), name


def _exact(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_exact(item) for item in value]
    if not isinstance(value, int | Decimal) or isinstance(value, bool):
        return type(value), value
    size = value.adjusted() if isinstance(value, Decimal) and value.is_finite() else 0
    exponent = value.as_tuple().exponent if isinstance(value, Decimal) else 0
    if abs(size) > MOST_DIGITS or not isinstance(exponent, int) or abs(exponent) > MOST_DIGITS:
        return Decimal, str(value)
    return Decimal, format(Decimal(value) if value else abs(Decimal(value)), "f")


def _check_events(bundle: Bundle, entries: Entries) -> Iterator[Finding]:
    run, tables = bundle
    events = tables["events"]
    if entries["pruned"] and not events:
        return
    expected, previous = 1, GENESIS
    hashes: dict[int, str] = {}
    for row in events:
        seq = row["seq"]
        if seq > expected:
            gone = span("event", "events", expected, seq - 1)
            yield Finding("events", run, gone, f"removed: {_event(row)} comes after event {expected - 1}")
        elif seq < expected:
            yield Finding("events", run, _event(row), "stands there twice, or out of order")
        yield from _check_event(bundle, row, previous if seq == expected else None)
        expected, previous, hashes[seq] = max(expected, seq + 1), row["hash"], row["hash"]
    for _, facts in entries["opened"]:
        first = facts.get("first_hash")
        if 1 in hashes and first not in (None, hashes[1]):
            what = "is another one than the chain has at the run's opening: it was rewritten"
            yield Finding("events", run, "event 1", what)
        elif first is not None and not events and not tables["closings"]:
            yield Finding("events", run, "event 1", "removed, as all others: the chain has it at the run's opening")
    yield from _check_ends(run, entries, hashes)


def _check_ends(run: str, entries: Entries, hashes: Mapping[int, str]) -> Iterator[Finding]:
    """Whether the events end where the chain says that they end."""
    covered = 0
    for entry, facts in (*entries["closed"], *entries["added"]):
        seq, last_hash = facts.get("last_seq") or max(hashes, default=0), facts.get("last_hash")
        if seq not in hashes:
            yield Finding("events", run, f"event {seq}", f"removed: entry {entry['number']} of the chain has it")
        elif hashes[seq] != last_hash:
            what = f"is another one than entry {entry['number']} of the chain has: it, or one before it, was rewritten"
            yield Finding("events", run, f"event {seq}", what)
        covered = max(covered, seq)
    beyond = [seq for seq in hashes if seq > covered]
    if entries["closed"] and beyond:
        which = span("event", "events", beyond[0], beyond[-1])
        yield Finding("events", run, which, "no entry of the chain has it: inserted after the run was closed")


def _check_event(bundle: Bundle, row: Row, previous: str | None) -> Iterator[Finding]:
    """One event against its own text, its hash, the one before it, and the run that it is of."""
    run = bundle.run_id
    if chain(row["previous"], row["line"]) != row["hash"]:
        yield Finding("events", run, _event(row), "its line was changed: it does not fit its hash")
    elif previous is not None and row["previous"] != previous:
        what = "does not follow the event before it: one of the two was changed, replaced or moved"
        yield Finding("events", run, _event(row), what)
    try:
        facts = loads(row["line"])
        said = {name: facts[name] for name in ("seq", "at", "kind")}
    except (ValueError, KeyError, TypeError, RecursionError):
        yield Finding("events", run, _event(row), "its line is no record of an event")
        return
    yield from (
        Finding("events", run, _event(row), finding.what)
        for finding in _compared("events", run, row, said, tuple(said), "its line")
    )
    if row["kind"] == "run.opened":
        opened = facts["data"].get("run", {}) if isinstance(facts.get("data"), dict) else {}
        if opened.get("id") != run:
            yield Finding("events", run, _event(row), f"is of another run: {brief(opened.get('id'))}")
    for owner in bundle.tables["runs"]:
        if owner["epoch"] != row["epoch"]:
            what = f"epoch was changed: {row['epoch']}, the run's is {owner['epoch']}"
            yield Finding("events", run, _event(row), what)


def _event(row: Row) -> str:
    return f"event {row['seq']} ({row['kind']})"


def _check_journal(run: str, events: Iterable[Row], journal: Sequence[Line], pruned: bool) -> Iterator[Finding]:
    """The audit beside the run's own journal, which tells which of its events is another one."""
    ours = {line.event.seq: line for line in journal}
    for row in () if pruned else events:
        line = ours.get(row["seq"])
        if line is None:
            yield Finding("events", run, _event(row), "is not in the run's own journal: it was inserted")
        elif line.hash != row["hash"] and line.text != row["line"]:
            what = f"is another one than in the run's own journal, which has {line.event.kind}"
            yield Finding("events", run, _event(row), what)


def span(one: str, many: str, first: int, last: int) -> str:
    return f"{one} {first}" if first == last else f"{many} {first} to {last}"
