"""Runbooks whose files come from elsewhere: what is loaded is what was submitted, and nothing of this disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runbook.language.load import file_contents, load, load_text
from runbook.language.model import Sql
from runbook.language.problems import InvalidRunbook

Write = Callable[..., Path]
TEXT = """runbook: 1
name: own
include: ../shared.yaml
connections:
  db: {type: postgres, env: DATABASE_URL, embedded: [seed.sql]}
preflight:
  up: {sql: {file: sql/up.sql}, expect: "true"}
report: {template: log.md.j2}
"""
FILES = {
    "parts/../shared.yaml": "preflight:\n  there: {file: data.csv, expect: result.exists}\n",
    "parts/sql/up.sql": "SELECT 1 AS one",
    "parts/log.md.j2": "# {{ run.id }}\n",
}


def submitted(folder: str) -> dict[str, bytes]:
    return {f"{folder}/{name}": text.encode() for name, text in FILES.items()}


def test_what_was_submitted_is_all_that_is_read() -> None:
    runbook = load_text(TEXT, Path("/nowhere/parts/own.yaml"), submitted("/nowhere"))
    assert [check.name for check in runbook.preflight] == ["there", "up"]
    assert (
        isinstance(runbook.preflight[1].probe, Sql)
        and runbook.preflight[1].probe.text.template.source == "SELECT 1 AS one"
    )
    assert runbook.report_template == "# {{ run.id }}\n"
    assert runbook.files == {path: hashlib.sha256(text).hexdigest() for path, text in submitted("/nowhere").items()}


@pytest.mark.parametrize("spell", [os.path.normpath, lambda path: path.replace("parts/", "parts/./")])
def test_a_path_may_be_spelled_otherwise(spell: Callable[[str], str]) -> None:
    files = {spell(path): text for path, text in submitted("/nowhere").items()}
    assert len(load_text(TEXT, Path("/nowhere/parts/own.yaml"), files).files) == 3


def test_the_disk_is_not_asked(write: Write, tmp_path: Path) -> None:
    for name, text in FILES.items():
        write(name, text)
    place = tmp_path / "parts" / "own.yaml"
    files = submitted(str(tmp_path)) | {f"{tmp_path}/parts/sql/up.sql": b"SELECT 2 AS two"}
    runbook = load_text(TEXT, place, files)
    assert (
        isinstance(runbook.preflight[1].probe, Sql)
        and runbook.preflight[1].probe.text.template.source == "SELECT 2 AS two"
    )
    with pytest.raises(InvalidRunbook) as caught:
        load_text(TEXT, place, {})
    assert [(p.line, p.message) for p in caught.value.problems] == [
        (3, "../shared.yaml: the file was not submitted"),
        (7, "cannot be read: the file was not submitted"),
        (8, "cannot be read: the file was not submitted"),
    ]


def test_a_misshapen_text_reads_nothing_else(write: Write, tmp_path: Path) -> None:
    for name, text in FILES.items():
        write(name, text)
    with pytest.raises(InvalidRunbook) as caught:
        load_text(f"{TEXT}notify: {{a: 5}}\n", tmp_path / "parts" / "own.yaml", {})
    assert sum("was not submitted" in problem.message for problem in caught.value.problems) == 3


def test_what_was_submitted_is_judged_as_any_file() -> None:
    files = submitted("/nowhere") | {"/nowhere/parts/sql/up.sql": b"SELECT \xff"}
    with pytest.raises(InvalidRunbook, match="is not UTF-8"):
        load_text(TEXT, Path("/nowhere/parts/own.yaml"), files)


def test_the_contents_are_those_that_were_loaded(write: Write, tmp_path: Path) -> None:
    for name, text in (FILES | {"parts/seed.sql": "SELECT 1"}).items():
        write(name, text)
    runbook = load(write("parts/own.yaml", TEXT))
    found = file_contents(runbook)
    assert found == submitted(str(tmp_path))
    again = load_text(runbook.document.text, runbook.path, found)
    assert (again.sha256, again.files) == (runbook.sha256, runbook.files)


def test_contents_that_changed_since_are_refused(write: Write, tmp_path: Path) -> None:
    for name, text in (FILES | {"parts/seed.sql": "SELECT 1"}).items():
        write(name, text)
    runbook = load(write("parts/own.yaml", TEXT))
    write("parts/sql/up.sql", "SELECT 2 AS one")
    (tmp_path / "shared.yaml").unlink()
    with pytest.raises(InvalidRunbook) as caught:
        file_contents(runbook)
    assert [(Path(p.file).name, p.message) for p in caught.value.problems] == [
        ("shared.yaml", "the file does not exist"),
        ("up.sql", "the file changed while the runbook was used"),
    ]
