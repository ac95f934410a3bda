"""`runbook repro`: the same text and params again, which circumstances differ, and whether every outcome is the same."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.helpers import ADD, DB, HEAD, ITEMS, STATE, Background, Site
from tests.conftest import ROOT, Database, Ended, Program

WAITING = "extracted_summary IS NULL AND job_description IS NOT NULL"
AWAY = "http://127.0.0.1:9"
SMALL = f"{HEAD}{DB}{STATE}expectations:\n  items.total: {{delta: 3}}\n{ADD}"
GONE = "postgresql://nobody@127.0.0.1:9/gone"


@pytest.fixture
def small(database: Database, program: Program, write: Callable[..., Path]) -> Callable[..., Ended]:
    """Runs `small.yaml`, or another text in it, on the test's own database."""
    database.run(ITEMS)

    def run(text: str = SMALL, *arguments: str, code: int = 0, **env: str) -> Ended:
        write("small.yaml", text)
        ended = program("exec", "small.yaml", "--json", *arguments, env={"DATABASE_URL": database.url, **env})
        assert ended.code == code, ended.err
        return ended

    return run


@pytest.fixture
def again(database: Database, program: Program) -> Callable[..., Ended]:
    """Repeats the last run on the test's own database, emptied."""

    def repeat(*arguments: str, keep: bool = False, **env: str) -> Ended:
        if not keep:
            database.run("TRUNCATE items")
        return program("repro", *(arguments or ("last",)), "--json", env={"DATABASE_URL": database.url, **env})

    return repeat


def differing(document: dict[str, Any], key: str = "outcomes") -> list[str]:
    return [item["what"] for item in document[key] if not item["same"]]


def around(document: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {item["what"]: (item["then"], item["now"]) for item in document["circumstances"]}


# --- WF3001 -----------------------------------------------------------------------------------------------------------


def test_wf3001_again_on_a_fresh_database_and_with_one_changed_posting(program: Program, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "runbooks", tmp_path / "runbooks")
    first = program("exec", "wf3001", "--json", env={"OLLAMA_HOST": AWAY})
    run_id = first.document["run"]["id"]
    ended = program("repro", run_id[:-2], "--json", env={"OLLAMA_HOST": AWAY})
    document = ended.document
    assert ended.code == 0, ended.err
    assert document["same"] and document["inputs_same"] and document["answer"] == "same inputs, same outputs"
    assert (
        "was new for the run; the repetition gets a new embedded one" in ended.err
        and "warning: connection" not in ended.err
    )
    assert document["repeats"] == run_id and document["circumstances"] == [] and document["problems"] == []
    record = document["run"]
    assert record["circumstances"]["repeats"] == run_id and record["notes"] == [f"repeats run {run_id}"]
    assert record["circumstances"]["made"] == ["db"] and Path(record["report"]).exists()
    assert {"run", "delta.postings.ihl", "expectations.postings.ihl", "steps.process"} <= {
        item["what"] for item in document["outcomes"]
    }
    assert "preflight.disk" not in {item["what"] for item in (*document["outcomes"][20:], *document["inputs"])}

    seed = tmp_path / "runbooks" / "wf3001" / "data.sql"
    waiting = f"posting_id = (SELECT min(posting_id) FROM postings WHERE {WAITING})"
    seed.write_text(f"{seed.read_text()}\nUPDATE postings SET job_description = NULL WHERE {waiting};\n")
    changed = program("repro", run_id, "--json", env={"OLLAMA_HOST": AWAY})
    document = changed.document
    assert changed.code == 1, changed.err
    assert not document["same"] and not document["inputs_same"]
    assert differing(document, "inputs") == ["preflight.pending.pending_summary"]
    assert {"delta.postings.summaries", "delta.postings.skills", "delta.postings.ihl"} <= set(differing(document))
    assert "run" not in differing(document), "it passes again: the prediction followed the input"
    assert document["answer"].startswith(
        "other inputs: preflight.pending.pending_summary 97 → 96; other outputs: delta.postings.summaries 97 → 96"
    )
    assert list(around(document)) == ["connection db"] and "seeded by scripts" in around(document)["connection db"][0]
    assert changed.err.index("warning: connection db") < changed.err.index("Preflight")


def test_wf3001_on_a_server_with_a_changed_posting(example: Database, program: Program, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "runbooks", tmp_path / "runbooks")
    example.run("CREATE TABLE kept AS SELECT * FROM postings")
    assert program("exec", "wf3001", env={"OLLAMA_HOST": AWAY, "DATABASE_URL": example.url}).code == 0
    example.run(
        "UPDATE postings p SET extracted_summary = k.extracted_summary, skill_keywords = k.skill_keywords,"
        " ihl_score = k.ihl_score, job_description = CASE WHEN p.posting_id ="
        f" (SELECT min(posting_id) FROM kept WHERE {WAITING}) THEN NULL ELSE k.job_description END"
        " FROM kept k WHERE k.posting_id = p.posting_id"
    )
    ended = program("repro", "--json", env={"OLLAMA_HOST": AWAY, "DATABASE_URL": example.url})
    assert ended.code == 1 and differing(ended.document, "inputs") == ["preflight.pending.pending_summary"]
    assert {"expectations.postings.summaries", "after.postings.summaries"} <= set(differing(ended.document))


# --- the same, or not -------------------------------------------------------------------------------------------------


def test_the_same_again(small: Callable[..., Ended], again: Callable[..., Ended]) -> None:
    first = small().document
    ended = again("last")
    assert ended.code == 0 and ended.document["answer"] == "same inputs, same outputs"
    assert ended.document["run"]["run"]["id"] != first["run"]["id"]
    assert "✓ delta.items.total" in ended.err and ended.err.splitlines()[-1] == "same inputs, same outputs"


def test_other_inputs_that_give_the_same_changes(small: Callable[..., Ended], again: Callable[..., Ended]) -> None:
    small()
    ended = again("last", keep=True)
    assert ended.code == 1
    assert differing(ended.document) == ["after.items.total"]
    assert ended.document["answer"] == "other inputs: before.items.total 0 → 3; other outputs: after.items.total 3 → 6"


def test_both_refuted_is_the_same(small: Callable[..., Ended], again: Callable[..., Ended]) -> None:
    small(SMALL.replace("delta: 3", "delta: 4"), code=1)
    ended = again()
    assert ended.code == 0 and ended.document["same"] and ended.document["run"]["run"]["verdict"] == "refuted"


ENDINGS = {
    "blocked": (3, "preflight:\n  room: {sql: SELECT count(*) FROM items, returns: value, expect: result > 5}\n"),
    "errored": (6, "preflight:\n  room: {sql: SELECT count(*) FROM nowhere, returns: value, expect: result > 5}\n"),
    "failed": (4, "finally:\n  last: {sql: SELECT 1/0}\n"),
}


@pytest.mark.parametrize("verdict", ENDINGS)
def test_what_ended_otherwise_can_end_so_again(
    verdict: str, small: Callable[..., Ended], again: Callable[..., Ended]
) -> None:
    code, more = ENDINGS[verdict]
    small(SMALL + more, code=code)
    ended = again()
    assert ended.code == 0 and ended.document["run"]["run"]["verdict"] == verdict
    assert f"ended {verdict}" in ended.err


def test_an_errored_repetition_of_one_that_passed_keeps_its_code(
    small: Callable[..., Ended], again: Callable[..., Ended], database: Database
) -> None:
    database.run("CREATE TABLE other (n integer)")
    small(SMALL + "postconditions:\n  there: {sql: SELECT count(*) FROM other, returns: value, expect: result == 0}\n")
    database.run("DROP TABLE other")
    ended = again()
    assert ended.code == 6 and differing(ended.document)[:2] == ["run", "postconditions.there"]


def test_a_judged_number_counts_and_other_evidence_does_not(
    small: Callable[..., Ended], again: Callable[..., Ended], database: Database
) -> None:
    database.run("CREATE TABLE other (n integer)")
    checks = (
        "postconditions:\n"
        "  judged: {sql: SELECT count(*) FROM other, returns: value, expect: result >= 0}\n"
        "  seen: {sql: SELECT count(*) FROM other, returns: value}\n"
        "  when: {sql: SELECT now()}\n"
        "  program: {command: [date, +%N], select: stdout.strip() | int, expect: result >= 0}\n"
    )
    small(SMALL + checks)
    assert again().code == 0
    database.run("INSERT INTO other VALUES (1)")
    ended = again()
    assert ended.code == 1 and differing(ended.document) == ["postconditions.judged"]
    told = {item["what"].split(".")[1] for item in ended.document["evidence"]}
    assert told == {"seen", "when", "program"}


def test_overrides_and_params_are_given_again(small: Callable[..., Ended], again: Callable[..., Ended]) -> None:
    text = SMALL.replace("(1, 3)", "(1, {{ params.n }})") + ENDINGS["blocked"][1] + "params: {n: {type: integer}}\n"
    small(text, "-p", "n=3", "--override", "room", "--reason", "I know", "--strict")
    ended = again()
    assert ended.code == 0, ended.err
    record = ended.document["run"]
    assert record["params"] == {"n": 3} and record["run"]["strict"]
    assert record["preflight"]["room"]["overridden"] == "I know"
    assert again("last", "-p", "n=4").code == 2


def test_a_rehearsal_is_repeated_as_one(small: Callable[..., Ended], again: Callable[..., Ended]) -> None:
    small(SMALL, "--rehearse")
    ended = again(keep=True)
    assert ended.code == 0, ended.err
    assert ended.document["run"]["run"]["rehearsal"] and "warning" not in ended.err
    assert ended.document["run"]["before"] == {"items": {"total": 0}}


def test_one_whose_runner_died_is_repeated(
    database: Database, start: Callable[..., Background], write: Callable[..., Path], again: Callable[..., Ended]
) -> None:
    database.run(ITEMS)
    slow = SMALL.replace("sql: INSERT", "shell: test -e go || sleep 60 #")
    write("small.yaml", slow.replace("delta: 3", "delta: 0"))
    background = start("exec", "small.yaml", env={"DATABASE_URL": database.url})
    background.reached("process.started")
    background.process.kill()
    background.process.wait()
    write("go", "")
    ended = again(*[path.name for path in background.folder.glob(".runbook/runs/*")])
    assert ended.code == 1 and "has not ended" in ended.err and "outcome unknown" in ended.err
    assert ended.document["run"]["run"]["verdict"] == "passed"


# --- circumstances ----------------------------------------------------------------------------------------------------


def test_the_recorded_text_is_run_whatever_the_file_says_by_now(
    small: Callable[..., Ended], again: Callable[..., Ended], write: Callable[..., Path], tmp_path: Path
) -> None:
    small()
    write("small.yaml", SMALL.replace("(1, 3)", "(1, 9)"))
    ended = again()
    assert ended.code == 0 and ended.document["run"]["delta"] == {"items": {"total": 3}}
    name = "small.yaml (the recorded text is run)"
    assert [*around(ended.document)] == [name]
    assert ended.err.index(f"warning: {name}: then sha256") < ended.err.index("run log")
    (tmp_path / "small.yaml").unlink()
    gone = again("last")
    assert gone.code == 0 and around(gone.document)[name][1] == "the file does not exist"


def test_a_file_that_the_runbook_reads_has_changed(
    small: Callable[..., Ended], again: Callable[..., Ended], write: Callable[..., Path], tmp_path: Path
) -> None:
    write("add.sql", "INSERT INTO items SELECT generate_series(1, 3)")
    small(SMALL.replace("sql: INSERT INTO items SELECT generate_series(1, 3)", "sql: {file: add.sql}"))
    write("add.sql", "INSERT INTO items SELECT generate_series(1, 2)")
    ended = again()
    assert ended.code == 1 and list(around(ended.document)) == ["file add.sql"]
    assert ended.document["answer"].startswith(
        "same inputs, other outputs: run passed → refuted, delta.items.total 3 → 2"
    )
    (tmp_path / "add.sql").unlink()
    gone = again()
    assert gone.code == 5 and "the file does not exist" in gone.document["problems"][0]["message"]


def test_another_version_of_a_package(small: Callable[..., Ended], again: Callable[..., Ended], tmp_path: Path) -> None:
    small()
    (tmp_path / "newer" / "rich-99.1.dist-info").mkdir(parents=True)
    ended = again(PYTHONPATH=f"{ROOT}:{tmp_path / 'newer'}")
    assert ended.code == 0
    assert [*around(ended.document)] == ["rich"] and around(ended.document)["rich"][1] == "99.1"
    assert ended.err.index("warning: rich: then") < ended.err.index("before items")


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


def test_another_commit_and_a_dirty_file(
    small: Callable[..., Ended], again: Callable[..., Ended], write: Callable[..., Path], tmp_path: Path
) -> None:
    write("small.yaml", SMALL)
    write("tool.py", "print(1)\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "small.yaml", "tool.py")
    git(tmp_path, "commit", "-qm", "one")
    small()
    write("tool.py", "print(2)\n")
    git(tmp_path, "commit", "-qam", "two")
    write("tool.py", "print(3)\n")
    ended = again()
    assert ended.err.index("warning: file tool.py: then as committed") < ended.err.index("before items")
    found = around(ended.document)
    assert set(found) == {"git commit", "file tool.py"}
    then, now = found["git commit"]
    assert then.endswith("(clean)") and "dirty: 1" in now and then[:40] != now[:40]
    assert found["file tool.py"][0] == "as committed" and found["file tool.py"][1].startswith("sha256 ")


def test_another_column_in_what_was_read(
    small: Callable[..., Ended], again: Callable[..., Ended], database: Database
) -> None:
    small()
    database.run("ALTER TABLE items ADD COLUMN note text")
    ended = again()
    assert ended.code == 0 and [*around(ended.document)] == ["schema of db: public.items"]
    assert "warning" not in ended.err, "it is known only afterwards"
    assert "\nCircumstances that differ\n  ! schema of db: public.items   " in ended.err


def test_another_model(small: Callable[..., Ended], again: Callable[..., Ended], site: Site) -> None:
    text = SMALL.replace("connections:\n", "connections:\n  ollama: {type: http, env: OLLAMA_HOST}\n")

    def serve(digest: str) -> None:
        site.put("/api/tags", {"models": [{"name": "llama3:8b", "digest": digest}]})

    serve("11" * 32)
    small(text, OLLAMA_HOST=site.url)
    serve("22" * 32)
    ended = again(OLLAMA_HOST=site.url)
    assert ended.code == 0
    assert around(ended.document) == {"model ollama: llama3:8b": ("11" * 32, "22" * 32)}


def test_another_operator_and_host_words(small: Callable[..., Ended], again: Callable[..., Ended]) -> None:
    small()
    ended = again("last", "--operator", "Bob", "--note", "for the review", TZ="Asia/Tokyo", LC_ALL="de_DE.UTF-8")
    assert set(around(ended.document)) == {"operator", "time zone", "locale"}
    assert around(ended.document)["time zone"][1] == "Asia/Tokyo"
    assert ended.document["run"]["notes"][0].endswith(": for the review")


# --- where it runs ----------------------------------------------------------------------------------------------------


def test_a_connection_that_leads_elsewhere_by_now_is_asked_about(
    small: Callable[..., Ended], again: Callable[..., Ended], example: Database
) -> None:
    small()
    example.run(ITEMS)
    refused = again(DATABASE_URL=example.url)
    assert refused.code == 2 and refused.document["run"]["exit_code"] == 2
    assert "--yes" in refused.err and "--database" in refused.err and "warning: connection db: then" in refused.err
    assert example.value("SELECT count(*) FROM items") == 0
    agreed = again("last", "--yes", DATABASE_URL=example.url)
    assert agreed.code == 0 and "connection db" in around(agreed.document)
    assert example.value("SELECT count(*) FROM items") == 3
    example.run("TRUNCATE items")
    chosen = again("last", "--database", example.url)
    assert chosen.code == 0 and chosen.document["circumstances"] == [], "the last one ran there too"


def test_a_protected_connection_asks_as_exec_does(small: Callable[..., Ended], again: Callable[..., Ended]) -> None:
    small(SMALL.replace("DATABASE_URL}", "DATABASE_URL, protected: true}"), "--yes")
    assert again().code == 2
    assert again("last", "--yes").code == 0


def test_a_fresh_database_needs_an_embedded_one(small: Callable[..., Ended], again: Callable[..., Ended]) -> None:
    small()
    ended = again("last", "--fresh")
    assert ended.code == 2 and "embedded" in ended.err


def test_a_server_that_is_away(small: Callable[..., Ended], again: Callable[..., Ended]) -> None:
    small()
    ended = again("last", "--database", f"db={GONE}")
    assert ended.code == 6 and ended.document["run"]["exit_code"] == 6


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_masked_text_is_refused(small: Callable[..., Ended], again: Callable[..., Ended]) -> None:
    small(f"# hunter2hunter2\nsecrets: {{token: {{env: TOKEN}}}}\n{SMALL}", TOKEN="hunter2hunter2")
    ended = again(TOKEN="hunter2hunter2")
    assert ended.code == 6 and "masks a part of the runbook" in ended.document["problems"][0]["message"]


def test_a_masked_param_is_refused(small: Callable[..., Ended], again: Callable[..., Ended]) -> None:
    text = f"secrets: {{token: {{env: TOKEN}}}}\nparams: {{word: {{type: string}}}}\n{SMALL}"
    small(text, "-p", "word=hunter2hunter2", TOKEN="hunter2hunter2")
    ended = again(TOKEN="hunter2hunter2")
    assert ended.code == 6 and "`word` holds ***" in ended.err


def test_a_run_that_is_not_there(again: Callable[..., Ended], small: Callable[..., Ended]) -> None:
    small()
    ended = again("2019")
    assert ended.code == 6 and "2019" in ended.document["problems"][0]["message"]


SLOW = SMALL.replace("sql: INSERT INTO items SELECT generate_series(1, 3)", "shell: test -e quick || sleep 60")


def test_the_lock_is_held_by_another_run(
    small: Callable[..., Ended],
    again: Callable[..., Ended],
    start: Callable[..., Background],
    database: Database,
    write: Callable[..., Path],
    tmp_path: Path,
) -> None:
    quick = write("quick", "")
    first = small(SLOW.replace("delta: 3", "delta: 0")).document["run"]["id"]
    quick.unlink()
    background = start("exec", "small.yaml", env={"DATABASE_URL": database.url})
    background.reached('"step.started"')
    ended = again(first, keep=True)
    assert ended.code == 7 and ended.document["problems"][0]["holder"]["run_id"] != first


def test_stopped_it_ends_as_cancelled(
    small: Callable[..., Ended], start: Callable[..., Background], database: Database, write: Callable[..., Path]
) -> None:
    quick = write("quick", "")
    first = small(SLOW.replace("delta: 3", "delta: 0")).document["run"]["id"]
    quick.unlink()
    background = start("repro", first, "--json", env={"DATABASE_URL": database.url})
    background.reached(f'"repeats": "{first}"')
    background.reached('"process.started"')
    ended = background.end(signal.SIGINT)
    assert ended.code == 130 and ended.document["run"]["run"]["verdict"] == "cancelled"
    assert "run" in differing(ended.document) and not ended.document["same"]


def test_a_project_that_was_moved(
    database: Database, program: Program, write: Callable[..., Path], tmp_path: Path
) -> None:
    database.run(ITEMS)
    env = {"DATABASE_URL": database.url}
    write("old/runbooks/small.yaml", SMALL)
    (tmp_path / "old" / ".runbook").mkdir()
    assert program("exec", "small", env=env, cwd=tmp_path / "old").code == 0
    database.run("TRUNCATE items")
    (tmp_path / "old").rename(tmp_path / "new")
    ended = program("repro", "--json", env=env, cwd=tmp_path / "new")
    assert ended.code == 0, ended.err
    assert "old/runbooks/small.yaml is not here: what the runbook reads is taken from" in ended.err
    assert ended.document["run"]["circumstances"]["file"] == str(tmp_path / "new" / "runbooks" / "small.yaml")
    (tmp_path / "new" / "runbooks" / "small.yaml").unlink()
    gone = program("repro", ended.document["repeats"], "--json", env=env, cwd=tmp_path / "new")
    assert gone.code == 6 and "this project has no small.yaml" in gone.document["problems"][0]["message"]
