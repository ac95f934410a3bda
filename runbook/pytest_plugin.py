"""pytest tries runbooks out: `pytest --runbooks`, or `runbooks = true` in its configuration. Without that it does nothing.

Every runbook (a YAML file that says `runbook: 1`) becomes a file of tests, every case of it an item, run as `runbook test`
does. Nothing of the program is imported before there is a runbook to read.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from runbook.trial import Trial, Tried

_RUNBOOK = re.compile(rb"^runbook\s*:\s*1\s*(#.*)?$", re.MULTILINE)
_ENOUGH = 64 * 1024  # bytes in which a runbook says that it is one
_folder = pytest.StashKey[Path]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("runbook", "runbooks")
    group.addoption("--runbooks", action="store_true", help="Collect runbooks, and run their cases.")
    group.addoption(
        "--runbooks-database",
        action="append",
        default=[],
        metavar="[NAME=]URL",
        help="Copy this database for each case. Default: the private PostgreSQL, seeded afresh.",
    )
    parser.addini("runbooks", "Collect runbooks, and run their cases.", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    if _wanted(config):
        config.addinivalue_line("markers", "runbook: a case of a runbook (pytest --runbooks)")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Takes the folder away, unless a case that missed has left its records there."""
    folder = config.stash.get(_folder, None)
    if folder is not None:
        with suppress(OSError):
            folder.rmdir()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> RunbookFile | None:
    if file_path.suffix not in (".yaml", ".yml") or not _wanted(parent.config) or not _is_runbook(file_path):
        return None
    collected: RunbookFile = RunbookFile.from_parent(parent, path=file_path)
    return collected


def _wanted(config: pytest.Config) -> bool:
    return bool(config.getoption("runbooks") or config.getini("runbooks"))


def _is_runbook(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _RUNBOOK.search(file.read(_ENOUGH)) is not None
    except OSError:
        return False


class RunbookFile(pytest.File):
    """A runbook, with its cases as items."""

    def collect(self) -> Iterator[RunbookCase]:
        from runbook.language.load import load
        from runbook.language.problems import InvalidRunbook
        from runbook.operate.seen import Seen
        from runbook.trial import trials_of

        try:
            book = load(os.path.relpath(self.path), Seen())
            trials = trials_of(book, self._databases(book))
        except InvalidRunbook as error:
            from runbook.cli.telling import problem_text

            raise self.CollectError("\n".join(map(problem_text, error.problems))) from None
        for trial in trials:
            yield RunbookCase.from_parent(self, name=trial.case.name, trial=trial)

    def _databases(self, book: Any) -> dict[str, str]:
        from click import UsageError

        from runbook.cli.files import database_targets

        try:
            return database_targets(book, tuple(self.config.getoption("--runbooks-database")))
        except UsageError as error:
            raise self.CollectError(f"{book.document.file}: {error.message}") from None


class NotAsWanted(Exception):
    """A case came out otherwise than it says, or could not be run."""

    def __init__(self, tried: Tried) -> None:
        from runbook.cli.trials import headline, story

        super().__init__("\n".join([headline(tried), *(f"  {told}" for told in story(tried))]))


class RunbookCase(pytest.Item):
    """One case of a runbook."""

    def __init__(self, *, trial: Trial, **given: Any) -> None:
        super().__init__(**given)
        self.trial = trial
        self.add_marker("runbook")

    def runtest(self) -> None:
        """Runs the case. Raises NotAsWanted."""
        from runbook.trial import Bounds, try_out

        stash = self.config.stash
        if _folder not in stash:
            stash[_folder] = Path(tempfile.mkdtemp(prefix="runbook-test-"))
        tried = try_out(self.trial, Bounds(stash[_folder]))
        if tried.verdict != "passed":
            raise NotAsWanted(tried)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The story of a case that missed; a traceback only for what is not about the runbook."""
        return str(excinfo.value) if isinstance(excinfo.value, NotAsWanted) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where the case stands."""
        case = self.trial.case
        place = self.path.parent / Path(case.file).name
        return place, case.line - 1 if case.line else None, self.trial.name
