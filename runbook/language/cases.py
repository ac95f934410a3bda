"""The cases of a runbook: with what it is tried out, and what must come of it. They stand in NAME.cases.yaml beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from runbook.language.document import Document, Where, read_document, read_text
from runbook.language.model import Runbook
from runbook.language.problems import InvalidRunbook, Problem, did_you_mean
from runbook.language.schema import CASES, param_errors, shape_problems

ENDINGS = (".cases.yaml", ".cases.yml")
NOT_REACHED = "not reached"
_OF_A_CHECK = ("passed", "refuted", "unknown", "skipped", NOT_REACHED)
_OF_AN_EXPECTATION = ("passed", "refuted", "unknown", NOT_REACHED)
_OF_A_STEP = ("passed", "failed", "skipped", "cancelled", NOT_REACHED)


class Before(NamedTuple):
    """SQL to run before a case, on the connection of that name. It stands in `document` at `where`."""

    document: Document
    where: Where
    text: str
    connection: str


class Case(NamedTuple):
    """One run to be made: what goes in, and what must come out. `line` is where it stands in `file`, from 1; 0 is nowhere.

    `env` has the variables of its secrets too; `checks` the verdicts of single checks, expectations and steps.
    """

    name: str
    verdict: str = "passed"
    because: str = ""
    checks: Mapping[str, str] = {}
    params: Mapping[str, Any] = {}
    env: Mapping[str, str] = {}
    before: Before | None = None
    file: str = ""
    line: int = 0
    description: str = ""


def is_cases_file(path: Path) -> bool:
    """Whether a file of this name has cases."""
    return path.name.endswith(ENDINGS)


def runbook_beside(path: Path) -> Path:
    """The runbook that the cases in `path` are for."""
    ending = next(ending for ending in ENDINGS if path.name.endswith(ending))
    choices = [path.with_name(path.name.removesuffix(ending) + last) for last in (".yaml", ".yml")]
    return next((choice for choice in choices if choice.exists()), choices[0])


def load_cases(runbook: Runbook) -> tuple[Case, ...]:
    """The cases that stand beside a runbook; where none do, the one that it passes as it stands.

    Raises InvalidRunbook with every problem of the file.
    """
    found = [path for ending in ENDINGS if (path := runbook.path.with_name(runbook.path.stem + ending)).exists()]
    if not found:
        return (Case("passes", file=runbook.document.file),)
    shown = str(Path(runbook.document.file).with_name(found[0].name))
    document = read_document(found[0], shown)
    misshapen = [problem for _, problem in shape_problems(document, CASES)]
    if misshapen:
        raise InvalidRunbook(misshapen)
    reading = _Reading(runbook, document)
    cases = tuple(reading.case(name, item) for name, item in document.data["cases"].items())
    if reading.problems:
        raise InvalidRunbook(reading.problems)
    return cases


class _Reading:
    """Reads cases for one runbook; what is wrong goes to `problems`."""

    def __init__(self, runbook: Runbook, document: Document) -> None:
        self.runbook, self.document = runbook, document
        self.problems: list[Problem] = []
        self.known = _verdicts_of(runbook)

    def wrong(self, where: Where, message: str, hint: str = "", *, key: bool = False) -> None:
        self.problems.append(self.document.problem(where, message, hint, at="key" if key else "value"))

    def case(self, name: str, item: Mapping[str, Any]) -> Case:
        where: Where = ("cases", name)
        if item["verdict"] == "passed" and "because" in item:
            self.wrong((*where, "because"), "a run that passes gives no reason", "leave it out", key=True)
        self._checks((*where, "checks"), item.get("checks") or {})
        self._params(where, item.get("params") or {})
        return Case(
            name=name,
            verdict=item["verdict"],
            because=item.get("because", ""),
            checks=item.get("checks") or {},
            params=item.get("params") or {},
            env=self._env(where, item),
            before=self._before(where, item),
            file=self.document.file,
            line=self.document.key_span(where).line,
            description=item.get("description", ""),
        )

    def _checks(self, where: Where, checks: Mapping[str, str]) -> None:
        for name, verdict in checks.items():
            if name not in self.known:
                self.wrong((*where, name), f"the runbook has no `{name}`", _meant(name, self.known), key=True)
            elif verdict not in self.known[name]:
                hint = f"one of {', '.join(self.known[name])}"
                self.wrong((*where, name), f"`{name}` never comes to `{verdict}`", hint)

    def _params(self, where: Where, params: Mapping[str, Any]) -> None:
        declared = self.runbook.params
        for name in params:
            if name not in declared:
                hint = did_you_mean(name, declared) or ("" if declared else "this runbook has no params")
                self.wrong((*where, "params", name), f"there is no param `{name}`", hint, key=True)
        for name, schema in declared.items():
            if name not in params and "default" not in schema:
                self.wrong(where, f"the param `{name}` is required", f"params: {{{name}: …}}", key=True)
        given = {name: value for name, value in params.items() if name in declared}
        for name, message in param_errors(declared, given).items():
            self.wrong((*where, "params", name), message, declared[name].get("description", ""))

    def _env(self, where: Where, item: Mapping[str, Any]) -> dict[str, str]:
        env, secrets = item.get("env") or {}, item.get("secrets") or {}
        servers = {known.env: name for name, known in self.runbook.connections.items() if known.type == "postgres"}
        servers |= {known.read_env: name for name, known in self.runbook.connections.items() if known.read_env}
        for name in env:
            if name in servers:
                message = f"`{name}` is the server of connection `{servers[name]}`: a case has a database of its own"
                self.wrong((*where, "env", name), message, "change it with sql, or pass --database", key=True)
        known = self.runbook.secrets
        for name in secrets:
            if name not in known:
                hint = did_you_mean(name, known) or ("" if known else "this runbook has no secrets")
                self.wrong((*where, "secrets", name), f"there is no secret `{name}`", hint, key=True)
        return {**env, **{known[name]: value for name, value in secrets.items() if name in known}}

    def _before(self, where: Where, item: Mapping[str, Any]) -> Before | None:
        if "sql" not in item:
            if "connection" in item:
                self.wrong((*where, "connection"), "`connection` has no meaning without sql", key=True)
            return None
        connection = self._connection(where, item)
        text = item["sql"]
        if isinstance(text, str):
            return Before(self.document, (*where, "sql"), text, connection)
        file = self.runbook.folder / text["file"]
        try:
            document = read_text(file, str(Path(self.document.file).parent / text["file"]))
        except InvalidRunbook as error:
            hint = "paths are relative to the runbook's folder"
            self.wrong((*where, "sql", "file"), f"cannot be read: {error.problems[0].message}", hint)
            return None
        return Before(document, (), document.text, connection)

    def _connection(self, where: Where, item: Mapping[str, Any]) -> str:
        known = [name for name, connection in self.runbook.connections.items() if connection.type == "postgres"]
        named = item.get("connection")
        if named is not None and named not in known:
            self.wrong((*where, "connection"), f"`{named}` is not a postgres connection", did_you_mean(named, known))
        elif named is None and not known:
            self.wrong((*where, "sql"), "sql needs a postgres connection, and the runbook declares none", key=True)
        elif named is None and len(known) > 1:
            self.wrong((*where, "sql"), "several postgres connections: say which", f"connection: {known[0]}", key=True)
        return named or (known[0] if known else "")


def _verdicts_of(runbook: Runbook) -> dict[str, tuple[str, ...]]:
    """Everything in a runbook that comes to a verdict of its own, with the verdicts that it can come to."""
    found: dict[str, tuple[str, ...]] = {}
    found |= {check.shown: _OF_A_CHECK for check in (*runbook.preflight, *runbook.postconditions)}
    found |= {f"expectations.{item.name}": _OF_AN_EXPECTATION for item in runbook.expectations}
    for step in (*runbook.steps, *runbook.on_failure, *runbook.finally_):
        found[f"{step.stage}.{step.name}"] = _OF_A_STEP
        found |= {f"{step.stage}.{step.name}.{item.name}": _OF_AN_EXPECTATION for item in step.expectations}
    return found


def _meant(name: str, known: Mapping[str, Any]) -> str:
    """What `name` may stand for: something spelt like it, or something of that name in another section."""
    last = name.rpartition(".")[2]
    same = [other for other in known if other.rpartition(".")[2] == last]
    return f"did you mean `{same[0]}`?" if len(same) == 1 else did_you_mean(name, known)
