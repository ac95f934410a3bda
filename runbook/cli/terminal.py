"""What a terminal can do."""

from __future__ import annotations

import os
from typing import TextIO


def fit(text: str, width: int) -> str:
    """A text in so many characters: cut, and marked as cut, where it is longer."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def can_move(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
