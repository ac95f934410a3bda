"""The doctor: what it finds of servers, roles, poolers, clocks, runs and runbooks as they are, and that it leaves them so."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from runbook.doctor import doctor
from runbook.language.load import load
from runbook.operate.examinations import worst
from tests.acceptance.helpers import DB, HEAD, Background, Site, until
from tests.conftest import Database, Ended, Program
from tests.disks import small_disk
from tests.operate.wires import Pooler, Wire

Write = Callable[..., Path]
READS = DB.replace("DATABASE_URL}", "DATABASE_URL, read_env: READ_URL}")
CHECK = "preflight:\n  one: {sql: SELECT 1, returns: value, expect: result == 1}\n"
HELD = """SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
WHERE locktype = 'advisory' AND d.datname = current_database()"""


Seen = dict[str, dict[str, str]]
Look = Callable[..., Seen]


def by_name(findings: list[dict[str, str]]) -> Seen:
    """Findings by what was looked at, which stands there once; what is not well has its cure."""
    named = {f"{item['subject']}: {item['what']}": item for item in findings}
    assert len(named) == len(findings), "something is shown twice"
    for item in findings:
        assert item["found"] and bool(item["cure"]) == (item["state"] != "ok"), item
    return named


def found(ended: Ended) -> Seen:
    return by_name(ended.document["findings"])


@pytest.fixture
def look(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Has a runbook of this body looked at, in this process; the findings by what was looked at."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PG") or name == "DATABASE_URL"]:
        monkeypatch.delenv(name)

    def look(body: str, state: str = "", params: dict[str, str] | None = None, **env: str) -> Seen:
        runbook = load(write("small.yaml", HEAD + body))
        with monkeypatch.context() as patched:
            for name, value in env.items():
                patched.setenv(name, value)
            findings = list(doctor(runbook, params=params))
        assert (worst(findings) == "fail") == (state == "fail"), findings
        return by_name([finding.as_data() for finding in findings])

    return look


def test_a_sound_server_with_a_role_that_only_reads_and_no_trace_is_left(
    look: Look, database: Database, tmp_path: Path
) -> None:
    objects = (
        "SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_namespace), (SELECT count(*) FROM pg_roles)"
    )
    before = database.rows(objects)
    seen = look(READS + CHECK, DATABASE_URL=database.url, READ_URL=database.read_url)
    assert [item for name, item in seen.items() if "connection" in name and item["state"] != "ok"] == []
    server = {
        name.removeprefix("connection db: "): item["found"] for name, item in seen.items() if "connection" in name
    }
    assert re.search(r"as runbook_owner; connected in \d+\.\d ms$", server["reachable"])
    assert "as runbook_reader" in server["reachable to read"]
    assert re.fullmatch(r"\d+\.\d ms \(median of 5\)", server["round trip"])
    assert re.fullmatch(r"the server's is 0\.0\d\d s (ahead of|behind) this host's \(± 0\.\d+ s\)", server["clock"])
    assert server["version"].startswith("PostgreSQL 1") and server["primary"] == "it takes writes"
    assert server["role"].startswith("runbook_owner may create schemas") and server["role of checks"].endswith(
        "only reads"
    )
    assert "12 ways" in server["read-only guard"] and "each was refused, none left a trace" in server["read-only guard"]
    assert server["lock"].startswith("a session lock was taken, seen from another session")
    assert server["lock's key"] == "`small` is free" and server["audit"] == "the schema `runbook` would be made"
    assert database.rows(objects) == before and database.value(HELD) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml"]


def test_a_superuser_is_told_of_with_the_cure(look: Look, database: Database) -> None:
    admin = database.url.replace("//runbook_owner@", "//postgres@")
    seen = look(DB + CHECK, DATABASE_URL=admin)["connection db: role"]
    assert (seen["state"], seen["found"]) == (
        "warn",
        "postgres is a superuser: it can leave the read-only guard of checks",
    )
    assert "name it in connections.db.read_env" in seen["cure"]
    cured = look(READS + CHECK, DATABASE_URL=admin, READ_URL=database.read_url)
    assert cured["connection db: role"]["state"] == cured["connection db: role of checks"]["state"] == "ok"
    worse = look(READS + CHECK, DATABASE_URL=database.url, READ_URL=admin)["connection db: role of checks"]
    assert worse["state"] == "warn" and "superuser" in worse["found"]


def test_a_reading_role_that_may_write_is_told_of(look: Look, database: Database) -> None:
    database.run("CREATE TABLE items (n integer); CREATE SCHEMA own; GRANT INSERT ON items TO runbook_reader;"
                 "GRANT CREATE ON SCHEMA own TO runbook_reader")  # fmt: skip
    seen = look(READS + CHECK, DATABASE_URL=database.url, READ_URL=database.read_url)["connection db: role of checks"]
    assert seen["state"] == "warn" and "give READ_URL a role" in seen["cure"]
    assert "may write to 1 table (public.items), create in own; only the guard" in seen["found"]


def test_a_role_that_may_write_nothing_cannot_keep_the_audit(look: Look, database: Database) -> None:
    seen = look(DB + CHECK, "fail", DATABASE_URL=database.read_url)
    assert seen["connection db: audit"]["state"] == "fail" and "audit schema" in seen["connection db: audit"]["cure"]
    assert seen["connection db: primary"]["state"] == "fail"
    assert "default_transaction_read_only is on" in seen["connection db: primary"]["found"]
    assert look(DB + "audit: {enabled: false}\n" + CHECK, "fail", DATABASE_URL=database.read_url).keys() == {
        name for name in seen if name != "connection db: audit"
    }


class Prompt(Pooler):
    """A pooler that sends what it has at once, and is closed when no client has a session any more."""

    def serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().serve(client)

    def close(self) -> None:
        until(lambda: len(self._free) == len(self._sessions))
        super().close()


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pooler_that_hands_sessions_around_is_found(mode: str, look: Look, database: Database) -> None:
    with closing(Prompt(database.url, mode, 3)) as pooler:
        seen = look(DB + CHECK, "fail", DATABASE_URL=pooler.url)
    lock = seen["connection db: lock"]
    assert lock["state"] == "fail" and "a pooler stands before this server" in lock["found"]
    assert lock["cure"].startswith("connect to PostgreSQL itself (often port 5432")
    assert seen["connection db: reachable"]["state"] == seen["connection db: version"]["state"] == "ok"
    assert seen["connection db: read-only guard"]["state"] == ("ok" if mode == "transaction" else "warn")
    assert database.value(HELD) == 0


def test_a_pooler_that_keeps_sessions_apart_is_well(look: Look, database: Database) -> None:
    with closing(Prompt(database.url, "session", 8)) as pooler:
        seen = look(DB + CHECK, DATABASE_URL=pooler.url)["connection db: lock"]
        assert database.value(HELD) == 0
    assert seen["state"] == "ok" and "through a pooler that keeps sessions apart" in seen["found"]


class Skewed(Wire):
    """A wire to a server whose clock is wrong: every time of day that it tells, in seconds, is another one."""

    def __init__(self, url: str, seconds: int) -> None:
        self._seconds = seconds
        super().__init__(url)

    def _pass(self, source: socket.socket, sink: socket.socket, pair: int) -> None:
        with suppress(OSError):
            while chunk := source.recv(65536):
                if source.family == socket.AF_UNIX:
                    chunk = re.sub(rb"\b1\d{9}(?=\.\d{6})", self._shifted, chunk)
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_RDWR)

    def _shifted(self, match: re.Match[bytes]) -> bytes:
        return b"%d" % (int(match[0]) + self._seconds)


@pytest.mark.parametrize(("seconds", "state", "told"), [(-30, "warn", "behind"), (90, "fail", "ahead of")])
def test_a_server_in_another_time_zone_with_a_skewed_clock(
    seconds: int, state: str, told: str, look: Look, database: Database
) -> None:
    name = database.value("SELECT current_database()")
    database.run(f"ALTER DATABASE {name} SET TimeZone = 'Asia/Kathmandu'")
    with closing(Skewed(database.url, seconds)) as wire:
        seen = look(DB + CHECK, state, DATABASE_URL=wire.url, TZ="Europe/Berlin")
    clock, zone = seen["connection db: clock"], seen["connection db: time zone"]
    assert clock["state"] == state and "NTP" in clock["cure"]
    assert re.match(rf"the server's is {abs(seconds) - 1}\.9\d\d|the server's is {abs(seconds)}\.0\d\d", clock["found"])
    assert f" s {told} this host's" in clock["found"]
    assert zone["state"] == "ok" and zone["found"].startswith("Asia/Kathmandu, this host's is Europe/Berlin")


def test_no_server_and_the_rest_is_looked_at_all_the_same(look: Look) -> None:
    url = "postgresql://etl:hunter2hunter2@127.0.0.1:1/none"
    seen = look(DB + CHECK, "fail", DATABASE_URL=url)
    (name,) = [name for name in seen if name.startswith("connection db")]
    assert seen[name]["state"] == "fail" and "refused" in seen[name]["found"] and "DATABASE_URL" in seen[name]["cure"]
    assert seen["runbook: file"]["state"] == seen["runbook: run log"]["state"] == "ok"
    nowhere = look(DB + CHECK, "fail")["connection db: server"]
    assert "nothing says where the server is" in nowhere["found"] and "set DATABASE_URL" in nowhere["cure"]


def test_a_server_that_takes_connections_and_says_nothing_is_waited_for_only_so_long(look: Look) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"postgresql://u@127.0.0.1:{mute.getsockname()[1]}/d?connect_timeout=2&sslmode=disable&gssencmode=disable"
        seen = look(DB + CHECK, "fail", DATABASE_URL=url)
    assert (
        seen["connection db: reachable"]["state"] == "fail" and "timeout" in seen["connection db: reachable"]["found"]
    )


def test_secrets_and_passwords_are_never_told(program: Program, write: Write, site: Site) -> None:
    secrets = "secrets: {token: {env: TOKEN}, pin: {env: PIN}, gone: {env: GONE}}\n"
    hosts = "connections:\n  db: {type: postgres, env: DATABASE_URL}\n  api: {type: http, env: API}\n"
    steps = "steps:\n  call: {http: {connection: api, get: /x}}\n  run: {command: [hunter2hunter2]}\n"
    write("small.yaml", HEAD + secrets + hosts + steps)
    env = {"TOKEN": "hunter2hunter2", "PIN": "123", "API": site.url.replace("//", "//u:opensesame@")}
    env["DATABASE_URL"] = "postgresql://etl:swordfish@127.0.0.1:1/swordfish"
    ended = program("doctor", "small.yaml", "--json", env=env)
    seen = found(ended)
    states = {name: item["state"] for name, item in seen.items() if "secret" in name}
    assert states == {"runbook: secret token": "ok", "runbook: secret pin": "fail", "runbook: secret gone": "fail"}
    assert seen["connection api: reachable"]["state"] == "ok"
    assert "export GONE=" in seen["runbook: secret gone"]["cure"] and "123" not in ended.out
    for word in ("hunter2", "swordfish", "opensesame"):
        assert word not in ended.out + ended.err
    assert "program ***" in ended.err


def test_programs_scripts_and_places_that_are_not_there(look: Look, write: Write) -> None:
    write("logs", "a file where a folder should be")
    body = """steps:
  load: {command: [no-such-program, "--all"]}
  again: {command: [no-such-program]}
  script: {command: [python3, tools/load.py]}
  there: {command: [sh, -c, "true"]}
  shell: {shell: "echo x"}
  chosen: {command: ["{{ params.program }}"]}
params:
  program: {type: string}
report: {path: logs/x.md}
"""
    seen = look(body, "fail")
    missing = seen["runbook: program no-such-program"]
    assert missing["state"] == "fail" and missing["found"].startswith("steps.load, steps.again: ")
    assert "PATH" in missing["cure"]
    assert seen["runbook: script tools/load.py"]["state"] == "warn"
    assert seen["runbook: program sh"]["found"] == "for steps.there"
    assert seen["runbook: program"]["found"].startswith("steps.chosen: could not tell")
    assert seen["runbook: params"]["state"] == "warn" and "-p program=…" in seen["runbook: params"]["cure"]
    assert seen["runbook: run log"]["state"] == "fail" and "is no folder" in seen["runbook: run log"]["found"]
    given = look(body, "fail", {"program": "\x1b[31mrm"})
    assert r"runbook: program \x1b[31mrm" in given and "runbook: program" not in given


# --- models -------------------------------------------------------------------------------------------------------

OLLAMA = """connections:
  ollama: {type: http, env: OLLAMA_HOST}
preflight:
  loaded:
    http: {connection: ollama, get: /api/ps, select: json.models | map(attribute='name') | list}
    expect: "'llama3.2:latest' in result"
    severity: SEVERITY
    message: load it first
steps:
  ask: {http: {connection: ollama, post: /api/generate, json: {model: "{{ params.model }}", prompt: hi}}}
params:
  model: {type: string, default: qwen3}
"""


@pytest.mark.parametrize("severity", ["warn", "error"])
def test_models_that_are_not_there(severity: str, look: Look, site: Site) -> None:
    site.put("/api/version", {"version": "0.12.3"})
    site.put("/api/tags", {"models": [{"name": "llama3.2:latest"}, {"name": "phi4:14b"}]})
    site.put("/api/ps", {"models": [{"name": "phi4:14b"}]})
    seen = look(OLLAMA.replace("SEVERITY", severity), "fail", OLLAMA_HOST=site.url)
    model, check = seen["connection ollama: model qwen3"], seen["connection ollama: preflight.loaded"]
    assert (
        model["state"] == "fail" and "steps.ask asks for it" in model["found"] and model["cure"] == "ollama pull qwen3"
    )
    assert check["state"] == {"warn": "warn", "error": "fail"}[severity] and check["cure"] == "load it first"
    assert check["found"].startswith("refuted: ")
    told = seen["connection ollama: ollama"]["found"]
    assert told == "version 0.12.3; 2 models: llama3.2:latest, phi4:14b; loaded: phi4:14b"
    site.put("/api/ps", {"models": [{"name": "llama3.2:latest"}]})
    site.put("/api/tags", {"models": [{"name": "qwen3:latest"}]})
    well = look(OLLAMA.replace("SEVERITY", severity), OLLAMA_HOST=site.url)
    assert (
        well["connection ollama: model qwen3"]["state"] == well["connection ollama: preflight.loaded"]["state"] == "ok"
    )
    assert {asked.method for asked in site.asked} == {"GET", "HEAD"}


# --- the audit ----------------------------------------------------------------------------------------------------


@pytest.fixture
def ran(database: Database, program: Program, write: Write) -> Database:
    """A database with the audit of two runs."""
    write("small.yaml", HEAD + DB + CHECK)
    for _ in range(2):
        assert program("exec", "small.yaml", env={"DATABASE_URL": database.url}).code == 0
    return database


def test_an_audit_that_is_sound_and_one_that_is_not(look: Look, ran: Database) -> None:
    seen = look(DB + CHECK, DATABASE_URL=ran.url)
    told = {name: seen[f"connection db: {name}"] for name in ("audit", "triggers", "chain", "leases")}
    assert {item["state"] for item in told.values()} == {"ok"}
    assert "version 3" in told["audit"]["found"] and "the newest 4 entries" in told["chain"]["found"]
    ran.run("ALTER TABLE runbook.chain DISABLE TRIGGER append_only")
    seen = look(DB + CHECK, "fail", DATABASE_URL=ran.url)
    assert "chain: append_only" in seen["connection db: triggers"]["found"]
    ran.run("UPDATE runbook.chain SET line = replace(line, 'small', 'large') WHERE number = 1")
    seen = look(DB + CHECK, "fail", DATABASE_URL=ran.url)
    assert "entry 1 was changed" in seen["connection db: chain"]["found"]
    assert "audit verify" in seen["connection db: chain"]["cure"]


# --- runs that were left ------------------------------------------------------------------------------------------


@pytest.fixture
def lost(database: Database, write: Write, start: Callable[..., Background]) -> Iterator[str]:
    """A run whose runner was killed in the middle of a step that sleeps on: its id."""
    write("runbooks/small.yaml", HEAD + DB + "steps:\n  work: {shell: sleep 300}\n")
    background = start("exec", "small", env={"DATABASE_URL": database.url})
    background.reached("process.started")
    background.process.kill()
    background.process.wait()
    run = next(background.folder.glob(".runbook/runs/*"))
    yield run.name
    for line in (run / "journal.jsonl").read_text().splitlines():
        for pid in re.findall(r'"kind": "process.started".*?"pid": (\d+)', line):
            with pytest.MonkeyPatch.context():
                try:
                    os.killpg(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    continue


def test_what_a_killed_run_left_is_found_and_left_as_it_is(
    lost: str, database: Database, program: Program, tmp_path: Path, look: Look
) -> None:
    place = tmp_path / ".runbook"
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    leases = database.rows("SELECT * FROM runbook.leases")
    ended = program("doctor", "--json", env={"DATABASE_URL": database.url})
    assert ended.code == 0, ended.err
    seen = found(ended)
    assert seen["project: lost runs"]["state"] == "warn" and seen["project: lost runs"]["cure"] == "runbook recover"
    assert seen["project: lost runs"]["found"] == f"{lost} (small)"
    left = seen["project: processes"]
    assert left["state"] == "warn" and f"of run {lost}: pid " in left["found"] and "(sleep)" in left["found"]
    assert left["cure"] == f"runbook recover {lost}"
    assert (
        seen["runbooks: small"]["state"] == "ok" and "small.yaml: 0 checks, 1 step" in seen["runbooks: small"]["found"]
    )
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    database.run("UPDATE runbook.leases SET heartbeat = heartbeat - interval '1 minute'")
    dead = look(DB + CHECK, DATABASE_URL=database.url)["connection db: leases"]
    assert dead["state"] == "warn" and f"run {lost} on {socket.gethostname()} (lock `small`)" in dead["found"]
    assert dead["cure"].endswith(f"runbook recover {lost}")
    assert [row[:3] for row in database.rows("SELECT * FROM runbook.leases")] == [row[:3] for row in leases]


def test_a_run_that_goes_on_is_no_fault_and_its_lock_is_told(
    database: Database, write: Write, start: Callable[..., Background], program: Program
) -> None:
    write("small.yaml", HEAD + DB + "steps:\n  work: {shell: sleep 300}\n")
    background = start("exec", "small.yaml", env={"DATABASE_URL": database.url})
    background.reached("process.started")
    run = next(background.folder.glob(".runbook/runs/*")).name
    seen = found(program("doctor", "--json"))
    assert seen["project: runs going on"]["found"] == f"{run} (small)"
    assert seen["project: processes"]["state"] == "ok"
    database.run("UPDATE runbook.leases SET heartbeat = heartbeat - interval '1 hour'")
    seen = found(program("doctor", "small.yaml", "--json", env={"DATABASE_URL": database.url}))
    assert seen["connection db: leases"]["state"] == "ok"
    held = seen["connection db: lock's key"]
    assert held["state"] == "warn" and f"held by run {run}" in held["found"] and f"runbook watch {run}" in held["cure"]
    background.end(signal.SIGINT)


def test_copies_that_killed_rehearsals_left(look: Look, database: Database) -> None:
    name = f"runbook_copy_{os.urandom(6).hex()}"
    database.run(f"CREATE DATABASE {name}")
    try:
        database.run(f"COMMENT ON DATABASE {name} IS 'runbook: throw-away copy of x for run y, made at z'")
        seen = look(DB + CHECK, DATABASE_URL=database.url)["connection db: copies"]
        assert seen["state"] == "warn" and name in seen["found"] and "DROP DATABASE" in seen["cure"]
        assert database.value(f"SELECT count(*) FROM pg_database WHERE datname = '{name}'") == 1
    finally:
        database.run(f"DROP DATABASE {name}")


# --- the project and the command line -----------------------------------------------------------------------------


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    with small_disk(tmp_path / "disk") as folder:
        yield folder


def test_a_folder_that_is_full_and_then_read_only(narrow: Path, program: Program) -> None:
    (narrow / ".runbook").mkdir(mode=0o770)
    (narrow / ".runbook").chmod(0o777)
    ended = program("doctor", "--json", cwd=narrow)
    seen = found(ended)
    assert (
        ended.code == 6
        and seen["project: disk"]["state"] == "fail"
        and "runbook prune" in seen["project: disk"]["cure"]
    )
    assert seen["project: folder"]["state"] == "warn" and "chmod go-w" in seen["project: folder"]["cure"]
    subprocess.run(["mount", "-o", "remount,ro", narrow], check=True)
    seen = found(program("doctor", "--json", cwd=narrow))
    assert seen["project: folder"]["state"] == "fail" and "may not write there" in seen["project: folder"]["found"]


def test_the_account_is_grouped_and_a_runbook_that_cannot_be_read_is_named(program: Program, write: Write) -> None:
    write("runbooks/good.yaml", HEAD + CHECK.replace("one: {sql: SELECT 1, returns: value", "one: {command: ['true']"))
    write("runbooks/bad.yaml", HEAD + "stepz: {}\n")
    ended = program("doctor")
    assert ended.code == 6 and ended.out == ""
    headings = [line for line in ended.err.splitlines() if line and not line.startswith(" ")]
    assert headings[:-1] == ["machine", "project", "embedded PostgreSQL", "runbooks"]
    assert re.fullmatch(r"\d+ ok, (\d+ warn, )?1 fail", headings[-1])
    assert re.search(r"^  fail  bad +1 problem; runbooks/bad.yaml:3: ", ended.err, re.MULTILINE)
    assert re.search(r"^ +cure: runbook validate runbooks/bad.yaml$", ended.err, re.MULTILINE)
    for name in (
        "python",
        "packages",
        "memory",
        "clock",
        "locale",
        "git",
        "logout",
        "folder",
        "disk",
        "runs",
        "server",
    ):
        assert re.search(rf"^  (ok  |warn)  {name} ", ended.err, re.MULTILINE), name
    assert "\x1b" not in ended.err


def test_a_file_that_is_invalid_is_told_as_validate_does(program: Program, write: Write) -> None:
    write("bad.yaml", HEAD + "stepz: {}\n")
    ended = program("doctor", "bad.yaml", "--json")
    assert (ended.code, ended.document["findings"], ended.document["worst"]) == (5, [], "fail")
    assert ended.document["problems"] == program("validate", "bad.yaml", "--json").document["problems"]
    write("good.yaml", HEAD + "params:\n  n: {type: integer, default: 1}\n" + CHECK + DB)
    wrong = program("doctor", "good.yaml", "-p", "n=x", "--json")
    assert wrong.code == 5 and wrong.document["problems"][0]["where"] == "params.n"
    assert program("doctor", "-p", "n=1").code == 2


def test_a_database_can_be_looked_at_without_a_runbook(program: Program, database: Database) -> None:
    ended = program("doctor", "--json", "--database", database.url)
    assert ended.code == 0, ended.err
    assert found(ended)["connection: lock"]["state"] == "ok"


def test_a_private_server_is_not_made_but_one_that_is_there_is_looked_at(program: Program, write: Write) -> None:
    body = DB.replace("DATABASE_URL}", "DATABASE_URL, embedded: []}") + CHECK
    write("small.yaml", HEAD + body)
    ended = program("doctor", "small.yaml", "--json")
    assert ended.code == 0 and not Path(".runbook").exists()
    assert "a run would make it in" in found(ended)["connection db: embedded"]["found"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that a server's account can reach."""
    folder = Path(tempfile.mkdtemp(prefix="runbook-doctor-"))
    folder.chmod(0o711)
    yield folder
    until(lambda: not list(folder.rglob("postmaster.pid")))
    shutil.rmtree(folder)


def test_a_private_server_that_is_there_is_started_and_looked_at(program: Program, open_folder: Path) -> None:
    body = DB.replace("DATABASE_URL}", "DATABASE_URL, embedded: []}") + CHECK
    (open_folder / "small.yaml").write_text(HEAD + body)
    assert program("exec", "small.yaml", cwd=open_folder).code == 0
    seen = found(program("doctor", "small.yaml", "--json", cwd=open_folder))
    assert [item for name, item in seen.items() if "connection" in name and item["state"] != "ok"] == []
    assert "has this runbook's database" in seen["connection db: embedded"]["found"]
    assert seen["connection db: role of checks"]["found"] == "runbook_reader only reads"
    assert "the newest 2 entries" in seen["connection db: chain"]["found"]
    project = found(program("doctor", "--json", cwd=open_folder))
    assert "runs, with 1 database" in project["embedded PostgreSQL: server"]["found"]
    assert project["project: run folders"]["found"].startswith("1 run in ")


def test_a_runbook_without_a_server_has_its_lock_in_a_file(look: Look, tmp_path: Path) -> None:
    body = "steps: {s: {command: ['true']}}\n"
    well = look(body, XDG_STATE_HOME=str(tmp_path / "state"))["runbook: lock"]
    assert well["state"] == "ok" and "`small` is free" in well["found"] and not (tmp_path / "state").exists()
    (tmp_path / "file").touch()
    assert look(body, "fail", XDG_STATE_HOME=str(tmp_path / "file"))["runbook: lock"]["state"] == "fail"


def test_a_role_that_may_not_look_into_the_audit(look: Look, ran: Database) -> None:
    stranger = f"stranger_{os.urandom(4).hex()}"
    admin = Database(ran.url.replace("//runbook_owner@", "//postgres@"), "")
    admin.run(f"CREATE ROLE {stranger} LOGIN")
    try:
        seen = look(DB + CHECK, "fail", DATABASE_URL=ran.url.replace("//runbook_owner@", f"//{stranger}@"))
        audit = seen["connection db: audit"]
        assert audit["state"] == "fail" and "GRANT runbook_append" in audit["cure"]
        assert seen["connection db: role"]["found"] == f"{stranger} may do nothing beyond its grants"
    finally:
        admin.run(f"DROP ROLE {stranger}")


def test_the_programs_of_notifications_are_looked_for(look: Look) -> None:
    seen = look("steps: {s: {command: ['true']}}\nnotify: {tell: {command: [no-such-program]}}\n", "fail")
    assert seen["runbook: program no-such-program"]["state"] == "fail"
