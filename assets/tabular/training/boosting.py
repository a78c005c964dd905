"""XGBoost: gradient-boosted trees whose rounds the validation rows limit.

Which way features may move a prediction stands here too: scikit-learn's boosting asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assets.tabular.training.cpus import threads
from assets.tabular.training.fitted import Fitted, Labels, Matrices
from bundle.features.expression import Column, Feature, Rolling
from declare.models import Directed, XGBoost

if TYPE_CHECKING:
    import xgboost

    from bundle.features.program import FeatureProgram
    from declare.tabular import Tabular

Matrix = NDArray[np.float32]
Array = NDArray[np.float64]
Parameters = Mapping[str, float | int | str]


def direction(pipeline: Tabular, feature: Feature) -> int:
    """1 where a feature may only raise the prediction, -1 where it may only lower it, else 0."""
    model = pipeline.model
    if not isinstance(model, Directed):
        return 0
    if feature.name in model.increasing:
        return 1
    if feature.name in model.decreasing:
        return -1
    match feature.expression:
        case Rolling(function="rate", value=Column(name=name)) if (
            name == pipeline.label.name and model.label_rates_increase
        ):
            return 1
        case _:
            return 0


def fit(
    pipeline: Tabular,
    program: FeatureProgram,
    matrices: Matrices,
    labels: Labels,
    tuned: Parameters,
) -> Fitted:
    """Train on the training rows with the parameters of a study."""
    from bundle.models.boosted_trees import BoostedTrees

    model = boosted_trees(pipeline)
    parameters = {**base_parameters(pipeline), **tuned}
    train = data(matrices["train"], labels["train"], program)
    judged = data(matrices["validation"], labels["validation"], program, reference=train)
    booster, curves = boost(parameters, train, model.rounds, judged, model.early_stopping)
    return Fitted(
        BoostedTrees.from_booster(booster, program.names, threads=threads()),
        parameters,
        booster.num_boosted_rounds(),
        curves,
        gain(booster, program.names),
    )


def boosted_trees(pipeline: Tabular) -> XGBoost:
    """What a pipeline declares of its trees. Raises TypeError where its model is another one."""
    if not isinstance(pipeline.model, XGBoost):
        raise TypeError(
            f"the model of {pipeline.name!r} is {type(pipeline.model).__name__}, not XGBoost"
        )
    return pipeline.model


def base_parameters(pipeline: Tabular) -> dict[str, float | int | str]:
    """Parameters of every booster of a pipeline; a study's best ones come on top."""
    model = boosted_trees(pipeline)
    signs = [direction(pipeline, feature) for feature in pipeline.features]
    return {
        "objective": model.objective,
        "tree_method": "hist",
        "eval_metric": "logloss",
        "seed": model.seed,
        "learning_rate": model.learning_rate,
        "max_depth": model.max_depth,
        "monotone_constraints": f"({','.join(str(sign) for sign in signs)})",
    }


def data(matrix: Matrix, y: Array, program: FeatureProgram, reference: Any = None) -> Any:
    """An XGBoost matrix of rows in canonical order.

    Categories are integer codes, missing values NaN.
    """
    import xgboost

    types = ["c" if categorical else "q" for categorical in program.categorical]
    return xgboost.QuantileDMatrix(
        matrix,
        label=y,
        feature_names=list(program.names),
        feature_types=types,
        enable_categorical=True,
        nthread=threads(),
        ref=reference,
    )


def boost(
    parameters: Parameters,
    train: Any,
    rounds: int,
    validation: Any = None,
    early_stopping: int | None = None,
) -> tuple[xgboost.Booster, dict[str, list[float]]]:
    """Train a booster. With validation rows it stops, and keeps its best round alone.

    It stops `early_stopping` rounds after the best one. Returns the booster and the log loss of
    each round for `train` and `validation`.
    """
    import xgboost

    watched = (
        [(train, "train")] if validation is None else [(train, "train"), (validation, "validation")]
    )
    history: dict[str, dict[str, list[float]]] = {}
    booster = xgboost.train(
        {**parameters, "nthread": threads()},
        train,
        rounds,
        evals=watched,
        evals_result=history,
        early_stopping_rounds=early_stopping if validation is not None else None,
        verbose_eval=False,
    )
    if validation is not None and early_stopping is not None:
        booster = booster[: booster.best_iteration + 1]
    return booster, {name: curves["logloss"] for name, curves in history.items()}


def margins(booster: xgboost.Booster, rows: Any) -> Array:
    """Raw margins (log odds) of shape (n,)."""
    predicted = booster.predict(rows, output_margin=True)
    return np.asarray(predicted, dtype=np.float64)


def gain(booster: xgboost.Booster, names: tuple[str, ...]) -> dict[str, float]:
    """Share of the loss reduction that each feature brought.

    They add up to 1, and features never used have 0.
    """
    found = booster.get_score(importance_type="total_gain")
    total = sum(float(value) for value in found.values()) or 1.0
    return {name: float(found.get(name, 0.0)) / total for name in names}
