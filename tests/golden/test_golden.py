"""Every message that a person may meet, exact: a folder holds a runbook, and what is printed on stderr for it.

`arguments` are those of the program (default `validate runbook.yaml`), `exit` is its exit code, and `expected.txt` what it
prints on stderr, with `FOLDER` for the folder that it runs in. RUNBOOK_UPDATE_GOLDEN=1 rewrites `expected.txt`.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import pytest

from tests.conftest import Program

CASES = sorted(path.parent for path in Path(__file__).parent.glob("*/exit"))


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_message(case: Path, program: Program, tmp_path: Path) -> None:
    folder = tmp_path / "case"
    shutil.copytree(case, folder)
    given = case / "arguments"
    arguments = shlex.split(given.read_text(encoding="utf-8")) if given.exists() else ["validate", "runbook.yaml"]

    ended = program(*arguments, cwd=folder)

    printed = ended.err.replace(str(folder), "FOLDER")
    if "RUNBOOK_UPDATE_GOLDEN" in os.environ:
        (case / "expected.txt").write_text(printed, encoding="utf-8")
    assert printed == (case / "expected.txt").read_text(encoding="utf-8")
    assert ended.code == int((case / "exit").read_text(encoding="utf-8"))
