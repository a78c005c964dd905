"""How a candidate is trained: the model, its parameters, and the split of its rows in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from bundle.features.expression import Category, Feature
from declare.base import DeclarationError, Declared

Fraction = Annotated[float, Field(gt=0, lt=1)]


class Directed(Declared):
    """A model that can be told which way features may move the prediction, other things equal.

    `increasing` and `decreasing` name numeric features that may move it in that direction alone.
    With `label_rates_increase` the rates of the label over earlier facts are among the increasing
    ones. Few days of history are easily memorised by features that all rows of a day share; their
    direction prevents most of that.
    """

    increasing: tuple[str, ...] = ()
    decreasing: tuple[str, ...] = ()
    label_rates_increase: bool = True


class XGBoost(Directed):
    """Gradient-boosted trees (`tree_method="hist"`), tuned by a seeded Optuna study.

    A study is reused until it is `study_age_days` old in data time: training with known parameters
    is cheap, tuning is not.
    """

    objective: Literal["binary:logistic"] = "binary:logistic"
    trials: int = Field(default=20, ge=0)
    rounds: int = Field(default=400, ge=1)
    early_stopping: int = Field(default=30, ge=1)
    study_age_days: int = Field(default=120, ge=1)
    tuning_rows: int = Field(default=40_000, ge=100)
    max_depth: int = Field(default=6, ge=1, le=12)
    learning_rate: Fraction = 0.1
    calibrate: bool = True
    seed: int = 20130101


class HistGradientBoosting(Directed):
    """scikit-learn's histogram-based gradient boosting, with the parameters declared here.

    Categories are split as categories, not as numbers.
    """

    rounds: int = Field(default=400, ge=1)
    early_stopping: int = Field(default=30, ge=1)
    learning_rate: Fraction = 0.1
    max_leaf_nodes: int = Field(default=31, ge=2, le=1_024)
    min_samples_leaf: int = Field(default=20, ge=1)
    regularisation: float = Field(default=0.0, ge=0)
    calibrate: bool = True
    seed: int = 20130101


class RandomForest(Declared):
    """scikit-learn's random forest, with the parameters declared here.

    `max_features` is the share of the features that is tried at a split, or the rule for their
    number.
    """

    trees: int = Field(default=200, ge=1, le=2_000)
    max_depth: int = Field(default=10, ge=1, le=32)
    min_samples_leaf: int = Field(default=20, ge=1)
    max_features: Literal["sqrt", "log2"] | Fraction = "sqrt"
    calibrate: bool = True
    seed: int = 20130101


class LogisticRegression(Declared):
    """Standardised numbers, one-hot categories, indicators of missing values.

    It is the baseline that a candidate has to beat, or the model itself. `regularisation` is the
    inverse strength of the L2 penalty.
    """

    regularisation: float = Field(default=1.0, gt=0)
    calibrate: bool = True


AnyModel = XGBoost | HistGradientBoosting | RandomForest | LogisticRegression


class Split(Declared):
    """The split of the training window in time.

    The last `test_days` test, the `validation_days` before them tune and calibrate, everything
    earlier trains. `history_days` bounds the window (None: all history).
    """

    test_days: int = Field(default=14, ge=1)
    validation_days: int = Field(default=14, ge=1)
    history_days: int | None = Field(default=None, ge=3)
    minimum_rows: int = Field(default=2_000, ge=1)


def check_directions(model: AnyModel, features: Sequence[Feature]) -> None:
    """Refuse directions of what is no numeric feature, and both directions of one feature."""
    if not isinstance(model, Directed):
        return

    numeric = [each.name for each in features if not isinstance(each.expression, Category)]
    for field, names in (("increasing", model.increasing), ("decreasing", model.decreasing)):
        for name in names:
            if name not in numeric:
                raise DeclarationError(
                    f"model.{field}",
                    name,
                    f"{name!r} is no numeric feature; numeric are {', '.join(numeric)}",
                )
            if name in model.increasing and name in model.decreasing:
                raise DeclarationError(
                    f"model.{field}",
                    name,
                    f"{name!r} stands in model.increasing and in model.decreasing; "
                    "leave it in one of them",
                )
