"""Evidently's own report: bounded, self-contained, and in agreement about what drifted."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest

from assets.tabular.monitoring import evidently_report
from assets.tabular.monitoring.drift import Reference, reference


def frame(rows: int, seed: int, shift: float = 0.0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame({
        "temp": rng.normal(50 + shift, 10, rows), "wind": rng.normal(10, 3, rows), "gone": pl.Series([None] * rows, dtype=pl.Float64),
        "carrier": rng.choice(["AA", "UA", "DL"], rows).tolist(),
    })  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_the_page_is_bounded_self_contained_and_names_what_drifted() -> None:
    known = Reference.decode(reference(frame(9_000, 1), ("temp", "wind", "gone", "carrier")))
    found = evidently_report.render(frame(5_000, 2, shift=25), known, 0.25, 0.2)
    assert found is not None
    assert (found.rows, found.reference_rows) == (2_000, 2_000)
    assert found.statistics["temp"] > 0.25 > found.statistics["wind"]
    assert found.drifted_share == pytest.approx(1 / 3)
    assert "gone" not in found.statistics
    page = found.html.decode()
    assert page.lstrip().lower().startswith(("<!doctype", "<html", "<head"))
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']https?://", page)


@pytest.mark.filterwarnings("ignore")
def test_nothing_to_compare_is_no_page() -> None:
    known = Reference.decode(reference(frame(900, 1), ("gone",)))
    assert evidently_report.render(frame(100, 2), known, 0.25, 0.2) is None
