"""What the tests of cases share: a runbook with a seed, and one private server for all of them."""

from __future__ import annotations

import textwrap
from pathlib import Path

import psutil

SEED = "CREATE TABLE items (n integer); INSERT INTO items VALUES (1);"
SMALL = """\
runbook: 1
name: small
connections:
  db: {type: postgres, env: DATABASE_URL, embedded: [small.sql]}
params:
  least: {type: integer, minimum: 0, default: 1}
state:
  items: {sql: SELECT count(*) AS total FROM items}
preflight:
  some: {sql: SELECT count(*) FROM items, returns: value, expect: result >= params.least, message: nothing there}
  spare: {expect: 1 > 2, severity: warn}
expectations:
  items.total: {delta: 3}
steps:
  add: {sql: "INSERT INTO items SELECT generate_series(1, 3)"}
postconditions:
  whole: {sql: SELECT count(*) FROM items WHERE n IS NULL, returns: value, expect: result == 0}
"""
# A trigger by which the table takes no rows.
LOSSY = """\
CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER lose BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION lose();
"""
# The copies that there are of the database in which this is asked.
COPIES = """
SELECT datname FROM pg_database
WHERE shobj_description(oid, 'pg_database') LIKE '%copy of ' || current_database() || ' for run %'
"""


def project(folder: Path, server_folder: Path, name: str = "small", text: str = SMALL, cases: str = "") -> Path:
    """A project in `folder` with one runbook and its cases. Its private server is that of all such projects of a test run."""
    shared = server_folder.parent / "projects"
    shared.mkdir(exist_ok=True)
    shared.chmod(0o755)
    if not (folder / ".runbook").exists():
        (folder / ".runbook").symlink_to(shared)
    runbooks = folder / "runbooks"
    runbooks.mkdir(exist_ok=True)
    (runbooks / "small.sql").write_text(SEED, encoding="utf-8")
    path = runbooks / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    if cases:
        path.with_suffix(".cases.yaml").write_text(f"cases:\n{textwrap.indent(cases, '  ')}", encoding="utf-8")
    return path


def slow(seconds: str) -> str:
    """The runbook with a step that starts two processes, which sleep for so long."""
    return SMALL.replace('{sql: "INSERT', f'{{shell: "sleep {seconds} & echo going; sleep {seconds}"}} # "')


def sleepers(seconds: str) -> list[psutil.Process]:
    """The processes that sleep for so long."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if process.info["cmdline"] == ["sleep", seconds]:
            found.append(process)
    return found
