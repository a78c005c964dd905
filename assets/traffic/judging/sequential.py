"""Statistics that may be looked at every day: intervals of a mean, and a test of the split.

An ordinary 95 % interval is wrong 5 % of the time at *one* look. Who looks daily, and stops at an
answer that pleases, is wrong far more often. What is here holds at all looks at once, so any of
them may stop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SPLIT_ALPHA = 0.001
"""Level of the sample-ratio test. A wrong split is a fault of the machinery, not a finding, so
hardly any false alarm is allowed (Fabijan et al. 2019, *Diagnosing Sample Ratio Mismatch in Online
Controlled Experiments*)."""
CONCENTRATION = 200.0


class Bounds(NamedTuple):
    """An estimate with its interval; NaN where there are too few observations."""

    mean: float
    low: float
    high: float
    n: int


def confidence_sequence(values: Floats, alpha: float, tuned_for: int = 1_000) -> Bounds:
    """The mean of all observations (n,) so far, with an interval that holds at every look.

    It covers the true mean at *all* n at once with probability 1 - `alpha`: asymptotically, so use
    it from some dozens of observations on.

    It is Robbins' normal mixture as an asymptotic confidence sequence,
    mean ± s √(2 (nρ² + 1) / (n²ρ²) · log(√(nρ² + 1) / α)), with ρ such that the interval is
    narrowest at `tuned_for` observations. Howard, Ramdas, McAuliffe, Sekhon 2021, *Time-uniform,
    nonparametric, nonasymptotic confidence sequences*, eq. 14; Waudby-Smith, Arbour, Sinha,
    Kennedy, Ramdas 2024, *Time-uniform central limit theory and asymptotic confidence sequences*,
    thm. 2.2 and eq. 10. It is the interval form of mSPRT (Johari, Pekelis, Walsh 2017).
    """
    n = len(values)
    if n < 2:
        return Bounds(float("nan"), float("nan"), float("nan"), n)
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    return Bounds(mean, *around(mean, deviation * radius(n, alpha, tuned_for)), n)


def radius(n: int, alpha: float, tuned_for: int = 1_000) -> float:
    """Half the width of `confidence_sequence` after n observations, in standard deviations."""
    squared = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / tuned_for
    return math.sqrt(
        2 * (n * squared + 1) / (n * n * squared) * math.log(math.sqrt(n * squared + 1) / alpha)
    )


def around(mean: float, half: float) -> tuple[float, float]:
    return mean - half, mean + half


def effects(losses: Floats, treated: NDArray[np.bool_], share: Floats, centre: Floats) -> Floats:
    """One observation per unit (n,), whose mean is the difference in mean loss of a random split.

    The difference is treated minus control. `share` (n,) is the probability with which the unit was
    treated, given that it was in one of both arms. `centre` (n,) is a prediction of its loss that
    does not know its arm (`centred`): it lessens the variance and keeps the mean. These are
    inverse-propensity weights with augmentation, as in Waudby-Smith et al. 2024, sec. 3 (sequential
    estimation of average treatment effects).
    """
    residual = losses - centre
    return np.where(treated, residual / share, -residual / (1 - share))


def centred(losses: Floats, days: NDArray[np.int64]) -> Floats:
    """For each unit (n,) the mean loss of the *other* units of its day; 0 for a unit alone.

    That is what the day did to everybody. It does not know the unit's own arm.
    """
    codes = np.unique(days, return_inverse=True)[1]
    sums, counts = np.bincount(codes, weights=losses), np.bincount(codes)
    others = (counts - 1)[codes]
    return np.where(others > 0, (sums[codes] - losses) / np.maximum(others, 1), 0.0)


def split_evidence(counts: Sequence[int], shares: Sequence[float]) -> float:
    """How many times likelier the `counts` of units per arm are under another split than `shares`.

    This is the Bayes factor of a Dirichlet-multinomial around the shares. Under the declared split
    it exceeds 1 / α at *any* look with probability α at most. Lindon and Malek 2022, *Anytime-valid
    inference for multinomial count data*.
    """
    total = sum(counts)
    prior = [CONCENTRATION * share for share in shares]
    log = math.lgamma(CONCENTRATION) - math.lgamma(CONCENTRATION + total)
    log += sum(
        math.lgamma(a + n) - math.lgamma(a) - n * math.log(share)
        for a, n, share in zip(prior, counts, shares, strict=True)
    )
    return math.exp(min(log, 700.0))
