"""The rollout stage: each day's judgement of the bundle that is on its way to the traffic, and of the experiment that runs."""

import hashlib

import dagster as dg

from assets.kind import Kind
from assets.names import (
    EXPERIMENT,
    PREDICTIONS,
    ROLLOUT,
    asset_key,
    days as partitions,
    keys_to_days,
)
from assets.reporting.plots import markdown_image
from assets.stage import Names, Stage
from assets.tabular.monitoring import pages
from declare.pipeline import Pipeline
from resources.endpoint import EndpointTarget
from resources.lake import Lake
from resources.ledger import Ledger
from resources.notifier import Notifier
from resources.reports import Reports

GROUP = "release"
CHECK, SPLIT = "rollout_is_sound", "split_as_declared"


def build(pipeline: Pipeline, kind: Kind) -> list[dg.AssetsDefinition]:
    """The assets of the stage: experiments only where some are declared."""
    return [
        _rollout(pipeline, kind),
        *([_experiment(pipeline, kind)] if pipeline.experiments else []),
    ]


def _rollout(pipeline: Pipeline, kind: Kind) -> dg.AssetsDefinition:
    key = asset_key(pipeline.name, ROLLOUT)

    @dg.asset(
        key=key,
        deps=[
            asset_key(pipeline.name, PREDICTIONS),
            *(asset_key(pipeline.name, name) for name in kind.labels_from),
        ],
        group_name=GROUP,
        kinds={"sqlite", "python"},
        partitions_def=partitions(pipeline),
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset=key,
                description="No rule sends the candidate back to where it came from.",
            )
        ],
        description="Whether the bundle that is being rolled out takes its next step, waits or goes back: judged once for each day.",
    )
    def rollout(
        context: dg.AssetExecutionContext,
        lake: Lake,
        ledger: Ledger,
        reports: Reports,
        endpoint: dg.ResourceParam[EndpointTarget],
        notifier: Notifier,
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        from assets.traffic import daily

        days, trials = keys_to_days(context.partition_keys), endpoint.trials(pipeline.name)
        judged = [
            found
            for day in days
            if (found := daily.judge_day(pipeline, day, lake, ledger, reports, trials)) is not None
        ]
        daily.prune_trials(pipeline, days[-1], trials)
        if not judged:
            told = "No rollout is under way, or the day was judged before."
            check = dg.AssetCheckResult(passed=True, check_name=CHECK, description=told)
            return dg.MaterializeResult(
                metadata={"told": told}, data_version=dg.DataVersion("none"), check_results=[check]
            )
        for each in judged:
            if each.action == "roll_back" or each.report.notes:
                notifier.notify(
                    f"{pipeline.name}: rollout of bundle {each.rollout.bundle[:12]} {pages_word(each.action)}",
                    f"{each.why}\n{each.link}",
                )
        newest = judged[-1]
        told = f"Bundle {newest.rollout.bundle[:12]}, {newest.rollout.told}, {pages_word(newest.action)}: {newest.why}"
        context.log.info(told)
        passed = all(each.report.passed for each in judged)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(
                hashlib.sha256("".join(each.report.digest for each in judged).encode()).hexdigest()
            ),
            metadata={
                "told": told,
                "decision": newest.action,
                "report": dg.MetadataValue.url(newest.link),
                "verdicts": dg.MetadataValue.md(pages.verdict_table(newest.report.verdicts)),
                "ledger_entry": newest.entry.serial if newest.entry else 0,
                "share": newest.rollout.steps[-1].share,
                **{
                    f"plot_{n}": dg.MetadataValue.md(markdown_image(image.content))
                    for n, image in enumerate(newest.images, 1)
                },
            },
            check_results=[
                dg.AssetCheckResult(
                    passed=passed,
                    check_name=CHECK,
                    severity=dg.AssetCheckSeverity.WARN,
                    description=told[:1_000],
                    metadata={"report": newest.link},
                )
            ],
        )

    return rollout


def _experiment(pipeline: Pipeline, kind: Kind) -> dg.AssetsDefinition:
    key = asset_key(pipeline.name, EXPERIMENT)

    @dg.asset(
        key=key,
        deps=[
            asset_key(pipeline.name, PREDICTIONS),
            *(asset_key(pipeline.name, name) for name in kind.labels_from),
        ],
        group_name=GROUP,
        kinds={"sqlite", "python"},
        partitions_def=partitions(pipeline),
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=[
            dg.AssetCheckSpec(SPLIT, asset=key, description="Callers were divided as declared.")
        ],
        description="What the experiment that has traffic says so far, and whether its rule stops it.",
    )
    def experiment(
        context: dg.AssetExecutionContext,
        lake: Lake,
        ledger: Ledger,
        reports: Reports,
        notifier: Notifier,
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        from assets.traffic import daily

        compared = [
            found
            for day in keys_to_days(context.partition_keys)
            if (found := daily.compare_day(pipeline, day, lake, ledger, reports))
        ]
        if not compared:
            told = "No declared experiment has traffic."
            check = dg.AssetCheckResult(passed=True, check_name=SPLIT, description=told)
            return dg.MaterializeResult(
                metadata={"told": told}, data_version=dg.DataVersion("none"), check_results=[check]
            )
        newest = compared[-1]
        if newest.stopped is not None:
            notifier.notify(f"{pipeline.name}: {newest.told}", newest.link)
        split = newest.report.verdicts[0]
        check = dg.AssetCheckResult(
            passed=split.passed is not False,
            check_name=SPLIT,
            severity=dg.AssetCheckSeverity.WARN,
            description=split.reason,
        )
        return dg.MaterializeResult(
            data_version=dg.DataVersion(newest.report.digest),
            metadata={
                "told": newest.told,
                "report": dg.MetadataValue.url(newest.link),
                "verdicts": dg.MetadataValue.md(pages.verdict_table(newest.report.verdicts)),
                "ledger_entry": newest.stopped.serial if newest.stopped else 0,
            },
            check_results=[check],
        )

    return experiment


def pages_word(action: str) -> str:
    """What an action means, in words."""
    return {"advance": "takes the next step", "hold": "waits", "roll_back": "goes back"}[action]


def _read(pipeline: Pipeline, kind: Kind, asset: str) -> object:
    labels = kind.entity, kind.labels_from
    return pipeline.release, pipeline.experiments, pipeline.log, labels


def _names(pipeline: Pipeline) -> Names:
    experiment = (EXPERIMENT,) if pipeline.experiments else ()
    return {"monitored": (ROLLOUT, *experiment)}


STAGE = Stage(
    name="traffic",
    group=GROUP,
    build=build,
    reads=_read,
    assets=_names,
)
