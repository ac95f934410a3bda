"""What history and show make of odd questions, and of records that are damaged, pruned, forged or out of reach."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from runbook.operate import audits, finding
from runbook.operate.finding import History
from runbook.operate.runs import all_runs, open_runs, outline_of
from runbook.records.files import write_aside
from runbook.records.history import Asked
from runbook.records.journal import JournalError
from tests.acceptance.helpers import DB, HEAD, ITEMS, STATE
from tests.conftest import Database, Ended, Program

STEP = "steps: {go: {command: ['true']}}\n"
PARAMS = """params:
  n: {type: integer, default: 1}
  text: {type: string, default: x}
  items: {type: array, default: []}
  obj: {type: object, default: {}}
"""
Ask = Callable[..., Ended]


@pytest.fixture
def ask(database: Database, program: Program, write: Callable[..., Path]) -> Ask:
    """The program with the server at hand, and a runbook."""
    database.run(ITEMS)
    write("small.yaml", HEAD + PARAMS + DB + STATE + STEP)
    return lambda *arguments: program(*arguments, env={"DATABASE_URL": database.url})


def runs_in(ended: Ended) -> list[str]:
    assert ended.code == 0, ended.err
    return [run["id"] for run in ended.document["runs"]]


def forge(database: Database, sql: str) -> None:
    """Does to the audit what its owner can do."""
    with psycopg.connect(database.url.replace("runbook_owner@", "postgres@"), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(sql.encode())


# --- questions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("history", "--on", "7d"),
        ("history", "--on", "2026-11-23T00:00"),
        ("history", "--on", "20261123"),
        ("history", "--on", "2026-02-30"),
        ("history", "--since", "20261123"),
        ("history", "--html", ""),
        ("history", "--html", "/"),
        ("show", ""),
        ("show", "", "--html"),
    ],
)
def test_questions_that_are_none(program: Program, arguments: tuple[str, ...]) -> None:
    ended = program(*arguments)
    assert ended.code == 2, ended.err


@pytest.mark.parametrize(
    "arguments", [("--since", "999999w"), ("--until", "9999-12-31"), ("--on", "9999-12-31"), ("--until", "999999w")]
)
def test_times_beyond_the_calendar(ask: Ask, arguments: tuple[str, ...]) -> None:
    ask("exec", "small.yaml")
    found = runs_in(ask("history", "--json", *arguments))
    assert len(found) == (arguments in (("--since", "999999w"), ("--until", "9999-12-31")))


def test_params_of_several_types_in_one_question(ask: Ask, tmp_path: Path) -> None:
    ask("exec", "small.yaml", "-p", "n=3", "-p", "text='5'", "-p", "items=[1, 2]", "-p", 'obj={"a": 1}')
    ask("exec", "small.yaml", "-p", "n=3", "-p", "items=[2, 1, 1]")
    questions = (["n=3", "text=5"], ["items=[1,2]"], ['obj={"a": 1}'], ["text=5", "n=3", "items=[1, 2]"])
    newest, oldest = runs_in(ask("history", "--json"))
    for question in (*questions, ["n=3", "text=6"], ["n=3"]):
        wanted = [oldest] if question in questions else [newest, oldest] if question == ["n=3"] else []
        arguments = [word for item in question for word in ("-p", item)]
        assert runs_in(ask("history", "--json", *arguments)) == wanted, question
        assert runs_in(ask("history", "--json", "--verdict", "passed", *arguments)) == wanted, question
    (tmp_path / "small.yaml").rename(tmp_path / "gone.yaml")  # now the journals alone are asked
    (tmp_path / "here.yaml").write_text(HEAD + STEP)
    for question in questions:
        arguments = [word for item in question for word in ("-p", item)]
        assert runs_in(ask("history", "here.yaml", "--json", *arguments)) == [oldest], question


def test_both_sources_are_told(ask: Ask, write: Callable[..., Path]) -> None:
    write("off.yaml", "runbook: 1\nname: off\n" + STEP)
    ask("exec", "small.yaml")
    assert "journals" not in ask("history").err
    ask("exec", "off.yaml")
    ended = ask("history")
    assert "from the audit in" in ended.err and "the journals in" in ended.err
    assert len(ask("history", "--json").document["sources"]) == 2


# --- damage ---------------------------------------------------------------------------------------------------------


def damage(folder: Path) -> None:
    path = folder / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"seq": 2,', b'"seq": 2 ,', 1))


def test_one_damaged_journal_hides_nothing_else(ask: Ask, tmp_path: Path, write: Callable[..., Path]) -> None:
    write("off.yaml", HEAD + "audit: {enabled: false}\n" + STEP)
    ask("exec", "small.yaml")
    ask("exec", "off.yaml")
    in_audit, on_disk = (folder.name for folder in sorted((tmp_path / ".runbook" / "runs").iterdir()))
    log = ask("show", in_audit).out
    for name in (in_audit, on_disk):
        damage(tmp_path / ".runbook" / "runs" / name)
    for arguments in (["small"], ["--html", "page.html"]):
        ended = ask("history", *arguments)
        assert ended.code == 0 and "this line was changed" in ended.err
    assert (tmp_path / "page_runs" / f"{in_audit}.html").exists()
    shown = ask("show", in_audit)
    assert (shown.code, shown.out) == (0, log) and "this line was changed" in shown.err
    assert ask("show", on_disk).code == 6


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE runbook.events SET line = 'no json' WHERE seq = 2",
        "UPDATE runbook.events SET line = '[]' WHERE seq = 2",
        "UPDATE runbook.runs SET started_at = 'infinity'",
        "UPDATE runbook.runs SET params = '[1]'",
    ],
)
def test_a_forged_audit_is_no_fault_of_the_program(sql: str, ask: Ask, database: Database, tmp_path: Path) -> None:
    ask("exec", "small.yaml")
    (run_id,) = runs_in(ask("history", "--json"))
    forge(database, sql)
    shutil.rmtree(tmp_path / ".runbook")
    for arguments in (["small.yaml"], ["--json"], ["--html", "page.html"]):
        ended = ask("history", *arguments)
        assert ended.code == 0, ended.err
    assert runs_in(ask("history", "small.yaml", "--json")) == [run_id]
    ended = ask("show", run_id, "--database", database.url)
    assert "a fault in runbook" not in ended.err and ended.code == (6 if "events" in sql else 0)


def test_an_id_from_the_database_never_becomes_a_path(ask: Ask, database: Database, tmp_path: Path) -> None:
    ask("exec", "small.yaml")
    secret = tmp_path / "evil"
    secret.mkdir()
    (run_id,) = runs_in(ask("history", "--json"))
    shutil.copy(tmp_path / ".runbook" / "runs" / run_id / "journal.jsonl", secret)
    (secret / "output.log").write_text("SECRET")
    for table in ("runs", "events", "closings", "chain"):
        forge(database, f"UPDATE runbook.{table} SET run_id = '../../evil'")
    forge(database, f"UPDATE runbook.events SET line = replace(line, '{run_id}', '../../evil')")
    shutil.rmtree(tmp_path / ".runbook" / "runs" / run_id)
    ended = ask("history", "small.yaml", "--html", "a/b/page.html")
    assert ended.code == 0, ended.err
    assert {path.name for path in tmp_path.rglob("*.html")} == {"page.html"}
    assert "SECRET" not in (tmp_path / "a" / "b" / "page.html").read_text()
    ended = ask("audit", "verify", "--database", database.url)
    assert ended.code == 1 and "Traceback" not in ended.err


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users can reach too."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_folder_that_may_not_be_read(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, marks = shared / ".runbook" / "runs" / "20260101_000000-1-abcd", shared / ".runbook" / "open"
    run.mkdir(parents=True)
    marks.mkdir()
    (run / "journal.jsonl").touch()
    monkeypatch.chdir(shared)
    run.chmod(0)
    marks.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        assert all_runs() == [run]
        with pytest.raises(JournalError, match="Permission denied"):
            outline_of(run)
        with pytest.raises(JournalError, match="Permission denied"):
            open_runs(shared / ".runbook")
        with History({"": "embedded"}) as history:
            assert history.entries(Asked()) == [] and "Permission denied" in history.troubles[0]
            assert history.records([run.name]) == {}
    finally:
        os.seteuid(user)
        run.chmod(0o700)
        marks.chmod(0o700)


# --- size, waiting, pages -------------------------------------------------------------------------------------------


def test_many_runs_come_one_by_one(ask: Ask, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ask("exec", "small.yaml")
    forge(
        database,
        "INSERT INTO runbook.runs SELECT (jsonb_populate_record(r, jsonb_build_object('run_id', 'x' || n,"
        " 'started_at', r.started_at - n * interval '1 s'))).* FROM runbook.runs r, generate_series(1, 5000) n",
    )
    with History({"": database.url}) as history:
        found = history.stream(Asked())
        first = [next(found)["id"] for _ in range(3)]
        cursors = "SELECT count(*) FROM pg_cursors WHERE name = 'runbook_history'"
        (connection,) = history.audits.found.values()
        assert connection.execute(cursors).fetchone() == (1,)  # the rest is still in the server
        found.close()
        assert first[1:] == ["x1", "x2"] and history.count(Asked(limit=1)) == 5001
        assert connection.execute(cursors).fetchone() == (0,)
    ended = ask("history", "--limit", "0", "--json")
    assert len(ended.document["runs"]) == 5001 and list(ended.document) == ["runs", "sources", "problems"]
    assert len(list(csv.DictReader(io.StringIO(ask("history", "--limit", "0", "--csv").out)))) == 5001
    ended = ask("history", "--limit", "0", "--html", "page.html")
    assert ended.code == 0, ended.err
    assert "4501 more" in Path("page.html").read_text()


def test_a_locked_table_is_not_waited_for_without_end(
    ask: Ask, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask("exec", "small.yaml")
    monkeypatch.setattr(audits, "LOCK_SECONDS", 0.2)
    with psycopg.connect(database.url) as holder:
        holder.execute("LOCK TABLE runbook.runs")
        with History({"": database.url}) as history:
            assert len(history.entries(Asked())) == 1  # from its journal
            assert "lock timeout" in history.troubles[0] and "journals" in history.sources[0]


def test_an_audit_that_does_not_answer_in_time(ask: Ask, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ask("exec", "small.yaml")
    monkeypatch.setattr(finding, "STATEMENT_SECONDS", 7)
    with History({"": database.url}) as history:
        (connection,) = history.audits.found.values()
        assert connection.execute("SHOW statement_timeout").fetchone() == ("7s",)


def test_pruned_runs_stand_on_the_page(ask: Ask, database: Database, tmp_path: Path) -> None:
    for _ in range(2):
        ask("exec", "small.yaml")
    newest, oldest = runs_in(ask("history", "--json"))
    forge(database, f"DELETE FROM runbook.events WHERE run_id = '{oldest}'")
    shutil.rmtree(tmp_path / ".runbook" / "runs" / oldest)
    assert ask("history", "--html", "page.html").code == 0
    page = (tmp_path / "page.html").read_text()
    assert oldest in page and "Pruned runs" in page and f"{newest}.html" in page and f"{oldest}.html" not in page


def test_pages_are_as_open_as_the_umask_says(ask: Ask, tmp_path: Path) -> None:
    ask("exec", "small.yaml")
    (run_id,) = runs_in(ask("history", "--json"))
    before = os.umask(0o022)
    try:
        ask("history", "--html", "page.html")
        ask("show", "--html", "run.html")
        ask("show", "--html", ".runbook/pages/run.html")
    finally:
        os.umask(before)
    places = ("page.html", f"page_runs/{run_id}.html", "run.html", ".runbook/pages/run.html")
    assert [stat.S_IMODE((tmp_path / place).stat().st_mode) for place in places] == [0o644, 0o644, 0o644, 0o600]


def test_what_is_no_file_is_written_into_and_stays(ask: Ask, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_aside(pipe, [b"told"])
        assert os.read(reader, 10) == b"told" and stat.S_ISFIFO(pipe.stat().st_mode)
    finally:
        os.close(reader)
    ask("exec", "small.yaml")
    ended = ask("audit", "export", "-o", "/dev/stdout")
    assert ended.code == 0 and json.loads(ended.out.splitlines()[0])["table"] == "export"
