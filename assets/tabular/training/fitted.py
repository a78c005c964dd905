"""A model as it comes from its library, before it is calibrated and judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from assets.tabular.training.split import Part
from bundle.models.model import Model

Matrices = Mapping[Part, NDArray[np.float32]]
Labels = Mapping[Part, NDArray[np.float64]]


@dataclass(frozen=True)
class Fitted:
    """A model with the parameters that it was trained with, and what people look at.

    `rounds` are trees, or iterations of a linear model. `curves` is the log loss of each round of
    `train` and `validation`, `gain` the share of each feature in what was learned, 1 in all.
    """

    model: Model
    parameters: dict[str, float | int | str]
    rounds: int
    curves: dict[str, list[float]] = field(default_factory=dict)
    gain: dict[str, float] = field(default_factory=dict)
