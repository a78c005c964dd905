"""Bootstrap intervals: whole days are drawn with replacement, metrics computed again.

Rows of one day share its circumstances (weather, say), so drawing rows understates the uncertainty
about other days; days are drawn instead (Cameron, Gelbach and Miller 2008, *Bootstrap-Based
Improvements for Inference with Clustered Errors*). Percentiles of few days are too narrow: they are
expanded by the t distribution of as many (Hesterberg 2015, *What Teachers Should Know About the
Bootstrap*). Fewer than `MIN_DAYS` days give no interval.

Everything compared is computed on the *same* draws, so differences between models are paired. A
draw is a vector of counts, never a copied sample; predictions are sorted once. All functions are
seeded: equal inputs give equal intervals. Without days, rows are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assets.tabular.tasks.metrics import NAMES, Array, Ranked

RESAMPLES = 1_000
LEVEL = 0.95
SEED = 20130101
MIN_DAYS = 5
# Rows drawn at most in one bootstrap: large samples need fewer resamples for steady percentiles.
_DRAWS = 50_000_000

Codes = NDArray[np.int64]


class Interval(NamedTuple):
    low: float
    high: float


NO_INTERVAL = Interval(np.nan, np.nan)


def resamples_for(n: int) -> int:
    """How many resamples a sample of n rows gets: 1,000, fewer (at least 200) beyond 50,000."""
    return int(min(RESAMPLES, max(200, _DRAWS // max(n, 1))))


def number_days(days: NDArray[Any]) -> Codes:
    """The days of rows (n,) as codes 0..k-1, in order; every code occurs."""
    return np.unique(days, return_inverse=True)[1].astype(np.int64)


def count_days(days: Codes | None) -> int | None:
    """How many days rows with the codes 0..k-1 lie on; None where rows are drawn."""
    if days is None:
        return None
    return int(days.max()) + 1 if len(days) else 0


def draws(n: int, resamples: int, seed: int = SEED, days: Codes | None = None) -> Iterator[Array]:
    """Row counts of each resample, shape (n,). `days` numbers the rows' days 0..k-1."""
    generator = np.random.default_rng(seed)
    units = n if days is None else int(days.max()) + 1
    for _ in range(resamples):
        drawn = generator.integers(0, units, size=units, dtype=np.int32)
        counts = np.bincount(drawn, minlength=units).astype(np.float64)
        yield counts if days is None else counts[days]


def day_draws(days: int, resamples: int, seed: int = SEED) -> Array:
    """How often each day is drawn in each resample, shape (resamples, days)."""
    generator = np.random.default_rng(seed)
    shares = np.full(days, 1 / days)
    return generator.multinomial(days, shares, size=resamples).astype(np.float64)


def percentile_interval(samples: Array, days: int | None = None, level: float = LEVEL) -> Interval:
    """Percentile interval of bootstrap samples; expanded for `days` where whole days were drawn.

    There is none when fewer than half of the samples could be computed, or for too few days.
    """
    known = samples[~np.isnan(samples)]
    if not len(known) or 2 * len(known) < len(samples):
        return NO_INTERVAL
    if days is not None and days < MIN_DAYS:
        return NO_INTERVAL

    tail = (1 - level) / 2 if days is None else _expanded_tail(days, (1 - level) / 2)
    low, high = np.quantile(known, (tail, 1 - tail))
    return Interval(float(low), float(high))


class Bootstrap(NamedTuple):
    """Metrics of several models on the same rows, by model.

    `values` has shape (metrics,), `samples` (resamples, metrics); `days` is the number of days
    that were drawn, None where rows were.
    """

    n: int
    values: dict[str, Array]
    samples: dict[str, Array]
    days: int | None = None

    def value(self, model: str, metric: str) -> float:
        return float(self.values[model][NAMES.index(metric)])

    def interval(self, model: str, metric: str) -> Interval:
        return percentile_interval(self.samples[model][:, NAMES.index(metric)], self.days)

    def difference(self, model: str, other: str, metric: str) -> tuple[float, Interval]:
        """`model` minus `other`, paired."""
        column = NAMES.index(metric)
        samples = self.samples[model][:, column] - self.samples[other][:, column]
        value = self.value(model, metric) - self.value(other, metric)
        return value, percentile_interval(samples, self.days)


def compare(
    y: Array,
    predictions: Mapping[str, Array],
    resamples: int | None = None,
    seed: int = SEED,
    days: Codes | None = None,
) -> Bootstrap:
    """Bootstrap all metrics of all models on the same draws."""
    n = len(y)
    ranked = {model: Ranked(y, p) for model, p in predictions.items()}
    values = {model: each.metrics() for model, each in ranked.items()}
    times = resamples_for(n) if resamples is None else resamples
    samples = {model: np.full((times, len(NAMES)), np.nan) for model in ranked}
    if n:
        for index, counts in enumerate(draws(n, times, seed, days)):
            for model, each in ranked.items():
                samples[model][index] = each.metrics(counts)
    return Bootstrap(n, values, samples, count_days(days))


def means(
    columns: Array, days: Codes, resamples: int = RESAMPLES, seed: int = SEED
) -> list[Interval]:
    """Intervals of the means of columns (n, k) on shared draws of days."""
    n, k = columns.shape
    groups = group_means(np.zeros(n, dtype=np.int64), 1, columns, days, resamples, seed)
    return [percentile_interval(groups.overall[:, column], groups.days) for column in range(k)]


class GroupMeans(NamedTuple):
    """Means by group on shared draws of days.

    Counts (groups,) and values (groups, k), resampled values (resamples, groups, k) and resampled
    means over all rows (resamples, k). `days` is the number of days that were drawn.
    """

    n: Codes
    values: Array
    samples: Array
    overall: Array
    days: int


def group_means(
    codes: Codes,
    groups: int,
    columns: Array,
    days: Codes,
    resamples: int | None = None,
    seed: int = SEED,
) -> GroupMeans:
    """Bootstrap means of columns (n, k) within groups (codes 0..groups-1) and over all rows.

    A group that holds no row in a resample is NaN there.
    """
    n, k = columns.shape
    count = count_days(days) or 0
    times = resamples_for(n) if resamples is None else resamples

    # Sums by group and day; the last column sums ones: the rows.
    values = np.column_stack([columns, np.ones(n)])
    cells = codes * count + days
    sums = np.zeros((groups, count, k + 1))
    for j in range(k + 1):
        by_cell = np.bincount(cells, weights=values[:, j], minlength=groups * count)
        sums[:, :, j] = by_cell.reshape(groups, count)

    drawn = day_draws(count, times, seed) if count else np.zeros((times, 0))
    total, resampled = sums.sum(axis=1), np.einsum("rd,gdk->rgk", drawn, sums, optimize=True)
    whole = resampled.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return GroupMeans(
            total[:, k].astype(np.int64),
            total[:, :k] / total[:, k:],
            resampled[:, :, :k] / resampled[:, :, k:],
            whole[:, :k] / whole[:, k:],
            count,
        )


def _expanded_tail(days: int, tail: float) -> float:
    """The tail of the percentiles that gives a mean over few days the width of its t interval."""
    quantile = _t_quantile(days - 1, 1 - tail)
    return NormalDist().cdf(-math.sqrt(days / (days - 1)) * quantile)


def _t_quantile(freedom: int, p: float) -> float:
    """Quantile of Student's t by its expansion in 1/freedom (Abramowitz and Stegun 26.7.5).

    Off by less than 1 % from four degrees of freedom on.
    """
    z: float = NormalDist().inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, 1))
