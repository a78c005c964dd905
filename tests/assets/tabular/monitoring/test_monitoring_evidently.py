"""Evidently's page: the same verdicts as the check, bounded, self-contained, safe to open."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest

from assets.tabular.monitoring.drift import evidently_page, report
from assets.tabular.monitoring.drift.reference import Reference, reference
from declare.monitors import Monitors

FEATURES = ("temp", "wind", "gone", "rare", "carrier", "hostile")
HOSTILE = "</script><script>alert(1)</script>"
LIMITS = Monitors(minimum_rows=100)

pytestmark = pytest.mark.filterwarnings("ignore")


def frame(rows: int, seed: int, shift: float = 0.0, missing: float = 0.1) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    rare = np.where(rng.random(rows) < missing, np.nan, rng.normal(size=rows))
    carriers = ["AA", "UA", "DL"]
    return pl.DataFrame({
        "date": [row % 20 for row in range(rows)],
        "temp": rng.normal(50 + shift, 10, rows),
        "wind": rng.normal(10, 3, rows),
        "gone": pl.Series([None] * rows, dtype=pl.Float64),
        "rare": pl.Series(rare).fill_nan(None),
        "carrier": rng.choice(carriers, rows, p=[0.9, 0.05, 0.05] if shift else None).tolist(),
        "hostile": rng.choice([HOSTILE, "a & b"], rows).tolist(),
    })  # fmt: skip


@pytest.fixture(scope="module")
def known() -> Reference:
    return Reference.decode(reference(frame(9_000, 1), FEATURES))


@pytest.mark.parametrize(
    ("day", "drifting"),
    [
        (frame(5_000, 2), set()),
        (frame(5_000, 3, shift=25), {"temp", "carrier"}),
        # Only the share of missing values moved: no method of Evidently's own sees that.
        (frame(900, 4, missing=0.9), {"rare"}),
    ],
    ids=["quiet", "drifting", "values are missing"],
)
def test_evidentlys_own_tests_equal_the_verdicts_column_by_column(
    known: Reference, day: pl.DataFrame, drifting: set[str]
) -> None:
    measures, _, _ = report.data_drift(day, known, LIMITS)
    stored = {(each.group, each.name): each.value for each in measures}

    page = evidently_page.render(day, known, report.compared(day, known, LIMITS))

    assert page is not None
    assert page.left_out == ("gone",)
    assert set(page.features) == set(FEATURES) - {"gone"}
    for name, judged in page.features.items():
        statistic = "jensen_shannon" if name in ("carrier", "hostile") else "psi"
        assert judged.score == pytest.approx(stored[name, statistic])
        assert judged.limit == stored[name, "limit"]
        assert judged.drifted is bool(stored[name, "drifted"])
    assert {name for name, judged in page.features.items() if judged.drifted} == drifting


def test_the_page_is_self_contained_and_no_value_of_the_data_becomes_markup(
    known: Reference,
) -> None:
    day = frame(2_500, 2)
    page = evidently_page.render(day, known, report.compared(day, known, LIMITS))
    assert page is not None
    html = page.html.decode()
    assert html.lstrip().lower().startswith(("<!doctype", "<html", "<head"))
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']https?://", html)
    assert "alert(1)" in html, "the category is drawn"
    assert HOSTILE not in html
    assert "<script>alert" not in html


def test_nothing_to_compare_is_no_page() -> None:
    known = Reference.decode(reference(frame(900, 1), ("gone",)))
    day = frame(900, 2)
    assert evidently_page.render(day, known, report.compared(day, known, LIMITS)) is None


def test_a_day_of_too_few_rows_is_not_judged_and_not_drawn(known: Reference) -> None:
    day = frame(99, 2)
    assert evidently_page.render(day, known, report.compared(day, known, LIMITS)) is None
