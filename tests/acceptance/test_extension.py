"""Probes and steps of other packages, from a wheel of its own to the record; and whatever such a package may do wrong."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from jsonschema import Draft202012Validator

from runbook import extend
from runbook.extend import Context
from tests.acceptance.helpers import DB, HEAD, Background, kinds_of, verdicts_of
from tests.conftest import ROOT, Database, Ended, Program
from tests.packages import EXAMPLE, example_wheel, found_in, install

Write = Callable[..., Path]
README = (EXAMPLE / "README.md").read_text(encoding="utf-8")
CSV = "name,amount\nrent,10.10\nrefund,-10.10\n"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """The example package, installed from its wheel: the environment in which it is found."""
    site = tmp_path / "site"
    with zipfile.ZipFile(example_wheel(tmp_path)) as wheel:
        wheel.extractall(site)
    return found_in(site)


@pytest.fixture
def run_files(files: dict[str, str], program: Program, write: Write) -> Callable[..., Ended]:
    """Runs a small runbook that may use the example package, in a folder with a CSV file."""
    write("out/bookings.csv", CSV)

    def run(body: str, *arguments: str, command: str = "exec", **env: str) -> Ended:
        write("small.yaml", HEAD + body)
        return program(command, "small.yaml", *(arguments or ("--json",)), env={**files, **env})

    return run


def test_the_example_from_its_readme_passes(
    files: dict[str, str], program: Program, write: Write, tmp_path: Path
) -> None:
    write("out/bookings.csv", CSV)
    write("month_end.yaml", re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)[0])
    assert program("validate", "month_end.yaml", env=files).code == 0
    ended = program("exec", "month_end.yaml", "--json", env=files)
    assert ended.code == 0, ended.err
    record = ended.document
    facts = record["preflight"]["bookings"]["result"]
    assert facts == {"rows": 2, "columns": ["name", "amount"], "sums": {"amount": 0.00}}
    packed = record["steps"]["pack"]["tries"][0]["result"]
    assert packed["sha256"] == hashlib.sha256((tmp_path / "month.tar.gz").read_bytes()).hexdigest()
    assert packed["files"] == 1 and packed["bytes"] == len(CSV)
    assert record["circumstances"]["versions"]["runbook-files"] == "0.1.0"
    assert "bookings.csv\n" in (Path(record["journal"]).parent / "output.log").read_text()
    assert "    │ bookings.csv" in ended.err
    for command in (["show", "last"], ["validate", "month_end.yaml"], ["check", "month_end.yaml"]):
        assert program(*command, env=files).code == 0
    found = {
        item["what"]: item for item in program("doctor", "month_end.yaml", "--json", env=files).document["findings"]
    }
    assert found["kind csv"]["state"] == "ok" and found["kind csv"]["found"] == "a probe of runbook-files 0.1.0"
    assert found["kind archive"]["state"] == "ok"


def test_without_the_package_its_keys_are_unknown(program: Program, write: Write) -> None:
    write("small.yaml", HEAD + "preflight: {a: {csv: {path: x}}}\n")
    ended = program("validate", "small.yaml")
    assert ended.code == 5 and "preflight.a.csv: unknown key" in ended.err


def test_hatchling_makes_the_same_package(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "built")],
        cwd=EXAMPLE,
        check=True,
        capture_output=True,
    )
    (built,) = (tmp_path / "built").iterdir()
    mine = example_wheel(tmp_path)
    with zipfile.ZipFile(built) as theirs, zipfile.ZipFile(mine) as ours:
        for name in ours.namelist():
            if not name.endswith(("METADATA", "WHEEL")):
                assert theirs.read(name).strip() == ours.read(name).strip(), name
    assert built.name == mine.name


def test_its_own_tests_pass() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests")],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{EXAMPLE / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_a_state_may_be_measured_by_it(run_files: Callable[..., Ended]) -> None:
    ended = run_files(
        "state: {bookings: {csv: {path: out/bookings.csv}, select: \"{'rows': result.rows}\"}}\n"
        "expectations: {bookings.rows: {delta: 1}}\n"
        "steps: {add: {shell: 'echo fee,1 >> out/bookings.csv'}}\n"
    )
    assert ended.code == 0, ended.err
    assert ended.document["delta"] == {"bookings": {"rows": 1}}


def test_what_it_says_is_why(run_files: Callable[..., Ended]) -> None:
    ended = run_files(
        "preflight:\n"
        "  column: {csv: {path: out/bookings.csv, sums: [much]}, severity: warn}\n"
        "  miss: {csv: {path: out/bookings.csv}, expect: result.rows > 2, severity: warn}\n"
        "steps: {pack: {archive: {folder: out, to: x.tar.gz, at_most: 3 * 2}}}\n"
    )
    record = ended.document
    assert verdicts_of(record["preflight"]) == {"column": "unknown", "miss": "refuted"}
    assert record["preflight"]["column"]["because"] == "bookings.csv has no column 'much', but name, amount"
    assert record["steps"]["pack"]["because"] == f"out has {len(CSV)} bytes, more than 6"
    assert (record["run"]["verdict"], ended.code) == ("failed", 4)


LEVELS = {
    "9": ("passed", ""),
    "12": ("failed", "archive: level: 12 is greater than the maximum 9"),
    "'9'": ("failed", 'archive: level: "9" is text, not a whole number'),
}


@pytest.mark.parametrize("level", LEVELS)
def test_a_lone_hole_keeps_its_type_and_is_judged_when_it_is_filled(
    level: str, run_files: Callable[..., Ended]
) -> None:
    ended = run_files(
        "params: {level: {}, to: {type: string, default: x}}\n"
        'steps: {pack: {archive: {folder: out, to: "{{ params.to }}.tar.gz", '
        'level: "{{ params.level }}", at_most: 500.25 * 2}}}\n',
        "--json",
        "-p",
        f"level={level}",
    )
    step = ended.document["steps"]["pack"]
    assert (step["verdict"], step["because"]) == LEVELS[level]
    assert ("step.started" in kinds_of(ended.document)) is (level == "9")


def test_a_dry_run_asks_a_safe_probe_and_starts_nothing(run_files: Callable[..., Ended], tmp_path: Path) -> None:
    ended = run_files(
        "preflight: {a: {csv: {path: out/bookings.csv}, expect: result.rows == 2}}\n"
        "steps: {pack: {archive: {folder: out, to: x.tar.gz}}}\n",
        "--json",
        "--dry-run",
    )
    assert ended.code == 0, ended.err
    plan = {line["where"]: (line["state"], line["what"]) for line in ended.document["plan"]}
    assert plan["preflight.a"][0] == "evaluated" and plan["preflight.a"][1].startswith("passed")
    assert plan["steps.pack"] == ("would run", 'archive: {"folder": "out", "to": "x.tar.gz"}')
    assert not (tmp_path / "x.tar.gz").exists()


def test_a_rehearsal_may_have_it_stand_in(run_files: Callable[..., Ended], tmp_path: Path) -> None:
    body = "steps: {s: {command: [touch, ran], rehearse: {archive: {folder: out, to: x.tar.gz}}}}\n"
    assert run_files(body, "--rehearse").code == 0
    assert (tmp_path / "x.tar.gz").exists() and not (tmp_path / "ran").exists()


def test_the_schema_for_editors_has_it(files: dict[str, str], program: Program, write: Write, tmp_path: Path) -> None:
    ended = program("schema", env=files)
    schema = ended.document
    Draft202012Validator.check_schema(schema)
    judge = Draft202012Validator(schema)
    step = {"folder": "out", "to": "x.tar.gz", "level": "{{ params.level }}"}
    head: dict[str, Any] = {"runbook": 1, "name": "x"}
    assert judge.is_valid({**head, "steps": {"a": {"archive": step}}})
    assert judge.is_valid({**head, "steps": {"a": {"command": ["x"], "rehearse": {"archive": step}}}})
    assert judge.is_valid({**head, "state": {"a": {"csv": {"path": "x"}}}, "preflight": {"a": {"csv": {"path": "x"}}}})
    assert not judge.is_valid({**head, "steps": {"a": {"archive": {**step, "level": "high"}}}})
    assert not judge.is_valid({**head, "steps": {"a": {"csv": {"path": "x"}}}})
    assert program("schema").document == json.loads((ROOT / "schemas" / "runbook.schema.json").read_text())


# --- packages that do not behave --------------------------------------------------------------------------------------

ODD = """
import os, signal, sys, threading, time
from runbook.extend import Answer, CannotTell, Failed

NAME = "odd"
SCHEMA = {"type": "object", "additionalProperties": True}


def read(given, context):
    return globals()[given["do"]](given, context)


act = read


def raises(given, context):
    return {}["no such key"]


def exits(given, context):
    sys.exit("enough")


def vanishes(given, context):
    os._exit(7)


def dies(given, context):
    os.kill(os.getpid(), signal.SIGKILL)


def prints(given, context):
    print('{"run": "forged"}')
    sys.stderr.write("noise\\n")
    return {"printed": True}


def large(given, context):
    return {"text": "x" * (5 << 20)}


def circular(given, context):
    found = []
    found.append(found)
    return {"found": found}


def text(given, context):
    return "not a mapping"


def doubtful(given, context):
    return Answer({"n": 1}, trouble="only half of it was there", dropped=3)


def types(given, context):
    import datetime, decimal
    return {
        "seen": {name: type(value).__name__ for name, value in given.items()},
        "exact": decimal.Decimal("0.10"),
        "day": datetime.date(2025, 12, 10),
        "raw": b"ab",
        "many": list(range(1500)),
        "set": {1},
    }


def changes(given, context):
    given["list"].append("theirs")
    given["map"]["theirs"] = 1
    return {"list": given["list"]}


def context(given, context):
    try:
        context.environment["X"] = "1"
    except TypeError:
        refused = True
    return {
        "timeout": context.timeout,
        "folder": str(context.folder),
        "cwd": os.getcwd(),
        "urls": dict(context.urls),
        "WEB": context.environment.get("WEB"),
        "TOKEN": context.environment.get("TOKEN"),
        "RUN": context.environment.get("RUNBOOK_RUN_ID"),
        "refused": refused,
        "cancelled": context.cancelled(),
    }


def says(given, context):
    context.log("it is " + given["secret"])
    context.log("\\x1b[31mred")
    return {"secret": given["secret"], "length": len(given["secret"])}


def hangs(given, context):
    context.log("hanging")
    while True:
        time.sleep(0.01)


def heeds(given, context):
    context.log("going on")
    while not context.cancelled():
        time.sleep(0.01)
    open("tidied", "w").close()
    raise Failed("tidied up")


def thread(given, context):
    threading.Thread(target=time.sleep, args=[300]).start()
    return {"left": True}


def silent(given, context):
    raise CannotTell


def nothing(given, context):
    return None
"""


@pytest.fixture
def odd(tmp_path: Path) -> dict[str, str]:
    """A package with the probe and the step `odd`, which do what they are told."""
    groups = {"runbook.probes": {"odd": "odd"}, "runbook.steps": {"odd": "odd"}}
    return install(tmp_path / "site", "odd-kinds", "1.2", groups, odd=ODD)


@pytest.fixture
def run_odd(odd: dict[str, str], program: Program, write: Write) -> Callable[..., Ended]:
    def run(body: str, *arguments: str, **env: str) -> Ended:
        write("small.yaml", HEAD + body)
        ended = program("exec", "small.yaml", "--json", *arguments, env={**odd, **env})
        assert "Traceback" not in ended.err, ended.err
        return ended

    return run


FAULTS = {
    "raises": r"odd \(odd-kinds 1\.2\): KeyError: 'no such key' \(odd\.py:\d+\)",
    "exits": r"odd \(odd-kinds 1\.2\): SystemExit: enough \(odd\.py:\d+\)",
    "vanishes": r"odd \(odd-kinds 1\.2\): it ended without an answer: exit code 7",
    "dies": r"odd \(odd-kinds 1\.2\): it ended without an answer: killed by signal 9",
    "large": r"odd \(odd-kinds 1\.2\): its answer is larger than 4194304 bytes",
    "circular": r"odd \(odd-kinds 1\.2\): RecursionError: .*",
    "missing": r"odd \(odd-kinds 1\.2\): KeyError: 'missing' \(odd\.py:\d+\)",
    "silent": "it gives no reason",
}


def test_a_fault_makes_a_check_unknown_and_a_step_failed(run_odd: Callable[..., Ended]) -> None:
    checks = "".join(f"  {name}: {{odd: {{do: {name}}}, severity: warn}}\n" for name in FAULTS)
    steps = "".join(f"  s_{name}: {{odd: {{do: {name}}}}}\n" for name in ["true", *FAULTS][1:2])
    later = "".join(f"  s_{name}: {{odd: {{do: {name}}}}}\n" for name in [*list(FAULTS)[1:], "text"])
    ended = run_odd(f"preflight:\n{checks}steps:\n{steps}finally:\n{later}")
    record = ended.document
    for name, because in FAULTS.items():
        check, step = record["preflight"][name], record["steps"][f"s_{name}"]
        assert check["verdict"] == "unknown" and re.fullmatch(because, check["because"]), check
        assert step["verdict"] == "failed" and re.fullmatch(because, step["because"]), step
    assert record["steps"]["s_text"]["because"].endswith("it gives str, and facts are a mapping")
    assert (record["run"]["verdict"], ended.code) == ("failed", 4)


def test_what_it_prints_forges_nothing_and_what_it_leaves_holds_nothing_up(run_odd: Callable[..., Ended]) -> None:
    began = time.monotonic()
    ended = run_odd(
        "preflight:\n  quiet: {odd: {do: prints}, expect: result.printed}\n  left: {odd: {do: thread}}\n"
        "  half: {odd: {do: doubtful}, severity: warn}\n"
        "steps:\n  loud: {odd: {do: prints}, expect: result.printed}\n  none: {odd: {do: nothing}}\n"
    )
    assert ended.code == 0 and time.monotonic() - began < 30
    assert ended.document["run"]["runbook"] == "small"
    assert '    │ {"run": "forged"}' in ended.err and ended.err.count("forged") == 1
    half = ended.document["preflight"]["half"]
    assert (half["verdict"], half["because"]) == ("unknown", "only half of it was there")


def test_values_keep_their_types_and_nothing_of_ours_can_be_changed(run_odd: Callable[..., Ended]) -> None:
    ended = run_odd(
        "params: {list: {type: array, default: [1]}, map: {type: object, default: {a: 1}}, n: {type: number, default: 0.10}}\n"
        "preflight:\n"
        "  types:\n"
        '    odd: {do: types, int: "{{ 2 + 3 }}", text: "n {{ 2 }}", list: "{{ params.list }}", none: "{{ none }}", '
        'yes: "{{ 1 < 2 }}", number: "{{ params.n }}", plain: 7}\n'
        "    expect: result.many | length == 1500 and result.exact == 0.1 and result.day == '2025-12-10'\n"
        "  changes:\n"
        '    odd: {do: changes, list: "{{ params.list }}", map: "{{ params.map }}"}\n'
        "    expect: [\"result.list == [1, 'theirs']\", 'params.list == [1]', \"params.map == {'a': 1}\"]\n"
    )
    assert ended.code == 0, ended.err
    assert ended.document["preflight"]["types"]["result"]["seen"] == {
        "do": "str",
        "int": "int",
        "text": "str",
        "list": "list",
        "none": "NoneType",
        "yes": "bool",
        "number": "Decimal",
        "plain": "int",
    }


def test_what_it_is_given_to_work_with(run_odd: Callable[..., Ended], tmp_path: Path) -> None:
    ended = run_odd(
        "connections: {web: {type: http, env: WEB}}\nsecrets: {token: {env: TOKEN}}\n"
        "preflight: {a: {odd: {do: context}, timeout: 7s}}\n",
        WEB="http://127.0.0.1:9",
        TOKEN="kanari-4711",
    )
    assert ended.document["preflight"]["a"]["result"] == {
        "timeout": 7.0,
        "folder": str(tmp_path),
        "cwd": str(tmp_path),
        "urls": {"web": "http://127.0.0.1:9"},
        "WEB": "http://127.0.0.1:9",
        "TOKEN": None,
        "RUN": ended.document["run"]["id"],
        "refused": True,
        "cancelled": False,
    }


def test_a_secret_reaches_it_and_no_record(run_odd: Callable[..., Ended], tmp_path: Path) -> None:
    given = '{do: says, secret: "{{ secrets.token }}"}'
    body = f"secrets: {{token: {{env: TOKEN}}}}\npreflight: {{a: {{odd: {given}}}}}\nsteps: {{s: {{odd: {given}}}}}\n"
    ended = run_odd(body, TOKEN="kanari-4711")
    assert ended.code == 0, ended.err
    assert ended.document["preflight"]["a"]["result"] == {"secret": "***", "length": 11}
    assert "it is ***" in ended.err and "\x1b" not in ended.err
    for text in (ended.out, ended.err, *(p.read_text() for p in tmp_path.rglob("*.*l*") if p.is_file())):
        assert "kanari-4711" not in text


def living(name: str) -> list[psutil.Process]:
    """The processes in which the odd package does something now, of the tests in this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RUNBOOK_TEST_NAME") == name and "extension_host" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_the_time_limit_ends_it(run_odd: Callable[..., Ended], tmp_path: Path) -> None:
    began = time.monotonic()
    ended = run_odd(
        "preflight: {a: {odd: {do: hangs}, timeout: 500ms, severity: warn}}\n"
        "steps: {s: {odd: {do: heeds}, timeout: 2s}}\n",
        RUNBOOK_TEST_NAME=str(tmp_path),
    )
    assert time.monotonic() - began < 20 and ended.code == 4
    assert ended.document["preflight"]["a"]["because"] == "timed out after 0.5 s"
    assert ended.document["steps"]["s"]["because"] == "timed out after 2 s"
    assert (tmp_path / "tidied").exists() and not living(str(tmp_path))


def test_ctrl_c_ends_it(odd: dict[str, str], start: Callable[..., Background], write: Write, tmp_path: Path) -> None:
    write("small.yaml", HEAD + "steps: {s: {odd: {do: heeds}}}\n")
    background = start("exec", "small.yaml", "--json", env={**odd, "RUNBOOK_TEST_NAME": str(tmp_path)})
    background.reached("process.started")
    time.sleep(0.3)
    ended = background.end(signal.SIGINT)
    assert (ended.code, ended.document["steps"]["s"]["verdict"]) == (130, "cancelled")
    assert not living(str(tmp_path))


def test_what_a_dead_runner_left_of_it_is_ended(
    odd: dict[str, str], start: Callable[..., Background], program: Program, write: Write, tmp_path: Path
) -> None:
    write("small.yaml", HEAD + "steps: {s: {odd: {do: hangs}}}\n")
    background = start("exec", "small.yaml", env={**odd, "RUNBOOK_TEST_NAME": str(tmp_path)})
    background.reached("process.started")
    background.process.kill()
    background.process.wait()
    assert living(str(tmp_path))
    ended = program("recover", "--grace", "1", env=odd)
    assert ended.code == 0 and "lost" in ended.err and not living(str(tmp_path))


def test_a_dry_run_does_not_ask_a_probe_that_does_not_call_itself_safe(run_odd: Callable[..., Ended]) -> None:
    ended = run_odd(
        "preflight: {a: {odd: {do: raises}, expect: result.n > 1}}\nsteps: {s: {odd: {do: raises}}}\n", "--dry-run"
    )
    assert ended.code == 0, ended.err
    plan = {line["where"]: line for line in ended.document["plan"]}
    assert plan["preflight.a"]["state"] == "cannot know" and "not asked in a dry run" in plan["preflight.a"]["because"]
    assert plan["steps.s"]["state"] == "would run" and "odd-kinds 1.2" in plan["steps.s"]["because"]


def test_it_stands_in_the_audit(database: Database, odd: dict[str, str], program: Program, write: Write) -> None:
    write("small.yaml", HEAD + DB + "steps: {s: {odd: {do: prints}}}\n")
    env = {**odd, "DATABASE_URL": database.url}
    assert program("exec", "small.yaml", env=env).code == 0
    line = json.loads(database.value("SELECT line FROM runbook.events WHERE kind = 'step.ended'"))
    assert line["data"]["result"] == {"printed": True}
    assert program("audit", "verify", env=env).code == 0


# --- what is remembered -----------------------------------------------------------------------------------------------


def test_a_changed_package_is_looked_at_anew(tmp_path: Path, program: Program, write: Write) -> None:
    groups = {"runbook.probes": {"odd": "odd"}}
    site = tmp_path / "site"
    env = {**install(site, "odd-kinds", "1.2", groups, odd=ODD), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    write("small.yaml", HEAD + "preflight: {a: {odd: {do: prints}}}\n")

    def version() -> str | None:
        ended = program("exec", "small.yaml", "--json", env=env)
        found = ended.document["circumstances"].get("versions", {}).get("odd-kinds")
        return str(found) if ended.code == 0 else None

    assert (version(), version()) == ("1.2", "1.2")
    install(site, "odd-kinds", "1.3", groups, odd=ODD)
    assert version() == "1.3"
    strict = ODD.replace('"additionalProperties": True', '"additionalProperties": False')
    install(site, "odd-kinds", "1.3", groups, odd=strict)
    os.utime(site / "odd.py", (1, 1))  # Python's own cache of a module goes by its time
    ended = program("exec", "small.yaml", env=env)
    assert ended.code == 5 and "preflight.a.odd.do: unknown key" in ended.err
    for path in (site / "odd_kinds-1.3.dist-info", *site.glob("*.dist-info")):
        if path.exists():
            (path / "entry_points.txt").unlink()
    ended = program("exec", "small.yaml", env=env)
    assert ended.code == 5 and "preflight.a.odd: unknown key" in ended.err


def test_a_runbook_that_uses_none_looks_for_none() -> None:
    code = (
        "import sys\nfrom runbook.cli.main import main\nfrom runbook.language import kinds\n"
        "try:\n    main(['validate', 'runbooks/wf3001.yaml'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "sys.exit(kinds._offers.cache_info().misses)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_guides_package_works(tmp_path: Path, program: Program, write: Write) -> None:
    guide = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    (project,), (module,), (runbook,) = (
        re.findall(rf"```{kind}\n(.*?)```", guide, re.DOTALL) for kind in ("toml", "python", "yaml")
    )
    about = tomllib.loads(project)["project"]
    env = install(tmp_path / "site", about["name"], about["version"], about["entry-points"], runbook_ports=module)
    write("listening.yaml", runbook)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert program("exec", "listening.yaml", "-p", f"port={port}", env=env).code == 0
    assert program("exec", "listening.yaml", "-p", f"port={port}", env=env).code == 3
    assert [name for name in (*Context._fields, *extend.__all__) if not re.search(rf"`(raise )?{name}\b", guide)] == []
