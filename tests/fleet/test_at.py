"""What `--at` means, and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest

from runbook.cli.submit_command import _moment


@pytest.mark.parametrize("text, seconds", [("in 5s", 5), ("in 1h30m", 5400), ("in 2d", 172800), ("in 0.5h", 1800)])
def test_a_length_of_time_counts_from_now(text: str, seconds: float) -> None:
    assert abs((_moment(text) - datetime.now(UTC)).total_seconds() - seconds) < 1


def test_a_time_of_day_is_the_next_one_in_this_machines_zone() -> None:
    found = _moment("03:00")
    assert timedelta(0) < found - datetime.now(UTC) <= timedelta(days=1)
    assert (found.hour, found.minute) == (3, 0)


def test_a_moment_has_its_zone() -> None:
    assert _moment("2999-12-24T03:00+01:00") == datetime(2999, 12, 24, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "in",
            "in ",
            "in h",
            "in 5",
            "in 5 minutes",
            "in 2h foo",
            "in -5s",
            "in 99999999d",
            "in 5 parsecs",
            "in 1w",
        ),
        *("25:00", "tomorrow", "2020-01-01T00:00", "2020-01-01T00:00+01:00"),
    ],
)
def test_what_is_not_understood_or_has_passed_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError, match="--at"):
        _moment(text)
