"""`runbook new`: a commented runbook to start from."""

from __future__ import annotations

import re
from pathlib import Path

import click

from runbook.language.schema import SCHEMAS


@click.command("new", short_help="Write a runbook to start from.")
@click.argument("name")
def command(name: str) -> None:
    """Write runbooks/NAME.yaml, which runs as it stands, with a comment on every part."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", name):
        raise click.UsageError(f"{name}: a name is letters, digits, - and _")
    here = Path(__file__).parent
    path = Path("runbooks") / f"{name}.yaml"
    script = Path("runbooks") / name / "schema.sql"
    local = Path("schemas") / "runbook.schema.json"
    schema = f"../{local}" if local.is_file() else str(SCHEMAS / "runbook.schema.json")
    text = (here / "new.yaml").read_text(encoding="utf-8").replace("NAME", name).replace("SCHEMA", schema)
    script.parent.mkdir(parents=True, exist_ok=True)
    _create(script, (here / "new.sql").read_text(encoding="utf-8"))
    _create(path, text)
    click.echo(f"{path} and {script} written. Next:\n  runbook validate {name}\n  runbook exec {name}")


def _create(path: Path, text: str) -> None:
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise click.UsageError(f"{path} exists already") from None
