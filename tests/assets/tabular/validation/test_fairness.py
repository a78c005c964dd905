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


def _days(n: int) -> np.ndarray:
    return np.arange(n) % 20


def test_rates_equal_rates_by_hand() -> None:
    y, p, group = _groups(0.2)
    found = fairness.fairness(y, p, grouping(group), _days(len(y)), "group", 0.5, 100)
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
    found = fairness.fairness(y, p, grouping(group), _days(len(y)), "group", 0.5, 100)
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
    assert (
        max(fairness.fairness(y, p, grouping(group), _days(len(y)), "group", 0.5, 100).gaps) < 0.05
    )


def test_the_bootstrap_of_counts_equals_drawing_the_rows_of_whole_days() -> None:
    y, p, group = _groups(0.2, 2_000)
    days = _days(2_000)
    p = np.clip(p - 0.03 * (days % 4) * (group == "a"), 0, 1)  # a gap that differs by day
    found = fairness.fairness(y, p, grouping(group), days, "group", 0.5, 50)
    generator, gaps = np.random.default_rng(1), []
    rows_of = [np.flatnonzero(days == day) for day in range(20)]
    for _ in range(1_000):
        drawn = np.concatenate([rows_of[day] for day in generator.integers(0, 20, 20)])
        rates = [(p[drawn][group[drawn] == each] >= 0.5).mean() for each in "ab"]
        gaps.append(abs(rates[0] - rates[1]))
    # The interval is a little wider than these percentiles: twenty days are few.
    low, high = np.quantile(gaps, (0.0173, 0.9827))
    assert found.intervals[0] == pytest.approx((low, high), abs=0.008)


def test_small_groups_are_reported_but_not_judged() -> None:
    y, p, group = _groups(0.0)
    group[:20], p[:20] = "tiny", 1.0
    found = fairness.fairness(y, p, grouping(group), _days(len(y)), "group", 0.5, 100)
    tiny = found.groups[2]
    assert (tiny.name, tiny.n, tiny.judged) == ("tiny", 20, False)
    assert max(found.gaps) < 0.05


def test_one_judged_group_gives_no_gap() -> None:
    y, p, _ = _groups(0.0, 500)
    found = fairness.fairness(
        y, p, grouping(np.full(500, "only", dtype=object)), _days(500), "group", 0.5, 100
    )
    assert np.isnan(found.gaps).all()
    assert {measure.value for measure in fairness.measures(found) if measure.group == "group"} == {
        None
    }
