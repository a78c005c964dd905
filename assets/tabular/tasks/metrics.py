"""Metrics of probabilities for a binary label: vectorised, weighted, equal to scikit-learn's.

`y` is 0 or 1, `p` the predicted probability of 1, `w` optional non-negative row weights, all of
shape (n,). What cannot be computed (no rows, only one class for a ranking) is NaN, never an
invented number.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NAMES = ("log_loss", "brier", "roc_auc", "pr_auc", "calibration_error")
HIGHER_IS_BETTER = frozenset({"roc_auc", "pr_auc"})
ROW_WISE = frozenset({"log_loss", "brier"})  # plain means over rows
BINS = 10
_TINY = float(np.finfo(np.float64).tiny)
_EPSILON = float(
    np.finfo(np.float64).eps
)  # scikit-learn clips probabilities of float64 at this value


class Curve(NamedTuple):
    """A calibration curve.

    Per bin the rows (or their weight), mean prediction and observed rate, each of shape (bins,).
    """

    n: Array
    predicted: Array
    observed: Array


class Ranked:
    """Labels and predictions, sorted once: metrics for any row weights need no further sorting.

    Ties are kept together: ranking metrics see one threshold for equal predictions, and calibration
    bins never split them. Calibration bins hold equally many rows of the unweighted sample (less
    biased than bins of equal width when predictions crowd together: Nixon et al., Measuring
    Calibration in Deep Learning, 2019). Not for several threads at once.
    """

    def __init__(self, y: Array, p: Array, bins: int = BINS) -> None:
        y, p = np.asarray(y, dtype=np.float64), np.asarray(p, dtype=np.float64)
        if y.shape != p.shape or y.ndim != 1:
            raise ValueError(
                f"labels have shape {y.shape} and predictions {p.shape}; give one prediction for "
                "each label"
            )
        if not np.isfinite(p).all() or (len(p) and (p.min() < 0 or p.max() > 1)):
            raise ValueError("predictions must be finite and lie in [0, 1]; give probabilities")
        if not np.isin(y, (0.0, 1.0)).all():
            raise ValueError("labels must be 0 or 1; leave unlabelled rows out")
        self.n = len(y)
        self.order = np.argsort(p, kind="stable")
        self._y, self._p = y[self.order], p[self.order]
        self._log_loss, self._brier = row_log_loss(self._y, self._p), row_brier(self._y, self._p)
        self._ties = (
            np.flatnonzero(np.insert(self._p[1:] != self._p[:-1], 0, True))
            if self.n
            else np.zeros(0, dtype=np.intp)
        )
        self._no_ties = len(self._ties) == self.n
        self._scratch: list[Array] = [np.empty(self.n) for _ in range(7)]
        self._bin_starts = np.unique(np.searchsorted(self._p, bin_edges(self._p, bins)))
        self._bin_starts = self._bin_starts[self._bin_starts < self.n]

    def metrics(self, w: Array | None = None) -> Array:
        """All metrics in the order of NAMES, shape (5,)."""
        weights = self._ordered(w)
        total = float(weights.sum())
        if total <= 0:
            return np.full(len(NAMES), np.nan)
        positive = np.multiply(weights, self._y, out=self._scratch[1])
        # The curve first: the ranking works in the same memory.
        curve = self._curve(weights, positive)
        error = float(np.abs(curve.n * (curve.predicted - curve.observed)).sum() / total)
        losses = _dot(weights, self._log_loss) / total, _dot(weights, self._brier) / total
        return np.array([*losses, *self._ranking(weights, positive), error])

    def _ordered(self, w: Array | None) -> Array:
        if w is None:
            self._scratch[0].fill(1.0)
            return self._scratch[0]
        if len(w) != self.n:
            raise ValueError(f"{len(w)} weights for {self.n} rows; give one for each row")
        # "clip" never applies to an order of n rows; it lets NumPy write into the memory given
        # without a copy of its own.
        np.take(np.asarray(w, dtype=np.float64), self.order, out=self._scratch[0], mode="clip")
        return self._scratch[0]

    def _ranking(self, weights: Array, positive: Array) -> tuple[float, float]:
        # Everything by threshold, lowest first: weight that the threshold holds, of both classes,
        # positive and negative. Thousands of resamples run through here, so every step writes into
        # memory that is there already.
        _, _, held, gained, lost, hits, above = (
            buffer[: len(self._ties)] for buffer in self._scratch
        )
        if self._no_ties:
            held, gained = weights, positive
        else:
            np.add.reduceat(weights, self._ties, out=held)
            np.add.reduceat(positive, self._ties, out=gained)
        np.subtract(held, gained, out=lost)
        np.cumsum(gained, out=hits)
        np.cumsum(lost, out=above)
        positives, negatives = float(hits[-1]), float(above[-1])
        if positives <= 0:
            return np.nan, np.nan
        roc_auc = np.nan
        if negatives > _EPSILON * positives:
            roc_auc = (_dot(gained, above) - 0.5 * _dot(gained, lost)) / (positives * negatives)
        np.subtract(gained, hits, out=hits)
        hits += positives  # positives at or above each threshold
        np.subtract(lost, above, out=above)
        above += negatives
        above += hits  # everything at or above each threshold
        np.divide(hits, np.maximum(above, _TINY, out=above), out=above)
        return roc_auc, _dot(gained, above) / positives

    def _curve(self, weights: Array, positive: Array) -> Curve:
        starts = self._bin_starts
        n = np.add.reduceat(weights, starts)
        kept = n > 0
        n = n[kept]
        predicted = (
            np.add.reduceat(np.multiply(weights, self._p, out=self._scratch[2]), starts)[kept] / n
        )
        return Curve(n, predicted, np.add.reduceat(positive, starts)[kept] / n)

    def curve(self, w: Array | None = None) -> Curve:
        """The calibration curve; its bins that hold no weight are left out."""
        if not self.n:
            return Curve(np.zeros(0), np.zeros(0), np.zeros(0))
        weights = self._ordered(w)
        return self._curve(weights, weights * self._y)


def _dot(a: Array, b: Array) -> float:
    # Not `a @ b`: the BLAS behind it starts threads for vectors of this length, which costs more
    # than it saves.
    return float(np.einsum("i,i->", a, b))


def bin_edges(p: Array, bins: int) -> Array:
    """Lower edges of bins that hold equally many predictions.

    Bins made empty by ties vanish. Shape (at most bins,).
    """
    if not len(p):
        return np.zeros(0)
    return np.unique(np.quantile(p, np.arange(bins) / bins, method="higher"))


def row_log_loss(y: Array, p: Array) -> Array:
    """Log loss of every row in nats, shape (n,)."""
    clipped = np.clip(p, _EPSILON, 1 - _EPSILON)
    loss: Array = -np.log(np.where(y > 0, clipped, 1 - clipped))
    return loss


def row_brier(y: Array, p: Array) -> Array:
    """Squared error of every row, shape (n,)."""
    return np.square(p - y)


def row_metric(name: str, y: Array, p: Array) -> Array:
    """The rows' contributions to a row-wise metric, shape (n,).

    Raises ValueError for a metric that is no mean over rows.
    """
    if name not in ROW_WISE:
        raise ValueError(
            f"{name!r} is no mean over rows; row-wise metrics are {', '.join(sorted(ROW_WISE))}"
        )
    return row_log_loss(y, p) if name == "log_loss" else row_brier(y, p)


def metrics(y: Array, p: Array, w: Array | None = None, bins: int = BINS) -> dict[str, float]:
    """All metrics by name."""
    return dict(zip(NAMES, map(float, Ranked(y, p, bins).metrics(w)), strict=True))


def log_loss(y: Array, p: Array, w: Array | None = None) -> float:
    """Mean negative log likelihood in nats."""
    return metrics(y, p, w)["log_loss"]


def brier(y: Array, p: Array, w: Array | None = None) -> float:
    """Mean squared error of the probability (Brier 1950)."""
    return metrics(y, p, w)["brier"]


def roc_auc(y: Array, p: Array, w: Array | None = None) -> float:
    """Probability that a positive ranks above a negative, ties counting half.

    NaN with one class only.
    """
    return metrics(y, p, w)["roc_auc"]


def pr_auc(y: Array, p: Array, w: Array | None = None) -> float:
    """Average precision.

    Precision at each threshold, weighted by the recall gained there; NaN without positives.
    """
    return metrics(y, p, w)["pr_auc"]


def calibration_error(y: Array, p: Array, w: Array | None = None, bins: int = BINS) -> float:
    """Expected calibration error.

    Mean over bins of equal size of |mean prediction - observed rate|, weighted by rows.
    """
    return metrics(y, p, w, bins)["calibration_error"]


def calibration_curve(y: Array, p: Array, w: Array | None = None, bins: int = BINS) -> Curve:
    """Mean prediction and observed rate in bins of equal size."""
    return Ranked(y, p, bins).curve(w)


def roc_curve(y: Array, p: Array) -> tuple[Array, Array]:
    """False-positive and true-positive rates at every threshold, from (0, 0) to (1, 1)."""
    true, false = _counts_above(y, p)
    return false / max(false[-1], 1.0), true / max(true[-1], 1.0)


def pr_curve(y: Array, p: Array) -> tuple[Array, Array]:
    """Recall and precision at every threshold, by rising recall."""
    true, false = _counts_above(y, p)
    return true[1:] / max(true[-1], 1.0), true[1:] / (true[1:] + false[1:])


def _counts_above(y: Array, p: Array) -> tuple[Array, Array]:
    order = np.argsort(-np.asarray(p), kind="stable")
    y, p = np.asarray(y, dtype=np.float64)[order], np.asarray(p)[order]
    ends = np.flatnonzero(np.append(p[1:] != p[:-1], True)) if len(p) else np.zeros(0, dtype=int)
    true, false = np.cumsum(y)[ends], np.cumsum(1 - y)[ends]
    return np.insert(true, 0, 0.0), np.insert(false, 0, 0.0)


def wilson(successes: Array, n: Array, z: float = 1.959964) -> tuple[Array, Array]:
    """95 % score interval of a proportion (Wilson 1927): lower and upper ends of the shape of `n`.

    NaN where `successes` is.
    """
    n = np.maximum(np.asarray(n, dtype=np.float64), 1e-12)
    share = np.asarray(successes, dtype=np.float64) / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = (
        z / (1 + z**2 / n) * np.sqrt(np.clip(share * (1 - share), 0, None) / n + z**2 / (4 * n**2))
    )
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
