"""The candidate: the declared model on the training set, calibrated where that helps.

Equal inputs give equal bytes. What people and MLflow are told of a candidate stands here too.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from assets.names import FEATURES, asset_path
from assets.reporting import plots
from assets.tabular.training import calibration
from assets.tabular.training.split import PARTS
from declare.models import XGBoost
from resources.settings import settings
from resources.tracking import DatasetFacts, TrackedCandidate

if TYPE_CHECKING:
    from assets.tabular.training.manifest import TrainingRows
    from bundle.features.program import FeatureProgram
    from bundle.models.model import Model
    from declare.tabular import Tabular
    from resources.lake import Lake

Parameters = Mapping[str, float | int | str]

PROGRAM, FACTS = "program.json", "candidate.json"
# What MLflow calls the part of a training set.
DATASETS = {"train": "training", "validation": "validation", "test": "testing"}
PACKAGES = ("numpy", "polars", "scikit-learn", "skops", "xgboost")


class CandidateFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a candidate is, how it was made and how good it was on each part.

    Nothing in it depends on the clock or on where its training was tracked, so that equal inputs
    give an equal digest.
    """

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
    """A trained candidate.

    Its files, its facts, and what people look at (loss per round, gain per feature).
    """

    files: dict[str, bytes]
    facts: CandidateFacts
    model: Model
    curves: dict[str, list[float]] = field(default_factory=dict)
    gain: dict[str, float] = field(default_factory=dict)


def environment() -> dict[str, str]:
    """What byte-for-byte equality depends on beside the data.

    Interpreter, architecture, packages.
    """
    facts = {"python": platform.python_version(), "architecture": platform.machine()}
    return facts | {package: version(package) for package in PACKAGES}


def rounded(values: Mapping[str, float], digits: int = 9) -> dict[str, float | None]:
    """Metrics as stored.

    NaN (could not be computed) is null, and digits that depend on the order of summing are dropped.
    """
    return {
        name: round(value, digits) if np.isfinite(value) else None for name, value in values.items()
    }


def train(
    pipeline: Tabular,
    rows: TrainingRows,
    training_set: str,
    declared: FeatureProgram,
    tuned: Parameters,
    study: str | None,
) -> Trained:
    """Train the candidate of a training set, trees of XGBoost with the parameters of a study.

    Validation rows say how many rounds are enough, where there are rounds, and whether calibration
    helps; test rows only judge the result. Rows in canonical order, a fixed seed and integer codes
    give equal bytes in every process of one architecture.
    """
    from assets.tabular.tasks.metrics import metrics
    from assets.tabular.training import boosting, estimators
    from bundle.models.model import Calibration

    program = declared.fit(rows.part("train"))
    matrices = {part: program.matrix(rows.part(part)) for part in PARTS}
    labels = {part: rows.labels(part) for part in PARTS}
    chosen = pipeline.model
    if isinstance(chosen, XGBoost):
        fitted = boosting.fit(pipeline, program, matrices, labels, tuned)
    else:
        fitted = estimators.fit(pipeline, chosen, program, matrices, labels)
    model = fitted.model
    line = (
        calibration.worthwhile(model.margin_of_many(matrices["validation"]), labels["validation"])
        if chosen.calibrate
        else None
    )
    if line:
        model.calibration = Calibration(*line)
    facts = CandidateFacts(
        pipeline=pipeline.name,
        as_of=rows.manifest.as_of.isoformat(),
        training_set=training_set,
        study=study,
        program_digest=declared.digest,
        label=pipeline.label.name,
        features=program.names,
        parameters=fitted.parameters,
        rounds=fitted.rounds,
        calibration=line,
        rows=rows.manifest.rows,
        metrics={
            part: rounded(metrics(labels[part], model.predict(matrices[part]))) for part in PARTS
        },
        environment=environment(),
    )
    files = {**model.to_files(), PROGRAM: program.encode(), FACTS: facts.encode()}
    return Trained(files, facts, model, fitted.curves, fitted.gain)


def numbers(metrics: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    """Metrics as single numbers, which Dagster plots over time.

    Those of the test days come first.
    """
    found: dict[str, float] = {}
    for part in reversed(PARTS):
        for name, value in metrics.get(part, {}).items():
            if value is not None:
                found[f"{part}_{name}"] = value
    return found


def candidate_plots(trained: Trained) -> dict[str, bytes]:
    """The candidate's plots as PNG: the features that brought most, and the loss of each round."""
    curves: Mapping[str, Sequence[float]] = trained.curves
    drawn = {"feature_importance": plots.bars(trained.gain, "Share in what was learned", "share")}
    if curves:
        title = f"Log loss per round (best: {trained.facts.rounds})"
        drawn["loss_curve"] = plots.lines(curves, title, "round", "log loss")
    return {name: plots.png(figure) for name, figure in drawn.items()}


def tracked_candidate(
    pipeline: Tabular,
    trained: Trained,
    digest: str,
    drawn: Mapping[str, bytes],
    run_id: str,
    lake: Lake,
    study: str | None,
) -> TrackedCandidate:
    """What MLflow is told of a candidate."""
    facts = trained.facts
    place = lake.place(asset_path(pipeline.name, FEATURES))
    parameters = {name: str(value) for name, value in facts.parameters.items()}
    return TrackedCandidate(
        pipeline=pipeline.name,
        candidate=digest,
        training_set=facts.training_set,
        run_name=f"{pipeline.name} as of {facts.as_of}",
        dagster_run_id=run_id,
        dagster_run_url=f"{settings().dagster_url}/runs/{run_id}",
        model=trained.model,
        features=facts.features,
        parameters={
            **parameters,
            "as_of": facts.as_of,
            "rounds": str(facts.rounds),
            "calibration": json.dumps(facts.calibration),
            "program_digest": facts.program_digest,
            "study": str(study),
        },
        metrics=numbers(facts.metrics),
        curves={f"{part}_log_loss_by_round": values for part, values in trained.curves.items()},
        datasets=[
            DatasetFacts(
                f"{pipeline.name} {part}", facts.training_set, place, context, facts.rows[part]
            )
            for part, context in DATASETS.items()
        ],
        files=trained.files,
        plots={f"{name}.png": content for name, content in drawn.items()},
        tags={"as_of": facts.as_of, "owner": pipeline.owner, "risk": pipeline.risk},
    )
