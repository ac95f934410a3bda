"""What an examination is: it looks at one thing, says what it found, has only so long, and cannot end the others."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from runbook.language.problems import RunbookError

State = Literal["ok", "warn", "fail"]
Look = Callable[[], Iterable["Finding"]]
LIMIT = 10.0  # seconds that one examination may take
MIB = 1024 * 1024
_WORST: dict[State, int] = {"ok": 0, "warn": 1, "fail": 2}


class Finding(NamedTuple):
    """One line: what was looked at, what was found there, and where that is not well, what cures it."""

    what: str
    state: State
    found: str
    cure: str = ""
    subject: str = ""

    def as_data(self) -> dict[str, str]:
        """As it stands under `findings` in the JSON document."""
        names = ("subject", "what", "state", "found", "cure")
        return {name: getattr(self, name) for name in names}


def ok(what: str, found: str) -> Finding:
    return Finding(what, "ok", found)


def warn(what: str, found: str, cure: str) -> Finding:
    return Finding(what, "warn", found, cure)


def fail(what: str, found: str, cure: str) -> Finding:
    return Finding(what, "fail", found, cure)


def unclear(what: str, because: str, cure: str = "cure that first, and look again") -> Finding:
    """An examination that could not be made."""
    return warn(what, f"could not tell: {because}", cure)


def worst(findings: Iterable[Finding]) -> State:
    """The worst state among the findings."""
    states: list[State] = [finding.state for finding in findings]
    return max(states, key=_WORST.__getitem__, default="ok")


def examine(subject: str, what: str, look: Look, limit: float = LIMIT) -> list[Finding]:
    """What `look` finds within `limit` seconds; what goes wrong with it becomes a finding too."""
    told: list[Finding] = []

    def work() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            for finding in look():
                told.append(finding)
        except (RunbookError, OSError) as error:
            told.append(unclear(what, str(error)))
        except Exception as error:  # noqa: BLE001 - a fault of one examination must not keep the others from being made
            told.append(unclear(what, f"{type(error).__name__}: {error}"))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(limit)
    found = list(told)
    if thread.is_alive():
        found.append(unclear(what, f"it took longer than {limit:g} s"))
    return [finding._replace(subject=subject) for finding in found]


def room(what: str, free: int, enough: int, least: int, where: str, cure: str) -> Finding:
    """A judgement of `free` bytes: `enough` is well, less than `least` will not do."""
    found = f"{amount(free)} free {where}".rstrip()
    if free >= enough:
        return ok(what, found)
    return (warn if free >= least else fail)(what, f"{found}; {amount(enough)} are wanted", cure)


def amount(size: float) -> str:
    """Bytes, for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def several(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
