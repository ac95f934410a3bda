"""What people read on stderr: problems with their place, and a run stage by stage, as it happens."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from runbook.language.values import as_text, brief, duration_text
from runbook.records.markdown import visible
from runbook.records.outcomes import remedy_command

if TYPE_CHECKING:
    from runbook.engine.record import Event

COLOURS = {
    "passed": "green",
    "measured": "cyan",
    "refuted": "red",
    "failed": "red",
    "blocked": "red",
    "errored": "red",
    "unknown": "yellow",
    "warning": "yellow",
    "skipped": "bright_black",
    "cancelled": "yellow",
}
MARKS = {
    "passed": "✓",
    "measured": "·",
    "refuted": "✗",
    "failed": "✗",
    "unknown": "?",
    "skipped": "-",
    "cancelled": "■",
}


class Account:
    """A calm account of one run on stderr. A terminal that has gone away is no reason to stop."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        self._gone = False
        self.sink: Callable[[str], None] = _to_stderr
        self._line_open = False
        self._stream = ""
        self._width = 16
        self._asks = False
        self._expectations: dict[tuple[str, str], dict[str, Any]] = {}
        self._declared: Mapping[str, Any] = {}
        self._file = ""

    def plain(self) -> None:
        """No colours from here: what was a terminal becomes a file."""
        self._colour = False

    def event(self, event: Event) -> None:
        """Shows one event."""
        handler = _SHOW.get(event.kind)
        if handler is not None:
            handler(self, event.data)

    def output(self, stream: str, chunk: bytes) -> None:
        """A step's output as it comes, each line marked, so that it can forge none of ours."""
        text = chunk.decode("utf-8", "backslashreplace")
        parts = ["\n"] if self._line_open and self._stream != stream and not text.startswith("\n") else []
        self._line_open = self._line_open and not parts
        if text == "\n" and self._stream != stream and not self._line_open:
            return
        self._stream = stream
        for line in text.splitlines(keepends=True):
            body = line.rstrip("\r\n")
            parts.append(("" if self._line_open else "    │ ") + visible(body, keep="\t"))
            self._line_open = body == line
            parts.append("" if self._line_open else "\n")
        self._write("".join(parts))

    def say(self, text: str = "") -> None:
        """One line of our own."""
        if self._line_open:
            self._write("\n")
            self._line_open = False
        self._write(f"{text}\n")

    def style(self, text: str, kind: str) -> str:
        return click.style(text, fg=COLOURS.get(kind)) if self._colour else text

    def heading(self, text: str) -> str:
        return click.style(text, bold=True) if self._colour else text

    def _write(self, text: str) -> None:
        if self._gone or self._quiet:
            return
        try:
            self.sink(text)
        except (OSError, ValueError):
            self._gone = True


def _to_stderr(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _opened(account: Account, data: Mapping[str, Any]) -> None:
    run, around = data["run"], data["circumstances"]
    account._declared, account._file = data["declared"], around["file"]
    account._asks = bool(data["declared"]["preflight"] or data["labels"])
    names = [name for section in data["declared"].values() for name in section]
    account._width = min(max(map(len, names), default=16), 32) + 2
    account.say(visible(run["title"]) + (f"   run {run['id']}" if run["id"] else ""))
    if run["hypothesis"]:
        account.say(f"  {visible(run['hypothesis'])}")
    for name, target in around["connections"].items():
        account.say(f"  {name}: {visible(target)}")
    for name, value in data["params"].items():
        account.say(f"  {name} = {visible(brief(value))}")
    for note in (text for text in around["warnings"] if not text.startswith("rehearsal: ")):
        account.say(account.style(f"  note: {visible(note)}", "warning"))


def _copy(account: Account, data: Mapping[str, Any]) -> None:
    account.say(f"  rehearsal: {visible(data['text'])}")


def _noted(account: Account, data: Mapping[str, Any]) -> None:
    for note in data.get("warnings", [])[-1:]:
        account.say(account.style(f"  note: {visible(note)}", "warning"))


_STAGES = {
    "preflight": "Preflight",
    "predictions": "Expected",
    "steps": "Steps",
    "postconditions": "Postconditions",
    "on_failure": "On failure",
    "finally": "Finally",
}


def _stage(account: Account, data: Mapping[str, Any]) -> None:
    empty = data["stage"] == "preflight" and not account._asks
    if data["stage"] not in ("predictions", "postconditions") and not empty:
        _heading(account, data["stage"])


def _heading(account: Account, stage: str) -> None:
    account.say()
    account.say(account.heading(_STAGES[stage]))


def _snapshot(account: Account, data: Mapping[str, Any]) -> None:
    which = data["which"]
    if which == "after" and (data["state"] or data["errors"] or account._declared.get("postconditions")):
        account.say()
        account.say(account.heading("After"))
    for state, row in data["state"].items():
        values = ", ".join(f"{metric} {as_text(value)}" for metric, value in row.items())
        account.say(f"  · {which} {state}: {visible(values)}")
    for why in data["errors"].values():
        account.say(account.style(f"  ? {visible(why)}", "unknown"))


def _check(account: Account, data: Mapping[str, Any]) -> None:
    known = account._declared.get(data["section"], {}).get(data["name"], {})
    verdict = data["verdict"]
    shown = "measured" if verdict == "passed" and not known.get("expect") else verdict
    warns = known.get("severity") == "warn" and verdict in ("refuted", "unknown")
    kind = "warning" if warns else shown
    result = data["result"]
    value = _rows(len(result)) if isinstance(result, list) else visible(brief(result))
    if verdict in ("refuted", "unknown", "skipped"):
        value = visible(data["because"])
    mark = account.style(
        f"  {MARKS[shown]} {data['name']:<{account._width}}{'warning: ' if warns else ''}{shown}",
        kind,
    )
    account.say(f"{mark}   {value}")
    if data.get("message"):
        account.say(f"      {visible(data['message'])}")
    if data.get("overridden"):
        account.say(account.style(f"      gone past: {visible(data['overridden'])}", "warning"))
    if known.get("remedy") and verdict == "refuted":
        account.say(f"      remedy: {visible(remedy_command(account._file, known['remedy']))}")


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def _predicted(account: Account, data: Mapping[str, Any]) -> None:
    if not data["expectations"]:
        return
    _heading(account, "predictions")
    for name, item in data["expectations"].items():
        account._expectations[data.get("step", ""), name] = item
        if item["because"]:
            account.say(account.style(f"  ? {name}: not predicted: {visible(item['because'])}", "unknown"))
        else:
            account.say(f"  · {name:<{account._width}}{item['of']} {_prediction(item)}")


def _prediction(item: Mapping[str, Any]) -> str:
    predicted = item["predicted"]
    if isinstance(predicted, Mapping):
        return ", ".join(f"{bound.replace('_', ' ')} {as_text(value)}" for bound, value in predicted.items())
    return as_text(predicted) + ("" if item["tolerance"] is None else f" ± {as_text(item['tolerance'])}")


def _expectation(account: Account, data: Mapping[str, Any]) -> None:
    item = account._expectations.get((data.get("step", ""), data["name"]), {})
    verdict = data["verdict"]
    predicted = _prediction(item) if item and not item["because"] else "nothing"
    mark = account.style(f"  {MARKS[verdict]} {data['name']:<{account._width}}{verdict}", verdict)
    account.say(f"{mark}   predicted {predicted}, actual {as_text(data['actual'])}")
    if verdict == "unknown":
        account.say(f"      {visible(data['because'])}")
    if data.get("message"):
        account.say(f"      {visible(data['message'])}")


def _started(account: Account, data: Mapping[str, Any]) -> None:
    again = f" (attempt {data['attempt']})" if data["attempt"] > 1 else ""
    account.say(f"  ▶ {data['step']}{again}: {visible(_cut(data['what']))}")


def _cut(text: str, limit: int = 160) -> str:
    line, *more = text.strip().splitlines() or [""]
    if more:
        line = f"{line} …"
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _ended(account: Account, data: Mapping[str, Any]) -> None:
    if data["because"]:
        account.say(account.style(f"    attempt {data['attempt']}: {visible(data['because'])}", "warning"))
    if data.get("left"):
        account.say(f"    still running: pid {', '.join(map(str, data['left']))}")


def _step(account: Account, data: Mapping[str, Any]) -> None:
    verdict = data["verdict"]
    mark = account.style(f"  {MARKS[verdict]} {data['step']:<{account._width}}{verdict}", verdict)
    reason = f"   {visible(data['because'])}" if data["because"] else ""
    account.say(f"{mark}   {duration_text(float(data['duration']))}{reason}")
    if data.get("message"):
        account.say(f"      {visible(data['message'])}")


def _trouble(account: Account, data: Mapping[str, Any]) -> None:
    if data.get("because"):
        account.say(account.style(f"  ! {visible(data['because'])}", "warning"))


def _notified(account: Account, data: Mapping[str, Any]) -> None:
    from runbook.operate.notify import told_of

    sent = data["status"] == "sent"
    mark, kind = ("✓", "passed") if sent else ("!", "warning") if data["status"] == "not sent" else ("-", "skipped")
    if sent or data["because"]:
        account.say(account.style(f"  {mark} {visible(told_of(data))}", kind))


_SHOW: dict[str, Callable[[Account, Mapping[str, Any]], None]] = {
    "run.opened": _opened,
    "copy.planned": _copy,
    "circumstances.noted": _noted,
    "stage.entered": _stage,
    "snapshot.measured": _snapshot,
    "check.judged": _check,
    "predictions.registered": _predicted,
    "expectation.judged": _expectation,
    "step.started": _started,
    "step.ended": _ended,
    "step.judged": _step,
    "audit.row": _trouble,
    "run.halted": _trouble,
    "run.cancelled": _trouble,
    "notification.sent": _notified,
}
