"""A day's values of each feature against the reference: all statistics, and one judgement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from assets.tabular.monitoring.drift.reference import (
    CategoryReference,
    FeatureReference,
    NumberReference,
    category_counts,
    number_counts,
    numbers,
    texts,
)
from assets.tabular.monitoring.drift.statistics import (
    Floats,
    jensen_shannon_distance,
    kolmogorov_smirnov,
    population_stability_index,
    wasserstein,
)

if TYPE_CHECKING:
    import polars as pl


class Drift(msgspec.Struct, frozen=True):
    """Statistics of one feature on one day.

    `limit` is that of the judged statistic; `drifted` is None where there were too few rows.
    """

    feature: str
    n: int
    null_share: float
    reference_null_share: float
    psi: float
    js: float
    ks: float | None
    ks_p: float | None
    wasserstein: float | None
    judged_by: Literal["psi", "js"]
    limit: float
    drifted: bool | None

    @property
    def judged(self) -> float:
        """The statistic that is compared with `limit`: beyond it the feature has drifted."""
        return self.psi if self.judged_by == "psi" else self.js


class _Samples(msgspec.Struct, frozen=True):
    """Statistics of the day's sample against the reference's; None where one of them is empty."""

    ks: float | None = None
    ks_p: float | None = None
    wasserstein: float | None = None


def drift(
    name: str,
    values: Floats | Sequence[str | None],
    against: FeatureReference,
    *,
    psi: float,
    jensen_shannon: float,
    minimum_rows: int,
) -> Drift:
    """Statistics of a day's values of one feature.

    Numbers are judged by PSI, text by Jensen-Shannon distance: each against the declared limit or
    the feature's own calibrated one, whichever is greater. Below `minimum_rows` rows the statistics
    are reported and not judged.
    """
    n = len(values)
    expected = np.asarray(against.counts, dtype=np.int64)
    judged_by: Literal["psi", "js"]

    if isinstance(against, NumberReference):
        array = np.asarray(values, dtype=np.float64)
        actual, samples = number_counts(array, against), _samples(array, against)
        judged_by, limit, calibrated = "psi", psi, against.psi_limit
    else:
        actual, samples = category_counts(list(values), against), _Samples()
        judged_by, limit, calibrated = "js", jensen_shannon, against.js_limit

    statistics = {
        "psi": population_stability_index(expected, actual),
        "js": jensen_shannon_distance(expected, actual),
    }
    limit = limit if calibrated is None else max(limit, calibrated)
    return Drift(
        feature=name,
        n=n,
        null_share=float(actual[-1]) / n if n else 0.0,
        reference_null_share=float(expected[-1] / max(expected.sum(), 1)),
        psi=statistics["psi"],
        js=statistics["js"],
        ks=samples.ks,
        ks_p=samples.ks_p,
        wasserstein=samples.wasserstein,
        judged_by=judged_by,
        limit=limit,
        drifted=None if n < minimum_rows else statistics[judged_by] > limit,
    )


def drifts(
    frame: pl.DataFrame,
    against: Mapping[str, FeatureReference],
    *,
    psi: float,
    jensen_shannon: float,
    minimum_rows: int,
) -> list[Drift]:
    """`drift` of every referenced feature that the frame has, in the reference's order."""
    return [
        drift(
            name,
            texts(frame, name) if isinstance(known, CategoryReference) else numbers(frame, name),
            known,
            psi=psi,
            jensen_shannon=jensen_shannon,
            minimum_rows=minimum_rows,
        )
        for name, known in against.items()
        if name in frame.columns
    ]


def _samples(values: Floats, against: NumberReference) -> _Samples:
    present = np.sort(values[~np.isnan(values)])
    known = [value for value in against.sample if value is not None]
    sample = np.sort(np.asarray(known, dtype=np.float64))
    if not present.size or not sample.size:
        return _Samples()

    ks, ks_p = kolmogorov_smirnov(sample, present)
    if against.deviation <= 0:
        return _Samples(ks, ks_p)
    return _Samples(ks, ks_p, wasserstein(sample, present) / against.deviation)
