"""What is wrong with a file, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong with a file.

    `line` and `column` count from 1; `line` 0 says that the file as a whole is meant. `width` is the number of characters
    that the caret underlines. `where` is the dotted path in the YAML, or empty.
    """

    file: str
    line: int
    column: int
    where: str
    message: str
    hint: str = ""
    source: str = ""
    width: int = 1

    def as_data(self) -> dict[str, object]:
        """The problem as it appears under `problems` in every JSON document."""
        return {
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "where": self.where,
            "message": self.message,
            "hint": self.hint,
        }


class RunbookError(Exception):
    """The root of every exception that this package raises on purpose."""


class InvalidRunbook(RunbookError):
    """A file, or a value given for one of its params, cannot be used; `problems` says why, sorted by line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(sorted(problems, key=lambda p: (p.file, p.line, p.column)))
        super().__init__("\n".join(f"{p.file}:{p.line}:{p.column}: {p.message}" for p in self.problems))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest of `known`, or lists them where none is near and they are few."""
    choices: Sequence[str] = sorted(set(known))
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if near:
        return f"did you mean `{near[0]}`?"
    if choices and len(choices) <= 12:
        return "known here: " + ", ".join(f"`{name}`" for name in choices)
    return ""
