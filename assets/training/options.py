"""What a pipeline declares about training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from assets.declared import Declared

Fraction = Annotated[float, Field(gt=0, lt=1)]


class XGBoost(Declared):
    """Gradient-boosted trees (`tree_method="hist"`), tuned by a seeded Optuna study.

    A study is reused until it is `study_age_days` old in data time; training with known parameters is cheap, tuning is not.

    `increasing` and `decreasing` name numeric features that may move the prediction in that direction alone, other
    things equal; with `label_rates_increase` the rates of the label over earlier facts are among the increasing ones. Few days
    of history are easily memorised by features that all rows of a day share; knowing their direction prevents most of that.
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
    increasing: tuple[str, ...] = ()
    decreasing: tuple[str, ...] = ()
    label_rates_increase: bool = True
    seed: int = 20130101


class LogisticRegression(Declared):
    """The baseline that a candidate has to beat: standardised numbers, one-hot categories, missing-value indicators."""

    regularisation: float = Field(default=1.0, gt=0)


class Split(Declared):
    """Time-ordered split of the training window: the last `test_days` test, the `validation_days` before them tune and
    calibrate, everything earlier trains. `history_days` bounds the window (None: all history)."""

    test_days: int = Field(default=14, ge=1)
    validation_days: int = Field(default=14, ge=1)
    history_days: int | None = Field(default=None, ge=3)
    minimum_rows: int = Field(default=2_000, ge=1)
