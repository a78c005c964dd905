"""Names and asset selections of a pipeline's jobs."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.names import BUNDLE, PREDICTIONS, RETRAINING_DECISION, asset_key, raw_name
from assets.tabular.monitoring.monitors import DRIFT_PAGE, MONITORS
from declare.pipeline import Pipeline


def nightly(pipeline: Pipeline) -> str:
    return f"{pipeline.name}_nightly"


def retrain(pipeline: Pipeline) -> str:
    return f"{pipeline.name}_retrain"


def release(pipeline: Pipeline) -> str:
    return f"{pipeline.name}_release"


def pages(pipeline: Pipeline) -> str:
    return f"{pipeline.name}_pages"


def ingested(pipeline: Pipeline) -> list[dg.AssetKey]:
    """Raw data, features and what the endpoint looks up: processed as soon as a day is delivered."""
    daily = [
        asset_key(pipeline.name, raw_name(source.name))
        for source in pipeline.sources
        if source.daily
    ]
    return [
        *daily,
        *(asset_key(pipeline.name, name) for name in ("features", "online_features")),
    ]


def landed_once(pipeline: Pipeline) -> list[dg.AssetKey]:
    return [
        asset_key(pipeline.name, raw_name(source.name))
        for source in pipeline.sources
        if not source.daily
    ]


def monitored(pipeline: Pipeline) -> list[dg.AssetKey]:
    """Predictions, monitors, the rollout and the retraining decision: processed when a day is over."""
    return [
        asset_key(pipeline.name, PREDICTIONS),
        *(asset_key(pipeline.name, monitor.name) for monitor in MONITORS),
        dg.AssetKey([pipeline.name, "validation", "rollout"]),
        *(
            [dg.AssetKey([pipeline.name, "validation", "experiment"])]
            if pipeline.experiments
            else []
        ),
        asset_key(pipeline.name, RETRAINING_DECISION),
    ]


def released(pipeline: Pipeline) -> list[dg.AssetKey]:
    return [asset_key(pipeline.name, name) for name in ("approval", "release", "endpoint")]


def retrained(pipeline: Pipeline) -> list[dg.AssetKey]:
    """From training set to served endpoint."""
    training = (
        "training_set",
        *(("tuning_study",) if pipeline.tuned else ()),
        "baseline",
        "candidate",
    )
    validation = ("performance", "slices", "fairness", "explainability", "robustness")
    return [
        *(asset_key(pipeline.name, name) for name in training),
        *(dg.AssetKey([pipeline.name, "validation", name]) for name in validation),
        asset_key(pipeline.name, BUNDLE),
        *released(pipeline),
    ]


def build(pipeline: Pipeline) -> list[UnresolvedAssetJobDefinition]:
    """The jobs of a pipeline; their names start with the pipeline's."""
    tags = {"pipeline": pipeline.name}
    return [
        dg.define_asset_job(
            nightly(pipeline),
            selection=dg.AssetSelection.assets(
                *landed_once(pipeline), *ingested(pipeline), *monitored(pipeline)
            ),
            description="Every daily asset of the pipeline, for the days that are due.",
            tags=tags,
        ),
        dg.define_asset_job(
            retrain(pipeline),
            selection=dg.AssetSelection.assets(*retrained(pipeline)),
            description="Train, validate, bundle, release and serve a new candidate.",
            tags=tags,
        ),
        dg.define_asset_job(
            release(pipeline),
            selection=dg.AssetSelection.assets(*released(pipeline)),
            description="Release the newest bundle, if its gates and approvals allow it, and serve it.",
            tags=tags,
        ),
        dg.define_asset_job(
            pages(pipeline),
            selection=dg.AssetSelection.assets(asset_key(pipeline.name, DRIFT_PAGE)),
            description="Draw what people look at on some days, once everything else is done.",
            tags=tags,
        ),
    ]
