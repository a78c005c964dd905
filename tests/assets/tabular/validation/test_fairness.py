"""Fairness: rates by hand, gaps between groups with enough rows alone."""

from __future__ import annotations

import numpy as np
import pytest

from assets.tabular.validation.examinations import fairness
from assets.tabular.validation.examinations.slices import grouping


def _groups(bias: float, n: int = 6_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(7)
    group = generator.choice(["a", "b"], n).astype(object)
    risk = generator.uniform(0, 1, n)
    y = (generator.random(n) < risk).astype(float)
    return y, np.clip(risk - np.where(group == "b", bias, 0), 0, 1), group


def test_rates_equal_rates_by_hand() -> None:
    y, p, group = _groups(0.2)
    found = fairness.fairness(y, p, grouping(group), "group", 0.5, 100)
    b = found.groups[1]
    rows, taken = group == "b", p >= 0.5
    assert b.rates == pytest.approx(
        (taken[rows].mean(), taken[rows & (y == 1)].mean(), taken[rows & (y == 0)].mean())
    )
    assert b.rows == (rows.sum(), (rows & (y == 1)).sum(), (rows & (y == 0)).sum())
    assert b.calibration == pytest.approx((p - y)[rows].mean())
    assert all(
        interval.low < rate < interval.high
        for rate, interval in zip(b.rates, b.intervals, strict=True)
    )


def test_gaps_are_the_greatest_differences() -> None:
    y, p, group = _groups(0.2)
    found = fairness.fairness(y, p, grouping(group), "group", 0.5, 100)
    a, b = found.groups
    parity, opportunity, odds = found.gaps
    assert parity == pytest.approx(abs(a.rates[0] - b.rates[0]))
    assert opportunity == pytest.approx(abs(a.rates[1] - b.rates[1]))
    assert odds == pytest.approx(max(abs(a.rates[1] - b.rates[1]), abs(a.rates[2] - b.rates[2])))
    assert all(
        interval.low < gap < interval.high
        for gap, interval in zip(found.gaps, found.intervals, strict=True)
    )


def test_a_fair_model_has_small_gaps() -> None:
    y, p, group = _groups(0.0)
    assert max(fairness.fairness(y, p, grouping(group), "group", 0.5, 100).gaps) < 0.05


def test_the_bootstrap_of_counts_equals_that_of_rows() -> None:
    y, p, group = _groups(0.2, 1_000)
    found = fairness.fairness(y, p, grouping(group), "group", 0.5, 50)
    generator, rates = np.random.default_rng(1), []
    for _ in range(1_000):
        drawn = generator.integers(0, 1_000, 1_000)
        rows = group[drawn] == "a"
        rates.append((p[drawn][rows] >= 0.5).mean())
    low, high = np.quantile(rates, (0.025, 0.975))
    assert found.groups[0].intervals[0] == pytest.approx((low, high), abs=0.006)


def test_small_groups_are_reported_but_not_judged() -> None:
    y, p, group = _groups(0.0)
    group[:20], p[:20] = "tiny", 1.0
    found = fairness.fairness(y, p, grouping(group), "group", 0.5, 100)
    tiny = found.groups[2]
    assert (tiny.name, tiny.n, tiny.judged) == ("tiny", 20, False)
    assert max(found.gaps) < 0.05


def test_one_judged_group_gives_no_gap() -> None:
    y, p, _ = _groups(0.0, 500)
    found = fairness.fairness(y, p, grouping(np.full(500, "only", dtype=object)), "group", 0.5, 100)
    assert np.isnan(found.gaps).all()
    assert {measure.value for measure in fairness.measures(found) if measure.group == "group"} == {
        None
    }
