"""Whether an audit is what was written: every row against the chain, the chain against itself and heads kept elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from runbook.language.values import brief, loads
from runbook.records.chain import moment
from runbook.records.journal import GENESIS, JournalError, Line, chain
from runbook.records.ledger import Bundle, Ledger, Row

TOLD = 200  # findings that are told one by one
_TIMES = ("started_at", "finished_at", "at")


class Finding(NamedTuple):
    """Something that is not as it was written: in which table, of which run, which record, and what is wrong with it."""

    table: str
    run: str
    record: str
    what: str


class Anchor(NamedTuple):
    """A head of the chain that was kept outside of the audit, by whom, and the run at whose closing it stood, if known."""

    head: str
    source: str
    run: str = ""


class Report(NamedTuple):
    """What was looked at and what was found; `more` counts the findings beyond those that are told."""

    findings: list[Finding]
    more: int
    counts: dict[str, int]
    head: str

    @property
    def sound(self) -> bool:
        return not self.findings


def verify(
    ledger: Ledger, anchors: Sequence[Anchor] = (), journal: Callable[[str], Sequence[Line] | None] = lambda run: None
) -> Report:
    """Looks at a whole audit; `journal` gives the lines of a run's own journal where that is at hand. Raises as reading does."""
    sight = _Sight(anchors)
    findings: list[Finding] = []
    more = 0
    for finding in sight.findings(ledger, journal):
        if len(findings) < TOLD:
            findings.append(finding)
        else:
            more += 1
    return Report(findings, more, sight.counts, sight.head)


class _Sight:
    """One pass over an audit: what must be remembered from run to run."""

    def __init__(self, anchors: Sequence[Anchor]) -> None:
        self._anchors = anchors
        self._wanted = {anchor.head for anchor in anchors}
        self._met: dict[str, int] = {}
        self._closings: dict[str, tuple[int, str]] = {}
        self._anchored = {anchor.run for anchor in anchors if anchor.run}
        self._links: list[bytes] = []
        self._epochs: dict[str, tuple[int, str]] = {}
        self.counts = dict.fromkeys(("entries", "runs", "events", "open", "pruned", "anchors"), 0)
        self.counts["anchors"] = len(self._wanted)
        self.head = GENESIS

    def findings(self, ledger: Ledger, journal: Callable[[str], Sequence[Line] | None]) -> Iterator[Finding]:
        for bundle in ledger.bundles:
            self._remember(bundle)
            own = None
            try:
                own = journal(bundle.run_id)
            except JournalError as error:
                yield Finding("journal", bundle.run_id, "its own journal", str(error))
            yield from check_run(bundle, own)
        yield from self._check_links()
        yield from self._check_anchors()
        yield from self._check_aside(ledger)

    def _remember(self, bundle: Bundle) -> None:
        entries, runs = bundle.tables["chain"], bundle.tables["runs"]
        self.counts["entries"] += len(entries)
        self.counts["runs"] += len(runs)
        self.counts["events"] += len(bundle.tables["events"])
        self.counts["open"] += bool(runs) and not bundle.tables["closings"]
        self.counts["pruned"] += any(entry["kind"] == "pruned" for entry in entries)
        for entry in entries:
            self._links.append(_packed(entry))
            if entry["head"] in self._wanted:
                self._met[entry["head"]] = entry["number"]
            if entry["kind"] == "closed" and bundle.run_id in self._anchored:
                self._closings[bundle.run_id] = entry["number"], entry["head"]
        for row in runs:
            if row["epoch"] > self._epochs.get(row["lock"], (0, ""))[0]:
                self._epochs[row["lock"]] = row["epoch"], bundle.run_id

    def _check_links(self) -> Iterator[Finding]:
        """Whether every entry follows the one before it, from the first to the newest."""
        number, head, run = 0, GENESIS, ""
        for packed in sorted(self._links):
            next_number, previous, next_head, next_run = _unpacked(packed)
            names = _entry(next_number, next_run)
            if next_number == number:
                yield Finding("chain", next_run, names, f"stands there twice, the other time for run {run}")
            elif next_number != number + 1:
                gone = _span("entry", "entries", number + 1, next_number - 1)
                yield Finding("chain", next_run, gone, f"removed: {names} comes after {_entry(number, run)}")
            elif previous != head:
                before = _entry(number, run) if number else "the beginning"
                what = f"does not follow {before}: one of the two was changed, replaced, inserted or moved"
                yield Finding("chain", next_run, names, what)
            number, head, run = next_number, next_head, next_run
        self.head = head

    def _check_anchors(self) -> Iterator[Finding]:
        """Whether the heads that were kept elsewhere still stand in the chain."""
        firm = max(self._met.values(), default=0)
        for anchor in self._anchors:
            if anchor.head in self._met:
                continue
            number, head = self._closings.get(anchor.run, (0, ""))
            since = (
                f"after entry {firm}, which another head still proves"
                if 0 < firm < (number or firm + 1)
                else "somewhere"
            )
            what = f"its head in {anchor.source} is {_short(anchor.head)}"
            if number:
                reason = (
                    f"the audit has {_short(head)}: it, or an entry before it, was changed, removed or inserted {since}"
                )
                yield Finding("chain", anchor.run, _entry(number, anchor.run), f"{what}; {reason}")
            else:
                reason = "no entry of the audit has it: the newest entries were removed, or an older copy was put back"
                yield Finding(
                    "chain", anchor.run, "an entry is missing", f"{what}; {reason}, or an entry before it was changed"
                )

    def _check_aside(self, ledger: Ledger) -> Iterator[Finding]:
        leases = {row["lock"]: row["epoch"] for row in ledger.aside["leases"]}
        for lock, (epoch, run) in self._epochs.items():
            if leases.get(lock, 0) < epoch:
                has = f"is at epoch {leases[lock]}" if lock in leases else "was removed"
                yield Finding("leases", run, f"lock {lock}", f"{has}, although that run had epoch {epoch}")
        versions = sorted(row["version"] for row in ledger.aside["migrations"])
        if versions != list(range(1, len(versions) + 1)) or len(versions) < 3:
            yield Finding("migrations", "", f"versions {versions}", "a version was removed or inserted")
        for guard in ledger.unguarded:
            yield Finding(guard.partition(":")[0], "", f"trigger {guard.partition(': ')[2]}", "is gone or switched off")


def _packed(entry: Row) -> bytes:
    try:
        previous, head = bytes.fromhex(entry["previous"]), bytes.fromhex(entry["head"])
    except ValueError:
        previous = head = b""
    number, run = int(entry["number"]), str(entry["run_id"])
    place = max(min(number, 2**62), 0).to_bytes(8, "big")
    return place + previous[:32].ljust(32) + head[:32].ljust(32) + run.encode()


def _unpacked(packed: bytes) -> tuple[int, str, str, str]:
    return int.from_bytes(packed[:8], "big"), packed[8:40].hex(), packed[40:72].hex(), packed[72:].decode()


def _entry(number: int, run: str) -> str:
    return f"entry {number} (run {run})" if number else "the beginning"


def _span(one: str, many: str, first: int, last: int) -> str:
    return f"{one} {first}" if first == last else f"{many} {first} to {last}"


def _short(head: str) -> str:
    return f"{head[:12]}…" if len(head) > 12 else head


# --- one run ------------------------------------------------------------------------------------------------------


def check_run(bundle: Bundle, journal: Sequence[Line] | None = None) -> Iterator[Finding]:
    """What is wrong with the records of one run."""
    run, tables = bundle
    entries: dict[str, list[tuple[Row, dict[str, Any]]]] = {"opened": [], "closed": [], "added": [], "pruned": []}
    for row in tables["chain"]:
        facts, what = _read_entry(row)
        if what:
            yield Finding("chain", run, f"entry {row['number']} ({row['kind']})", what)
        entries.setdefault(row["kind"], []).append((row, facts))
    for table, kind in (("runs", "opened"), ("closings", "closed")):
        yield from _check_row(run, table, tables[table], kind, entries[kind])
    for closing in tables["closings"]:
        numbers = [row["number"] for row, _ in entries["closed"]]
        if numbers and closing["number"] not in numbers:
            yield Finding(
                "closings", run, "its row", f"number was changed: {closing['number']}, the chain has {numbers[0]}"
            )
        for row in tables["runs"]:
            yield from _compared("closings", run, closing, row, ("runbook", "started_at"), "the run's row")
    yield from _check_events(bundle, entries)
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
        facts, kind = {"last_hash": last_hash}, "closed"  # as it was before openings were chained
    if not wrong and (kind, run) != (row["kind"], row["run_id"]):
        wrong = f"was changed: its columns say {row['kind']} of run {row['run_id']}, its text {kind} of run {run}"
    return facts, wrong


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
        names = tuple(name for name in rows[0] if name in facts)
        yield from _compared(table, run, rows[0], facts, names, f"entry {entries[0][0]['number']} of the chain")


def _compared(
    table: str, run: str, row: Row, facts: Mapping[str, Any], names: Sequence[str], source: str
) -> Iterator[Finding]:
    for name in names:
        if _value(name, row[name]) != _value(name, facts[name]):
            what = f"{name} was changed: {brief(row[name])}, {source} has {brief(facts[name])}"
            yield Finding(table, run, "its row", what)


def _value(name: str, value: Any) -> Any:
    if name not in _TIMES:
        return value
    try:
        return moment(value)
    except (ValueError, TypeError):
        return value


def _check_events(bundle: Bundle, entries: Mapping[str, Sequence[tuple[Row, Mapping[str, Any]]]]) -> Iterator[Finding]:
    run, tables = bundle
    events = tables["events"]
    if entries["pruned"] and not events:
        return
    expected, previous = 1, GENESIS
    hashes: dict[int, str] = {}
    for row in events:
        seq = row["seq"]
        if seq > expected:
            gone = _span("event", "events", expected, seq - 1)
            yield Finding("events", run, gone, f"removed: {_event(row)} comes after event {expected - 1}")
        elif seq < expected:
            yield Finding("events", run, _event(row), "stands there twice, or out of order")
        yield from _check_event(bundle, row, previous if seq == expected else None)
        expected, previous, hashes[seq] = max(expected, seq + 1), row["hash"], row["hash"]
    for _, facts in entries["opened"]:
        if 1 in hashes and facts.get("first_hash") not in (None, hashes[1]):
            yield Finding(
                "events", run, "event 1", "is another one than the chain has at the run's opening: it was rewritten"
            )
    yield from _check_ends(run, entries, hashes)


def _check_ends(
    run: str, entries: Mapping[str, Sequence[tuple[Row, Mapping[str, Any]]]], hashes: Mapping[int, str]
) -> Iterator[Finding]:
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
        which = _span("event", "events", beyond[0], beyond[-1])
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
    for owner in bundle.tables["runs"]:
        if owner["epoch"] != row["epoch"]:
            yield Finding(
                "events", run, _event(row), f"epoch was changed: {row['epoch']}, the run's is {owner['epoch']}"
            )


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
