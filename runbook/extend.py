"""For authors of probes and steps: the types that a package needs which adds a kind of its own. See `docs/extending.md`."""

from __future__ import annotations

from runbook.system.contract import Answer, CannotTell, Context, Failed, Probe, Step

__all__ = ["Answer", "CannotTell", "Context", "Failed", "Probe", "Step"]
