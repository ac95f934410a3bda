"""What the params make of a run's names: the key of its lock, its title, its stamp, the place of its run log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from runbook.language.expressions import EvaluationError
from runbook.language.model import Runbook
from runbook.language.problems import InvalidRunbook
from runbook.language.templates import render_path, render_text
from runbook.records.masks import Masks


class Names(NamedTuple):
    """Title, stamp and the place of the run log; the stamp has a part of the id where a run log stood there already."""

    title: str
    stamp: str
    report: Path


class Naming(NamedTuple):
    """What names are made of. A value that does not fit is the caller's mistake: InvalidRunbook says where it stands."""

    runbook: Runbook
    params: Mapping[str, Any]
    id: str
    operator: str

    def key(self) -> str:
        """The key of the lock."""
        return self._decided(("lock",), lambda: render_text(self.runbook.lock, self._scope()))

    def at(self, moment: datetime) -> Names:
        """The names of a run that starts at `moment`."""
        stamp = f"{moment:%Y%m%d_%H%M%S}"
        first = self._scope(stamp=stamp, started_at=moment)
        title = self._decided(("title",), lambda: self.runbook.title.render(first))
        for candidate in (stamp, f"{stamp}_{self.id[-4:]}"):
            known = {"name": self.runbook.name, "title": title}
            scope = {**self._scope(stamp=candidate, started_at=moment), "runbook": known}
            place = partial(render_path, self.runbook.report_path, scope, strict=True)
            report = Path.cwd() / self._decided(("report", "path"), place)
            if not report.exists():
                break
        return Names(title, candidate, report)

    def refuse_secret(self, where: tuple[str, ...], text: str, masks: Masks) -> None:
        """Raises InvalidRunbook where `text`, which stands in the open, has a secret in it."""
        if masks.text(text) != text:
            raise InvalidRunbook([self.runbook.document.problem(where, "a secret would stand here in the open")])

    def _scope(self, **run: Any) -> dict[str, Any]:
        known: dict[str, Any] = {"params": self.params, "runbook": {"name": self.runbook.name}}
        return (
            {**known, "run": {"id": self.id, "operator": self.operator, "inputs": self.params, **run}} if run else known
        )

    def _decided(self, where: tuple[str, ...], action: Callable[[], str]) -> str:
        try:
            return action()
        except EvaluationError as error:
            raise InvalidRunbook([self.runbook.document.problem(where, str(error))]) from None
