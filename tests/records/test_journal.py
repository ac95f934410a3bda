"""The journal: proven line by line, and enough to write the run log anew."""

from __future__ import annotations

import stat
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook import execute, load
from runbook.engine.record import fold
from runbook.language.values import dumps, loads, to_data
from runbook.records.journal import Journal, JournalError, create_journal, read_journal
from runbook.records.runlog import run_log
from tests.conftest import Database

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False) | st.text(),
    lambda items: st.lists(items, max_size=4) | st.dictionaries(st.text(max_size=8), items, max_size=4),
    max_leaves=12,
)


@given(JSON)
@settings(max_examples=300, deadline=None)
def test_data_comes_back_as_it_was_written(value: object) -> None:
    data = to_data(value)
    assert loads(dumps(data)) == data


def test_decimals_keep_their_digits() -> None:
    assert dumps(Decimal("1.10")) == "1.10"
    assert str(loads("0.12345678901234567890123456789")) == "0.12345678901234567890123456789"


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = create_journal(tmp_path / "run")
    for number in range(3):
        journal.append("2025-12-10T14:35:22.000+00:00", "note.added", {"text": f"note {number}"})
    return journal


def test_a_journal_is_its_owners_alone(journal: Journal) -> None:
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(journal.path.parent.stat().st_mode) == 0o700


def test_a_torn_last_line_is_left_out(journal: Journal) -> None:
    journal.path.write_bytes(journal.path.read_bytes()[:-20])
    assert [line.event.seq for line in read_journal(journal.path)] == [1, 2]


@pytest.mark.parametrize("change", ["changed", "removed", "swapped"])
def test_a_changed_journal_is_noticed(journal: Journal, change: str) -> None:
    lines = journal.path.read_bytes().splitlines(keepends=True)
    if change == "changed":
        lines[1] = lines[1].replace(b"note 1", b"note 9")
    elif change == "removed":
        del lines[1]
    else:
        lines[0], lines[1] = lines[1], lines[0]
    journal.path.write_bytes(b"".join(lines))
    with pytest.raises(JournalError, match="changed, or one before it is missing"):
        list(read_journal(journal.path))


def test_the_run_log_is_the_journals(
    example: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    book = load(Path(__file__).resolve().parents[2] / "runbooks" / "wf3001.yaml")
    book = book._replace(path=tmp_path / "wf3001.yaml", steps=())
    record = execute(book, database=example.url)
    assert record["run"]["verdict"] == "refuted"
    assert record["journal"] is not None
    assert record["report"] is not None
    live = Path(record["report"]).read_text(encoding="utf-8")
    assert live == run_log(record) == run_log(fold(line.event for line in read_journal(Path(record["journal"]))))
