"""Where the model does worse than overall: the primary metric within declared slices.

Each slice has its n and interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assets.reporting.report import Measure
from assets.tabular.tasks.metrics import (
    HIGHER_IS_BETTER,
    NAMES,
    ROW_WISE,
    Array,
    Ranked,
    row_metric,
)
from assets.tabular.validation import bootstrap
from assets.tabular.validation.bootstrap import (
    NO_INTERVAL,
    Codes,
    Interval,
    percentile_interval,
)

MISSING, OTHERS = "(missing)", "(all other values)"
_MOST_GROUPS = 300  # rarer values are looked at together
_MOST_VALUES = 12  # a number with more values than this is cut into quarters
# Metrics that are no means over rows are resampled slice by slice, which is dear.
_RANKING_RESAMPLES = 200


class Groups(NamedTuple):
    """Rows by the value of a column: names of the groups and each row's code into them."""

    names: tuple[str, ...]
    codes: NDArray[np.int64]


class Slice(NamedTuple):
    """One slice.

    `gap` is how much worse than overall it is: positive is worse, whatever the metric. NaN means
    that it cannot be computed.
    """

    column: str
    value: str
    n: int
    base_rate: float
    predicted: float
    metric: float
    interval: Interval
    gap: float
    gap_interval: Interval

    @property
    def name(self) -> str:
        return f"{self.column}={self.value}"


def grouping(values: NDArray[Any]) -> Groups:
    """Group rows by value; nulls and NaN are a group of their own.

    Numbers with many values are cut at their quartiles. Of more than 300 values the rarest are one
    group together.
    """
    names, codes = _of_numbers(values) if values.dtype.kind in "fiu" else _of_texts(values)
    codes = codes.astype(np.int64)
    count = np.bincount(codes, minlength=len(names))

    if int((count > 0).sum()) > _MOST_GROUPS:
        rare = np.ones(len(names), dtype=bool)
        rare[np.lexsort((np.arange(len(names)), -count))[: _MOST_GROUPS - 1]] = False
        codes, names = np.where(rare[codes], len(names), codes), [*names, OTHERS]
        count = np.bincount(codes, minlength=len(names))

    present = np.flatnonzero(count)
    renumbered = np.full(len(names), -1, dtype=np.int64)
    renumbered[present] = np.arange(len(present))
    return Groups(tuple(names[index] for index in present), renumbered[codes])


def _of_numbers(values: NDArray[Any]) -> tuple[list[str], Codes]:
    numbers = values.astype(np.float64)
    known = ~np.isnan(numbers)
    distinct = np.unique(numbers[known])
    if len(distinct) <= _MOST_VALUES:
        codes = np.where(known, np.searchsorted(distinct, numbers), len(distinct))
        return [*(f"{number:g}" for number in distinct), MISSING], codes

    edges = np.unique(np.quantile(numbers[known], (0.25, 0.5, 0.75), method="higher"))
    names = [
        f"below {edges[0]:g}",
        *(f"{a:g} to below {b:g}" for a, b in pairwise(edges)),
        f"{edges[-1]:g} or more",
    ]
    codes = np.where(known, np.searchsorted(edges, numbers, side="right"), len(names))
    return [*names, MISSING], codes


def _of_texts(values: NDArray[Any]) -> tuple[list[str], Codes]:
    if not len(values):
        return [], np.zeros(0, dtype=np.int64)
    texts = [
        MISSING if value is None or value != value else str(value) for value in values.tolist()
    ]
    distinct, codes = np.unique(np.array(texts), return_inverse=True)
    return [str(text) for text in distinct], codes


def slices(
    y: Array,
    p: Array,
    columns: Mapping[str, NDArray[Any]],
    days: Codes,
    primary: str,
    seed: int = bootstrap.SEED,
) -> list[Slice]:
    """The primary metric in every slice of every column, in the columns' order, then by value."""
    examine = _row_wise if primary in ROW_WISE else _ranking
    found: list[Slice] = []
    for column, values in columns.items():
        found += examine(y, p, column, grouping(values), days, primary, seed)
    return found


def measures(found: list[Slice], primary: str) -> list[Measure]:
    """The slices as measures: metric, gap, base rate and mean prediction of each."""
    result: list[Measure] = []
    for each in found:
        result += [
            measure(primary, each.metric, each.n, each.interval, each.name),
            measure("gap", each.gap, each.n, each.gap_interval, each.name),
            measure("base_rate", each.base_rate, each.n, NO_INTERVAL, each.name),
            measure("mean_prediction", each.predicted, each.n, NO_INTERVAL, each.name),
        ]
    return result


def measure(
    name: str, value: float, n: int, interval: Interval = NO_INTERVAL, group: str | None = None
) -> Measure:
    """A measure whose NaN numbers are stored as null."""

    def known(number: float) -> float | None:
        return float(number) if np.isfinite(number) else None

    return Measure(
        name=name,
        value=known(value),
        n=n,
        low=known(interval.low),
        high=known(interval.high),
        group=group,
    )


def _row_wise(
    y: Array, p: Array, column: str, groups: Groups, days: Codes, primary: str, seed: int
) -> list[Slice]:
    count, losses = len(groups.names), row_metric(primary, y, p)
    means = bootstrap.group_means(groups.codes, count, losses[:, None], days, seed=seed)
    plain = bootstrap.group_means(groups.codes, count, np.column_stack([y, p]), days, resamples=0)
    overall = float(losses.mean()) if len(y) else np.nan
    gaps = means.samples[:, :, 0] - means.overall
    return [
        Slice(
            column=column,
            value=name,
            n=int(means.n[g]),
            base_rate=float(plain.values[g, 0]),
            predicted=float(plain.values[g, 1]),
            metric=float(means.values[g, 0]),
            interval=percentile_interval(means.samples[:, g, 0], means.days),
            gap=float(means.values[g, 0]) - overall,
            gap_interval=percentile_interval(gaps[:, g], means.days),
        )
        for g, name in enumerate(groups.names)
    ]


def _ranking(
    y: Array, p: Array, column: str, groups: Groups, days: Codes, primary: str, seed: int
) -> list[Slice]:
    index, sign = NAMES.index(primary), -1.0 if primary in HIGHER_IS_BETTER else 1.0
    overall = float(Ranked(y, p).metrics()[index]) if len(y) else np.nan
    found: list[Slice] = []
    for g, name in enumerate(groups.names):
        rows = groups.codes == g
        own_days = bootstrap.number_days(days[rows])
        compared = bootstrap.compare(
            y[rows], {"slice": p[rows]}, _RANKING_RESAMPLES, seed, own_days
        )
        value, interval = compared.value("slice", primary), compared.interval("slice", primary)
        ends = sorted((sign * (interval.low - overall), sign * (interval.high - overall)))
        found.append(
            Slice(
                column=column,
                value=name,
                n=int(rows.sum()),
                base_rate=float(y[rows].mean()),
                predicted=float(p[rows].mean()),
                metric=value,
                interval=interval,
                gap=sign * (value - overall),
                gap_interval=NO_INTERVAL if np.isnan(ends).any() else Interval(*ends),
            )
        )
    return found
