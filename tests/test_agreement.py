"""Docs, schema, model and examples say the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from runbook import load
from runbook.engine.judge import EXIT_CODES
from runbook.engine.record import RunDoc
from runbook.language.cases import is_cases_file, load_cases
from runbook.language.names import shape_at
from runbook.language.schema import CASES, runbook_schema, schema_in
from tests.conftest import ROOT, Database, Program

README = (ROOT / "README.md").read_text(encoding="utf-8")
RECORD = json.loads((ROOT / "schemas" / "run.schema.json").read_text(encoding="utf-8"))
LANGUAGE = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "runbook" / "language").glob("*.py"))
# Keywords of JSON Schema that the validator reads, not we.
OF_PARAMS = set(runbook_schema()["$defs"]["param"]["properties"])


def schema_nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from schema_nodes(child)
    elif isinstance(node, list):
        for child in node:
            yield from schema_nodes(child)


def properties(schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node in schema_nodes(schema):
        if isinstance(node.get("properties"), dict) and "description" not in node["properties"].get("properties", {}):
            found |= {name: value for name, value in node["properties"].items() if isinstance(value, dict)}
    return found


EXAMPLES = [path for path in sorted((ROOT / "runbooks").glob("*.yaml")) if not is_cases_file(path)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_loads_has_cases_and_names_the_schemas(path: Path) -> None:
    cases = path.with_suffix(".cases.yaml")
    assert len(load_cases(load(path))) > 1
    for file, schema in ((path, "runbook"), (cases, "cases")):
        first = f"# yaml-language-server: $schema=../schemas/{schema}.schema.json\n"
        assert file.read_text(encoding="utf-8").startswith(first)


@pytest.mark.parametrize("schema", [runbook_schema(), schema_in(CASES)], ids=["runbook", "cases"])
def test_every_key_of_the_schema_is_read(schema: dict[str, Any]) -> None:
    unread = [name for name in properties(schema) if name not in OF_PARAMS and f'"{name}"' not in LANGUAGE]
    assert unread == []


@pytest.mark.parametrize("schema", [runbook_schema(), schema_in(CASES), RECORD], ids=["runbook", "cases", "record"])
def test_schemas_are_sound_and_every_key_is_described(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    text = json.dumps(schema)
    assert "oneOf" not in text
    for node in schema_nodes(schema):
        for name, value in node.get("properties", {}).items():
            if isinstance(value, dict) and name != "properties":
                assert value.get("description") or schema["$defs"][value["$ref"].rpartition("/")[2]].get(
                    "description"
                ), name


def test_the_installed_schema_is_the_one_of_the_project() -> None:
    assert (ROOT / "runbook" / "schemas").resolve() == (ROOT / "schemas").resolve()


def test_the_readmes_runbook_loads(tmp_path: Path) -> None:
    block = next(part for part in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "runbook: 1" in part)
    path = tmp_path / "nightly.yaml"
    path.write_text(block, encoding="utf-8")
    load(path)


def test_the_readmes_exit_codes_are_the_programs() -> None:
    told = {verdict: int(code) for code, verdict in re.findall(r"^\| (\d+) \| (\w+) \|", README, re.MULTILINE)}
    assert told == EXIT_CODES


def test_the_readme_names_what_is_known() -> None:
    for root in shape_at("end", {}, {}):
        assert f"`{root}" in README


def test_the_record_schema_knows_the_records_keys() -> None:
    assert set(RunDoc.__annotations__) <= set(RECORD["properties"]["run"]["properties"])


ENDINGS = {
    0: ("ok.yaml", []),
    3: ("ok.yaml", ["-p", "least=99"]),
    5: ("bad.yaml", []),
    6: ("ok.yaml", ["--database", "postgresql://nobody@127.0.0.1:1/none"]),
}


@pytest.mark.parametrize("code", ENDINGS)
def test_every_ending_prints_a_document_of_the_schema(
    code: int, database: Database, program: Program, write: Callable[..., Path]
) -> None:
    head = "runbook: 1\nname: ok\nconnections: {db: {type: postgres, env: DATABASE_URL}}\n"
    check = "preflight: {one: {sql: SELECT 1, returns: value, expect: result >= params.least}}\n"
    write("ok.yaml", head + "params: {least: {type: integer, default: 1}}\n" + check)
    write("bad.yaml", head + "stepz: {}\n")
    file, arguments = ENDINGS[code]
    ended = program("exec", file, "--json", *arguments, env={"DATABASE_URL": database.url})
    assert ended.code == code, ended.err
    Draft202012Validator(RECORD).validate(ended.document)
    assert ended.document["run"]["exit_code"] == code
