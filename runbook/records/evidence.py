"""What differs between two records of the same thing: facts by name; results part by part (keys, rows, lines of a text)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any, NamedTuple

from runbook.language.values import Absent, as_text, dumps

NOTHING = Absent("there is none", null=True)  # stands for what one of the two does not have
MOST_LINES = 2000  # lines of a text beyond which they are compared one by one, in order
_NAME = 40  # characters of a key in the name of a part


class Part(NamedTuple):
    """What differs within a result: its name (empty for the whole), and the two values, NOTHING where there is none."""

    name: str
    left: Any
    right: Any


class Difference(NamedTuple):
    """One thing that differs between two runs: NOTHING stands where one of them has none."""

    section: str
    what: str
    left: Any
    right: Any


def changed(section: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[Difference]:
    """What differs between two sets of facts, by name."""
    for what in {**left, **right}:
        one, other = left.get(what, NOTHING), right.get(what, NOTHING)
        if not same(one, other):
            yield Difference(section, what, one, other)


def same(left: Any, right: Any) -> bool:
    """Whether two recorded values are equal; true is not 1."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


def parts(left: Any, right: Any) -> list[Part]:
    """What differs between two results, part by part; nothing where they are the same."""
    return [] if same(left, right) else list(_parts(left, right, ""))


def _parts(left: Any, right: Any, name: str) -> Iterator[Part]:
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        yield from _by_key(left, right, name)
    elif isinstance(left, list) and isinstance(right, list):
        yield from _rows(left, right, name)
    elif isinstance(left, str) and isinstance(right, str) and "\n" in left + right:
        yield from _lines(left.split("\n"), right.split("\n"), name)
    elif not same(left, right):
        yield Part(name, left, right)


def _by_key(left: Mapping[str, Any], right: Mapping[str, Any], name: str) -> Iterator[Part]:
    for key in {**left, **right}:
        one, other = left.get(key, NOTHING), right.get(key, NOTHING)
        if not same(one, other):
            yield from _parts(one, other, _inner(name, key))


def _inner(name: str, key: str) -> str:
    short = key if len(key) <= _NAME else f"{key[: _NAME - 1]}…"
    return f"{name}.{short}" if name else short


# --- tables and texts -------------------------------------------------------------------------------------------------


def _rows(left: list[Any], right: list[Any], name: str) -> Iterator[Part]:
    """Row by row: by the first column where that tells the rows apart, else by what a row holds."""
    column = _telling_column(left, right)
    if column is not None:
        found = list(_by_key(_keyed(left, column), _keyed(right, column), name))
    else:
        found = [Part(_inner(name, "row"), row, NOTHING) for row in _only(left, right)]
        found += [Part(_inner(name, "row"), NOTHING, row) for row in _only(right, left)]
    yield from found or [Part(_inner(name, "order"), "the same rows", "in another order")]


def _telling_column(left: Sequence[Any], right: Sequence[Any]) -> str | None:
    """The first column, where every row has it and no two rows of a table have the same in it."""
    rows = [*left, *right]
    if not rows or not all(isinstance(row, Mapping) and len(row) > 1 for row in rows):
        return None
    column: str = next(iter(rows[0]))
    if any(next(iter(row)) != column or isinstance(row[column], list | dict) for row in rows):
        return None
    distinct = all(len({as_text(row[column]) for row in table}) == len(table) for table in (left, right))
    return column if distinct else None


def _keyed(rows: Sequence[Mapping[str, Any]], column: str) -> dict[str, dict[str, Any]]:
    """Rows without the column that names them, by that name."""
    return {
        f"{column}={as_text(row[column])}": {key: item for key, item in row.items() if key != column} for row in rows
    }


def _only(rows: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """The rows that the others do not have, or not as often."""
    known = Counter(map(dumps, others))
    found = []
    for row in rows:
        text = dumps(row)
        if known[text]:
            known[text] -= 1
        else:
            found.append(row)
    return found


def _lines(left: list[str], right: list[str], name: str) -> Iterator[Part]:
    label: Callable[[int], str] = lambda number: _inner(name, f"line {number + 1}")  # noqa: E731 - one word, used twice
    if max(len(left), len(right)) > MOST_LINES:
        for number, (one, other) in enumerate(zip_longest(left, right, fillvalue=NOTHING)):
            if one != other:
                yield Part(label(number), one, other)
        return
    for kind, start, end, begin, stop in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if kind != "equal":
            for offset, (one, other) in enumerate(zip_longest(left[start:end], right[begin:stop], fillvalue=NOTHING)):
                yield Part(label(start + offset), one, other)
