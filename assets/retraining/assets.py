"""The retraining stage: one decision a day, with the evidence that it rests on. The decision sensor acts on it."""

import hashlib

import dagster as dg

from assets.names import RETRAINING_DECISION, asset_key, days as partitions, keys_to_days
from assets.tabular.monitoring.monitors import DATA_DRIFT, PERFORMANCE, PREDICTION_DRIFT, SKEW
from declare.pipeline import Pipeline
from resources.artifacts import Artifacts
from resources.lake import Lake
from resources.ledger import Ledger
from resources.reports import Reports


class DecisionConfig(dg.Config):
    """A person's wish: `requested_by` asks, for the newest day of the run, to retrain because of `reason`."""

    requested_by: str | None = None
    reason: str = "no reason was given"


def build(pipeline: Pipeline) -> list[dg.AssetsDefinition]:
    """The asset of the stage."""

    @dg.asset(
        key=asset_key(pipeline.name, RETRAINING_DECISION),
        deps=[
            asset_key(pipeline.name, name)
            for name in (DATA_DRIFT, PREDICTION_DRIFT, PERFORMANCE, SKEW)
        ],
        group_name="retraining",
        kinds={"python"},
        partitions_def=partitions(pipeline),
        backfill_policy=dg.BackfillPolicy.single_run(),
        description="Whether to retrain, and why: a pure function of the day's evidence and the declared policy.",
    )
    def retraining_decision(
        context: dg.AssetExecutionContext,
        config: DecisionConfig,
        lake: Lake,
        artifacts: Artifacts,
        ledger: Ledger,
        reports: Reports,
    ) -> dg.MaterializeResult[None]:
        from assets.retraining import tables
        from assets.retraining.decide import Request, decide, save_decision
        from assets.retraining.evidence import gather

        wanted = keys_to_days(context.partition_keys)
        made = []
        for day in wanted:
            asked = (
                Request(by=config.requested_by, reason=config.reason, day=day)
                if config.requested_by and day == wanted[-1]
                else None
            )
            decision = decide(
                gather(pipeline, day, lake, artifacts, ledger, reports, asked), pipeline.retraining
            )
            place = save_decision(reports, decision)
            made.append(decision)
        newest = made[-1]
        context.log.info(newest.reason)
        digests = "".join(decision.model_dump_json() for decision in made)
        metadata: dict[str, dg.MetadataValue] = {
            "decision": dg.MetadataValue.text(newest.reason),
            "retrain": dg.MetadataValue.bool(newest.retrain),
            "cause": dg.MetadataValue.text(newest.cause or "none"),
            "causes": dg.MetadataValue.md(tables.causes(newest)),
            "evidence": dg.MetadataValue.md(tables.evidence(newest)),
            "stored": dg.MetadataValue.path(place),
        }
        if len(made) > 1:
            metadata["days"] = dg.MetadataValue.md(tables.days(made))
        return dg.MaterializeResult(
            data_version=dg.DataVersion(hashlib.sha256(digests.encode()).hexdigest()),
            metadata=metadata,
        )

    return [retraining_decision]
