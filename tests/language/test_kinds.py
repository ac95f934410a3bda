"""Kinds of other packages in a runbook's text: found, judged by their own schemas, and refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runbook.language.document import parse_document
from runbook.language.kinds import for_editors, look, offers, unchanged
from runbook.language.load import load_text
from runbook.language.model import Extension, Runbook
from runbook.language.problems import InvalidRunbook
from runbook.language.schema import runbook_schema
from tests.packages import install

HEAD = "runbook: 1\nname: x\nparams: {n: {type: integer, default: 1}}\n"
MODULE = """
NAME = "KEY"
SCHEMA = {
    "type": "object",
    "required": ["path"],
    "additionalProperties": False,
    "properties": {
        "path": {"type": "string", "minLength": 1, "description": "What is looked at."},
        "count": {"type": "integer", "maximum": 9},
        "kind": {"enum": ["a", "b"]},
        "most": {"type": ["string", "integer"], "x-runbook": "expression"},
        "parts": {"type": "array", "maxItems": 2, "items": {"type": "object", "properties": {
            "limit": {"type": "string", "x-runbook": "expression"}, "name": {"type": "string"}}}},
        "options": {"type": "object", "additionalProperties": {"type": "boolean"}},
        "either": {"anyOf": [{"type": "integer"}, {"type": "object", "required": ["n"]}]},
    },
}
safe = True


def read(given, context): ...


def act(given, context): ...
"""
Offering = Callable[..., None]


@pytest.fixture
def offering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Offering:
    """Has a package offer `KEY`, as a probe and a step, by a module of the test's own."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def offer(
        key: str, text: str = MODULE, package: str = "some-kinds", groups: Any = None, version: str = "1.0"
    ) -> None:
        module = f"{package.replace('-', '_')}_{key}_{version.replace('.', '_')}"
        known = groups or {"runbook.probes": {key: module}, "runbook.steps": {key: module}}
        install(tmp_path, package, version, known, **{module: text.replace("KEY", key)})
        from runbook.language import kinds

        kinds._offers.cache_clear()

    return offer


def loaded(body: str) -> Runbook:
    return load_text(HEAD + body, Path("x.yaml"))


def problems(body: str) -> list[tuple[int, int, str, str, str]]:
    with pytest.raises(InvalidRunbook) as caught:
        loaded(body)
    return [(p.line, p.column, p.where, p.message, p.hint) for p in caught.value.problems]


def test_it_is_a_probe_of_states_and_checks_and_a_step_of_all_stages(offering: Offering) -> None:
    offering("look")
    runbook = loaded(
        "state: {s: {look: {path: a}}}\npreflight: {p: {look: {path: a}}}\npostconditions: {q: {look: {path: a}}}\n"
        "steps: {t: {look: {path: a}, rehearse: {look: {path: b}}}}\n"
        "on_failure: {u: {look: {path: a}}}\nfinally: {v: {look: {path: a}}}\n"
    )
    probes = [runbook.state[0].probe, runbook.preflight[0].probe, runbook.postconditions[0].probe]
    steps = (*runbook.steps, *runbook.on_failure, *runbook.finally_)
    for use, room in [(p, "probes") for p in probes] + [(s.action, "steps") for s in steps]:
        assert isinstance(use, Extension)
        assert (use.kind.room, use.kind.key, use.kind.package, use.kind.version) == (room, "look", "some-kinds", "1.0")
        assert use.kind.safe
    stand_in = runbook.steps[0].stand_in
    assert isinstance(stand_in, Extension) and stand_in.given["path"].source == "b"
    assert {(kind.room, kind.key) for kind in runbook.kinds} == {("probes", "look"), ("steps", "look")}


WRONG: dict[str, list[tuple[int, int, str, str, str]]] = {
    "preflight: {a: {look: {}}}": [(4, 17, "preflight.a.look", "`path` is missing", "What is looked at.")],
    "preflight: {a: {look: 5}}": [(4, 23, "preflight.a.look", "must be a mapping, and is a whole number", "")],
    "preflight: {a: {look: {pth: a, path: b}}}": [
        (4, 24, "preflight.a.look.pth", "unknown key", "did you mean `path`?")
    ],
    "steps: {a: {look: {path: a, count: 10}}}": [(4, 36, "steps.a.look.count", "10 is too large: at most 9", "")],
    "steps: {a: {look: {path: a, kind: c}}}": [
        (4, 35, "steps.a.look.kind", '"c" is not one of "a", "b"', "known here: `a`, `b`")
    ],
    "steps: {a: {look: {path: a, options: {x: 1}}}}": [
        (4, 42, "steps.a.look.options.x", "must be true or false, and is a whole number", "")
    ],
    "steps: {a: {look: {path: '{{ parms.n }}'}}}": [
        (4, 30, "steps.a.look.path", "`parms` is not a name that is known here", "did you mean `params`?")
    ],
    "steps: {a: {look: {path: a, most: params.m}}}": [
        (4, 42, "steps.a.look.most", "`params` has no `m`", "known here: `n`")
    ],
    "steps: {a: {look: {path: a, parts: [{limit: 1 +}]}}}": [
        (4, 45, "steps.a.look.parts[0].limit", "this expression cannot be read: it ends too early", "")
    ],
    "steps: {a: {look: {path: a, parts: [{name: '{{ delta }}'}]}}}": [
        (
            4,
            48,
            "steps.a.look.parts[0].name",
            "`delta` is not known yet: it is measured after the steps",
            "known here: `params`, `runbook`, `secrets`, `run`, `before`, `preflight`, `expectations`, `audit`, `steps`",
        )
    ],
    "steps: {a: {look: {path: a}, command: [x]}}": [
        (4, 13, "steps.a.look", "`command` and `look` exclude each other", "make it two entries")
    ],
    "steps: {a: {look: {path: a}, cwd: x}}": [
        (4, 30, "steps.a.cwd", "`cwd` has no meaning without command or shell", "")
    ],
    "steps: {a: {lok: {path: a}}}": [(4, 13, "steps.a.lok", "unknown key", "did you mean `look`?")],
    "steps: {a: {command: [x], rehearse: {lok: {path: a}}}}": [
        (4, 38, "steps.a.rehearse.lok", "unknown key", "did you mean `look`?")
    ],
    "remedies: {a: {look: {path: a}, sql: x, max_rows: 1}}": [(4, 16, "remedies.a.look", "unknown key", "")],
}


@pytest.mark.parametrize("body", WRONG)
def test_what_is_wrong_has_its_place_and_its_cure(body: str, offering: Offering) -> None:
    offering("look")
    found = problems(f"{body}\n")
    wanted = WRONG[body]
    assert [p[:3] for p in found] == [p[:3] for p in wanted]
    for (*_, message, hint), (*_, wanted_message, wanted_hint) in zip(found, wanted, strict=True):
        assert (message, hint if wanted_hint else "") == (wanted_message, wanted_hint)


FILLED_LATER = (
    "count: '{{ params.n }}'",
    "kind: '{{ params.n }}'",
    "options: {x: '{{ params.n > 1 }}'}",
    "options: '{{ params.n }}'",
    "either: '{{ params.n }}'",
    "either: {n: '{{ params.n }}'}",
    "parts: [{name: '{{ params.n }}', limit: params.n}]",
)


@pytest.mark.parametrize("given", FILLED_LATER)
def test_a_hole_may_stand_where_another_type_is_wanted(given: str, offering: Offering) -> None:
    offering("look")
    loaded(f"steps: {{a: {{look: {{path: a, {given}}}}}}}\n")


def test_the_shape_around_a_hole_is_judged_all_the_same(offering: Offering) -> None:
    offering("look")
    parts = "parts: [{name: '{{ params.n }}'}, {name: b}, {name: c}]"
    (found,) = problems(f"steps: {{a: {{look: {{path: a, {parts}}}}}}}\n")
    assert found[2] == "steps.a.look.parts"
    (found,) = problems("steps: {a: {look: {count: '{{ params.n }}'}}}\n")
    assert found[3] == "`path` is missing"


REFUSED = {
    "raises": ("raise ValueError('no luck')", "cannot be used: ValueError: no luck"),
    "exits": ("import sys; sys.exit('bye')", "cannot be used: SystemExit: bye"),
    "lacks": ("import no_such_module_9", "cannot be used: ModuleNotFoundError: No module named 'no_such_module_9'"),
    "other": (MODULE.replace("KEY", "another"), "cannot be used: its NAME is `another`"),
    "nameless": ("SCHEMA = {'type': 'object'}", "cannot be used: its NAME is `None`"),
    "still": ("NAME = 'KEY'\nSCHEMA = {'type': 'object'}", "cannot be used: it has no function `act`"),
    "scalar": (
        MODULE.replace('"type": "object",\n    "required"', '"type": "string",\n    "required"'),
        "not of type object",
    ),
    "refers": (MODULE.replace('{"enum": ["a", "b"]}', '{"$ref": "#/x"}'), "`$ref` is not followed in a schema"),
    "unsound": (MODULE.replace('"maximum": 9', '"maximum": "nine"'), "not a JSON Schema"),
    "pattern": (MODULE.replace('"minLength": 1', '"pattern": "("'), "not a regular expression"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_package_that_cannot_be_used_is_said_at_its_key(key: str, offering: Offering) -> None:
    text, because = REFUSED[key]
    offering(key, text)
    (found,) = problems(f"steps:\n  a: {{{key}: {{path: a}}}}\n")
    assert found[:3] == (5, 7, f"steps.a.{key}")
    assert found[3].startswith(f"some-kinds 1.0 offers `{key}`, and ") and because in found[3]


def test_two_packages_with_one_key_are_refused(offering: Offering) -> None:
    offering("twice")
    offering("twice", package="other-kinds")
    (found,) = problems("steps: {a: {twice: {path: a}}}\n")
    assert "several packages offer `twice`" in found[3] and "other-kinds 1.0" in found[3] and "some-kinds" in found[3]


def test_a_key_of_ours_is_ours(offering: Offering) -> None:
    offering("file")
    (probe,) = [check.probe for check in loaded("preflight: {a: {file: x}}\n").preflight]
    assert not isinstance(probe, Extension)
    _, troubles = for_editors(runbook_schema())
    assert troubles == ["some-kinds 1.0 offers `file`, which is a key of the language itself"]


def test_what_prints_while_it_is_imported_prints_to_stderr(offering: Offering, capsys: Any) -> None:
    offering("noisy", f"print('loud')\n{MODULE}")
    loaded("steps: {a: {noisy: {path: a}}}\n")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "loud\n")


def test_only_a_key_that_is_none_of_ours_has_packages_looked_for(offering: Offering) -> None:
    offering("look")
    found = look(parse_document("runbook: 1\nsteps: {a: {command: [x]}}\n", "x").data)
    assert not any(found.offered.values())
    assert look({"steps": {"a": {"look": {}}}}).used["steps"]["look"].kind.key == "look"
    for shapeless in ([], 5, {"steps": []}, {"steps": {"a": 5}}, {"steps": {"a": {"rehearse": "skip"}}}):
        assert not any(look(shapeless).offered.values())


def test_a_change_of_the_package_is_seen(offering: Offering) -> None:
    offering("look")
    kinds = loaded("steps: {a: {look: {path: a}}}\n").kinds
    assert unchanged(kinds) and unchanged(())
    offering("look", version="1.1")
    assert not unchanged(kinds)
    offering("look", MODULE.replace('"maximum": 9', '"maximum": 8'), version="1.2")
    assert not unchanged(kinds)
    assert [offer.version for offer in offers() if offer.key == "look"] == ["1.2", "1.2"]
