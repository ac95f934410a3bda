"""When the stages of a run and the attempts of its steps began and ended, told by its events alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict


class _Span(TypedDict):
    what: Literal["stage", "attempt"]
    name: str
    at: str
    until: str | None


class SpanDoc(_Span, total=False):
    """A stage, or one attempt of a step; `name` is the stage's, also of an attempt.

    `at` and `until` are UTC in ISO 8601; `until` is null while it goes on, and for ever where nobody saw it end.
    """

    step: str
    attempt: int
    verdict: str


def follow(timeline: list[SpanDoc], kind: str, at: str, data: Mapping[str, Any]) -> None:
    """Adds one event to the timeline; most kinds leave it as it is."""
    if kind == "stage.entered":
        _close_stage(timeline, at)
        timeline.append({"what": "stage", "name": data["stage"], "at": at, "until": None})
    elif kind == "step.started":
        timeline.append(_attempt(data, at))
    elif kind == "step.ended":
        span = _last_attempt(timeline, data["step"])
        if span is None or span["until"] is not None:
            span = _attempt(data, at)
            timeline.append(span)
        span["until"] = at
        span["verdict"] = "failed" if data["because"] else "passed"
    elif kind == "step.judged" and data["verdict"] == "cancelled":
        span = _last_attempt(timeline, data["step"])
        if span is not None:
            span["verdict"] = "cancelled"
    elif kind == "run.finished":
        _close_stage(timeline, at)


def _attempt(data: Mapping[str, Any], at: str) -> SpanDoc:
    step, number = data["step"], data["attempt"]
    return {"what": "attempt", "name": data["stage"], "step": step, "attempt": number, "at": at, "until": None}


def _last_attempt(timeline: list[SpanDoc], step: str) -> SpanDoc | None:
    return next((span for span in reversed(timeline) if span.get("step") == step), None)


def _close_stage(timeline: list[SpanDoc], at: str) -> None:
    for span in reversed(timeline):
        if span["what"] == "stage":
            span["until"] = at
            return
