"""Kinds of probes and steps that other packages offer through entry points; looked for only where a key is none of ours.

An entry point of the group `runbook.probes` or `runbook.steps` has the name of the key, and leads to what `runbook.extend` tells.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal, NamedTuple

from runbook.language.model import Kind
from runbook.language.problems import RunbookError
from runbook.language.source import Where, brief
from runbook.language.values import dumps, to_data

Room = Literal["probes", "steps"]
_FUNCTION: dict[Room, str] = {"probes": "read", "steps": "act"}
_PLACES: tuple[tuple[str, Room, str], ...] = (
    ("state", "probes", "state"),
    ("preflight", "probes", "check"),
    ("postconditions", "probes", "check"),
    ("steps", "steps", "step"),
    ("on_failure", "steps", "step"),
    ("finally", "steps", "step"),
)
_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_OF_SHAPE = frozenset(
    ("type", "required", "additionalProperties", "minItems", "maxItems", "minProperties", "maxProperties")
)


class Offer(NamedTuple):
    """What an installed package offers: a key, and where its object is (`module:attribute`)."""

    room: Room
    key: str
    package: str
    version: str
    entry: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


class Used(NamedTuple):
    """A kind that can be used, with the JSON Schema of what stands under its key."""

    kind: Kind
    schema: Mapping[str, Any]


class Met(NamedTuple):
    """What a document has of others' kinds: by room and key those to use, and at which places one cannot be used and why.

    `offered` are all keys there are, where any was looked for.
    """

    used: dict[Room, dict[str, Used]]
    refused: dict[Where, str]
    offered: dict[Room, set[str]]


class Unusable(RunbookError):
    """A package offers a kind, and it cannot be used."""


def look(data: Any) -> Met:
    """The kinds of other packages in the data of a runbook, whatever its shape."""
    found = Met({"probes": {}, "steps": {}}, {}, {"probes": set(), "steps": set()})
    for where, room in _strangers(data):
        key = str(where[-1])
        found.offered[room].update(offer.key for offer in offers() if offer.room == room)
        if key not in found.offered[room]:
            continue
        try:
            found.used[room][key] = usable(room, key)
        except Unusable as error:
            found.refused[where] = str(error)
    return found


def met(data: Any) -> dict[Room, dict[str, Used]]:
    """The kinds of other packages that a runbook uses, by room and key."""
    return look(data).used


def _strangers(data: Any) -> Iterator[tuple[Where, Room]]:
    """The places of keys, where a probe or a step may be named, that are none of ours."""
    from runbook.language.schema import runbook_schema

    defs = runbook_schema()["$defs"]
    for section, room, name in _PLACES:
        entries = data.get(section) if isinstance(data, dict) else None
        own = defs[name]["properties"]
        for entry, item in entries.items() if isinstance(entries, dict) else ():
            yield from (((section, entry, key), room) for key in _keys(item) if key not in own)
            inner = item.get("rehearse") if isinstance(item, dict) and room == "steps" else None
            own_inner = own["rehearse"]["properties"] if inner else {}
            yield from (((section, entry, "rehearse", key), room) for key in _keys(inner) if key not in own_inner)


def _keys(item: Any) -> list[str]:
    return list(item) if isinstance(item, dict) else []


def offers() -> tuple[Offer, ...]:
    """All that is installed, whether it can be used or not."""
    return _offers(tuple(sys.path))


@lru_cache(maxsize=4)
def _offers(path: tuple[str, ...]) -> tuple[Offer, ...]:
    from importlib.metadata import entry_points

    known = entry_points()
    rooms: tuple[Room, ...] = ("probes", "steps")
    return tuple(
        Offer(room, point.name, point.dist.name, point.dist.version, point.value)
        for room in rooms
        for point in known.select(group=f"runbook.{room}")
        if point.dist is not None
    )


def usable(room: Room, key: str) -> Used:
    """The kind that is offered under `key`. Raises Unusable."""
    used, thing = _offered(room, key)
    trouble = _trouble(used.kind, thing, used.schema)
    if trouble:
        raise _unusable(used.kind, trouble)
    return used


def _offered(room: Room, key: str) -> tuple[Used, Any]:
    """What is offered under `key`, and its object, not looked at closely. Raises Unusable."""
    found = [offer for offer in offers() if (offer.room, offer.key) == (room, key)]
    if not found:
        raise Unusable(f"no package that is installed offers `{key}`")
    if len(found) > 1:
        raise Unusable(f"several packages offer `{key}`: {' and '.join(map(str, found))}; uninstall all but one")
    offer = found[0]
    try:
        thing = loaded(offer.entry)
        schema = to_data(dict(thing.SCHEMA))
    except (RunbookError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - others' code may raise anything while it is imported
        raise _unusable(offer, _told(error)) from None
    digest = hashlib.sha256(dumps(schema).encode()).hexdigest()
    safe = getattr(thing, "safe", False) is True
    return Used(Kind(room, key, offer.package, offer.version, offer.entry, digest, safe), schema), thing


def _unusable(offer: Offer | Kind, because: str) -> Unusable:
    return Unusable(f"{offer.package} {offer.version} offers `{offer.key}`, and cannot be used: {because}")


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {brief(str(error), 200)}" if str(error) else type(error).__name__


def loaded(entry: str) -> Any:
    """The object at `module:attribute`; what its module prints goes to stderr. Raises whatever the import raises."""
    module, _, attribute = entry.partition(":")
    with redirect_stdout(sys.stderr):
        found: Any = import_module(module.strip())
    for name in filter(None, attribute.strip().split(".")):
        found = getattr(found, name)
    return found


def _trouble(kind: Kind, thing: Any, schema: Mapping[str, Any]) -> str:
    """Why an object is none that we could call, or nothing."""
    from runbook.language.schema import schema_trouble

    if not _NAME.fullmatch(kind.key):
        return "a key is lower-case letters, digits and _, and starts with a letter or _"
    name = getattr(thing, "NAME", None)
    if name != kind.key:
        return f"its NAME is `{name}`"
    if not callable(getattr(thing, _FUNCTION[kind.room], None)):
        return f"it has no function `{_FUNCTION[kind.room]}`"
    if schema.get("type") != "object":
        return "its SCHEMA is not of type object"
    return schema_trouble(schema) or ""


def unchanged(kinds: tuple[Kind, ...]) -> bool:
    """Whether each kind is installed as it was, in the same version and with the same schema."""
    try:
        return all(_offered(kind.room, kind.key)[0].kind == kind for kind in kinds)
    except Unusable:
        return False


# --- schemas ----------------------------------------------------------------------------------------------------------


def merged(schema: Mapping[str, Any], properties: Mapping[Room, Mapping[str, Any]]) -> dict[str, Any]:
    """The schema of runbooks in which the keys in `properties` may stand where a probe or a step of ours may."""
    defs = dict(schema["$defs"])
    for name, room in {place[2]: place[1] for place in _PLACES}.items():
        defs[name] = _with(defs[name], properties[room])
    step = defs["step"]["properties"]
    step |= {"rehearse": _with(step["rehearse"], properties["steps"])}
    return {**schema, "$defs": defs}


def _with(schema: Mapping[str, Any], properties: Mapping[str, Any]) -> dict[str, Any]:
    return {**schema, "properties": {**schema["properties"], **properties}}


def known_properties(found: Met) -> dict[Room, dict[str, Any]]:
    """What a document with others' kinds is judged by: their schemas, and anything under a key that is only offered."""
    rooms: tuple[Room, ...] = ("probes", "steps")
    return {
        room: {key: found.used[room][key].schema if key in found.used[room] else {} for key in found.offered[room]}
        for room in rooms
    }


def part_of(schema: Any, key: str | int) -> Any:
    """The schema of what stands at `key` in what `schema` describes, as far as that is plain."""
    if not isinstance(schema, Mapping):
        return {}
    if isinstance(key, int):
        return schema.get("items", {})
    return schema.get("properties", {}).get(key, schema.get("additionalProperties", {}))


def unfilled(found: Met, where: Where, keyword: str, value: Any) -> bool:
    """Whether what does not fit at `where` is text that a run fills in first, so that only a run can judge it."""
    place = where[3:] if where[2:3] == ("rehearse",) else where[2:]
    if not place or not any(place[0] in used for used in found.used.values()):
        return False
    return isinstance(value, str) or keyword not in _OF_SHAPE if has_hole(value) else False


def has_hole(value: Any) -> bool:
    """Whether any text in `value` has a `{{ }}`."""
    if isinstance(value, Mapping):
        return any(map(has_hole, value.values()))
    return any(map(has_hole, value)) if isinstance(value, list) else isinstance(value, str) and "{{" in value


def misfit(kind: Kind, given: Any) -> str:
    """Why values that a run filled in do not fit the schema of their kind, or nothing."""
    from runbook.language.schema import value_trouble

    return value_trouble(_evaluated(usable(kind.room, kind.key).schema), given)


def _evaluated(schema: Any) -> Any:
    """The schema after expressions have become values: those may be anything."""
    if isinstance(schema, list):
        return [_evaluated(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {} if schema.get("x-runbook") == "expression" else {key: _evaluated(item) for key, item in schema.items()}


def for_editors(schema: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The schema of runbooks with every kind that is installed, and why some cannot be used."""
    properties: dict[Room, dict[str, Any]] = {"probes": {}, "steps": {}}
    troubles = []
    for offer in offers():
        own = [schema["$defs"][name]["properties"] for _, room, name in _PLACES if room == offer.room]
        try:
            used = usable(offer.room, offer.key)
            if any(offer.key in known for known in own):
                raise Unusable(f"{offer} offers `{offer.key}`, which is a key of the language itself")
        except Unusable as error:
            troubles.append(str(error))
            continue
        told = {"description": f"Of the package {offer}."}
        properties[offer.room][offer.key] = {**told, **_fillable(used.schema)}
    return merged(schema, properties), list(dict.fromkeys(troubles))


def _fillable(schema: Any) -> Any:
    """The schema as an editor may use it: a text with `{{ }}` may stand in the place of any value within."""
    if not isinstance(schema, Mapping):
        return schema
    found = dict(schema)
    if isinstance(found.get("properties"), Mapping):
        found["properties"] = {name: _or_text(item) for name, item in found["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(found.get(key), Mapping):
            found[key] = _or_text(found[key])
    return found


def _or_text(schema: Any) -> Any:
    inner = _fillable(schema)
    if not isinstance(inner, Mapping) or (inner.get("type") == "string" and inner.keys() <= {"type", "description"}):
        return inner
    told = {"description": inner["description"]} if "description" in inner else {}
    return {**told, "anyOf": [inner, {"type": "string", "pattern": r"\{\{"}]}
