"""The process in which a probe or a step of another package runs: its order comes on standard input, its answer goes to a file.

Nothing that happens here can change or end the run; whatever the other package prints is the step's output.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

from runbook.language.values import as_text, dumps
from runbook.system.contract import Answer, CannotTell, Context, Failed

MAX_ANSWER = 4 * 1024 * 1024  # characters of JSON
MAX_MESSAGE = 2000  # characters


def serve() -> None:
    """Does what is ordered, and ends the process, whatever threads the other package has left."""
    asked: list[int] = []  # signals by which the end was asked for
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    order: dict[str, Any] = pickle.loads(sys.stdin.buffer.read())
    sys.path[:] = order["path"]
    told = dumps(_outcome(order, lambda: bool(asked)))
    if len(told) > MAX_ANSWER:
        told = dumps({"fault": f"its answer is larger than {MAX_ANSWER} bytes"})
    Path(order["answer"]).write_text(told, encoding="ascii")
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


def _outcome(order: Mapping[str, Any], cancelled: Callable[[], bool]) -> dict[str, Any]:
    """What came of it: `result`, or `because` where the package says why not, or `fault` where it did not work."""
    from runbook.language.kinds import loaded

    try:
        kind = loaded(order["entry"])
        found = (kind.read if order["room"] == "probes" else kind.act)(order["given"], _context(order, cancelled))
        return _answer(found) if order["room"] == "probes" else _facts(found)
    except (CannotTell, Failed) as error:
        return {"because": str(error) or "it gives no reason"}
    except BaseException as error:  # noqa: BLE001 - others' code may raise anything, SystemExit too; it is told as what it is
        return {"fault": _told(error)}


def _context(order: Mapping[str, Any], cancelled: Callable[[], bool]) -> Context:
    def log(text: str) -> None:
        print(text, flush=True)  # noqa: T201 - standard output is the step's output

    return Context(
        order["timeout"],
        cancelled,
        log,
        Path(order["folder"]),
        MappingProxyType(dict(os.environ)),
        MappingProxyType(order["urls"]),
    )


def _answer(found: Any) -> dict[str, Any]:
    if isinstance(found, Answer):
        return {"result": _plain(found.result), "trouble": str(found.trouble), "dropped": int(found.dropped)}
    return {"result": _plain(found), "trouble": "", "dropped": 0}


def _facts(found: Any) -> dict[str, Any]:
    if found is not None and not isinstance(found, Mapping):
        return {"fault": f"it gives {type(found).__name__}, and facts are a mapping"}
    return {"result": _plain(found)}


def _plain(value: Any) -> Any:
    """`value` as JSON can tell it, numbers exact, nothing left out."""
    if value is None or isinstance(value, bool | int | float | Decimal | str):
        return value
    if isinstance(value, Mapping):
        return {as_text(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple | set | frozenset) else as_text(value)


def _told(error: BaseException) -> str:
    """An exception in one line, with the place in the other package where it came from."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    said = f": {str(error)[:MAX_MESSAGE]}" if str(error) else ""
    return f"{type(error).__name__}{said}{place}"
