"""Differences between arms: losses on matured labels, the split of callers, the shift of outputs.

Plain functions over the arrays of `evidence`. The intervals come from `sequential`, the rules that
judge them are in `verdicts` and `comparison`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assets.reporting.report import Measure
from assets.traffic.judging.evidence import Divided, Evidence, Floats, Paired
from assets.traffic.judging.sequential import Bounds, centred, effects, split_evidence
from declare.release import ReleasePolicy

if TYPE_CHECKING:
    from assets.kind import Kind

BINS = 10
NORMAL_999 = 3.0902  # the 0.999 quantile of the standard normal distribution


class Observed(NamedTuple):
    """Differences in loss, one a unit (n,), with the data day of each as an ordinal."""

    values: Floats
    days: NDArray[np.int64]


def paired_losses(kind: Kind, paired: Paired) -> Observed:
    """How much worse the candidate's log loss is than the champion's on the same requests."""
    known = ~np.isnan(paired.y) & ~np.isnan(paired.candidate)
    y = paired.y[known]
    candidate = kind.row_losses("log_loss", y, paired.candidate[known])
    champion = kind.row_losses("log_loss", y, paired.champion[known])

    return Observed(candidate - champion, paired.day[known])


def arm_effects(kind: Kind, split: Divided, arm: int, metric: str) -> Observed:
    """Observations whose mean is the difference in mean loss of an arm to arm 0.

    A unit is one caller on one day, so that a caller with many requests counts once. Only rows with
    matured labels count.
    """
    chosen = split.of(~np.isnan(split.y) & ((split.arm == 0) | (split.arm == arm)))
    if not len(chosen):
        return Observed(np.zeros(0), np.zeros(0, np.int64))

    losses = kind.row_losses(metric, chosen.y, chosen.output)
    share = chosen.shares[:, arm] / (chosen.shares[:, 0] + chosen.shares[:, arm])
    unit = np.stack([chosen.day, chosen.key, chosen.arm])
    _, first, code = np.unique(unit, axis=1, return_index=True, return_inverse=True)
    code = code.reshape(-1)

    mean = np.bincount(code, weights=losses) / np.bincount(code)
    days = chosen.day[first]
    treated = chosen.arm[first] == arm
    return Observed(effects(mean, treated, share[first], centred(mean, days)), days)


def labelled(evidence: Evidence, arm: int) -> tuple[Floats, Floats]:
    """Labels and outputs of all rows that an arm computed, in shadow and canary."""
    paired, split = evidence.paired, evidence.split
    outputs = paired.candidate if arm else paired.champion
    known = ~np.isnan(paired.y) & ~np.isnan(outputs)
    own = ~np.isnan(split.y) & (split.arm == arm)

    y = np.concatenate([paired.y[known], split.y[own]])
    return y, np.concatenate([outputs[known], split.output[own]])


def mean_loss(kind: Kind, y: Floats, outputs: Floats) -> float | None:
    """The mean log loss; None without rows."""
    return float(kind.row_losses("log_loss", y, outputs).mean()) if len(y) else None


def tuned_for(policy: ReleasePolicy) -> int:
    """The number of labels at which intervals are narrowest: a multiple of the least judged."""
    return 4 * policy.minimum_labels


def bounded(name: str, bounds: Bounds, group: str) -> Measure:
    """An estimate as a measure; without a value where there are fewer than two observations."""
    if bounds.n < 2:
        return Measure(name=name, value=None, n=bounds.n, group=group)
    return Measure(
        name=name, value=bounds.mean, low=bounds.low, high=bounds.high, n=bounds.n, group=group
    )


def split_measures(step: Divided) -> tuple[Measure, ...]:
    """How far the split of callers is from the declared one."""
    if not len(step):
        return ()
    callers = set(zip(step.key.tolist(), step.arm.tolist(), strict=True))
    counts = [sum(arm == each for _, arm in callers) for each in range(step.shares.shape[1])]
    evidence = split_evidence(counts, step.shares[0].tolist())

    return (Measure(name="split_evidence", value=evidence, n=sum(counts)),)


def entropy(outputs: Floats) -> float | None:
    """The log loss of calibrated outputs: all that can be said without labels.

    Guo et al. 2017, *On calibration of modern neural networks*, show how far calibration may be
    off; so it is an estimate.
    """
    if not len(outputs):
        return None
    p = np.clip(outputs, 1e-7, 1 - 1e-7)
    return float(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean())


def shift_by_chance(n: int, m: int) -> float | None:
    """What the PSI of two samples of one distribution exceeds once in a thousand times.

    It is distributed as (1/n + 1/m) χ² with bins - 1 degrees of freedom (Yurdakul 2018,
    *Statistical properties of the population stability index*); the quantile of χ² is that of
    Wilson and Hilferty 1931.
    """
    if not min(n, m):
        return None
    freedom = BINS - 1
    quantile = freedom * (1 - 2 / (9 * freedom) + NORMAL_999 * (2 / (9 * freedom)) ** 0.5) ** 3
    return float(quantile * (1 / n + 1 / m))
