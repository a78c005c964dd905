"""Platt calibration: a straight line over the model's margin.

Source: J. Platt, Probabilistic Outputs for Support Vector Machines, 1999; fitted by Newton's method
as in Lin, Lin and Weng, A Note on Platt's Probabilistic Outputs, 2007 (without target smoothing:
there are thousands of rows, not dozens).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def sigmoid(margin: Array) -> Array:
    """1 / (1 + exp(-margin)), without overflow for any finite margin."""
    # exp of a non-positive number never overflows; both branches are the same function.
    small = np.exp(-np.abs(margin))
    return np.where(margin >= 0, 1 / (1 + small), small / (1 + small))


def mean_log_loss(margin: Array, y: Array) -> float:
    """Mean log loss in nats of margins of shape (n,) against labels 0 or 1."""
    return float(np.mean(np.maximum(margin, 0) - margin * y + np.log1p(np.exp(-np.abs(margin)))))


def platt(margin: Array, y: Array, steps: int = 50) -> tuple[float, float]:
    """Slope and intercept (a, b) that minimise the log loss of sigmoid(a * margin + b).

    Raises ValueError for labels of one class alone, for which no finite line is best.
    """
    if not 0 < float(y.mean()) < 1:
        raise ValueError(
            f"calibration needs both classes; the {len(y)} labels given are all {y[0]:g}"
        )
    centre, scale = float(margin.mean()), float(margin.std()) or 1.0
    z = (margin - centre) / scale  # well-conditioned whatever the margins are
    design = np.column_stack([z, np.ones_like(z)])
    line = np.array([scale, centre])  # starts at the uncalibrated model
    for _ in range(steps):
        p = sigmoid(design @ line)
        gradient = design.T @ (p - y)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        length, current = 1.0, mean_log_loss(design @ line, y)
        # Halve a step that overshoots: Newton's method alone may diverge far from the optimum.
        while length > 1e-6 and mean_log_loss(design @ (line - length * step), y) > current:
            length /= 2
        line = line - length * step
        if float(np.abs(length * step).max()) < 1e-10:
            break
    slope, intercept = float(line[0] / scale), float(line[1] - line[0] * centre / scale)
    # Digits beyond these depend on how a processor sums, and would make equal models look
    # different.
    return float(f"{slope:.10g}"), float(f"{intercept:.10g}")


def worthwhile(margin: Array, y: Array) -> tuple[float, float] | None:
    """The calibration of rows in time order if it improves their log loss, else None.

    Whether it helps is judged honestly: a line fitted on the earlier half must lower the log loss
    of the later half, and the other way round, so that a few odd days do not bend the model. The
    line returned is then fitted on all rows. A falling line (a <= 0) would turn the ranking around
    and never counts.
    """
    halves = (slice(0, len(y) // 2), slice(len(y) // 2, None))
    if len(y) < 4 or not all(0 < float(y[half].mean()) < 1 for half in halves):
        return None
    for fitted, judged in (halves, halves[::-1]):
        a, b = platt(margin[fitted], y[fitted])
        if a <= 0 or mean_log_loss(a * margin[judged] + b, y[judged]) >= mean_log_loss(
            margin[judged], y[judged]
        ):
            return None
    a, b = platt(margin, y)
    return (a, b) if a > 0 else None
