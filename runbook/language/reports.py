"""Templates of the author's own for the run log: whole Jinja, in the sandbox, over the keys of the record."""

from __future__ import annotations

from functools import lru_cache

from jinja2 import StrictUndefined, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runbook.language.problems import did_you_mean

NAMES = (
    *(
        "run",
        "params",
        "before",
        "after",
        "delta",
        "unmeasured",
        "preflight",
        "expectations",
        "steps",
        "postconditions",
    ),
    *("audit", "circumstances", "labels", "notes", "problems", "report", "journal", "run_log"),
)
FILTERS = ("code", "duration", "text")


@lru_cache(maxsize=1)
def report_environment() -> ImmutableSandboxedEnvironment:
    """The sandbox for run logs; `records/report.py` gives it the filters named in FILTERS."""
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(dict.fromkeys(FILTERS, str))
    return environment


def template_trouble(text: str) -> tuple[int, str] | None:
    """The line and the message of what is wrong with a template, as far as its text tells."""
    try:
        unknown = meta.find_undeclared_variables(report_environment().parse(text)) - set(NAMES)
        unknown -= set(report_environment().globals)
    except TemplateSyntaxError as error:
        return error.lineno, str(error.message)
    except RecursionError:
        return 1, "the template is nested too deeply"
    for name in sorted(unknown):
        line = next((number for number, row in enumerate(text.splitlines(), 1) if name in row), 1)
        return line, f"`{name}` is not known in a run log; {did_you_mean(name, NAMES)}"
    return None
