"""Which file is meant, and which params were given."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from runbook.language.document import read_document
from runbook.language.load import Marks, load, param_value
from runbook.language.model import Runbook
from runbook.language.problems import InvalidRunbook, Problem, did_you_mean
from runbook.operate.limits import SECONDS, bounded

Command = TypeVar("Command", bound=Callable[..., Any])
_LABEL = re.compile(r"[A-Za-z0-9._-]{1,32}")
_ENDINGS = ("", ".yaml", ".yml")


def runbook_file(name: str) -> str:
    """The path that `name` means: itself, or a runbook of that name in runbooks/. Raises InvalidRunbook."""
    given = Path(name)
    folders = [Path()] if given.is_absolute() else [Path(), Path("runbooks")]
    for folder in folders:
        for ending in _ENDINGS:
            path = folder / f"{name}{ending}"
            with suppress(OSError, ValueError):
                if path.exists() and not path.is_dir():
                    return str(path)
    known = sorted(path.stem for path in Path("runbooks").glob("*.y*ml") if not path.stem.endswith(".cases"))
    raise InvalidRunbook(
        [
            Problem(
                name,
                0,
                0,
                "",
                "there is no such file, nor a runbook of that name in runbooks/",
                did_you_mean(given.stem, known),
            )
        ]
    )


def load_file(name: str, *, memory: bool = False, seconds: float = SECONDS, seen: Marks | None = None) -> Runbook:
    """The runbook that `name` means, loaded within bounds. Raises InvalidRunbook."""
    path = runbook_file(name)
    with bounded(path, memory=memory, seconds=seconds):
        return load(path, seen)


def database_option(text: str) -> Callable[[Command], Command]:
    """`--database [NAME=]URL`, as often as there are connections; `text` says what the servers are for."""
    return click.option("--database", "databases", multiple=True, metavar="[NAME=]URL", help=text)


def params_options(command: Command) -> Command:
    """`-p NAME=VALUE` and `--params-file`."""
    command = click.option(
        "-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="A param; the value is a YAML scalar."
    )(command)
    return click.option(
        "--params-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="A YAML mapping of params; -p goes before it.",
    )(command)


def label_option(text: str, *, several: bool = False) -> Callable[[Command], Command]:
    """`--label LABEL`, once or several times."""

    def checked(context: click.Context, param: click.Parameter, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for label in [value] if isinstance(value, str) else value:
            if label and not _LABEL.fullmatch(label):
                raise click.BadParameter("a label has 1 to 32 letters, digits, dots, dashes or underscores")
        return value

    if several:
        return click.option("-l", "--label", "labels", multiple=True, metavar="LABEL", help=text, callback=checked)
    return click.option("-l", "--label", default="", metavar="LABEL", help=text, callback=checked)


def given_params(runbook: Runbook, params: tuple[str, ...], file: Path | None) -> Mapping[str, Any]:
    """The params that were given, by name. Raises InvalidRunbook or a usage error."""
    found: dict[str, Any] = {}
    if file is not None:
        found.update(_from_file(runbook, file))
    seen: set[str] = set()
    for text in params:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"-p {text}: write -p NAME=VALUE")
        if name in seen:
            raise click.UsageError(f"-p {name} is given twice")
        seen.add(name)
        found[name] = param_value(runbook, name, value)
    return found


def _from_file(runbook: Runbook, file: Path) -> dict[str, Any]:
    document = read_document(file, str(file))
    unknown = [name for name in document.data if name not in runbook.params]
    problems = [
        document.problem((name,), f"there is no param `{name}`", did_you_mean(name, runbook.params), at="key")
        for name in unknown
    ]
    if problems:
        raise InvalidRunbook(problems)
    return dict(document.data)


def database_targets(runbook: Runbook, values: tuple[str, ...]) -> dict[str, str]:
    """What `--database [NAME=]URL` means: a URL without a name is for the connection of audit, lock and clock."""
    found: dict[str, str] = {}
    for value in values:
        name, url = _named(value)
        before, equals, _ = value.partition("=")
        if not name and equals and before in runbook.connections:
            name, url = before, value[len(before) + 1 :]
        if name:
            if name not in runbook.connections:
                raise click.UsageError(
                    f"--database {name}=…: no such connection; {did_you_mean(name, runbook.connections)}"
                )
            found[name] = url
        elif runbook.audit.connection:
            found[runbook.audit.connection] = value
        else:
            raise click.UsageError("--database: the runbook declares no postgres connection")
    return found


def named_urls(values: tuple[str, ...]) -> dict[str, str]:
    """What `--database [NAME=]URL` says where no runbook is at hand: URLs by connection, "" for whichever is meant."""
    return dict(map(_named, values))


def _named(value: str) -> tuple[str, str]:
    name, equals, url = value.partition("=")
    named = bool(equals) and "://" not in name and ("://" in url or url == "embedded")
    return (name, url) if named else ("", value)
