"""The two functions, called as runbook calls them."""

from __future__ import annotations

import hashlib
import tarfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from runbook_files import archive_step, csv_probe

from runbook.extend import CannotTell, Context, Failed, Probe, Step

PROBE: Probe = csv_probe
STEP: Step = archive_step


def context(folder: Path, said: list[str] | None = None, over: bool = False) -> Context:
    heard = [] if said is None else said
    return Context(60.0, lambda: over, heard.append, folder, {}, {})


def test_rows_columns_and_exact_sums(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name;amount\nx;0.1\ny;0.2\n", encoding="utf-8")
    found = PROBE.read({"path": "a.csv", "sums": ["amount"], "delimiter": ";"}, context(tmp_path))
    assert found == {"rows": 2, "columns": ["name", "amount"], "sums": {"amount": Decimal("0.3")}}


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("name\nx\n", "no column 'amount', but name"),
        ("", "none at all"),
        ("amount\nmuch\n", "line 2: amount is 'much'"),
    ],
)
def test_what_cannot_be_told(text: str, because: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    with pytest.raises(CannotTell, match=because):
        PROBE.read({"path": "a.csv", "sums": ["amount"]}, context(tmp_path))


def pack(folder: Path, **more: Any) -> Any:
    (folder / "out").mkdir(exist_ok=True)
    (folder / "out" / "b.txt").write_text("two", encoding="utf-8")
    (folder / "out" / "a.txt").write_text("one", encoding="utf-8")
    return STEP.act({"folder": "out", "to": "out.tar.gz", **more}, context(folder, **more.pop("context", {})))


def test_the_same_contents_make_the_same_bytes(tmp_path: Path) -> None:
    facts = pack(tmp_path)
    made = (tmp_path / "out.tar.gz").read_bytes()
    assert facts["sha256"] == hashlib.sha256(made).hexdigest() and (facts["files"], facts["bytes"]) == (2, 6)
    with tarfile.open(tmp_path / "out.tar.gz") as archive:
        assert archive.getnames() == ["a.txt", "b.txt"]
    (tmp_path / "out" / "a.txt").touch()
    pack(tmp_path)
    assert (tmp_path / "out.tar.gz").read_bytes() == made


def test_what_is_too_large_or_stopped_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="out has 6 bytes, more than 5"):
        pack(tmp_path, at_most=5)
    with pytest.raises(Failed, match="asked to end"):
        STEP.act({"folder": "out", "to": "out.tar.gz"}, context(tmp_path, over=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
