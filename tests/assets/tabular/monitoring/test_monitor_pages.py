"""Pages of monitors: whatever a category is called, it is text."""

from __future__ import annotations

from datetime import date

from assets.reporting.report import Measure, Report, Verdict
from assets.tabular.monitoring import pages
from assets.tabular.monitoring.drift.evidently_page import Judged, Page
from assets.tabular.monitoring.monitors import DATA_DRIFT, FAIRNESS

EVIL = "<script>alert(1)</script>"


def _report(name: str) -> Report:
    verdict = Verdict(rule="drift_share", passed=None, value=0.1, limit=0.3, n=9, reason=EVIL)
    return Report(
        pipeline="p",
        name=name,
        subject="b" * 64,
        day=date(2024, 1, 2),
        measures=(Measure(name="selection_rate", value=0.2, n=900, group=f"origin={EVIL}"),),
        verdicts=(verdict,),
        notes=(EVIL,),
    )


def test_hostile_categories_reasons_and_notes_are_escaped() -> None:
    page = pages.page(_report(FAIRNESS)).decode()
    assert page.count("&lt;script&gt;") == 3
    assert "<script" not in page


def test_evidentlys_page_is_linked_and_what_it_cannot_draw_is_named() -> None:
    drawn = Page(b"", {"load": Judged(0.3, 0.25, True), "heat": Judged(0.1, 0.25, False)}, (EVIL,))
    page = pages.page(_report(DATA_DRIFT), drawn=drawn).decode()
    assert 'href="evidently.html"' in page
    assert "calls 1 of 2 drifted" in page
    assert "cannot draw features without values: &lt;script&gt;" in page
    assert "<script" not in page
