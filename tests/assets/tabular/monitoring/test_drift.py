"""Drift statistics: against SciPy where it has them, by their properties elsewhere."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from assets.tabular.monitoring.drift.comparison import drift, drifts
from assets.tabular.monitoring.drift.reference import (
    Reference,
    number_reference,
    reference,
    sampled_rows,
)
from assets.tabular.monitoring.drift.statistics import (
    jensen_shannon_distance,
    kolmogorov_smirnov,
    population_stability_index,
    wasserstein,
)

LIMITS = {"psi": 0.25, "jensen_shannon": 0.2, "minimum_rows": 200}
samples = hnp.arrays(np.float64, st.integers(1, 80), elements=st.floats(-1e6, 1e6, width=32)).map(
    np.sort
)
histograms = hnp.arrays(np.int64, 6, elements=st.integers(0, 10_000))


def frame(rows: int, days: int, seed: int, shift: float = 0.0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    first = date(2013, 1, 1)
    day = [first + timedelta(days=int(code)) for code in np.sort(rng.integers(0, days, rows))]
    return pl.DataFrame({
        "date": day,
        "distance": rng.gamma(2.0, 400.0, rows) * (1 + shift),
        "weekday": [float(each.isoweekday()) for each in day],
        "wind": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(10, 3, rows)),
        "carrier": rng.choice(["AA", "B6", "UA", "OO"], rows, p=[0.3, 0.3, 0.399, 0.001]).tolist(),
    })  # fmt: skip


NAMES = ("distance", "weekday", "wind", "carrier")


@settings(max_examples=200, deadline=None)
@given(samples, samples)
def test_kolmogorov_smirnov_and_wasserstein_agree_with_scipy(
    first: np.ndarray, second: np.ndarray
) -> None:
    stats = pytest.importorskip("scipy.stats")
    statistic, p = kolmogorov_smirnov(first, second)
    assert statistic == pytest.approx(stats.ks_2samp(first, second, method="asymp").statistic)
    assert 0 <= p <= 1
    assert wasserstein(first, second) == pytest.approx(
        stats.wasserstein_distance(first, second), rel=1e-9, abs=1e-6
    )


def test_the_p_value_is_that_of_scipy_for_real_sizes() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    for shift in (0.0, 0.05, 0.1, 0.3):
        first, second = np.sort(rng.normal(0, 1, 2_000)), np.sort(rng.normal(shift, 1, 900))
        assert kolmogorov_smirnov(first, second)[1] == pytest.approx(
            stats.ks_2samp(first, second).pvalue, rel=0.1, abs=1e-9
        )


@settings(max_examples=200, deadline=None)
@given(histograms, histograms)
def test_histogram_statistics_are_bounded_symmetric_and_zero_for_equal_shares(
    first: np.ndarray, second: np.ndarray
) -> None:
    distance = jensen_shannon_distance(first, second)
    assert 0 <= distance <= 1
    assert distance == pytest.approx(jensen_shannon_distance(second, first))
    assert population_stability_index(first, second) >= 0
    assert population_stability_index(first, first) == 0
    assert jensen_shannon_distance(first, first * 3) == pytest.approx(0, abs=1e-7)


def test_psi_is_the_textbook_number() -> None:
    expected, actual = np.array([25_000, 25_000, 50_000]), np.array([40_000, 30_000, 30_000])
    by_hand = 0.15 * np.log(0.4 / 0.25) + 0.05 * np.log(0.3 / 0.25) - 0.2 * np.log(0.3 / 0.5)
    assert population_stability_index(expected, actual) == pytest.approx(by_hand, rel=1e-3)


def test_no_drift_raises_no_alarm_and_a_shift_does() -> None:
    known = Reference.decode(reference(frame(60_000, 60, 1), NAMES))
    alarms = [
        found.feature
        for seed in range(20)
        for found in drifts(frame(900, 1, 100 + seed), known.features, **LIMITS)
        if found.drifted
    ]
    # One day in January is a single weekday: without calibrated limits the weekday would be an alarm on each of them.
    assert alarms == []
    shifted = {
        found.feature: found
        for found in drifts(frame(900, 1, 7, shift=0.6), known.features, **LIMITS)
    }
    assert shifted["distance"].drifted
    assert not shifted["wind"].drifted
    assert shifted["distance"].ks_p is not None
    assert shifted["distance"].ks_p < 1e-6


def test_values_beyond_the_reference_missing_values_and_unseen_categories_are_drift() -> None:
    known = Reference.decode(reference(frame(60_000, 60, 1), NAMES)).features
    day = frame(900, 1, 3)
    far = drift("distance", np.full(900, 1e6), known["distance"], **LIMITS)
    gone = drift("wind", np.full(900, np.nan), known["wind"], **LIMITS)
    unseen = drift("carrier", ["ZZ"] * 900, known["carrier"], **LIMITS)
    assert far.drifted
    assert gone.drifted
    assert unseen.drifted
    assert gone.null_share == 1
    assert gone.ks is None
    assert gone.judged_by == "psi"
    assert unseen.judged_by == "js"
    assert gone.reference_null_share == pytest.approx(0.1, abs=0.01)
    assert not drift("carrier", day["carrier"].to_list(), known["carrier"], **LIMITS).drifted


def test_too_few_rows_are_reported_and_not_judged() -> None:
    known = Reference.decode(reference(frame(5_000, 20, 1), NAMES)).features
    found = {each.feature: each for each in drifts(frame(199, 1, 3, shift=5.0), known, **LIMITS)}
    assert [each.drifted for each in found.values()] == [None] * 4
    assert found["distance"].psi > 1
    assert [each.drifted for each in drifts(frame(0, 1, 3), known, **LIMITS)] == [None] * 4


def test_the_reference_is_the_same_for_the_same_rows_and_survives_the_trip() -> None:
    first, again = reference(frame(9_000, 30, 1), NAMES), reference(frame(9_000, 30, 1), NAMES)
    assert first == again
    assert Reference.decode(first).encode() == first
    assert len(sampled_rows(9_000)) == 2_000
    assert len(sampled_rows(7)) == 7
    with pytest.raises(ValueError, match="0 rows"):
        reference(frame(0, 1, 1), NAMES)
    with pytest.raises(ValueError, match="lacks columns speed"):
        reference(frame(10, 1, 1), ("speed",))


def test_a_column_without_any_value_can_be_a_reference() -> None:
    known = number_reference(np.full(50, np.nan), sampled_rows(50))
    assert drift("x", np.full(300, np.nan), known, **LIMITS).drifted is False
    assert drift("x", np.full(300, 1.0), known, **LIMITS).drifted is True
