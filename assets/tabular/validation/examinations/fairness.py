"""Whether the model treats declared groups alike: rates of the positive decision by group, and the gaps between groups.

Selection rate, true- and false-positive rate come from a table of counts (group, label, decision). Drawing n rows with
replacement and counting them again is a draw from the multinomial distribution of that table, so the bootstrap of gaps is
exact without touching a row. A single rate has its Wilson interval: the bootstrap of 0 out of 5 would pretend certainty. Definitions: demographic parity (Dwork et al. 2012), equal opportunity and equalised odds (Hardt,
Price and Srebro 2016). A gap is the greatest difference between any two judged groups.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from assets.reporting.report import Measure
from assets.tabular.tasks.metrics import Array, wilson
from assets.tabular.validation.bootstrap import (
    NO_INTERVAL,
    RESAMPLES,
    SEED,
    Interval,
    group_means,
    percentile_interval,
)
from assets.tabular.validation.examinations.slices import Groups, measure

RATES = ("selection_rate", "true_positive_rate", "false_positive_rate")
GAPS = ("demographic_parity", "equal_opportunity", "equalised_odds")


class Group(NamedTuple):
    """One group's rates, in the order of RATES, with intervals and the rows behind each; `calibration` is the mean prediction
    minus the observed rate. Groups below the minimum are reported, not judged."""

    name: str
    n: int
    base_rate: float
    rates: tuple[float, ...]
    rows: tuple[int, ...]
    intervals: tuple[Interval, ...]
    calibration: float
    calibration_interval: Interval
    judged: bool


class Fairness(NamedTuple):
    """Groups of one column, and the gaps between those that are judged, in the order of GAPS (NaN below two such groups)."""

    column: str
    threshold: float
    groups: tuple[Group, ...]
    gaps: tuple[float, ...]
    intervals: tuple[Interval, ...]
    n: int


def fairness(
    y: Array,
    p: Array,
    groups: Groups,
    column: str,
    threshold: float,
    min_rows: int,
    seed: int = SEED,
) -> Fairness:
    """Compare the groups of one column on decisions `p >= threshold`.

    A group is judged from `min_rows` rows on; its rate enters a gap only where it rests on at least `min_rows` / 10 rows of
    that label, since a rate over a handful of positives says nothing.
    """
    count = len(groups.names)
    decided = (p >= threshold).astype(np.int64)
    cells = np.bincount(
        groups.codes * 4 + y.astype(np.int64) * 2 + decided, minlength=4 * count
    ).astype(np.float64)
    n = int(cells.sum())
    generator = np.random.default_rng(seed)
    drawn = (
        generator.multinomial(n, cells / n, size=RESAMPLES).astype(np.float64)
        if n
        else np.zeros((0, 4 * count))
    )
    rates, rows = _rates(cells.reshape(1, count, 4))
    samples, _ = _rates(drawn.reshape(-1, count, 4))
    enough = (rows[0] >= np.array([min_rows, min_rows / 10, min_rows / 10])) & (
        rows[0, :, :1] >= min_rows
    )
    gaps = _gaps(rates, enough)[0]
    gap_samples = _gaps(samples, enough)
    low, high = wilson(rates[0] * rows[0], rows[0])
    calibrated = group_means(
        groups.codes, count, (p - y)[:, None], resamples=RESAMPLES // 2, seed=seed
    )
    found = tuple(
        Group(
            name, int(rows[0, g, 0]), float(y[groups.codes == g].mean()),
            tuple(map(float, rates[0, g])), tuple(map(int, rows[0, g])),
            tuple(Interval(float(low[g, r]), float(high[g, r])) if rows[0, g, r] else NO_INTERVAL for r in range(len(RATES))),
            float(calibrated.values[g, 0]), percentile_interval(calibrated.samples[:, g, 0]), bool(enough[g, 0]),
        )
        for g, name in enumerate(groups.names)
    )  # fmt: skip
    intervals = tuple(
        percentile_interval(gap_samples[:, k]) if np.isfinite(gaps[k]) else NO_INTERVAL
        for k in range(len(GAPS))
    )
    return Fairness(
        column,
        threshold,
        found,
        tuple(map(float, gaps)),
        intervals,
        int(sum(g.n for g in found if g.judged)),
    )


def measures(found: Fairness) -> list[Measure]:
    """Rates by group (`group` is column=value) and gaps (`group` is the column)."""
    result = [
        measure(gap, found.gaps[k], found.n, found.intervals[k], found.column)
        for k, gap in enumerate(GAPS)
    ]
    for group in found.groups:
        name = f"{found.column}={group.name}"
        result += [
            measure(rate, group.rates[r], group.rows[r], group.intervals[r], name)
            for r, rate in enumerate(RATES)
        ]
        result.append(
            measure("calibration_gap", group.calibration, group.n, group.calibration_interval, name)
        )
        result.append(measure("base_rate", group.base_rate, group.n, NO_INTERVAL, name))
    return result


def _rates(cells: Array) -> tuple[Array, Array]:
    """Rates and the rows behind them, (samples, groups, 3) each, from counts (samples, groups, 4) of (label, decision)."""
    refused_negative, taken_negative, refused_positive, taken_positive = np.moveaxis(cells, -1, 0)
    positives, negatives = refused_positive + taken_positive, refused_negative + taken_negative
    rows = np.stack([positives + negatives, positives, negatives], axis=-1)
    taken = np.stack([taken_positive + taken_negative, taken_positive, taken_negative], axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return taken / rows, rows


def _gaps(rates: Array, enough: Array) -> Array:
    """Greatest difference between judged groups, shape (samples, 3); NaN where fewer than two groups can be compared."""
    kept = np.where(enough[None], rates, np.nan)
    if kept.shape[0] == 0 or kept.shape[1] == 0:
        return np.full((kept.shape[0], 3), np.nan)
    known = (~np.isnan(kept)).sum(axis=1)
    high = np.where(np.isnan(kept), -np.inf, kept).max(axis=1)
    low = np.where(np.isnan(kept), np.inf, kept).min(axis=1)
    with np.errstate(invalid="ignore"):
        spread = np.where(known >= 2, high - low, np.nan)
    # Equalised odds: both error rates must be alike, so the worse of the two counts.
    odds = np.where(
        np.isnan(spread[:, 1]) | np.isnan(spread[:, 2]),
        np.nan,
        np.maximum(spread[:, 1], spread[:, 2]),
    )
    return np.stack([spread[:, 0], spread[:, 1], odds], axis=1)
