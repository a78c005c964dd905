"""Small models of scikit-learn over the toy endpoint's features, made by the functions that train candidates."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np

from assets.tabular.training import estimators
from bundle.models.model import Calibration
from bundle.models.scikit_learn import EstimatorModel
from declare.models import HistGradientBoosting, RandomForest
from tests.support.endpoint import program, training_matrix

Kind = Literal["LogisticRegression", "RandomForest", "HistGradientBoosting"]
KINDS: tuple[Kind, ...] = ("LogisticRegression", "RandomForest", "HistGradientBoosting")


def labels(matrix: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(1).normal(size=len(matrix))
    made: np.ndarray = (matrix[:, 0] / 500 + matrix[:, 2] - matrix[:, 5] / 12 + noise > 0.5).astype(
        float
    )
    return made


def fitted_matrix() -> np.ndarray:
    """The toy's training rows, some of them without a category."""
    matrix = training_matrix().copy()
    matrix[::31, 2] = np.nan
    return matrix


def fitted(kind: Kind) -> Any:
    """The estimator as scikit-learn fitted it."""
    matrix = fitted_matrix()
    y = labels(training_matrix())
    match kind:
        case "LogisticRegression":
            return estimators.logistic_regression(matrix, y, program().categorical, 1.0)[0]
        case "RandomForest":
            return estimators.random_forest(RandomForest(trees=30, min_samples_leaf=5), matrix, y)
        case "HistGradientBoosting":
            declared = HistGradientBoosting(rounds=40, early_stopping=10)
            parts = {"train": matrix[:1500], "validation": matrix[1500:]}
            judged = {"train": y[:1500], "validation": y[1500:]}
            return estimators.hist_gradient_boosting(
                declared, [0] * matrix.shape[1], estimators.categories(program()), parts, judged
            )[0]


@lru_cache
def estimator_model(kind: Kind) -> EstimatorModel:
    return EstimatorModel.from_estimator(
        fitted(kind), program().names, fitted_matrix(), Calibration(1.1, -0.2)
    )


def odd_matrix(seed: int = 5, rows: int = 2_000) -> np.ndarray:
    """Rows that training never saw: missing values everywhere, other categories, numbers far out."""
    random = np.random.default_rng(seed)
    matrix = training_matrix(seed)[:rows].copy()
    matrix[random.random(matrix.shape) < 0.05] = np.nan
    matrix[::17, 2], matrix[::19, 3] = 0, 255
    matrix[::23, 0], matrix[::29, 8] = 3e38, -3e38
    return matrix
