"""A pipeline's jobs: their names, and which assets each of them materializes.

The assets of a cadence are named by the stages. When a job runs is decided by the sensors.
"""

import dagster as dg

from assets.lifecycles import asset_names
from assets.names import asset_key
from assets.stage import Cadence
from declare.pipeline import Pipeline


def nightly(pipeline: Pipeline) -> str:
    return f"{pipeline.name}_nightly"


def retrain(pipeline: Pipeline) -> str:
    return f"{pipeline.name}_retrain"


def release(pipeline: Pipeline) -> str:
    return f"{pipeline.name}_release"


def keys(pipeline: Pipeline, *cadences: Cadence) -> list[dg.AssetKey]:
    """Keys of the pipeline's assets of these cadences."""
    return [asset_key(pipeline.name, name) for name in asset_names(pipeline, *cadences)]


def build(pipeline: Pipeline) -> dg.Definitions:
    """The jobs of a pipeline. Their names start with the pipeline's."""
    jobs: dict[str, tuple[list[dg.AssetKey], str]] = {
        nightly(pipeline): (
            keys(pipeline, "landed_once", "ingested", "monitored"),
            "Every daily asset of the pipeline, for the days that are due.",
        ),
        retrain(pipeline): (
            keys(pipeline, "retrained", "released"),
            "Train, validate, bundle, release and serve a new candidate.",
        ),
        release(pipeline): (
            keys(pipeline, "released"),
            "Release the newest bundle, if its gates and approvals allow it, and serve it.",
        ),
    }
    return dg.Definitions(
        jobs=[
            dg.define_asset_job(
                name,
                selection=dg.AssetSelection.assets(*assets),
                description=description,
                tags={"pipeline": pipeline.name},
            )
            for name, (assets, description) in jobs.items()
        ]
    )
