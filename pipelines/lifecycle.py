"""A pipeline's whole lifecycle as Dagster definitions: from raw data to the retraining decision."""

import itertools
import warnings
from datetime import timedelta
from typing import Any

import dagster as dg

from assets.lifecycles import kind_of, stages
from assets.names import asset_name
from assets.stage import Stage
from declare.pipeline import Pipeline
from sensors import decisions, jobs, nightly

DAILY_FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=36))


def lifecycle(pipeline: Pipeline) -> dg.Definitions:
    """Assets, checks, jobs, schedule and sensors of one pipeline.

    Resources come with `pipelines.definitions`.
    """
    schedule, arrivals = nightly.build(pipeline)
    return dg.Definitions.merge(
        dg.Definitions(
            assets=lifecycle_assets(pipeline),
            schedules=[schedule],
            sensors=[arrivals, *decisions.build(pipeline)],
        ),
        jobs.build(pipeline),
    )


def lifecycle_assets(pipeline: Pipeline) -> list[dg.AssetsDefinition]:
    """The assets of all stages, in order, with the policies that hold for every asset."""
    assets = (stage_assets(pipeline, stage) for stage in stages(pipeline))
    return list(itertools.chain.from_iterable(assets))


def stage_assets(pipeline: Pipeline, stage: Stage[Any]) -> list[dg.AssetsDefinition]:
    """The assets of one stage with what holds for all: owner, tags, code version, freshness."""
    kind = kind_of(pipeline)

    def policy(spec: dg.AssetSpec) -> dg.AssetSpec:
        daily = spec.partitions_def is not None
        # One copy of each spec: merging what is merged and replacing the rest would make two.
        return spec.replace_attributes(
            owners=[*spec.owners, pipeline.owner],
            tags={**spec.tags, "risk": pipeline.risk},
            code_version=stage.code_version(pipeline, kind, asset_name(spec.key)),
            freshness_policy=DAILY_FRESHNESS if daily else None,
        )

    with warnings.catch_warnings():
        # Beta parts of Dagster are used knowingly, in a pinned version (`backfill_policy`, windows
        # that begin before the first day). Nobody needs to hear of them at each load.
        warnings.simplefilter("ignore", dg.BetaWarning)
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return list(dg.map_asset_specs(policy, stage.build(pipeline, kind)))
