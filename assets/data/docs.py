"""The contract's result for people: Markdown for the asset graph, a page of our own, and Great Expectations' Data Docs."""

from __future__ import annotations

import re
from datetime import date

from assets.data.ingest import Examined, Figures
from assets.names import raw_name
from assets.reporting.page import PAGE, Section, Table, render
from assets.reporting.report import Measure, Report, Verdict

DATA_DOCS = "data_docs.html"
SHOWN_DAYS = 31

# Great Expectations' page wants Bootstrap, scripts and a logo from elsewhere; ours loads nothing.
_ELSEWHERE = re.compile(
    r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*>|<iframe\b.*?</iframe>|<form\b.*?</form>",
    re.DOTALL | re.IGNORECASE,
)
_STYLE = (
    "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    "<style>body{font:15px/1.5 system-ui,sans-serif;margin:24px;max-width:1100px}table{border-collapse:collapse}"
    "td,th{border:1px solid #ddd;padding:4px 10px;text-align:left;vertical-align:top}"
    "button,nav,.modal,#ge-cta-footer,.navbar{display:none}.badge{border:1px solid #bbb;border-radius:4px;padding:0 4px}</style>"
)


def markdown(examined: Examined) -> str:
    """Rules with broken rows, then the newest days."""
    broken = [rule for rule in examined.judgement.rules if rule.broken]
    lines = [
        f"{len(examined.judgement.rules)} rules over {sum(day.rows for day in examined.figures):,} rows.",
        "",
    ]
    if broken:
        lines += [
            "| broken rule | rows |",
            "|---|---:|",
            *(f"| {_cell(rule.text)} | {rule.broken:,} |" for rule in broken),
            "",
        ]
    shown = examined.figures[-SHOWN_DAYS:]
    lines += [
        "| day | landed | stored | quarantined | late | files |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {'once' if day.day is None else day.day} | {day.rows:,} | {day.stored:,} | {day.broken:,} | {day.late:,} | {day.files} |"
        for day in shown
    ]
    earlier = examined.figures[: -len(shown)]
    if earlier:
        lines += [
            "",
            f"and {len(earlier)} earlier days with {sum(day.rows for day in earlier):,} rows, {sum(day.broken for day in earlier):,} quarantined",
        ]
    return "\n".join(lines)


def report(pipeline: str, examined: Examined, today: date) -> Report:
    """The contract's result as a stored report; `today` stands for sources that land once."""
    rows, broken = (
        sum(day.rows for day in examined.figures),
        sum(day.broken for day in examined.figures),
    )
    limit = examined.source.refuses_above
    verdict = Verdict(
        rule="contract", passed=examined.refused is None, value=broken / rows if rows else 0.0, limit=limit, n=rows,
        reason=examined.refused or f"{broken} of {rows} rows break the contract; no day has more than {limit:.1%} of them",
    )  # fmt: skip
    measures = tuple(
        Measure(name="broken_rows", value=rule.broken, n=rows, group=rule.text)
        for rule in examined.judgement.rules
    )
    return Report(
        pipeline=pipeline, name=raw_name(examined.source.name), subject=examined.digest,
        day=max(examined.days, default=today), measures=measures, verdicts=(verdict,),
    )  # fmt: skip


def pages(result: Report, examined: Examined) -> dict[str, bytes]:
    """Pages of the report. Data Docs cost a third of a second: clean single days, the nightly case, have none."""
    source = examined.source
    rules = Table(
        ("rule", "rows that break it"),
        [(rule.text, f"{rule.broken:,}") for rule in examined.judgement.rules],
    )
    days = Table(
        ("day", "landed", "stored", "quarantined", "late", "longest delay (days)", "files", "digest"),
        [_row(figures) for figures in examined.figures],
    )  # fmt: skip
    samples = examined.broken.head(50)
    where = Table(
        ("file", "row", "reason", "record"),
        [
            (row["file"], str(row["row"]), row["reason"], row["record"])
            for row in samples.iter_rows(named=True)
        ],
        frozenset({2, 3}),
    )
    sections = [
        Section("Rules", "Derived from the declared columns.", tables=[rules]),
        Section("Days", tables=[days]),
    ]
    if samples.height:
        sections.insert(
            0,
            Section(
                "Broken rows",
                f"The first {samples.height} of {examined.broken.height:,}.",
                tables=[where],
            ),
        )
    facts = [
        ("rows landed", f"{sum(day.rows for day in examined.figures):,}"),
        ("quarantined", f"{examined.broken.height:,}"),
        ("days", f"{len(examined.figures):,}"),
    ]
    found = {
        PAGE: render(
            result,
            f"Contract of {source.name}",
            source.description or "Landed rows against their declared columns.",
            facts,
            sections,
        )
    }
    if (samples.height or len(examined.figures) > 1) and examined.judgement.results:
        found[DATA_DOCS] = data_docs(examined)
    return found


def data_docs(examined: Examined) -> bytes:
    """Great Expectations' own page of the validation, with nothing left in it that is loaded from elsewhere."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    content = ValidationResultsPageRenderer().render(examined.judgement.merged())
    html = str(DefaultJinjaPageView().render(content))
    return _ELSEWHERE.sub("", html).replace("<head>", f"<head>{_STYLE}", 1).encode()


def _row(figures: Figures) -> tuple[str, ...]:
    day = "once" if figures.day is None else figures.day.isoformat()
    return (
        day, f"{figures.rows:,}", f"{figures.stored:,}", f"{figures.broken:,}", f"{figures.late:,}", str(figures.latest), str(figures.files),
        figures.digest[:16],
    )  # fmt: skip


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
