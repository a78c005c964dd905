"""Bootstrap intervals: rows are drawn with replacement, metrics computed again, percentiles taken (Efron 1979).

Everything compared is computed on the *same* draws, so differences between models are paired. A draw is a vector of row
counts (`bincount`), never a copied sample; predictions are sorted once. All functions are seeded: equal inputs give
equal intervals.

Rows of one day share its circumstances (weather, say); drawing rows alone understates the uncertainty about other days.
With `clusters` whole days are drawn instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from assets.tabular.tasks.metrics import NAMES, Array, Ranked

RESAMPLES = 1_000
LEVEL = 0.95
SEED = 20130101
_DRAWS = 50_000_000  # rows drawn at most in one bootstrap: very large samples need fewer resamples for steady percentiles


class Interval(NamedTuple):
    low: float
    high: float


NO_INTERVAL = Interval(np.nan, np.nan)


def resamples_for(n: int) -> int:
    """How many resamples a sample of n rows gets: 1,000, fewer (at least 200) beyond 50,000 rows."""
    return int(min(RESAMPLES, max(200, _DRAWS // max(n, 1))))


def draws(
    n: int, resamples: int, seed: int = SEED, clusters: NDArray[np.int64] | None = None
) -> Iterator[Array]:
    """Row counts of each resample, shape (n,). `clusters` numbers rows 0..k-1 by the cluster they are drawn with."""
    generator = np.random.default_rng(seed)
    if clusters is None:
        for _ in range(resamples):
            yield np.bincount(generator.integers(0, n, size=n, dtype=np.int32), minlength=n).astype(
                np.float64
            )
        return
    k = int(clusters.max()) + 1
    for _ in range(resamples):
        yield np.bincount(generator.integers(0, k, size=k, dtype=np.int32), minlength=k).astype(
            np.float64
        )[clusters]


def percentile_interval(samples: Array, level: float = LEVEL) -> Interval:
    """Percentile interval of bootstrap samples; NaN when fewer than half of the samples could be computed."""
    known = samples[~np.isnan(samples)]
    if not len(known) or 2 * len(known) < len(samples):
        return NO_INTERVAL
    low, high = np.quantile(known, ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(low), float(high))


class Bootstrap(NamedTuple):
    """Metrics of several models on the same rows: values (metrics,) and resampled values (resamples, metrics) by model."""

    n: int
    values: dict[str, Array]
    samples: dict[str, Array]

    def value(self, model: str, metric: str) -> float:
        return float(self.values[model][NAMES.index(metric)])

    def interval(self, model: str, metric: str) -> Interval:
        return percentile_interval(self.samples[model][:, NAMES.index(metric)])

    def difference(self, model: str, other: str, metric: str) -> tuple[float, Interval]:
        """`model` minus `other`, paired."""
        column = NAMES.index(metric)
        samples = self.samples[model][:, column] - self.samples[other][:, column]
        return self.value(model, metric) - self.value(other, metric), percentile_interval(samples)


def compare(
    y: Array,
    predictions: Mapping[str, Array],
    resamples: int | None = None,
    seed: int = SEED,
    weights: Array | None = None,
    clusters: NDArray[np.int64] | None = None,
) -> Bootstrap:
    """Bootstrap all metrics of all models on the same draws."""
    n = len(y)
    ranked = {model: Ranked(y, p) for model, p in predictions.items()}
    values = {model: r.metrics(weights) for model, r in ranked.items()}
    times = resamples_for(n) if resamples is None else resamples
    samples = {model: np.full((times, len(NAMES)), np.nan) for model in ranked}
    if n:
        for index, counts in enumerate(draws(n, times, seed, clusters)):
            drawn = counts if weights is None else counts * weights
            for model, r in ranked.items():
                samples[model][index] = r.metrics(drawn)
    return Bootstrap(n, values, samples)


def means(columns: Array, resamples: int = RESAMPLES, seed: int = SEED) -> tuple[Array, Array]:
    """Intervals of the means of columns (n, k) on shared draws: lower and upper ends, shape (k,) each."""
    n, k = columns.shape
    if not n:
        return np.full(k, np.nan), np.full(k, np.nan)
    samples = np.empty((resamples, k))
    for index, counts in enumerate(draws(n, resamples, seed)):
        samples[index] = np.einsum("i,ik->k", counts, columns) / n
    low, high = np.quantile(samples, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), axis=0)
    return low, high


class GroupMeans(NamedTuple):
    """Means by group: counts and values (groups, k), resampled values (resamples, groups, k) and overall (resamples, k)."""

    n: NDArray[np.int64]
    values: Array
    samples: Array
    overall: Array


def group_means(
    codes: NDArray[np.int64],
    groups: int,
    columns: Array,
    resamples: int | None = None,
    seed: int = SEED,
) -> GroupMeans:
    """Bootstrap means of columns (n, k) within groups (codes 0..groups-1) together with the means over all rows.

    A resampled group that holds no row is NaN in that resample.
    """
    n, k = columns.shape
    count = np.bincount(codes, minlength=groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = np.stack(
            [np.bincount(codes, weights=columns[:, j], minlength=groups) for j in range(k)], axis=1
        )
        values = sums / count[:, None]
        times = resamples_for(n) if resamples is None else resamples
        samples = np.full((times, groups, k), np.nan)
        overall = np.full((times, k), np.nan)
        if n:
            # Sorted by group, a group's sum is one contiguous reduction.
            order = np.argsort(codes, kind="stable")
            present = np.flatnonzero(count)
            starts = np.concatenate([[0], np.cumsum(count[present])[:-1]]).astype(np.intp)
            ordered = np.ascontiguousarray(columns[order].T)
            for index, counts in enumerate(draws(n, times, seed)):
                drawn = np.add.reduceat(counts, starts)
                for j in range(k):
                    totals = np.add.reduceat(counts * ordered[j], starts)
                    samples[index, present, j] = totals / drawn
                    overall[index, j] = totals.sum() / n
    return GroupMeans(count, values, samples, overall)
