"""The cookbook's run as a script: the same statements, nothing declared, nothing kept but an audit row and a markdown file.

Usage: straight_line.py FURTHER, with the number of further checks, and the server in DATABASE_URL.
"""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psycopg

STATE = """
SELECT COUNT(*) AS total, COUNT(*) FILTER (WHERE extracted_summary IS NOT NULL) AS summaries,
       COUNT(*) FILTER (WHERE skill_keywords IS NOT NULL) AS skills, COUNT(*) FILTER (WHERE ihl_score IS NOT NULL) AS ihl
FROM postings
"""
PENDING = """
SELECT 'summary' AS stage, COUNT(*) FROM postings WHERE extracted_summary IS NULL AND job_description IS NOT NULL
UNION ALL SELECT 'skills', COUNT(*) FROM postings WHERE skill_keywords IS NULL AND extracted_summary IS NOT NULL
UNION ALL SELECT 'ihl', COUNT(*) FROM postings WHERE ihl_score IS NULL AND skill_keywords IS NOT NULL
"""
QUEUE = """
SELECT status, COUNT(*) FROM interactions WHERE created_at > NOW() - INTERVAL '24 hours' GROUP BY status ORDER BY count DESC
"""
STUCK = "SELECT COUNT(*) FROM interactions WHERE status = 'processing' AND updated_at < NOW() - INTERVAL '30 minutes'"
MODELS = """
SELECT DISTINCT a.actor_name FROM workflow_conversations wc
JOIN conversations c ON wc.conversation_id = c.conversation_id JOIN actors a ON c.actor_id = a.actor_id
WHERE wc.workflow_id = %s ORDER BY a.actor_name
"""
FAILURES = """
SELECT output->>'error' AS error_type, COUNT(*) FROM interactions
WHERE status = 'failed' AND created_at >= %s GROUP BY 1
"""
INTERACTIONS = """
SELECT c.conversation_name, COUNT(*) FILTER (WHERE i.status = 'completed') AS completed
FROM interactions i JOIN conversations c USING (conversation_id) GROUP BY 1 ORDER BY 1
"""
AUDIT = "INSERT INTO interactions (conversation_id, status, input, output) VALUES (9198, 'completed', %s, %s)"
METRICS = ("total", "summaries", "skills", "ihl")

started = datetime.now(UTC)
connection = psycopg.connect(os.environ["DATABASE_URL"])
connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
problems = []

before = dict(zip(METRICS, connection.execute(STATE).fetchone(), strict=True))
pending = dict(connection.execute(PENDING).fetchall())
if pending["summary"] == 0:
    problems.append("nothing is waiting")
queue = connection.execute(QUEUE).fetchall()
stuck = connection.execute(STUCK).fetchone()[0]
models = [name for (name,) in connection.execute(MODELS, [3001]).fetchall()]
if not models:
    problems.append("no models")
for number in range(int(sys.argv[1])):
    found = connection.execute(f"SELECT COUNT(*) FROM postings WHERE posting_id = {number}").fetchone()[0]
    if found < 0:
        problems.append(f"further_{number}")
connection.commit()

subprocess.run(["/bin/true"], check=True)

after = dict(zip(METRICS, connection.execute(STATE).fetchone(), strict=True))
failures = connection.execute(FAILURES, [started]).fetchall()
interactions = connection.execute(INTERACTIONS).fetchall()
connection.commit()

delta = {metric: after[metric] - before[metric] for metric in METRICS}
problems += [metric for metric in ("total", "summaries") if delta[metric] != 0]
problems += [error for error, _ in failures]
audit = [{"workflow_id": 3001, "state_before": before}, {"state_after": after, "delta": delta}]
connection.execute(AUDIT, [json.dumps(item) for item in audit])
connection.commit()
connection.close()

lines = [
    "# Workflow Run: 3001",
    "",
    f"**Date**: {started:%Y-%m-%d %H:%M:%S}",
    f"**Duration**: {datetime.now(UTC) - started}",
]
for heading, facts in (("Before", before), ("Pending", pending), ("After", after), ("Delta", delta)):
    lines += ["", f"## {heading}", *(f"- {name}: {value}" for name, value in facts.items())]
for heading, rows in (
    ("Queue", queue),
    ("Interactions", interactions),
    ("Issues", [(problem,) for problem in problems]),
):
    lines += ["", f"## {heading}", *("- " + ", ".join(map(str, row)) for row in rows)]
lines += ["", f"Stuck: {stuck}. Models: {', '.join(models)}."]
Path("logs").mkdir(exist_ok=True)
Path(f"logs/straight_line_{started:%Y%m%d_%H%M%S_%f}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
