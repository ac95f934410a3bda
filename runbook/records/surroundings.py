"""What was run and where, in two records: what differs of code, versions, models, schema, servers and surroundings.

A circumstance that only one of two records knows (an older program did not record it) is never a difference.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

from runbook.engine.record import Record
from runbook.records.evidence import Difference, changed

_THROW_AWAY = re.compile(r"_tmp_[0-9a-f]{8}\Z")
_SEEDED = re.compile(r"_([0-9a-f]{12})\Z")


class Unknown(NamedTuple):
    """What only one of two records knows; `unknown_to` is `left` or `right`."""

    what: str
    unknown_to: str


def files(left: Record, right: Record) -> list[Difference]:
    """The hashes of the runbook and of the files that it names, where both records have any."""
    one, other = _hashes(left), _hashes(right)
    return list(changed("text", one, other)) if one and other else []


def surroundings(left: Record, right: Record) -> list[Difference]:
    """What differs of what both records know."""
    found: list[Difference] = []
    for section, facts in _SHARED.items():
        one, other = facts(left), facts(right)
        both = [what for what in one if what in other]
        found += changed(section, {what: one[what] for what in both}, {what: other[what] for what in both})
        found += _dirty(left, right) if section == "code" else []
    return found


def unknown(left: Record, right: Record) -> list[Unknown]:
    """What only one of the two records tells of its surroundings."""
    one, other = _known(left), _known(right)
    return [
        Unknown(what, "left" if what in other else "right")
        for what in {**one, **other}
        if (what in one) != (what in other)
    ]


def _dirty(left: Record, right: Record) -> Iterator[Difference]:
    """The files that differed from their commit."""
    one, other = _differing(left), _differing(right)
    if one is not None and other is not None:
        clean = dict.fromkeys((f"file {path}" for path in chain(one, other)), "as committed")
        named = ({**clean, **{f"file {path}": text for path, text in found.items()}} for found in (one, other))
        yield from changed("code", *named)


def _differing(record: Record) -> dict[str, Any] | None:
    """What each file was that differed from the commit; None where that is not known."""
    clean = str(_code(record).get("git commit", "")).endswith("(clean)")
    found: dict[str, Any] | None = record["circumstances"].get("dirty", {} if clean else None)
    return found


def _versions(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = record["circumstances"].get("versions", {})
    return found


def _hashes(record: Record) -> dict[str, Any]:
    return {name: text for name, text in _versions(record).items() if name.startswith(("runbook file", "file "))}


def _code(record: Record) -> dict[str, Any]:
    commit = record["circumstances"].get("git") or _versions(record).get("git")
    return {"git commit": commit} if commit and commit != "no answer" else {}


def _programs(record: Record) -> dict[str, Any]:
    hashes = _hashes(record)
    return {name: text for name, text in _versions(record).items() if name not in hashes and name != "git"}


def _models(record: Record) -> dict[str, Any]:
    """Digests by connection and model; a connection that gave no answer is not known."""
    models: Mapping[str, Any] = record["circumstances"].get("models", {})
    answered = {name: found for name, found in models.items() if isinstance(found, Mapping)}
    return {f"{name}: {model}": digest for name, found in answered.items() for model, digest in found.items()}


def _schema(record: Record) -> dict[str, Any]:
    """Fingerprints by connection and relation."""
    schema: Mapping[str, Any] = record["circumstances"].get("schema", {})
    return {
        f"{name}: {relation}": digest
        for name, found in schema.items()
        for relation, digest in found.get("relations", {}).items()
    }


def _servers(record: Record) -> dict[str, Any]:
    """Where each connection led, and how its server is set up."""
    around = record["circumstances"]
    targets = {**around.get("connections", {}), **record["rehearsal"].get("sources", {})}
    found: dict[str, Any] = {}
    for name, target in targets.items():
        embedded = name in around.get("embedded", [])
        found[name] = _private(target) if embedded else target
        if embedded and "made" in around:
            found[f"{name}: data"] = "made new for the run" if name in around["made"] else "kept from earlier runs"
    for name, facts in around.get("servers", {}).items():
        found |= {f"{name}: {what.replace('_', ' ')}": value for what, value in facts.items()}
    return found


def _private(target: str) -> str:
    """An embedded database, by what it was seeded with: its folder and the name of a throw-away one are as ids are."""
    seed = _SEEDED.search(_THROW_AWAY.sub("", target.partition(" on ")[0]))
    return f"embedded, seeded by scripts {seed[1]}" if seed else "embedded"


def _around(record: Record) -> dict[str, Any]:
    run, around = record["run"], record["circumstances"]
    facts = {
        "host": run.get("host"),
        "operator": run["operator"],
        "locale": around.get("locale"),
        "time zone": around.get("time_zone"),
        "command line": shlex.join(map(str, around["command_line"])) if around.get("command_line") else None,
        "runbook file": around.get("file"),
    }
    return {what: value for what, value in facts.items() if value is not None}


def _known(record: Record) -> dict[str, Any]:
    """What the record tells of its surroundings at all."""
    keys = ("locale", "time_zone", "made", "schema", "models", "servers")
    found = {_WORDS.get(key, key): True for key in keys if key in record["circumstances"]}
    models: Mapping[str, Any] = record["circumstances"].get("models", {})
    found |= {f"models of {name}": True for name, item in models.items() if isinstance(item, Mapping)}
    found |= {} if _differing(record) is None else {"files that differ from the commit": True}
    return {**found, **_code(record), **_programs(record)}


_WORDS = {
    "time_zone": "time zone",
    "made": "whether embedded databases were new",
    "servers": "settings of the servers",
}
_SHARED: dict[str, Callable[[Record], dict[str, Any]]] = {
    "code": _code,
    "versions": _programs,
    "models": _models,
    "schema": _schema,
    "servers": _servers,
    "circumstances": _around,
}
