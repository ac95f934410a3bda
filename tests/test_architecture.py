"""Imports go one way: what each room may know is written here, and nowhere else."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "runbook"

MAY_KNOW = {
    "language": {"language"},
    "engine": {"engine", "language"},
    "system": {"system", "language", "database.connect", "database.guard"},  # of the last two only types
    "database": {"database", "language.problems", "language.sqltext", "language.values"},
    "probes": {"engine.ports", "language", "system", "database"},
    "steps": {"engine.ports", "language", "system", "database"},
    "records": {"records", "engine.record", "engine.judge", "engine.ports", "language", "database"},
    "operate": {
        "operate",
        "engine.judge",
        "engine.ports",
        "engine.record",
        "engine.replay",
        "language",
        "system",
        "database",
        "probes",
        "steps",
        "records",
    },
    "fleet": {
        "fleet",
        "operate",
        "engine.judge",
        "engine.ports",
        "engine.record",
        "language",
        "database",
        "records",
    },
    "watch": {
        "watch",
        "operate",
        "engine.judge",
        "engine.ports",
        "engine.record",
        "language",
        "database",
        "records",
        "system.tree",
    },
    "cli": {
        "cli",
        "watch",
        "session",
        "look",
        "dry_run",
        "trial",
        "repro",
        "remedy",
        "doctor",
        "submit",
        "turn",
        "fleet",
        "operate",
        "records",
        "engine.record",
        "language",
    },
}
NEVER = {
    "language": {"psycopg", "httpx", "subprocess", "click", "time", "datetime.now"},
    "engine": {"psycopg", "httpx", "subprocess", "click", "pathlib", "os", "time"},
    "probes": {"click", "psycopg"},
    "steps": {"click", "psycopg"},
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, by its full name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("room", MAY_KNOW)
def test_a_room_knows_only_what_it_may(room: str) -> None:
    allowed = {f"runbook.{name}" for name in MAY_KNOW[room]}
    for path in sorted((PACKAGE / room).rglob("*.py")):
        for name in sorted(imports(path)):
            if name.startswith("runbook.") and name != "runbook.__version__":
                known = any(
                    name == base or name.startswith(f"{base}.") or base.startswith(f"{name}.") for base in allowed
                )
                assert known, f"{path.relative_to(PACKAGE)} imports {name}"
            assert name not in NEVER.get(room, set()), f"{path.relative_to(PACKAGE)} imports {name}"


def test_probes_and_steps_do_not_know_each_other() -> None:
    for room, other in (("probes", "steps"), ("steps", "probes")):
        for path in (PACKAGE / room).glob("*.py"):
            assert not any(name.startswith(f"runbook.{other}") for name in imports(path)), path


def test_functions_and_files_stay_small() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 420, f"{path} wants splitting"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path}:{node.lineno} {node.name} wants splitting"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["validate", "runbooks/wf3001.yaml"]])
def test_commands_that_only_read_import_no_driver(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom runbook.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'psycopg', 'httpx', 'rich', 'psutil', 'asyncio', 'ctypes'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)\n"
    )
    root = PACKAGE.parent
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
