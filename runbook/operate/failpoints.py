"""Named places at which the fault suite brings a runner down: RUNBOOK_FAILPOINT=after-step.started:kill, or :stop."""

from __future__ import annotations

import os
import signal

_NAME, _, _ACTION = os.environ.get("RUNBOOK_FAILPOINT", "").partition(":")


def failpoint(name: str) -> None:
    """Kills or stops this process where that was asked for at `name`."""
    if name == _NAME:
        os.kill(os.getpid(), signal.SIGSTOP if _ACTION == "stop" else signal.SIGKILL)
