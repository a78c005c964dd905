"""Where the model does worse than overall: the primary metric within declared slices, each with its n and interval."""

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
from assets.tabular.validation.bootstrap import NO_INTERVAL, Interval, percentile_interval

MISSING, OTHERS = "(missing)", "(all other values)"
_MOST_GROUPS = 300  # rarer values are looked at together
_MOST_VALUES = 12  # a number with more values than this is cut into quarters
_RANKING_RESAMPLES = (
    200  # metrics that are no means over rows are resampled slice by slice, which is dear
)


class Groups(NamedTuple):
    """Rows by the value of a column: names of the groups and each row's code into them."""

    names: tuple[str, ...]
    codes: NDArray[np.int64]


class Slice(NamedTuple):
    """One slice. `gap` is how much worse than overall it is (positive is worse, whatever the metric); None and NaN mean that
    it cannot be computed."""

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
    """Group rows by value. Numbers with many values are cut at their quartiles; nulls and NaN are a group of their own.
    Of more than 300 values the rarest are one group together."""
    if values.dtype.kind in "fiu":
        numbers = values.astype(np.float64)
        known = ~np.isnan(numbers)
        distinct = np.unique(numbers[known])
        if len(distinct) > _MOST_VALUES:
            edges = np.unique(np.quantile(numbers[known], (0.25, 0.5, 0.75), method="higher"))
            bounds = [
                f"below {edges[0]:g}",
                *(f"{a:g} to below {b:g}" for a, b in pairwise(edges)),
                f"{edges[-1]:g} or more",
            ]
            codes = np.where(known, np.searchsorted(edges, numbers, side="right"), len(bounds))
            names = [*bounds, MISSING]
        else:
            codes = np.where(known, np.searchsorted(distinct, numbers), len(distinct))
            names = [*(f"{number:g}" for number in distinct), MISSING]
    else:
        texts = np.array(
            [
                MISSING if value is None or value != value else str(value)
                for value in values.tolist()
            ],
            dtype=object,
        )
        distinct_texts, codes = (
            np.unique(texts.astype(str), return_inverse=True)
            if len(texts)
            else (np.zeros(0, dtype=str), np.zeros(0, dtype=int))
        )
        names = [str(text) for text in distinct_texts]
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


def slices(
    y: Array,
    p: Array,
    columns: Mapping[str, NDArray[Any]],
    primary: str,
    seed: int = bootstrap.SEED,
) -> list[Slice]:
    """The primary metric in every slice of every column, in the columns' order, then by value."""
    found: list[Slice] = []
    for column, values in columns.items():
        groups = grouping(values)
        found += (
            _row_wise(y, p, column, groups, primary, seed)
            if primary in ROW_WISE
            else _ranking(y, p, column, groups, primary, seed)
        )
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
    y: Array, p: Array, column: str, groups: Groups, primary: str, seed: int
) -> list[Slice]:
    means = bootstrap.group_means(
        groups.codes, len(groups.names), row_metric(primary, y, p)[:, None], seed=seed
    )
    plain = bootstrap.group_means(
        groups.codes, len(groups.names), np.stack([y, p], axis=1), resamples=0
    )
    overall = float(row_metric(primary, y, p).mean()) if len(y) else np.nan
    return [
        Slice(
            column, name, int(means.n[g]), float(plain.values[g, 0]), float(plain.values[g, 1]),
            float(means.values[g, 0]), percentile_interval(means.samples[:, g, 0]),
            float(means.values[g, 0]) - overall, percentile_interval(means.samples[:, g, 0] - means.overall[:, 0]),
        )
        for g, name in enumerate(groups.names)
    ]  # fmt: skip


def _ranking(
    y: Array, p: Array, column: str, groups: Groups, primary: str, seed: int
) -> list[Slice]:
    index, sign = NAMES.index(primary), -1.0 if primary in HIGHER_IS_BETTER else 1.0
    overall = float(Ranked(y, p).metrics()[index]) if len(y) else np.nan
    found: list[Slice] = []
    for g, name in enumerate(groups.names):
        rows = groups.codes == g
        compared = bootstrap.compare(
            y[rows], {"slice": p[rows]}, resamples=_RANKING_RESAMPLES, seed=seed
        )
        value, interval = compared.value("slice", primary), compared.interval("slice", primary)
        ends = sorted((sign * (interval.low - overall), sign * (interval.high - overall)))
        gap = Interval(*ends) if not np.isnan(ends).any() else NO_INTERVAL
        found.append(
            Slice(
                column,
                name,
                int(rows.sum()),
                float(y[rows].mean()),
                float(p[rows].mean()),
                value,
                interval,
                sign * (value - overall),
                gap,
            )
        )
    return found
