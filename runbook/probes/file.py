"""The `file` probe: what lies at a path. A file that is not there is no answer unless the check is about `exists`."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from pathlib import Path
from typing import Any

from runbook.engine.ports import Answer, CannotTell
from runbook.language.expressions import Scope
from runbook.language.model import File
from runbook.language.templates import render_path
from runbook.language.values import loads
from runbook.system.tools import Tools

MAX_TEXT = 1024 * 1024
MAX_HASHED = 1024 * 1024 * 1024


def read(probe: File, scope: Scope, timeout: float, tools: Tools) -> Answer:
    """Looks at the file: exists, kind, size (bytes), modified, age (seconds), and for a regular one text, json, lines, sha256."""
    path = tools.folder / render_path(probe.path, scope)
    nothing: dict[str, Any] = dict.fromkeys(("kind", "size", "modified", "age", "text", "json", "lines", "sha256"))
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return Answer({"path": str(path), "exists": False, **nothing}, {}, f"there is no file {path}", "exists")
    except OSError as error:
        raise CannotTell(f"{path}: {error.strerror}") from None
    found = {
        "kind": _kind(status.st_mode),
        "size": status.st_size,
        "modified": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(status.st_mtime)),
        "age": max(0, int(time.time() - status.st_mtime)),
    }
    if stat.S_ISREG(status.st_mode):
        found |= _contents(path, timeout)
    return Answer({"path": str(path), "exists": True, **nothing, **found})


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "other"


def _contents(path: Path, timeout: float) -> dict[str, Any]:
    digest, lines, start = hashlib.sha256(), 0, b""
    deadline = time.monotonic() + timeout
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            size = 0
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                lines += chunk.count(b"\n")
                start = start or chunk
                size += len(chunk)
                if time.monotonic() > deadline or size > MAX_HASHED:
                    raise CannotTell(f"{path} is too large to be read within {timeout:.4g} s")
    except OSError as error:
        raise CannotTell(f"{path}: {error.strerror}") from None
    whole = start.decode("utf-8", "backslashreplace") if size <= MAX_TEXT else None
    return {"text": whole, "json": _json(whole), "lines": lines, "sha256": digest.hexdigest()}


def _json(text: str | None) -> Any:
    try:
        return loads(text) if text else None
    except (ValueError, RecursionError):
        return None
