"""An export of an audit: what stands in it is read as it is; what is no export, or not whole, is refused."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from runbook.language.values import dumps, loads
from runbook.records.ledger import Ledger, LedgerError, export, misfit, read_export, versions
from runbook.records.verify import Report, verify
from tests.records.audits import AT, a_ledger, an_audit


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return list(export(a_ledger(), "somewhere"))


def looked_at(lines: list[str]) -> Report:
    _, ledger = read_export(lines)
    return verify(ledger)


def found_in(lines: list[str]) -> bool:
    """Whether these lines are refused, or something is found in them. Anything else that is raised is an error."""
    try:
        return not looked_at(lines).sound
    except LedgerError as error:
        assert str(error)
        return True


def test_what_is_exported_is_read_again(lines: list[str]) -> None:
    database, ledger = read_export(lines)
    report = verify(ledger)
    assert (database, report.findings) == ("somewhere", [])
    assert report == verify(a_ledger())
    assert report.counts == {"entries": 6, "runs": 3, "events": 12, "open": 0, "pruned": 0, "anchors": 0}
    assert len(lines) == 2 + 3 * 8 + 1 + len(versions())


def test_an_empty_audit() -> None:
    made = [{"version": version, "applied_at": AT} for version in versions()]
    empty = Ledger(iter(()), {"leases": [], "migrations": made}, [])
    assert looked_at(list(export(empty, "somewhere"))).sound


def test_a_switched_off_trigger_is_told_by_the_export(lines: list[str]) -> None:
    report = looked_at(list(export(a_ledger()._replace(unguarded=["events: append_only"]), "somewhere")))
    assert [(finding.table, finding.record) for finding in report.findings] == [("events", "trigger append_only")]


def test_cut_off_anywhere(lines: list[str], tmp_path: Path) -> None:
    whole = "\n".join(lines)
    file = tmp_path / "cut.jsonl"
    for size in range(0, len(whole), 7):
        file.write_text(whole[:size])
        with file.open() as text, pytest.raises(LedgerError):
            verify(read_export(text)[1])
    for number in range(len(lines)):
        assert found_in(lines[:number])


def test_a_line_removed_or_twice(lines: list[str]) -> None:
    for index in range(len(lines)):
        assert found_in(lines[:index] + lines[index + 1 :]), lines[index]
        assert found_in(lines[: index + 1] + lines[index:]), lines[index]


def test_two_lines_swapped(lines: list[str]) -> None:
    for index in range(len(lines) - 1):
        swapped = [*lines[:index], lines[index + 1], lines[index], *lines[index + 2 :]]
        one, other = (loads(line)["table"] for line in lines[index : index + 2])
        if (one == other == "chain") or {one, other} <= {"leases", "migrations"}:
            continue  # they say themselves where they belong
        assert found_in(swapped), lines[index : index + 2]
    for one, other in ((1, 9), (2, 12), (6, 14)):  # of two runs
        swapped = list(lines)
        swapped[one], swapped[other] = lines[other], lines[one]
        assert found_in(swapped)


def test_every_value_changed(lines: list[str]) -> None:
    for index, line in enumerate(lines):
        data = loads(line)
        if data["table"] == "export":
            continue  # what the header tells is for people
        for name in data["row"]:
            if (data["table"], name) in (("leases", "since"), ("leases", "heartbeat"), ("migrations", "applied_at")):
                continue
            for other in ("other", None, 7, [], {"x": 1}, True, "\ud800"):
                changed = {**data, "row": {**data["row"], name: other}}
                if other != data["row"][name] or isinstance(other, bool):
                    assert found_in([*lines[:index], dumps(changed), *lines[index + 1 :]]), (data["table"], name, other)
            gone = {key: value for key, value in data["row"].items() if key != name}
            assert found_in([*lines[:index], dumps({**data, "row": gone}), *lines[index + 1 :]]), (data["table"], name)


STRANGE = [
    "",
    " ",
    "null",
    "{}",
    "[]",
    "7",
    '{"table": "runs"}',
    '{"table": "runs", "row": 7}',
    '{"table": "runs", "row": {}}',
    '{"table": ["runs"], "row": {}}',
    '{"table": "other", "row": {}}',
    '{"table": "events", "row": {"run_id": 7}}',
    '{"table": "chain", "row": {"run_id": "x", "number": NaN}}',
    '{"table": "end", "row": {}}',
    '{"table": "end", "row": {"rows": 7, "unguarded": 7}}',
    '{"table": "export", "row": {"format": 1}}',
    "[" * 100_000,
    '{"table": "runs", "row": {"run_id": "\\ud800"}}',
    "\udcff",
    "9" * 5000,
]


@pytest.mark.parametrize("line", STRANGE)
def test_strange_lines(line: str, lines: list[str]) -> None:
    for index in (0, 1, 5, len(lines)):
        assert found_in([*lines[:index], line, *lines[index:]])
    with pytest.raises(LedgerError):
        looked_at([line])


def test_no_export_at_all(lines: list[str]) -> None:
    for given in ([], ["\n"], lines[1:], [lines[0].replace('"format": 1', '"format": 2'), *lines[1:]], lines[:1]):
        with pytest.raises(LedgerError, match=r"no export|not whole|no row"):
            looked_at(given)


def test_an_ended_export_goes_not_on(lines: list[str]) -> None:
    with pytest.raises(LedgerError, match="where none can be"):
        looked_at([*lines, lines[3]])


def test_a_long_export_is_read_piece_by_piece(tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    with file.open("w") as out:
        for line in export(a_ledger(500, 40), "somewhere"):
            out.write(f"{line}\n")
    tracemalloc.start()
    try:
        with file.open() as text:
            report = verify(read_export(text)[1])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.sound and report.counts["events"] == 20_000
    assert peak < 2_000_000, f"{peak:,} bytes"


def test_what_can_stand_in_a_column() -> None:
    [bundle] = an_audit(1, 2)
    for table, rows in bundle.tables.items():
        for row in rows:
            assert misfit(table, row) == ""
            for name in row:
                assert name in misfit(table, {key: value for key, value in row.items() if key != name})
                if name != "params":
                    assert name in misfit(table, {**row, name: []})
    assert "pid" in misfit("runs", {**bundle.tables["runs"][0], "pid": True})
