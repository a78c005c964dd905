"""Reports as pages for people: one self-contained HTML file, nothing loaded from elsewhere, everything escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from assets.reporting.report import Report, Verdict
from assets.reporting.tables import number

PAGE = "index.html"

_STYLE = """
:root{--ink:#1f2937;--soft:#6b7280;--line:#e5e7eb;--paper:#fff;--ground:#f6f7f5;--good:#15803d;--bad:#b91c1c;--none:#92400e}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1040px;margin:0 auto;padding:32px 24px 64px}
header .crumb{color:var(--soft);font-size:13px}
h1{font-size:26px;line-height:1.25;margin:2px 0 6px;letter-spacing:-.01em}
h2{font-size:17px;margin:0 0 4px}
p{margin:4px 0 12px;max-width:78ch}
.lead{color:#374151}
section,.facts{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:18px 20px;margin:16px 0}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(205px,1fr));gap:12px 24px;padding:14px 20px}
.facts dt{color:var(--soft);font-size:12px}.facts dd{margin:0;font-weight:600;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto;margin-top:10px}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:5px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--soft);font-weight:600;font-size:12px;vertical-align:bottom}
td:first-child,th:first-child{text-align:left;padding-left:0}
td.words,th.words{text-align:left;white-space:normal;min-width:300px}
tr:last-child td{border-bottom:0}
small{color:var(--soft);font-size:12px}
.badge{display:inline-block;border-radius:999px;padding:1px 10px;font-size:12px;font-weight:600;border:1px solid currentColor}
.pass{color:var(--good)}.fail{color:var(--bad)}.open{color:var(--none)}
figure{margin:10px 0 4px}figure img{max-width:100%;height:auto;display:block}
figcaption{color:var(--soft);font-size:12.5px;margin-top:4px}
ul.notes{margin:6px 0 0;padding-left:18px}
footer{color:var(--soft);font-size:12.5px;margin-top:24px}
@media print{body{background:#fff}section,.facts{break-inside:avoid}}
"""


class Image(NamedTuple):
    """A PNG `width` CSS pixels wide at most, with what it shows in words."""

    content: bytes
    caption: str
    width: int = 900


class Table(NamedTuple):
    """Rows of plain text cells under a header; columns in `words` hold sentences."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: frozenset[int] = frozenset()


class Section(NamedTuple):
    heading: str
    text: str = ""
    images: Sequence[Image] = ()
    tables: Sequence[Table] = ()


def render(
    report: Report,
    title: str,
    lead: str,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[Section],
) -> bytes:
    """The page of a report: title, facts, gates, what was not checked, then the sections."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width,initial-scale=1'>",
        # The page runs no script and loads nothing, whatever text got into it.
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
        f"<title>{escape(title)} · {escape(report.pipeline)}</title><style>{_STYLE}</style></head><body><main>",
        f"<header><div class='crumb'>{escape(report.pipeline)} · {escape(report.name)} · as of {report.day.isoformat()}</div>",
        f"<h1>{escape(title)} {_badge(_overall(report))}</h1><p class='lead'>{escape(lead)}</p></header>",
        "<dl class='facts'>"
        + "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts
        )
        + "</dl>",
        _gates(report.verdicts),
        _notes(report.notes),
        *map(_section, sections),
        f"<footer>Report {escape(report.digest[:16])} on {escape(report.subject)}. Intervals are 95 % percentile bootstrap intervals unless said otherwise.</footer>",
        "</main></body></html>",
    ]
    return "".join(parts).encode()


def _overall(report: Report) -> bool | None:
    if not report.passed:
        return False
    return True if any(verdict.passed for verdict in report.verdicts) else None


def _badge(passed: bool | None) -> str:
    kind, word = {
        True: ("pass", "passed"),
        False: ("fail", "failed"),
        None: ("open", "not judged"),
    }[passed]
    return f"<span class='badge {kind}'>{word}</span>"


def _gates(verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return "<section><h2>Gates</h2><p>No gate is declared over this report.</p></section>"
    rows = "".join(
        f"<tr><td>{escape(verdict.rule.replace('_', ' '))}</td><td>{_badge(verdict.passed)}</td><td>{number(verdict.value)}</td>"
        f"<td>{number(verdict.limit)}</td><td>{verdict.n:,}</td><td class='words'>{escape(verdict.reason)}</td></tr>"
        for verdict in verdicts
    )
    head = "<tr><th>gate</th><th></th><th>number</th><th>limit</th><th>n</th><th class='words'>reason</th></tr>"
    return f"<section><h2>Gates</h2><div class='scroll'><table><thead>{head}</thead><tbody>{rows}</tbody></table></div></section>"


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return (
        "<section><h2>Notes</h2><ul class='notes'>"
        + "".join(f"<li>{escape(note)}</li>" for note in notes)
        + "</ul></section>"
    )


def _section(section: Section) -> str:
    text = f"<p>{escape(section.text)}</p>" if section.text else ""
    images = "".join(
        f"<figure><img alt='{escape(image.caption, quote=True)}' style='width:{int(image.width)}px' "
        f"src='data:image/png;base64,{base64.b64encode(image.content).decode()}'><figcaption>{escape(image.caption)}</figcaption></figure>"
        for image in section.images
    )
    return f"<section><h2>{escape(section.heading)}</h2>{text}{images}{''.join(map(_table, section.tables))}</section>"


def _table(table: Table) -> str:
    def cell(tag: str, index: int, text: str) -> str:
        return f"<{tag}{' class=' + repr('words') if index in table.words else ''}>{escape(text)}</{tag}>"

    head = "".join(cell("th", index, text) for index, text in enumerate(table.header))
    rows = "".join(
        "<tr>" + "".join(cell("td", index, text) for index, text in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
