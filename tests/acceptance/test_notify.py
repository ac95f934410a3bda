"""`notify:`: who is told of a run's end, by requests and commands that are really sent; and what becomes of it is recorded."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from runbook.language.values import dumps
from runbook.operate.cancel import Cancellation
from runbook.records.journal import read_journal
from tests.acceptance.helpers import DB, HEAD, ITEMS, Background, Run, Site, kinds_of, lines_of, log_of, until
from tests.conftest import ROOT, Database, Program

Write = Callable[..., Path]
SCHEMA = Draft202012Validator(json.loads((ROOT / "schemas" / "run.schema.json").read_text()))
WEB = "connections:\n  web: {type: http, env: WEB}\n"
HOOK = "notify:\n  ops: {on: any, http: {post: /hook}}\n"
TELL = "notify:\n  ops: {on: any, command: [sh, -c, 'cat > told.json']}\n"


@pytest.fixture
def tell(run: Run, site: Site, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a small runbook that knows the server on loopback, whose /hook takes what comes."""
    monkeypatch.setenv("WEB", site.url)
    site.put("/hook", b"")

    def tell(body: str, *arguments: Any, head: str = HEAD + WEB, **given: Any) -> dict[str, Any]:
        return run(body, *arguments, head=head, **given)

    return tell


def outcome(record: dict[str, Any], name: str = "ops") -> tuple[str, str]:
    """What became of one notification."""
    (found,) = [item for item in record["notifications"] if item["name"] == name]
    return found["status"], found["because"]


# --- when -------------------------------------------------------------------------------------------------------------

ENDINGS = {
    "passed": "steps: {a: {command: ['true']}}\n",
    "refuted": "postconditions: {a: {expect: 1 > 2}}\nsteps: {a: {command: ['true']}}\n",
    "blocked": "preflight: {a: {expect: 1 > 2}}\n",
    "failed": "steps: {a: {command: ['false']}}\n",
    "errored": "preflight: {a: {command: ['false'], expect: result == ''}}\n",
}


@pytest.mark.parametrize("verdict", ENDINGS)
def test_every_verdict_is_told_where_any_is_asked_for_and_all_but_passed_by_default(
    verdict: str, tell: Run, site: Site
) -> None:
    record = tell(f"{ENDINGS[verdict]}{HOOK}  usual: {{http: {{post: /hook}}}}\n")
    assert record["run"]["verdict"] == verdict
    names = [item["name"] for item in record["notifications"]]
    assert names == (["ops"] if verdict == "passed" else ["ops", "usual"])
    assert {item["status"] for item in record["notifications"]} == {"sent"} and len(site.asked) == len(names)
    assert [json.loads(asked.body)["run"]["verdict"] for asked in site.asked] == [verdict] * len(names)


def test_only_the_verdicts_that_are_named_are_told(tell: Run, site: Site) -> None:
    notify = "notify:\n  a: {on: [failed, lost], http: {post: /hook}}\n  b: {on: passed, http: {post: /hook}}\n"
    assert [item["name"] for item in tell(ENDINGS["failed"] + notify)["notifications"]] == ["a"]
    assert [item["name"] for item in tell(ENDINGS["passed"] + notify)["notifications"]] == ["b"]
    assert tell(ENDINGS["blocked"] + notify)["notifications"] == []


def test_when_decides_over_the_last_names(tell: Run, site: Site) -> None:
    notify = (
        "notify:\n  a: {on: any, when: run.exit_code == 0 and params.n == 1, http: {post: /hook}}\n"
        "  b: {on: any, when: steps.a.stdout == '', http: {post: /hook}}\n"
        "  c: {on: any, when: run.verdict == 'failed' and steps.a.exit_code == 1, http: {post: /hook}}\n"
        "params: {n: {type: integer, default: 1}}\n"
    )
    record = tell(ENDINGS["failed"] + notify)
    status, because = outcome(record, "a")
    assert status == "skipped" and "`when` is false" in because and "run.exit_code = 4" in because
    assert outcome(record, "b")[0] == "not sent" and "in no record" in outcome(record, "b")[1]
    assert outcome(record, "c") == ("sent", "") and len(site.asked) == 1


def test_a_cancelled_run_is_told(site: Site, start: Callable[..., Background], write: Write) -> None:
    site.put("/hook", b"")
    write("small.yaml", f"{HEAD}{WEB}steps: {{a: {{command: [sleep, '300']}}}}\n{HOOK}")
    background = start("exec", "small.yaml", "--json", env={"WEB": site.url})
    background.reached("process.started")
    ended = background.end(signal.SIGINT)
    assert (ended.code, outcome(ended.document)) == (130, ("sent", ""))
    assert json.loads(site.asked[0].body)["run"]["verdict"] == "cancelled"


def test_a_request_to_end_that_comes_last_of_all_does_not_keep_it_back(
    site: Site, start: Callable[..., Background], write: Write
) -> None:
    site.put("/hook", b"")
    write("small.yaml", f"{HEAD}{WEB}{ENDINGS['failed']}finally: {{z: {{command: [sleep, '300']}}}}\n{HOOK}")
    background = start("exec", "small.yaml", "--json", env={"WEB": site.url})
    background.reached('"process.started", "data": {"step": "z"')
    ended = background.end(signal.SIGINT)
    assert outcome(ended.document) == ("sent", ""), ended.err


# --- what -------------------------------------------------------------------------------------------------------------


def test_the_closing_record_is_told_after_the_run_is_closed_and_its_run_log_is_written(tell: Run, site: Site) -> None:
    record = tell(ENDINGS["failed"] + HOOK)
    (asked,) = site.asked
    told = json.loads(asked.body)
    SCHEMA.validate(told)
    assert asked.method == "POST" and asked.headers["Content-Type"] == "application/json"
    assert "declared" not in told and told["report"] == record["report"] and Path(told["report"]).is_file()
    assert told["run"]["audit"] == "disabled" and told["steps"]["a"]["exit_code"] == 1
    assert kinds_of(record)[-3:] == ["audit.closed", "report.written", "notification.sent"]
    closed = {key: value for key, value in record.items() if key != "declared"}
    assert told == json.loads(dumps({**closed, "notifications": []}))
    assert "notif" not in log_of(record)


def test_a_body_of_ones_own_may_name_the_end_and_the_run_log(tell: Run, site: Site) -> None:
    text = "{{ runbook.name }} {{ run.verdict }}: {{ run.because }} ({{ run.report }})"
    record = tell(
        ENDINGS["failed"]
        + f"notify:\n  a: {{http: {{post: /hook, json: {{text: '{text}', code: '{{{{ run.exit_code }}}}'}}}}}}\n"
        + "  b: {http: {put: /hook, body: 'over: {{ run.verdict }}', headers: {X-Kind: '{{ run.outcome }}'}}}\n"
    )
    first, second = site.asked
    assert json.loads(first.body) == {
        "text": f"small failed: steps.a: exit code 1 ({record['report']})",
        "code": 4,
    }
    assert (second.method, second.body, second.headers["X-Kind"]) == ("PUT", "over: failed", "failed")


def test_a_command_gets_the_closing_record_on_its_standard_input(run: Run, tmp_path: Path) -> None:
    record = run(ENDINGS["failed"] + TELL)
    told = json.loads((tmp_path / "told.json").read_text())
    SCHEMA.validate(told)
    assert told["run"] == json.loads(dumps(record["run"])) and outcome(record) == ("sent", "")


SECRET = "kanari-4711-geheim"
SECRETS = f"""secrets: {{token: {{env: TOKEN}}, hook: {{env: HOOK}}}}
connections: {{chat: {{type: http, env: HOOK}}}}
steps: {{a: {{shell: 'echo said {SECRET}; exit 1'}}}}
notify:
  ops: {{http: {{post: /x, auth: {{bearer: secrets.token}}, headers: {{X-Key: "{{{{ secrets.token }}}}"}}}}}}
  bad: {{http: {{post: ""}}}}
  mail: {{command: [sh, -c, 'echo $KEY >&2; echo $KEY > key; exit 3'], env: {{KEY: "{{{{ secrets.token }}}}"}}}}
"""


def test_secrets_reach_who_is_told_and_no_record(site: Site, program: Program, write: Write, tmp_path: Path) -> None:
    site.put("/services/hush-hush/x", b"")
    site.put("/services/hush-hush", SECRET.encode(), status=500)
    write("small.yaml", HEAD + SECRETS.replace(f"said {SECRET}", "said"))
    hook = f"{site.url}/services/hush-hush"
    ended = program("exec", "small.yaml", "--json", env={"TOKEN": SECRET, "HOOK": hook})
    assert site.asked[0].headers["Authorization"] == f"Bearer {SECRET}" and site.asked[0].headers["X-Key"] == SECRET
    assert (tmp_path / "key").read_text().strip() == SECRET
    assert outcome(ended.document, "bad") == ("not sent", "POST ***: status 500")
    assert outcome(ended.document, "mail") == ("not sent", "exit code 3: ***")
    written = [
        path.read_text() for path in tmp_path.rglob("*") if path.is_file() and path.name not in ("key", "small.yaml")
    ]
    for text in [ended.out, ended.err, *written, site.asked[0].body, site.asked[1].body]:
        assert SECRET not in text and "hush-hush" not in text


# --- what can go wrong ------------------------------------------------------------------------------------------------

TROUBLES = {
    "status 500": ("http: {post: /broken}", "status 500"),
    "nobody there": ("http: {post: 'http://127.0.0.1:9/x'}", "nobody answers"),
    "another host": ("http: {post: /away}", "redirects to another host"),
    "too large": ("http: {post: /large}", "larger than"),
    "slow": ("timeout: 200ms, http: {post: /slow}", "no answer within 0.2 s"),
    "null": ("http: {post: /hook, body: 'x {{ after.n.x }}'}", "null"),
    "command fails": ("command: [sh, -c, 'echo no mail >&2; exit 3']", "exit code 3: no mail"),
    "no command": ("command: [no-such-program-9]", "no such program"),
    "slow command": ("timeout: 200ms, command: [sleep, '300']", "timed out after 0.2 s"),
}


def test_what_goes_wrong_is_told_and_fails_nothing(tell: Run, site: Site) -> None:
    site.put("/broken", b"", status=500)
    site.put("/away", b"", status=307, Location=site.url.replace("127.0.0.1", "localhost") + "/hook")
    site.put("/large", b"x" * (5 << 20))
    lines = [f"  n{number}: {{on: any, {what}}}" for number, (what, _) in enumerate(TROUBLES.values())]
    state = "state: {n: {command: [echo, '{\"x\": 1}'], select: json}}\npreflight: {no: {expect: 1 > 2}}\n"
    began = time.monotonic()
    record = tell(state + "notify:\n" + "\n".join(lines) + "\n")
    assert time.monotonic() - began < 20
    assert record["run"]["verdict"] == "blocked" and record["run"]["exit_code"] == 3
    for (what, because), item in zip(TROUBLES.values(), record["notifications"], strict=True):
        assert item["status"] == "not sent" and because in item["because"], (what, item)
        assert 0 <= item["duration"] < 10


def test_a_person_is_told(program: Program, write: Write) -> None:
    write("small.yaml", HEAD + ENDINGS["failed"] + TELL + "  bad: {command: ['false']}\n")
    ended = program("exec", "small.yaml")
    assert ended.code == 4 and "Traceback" not in ended.err
    assert "✓ notify ops: sent" in ended.err and "! notify bad: not sent: exit code 1" in ended.err
    assert program("validate", "small.yaml").code == 0


def test_another_ctrl_c_ends_what_is_being_sent_and_what_would_follow(
    site: Site, start: Callable[..., Background], write: Write
) -> None:
    site.put("/hook", b"")
    notify = "notify:\n  a: {timeout: 300s, http: {post: /slow}}\n  b: {timeout: 300s, command: [sleep, '300']}\n"
    write("small.yaml", f"{HEAD}{WEB}steps: {{a: {{command: [sleep, '300']}}}}\n{notify}")
    background = start("exec", "small.yaml", "--json", env={"WEB": site.url})
    background.reached("process.started")
    background.process.send_signal(signal.SIGINT)
    until(lambda: [asked for asked in site.asked if asked.path == "/slow"])
    began = time.monotonic()
    ended = background.end(signal.SIGINT)
    assert ended.code == 130 and time.monotonic() - began < 10 and "Traceback" not in ended.err
    record = ended.document
    assert record["run"]["verdict"] == "cancelled" and Path(record["report"]).is_file()
    assert outcome(record, "a") == ("not sent", "cancelled")
    assert outcome(record, "b")[0] == "not sent" and "Ctrl-C" in outcome(record, "b")[1]
    assert not (Path(record["journal"]).parents[2] / "open" / record["run"]["id"]).exists()


# --- the audit, and runs that were lost -------------------------------------------------------------------------------


def test_it_is_in_the_journal_and_not_in_the_audits_chain(
    database: Database, program: Program, write: Write, tmp_path: Path
) -> None:
    database.run(ITEMS)
    write("small.yaml", HEAD + DB + "steps: {a: {sql: INSERT INTO items VALUES (1)}}\n" + TELL)
    env = {"DATABASE_URL": database.url}
    ended = program("exec", "small.yaml", "--json", env=env)
    assert ended.code == 0 and outcome(ended.document) == ("sent", "")
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["run"]["audit"] == "confirmed" and told["audit"]["head"] == ended.document["audit"]["head"] != ""
    assert database.value("SELECT count(*) FROM runbook.events WHERE kind = 'notification.sent'") == 0
    verified = program("audit", "verify", env=env)
    assert verified.code == 0, verified.err
    noted = program("note", "last", "all is well", env=env)
    assert noted.code == 0, noted.err
    verified = program("audit", "verify", env=env)
    assert verified.code == 0, verified.err
    shown = json.loads(program("show", "last", "--json").out)
    assert shown["notifications"] == ended.document["notifications"]


@pytest.fixture
def lost(database: Database, write: Write, start: Callable[..., Background]) -> Background:
    """A run whose runner was killed in the middle of its step."""
    write(
        "small.yaml", HEAD + DB + "steps: {a: {shell: sleep 300}}\n" + TELL + "  bad: {command: [sh, -c, 'exit 3']}\n"
    )
    background = start("exec", "small.yaml", env={"DATABASE_URL": database.url})
    background.reached("process.started")
    background.process.kill()
    background.process.wait()
    return background


@pytest.mark.parametrize("command", ["status", "recover", "exec"])
def test_who_concludes_a_lost_run_tells_of_it_once(
    command: str, lost: Background, database: Database, program: Program, write: Write, tmp_path: Path
) -> None:
    env = {"DATABASE_URL": database.url}
    if command == "exec":
        write("small.yaml", HEAD + DB + "steps: {a: {command: ['true']}}\n")
    told = program(command, *(["small.yaml"] if command == "exec" else []), env=env)
    assert told.code == 0, told.err
    assert "notify bad: not sent: exit code 3" in told.err
    found = json.loads((tmp_path / "told.json").read_text())
    assert found["run"]["verdict"] == "lost" and Path(found["report"]).is_file()
    (tmp_path / "told.json").unlink()
    assert program("recover", found["run"]["id"], env=env).code == 0
    assert not (tmp_path / "told.json").exists()
    kinds = [line.event.kind for line in read_journal(Path(found["journal"]))]
    assert kinds.count("notification.sent") == 2


def test_a_runner_that_dies_before_it_has_told_leaves_that_to_the_next(
    program: Program, write: Write, tmp_path: Path
) -> None:
    write("small.yaml", HEAD + ENDINGS["failed"] + TELL)
    died = program("exec", "small.yaml", env={"RUNBOOK_FAILPOINT": "after-report.written:kill"})
    assert died.code == -signal.SIGKILL and not (tmp_path / "told.json").exists()
    assert program("status").code == 0
    assert json.loads((tmp_path / "told.json").read_text())["run"]["verdict"] == "failed"


def test_a_secret_or_a_server_that_is_not_known_here_is_said(
    site: Site, start: Callable[..., Background], program: Program, write: Write
) -> None:
    notify = "notify:\n  a: {http: {post: /hook}}\n  b: {command: ['true'], env: {T: '{{ secrets.token }}'}}\n"
    write("small.yaml", f"{HEAD}{WEB}secrets: {{token: {{env: TOKEN}}}}\nsteps: {{a: {{shell: sleep 300}}}}\n{notify}")
    background = start("exec", "small.yaml", env={"WEB": site.url, "TOKEN": SECRET})
    background.reached("process.started")
    background.process.kill()
    background.process.wait()
    ended = program("recover", "--json")
    (record,) = ended.document["runs"]
    assert outcome(record, "a")[0] == "not sent" and "set WEB" in outcome(record, "a")[1]
    assert outcome(record, "b") == ("not sent", "the environment variable TOKEN is not set")


def test_a_secret_that_is_known_here_is_masked(
    start: Callable[..., Background], program: Program, write: Write
) -> None:
    notify = "notify:\n  a: {command: [sh, -c, 'echo it is $T >&2; exit 3'], env: {T: '{{ secrets.token }}'}}\n"
    write("small.yaml", f"{HEAD}secrets: {{token: {{env: TOKEN}}}}\nsteps: {{a: {{shell: sleep 300}}}}\n{notify}")
    background = start("exec", "small.yaml", env={"TOKEN": SECRET})
    background.reached("process.started")
    background.process.kill()
    background.process.wait()
    ended = program("recover", "--json", env={"TOKEN": SECRET})
    (record,) = ended.document["runs"]
    assert outcome(record, "a") == ("not sent", "exit code 3: it is ***")
    assert SECRET not in Path(record["journal"]).read_text() + ended.err + ended.out


def test_a_run_that_lost_its_lock_is_told_of(tell: Run, site: Site) -> None:
    cancellation = Cancellation()
    cancellation.lose("the lock is another run's")
    record = tell(ENDINGS["passed"] + HOOK, cancellation=cancellation)
    assert record["run"]["verdict"] == "errored" and outcome(record) == ("sent", "")
    assert len(site.asked) == 1


# --- what tells nobody ------------------------------------------------------------------------------------------------


def test_a_rehearsal_notifies_nobody_and_says_so(program: Program, write: Write, tmp_path: Path) -> None:
    write("small.yaml", HEAD + ENDINGS["failed"] + TELL)
    ended = program("exec", "small.yaml", "--rehearse", "--json")
    assert ended.document["notifications"] == [] and "a rehearsal notifies nobody (ops)" in ended.err
    assert not (tmp_path / "told.json").exists()


def test_a_case_of_a_test_notifies_nobody(program: Program, write: Write, tmp_path: Path) -> None:
    write("small.yaml", HEAD + ENDINGS["failed"] + f"notify:\n  ops: {{command: [touch, '{tmp_path / 'told'}']}}\n")
    write("small.cases.yaml", "cases:\n  fails: {verdict: failed}\n")
    ended = program("test", "small.yaml")
    assert ended.code == 0, ended.err
    assert not (tmp_path / "told").exists()


def test_a_dry_run_tells_what_would_be_sent(site: Site, program: Program, write: Write) -> None:
    notify = f"{HOOK}  never: {{when: params.n > 1, command: ['true']}}\n  nowhere: {{http: {{post: 'http://no.invalid/x'}}}}\n"
    write("small.yaml", f"{HEAD}{WEB}params: {{n: {{type: integer, default: 1}}}}\n{ENDINGS['passed']}{notify}")
    ended = program("exec", "small.yaml", "--dry-run", "--json", env={"WEB": site.url})
    assert ended.code == 0, ended.err
    plan = {line["where"]: line for line in ended.document["plan"]}
    assert plan["notify.ops"]["state"] == "would run" and plan["notify.ops"]["what"] == f"POST {site.url}/hook"
    assert plan["notify.never"]["state"] == "evaluated" and plan["notify.never"]["what"] == "would be skipped"
    assert "no.invalid" in plan["notify.nowhere"]["because"] and "does not decide" in plan["notify.nowhere"]["because"]
    assert site.asked == [] and "Notifications" in ended.err


def test_the_events_tell_the_same_as_the_record(tell: Run) -> None:
    record = tell(ENDINGS["failed"] + HOOK)
    told = [line["data"] for line in lines_of(record) if line["kind"] == "notification.sent"]
    assert told == json.loads(dumps(record["notifications"]))


def test_the_guides_runbook_loads(program: Program, write: Write) -> None:
    guide = (ROOT / "docs" / "notify.md").read_text(encoding="utf-8")
    write("nightly.yaml", re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)[0])
    ended = program("validate", "nightly.yaml")
    assert ended.code == 0, ended.err
    keys = json.loads((ROOT / "schemas" / "runbook.schema.json").read_text())["$defs"]["notification"]["properties"]
    assert all(f"`{key}`" in guide for key in keys)
