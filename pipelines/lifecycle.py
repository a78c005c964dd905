"""A pipeline's whole lifecycle as Dagster definitions: from raw data to the retraining decision."""

import hashlib
from collections.abc import Sequence
from datetime import timedelta

import dagster as dg

import assets.data.assets as data
import assets.endpoint.assets as endpoint
import assets.release.assets as release
import assets.retraining.assets as retraining
import assets.tabular.features.assets as features
import assets.tabular.monitoring.assets as monitoring
import assets.tabular.training.assets as training
import assets.tabular.validation.assets as validation
import assets.traffic.assets as rollout
from declare.pipeline import Pipeline
from sensors import decisions, jobs, nightly, pages

STAGES = (data, features, training, validation, release, endpoint, monitoring, rollout, retraining)
DAILY_FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=36))


def lifecycle(pipeline: Pipeline) -> dg.Definitions:
    """Assets, checks, jobs, schedule and sensors of one pipeline; resources come with `pipelines.definitions`."""
    assets = [asset for stage in STAGES for asset in stage.build(pipeline)]
    schedule, arrivals = nightly.build(pipeline)
    return dg.Definitions(
        assets=with_policies(pipeline, assets),
        jobs=jobs.build(pipeline),
        schedules=[schedule],
        sensors=[arrivals, *decisions.build(pipeline), pages.build(pipeline)],
    )


def with_policies(
    pipeline: Pipeline, assets: Sequence[dg.AssetsDefinition]
) -> Sequence[dg.AssetsDefinition]:
    """What holds for every asset of a pipeline, said once: owner, tags, code version and freshness."""
    declared = hashlib.sha256(repr(pipeline.model_dump(mode="python")).encode()).hexdigest()[:12]

    def policy(spec: dg.AssetSpec) -> dg.AssetSpec:
        daily = spec.partitions_def is not None
        # One copy of each spec: merging what is merged and replacing the rest would make two.
        return spec.replace_attributes(
            owners=[*spec.owners, pipeline.owner],
            tags={**spec.tags, "risk": pipeline.risk},
            code_version=declared,
            freshness_policy=DAILY_FRESHNESS if daily else None,
        )

    return dg.map_asset_specs(policy, assets)
