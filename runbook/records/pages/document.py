"""How a page is put together: the templates, in which every value is text, and the only places that a link may lead to."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from runbook.records.markdown import visible

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **names: Any) -> str:
    """The document that `template` makes of `names`."""
    return _environment().get_template(template).render(names)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=_readable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["lines"] = _lines
    environment.globals["css"] = Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8"))
    return environment


def _readable(value: Any) -> Any:
    """A value in a page: text without a character that is not seen, or that turns the text around it."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _lines(text: str) -> Markup:
    """Text that keeps its lines and tabs."""
    return escape(visible(text.replace("\r\n", "\n"), keep="\n\t"))


def relative(href: str) -> str:
    """`href` if it is a relative path, a fragment or empty. Raises ValueError: a page links to nothing else."""
    parts = urlsplit(href)
    odd = not href.isprintable() or "\\" in href or href != href.strip()
    if odd or parts.scheme or parts.netloc or href.startswith("/"):
        raise ValueError(f"not a relative path or a fragment: {href!r}")
    return href


def anchor(run_id: str) -> str:
    """The id of a run's own row."""
    return f"run-{run_id}"


def to_anchor(run_id: str) -> str:
    """A link to a run's own row."""
    return "#" + quote(anchor(run_id).encode("utf-8", "backslashreplace"))
