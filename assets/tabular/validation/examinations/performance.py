"""How good the candidate is, against the baseline and the champion on the same test rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from assets.reporting.report import Measure
from assets.tabular.tasks.metrics import HIGHER_IS_BETTER, NAMES, Array
from assets.tabular.validation.bootstrap import Bootstrap, Interval
from assets.tabular.validation.examinations.slices import measure
from assets.tabular.validation.terms import NO_CHAMPION

CANDIDATE, BASELINE, CHAMPION = "candidate", "baseline", "champion"


def worse_by(compared: Bootstrap, other: str, metric: str) -> tuple[float, Interval]:
    """By how much the candidate is worse than `other`, with a paired interval.

    Positive is worse, whatever the metric's direction.
    """
    difference, interval = compared.difference(CANDIDATE, other, metric)
    if metric in HIGHER_IS_BETTER:
        return -difference, Interval(-interval.high, -interval.low)
    return difference, interval


def measures(
    compared: Bootstrap, y: Array, predictions: Mapping[str, Array], champion: str | None
) -> list[Measure]:
    """All metrics of all models, and how much worse the candidate is than the others.

    `group` of a metric is the model, that of `<metric>_worse_by` the other model. `champion` holds
    no number: its `group` is the digest of the bundle compared with, or "none".
    """
    n = compared.n
    result = [
        measure("champion", np.nan, n, group=champion or NO_CHAMPION),
        measure("base_rate", float(y.mean()) if n else np.nan, n),
    ]
    for model, p in predictions.items():
        result += [
            measure(
                metric, compared.value(model, metric), n, compared.interval(model, metric), model
            )
            for metric in NAMES
        ]
        result.append(measure("mean_prediction", float(p.mean()) if n else np.nan, n, group=model))
    for other in (BASELINE, CHAMPION):
        if other in predictions:
            result += [
                measure(f"{metric}_worse_by", *_spread(worse_by(compared, other, metric), n), other)
                for metric in NAMES
            ]
    return result


def _spread(estimate: tuple[float, Interval], n: int) -> tuple[float, int, Interval]:
    return estimate[0], n, estimate[1]
