"""What was found valid is remembered by its very text, by its owner alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from runbook import InvalidRunbook, load
from runbook.language.load import bind_params
from runbook.operate.seen import Seen

GOOD = "runbook: 1\nname: x\nparams: {n: {type: integer}}\npreflight: {a: {expect: params.n > 0}}\n"


def test_a_text_is_remembered_and_another_is_not(tmp_path: Path) -> None:
    seen = Seen(tmp_path / "marks")
    path = tmp_path / "x.yaml"
    path.write_text(GOOD)
    first = load(path, seen)
    assert f"text {first.sha256}" in Seen(tmp_path / "marks")
    path.write_text(GOOD.replace("preflight", "preflght"))
    with pytest.raises(InvalidRunbook, match="unknown key"):
        load(path, seen)


def test_params_are_remembered_with_their_values(tmp_path: Path) -> None:
    seen = Seen(tmp_path / "marks")
    path = tmp_path / "x.yaml"
    path.write_text(GOOD)
    book = load(path, seen)
    assert bind_params(book, {"n": 1}, seen) == bind_params(book, {"n": 1}, seen) == {"n": 1}
    with pytest.raises(InvalidRunbook, match="param `n`"):
        bind_params(book, {"n": "1"}, seen)


def test_a_folder_that_others_may_write_is_not_believed(tmp_path: Path) -> None:
    folder = tmp_path / "marks"
    folder.mkdir()
    folder.chmod(0o777)
    seen = Seen(folder)
    seen.add("text x")
    assert "text x" not in seen
