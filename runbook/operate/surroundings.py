"""What surrounds a run, found out beside it: asked early, and noted when the first step needs it or the run ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runbook.operate.circumstances import noted
from runbook.operate.world import World, without_credentials

if TYPE_CHECKING:
    from runbook.operate.books import Books
    from runbook.operate.models import Asking


class Surroundings:
    """What git says, the models of the run's Ollamas, and its servers; each becomes `circumstances.noted`."""

    def __init__(self, world: World, books: Books, git: Callable[[], dict[str, Any]], *, patch: bool) -> None:
        self._world, self._books, self._git, self._patch = world, books, git, patch
        self._asking: Asking | None = None
        self._begun = False
        self._models: dict[str, Any] = {}
        self._relations: dict[str, dict[str, str]] = {}

    def listen(self) -> None:
        """Hears what servers tell, and begins to ask for models; the books must be open."""
        self._world.on_server, self._world.traced = self._met, True
        runbook, servers = self._world.runbook, self._world.servers
        if any(item.type == "http" for item in runbook.connections.values()):
            from runbook.operate.models import Asking, ollamas

            urls = {name: without_credentials(servers.urls[name]) for name in ollamas(runbook)}
            self._asking = Asking(urls, self._world.tools())

    def note(self) -> None:
        """Notes what was found out: of git once, of the rest what is new."""
        if self._books.journal.full:
            return
        found, warning = ({}, "") if self._begun else self._tree()
        versions = {"git": found.pop("git")} if "git" in found else {}
        found |= self._new_models() | self._new_schema()
        self._begun = True
        if found or versions or warning:
            self._note(versions, warning, **found)

    def _tree(self) -> tuple[dict[str, Any], str]:
        """What git says, the patch where it is to be kept, and why it was not."""
        found = self._git()
        if not self._patch:
            return found, ""
        from runbook.operate.differences import NoPatch, keep_patch
        from runbook.records.masks import Masks

        try:
            path = self._books.journal.path.with_name("patch.diff")
            kept = keep_patch(self._world.runbook.folder, path, Masks(self._world.secrets.values()))
        except NoPatch as error:
            return found, f"the patch was not kept: {error}"
        return found | ({"patch": kept} if kept else {}), ""

    def _new_models(self) -> dict[str, Any]:
        """The models, waited for once and for a moment, where there is news of them."""
        if self._asking is None:
            return {}
        known, self._models = self._models, self._asking.answers(patient=not self._begun)
        return {"models": self._models} if self._models != known else {}

    def _new_schema(self) -> dict[str, Any]:
        """The fingerprints of all that was read, where there is more than was noted."""
        known, self._relations = self._relations, self._world.read()
        if self._relations == known:
            return {}
        from runbook.database.fingerprint import whole

        return {"schema": {name: whole(relations) for name, relations in self._relations.items()}}

    def _met(self, name: str, version: str, warning: str) -> None:
        self._note({f"PostgreSQL ({name})": version}, warning, servers=self._world.settings)

    def _note(self, versions: dict[str, str], warning: str = "", **more: Any) -> None:
        self._books.emit("circumstances.noted", noted(self._books.record, versions, warning, **more))
