"""The baseline.

A logistic regression fitted by scikit-learn, kept as plain numbers and predicted by NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from assets.tabular.training.calibration import sigmoid
from assets.tabular.training.estimators import logistic_regression
from bundle.models.linear import CategoryTerm, Linear, NumberTerm, linear

if TYPE_CHECKING:
    from assets.tabular.training.manifest import TrainingRows
    from bundle.features.program import FeatureProgram

Array = NDArray[np.float64]
Matrix = NDArray[np.float32]

FILE, PROGRAM, FACTS = "baseline.json", "program.json", "facts.json"


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A logistic regression over the columns of a feature program's matrix, as numbers."""

    format: int = 1
    features: tuple[str, ...]
    terms: tuple[NumberTerm | CategoryTerm, ...]
    intercept: float
    regularisation: float
    iterations: int
    converged: bool

    def encode(self) -> bytes:
        return msgspec.json.encode(self, order="sorted")

    @classmethod
    def decode(cls, content: bytes) -> Baseline:
        """Raises msgspec.ValidationError (a ValueError) for anything but a baseline."""
        return msgspec.json.decode(content, type=cls)

    def margin(self, matrix: Matrix) -> Array:
        """Log odds of rows of a feature program's matrix of shape (n, k), shape (n,)."""
        return Linear(self.terms, self.intercept).margins(matrix)

    def predict(self, matrix: Matrix) -> Array:
        """Probabilities of shape (n,) for rows of shape (n, k)."""
        return sigmoid(self.margin(matrix))


class BaselineFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of what a baseline was made, and how good it was on each part."""

    pipeline: str
    as_of: str
    training_set: str
    program_digest: str
    rows: dict[str, int]
    metrics: dict[str, dict[str, float | None]]

    def encode(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=1)


@dataclass(frozen=True)
class FittedBaseline:
    """A baseline with its stored files and facts."""

    files: dict[str, bytes]
    facts: BaselineFacts
    baseline: Baseline


def fit(
    matrix: Matrix,
    y: Array,
    features: tuple[str, ...],
    categorical: tuple[bool, ...],
    regularisation: float = 1.0,
) -> tuple[Baseline, Any]:
    """Fit the baseline on rows of shape (n, k) and labels of shape (n,).

    Returns it with the scikit-learn pipeline it was read from.
    """
    pipeline, converged = logistic_regression(matrix, y, categorical, regularisation)
    found = linear(pipeline)
    baseline = Baseline(
        features=features,
        terms=found.terms,
        intercept=found.intercept,
        regularisation=regularisation,
        iterations=int(pipeline.named_steps["regression"].n_iter_[0]),
        converged=converged,
    )
    return baseline, pipeline


def train(
    rows: TrainingRows, training_set: str, declared: FeatureProgram, regularisation: float
) -> FittedBaseline:
    """Fit the baseline on the training days and judge it on all parts."""
    from assets.tabular.tasks.metrics import metrics
    from assets.tabular.training.candidate import rounded
    from assets.tabular.training.split import PARTS

    program = declared.fit(rows.part("train"))
    baseline, _ = fit(
        program.matrix(rows.part("train")),
        rows.labels("train"),
        program.names,
        program.categorical,
        regularisation,
    )
    judged: dict[str, dict[str, float | None]] = {
        part: rounded(metrics(rows.labels(part), baseline.predict(program.matrix(rows.part(part)))))
        for part in PARTS
    }
    facts = BaselineFacts(
        pipeline=rows.manifest.pipeline,
        as_of=rows.manifest.as_of.isoformat(),
        training_set=training_set,
        program_digest=declared.digest,
        rows=rows.manifest.rows,
        metrics=judged,
    )
    return FittedBaseline(
        {FILE: baseline.encode(), PROGRAM: program.encode(), FACTS: facts.encode()}, facts, baseline
    )
