"""What was loaded is remembered by its text, its place and the files that it reads, for its owner alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from runbook import InvalidRunbook, load
from runbook.language.load import bind_params
from runbook.operate.seen import Seen

GOOD = """\
runbook: 1
name: x
connections: {db: {type: postgres, env: DATABASE_URL}}
params: {n: {type: integer}}
preflight:
  a: {expect: "params.n > 0 and [1, 2] | map('string') | list == ['1', '2']"}
  b: {sql: {file: q.sql}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "q.sql").write_text("SELECT {{ params.n }}")
    (tmp_path / "x.yaml").write_text(GOOD)
    return tmp_path / "x.yaml"


def test_what_is_remembered_is_what_was_loaded(path: Path, tmp_path: Path) -> None:
    first = load(path, Seen(tmp_path / "kept"))
    again = load(path, Seen(tmp_path / "kept"))
    assert len(list((tmp_path / "kept").iterdir())) == 1
    assert again._replace(document=first.document) == first
    assert again.document.problem(("preflight", "a"), "x") == first.document.problem(("preflight", "a"), "x")
    assert again.preflight[0].expect[0].holds({"params": {"n": 1}})


def test_a_changed_text_is_read_anew(path: Path, tmp_path: Path) -> None:
    load(path, Seen(tmp_path / "kept"))
    path.write_text(GOOD.replace("preflight", "preflght"))
    with pytest.raises(InvalidRunbook, match="unknown key"):
        load(path, Seen(tmp_path / "kept"))


def test_a_changed_file_that_it_reads_is_read_anew(path: Path, tmp_path: Path) -> None:
    load(path, Seen(tmp_path / "kept"))
    (tmp_path / "q.sql").write_text("SELECT '{{ params.n }}'")
    with pytest.raises(InvalidRunbook, match="inside a string literal"):
        load(path, Seen(tmp_path / "kept"))


def test_params_are_remembered_with_their_values(path: Path, tmp_path: Path) -> None:
    seen = Seen(tmp_path / "kept")
    book = load(path, seen)
    assert bind_params(book, {"n": 1}, seen) == bind_params(book, {"n": 1}, seen) == {"n": 1}
    with pytest.raises(InvalidRunbook, match="param `n`"):
        bind_params(book, {"n": "1"}, seen)


def test_a_damaged_memory_is_none(path: Path, tmp_path: Path) -> None:
    load(path, Seen(tmp_path / "kept"))
    for kept in (tmp_path / "kept").iterdir():
        kept.write_bytes(b"\x80\x05garbage")
    assert load(path, Seen(tmp_path / "kept")).name == "x"


def test_a_folder_that_others_may_write_is_not_believed(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    folder.chmod(0o777)
    load(path, Seen(folder))
    assert list(folder.iterdir()) == []
