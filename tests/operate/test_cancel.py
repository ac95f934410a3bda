"""Every request to end counts, also after earlier ones were heeded."""

from __future__ import annotations

from runbook.operate.cancel import Cancellation


def test_each_request_is_one_of_its_own() -> None:
    cancellation = Cancellation()
    assert cancellation.reason() is None
    reasons = []
    for _ in range(3):
        cancellation.request("Ctrl-C")
        reasons.append(cancellation.reason())
    assert len({*reasons}) == 3


def test_what_is_asked_after_two_were_heeded_counts() -> None:
    cancellation = Cancellation()
    cancellation.request("Ctrl-C")
    cancellation.request("Ctrl-C")
    cancellation.heed()
    assert cancellation.reason() is None
    cancellation.request("Ctrl-C")
    assert cancellation.reason() is not None
