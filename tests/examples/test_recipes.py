"""The recipes do what they say: their commands are the program's, and end with the codes that are documented."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
import yaml

from runbook.cli.errors import INVALID, USAGE
from runbook.cli.main import main
from runbook.engine.judge import EXIT_CODES
from runbook.operate.lock import lock_number
from tests.acceptance.helpers import Background
from tests.conftest import ROOT, Database

EXAMPLES, DOCS = ROOT / "examples", ROOT / "docs"
RECIPES = (DOCS / "recipes.md").read_text(encoding="utf-8")
UNIT = EXAMPLES / "systemd" / "runbook-worker@.service"
HEAD = "runbook: 1\nconnections: {db: {type: postgres, env: DATABASE_URL}}\n"
NIGHTLY = """\
name: nightly
params: {source: {type: string, default: erp}, day: {type: string, default: "2026-11-23"}}
preflight: {open: {sql: "SELECT {{ params.day }}::text <> '2026-11-22'", returns: value, expect: result}}
steps: {load: {command: [echo, "{{ params.day }}"]}}
"""
INTAKE = "name: intake\nsteps: {take: {sql: SELECT 1}}\n"
SWEEP = """\
name: sweep
params: {limit: {type: integer, default: 1}}
lock: "sweep-{{ params.limit }}"
steps: {go: {sql: "SELECT {{ params.limit }}::int / (100 - {{ params.limit }}::int)"}}
"""


class Project:
    """A project with the runbooks that the recipes name, and a shell in it that knows the command `runbook`."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder, self.database = folder, database
        (folder / "runbooks").mkdir()
        (folder / "bin").mkdir()
        for name, text in (("nightly", NIGHTLY), ("intake", INTAKE), ("sweep", SWEEP)):
            (folder / "runbooks" / f"{name}.yaml").write_text(HEAD + text, encoding="utf-8")
        script = folder / "bin" / "runbook"
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m runbook "$@"\n', encoding="utf-8")
        script.chmod(0o755)
        (folder / "env").write_text(f"export DATABASE_URL={shlex.quote(database.url)}\n", encoding="utf-8")
        known = {name: value for name, value in os.environ.items() if name != "DATABASE_URL" and name[:2] != "PG"}
        path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.env = {**known, "PATH": path, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder / "state")}

    def shell(self, text: str, *shell: str, **env: str) -> subprocess.CompletedProcess[str]:
        known = {**self.env, **env}
        argv = [*(shell or ("sh",)), "-c", text]
        return subprocess.run(argv, cwd=self.folder, env=known, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def project(tmp_path: Path, database: Database) -> Project:
    return Project(tmp_path, database)


@pytest.fixture
def worked(project: Project) -> Iterator[Project]:
    """The project with a worker beside it."""
    worker = Background(project.folder, "worker", "sweep", env={"DATABASE_URL": project.database.url})
    try:
        yield project
        ended = worker.end(signal.SIGTERM)
        assert ended.code == 0, ended.err
    finally:
        worker.kill()


def understood(argv: list[str]) -> click.Context:
    """What the program makes of a command line, without doing it. Raises a usage error."""
    assert argv[0] == "runbook"
    context, names = click.Context(main, info_name="runbook"), argv[1:]
    command: click.Command | None = main
    while isinstance(command, click.Group) and names:
        command, names = command.get_command(context, names[0]), names[1:]
        assert command is not None, argv
    assert command is not None
    return command.make_context(command.name, names, parent=context)


def fenced(text: str, *languages: str) -> Iterator[str]:
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        if language in languages:
            yield block


def commands(text: str) -> Iterator[list[str]]:
    """The calls of `runbook` in a shell text, without what the shell does with them."""
    lexer = shlex.shlex(re.sub(r"\d>>?", ">", text).replace("\n", " ; "), posix=True, punctuation_chars=";&|<>(){}")
    lexer.whitespace_split, lexer.commenters = True, ""
    found: list[str] = []
    for word in [*lexer, ";"]:
        if not re.fullmatch(r"[;&|<>(){}]+", word):
            found.append(word)
            continue
        if "runbook" in found:
            yield found[found.index("runbook") :]
        found = []


def uncommented(text: str) -> str:
    return re.sub(r"(^|\s)#.*$", "", text, flags=re.MULTILINE)


# --- what is written ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fleet", "recipes", "scaling", "schedules"])
def test_every_command_of_a_document_is_the_programs(name: str) -> None:
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    shells = [uncommented(block) for block in fenced(text, "sh", "cron")]
    consoles = [line[2:] for block in fenced(text, "console") for line in block.splitlines() if line[:2] == "$ "]
    found = [argv for block in [*shells, *map(uncommented, consoles)] for argv in commands(block)]
    assert name == "scaling" or len(found) > 2
    for argv in found:
        understood(argv)


@pytest.mark.parametrize("name", ["fleet", "recipes", "scaling"])
def test_every_link_of_a_document_leads_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#:]*)(?:#[\w-]*)?\)", (DOCS / f"{name}.md").read_text(encoding="utf-8")):
        assert not target or (DOCS / target).exists() or (DOCS / f"{target}.md").exists(), target


def test_the_exit_codes_are_the_programs() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \| (.*?) \|", RECIPES, flags=re.MULTILINE)
    told = {int(code): text for codes, text in rows for code in codes.split(",")}
    assert set(told) == {*EXIT_CODES.values(), USAGE, INVALID}
    for verdict in ("passed", "refuted", "blocked", "failed", "errored", "cancelled"):
        assert verdict in told[EXIT_CODES[verdict]]


def test_what_the_recipes_show_stands_in_the_examples() -> None:
    block = list(fenced(RECIPES, "yaml"))[-1]
    shown = {step["run"] for step in yaml.safe_load(block)}
    assert shown <= {step.get("run") for step in sweep_steps()}
    unit = UNIT.read_text(encoding="utf-8")
    for setting in re.findall(r"^\| `(\w+=\w[\w-]*)` \|", RECIPES, flags=re.MULTILINE):
        assert f"\n{setting}\n" in unit, setting


# --- cron -----------------------------------------------------------------------------------------------------------


def test_cron_is_told_only_what_somebody_should_hear(project: Project) -> None:
    (table,) = fenced(RECIPES, "cron")
    lines = [line.split(None, 5)[5] for line in table.splitlines() if re.match(r"[\d*]", line)]
    nightly, intake = (line.replace("/srv/runbook/etl", str(project.folder)) for line in lines)
    for line in (nightly, intake):
        done = project.shell(line)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert '"verdict": "passed"' in (project.folder / "nightly.jsonl").read_text(encoding="utf-8")
    with psycopg.connect(project.database.url, autocommit=True) as other:
        for name in ("nightly", "intake"):
            other.execute("SELECT pg_advisory_lock(%s)", [lock_number(name)])
        assert "lock" in project.shell(nightly).stdout
        assert project.shell(intake).stdout == ""
    (project.folder / "runbooks" / "intake.yaml").write_text("runbook: 1\n", encoding="utf-8")
    assert "problem" in project.shell(intake).stdout


# --- systemd --------------------------------------------------------------------------------------------------------


def test_the_unit_is_sound(tmp_path: Path) -> None:
    unit = configparser.RawConfigParser(strict=True, delimiters=("=",), comment_prefixes=("#",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT, encoding="utf-8")
    service = unit["Service"]
    argv = shlex.split(service["ExecStart"].replace("$RUNBOOK_WORKER", "--concurrency 4 --label gpu"))
    assert understood(["runbook", *argv[1:]]).params["concurrency"] == 4
    assert "RUNBOOK_WORKER=--concurrency 4 --label gpu" in UNIT.read_text(encoding="utf-8")
    assert service["RestartPreventExitStatus"].split() == [str(USAGE), str(INVALID)]
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return
    made = tmp_path / "runbook-worker@etl.service"
    text = UNIT.read_text(encoding="utf-8").replace(argv[0], sys.executable).replace("User=runbook", "User=root")
    made.write_text(text, encoding="utf-8")
    done = subprocess.run([analyze, "verify", str(made)], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


# --- Airflow --------------------------------------------------------------------------------------------------------


def airflow_tasks() -> dict[str, dict[str, Any]]:
    """The operators of the DAG, by task, as they are written."""
    tree = ast.parse((EXAMPLES / "airflow" / "runbook_dag.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "BashOperator"]
    found = [{k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg and k.arg != "cwd"} for call in calls]
    return {task["task_id"]: task for task in found}


def test_airflow_passes_skips_and_fails_by_exit_code(worked: Project) -> None:
    nightly, sweep = airflow_tasks()["nightly"], airflow_tasks()["sweep"]
    assert set(nightly["env"]) == {"DAY", "NOTE"} and nightly["append_env"] and sweep["append_env"]
    url = {"DATABASE_URL": worked.database.url}
    for day, code in (("2026-11-23", 0), ("2026-11-22", EXIT_CODES["blocked"])):
        done = worked.shell(nightly["bash_command"], "bash", **url, DAY=day, NOTE="manual__2026")
        assert done.returncode == code, done.stderr
    assert nightly["skip_on_exit_code"] == [EXIT_CODES["blocked"]]
    failed = worked.shell(sweep["bash_command"], "bash", **url)
    assert failed.returncode == EXIT_CODES["failed"], failed.stderr  # limit=100 divides by zero
    notes = worked.database.rows("SELECT DISTINCT options->>'note', params->>'day' FROM runbook_fleet.submissions")
    assert ("manual__2026", "2026-11-23") in notes


# --- GitHub Actions -------------------------------------------------------------------------------------------------


def sweep_steps() -> list[dict[str, Any]]:
    loaded = yaml.safe_load((EXAMPLES / "github-actions" / "sweep.yml").read_text(encoding="utf-8"))
    steps: list[dict[str, Any]] = loaded["jobs"]["sweep"]["steps"]
    return steps


def test_the_workflow_sweeps_and_compares(project: Project) -> None:
    install, sweep, compare = (step["run"] for step in sweep_steps() if "run" in step)
    assert install.startswith("pip install")
    summary = project.folder / "summary.md"
    env = {"DATABASE_URL": project.database.url, "GITHUB_STEP_SUMMARY": str(summary)}
    done = project.shell(sweep, "bash", "-e", **env)
    assert done.returncode == EXIT_CODES["failed"], done.stderr
    done = project.shell(compare, "bash", "-e", **env)
    assert done.returncode == 0, done.stderr
    assert [f"| {limit} |" in summary.read_text(encoding="utf-8") for limit in (50, 100, 500)] == [True] * 3
    assert (project.folder / "sweep.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert project.database.value("SELECT count(*) FROM runbook_fleet.workers WHERE state = 'ended'") == 1


# --- Kubernetes -----------------------------------------------------------------------------------------------------


def pod(name: str) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """A manifest, its pod and the command of its only container."""
    (manifest,) = yaml.safe_load_all((EXAMPLES / "kubernetes" / f"{name}.yaml").read_text(encoding="utf-8"))
    spec = manifest["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return manifest, spec, [*container["command"], *container["args"]]


def test_a_job_of_kubernetes_is_tried_again_only_where_nothing_was_begun(project: Project) -> None:
    manifest, spec, argv = pod("job")
    assert spec["restartPolicy"] == "Never"
    disrupted, by_code = manifest["spec"]["podFailurePolicy"]["rules"]
    assert {disrupted["action"], by_code["action"]} == {"FailJob"}
    codes = by_code["onExitCodes"]
    assert (codes["operator"], codes["containerName"]) == ("NotIn", spec["containers"][0]["name"])
    understood(argv)
    env = {"DATABASE_URL": project.database.url}
    assert project.shell(shlex.join(argv), **env).returncode == 0
    with psycopg.connect(project.database.url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [lock_number("nightly")])
        assert codes["values"] == [project.shell(shlex.join(argv), **env).returncode]


def test_workers_of_kubernetes(project: Project) -> None:
    manifest, spec, argv = pod("worker")
    assert manifest["spec"]["selector"]["matchLabels"] == manifest["spec"]["template"]["metadata"]["labels"]
    assert spec["terminationGracePeriodSeconds"] >= 3600
    assert all(isinstance(word, str) for word in argv)
    context = understood(argv)
    assert (context.params["concurrency"], context.params["labels"]) == (2, ("kubernetes",))
    done = project.shell(shlex.join([*argv, "--until-empty"]), DATABASE_URL=project.database.url)
    assert done.returncode == 0, done.stderr
