"""The workflow program of the WF3001 example, run for real: what it changes, what it says, and how it ends."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

PROGRAM = Path(__file__).parents[2] / "runbooks" / "wf3001" / "run_workflow.py"
STATE = "SELECT COUNT(*), COUNT(extracted_summary), COUNT(skill_keywords), COUNT(ihl_score) FROM postings"
AWAY = "http://127.0.0.1:9"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(example_database: str) -> Run:
    def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "DATABASE_URL": example_database, "OLLAMA_HOST": AWAY, **environment}
        command = [sys.executable, str(PROGRAM), *arguments]
        return subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=60)

    return start


def ask(database: str, query: str, *values: object) -> Any:
    with psycopg.connect(database, autocommit=True) as connection:
        cursor = connection.execute(query.encode(), values)
        return cursor.fetchall() if cursor.description else None


def test_a_batch_completes_all_that_is_waiting(run: Run, example_database: str) -> None:
    [before] = ask(example_database, STATE)
    ended = run("3001", RUNBOOK_RUN_ID="run-1")
    [after] = ask(example_database, STATE)
    assert ended.returncode == 0
    assert json.loads(ended.stdout) == {"summaries": 97, "skills": 111, "ihl": 120, "failed": 0}
    assert [b - a for a, b in zip(before, after, strict=True)] == [0, 97, 111, 120]
    assert "gemma3:1b is not served at http://127.0.0.1:9" in ended.stderr
    query = """SELECT conversation_id, status, COUNT(*)::int
               FROM interactions JOIN workflow_runs USING (workflow_run_id)
               WHERE run_id = 'run-1' GROUP BY 1, 2 ORDER BY 1"""
    assert ask(example_database, query) == [(3335, "completed", 97), (3350, "completed", 111), (9161, "completed", 120)]


def test_the_same_postings_give_the_same_results(run: Run, example_database: str) -> None:
    query = """SELECT posting_id, extracted_summary, skill_keywords, ihl_score FROM postings
               WHERE posting_id > 4913 ORDER BY posting_id"""
    clear = """UPDATE postings SET extracted_summary = NULL, skill_keywords = NULL, ihl_score = NULL
               WHERE posting_id > 4913"""
    run("3001")
    first = ask(example_database, query)
    ask(example_database, clear)
    run("3001")
    assert ask(example_database, query) == first
    assert not any("\x1b" in row[1] or "<b>" in row[1] for row in first if row[1])


def test_a_second_run_finds_nothing(run: Run) -> None:
    run("3001")
    assert json.loads(run("3001").stdout) == {"summaries": 0, "skills": 0, "ihl": 0, "failed": 0}


@pytest.mark.parametrize(
    ("limit", "totals"),
    [(10, (10, 10, 10)), (100, (97, 100, 100)), (115, (97, 111, 115))],
    ids=lambda value: str(value),
)
def test_the_limit_bounds_every_stage(run: Run, limit: int, totals: tuple[int, int, int]) -> None:
    said = json.loads(run("3001", "--limit", str(limit)).stdout)
    assert (said["summaries"], said["skills"], said["ihl"]) == totals


def test_one_posting_goes_through_all_stages(run: Run, example_database: str) -> None:
    ended = run("3001", "--mode", "single_posting", "--posting-id", "4920")
    assert json.loads(ended.stdout) == {"summaries": 1, "skills": 1, "ihl": 1, "failed": 0}
    [row] = ask(
        example_database,
        "SELECT num_nulls(extracted_summary, skill_keywords, ihl_score) FROM postings WHERE posting_id = 4920",
    )
    assert row == (0,)


def test_a_posting_without_words_is_a_failed_interaction(run: Run, example_database: str) -> None:
    ask(example_database, "UPDATE postings SET job_description = ' ... ' WHERE posting_id = 4920")
    ended = run("3001")
    assert ended.returncode == 0
    assert json.loads(ended.stdout) == {"summaries": 96, "skills": 110, "ihl": 119, "failed": 1}
    query = (
        "SELECT posting_id, output FROM interactions WHERE status = 'failed' AND created_at > NOW() - INTERVAL '1 hour'"
    )
    assert ask(example_database, query) == [(4920, {"error": "the description has no words"})]


def test_an_interaction_that_was_reset_is_taken_up_again(run: Run, example_database: str) -> None:
    stuck = "SELECT interaction_id FROM interactions WHERE status = 'processing' ORDER BY 1"
    ids = [row[0] for row in ask(example_database, stuck)]
    ask(example_database, "UPDATE interactions SET status = 'pending' WHERE status = 'processing'")
    run("3001")
    assert ask(example_database, "SELECT DISTINCT status FROM interactions WHERE interaction_id = ANY(%s)", ids) == [
        ("completed",)
    ]
    query = (
        "SELECT COUNT(*)::int FROM interactions WHERE conversation_id = 3335 AND created_at > NOW() - INTERVAL '1 hour'"
    )
    assert ask(example_database, query) == [(97 - len(ids),)]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["3002"], "workflow 3002 has no conversations"),
        (["3001", "--mode", "single_posting"], "--posting-id goes with"),
        (["3001", "--posting-id", "4920"], "--posting-id goes with"),
        (["3001", "--mode", "single_posting", "--posting-id", "77"], "there is no posting 77"),
        (["3001", "--limit", "0"], "--limit"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_request_that_makes_no_sense_changes_nothing(
    run: Run, example_database: str, arguments: list[str], complaint: str
) -> None:
    ended = run(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert complaint in ended.stderr
    assert ask(example_database, STATE) == [(612, 502, 488, 479)]


def test_a_database_that_is_away_is_an_error_without_traceback(run: Run) -> None:
    ended = run("3001", DATABASE_URL="postgresql://nobody@127.0.0.1:9/nothing")
    assert ended.returncode == 1
    assert "run_workflow: " in ended.stderr and "Traceback" not in ended.stderr


@contextmanager
def ollama(answer: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that speaks as much of Ollama's protocol as the actor uses: its address, and what it was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply({"models": [{"name": "gemma3:1b"}]})

        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.reply(answer)

        def reply(self, data: dict[str, Any]) -> None:
            text = json.dumps(data).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the terminal clean."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def test_a_model_that_is_served_does_the_work(run: Run, example_database: str) -> None:
    with ollama({"response": "A \x1b[1mshort\x1b[0m summary.\x00"}) as (host, asked):
        ended = run("3001", "--mode", "single_posting", "--posting-id", "4920", OLLAMA_HOST=host)
    assert json.loads(ended.stdout)["summaries"] == 1
    assert "not served" not in ended.stderr
    assert [(body["model"], body["options"]["temperature"]) for body in asked] == [("gemma3:1b", 0)]
    assert ask(example_database, "SELECT extracted_summary FROM postings WHERE posting_id = 4920") == [
        ("A short summary.",)
    ]


def test_a_model_that_fails_makes_failed_interactions(run: Run, example_database: str) -> None:
    with ollama({"error": "out of memory"}) as (host, _):
        ended = run("3001", "--limit", "3", OLLAMA_HOST=host)
    assert json.loads(ended.stdout) == {"summaries": 0, "skills": 3, "ihl": 3, "failed": 3}
    query = """SELECT DISTINCT output->>'error' FROM interactions
               WHERE status = 'failed' AND created_at > NOW() - INTERVAL '1 hour'"""
    assert ask(example_database, query) == [("no answer from gemma3:1b: KeyError",)]
