"""Drift statistics of histograms and samples, in NumPy alone.

- PSI, the population stability index (Siddiqi 2006, *Credit Risk Scorecards*): the symmetric
  Kullback-Leibler divergence of two histograms;
- Jensen-Shannon distance, base 2, in [0, 1] (Endres and Schindelin 2003) of two histograms;
- the two-sample Kolmogorov-Smirnov statistic with its asymptotic p-value (Stephens 1970), and the
  Wasserstein-1 distance, both of sorted samples.

How values become histograms belongs in `reference`; what a statistic means belongs in `comparison`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

# Pseudo-count of every bin (Jeffreys), so that an empty bin has a finite logarithm.
_SMOOTHING = 0.5


def population_stability_index(expected: Counts, actual: Counts) -> float:
    """PSI of two histograms over the same bins.

    It is 0 for equal shares, and 0 where one of the histograms is empty.
    """
    if not expected.sum() or not actual.sum():
        return 0.0
    return float(psi_of_rows(expected, actual))


def jensen_shannon_distance(expected: Counts, actual: Counts) -> float:
    """Jensen-Shannon distance (base 2) of two histograms over the same bins, in [0, 1]."""
    if not expected.sum() or not actual.sum():
        return 0.0
    return float(js_of_rows(expected, actual))


def psi_of_rows(expected: Counts, actual: Counts) -> Floats:
    """PSI of each histogram (last axis) of `actual`; none may be empty."""
    first, second = _smoothed_shares(expected), _smoothed_shares(actual)
    return np.asarray(np.sum((second - first) * np.log(second / first), axis=-1))


def js_of_rows(expected: Counts, actual: Counts) -> Floats:
    """Jensen-Shannon distance of each histogram (last axis) of `actual`; none may be empty."""
    first, second = _shares(expected), _shares(actual)
    middle = (first + second) / 2

    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(first > 0, first * np.log2(first / middle), 0.0)
        right = np.where(second > 0, second * np.log2(second / middle), 0.0)

    divergence = np.sum((left + right) / 2, axis=-1)
    return np.asarray(np.sqrt(np.clip(divergence, 0.0, 1.0)), dtype=np.float64)


def kolmogorov_smirnov(first: Floats, second: Floats) -> tuple[float, float]:
    """Two-sample statistic and asymptotic p-value of sorted samples (n,), (m,) without NaN.

    With ties the p-value is conservative.
    """
    points = np.concatenate([first, second])
    gap = _empirical(first, points) - _empirical(second, points)
    statistic = float(np.abs(gap).max())

    size = math.sqrt(first.size * second.size / (first.size + second.size))
    scaled = (size + 0.12 + 0.11 / size) * statistic
    if scaled < 0.2:  # the series converges slowly there, and the p-value is 1 to eleven digits
        return statistic, 1.0

    terms = np.arange(1, 101)
    p = 2 * float(np.sum((-1.0) ** (terms - 1) * np.exp(-2 * (terms * scaled) ** 2)))
    return statistic, min(max(p, 0.0), 1.0)


def wasserstein(first: Floats, second: Floats) -> float:
    """Wasserstein-1 distance of sorted samples (n,), (m,) without NaN.

    It is in the unit of the values.
    """
    points = np.sort(np.concatenate([first, second]), kind="mergesort")
    gap = _empirical(first, points[:-1]) - _empirical(second, points[:-1])
    return float(np.sum(np.abs(gap) * np.diff(points)))


def _empirical(sample: Floats, points: Floats) -> Floats:
    """The empirical distribution function of a sorted sample at `points`."""
    return np.asarray(np.searchsorted(sample, points, side="right") / sample.size)


def _shares(counts: Counts) -> Floats:
    return np.asarray(counts / counts.sum(axis=-1, keepdims=True), dtype=np.float64)


def _smoothed_shares(counts: Counts) -> Floats:
    smoothed = counts + _SMOOTHING
    return np.asarray(smoothed / smoothed.sum(axis=-1, keepdims=True), dtype=np.float64)
