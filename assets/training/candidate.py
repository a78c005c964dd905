"""The candidate: gradient-boosted trees on the training set, calibrated where that helps, equal bytes for equal inputs."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from assets.training import calibration
from assets.training.cpus import threads
from assets.training.split import PARTS
from bundle.expression import Column, Feature, Rolling

if TYPE_CHECKING:
    import xgboost

    from assets.declaration import Pipeline
    from assets.training.manifest import TrainingRows
    from bundle.model import Model
    from bundle.program import FeatureProgram

Matrix = NDArray[np.float32]
Array = NDArray[np.float64]
Parameters = Mapping[str, float | int | str]

PROGRAM, FACTS = "program.json", "candidate.json"
PACKAGES = ("numpy", "polars", "xgboost")


class CandidateFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a candidate is, how it was made and how good it was on each part. Nothing in it depends on the clock or on
    where its training was tracked, so that equal inputs give an equal digest."""

    format: int = 1
    pipeline: str
    as_of: str
    training_set: str
    study: str | None
    program_digest: str
    label: str
    features: tuple[str, ...]
    parameters: dict[str, float | int | str]
    rounds: int
    calibration: tuple[float, float] | None
    rows: dict[str, int]
    metrics: dict[str, dict[str, float | None]]
    environment: dict[str, str]

    def encode(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=1)

    @classmethod
    def decode(cls, content: bytes) -> CandidateFacts:
        return msgspec.json.decode(content, type=cls)


@dataclass(frozen=True)
class Trained:
    """A trained candidate: its files, its facts, and what people look at (loss per round, gain per feature)."""

    files: dict[str, bytes]
    facts: CandidateFacts
    model: Model
    curves: dict[str, list[float]] = field(default_factory=dict)
    gain: dict[str, float] = field(default_factory=dict)


def environment() -> dict[str, str]:
    """What byte-for-byte equality depends on beside the data: interpreter, architecture, packages."""
    facts = {"python": platform.python_version(), "architecture": platform.machine()}
    return facts | {package: version(package) for package in PACKAGES}


def base_parameters(pipeline: Pipeline) -> dict[str, float | int | str]:
    """Parameters of every booster of a pipeline; a study's best ones come on top."""
    model = pipeline.model
    signs = [direction(pipeline, feature) for feature in pipeline.features]
    return {
        "objective": model.objective, "tree_method": "hist", "eval_metric": "logloss", "seed": model.seed,
        "learning_rate": model.learning_rate, "max_depth": model.max_depth,
        "monotone_constraints": f"({','.join(str(sign) for sign in signs)})",
    }  # fmt: skip


def direction(pipeline: Pipeline, feature: Feature) -> int:
    """1 for a feature that may only raise the prediction, -1 for one that may only lower it, 0 for all others."""
    if feature.name in pipeline.model.increasing:
        return 1
    if feature.name in pipeline.model.decreasing:
        return -1
    match feature.expression:
        case Rolling(function="rate", value=Column(name=name)) if name == pipeline.label.name and pipeline.model.label_rates_increase:
            return 1
        case _:
            return 0


def data(matrix: Matrix, y: Array, program: FeatureProgram, reference: Any = None) -> Any:
    """An XGBoost matrix of rows in canonical order; categories are integer codes, missing values NaN."""
    import xgboost

    types = ["c" if categorical else "q" for categorical in program.categorical]
    return xgboost.QuantileDMatrix(
        matrix, label=y, feature_names=list(program.names), feature_types=types, enable_categorical=True, nthread=threads(), ref=reference
    )


def boost(
    parameters: Parameters, train: Any, rounds: int, validation: Any = None, early_stopping: int | None = None
) -> tuple[xgboost.Booster, dict[str, list[float]]]:
    """Train a booster; with validation rows it stops `early_stopping` rounds after its best one and keeps the best alone.

    Returns the booster and the log loss of each round for `train` and `validation`.
    """
    import xgboost

    watched = [(train, "train")] if validation is None else [(train, "train"), (validation, "validation")]
    history: dict[str, dict[str, list[float]]] = {}
    booster = xgboost.train(
        {**parameters, "nthread": threads()}, train, rounds, evals=watched, evals_result=history,
        early_stopping_rounds=early_stopping if validation is not None else None, verbose_eval=False,
    )  # fmt: skip
    if validation is not None and early_stopping is not None:
        booster = booster[: booster.best_iteration + 1]
    return booster, {name: curves["logloss"] for name, curves in history.items()}


def margins(booster: xgboost.Booster, rows: Any) -> Array:
    """Raw margins (log odds) of shape (n,)."""
    predicted = booster.predict(rows, output_margin=True)
    return np.asarray(predicted, dtype=np.float64)


def rounded(values: Mapping[str, float], digits: int = 9) -> dict[str, float | None]:
    """Metrics as stored: NaN (could not be computed) is null, and digits that depend on the order of summing are dropped."""
    return {name: round(value, digits) if np.isfinite(value) else None for name, value in values.items()}


def train(
    pipeline: Pipeline, rows: TrainingRows, training_set: str, declared: FeatureProgram, tuned: Parameters, study: str | None
) -> Trained:
    """Train the candidate of a training set with the parameters of a study.

    Validation rows say how many rounds are enough and whether calibration helps; test rows only judge the result. Rows
    in canonical order, a fixed seed and integer codes give equal bytes in every process of one architecture.
    """
    from assets.validation.metrics import metrics
    from bundle.model import Calibration, Model

    program = declared.fit(rows.part("train"))
    matrices = {part: program.matrix(rows.part(part)) for part in PARTS}
    labels = {part: rows.labels(part) for part in PARTS}
    parameters = {**base_parameters(pipeline), **tuned}
    fitted = data(matrices["train"], labels["train"], program)
    judged = data(matrices["validation"], labels["validation"], program, reference=fitted)
    booster, curves = boost(parameters, fitted, pipeline.model.rounds, judged, pipeline.model.early_stopping)

    line = calibration.worthwhile(margins(booster, judged), labels["validation"]) if pipeline.model.calibrate else None
    model = Model.from_booster(booster, program.names, Calibration(*line) if line else Calibration(), threads=threads())
    facts = CandidateFacts(
        pipeline=pipeline.name, as_of=rows.manifest.as_of.isoformat(), training_set=training_set, study=study,
        program_digest=declared.digest, label=pipeline.label.name, features=program.names, parameters=parameters,
        rounds=booster.num_boosted_rounds(), calibration=line, rows=rows.manifest.rows,
        metrics={part: rounded(metrics(labels[part], model.predict(matrices[part]))) for part in PARTS}, environment=environment(),
    )  # fmt: skip
    files = {**model.to_files(), PROGRAM: program.encode(), FACTS: facts.encode()}
    return Trained(files, facts, model, curves, gain(booster, program.names))


def gain(booster: xgboost.Booster, names: tuple[str, ...]) -> dict[str, float]:
    """Share of the loss reduction that each feature brought; they add up to 1, and features never used have 0."""
    found = booster.get_score(importance_type="total_gain")
    total = sum(float(value) for value in found.values()) or 1.0
    return {name: float(found.get(name, 0.0)) / total for name in names}
