"""The pytest plugin: runbooks and their cases as tests where that is asked for, and nothing at all where it is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.helpers import until
from tests.acceptance.trials import COPIES, SMALL, project, sleepers, slow
from tests.conftest import ROOT, Database

pytest_plugins = ["pytester"]

Pytest = Callable[..., pytest.RunResult]
PLUGIN = "runbook.pytest_plugin"
CASES = """\
adds: {verdict: passed}
blocks: {params: {least: 2}, verdict: blocked}
misses: {params: {least: 3}, verdict: passed, description: Three would be better.}
"""


@pytest.fixture
def folder(pytester: pytest.Pytester, server_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own, with a test beside its runbook."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(pytester.mkdir("temporary")))
    for name in [name for name in os.environ if name.startswith(("PYTEST_", "PG"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(test_other="def test_other(): pass")
    project(pytester.path, server_folder, cases=CASES)
    return pytester.path


@pytest.fixture
def run(pytester: pytest.Pytester, folder: Path) -> Pytest:
    """pytest with the plugin, as a process."""
    return lambda *arguments: pytester.runpytest_subprocess("-p", PLUGIN, *arguments, timeout=60)


LOADED = """
import sys

def pytest_unconfigure(config):
    heavy = {"click", "jinja2", "jsonschema", "psycopg", "yaml"} & set(sys.modules)
    print("LOADED", sorted(name for name in sys.modules if name.split(".")[0] == "runbook"), sorted(heavy))
"""


@pytest.mark.parametrize("arguments", [(), ("--runbooks", "test_other.py", "plain")], ids=["off", "no runbook"])
def test_it_does_nothing_and_loads_nothing_without_being_asked(
    arguments: tuple[str, ...], run: Pytest, folder: Path, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(LOADED)
    (folder / "plain").mkdir()
    (folder / "plain" / "other.yaml").write_text("services:\n  runbook: 1\n")
    (folder / "plain" / "broken.yaml").write_bytes(b"\xff{]: \0")
    result = run(*arguments)
    result.assert_outcomes(passed=1)
    assert "LOADED ['runbook', 'runbook.pytest_plugin'] []" in result.stdout.str()


def test_it_is_installed_with_the_package() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert declared["project"]["entry-points"]["pytest11"] == {"runbook": PLUGIN}


def test_cases_are_tests(run: Pytest, folder: Path) -> None:
    result = run("--runbooks", "-v", "--strict-markers")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            "runbooks/small.yaml::adds*PASSED*",
            "runbooks/small.yaml::blocks*PASSED*",
            "runbooks/small.yaml::misses*FAILED*",
            "*_ small: misses _*",
            "verdict: wanted passed, came blocked",
            "*runbooks/small.cases.yaml:4",
            "*Three would be better.",
            "*reason: preflight.some refuted: nothing there (*where result = 1, params.least = 3)",
            "*run log: *small-misses/logs/small_*.md",
            "FAILED runbooks/small.yaml::misses - verdict: wanted passed, came blocked",
        ]
    )
    assert "Traceback" not in result.stdout.str() and "runbook/trial.py" not in result.stdout.str()
    [kept] = (folder / "temporary").glob("runbook-test-*")
    assert [path.name for path in kept.iterdir()] == ["small-misses"]


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        ("-k blocks", ["runbooks/small.yaml::blocks"]),
        (
            "-k small -m runbook --deselect runbooks/small.yaml::adds",
            ["runbooks/small.yaml::blocks", "runbooks/small.yaml::misses"],
        ),
        ("-m not_runbook", ["test_other.py::test_other"]),
        ("runbooks/small.yaml::adds", ["runbooks/small.yaml::adds"]),
    ],
)
def test_cases_are_chosen_as_tests_are(arguments: str, chosen: list[str], run: Pytest) -> None:
    words = [word.replace("_", " ") if word == "not_runbook" else word for word in arguments.split()]
    result = run("--runbooks", "--collect-only", "-q", *words)
    assert [line for line in result.stdout.lines if "::" in line] == chosen


def test_workers_share_the_cases(run: Pytest) -> None:
    run("--runbooks", "-p", "xdist", "-n", "2", "-k", "not misses").assert_outcomes(passed=3)


def test_the_configuration_can_ask_for_it(run: Pytest, pytester: pytest.Pytester, folder: Path) -> None:
    pytester.makeini("[pytest]\nrunbooks = true\n")
    run("runbooks/small.yaml::adds").assert_outcomes(passed=1)
    assert list((folder / "temporary").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "cases", "told"),
    [
        ("runbook: 1\nname: small\nstepz: {}\n", CASES, "runbooks/small.yaml:3:1: stepz: unknown key"),
        (SMALL, "adds: {verdict: pased}\n", "runbooks/small.cases.yaml:2:19: cases.adds.verdict: *is not one of*"),
    ],
    ids=["runbook", "cases"],
)
def test_a_file_that_is_not_valid_is_an_error_with_its_place(
    text: str, cases: str, told: str, run: Pytest, folder: Path, server_folder: Path
) -> None:
    project(folder, server_folder, text=text, cases=cases)
    result = run("--runbooks", "runbooks")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ERROR collecting runbooks/small.yaml*", told, "*did you mean `*`?"])
    assert "Traceback" not in result.stdout.str()


def test_cases_run_on_copies_of_a_named_database(run: Pytest, database: Database) -> None:
    database.run("CREATE TABLE items (n integer); INSERT INTO items VALUES (7), (8), (9)")
    result = run("--runbooks", "runbooks", "--runbooks-database", database.url, "-k", "not blocks")
    result.assert_outcomes(passed=2, deselected=1)
    assert database.value("SELECT count(*) FROM items") == 3 and database.rows(COPIES) == []


def test_an_unknown_connection_is_an_error(run: Pytest) -> None:
    result = run("--runbooks", "runbooks", "--runbooks-database", "dc=postgresql://x/y")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["runbooks/small.yaml: --database dc=*no such connection*"])


def test_an_interrupt_ends_the_run(folder: Path, server_folder: Path) -> None:
    project(folder, server_folder, text=slow("619.25"), cases="adds: {verdict: passed}\n")
    command = [sys.executable, "-m", "pytest", "-p", PLUGIN, "--runbooks", "runbooks"]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    until(lambda: sleepers("619.25"))
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, out.decode()
    assert sleepers("619.25") == []
