"""Whether the model treats declared groups alike: rates by group, and the gaps between groups.

Selection rate, true- and false-positive rate come from a table of counts (day, group, label,
decision). Drawing whole days and adding up their counts is the bootstrap by days without touching
a row. A single rate has its Wilson interval: the bootstrap of 0 out of 5 would pretend certainty.

Definitions: demographic parity (Dwork et al. 2012), equal opportunity and equalised odds (Hardt,
Price and Srebro 2016). A gap is the greatest difference between any two judged groups.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from assets.reporting.report import Measure
from assets.tabular.tasks.metrics import Array, wilson
from assets.tabular.validation.bootstrap import (
    NO_INTERVAL,
    RESAMPLES,
    SEED,
    Codes,
    Interval,
    count_days,
    day_draws,
    group_means,
    percentile_interval,
)
from assets.tabular.validation.examinations.slices import Groups, measure

RATES = ("selection_rate", "true_positive_rate", "false_positive_rate")
GAPS = ("demographic_parity", "equal_opportunity", "equalised_odds")


class Group(NamedTuple):
    """One group's rates, in the order of RATES, with intervals and the rows behind each.

    `calibration` is the mean prediction minus the observed rate. Groups below the minimum are
    reported, not judged.
    """

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
    """Groups of one column, and the gaps between those that are judged, in the order of GAPS.

    A gap is NaN below two judged groups.
    """

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
    days: Codes,
    column: str,
    threshold: float,
    min_rows: int,
    seed: int = SEED,
) -> Fairness:
    """Compare the groups of one column on decisions `p >= threshold`.

    A group is judged from `min_rows` rows on. Its rate enters a gap only where it rests on at least
    `min_rows` / 10 rows of that label, since a rate over a handful of positives says nothing.
    """
    count, number = len(groups.names), count_days(days) or 0
    cells = _cells(y, p >= threshold, groups, days)
    drawn = day_draws(number, RESAMPLES, seed) if number else np.zeros((0, 0))
    rates, rows = _rates(cells.sum(axis=0).reshape(1, count, 4))
    samples, _ = _rates((drawn @ cells.reshape(number, 4 * count)).reshape(-1, count, 4))

    least = np.array([min_rows, min_rows / 10, min_rows / 10])
    enough = (rows[0] >= least) & (rows[0, :, :1] >= min_rows)
    gaps, gap_samples = _gaps(rates, enough)[0], _gaps(samples, enough)
    intervals = tuple(
        percentile_interval(gap_samples[:, k], number) if np.isfinite(gaps[k]) else NO_INTERVAL
        for k in range(len(GAPS))
    )

    compared = _groups(y, p, groups, days, rates[0], rows[0], enough[:, 0], seed)
    judged = int(sum(group.n for group in compared if group.judged))
    return Fairness(column, threshold, compared, tuple(map(float, gaps)), intervals, judged)


def _cells(y: Array, decided: NDArray[np.bool_], groups: Groups, days: Codes) -> Array:
    """Counts of (label, decision) by day and group, shape (days, groups, 4)."""
    count, number = len(groups.names), count_days(days) or 0
    label_and_decision = y.astype(np.int64) * 2 + decided
    codes = (days * count + groups.codes) * 4 + label_and_decision
    cells = np.bincount(codes, minlength=number * count * 4).astype(np.float64)
    return cells.reshape(number, count, 4)


def _groups(
    y: Array,
    p: Array,
    groups: Groups,
    days: Codes,
    rates: Array,
    rows: Array,
    judged: Array,
    seed: int,
) -> tuple[Group, ...]:
    """Every group with its rates (groups, 3), the rows behind them, and its calibration."""
    count = len(groups.names)
    low, high = wilson(rates * rows, rows)
    calibrated = group_means(
        groups.codes, count, np.column_stack([p - y, y]), days, RESAMPLES // 2, seed
    )
    return tuple(
        Group(
            name=name,
            n=int(rows[g, 0]),
            base_rate=float(calibrated.values[g, 1]),
            rates=tuple(map(float, rates[g])),
            rows=tuple(map(int, rows[g])),
            intervals=tuple(
                Interval(float(low[g, r]), float(high[g, r])) if rows[g, r] else NO_INTERVAL
                for r in range(len(RATES))
            ),
            calibration=float(calibrated.values[g, 0]),
            calibration_interval=percentile_interval(calibrated.samples[:, g, 0], calibrated.days),
            judged=bool(judged[g]),
        )
        for g, name in enumerate(groups.names)
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
    """Rates and the rows behind them, (samples, groups, 3) each.

    `cells` counts (label, decision) by group, shape (samples, groups, 4).
    """
    refused_negative, taken_negative, refused_positive, taken_positive = np.moveaxis(cells, -1, 0)
    positives, negatives = refused_positive + taken_positive, refused_negative + taken_negative
    rows = np.stack([positives + negatives, positives, negatives], axis=-1)
    taken = np.stack([taken_positive + taken_negative, taken_positive, taken_negative], axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return taken / rows, rows


def _gaps(rates: Array, enough: Array) -> Array:
    """Greatest difference between judged groups, shape (samples, 3).

    It is NaN where fewer than two groups can be compared.
    """
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
