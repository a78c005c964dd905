"""Metrics equal scikit-learn's, with weights and ties, and never invent a number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from assets.tabular.tasks import metrics


def _sample(
    n: int = 3_000, seed: int = 1, digits: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    p = generator.beta(1, 3, n)
    y = (generator.random(n) < p).astype(float)
    return y, p if digits is None else p.round(digits), generator.random(n) * 3


@pytest.mark.parametrize("digits", [None, 2, 0])
@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_equal_scikit_learn(digits: int | None, weighted: bool) -> None:
    from sklearn import metrics as sk

    y, p, w = _sample(digits=digits)
    weights = w if weighted else None
    found = metrics.metrics(y, p, weights)
    assert found["log_loss"] == pytest.approx(sk.log_loss(y, p, sample_weight=weights), rel=1e-9)
    assert found["brier"] == pytest.approx(
        sk.brier_score_loss(y, p, sample_weight=weights), rel=1e-9
    )
    assert found["roc_auc"] == pytest.approx(
        sk.roc_auc_score(y, p, sample_weight=weights), rel=1e-9
    )
    assert found["pr_auc"] == pytest.approx(
        sk.average_precision_score(y, p, sample_weight=weights), rel=1e-9
    )


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 8), st.integers(0, 3)), min_size=2, max_size=40
    )
)
def test_ranking_metrics_equal_scikit_learn_on_small_tied_samples(
    rows: list[tuple[bool, int, int]],
) -> None:
    from sklearn import metrics as sk

    y, p, w = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    p = p / 8
    found = metrics.metrics(y, p, w)
    both = w[y == 1].sum() > 0 and w[y == 0].sum() > 0
    if not both:
        assert np.isnan(found["roc_auc"])
        return
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(y, p, sample_weight=w), abs=1e-9)
    assert found["pr_auc"] == pytest.approx(
        sk.average_precision_score(y, p, sample_weight=w), abs=1e-9
    )


def test_calibration_curve_equals_scikit_learn_and_its_error_is_its_mean_gap() -> None:
    from sklearn.calibration import calibration_curve

    y, p, _ = _sample()
    observed, predicted = calibration_curve(y, p, n_bins=10, strategy="quantile")
    curve = metrics.calibration_curve(y, p)
    assert curve.n.sum() == len(y)
    assert (
        np.abs(curve.observed - observed).max() < 0.01
    )  # the two place rows on a bin's edge differently
    assert np.abs(curve.predicted - predicted).max() < 0.01
    gaps = np.abs(curve.predicted - curve.observed) @ curve.n / len(y)
    assert metrics.calibration_error(y, p) == pytest.approx(gaps)


def test_calibration_error_sees_what_ranking_does_not() -> None:
    y, p, _ = _sample(20_000)
    assert metrics.calibration_error(y, p) < 0.02
    assert metrics.calibration_error(y, p / 2) > 0.1
    assert metrics.roc_auc(y, p / 2) == pytest.approx(metrics.roc_auc(y, p))


def test_weights_mean_repeated_rows() -> None:
    y, p, _ = _sample(500, digits=2)
    times = np.random.default_rng(3).integers(0, 4, 500)
    repeated = metrics.metrics(np.repeat(y, times), np.repeat(p, times))
    weighted = metrics.metrics(y, p, times.astype(float))
    for name in ("log_loss", "brier", "roc_auc", "pr_auc"):
        assert weighted[name] == pytest.approx(repeated[name], rel=1e-9)


def test_what_cannot_be_computed_is_nan() -> None:
    empty = np.zeros(0)
    assert all(np.isnan(value) for value in metrics.metrics(empty, empty).values())
    ones = metrics.metrics(np.ones(5), np.linspace(0.1, 0.9, 5))
    assert np.isnan(ones["roc_auc"])
    assert ones["pr_auc"] == pytest.approx(1.0)
    assert np.isnan(metrics.metrics(np.zeros(5), np.linspace(0.1, 0.9, 5))["pr_auc"])


def test_certain_and_wrong_is_finite() -> None:
    assert np.isfinite(metrics.log_loss(np.array([1.0, 0.0]), np.array([0.0, 1.0])))


@pytest.mark.parametrize(
    ("y", "p", "told"),
    [
        ([0, 1], [0.5], "shape"),
        ([0, 1], [0.5, np.nan], "finite"),
        ([0, 1], [0.5, 1.2], r"\[0, 1\]"),
        ([0, 2], [0.5, 0.5], "0 or 1"),
    ],
)
def test_nonsense_is_refused(y: list[float], p: list[float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        metrics.metrics(np.array(y, dtype=float), np.array(p))


def test_curves_end_where_they_must() -> None:
    y, p, _ = _sample(digits=1)
    false, true = metrics.roc_curve(y, p)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true, false) == pytest.approx(metrics.roc_auc(y, p))
    recall, precision = metrics.pr_curve(y, p)
    assert recall[-1] == 1
    assert precision[-1] == pytest.approx(y.mean())


def test_wilson_interval_holds_the_share_and_stays_within_bounds() -> None:
    low, high = metrics.wilson(np.array([0.0, 5.0, 10.0]), np.array([10.0, 10.0, 10.0]))
    assert low[0] == pytest.approx(0)
    assert high[2] == pytest.approx(1)
    assert low[1] == pytest.approx(0.2366, abs=1e-3)
    assert high[1] == pytest.approx(0.7634, abs=1e-3)
