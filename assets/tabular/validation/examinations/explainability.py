"""Why the model predicts what it does: SHAP contributions on a stated sample.

They come from `Model.contributions`, in the model's unit before calibration: log odds, or a
probability for a forest. For every row they add up, with the bias, to what the model says; that is
checked, not assumed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from assets.reporting.report import Measure
from assets.tabular.tasks.metrics import Array
from assets.tabular.validation import bootstrap
from assets.tabular.validation.bootstrap import Codes, Interval
from assets.tabular.validation.examinations.slices import measure

ROWS = 500  # TreeSHAP costs milliseconds a row: a sample, never the whole test set


class Explanation(NamedTuple):
    """Contributions (n, k) in `unit` of `n` of `of` rows with their feature values (n, k).

    `ranking` names the most important feature first; `additivity_error` is the greatest
    |sum of contributions + bias - what the model says|.
    """

    n: int
    of: int
    names: tuple[str, ...]
    values: NDArray[np.float32]
    contributions: Array
    importance: Array
    intervals: tuple[Interval, ...]
    ranking: tuple[int, ...]
    bias: float
    additivity_error: float
    unit: str


def sample_rows(n: int, rows: int = ROWS, seed: int = bootstrap.SEED) -> NDArray[np.int64]:
    """Row numbers of the seeded sample, ascending."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:rows])


def explain(
    contributions: Array,
    said: Array,
    values: NDArray[np.float32],
    names: tuple[str, ...],
    days: Codes,
    of: int,
    unit: str = "log odds",
) -> Explanation:
    """Summarise the contributions of rows of which the model says `said` (n,).

    `contributions` has shape (n, k + 1), its last column being the bias; `values` (n, k) are the
    features, `days` (n,) the rows' days.
    """
    if contributions.shape != (len(said), len(names) + 1):
        raise ValueError(
            f"contributions have shape {contributions.shape}; "
            f"{len(said)} rows of {len(names)} features and a bias were expected"
        )
    parts = np.asarray(contributions[:, :-1], dtype=np.float64)
    sums = np.asarray(contributions, dtype=np.float64).sum(axis=1)
    size = np.abs(parts)
    importance = size.mean(axis=0) if len(size) else np.full(len(names), np.nan)
    ranking = tuple(int(index) for index in np.lexsort((np.array(names), -importance)))
    return Explanation(
        n=len(said),
        of=of,
        names=names,
        values=values,
        contributions=parts,
        importance=importance,
        intervals=tuple(bootstrap.means(size, bootstrap.number_days(days), resamples=400)),
        ranking=ranking,
        bias=float(contributions[:, -1].mean()) if len(size) else np.nan,
        additivity_error=float(np.abs(sums - said).max()) if len(size) else np.nan,
        unit=unit,
    )


def measures(found: Explanation) -> list[Measure]:
    """Mean |SHAP| by feature, most important first, and the additivity error."""
    result = [
        measure(
            "mean_abs_shap", float(found.importance[i]), found.n, found.intervals[i], found.names[i]
        )
        for i in found.ranking
    ]
    return [
        *result,
        measure("bias", found.bias, found.n),
        measure("additivity_error", found.additivity_error, found.n),
    ]
