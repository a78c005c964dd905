"""The contract's result for people: Markdown for the asset graph, and the pages of its report.

There are two pages: one of our own, and Great Expectations' Data Docs. Judging rows belongs to
`assets.data.contract`; what a page is made of belongs to `assets.reporting.page`.
"""

from __future__ import annotations

import copy
import html
from datetime import date
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from assets.data.ingest import Examined, Figures
from assets.names import raw_name
from assets.reporting.page import PAGE, Section, Table, render
from assets.reporting.report import Measure, Report, Verdict

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult
    from great_expectations.render.view import DefaultJinjaPageView

DATA_DOCS = "data_docs.html"
SHOWN_DAYS = 31
SHOWN_ROWS = 50

# What Great Expectations' results hold of landed rows.
LANDED = {"unexpected_list", "partial_unexpected_list", "partial_unexpected_counts"}


def markdown(examined: Examined) -> str:
    """Rules with broken rows, then the newest days."""
    rules = examined.judgement.rules
    lines = [f"{len(rules)} rules over {_landed(examined.figures):,} rows.", ""]

    broken = [rule for rule in rules if rule.broken]
    if broken:
        lines += ["| broken rule | rows |", "|---|---:|"]
        lines += [f"| {_cell(rule.text)} | {rule.broken:,} |" for rule in broken]
        lines.append("")

    shown, earlier = examined.figures[-SHOWN_DAYS:], examined.figures[:-SHOWN_DAYS]
    lines += ["| day | landed | stored | quarantined | late | files |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    lines += [
        f"| {_day(day)} | {day.rows:,} | {day.stored:,} | {day.broken:,} | {day.late:,} "
        f"| {day.files} |"
        for day in shown
    ]
    if earlier:
        aside = sum(day.broken for day in earlier)
        lines.append("")
        lines.append(
            f"and {len(earlier)} earlier days with {_landed(earlier):,} rows, {aside:,} quarantined"
        )
    return "\n".join(lines)


def report(pipeline: str, examined: Examined, today: date) -> Report:
    """The contract's result as a stored report; `today` stands for sources that land once."""
    rows = _landed(examined.figures)
    broken = sum(day.broken for day in examined.figures)
    limit = examined.source.refuses_above
    kept = f"{broken} of {rows} rows break the contract; no day has more than {limit:.1%} of them"
    verdict = Verdict(
        rule="contract",
        passed=examined.refused is None,
        value=broken / rows if rows else 0.0,
        limit=limit,
        n=rows,
        reason=examined.refused or kept,
    )
    measures = [
        Measure(name="broken_rows", value=rule.broken, n=rows, group=rule.text)
        for rule in examined.judgement.rules
    ]
    return Report(
        pipeline=pipeline,
        name=raw_name(examined.source.name),
        subject=examined.digest,
        day=max(examined.days, default=today),
        measures=tuple(measures),
        verdicts=(verdict,),
    )


def pages(result: Report, examined: Examined) -> dict[str, bytes]:
    """The pages of the report: our own, and Great Expectations' Data Docs."""
    source = examined.source
    facts = [
        ("rows landed", f"{_landed(examined.figures):,}"),
        ("quarantined", f"{examined.broken.height:,}"),
        ("days", f"{len(examined.figures):,}"),
    ]
    page = render(
        result,
        f"Contract of {source.name}",
        source.description or "Landed rows against their declared columns.",
        facts,
        _sections(examined),
    )
    return {PAGE: page, DATA_DOCS: data_docs(examined)}


def data_docs(examined: Examined) -> bytes:
    """Great Expectations' Data Docs of the validation.

    Its renderer and its view draw every section. Only the frame around them is ours: the one of
    Great Expectations loads scripts, styles and a logo from elsewhere.
    """
    from great_expectations.render.renderer import ValidationResultsPageRenderer

    content = ValidationResultsPageRenderer().render(_escaped(examined.judgement.result))
    title = f"Data Docs of {examined.source.name}"
    return str(_view().render(content, template=DATA_DOCS, title=title)).encode()


def _escaped(result: ExpectationSuiteValidationResult) -> ExpectationSuiteValidationResult:
    """A result whose landed values hold no markup: Great Expectations' tables show them as is."""
    shown = copy.copy(result)
    shown.results = []
    for one in result.results:
        each = copy.copy(one)
        landed = {name: _text(each.result[name]) for name in LANDED & each.result.keys()}
        each.result = {**each.result, **landed}
        shown.results.append(each)
    return shown


def _text(value: object) -> object:
    """A value of a result with the text in it escaped."""
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, list):
        return [_text(item) for item in value]
    if isinstance(value, dict):
        return {name: _text(item) for name, item in value.items()}
    return value


@cache
def _view() -> DefaultJinjaPageView:
    """One view per process: compiling its templates costs far more than drawing a page."""
    from great_expectations.render.view import DefaultJinjaPageView

    return DefaultJinjaPageView(
        custom_styles_directory=str(files("assets.reporting") / "templates"),
        custom_views_directory=str(files("assets.data") / "templates"),
    )


def _sections(examined: Examined) -> list[Section]:
    """Broken rows if there are any, then rules and days."""
    rules = Table(
        ("rule", "rows that break it"),
        [(rule.text, f"{rule.broken:,}") for rule in examined.judgement.rules],
    )
    header = (
        "day", "landed", "stored", "quarantined", "late", "longest delay (days)", "files", "digest",
    )  # fmt: skip
    days = Table(header, [_row(figures) for figures in examined.figures])
    sections = [
        Section("Rules", "Derived from the declared columns.", tables=[rules]),
        Section("Days", tables=[days]),
    ]

    samples = examined.broken.head(SHOWN_ROWS)
    if samples.is_empty():
        return sections
    where = Table(
        ("file", "row", "reason", "record"),
        [
            (row["file"], str(row["row"]), row["reason"], row["record"])
            for row in samples.iter_rows(named=True)
        ],
        frozenset({2, 3}),
    )
    text = f"The first {samples.height} of {examined.broken.height:,}."
    return [Section("Broken rows", text, tables=[where]), *sections]


def _row(figures: Figures) -> tuple[str, ...]:
    return (
        _day(figures),
        f"{figures.rows:,}",
        f"{figures.stored:,}",
        f"{figures.broken:,}",
        f"{figures.late:,}",
        str(figures.latest),
        str(figures.files),
        figures.digest[:16],
    )


def _landed(days: tuple[Figures, ...]) -> int:
    return sum(day.rows for day in days)


def _day(figures: Figures) -> str:
    return "once" if figures.day is None else figures.day.isoformat()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
