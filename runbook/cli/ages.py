"""Lengths of time before now, as options take them: 180d, 36h."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def ago(text: str, units: str = "mhdw") -> datetime | None:
    """The moment so long ago; None where `text` is no length of time in one of `units`. Raises OverflowError."""
    age = re.fullmatch(rf"([0-9]{{1,6}})([{units}])", text)
    return datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])}) if age else None
