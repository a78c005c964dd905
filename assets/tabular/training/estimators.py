"""scikit-learn's models.

Logistic regression, random forests, and histogram-based gradient boosting.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assets.tabular.training.boosting import direction
from assets.tabular.training.cpus import threads
from assets.tabular.training.fitted import Fitted, Labels, Matrices
from declare.models import HistGradientBoosting, LogisticRegression, RandomForest

if TYPE_CHECKING:
    from bundle.features.program import FeatureProgram
    from bundle.models.scikit_learn import EstimatorModel
    from declare.tabular import Tabular

Matrix = NDArray[np.float32]
Array = NDArray[np.float64]

ITERATIONS = 100
# scikit-learn's histograms have 255 bins, so that many categories can be told apart; 0 is the code
# of all that are not in the vocabulary.
CATEGORIES = 254


def fit(
    pipeline: Tabular,
    model: LogisticRegression | RandomForest | HistGradientBoosting,
    program: FeatureProgram,
    matrices: Matrices,
    labels: Labels,
) -> Fitted:
    """Train on the training rows.

    The validation rows say when gradient boosting has had enough rounds.
    """
    from bundle.models.scikit_learn import EstimatorModel

    matrix, y = matrices["train"], labels["train"]
    curves: dict[str, list[float]] = {}
    match model:
        case LogisticRegression():
            estimator, _ = logistic_regression(matrix, y, program.categorical, model.regularisation)
            rounds = int(estimator.named_steps["regression"].n_iter_[0])
        case RandomForest():
            estimator = random_forest(model, matrix, y)
            rounds = model.trees
        case HistGradientBoosting():
            signs = [direction(pipeline, feature) for feature in pipeline.features]
            estimator, curves = hist_gradient_boosting(
                model, signs, categories(program), matrices, labels
            )
            rounds = int(estimator.n_iter_)
    fitted = EstimatorModel.from_estimator(estimator, program.names, matrix)
    parameters = {
        name: value
        for name, value in model.model_dump().items()
        if isinstance(value, (int, float, str)) and not isinstance(value, bool)
    }
    return Fitted(
        fitted,
        {"estimator": type(model).__name__, **parameters},
        rounds,
        curves,
        shares(fitted, matrix),
    )


def logistic_regression(
    matrix: Matrix, y: Array, categorical: Sequence[bool], regularisation: float
) -> tuple[Any, bool]:
    """A regression over standardised numbers and one-hot categories, and whether it converged.

    Missing numbers are medians, and each has an indicator of its own.

    `regularisation` is the inverse strength of the L2 penalty (`C`).
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.impute import MissingIndicator, SimpleImputer
    from sklearn.linear_model import LogisticRegression as Regression
    from sklearn.pipeline import FeatureUnion, Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = [column for column, is_category in enumerate(categorical) if not is_category]
    codes = [column for column, is_category in enumerate(categorical) if is_category]
    impute = Pipeline(
        [
            ("fill", SimpleImputer(strategy="median", keep_empty_features=True)),
            ("scale", StandardScaler()),
        ]
    )
    both = FeatureUnion(
        [("values", impute), ("missing", MissingIndicator(features="all", sparse=False))]
    )
    columns = ColumnTransformer(
        [
            ("numbers", both, numbers),
            ("categories", OneHotEncoder(handle_unknown="ignore", dtype=np.float64), codes),
        ],
        sparse_threshold=1.0,
    )
    # Newton steps: a handful of them does what takes lbfgs a hundred, as there are far more rows
    # than columns.
    regression = Regression(C=regularisation, solver="newton-cholesky", max_iter=ITERATIONS)
    pipeline = Pipeline([("columns", columns), ("regression", regression)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipeline.fit(matrix.astype(np.float64), y)
    return pipeline, not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)


def random_forest(model: RandomForest, matrix: Matrix, y: Array) -> Any:
    """A forest; the codes of categories are ordered numbers to it."""
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(
        n_estimators=model.trees,
        max_depth=model.max_depth,
        min_samples_leaf=model.min_samples_leaf,
        max_features=model.max_features,
        n_jobs=threads(),
        random_state=model.seed,
    )
    forest.fit(matrix, y)
    # By how many threads it was trained is no part of a model.
    return forest.set_params(n_jobs=None)


def hist_gradient_boosting(
    model: HistGradientBoosting,
    signs: Sequence[int],
    categorical: Sequence[bool],
    matrices: Matrices,
    labels: Labels,
) -> tuple[Any, dict[str, list[float]]]:
    """Gradient boosting up to its best round on the validation rows, and the loss of each round.

    `signs`: 1 for features that may only raise the prediction, -1 for those that may only lower it,
    0 for all others.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    boosting = HistGradientBoostingClassifier(
        learning_rate=model.learning_rate,
        max_iter=model.rounds,
        max_leaf_nodes=model.max_leaf_nodes,
        min_samples_leaf=model.min_samples_leaf,
        l2_regularization=model.regularisation,
        categorical_features=list(categorical) if any(categorical) else None,
        monotonic_cst=list(signs) if any(signs) else None,
        early_stopping=True,
        n_iter_no_change=model.early_stopping,
        tol=0.0,
        random_state=model.seed,
    )
    # More threads add in another order, and the model would have other bytes.
    with threadpool_limits(limits=1, user_api="openmp"):
        boosting.fit(
            matrices["train"],
            labels["train"],
            X_val=matrices["validation"],
            y_val=labels["validation"],
        )
    # Before the first round there is a score, too. Of equally good rounds the first is kept.
    curves = {
        "train": (-boosting.train_score_[1:]).tolist(),
        "validation": (-boosting.validation_score_[1:]).tolist(),
    }
    boosting._predictors = boosting._predictors[: int(np.argmin(curves["validation"])) + 1]
    # The state of a generator that only training uses.
    boosting._feature_subsample_rng = None
    return boosting, curves


def categories(program: FeatureProgram) -> list[bool]:
    """Which features gradient boosting takes as categories.

    Those with more of them than it can tell apart are ordered numbers to it.
    """
    return [
        is_category and len(program.vocabularies[name]) <= CATEGORIES
        for name, is_category in zip(program.names, program.categorical, strict=True)
    ]


def shares(model: EstimatorModel, matrix: Matrix) -> dict[str, float]:
    """The share of each feature.

    In the gain of all splits of an ensemble, or in the spread of a linear model's terms over rows
    (n, k).
    """
    from assets.tabular.training.boosting import gain

    if model.linear is None:
        assert model.booster is not None
        return gain(model.booster, model.names)
    spread = model.linear.parts(matrix).std(axis=0)
    total = float(spread.sum()) or 1.0
    return {name: float(part) / total for name, part in zip(model.names, spread, strict=True)}
