#!/usr/bin/env python3
"""Complete the postings that are waiting: a summary, then skill keywords, then the IHL score.

The tables say which conversation does which stage, in which order, and by which actor. Each item is one interaction,
committed when it starts and again when it ends, so that progress can be watched from the database. An item that cannot
be processed becomes a failed interaction and the work goes on: whether that is acceptable is for the caller to judge.

Progress goes to stderr; the last word, on stdout, is one line of JSON. Exit codes: 0 the work is done, 1 the database
failed, 2 the request makes no sense.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

try:
    import psycopg
    from psycopg.types.json import Jsonb
except ImportError:
    # The first `python` on the path may be one that has no driver; the runner's own has.
    runner = os.environ.get("RUNBOOK_PYTHON", sys.executable)
    if runner == sys.executable:
        raise
    os.execv(runner, [runner, *sys.argv])

from actors import PLAIN, Actor, Posting, Result, Unprocessable, ollama_actor, ollama_serves

Connection = psycopg.Connection[Any]

STAGES = """
    SELECT wc.stage, wc.conversation_id, a.actor_name, a.actor_type
    FROM workflow_conversations wc
    JOIN conversations c ON c.conversation_id = wc.conversation_id
    JOIN actors a ON a.actor_id = c.actor_id
    WHERE wc.workflow_id = %s
    ORDER BY wc.execution_order
"""
# One runbook run is one workflow run, also when its step is tried again.
OPEN_RUN = """
    INSERT INTO workflow_runs (workflow_id, run_id) VALUES (%s, %s)
    ON CONFLICT (run_id) DO UPDATE SET workflow_id = EXCLUDED.workflow_id
    RETURNING workflow_run_id
"""
WAITING = {
    "summary": "extracted_summary IS NULL AND job_description IS NOT NULL",
    "skills": "skill_keywords IS NULL AND extracted_summary IS NOT NULL",
    "ihl": "ihl_score IS NULL AND skill_keywords IS NOT NULL",
}
SELECT_WAITING = """
    SELECT posting_id, job_title, COALESCE(job_description, extracted_summary, '') AS job_description
    FROM postings
    WHERE {waiting} AND (%(posting_id)s::bigint IS NULL OR posting_id = %(posting_id)s)
    ORDER BY posting_id
    LIMIT %(limit)s
"""
STORE = {
    "summary": "UPDATE postings SET extracted_summary = %s WHERE posting_id = %s",
    "skills": "UPDATE postings SET skill_keywords = %s WHERE posting_id = %s",
    "ihl": "UPDATE postings SET ihl_score = %s WHERE posting_id = %s",
}
# An interaction that went back to the queue is taken up again; otherwise there is a new one.
CLAIM = """
    WITH queued AS (
        UPDATE interactions
        SET status = 'processing', workflow_run_id = %(run)s, input = %(input)s, updated_at = NOW()
        WHERE interaction_id = (
            SELECT MIN(interaction_id) FROM interactions
            WHERE conversation_id = %(conversation_id)s AND posting_id = %(posting_id)s AND status = 'pending')
        RETURNING interaction_id
    ), fresh AS (
        INSERT INTO interactions (conversation_id, posting_id, workflow_run_id, status, input)
        SELECT %(conversation_id)s, %(posting_id)s, %(run)s, 'processing', %(input)s
        WHERE NOT EXISTS (SELECT FROM queued)
        RETURNING interaction_id
    )
    SELECT interaction_id FROM queued UNION ALL SELECT interaction_id FROM fresh
"""
CONCLUDE = "UPDATE interactions SET status = %s, output = %s, updated_at = NOW() WHERE interaction_id = %s"
TOTALS = {"summary": "summaries", "skills": "skills", "ihl": "ihl"}


class UsageError(Exception):
    """The request makes no sense: exit code 2."""


@dataclass(frozen=True)
class Stage:
    name: str
    conversation_id: int
    actor_name: str
    actor: Actor


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def choose_actor(stage: str, name: str, kind: str) -> tuple[str, Actor]:
    """The actor that the tables name, or the plain one where a model is not to be had; and its name."""
    if kind == "plain":
        return name, PLAIN[stage]
    host = os.environ.get("OLLAMA_HOST") or "http://localhost:11434"
    host = (host if "://" in host else f"http://{host}").rstrip("/")
    if ollama_serves(host, name):
        return name, ollama_actor(host, name, stage)
    say(f"{stage}: {name} is not served at {host}, so the plain actor stands in for it")
    return f"plain, for {name}", PLAIN[stage]


def load_stages(db: Connection, workflow_id: int) -> list[Stage]:
    rows = db.execute(STAGES, [workflow_id]).fetchall()
    if not rows:
        raise UsageError(f"workflow {workflow_id} has no conversations")
    return [Stage(stage, conversation_id, *choose_actor(stage, *actor)) for stage, conversation_id, *actor in rows]


def returned_id(db: Connection, statement: str, values: Sequence[Any] | Mapping[str, Any]) -> int:
    [row] = db.execute(statement, values).fetchall()
    return int(row[0])


def process(db: Connection, stage: Stage, posting: Posting, run: int) -> bool:
    """Take one posting through one stage. False, and a failed interaction, when the actor cannot."""
    context = {"posting_id": posting.posting_id, "stage": stage.name, "actor": stage.actor_name}
    values = {"conversation_id": stage.conversation_id, "posting_id": posting.posting_id, "run": run}
    interaction_id = returned_id(db, CLAIM, {**values, "input": Jsonb(context)})
    try:
        result = stage.actor(posting)
    except Unprocessable as error:
        db.execute(CONCLUDE, ["failed", Jsonb({"error": str(error)}), interaction_id])
        return False
    with db.transaction():
        db.execute(STORE[stage.name], [as_column(result), posting.posting_id])
        db.execute(CONCLUDE, ["completed", Jsonb({"result": result}), interaction_id])
    return True


def as_column(result: Result) -> str | int | Jsonb:
    return Jsonb(result) if isinstance(result, list) else result


def run_stage(db: Connection, stage: Stage, run: int, posting_id: int | None, limit: int) -> tuple[int, int]:
    """Process what is waiting for the stage. How many were completed, and how many failed."""
    query = SELECT_WAITING.format(waiting=WAITING[stage.name])
    rows = db.execute(query, {"posting_id": posting_id, "limit": limit}).fetchall()
    done = 0
    for number, row in enumerate(rows, start=1):
        done += process(db, stage, Posting(*row), run)
        if number % 25 == 0 or number == len(rows):
            say(f"{stage.name:<8} {number:>4} of {len(rows)}")
    return done, len(rows) - done


def run_workflow(db: Connection, workflow_id: int, posting_id: int | None, limit: int) -> dict[str, int]:
    """Run all stages, each on what the one before has left. The totals, by metric."""
    if posting_id is not None:
        found = db.execute("SELECT 1 FROM postings WHERE posting_id = %s", [posting_id]).fetchone()
        if found is None:
            raise UsageError(f"there is no posting {posting_id}")
    stages = load_stages(db, workflow_id)
    run = returned_id(db, OPEN_RUN, [workflow_id, os.environ.get("RUNBOOK_RUN_ID")])
    totals, all_failed = {}, 0
    for stage in stages:
        totals[TOTALS[stage.name]], failed = run_stage(db, stage, run, posting_id, limit)
        all_failed += failed
    return {**totals, "failed": all_failed}


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Complete the postings that are waiting.")
    parser.add_argument("workflow_id", type=int)
    parser.add_argument("--mode", choices=["batch", "single_posting"], default="batch")
    parser.add_argument("--posting-id", type=int, help="the posting, in single_posting mode")
    parser.add_argument("--limit", type=positive, default=500, help="postings per stage at most (default: %(default)s)")
    options = parser.parse_args(arguments)
    if (options.mode == "single_posting") != (options.posting_id is not None):
        parser.error("--posting-id goes with --mode single_posting, and only with it")
    if not os.environ.get("DATABASE_URL"):
        parser.error("DATABASE_URL is not set")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as db:
            totals = run_workflow(db, options.workflow_id, options.posting_id, options.limit)
    except UsageError as error:
        say(f"run_workflow: {error}")
        return 2
    except psycopg.Error as error:
        say(f"run_workflow: {error}")
        return 1
    print(json.dumps(totals))
    return 0


if __name__ == "__main__":
    sys.exit(main())
