"""Pages for people: one self-contained HTML file, nothing loaded from elsewhere, all text escaped.

The HTML is in `templates/`, rendered by Jinja2 with autoescape; this module holds what a page is
made of.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from assets.reporting.report import Report
from assets.reporting.tables import number

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE = "index.html"


class Image(NamedTuple):
    """A PNG `width` CSS pixels wide at most, with what it shows in words."""

    content: bytes
    caption: str
    width: int = 900


class Link(NamedTuple):
    """A link: to a file beside the page, below the reports' root, or to a web address."""

    text: str
    href: str


class Table(NamedTuple):
    """Rows of cells (text or links) under a header; columns in `words` hold sentences."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | Link]]
    words: frozenset[int] = frozenset()


class Section(NamedTuple):
    """A part of a page under its own heading."""

    heading: str
    text: str = ""
    images: Sequence[Image] = ()
    tables: Sequence[Table] = ()
    links: Sequence[Link] = ()


def render(
    report: Report,
    title: str,
    lead: str,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[Section],
) -> bytes:
    """The page of a report: title, facts, gates, what was not checked, then the sections."""
    return _rendered(
        "report.html",
        report=report,
        overall=_overall(report),
        title=title,
        lead=lead,
        facts=facts,
        sections=sections,
    )


def render_plain(
    title: str, lead: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]
) -> bytes:
    """A page that speaks of no single report."""
    return _rendered("plain.html", title=title, lead=lead, facts=facts, sections=sections)


def _rendered(template: str, **values: object) -> bytes:
    return _environment().get_template(template).render(values).encode()


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("assets.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    return environment


def _overall(report: Report) -> bool | None:
    """Failed where a rule failed, passed where one passed, None where nothing was judged."""
    if not report.passed:
        return False
    return True if any(verdict.passed for verdict in report.verdicts) else None
