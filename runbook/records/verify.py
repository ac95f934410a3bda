"""Whether an audit is what was written: every row against the chain, the chain against itself and heads kept elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from runbook.language.values import brief
from runbook.records.journal import GENESIS, JournalError, Line
from runbook.records.ledger import Bundle, Ledger, Row, misfit, versions
from runbook.records.verify_run import Finding, check_run, span, well_formed

TOLD = 200  # findings that are told one by one


class Anchor(NamedTuple):
    """A head of the chain that was kept outside of the audit, by whom, and the run at whose closing it stood, if known.

    `at` says when that was, where it is known: an export that was made before cannot have it. `later` says that it stood at what
    was added to the run since.
    """

    head: str
    source: str
    run: str = ""
    at: str = ""
    later: bool = False


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
    sight = _Sight([anchor for anchor in anchors if not _later(anchor.at, ledger.taken)])
    findings: list[Finding] = []
    more = 0
    for finding in sight.findings(ledger, journal):
        if len(findings) < TOLD:
            findings.append(finding)
        else:
            more += 1
    return Report(findings, more, sight.counts, sight.head)


def _later(ended: str, taken: str) -> bool:
    """Whether a run ended after an export was made, which tells its time to the second."""
    try:
        return bool(ended and taken) and datetime.fromisoformat(ended) >= datetime.fromisoformat(taken)
    except (ValueError, TypeError):
        return False


class _Sight:
    """One pass over an audit: what must be remembered from run to run."""

    def __init__(self, anchors: Sequence[Anchor]) -> None:
        self._anchors = anchors
        self._wanted = {anchor.head for anchor in anchors}
        self._met: dict[str, int] = {}
        self._closings: dict[str, tuple[int, str]] = {}
        self._anchored = {anchor.run for anchor in anchors if anchor.run}
        self._links: list[bytes] = []
        self._holders: dict[str, Row] = {}  # by lock: the run with the highest epoch
        self.counts = dict.fromkeys(("entries", "runs", "events", "open", "pruned", "anchors"), 0)
        self.counts["anchors"] = len(self._wanted)
        self.head = GENESIS
        self._began = ""  # when the run of the first entry did, in UTC
        self._known: set[str] = set()  # the anchored runs that the audit has

    def findings(self, ledger: Ledger, journal: Callable[[str], Sequence[Line] | None]) -> Iterator[Finding]:
        for given in ledger.bundles:
            bundle, wrong = well_formed(given)
            yield from wrong
            self._remember(bundle)
            own = None
            try:
                own = journal(bundle.run_id)
            except JournalError as error:
                yield Finding("journal", bundle.run_id, "its own journal", str(error))
            except OSError:
                own = None  # a name that no folder can have, or another user's folder
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
        self._known |= {bundle.run_id} & self._anchored
        for entry in entries:
            self._links.append(_packed(entry))
            if entry["number"] == 1 and runs:
                self._began = runs[0]["started_at"]
            if entry["head"] in self._wanted:
                self._met[entry["head"]] = entry["number"]
            if entry["kind"] == "closed" and bundle.run_id in self._anchored:
                self._closings[bundle.run_id] = entry["number"], entry["head"]
        for row in runs:
            if row["lock"] not in self._holders or row["epoch"] > self._holders[row["lock"]]["epoch"]:
                self._holders[row["lock"]] = {
                    name: row[name] for name in ("epoch", "run_id", "host", "pid", "operator")
                }

    def _check_links(self) -> Iterator[Finding]:
        """Whether every entry follows the one before it, from the first to the newest."""
        number, head, run = 0, GENESIS, ""
        for packed in sorted(self._links):
            next_number, previous, next_head, next_run = _unpacked(packed)
            names = _entry(next_number, next_run)
            if next_number == number:
                yield Finding("chain", next_run, names, f"stands there twice, the other time for run {run}")
            elif next_number != number + 1:
                gone = span("entry", "entries", number + 1, next_number - 1)
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
        missed = [anchor for anchor in self._anchors if anchor.head not in self._met and anchor.head != GENESIS]
        earlier = {anchor.run: anchor for anchor in missed if self._before_all(anchor)}
        if earlier:
            count = "the heads of 1 earlier run" if len(earlier) == 1 else f"the heads of {len(earlier)} earlier runs"
            example = f"such as that of run {max(earlier)} in {earlier[max(earlier)].source}"
            what = f"the audit was begun anew at {self._began}: {count} are not in it, {example}"
            yield Finding("chain", "", "the beginning", what)
        for anchor in missed:
            if anchor.run in earlier:
                continue
            number, head = (0, "") if anchor.later else self._closings.get(anchor.run, (0, ""))
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

    def _before_all(self, anchor: Anchor) -> bool:
        """Whether an anchor is of a run that was over when the audit, which does not have it, began."""
        return anchor.run not in self._known and _later(self._began, anchor.at)

    def _check_aside(self, ledger: Ledger) -> Iterator[Finding]:
        for table, rows in ledger.aside.items():
            yield from (Finding(table, "", "a row", what) for row in rows if (what := misfit(table, row)))
        leases = {row["lock"]: row for row in ledger.aside["leases"] if not misfit("leases", row)}
        for lock, holder in self._holders.items():
            if holder["epoch"]:  # 0: a submitted run that never began had no lock
                yield from _check_lease(lock, leases.get(lock), holder)
        for lock, lease in leases.items():
            last = self._holders.get(lock, {"epoch": 0})["epoch"]
            if lease["epoch"] > last and lease["heartbeat"] == "-infinity":
                what = f"run {lease['run_id']} held it and was closed, but the audit has no such run: it was removed"
                yield Finding("leases", lease["run_id"], f"lock {lock}", what)
        found = sorted(row["version"] for row in ledger.aside["migrations"] if not misfit("migrations", row))
        if found != versions():
            what = f"a version was removed or inserted: this program knows {versions()}"
            yield Finding("migrations", "", f"versions {found}", what)
        for guard in ledger.unguarded:
            name = guard.partition(": ")[2]
            yield Finding(guard.partition(":")[0], "", f"trigger {name}", "is gone, switched off, or another one")


def _check_lease(lock: str, lease: Row | None, holder: Row) -> Iterator[Finding]:
    """The lease of a lock beside the run that had it last, as far as the audit knows."""
    run, record = holder["run_id"], f"lock {lock}"
    if lease is None or lease["epoch"] < holder["epoch"]:
        has = "was removed" if lease is None else f"is at epoch {lease['epoch']}"
        yield Finding("leases", run, record, f"{has}, although that run had epoch {holder['epoch']}")
    elif lease["epoch"] == holder["epoch"]:
        for name in ("run_id", "host", "pid", "operator"):
            if lease[name] != holder[name]:
                what = f"{name} was changed: {brief(lease[name])}, the run's row has {brief(holder[name])}"
                yield Finding("leases", run, record, what)


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


def _short(head: str) -> str:
    return f"{head[:12]}…" if len(head) > 12 else head
