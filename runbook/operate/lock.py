"""One run at a time: what every kind of lock is, what a refusal says, and how one waits for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from runbook.language.problems import RunbookError
from runbook.operate.cancel import Cancellation
from runbook.operate.circumstances import host

AGAIN = 1.0  # seconds between two tries to take a lock
BLINK = 0.2  # the same, for a lock that nobody has at the moment

T = TypeVar("T")


class Holder(NamedTuple):
    """Who holds a lock, as far as it can be told. `journal` is the path of its journal on its host."""

    run_id: str = ""
    host: str = ""
    pid: int | None = None
    operator: str = ""
    since: str = ""
    journal: str = ""


class Locked(RunbookError):
    """Another run holds the lock; `cures` are what a person can do, one line each."""

    def __init__(self, key: str, holder: Holder) -> None:
        self.key, self.holder = key, holder
        super().__init__(f"the lock `{key}` is held {described(holder)}")

    @property
    def cures(self) -> list[str]:
        return [*self.watching, "wait for it: the same command with --wait"]

    @property
    def watching(self) -> list[str]:
        """How to see what the holder does, where it is a run that is known by name."""
        holder = self.holder
        if not holder.run_id:
            return []
        elsewhere = f"on {holder.host}: " if holder.host not in ("", host()) else ""
        return [f"watch it: {elsewhere}runbook watch {holder.run_id}"]


class Fading(Locked):
    """The holder lost its session a moment ago and may take the lock again, or it is dead: that shows within seconds."""


class StoppedWaiting(RunbookError):
    """The end was asked for while a lock was waited for; nothing was begun."""


class Lock(Protocol):
    """Held from before the journal opens until the run log is written.

    `lost` says why it is lost for good, or is empty; `epoch` is the fencing number of the lease that goes with it.
    """

    lost: str
    epoch: int | None

    def held(self) -> bool:
        """Whether it is held now."""
        ...

    def beat(self) -> bool:
        """The same, and whoever looks at its lease can see that its holder is alive."""
        ...

    def regain(self) -> bool:
        """Takes it again where nobody had it since; false where that cannot be done now, or never (`lost`)."""
        ...

    def rest(self, seconds: float) -> None:
        """Waits for so long, or until there is a sign that the lock is gone, or until `wake`."""
        ...

    def wake(self) -> None:
        """Ends every present and future `rest`."""
        ...

    def release(self) -> None: ...


def described(holder: Holder) -> str:
    """Who holds it, for people: `by run X, on Y, pid 1, operator Ada, since …`."""
    known = [
        f"by run {holder.run_id}" if holder.run_id else "by another session",
        f"on {holder.host}" if holder.host else "",
        f"pid {holder.pid}" if holder.pid else "",
        f"operator {holder.operator}" if holder.operator else "",
        f"since {holder.since}" if holder.since else "",
    ]
    return ", ".join(part for part in known if part)


def lost_to(holder: Holder) -> str:
    """Why a lock is lost for good."""
    who = f"run {holder.run_id}" if holder.run_id else "another session"
    where = f" on host {holder.host}" if holder.host else ""
    return f"the lock was lost: {who}{where} took it{f' at {holder.since}' if holder.since else ''}"


def lock_number(key: str) -> int:
    """The 64-bit number of PostgreSQL's advisory lock for `key`."""
    return int.from_bytes(hashlib.sha256(f"runbook:{key}".encode()).digest()[:8], "big", signed=True)


def patiently(take: Callable[[], T], cancellation: Cancellation, on_wait: Callable[[Locked], None] | None = None) -> T:
    """Tries until the lock is taken; without `on_wait` no longer than it takes to see whether a holder is alive.

    `on_wait` hears of every holder that is waited for. Raises Locked or StoppedWaiting.
    """
    told: Holder | None = None
    while True:
        try:
            return take()
        except Locked as locked:
            fading, holder, key = isinstance(locked, Fading), locked.holder, locked.key
            if on_wait is None and not fading:
                raise
            if on_wait is not None and holder != told and not fading:
                told = holder
                on_wait(locked)
        cancellation.sleep(BLINK if fading else AGAIN)
        reason = cancellation.reason()
        if reason is not None:
            raise StoppedWaiting(f"stopped while waiting for the lock `{key}`: {reason}")
