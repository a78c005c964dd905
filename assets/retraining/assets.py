"""The retraining stage: one decision a day, with the evidence that it rests on.

The decision sensor acts on it.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from assets.kind import Kind
from assets.names import (
    RELEASE,
    RETRAINING_DECISION,
    asset_key,
    days as partitions,
    keys_to_days,
    raw_name,
)
from assets.stage import Stage, always
from declare.pipeline import Pipeline
from resources.artifacts import Artifacts
from resources.lake import Lake
from resources.ledger import Ledger
from resources.reports import Reports

if TYPE_CHECKING:
    from assets.retraining.decide import Decision


GROUP = "retraining"


class DecisionConfig(dg.Config):
    """A person's wish to retrain, for the newest day of the run.

    `requested_by` is who asks, `reason` is why.
    """

    requested_by: str | None = None
    reason: str = "no reason was given"


def build(pipeline: Pipeline, kind: Kind) -> list[dg.AssetsDefinition]:
    """The asset of the stage."""

    @dg.asset(
        key=asset_key(pipeline.name, RETRAINING_DECISION),
        deps=_reads(pipeline, kind),
        group_name=GROUP,
        kinds={"python"},
        partitions_def=partitions(pipeline),
        backfill_policy=dg.BackfillPolicy.single_run(),
        description=(
            "Whether to retrain, and why: a pure function of the day's evidence and the declared "
            "policy."
        ),
    )
    def retraining_decision(
        context: dg.AssetExecutionContext,
        config: DecisionConfig,
        lake: Lake,
        artifacts: Artifacts,
        ledger: Ledger,
        reports: Reports,
    ) -> dg.MaterializeResult[None]:
        from assets.retraining.decide import Request, decide, save_decision
        from assets.retraining.evidence import gather

        wanted = keys_to_days(context.partition_keys)
        decisions = []
        for day in wanted:
            wish = None
            if config.requested_by and day == wanted[-1]:
                wish = Request(by=config.requested_by, reason=config.reason, day=day)
            evidence = gather(kind, day, lake, artifacts, ledger, reports, wish)
            decisions.append(decide(evidence, pipeline.retraining))
            place = save_decision(reports, decisions[-1])

        context.log.info(decisions[-1].reason)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(_digest(decisions)), metadata=_metadata(decisions, place)
        )

    return [retraining_decision]


def _reads(pipeline: Pipeline, kind: Kind) -> list[dg.AssetKey]:
    """The day's reports, what is served, and the deliveries whose broken rows are a data fault."""
    deliveries = [raw_name(source.name) for source in pipeline.sources if source.daily]
    names = [*kind.watched.reports, RELEASE, *deliveries]
    return [asset_key(pipeline.name, name) for name in names]


def _digest(decisions: Sequence["Decision"]) -> str:
    content = "".join(decision.model_dump_json() for decision in decisions)
    return hashlib.sha256(content.encode()).hexdigest()


def _metadata(decisions: Sequence["Decision"], place: str) -> dict[str, dg.MetadataValue]:
    """The newest decision with its causes and evidence.

    Where there are several days, also a table of all.
    """
    from assets.retraining import tables

    newest = decisions[-1]
    metadata: dict[str, dg.MetadataValue] = {
        "decision": dg.MetadataValue.text(newest.reason),
        "retrain": dg.MetadataValue.bool(newest.retrain),
        "cause": dg.MetadataValue.text(newest.cause or "none"),
        "causes": dg.MetadataValue.md(tables.causes(newest)),
        "evidence": dg.MetadataValue.md(tables.evidence(newest)),
        "stored": dg.MetadataValue.path(place),
    }
    if len(decisions) > 1:
        metadata["days"] = dg.MetadataValue.md(tables.days(decisions))
    return metadata


def _read(pipeline: Pipeline, kind: Kind, asset: str) -> object:
    limits = [(source.name, source.daily, source.refuses_above) for source in pipeline.sources]
    return pipeline.retraining, limits, kind.definition(), kind.watched


STAGE = Stage(
    name="retraining",
    group=GROUP,
    build=build,
    reads=_read,
    assets=always({"monitored": (RETRAINING_DECISION,)}),
)
