"""What a terminal can do."""

from __future__ import annotations

import os
from typing import TextIO


def can_move(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
