"""What is agreed with the authors of probes and steps of other packages; `runbook.extend` shows it to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class CannotTell(Exception):
    """Raised by `read`: the question cannot be answered, for this reason. The check is then unknown."""


class Failed(Exception):
    """Raised by `act`: what was to be done was not done, for this reason. The attempt has then failed."""


class Answer(NamedTuple):
    """What `read` may give instead of the bare result.

    `trouble` says why it may be no answer at all, which makes the check unknown; `dropped` counts what was left out of it.
    """

    result: Any
    trouble: str = ""
    dropped: int = 0


class Context(NamedTuple):
    """What a probe or a step is given beside its keys.

    `timeout` is in seconds; once it is over, or somebody asks for the end, `cancelled` is true, and moments later the process
    is killed. `log` adds a line to the step's output. `folder` is the runbook's, and the working folder; `environment` has the
    servers in force as every step sees them, and no declared secret; `urls` are those of the declared connections.
    """

    timeout: float
    cancelled: Callable[[], bool]
    log: Callable[[str], None]
    folder: Path
    environment: Mapping[str, str]
    urls: Mapping[str, str]


class Probe(Protocol):
    """What an entry point of the group `runbook.probes` leads to: a module, a class or an object that has these.

    `NAME` is the key in a runbook, `SCHEMA` a JSON Schema (of type object) of what stands under it. A probe that only reads
    says so by `safe = True` beside them: then a dry run asks it too.
    """

    @property
    def NAME(self) -> str: ...

    @property
    def SCHEMA(self) -> Mapping[str, Any]: ...

    def read(self, given: Mapping[str, Any], context: Context) -> Any:
        """Looks, and gives what it found, or an Answer. May raise CannotTell."""
        ...


class Step(Protocol):
    """What an entry point of the group `runbook.steps` leads to; `NAME` and `SCHEMA` as those of a Probe."""

    @property
    def NAME(self) -> str: ...

    @property
    def SCHEMA(self) -> Mapping[str, Any]: ...

    def act(self, given: Mapping[str, Any], context: Context) -> Mapping[str, Any] | None:
        """Acts, and gives facts, which are the step's `result`. May raise Failed."""
        ...
