"""The step `archive:`: packs a folder into one file, the same bytes for the same contents, and tells its checksum."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runbook.extend import Context, Failed

NAME = "archive"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "Packs a folder into one .tar.gz, and tells its checksum.",
    "required": ["folder", "to"],
    "additionalProperties": False,
    "properties": {
        "folder": {
            "type": "string",
            "minLength": 1,
            "description": "What is packed, relative to the runbook's folder.",
        },
        "to": {
            "type": "string",
            "pattern": r"\.tar\.gz$",
            "patternErrorMessage": "the name ends in .tar.gz",
            "description": "The file that is made, relative to the runbook's folder.",
        },
        "level": {
            "type": "integer",
            "minimum": 1,
            "maximum": 9,
            "description": "How hard it is compressed. Default: 6.",
        },
        "at_most": {
            "type": ["string", "integer"],
            "x-runbook": "expression",
            "description": "The most bytes that are packed: a number, or an expression such as params.room.",
        },
    },
}


def act(given: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """`{path, files, bytes, sha256}` of what was packed. It is written aside and renamed, so that there is never half of it."""
    folder, to = context.folder / given["folder"], context.folder / given["to"]
    if not folder.is_dir():
        raise Failed(f"there is no folder {folder}")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files)
    if "at_most" in given and size > given["at_most"]:
        raise Failed(f"{folder.name} has {size} bytes, more than {given['at_most']}")
    aside = to.with_name(f".{to.name}.new")
    try:
        _pack(folder, files, aside, given.get("level", 6), context)
        digest = _sha256(aside)
        aside.replace(to)
    finally:
        aside.unlink(missing_ok=True)
    return {"path": str(to), "files": len(files), "bytes": size, "sha256": digest}


def _pack(folder: Path, files: list[Path], aside: Path, level: int, context: Context) -> None:
    with (
        aside.open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0, compresslevel=level) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for path in files:
            if context.cancelled():
                raise Failed("it was asked to end")
            name = path.relative_to(folder).as_posix()
            context.log(name)
            archive.add(path, arcname=name, recursive=False, filter=_plain)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """A member without what differs from one machine to the next."""
    member.mtime, member.uid, member.gid, member.uname, member.gname = 0, 0, 0, "", ""
    return member


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
