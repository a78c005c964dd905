"""The assets that judge traffic once a day: the bundle on its way, and the experiment that runs.

What is judged, and what follows, is in `judging.daily`; here it becomes assets and checks.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

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
from assets.reporting.tables import verdict_table
from assets.stage import Names, Stage
from declare.pipeline import Pipeline
from resources.endpoint import EndpointTarget
from resources.lake import Lake
from resources.ledger import Ledger
from resources.notifier import Notifier
from resources.reports import Reports

if TYPE_CHECKING:
    from assets.traffic.judging.daily import Compared, Judged

GROUP = "release"
CHECK, SPLIT = "rollout_is_sound", "split_as_declared"
Result = dg.MaterializeResult[None]


def build(pipeline: Pipeline, kind: Kind) -> list[dg.AssetsDefinition]:
    """The assets of the stage: experiments only where some are declared."""
    return [_rollout(kind), *([_experiment(kind)] if pipeline.experiments else [])]


def _rollout(kind: Kind) -> dg.AssetsDefinition:
    pipeline = kind.pipeline

    @_daily(
        kind,
        ROLLOUT,
        dg.AssetCheckSpec(
            CHECK,
            asset=asset_key(pipeline.name, ROLLOUT),
            description="No rule sends the candidate back to where it came from.",
        ),
        "Whether the bundle that is being rolled out takes its next step, waits or goes back: "
        "judged once for each day.",
    )
    def rollout(
        context: dg.AssetExecutionContext,
        lake: Lake,
        ledger: Ledger,
        reports: Reports,
        endpoint: dg.ResourceParam[EndpointTarget],
        notifier: Notifier,
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster reads the bare class
        from assets.traffic.judging import daily

        days, trials = keys_to_days(context.partition_keys), endpoint.trials(pipeline.name)
        looked = [daily.judge_day(kind, day, lake, ledger, reports, trials) for day in days]
        daily.prune_trials(pipeline, days[-1], trials)
        judged = [each for each in looked if each is not None]
        if not judged:
            return _nothing(CHECK, "No rollout is under way, or the day was judged before.")

        for each in judged:
            if each.action == "roll_back" or each.report.notes:
                notifier.notify(_title(each), f"{each.why}\n{each.link}")
        context.log.info(_sentence(judged[-1]))
        return _judged_result(judged)

    return rollout


def _experiment(kind: Kind) -> dg.AssetsDefinition:
    pipeline = kind.pipeline

    @_daily(
        kind,
        EXPERIMENT,
        dg.AssetCheckSpec(
            SPLIT,
            asset=asset_key(pipeline.name, EXPERIMENT),
            description="Callers were divided as declared.",
        ),
        "What the experiment that has traffic shows so far, and whether its rule stops it.",
    )
    def experiment(
        context: dg.AssetExecutionContext,
        lake: Lake,
        ledger: Ledger,
        reports: Reports,
        notifier: Notifier,
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster reads the bare class
        from assets.traffic.judging import daily

        days = keys_to_days(context.partition_keys)
        looked = [daily.compare_day(kind, day, lake, ledger, reports) for day in days]
        compared = [each for each in looked if each is not None]
        if not compared:
            return _nothing(SPLIT, "No declared experiment has traffic.")

        newest = compared[-1]
        if newest.stopped is not None:
            notifier.notify(f"{pipeline.name}: {newest.summary}", newest.link)
        return _compared_result(newest)

    return experiment


def _daily(
    kind: Kind, name: str, check: dg.AssetCheckSpec, description: str
) -> Callable[[Callable[..., Result]], dg.AssetsDefinition]:
    """An asset of a day that reads predictions and labels; a backfill of it is one run."""
    pipeline = kind.pipeline
    return dg.asset(
        key=asset_key(pipeline.name, name),
        deps=[
            asset_key(pipeline.name, PREDICTIONS),
            *(asset_key(pipeline.name, each) for each in kind.labels_from),
        ],
        group_name=GROUP,
        kinds={"sqlite", "python"},
        partitions_def=partitions(pipeline),
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=[check],
        description=description,
    )


def _nothing(check: str, why: str) -> Result:
    """There was nothing to judge."""
    return dg.MaterializeResult(
        metadata={"told": why},
        data_version=dg.DataVersion("none"),
        check_results=[dg.AssetCheckResult(passed=True, check_name=check, description=why)],
    )


def _judged_result(judged: "Sequence[Judged]") -> Result:
    newest = judged[-1]
    digests = "".join(each.report.digest for each in judged)
    plots = {
        f"plot_{n}": dg.MetadataValue.md(markdown_image(image.content))
        for n, image in enumerate(newest.images, 1)
    }
    check = dg.AssetCheckResult(
        passed=all(each.report.passed for each in judged),
        check_name=CHECK,
        severity=dg.AssetCheckSeverity.WARN,
        description=_sentence(newest)[:1_000],
        metadata={"report": newest.link},
    )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(hashlib.sha256(digests.encode()).hexdigest()),
        metadata={
            "told": _sentence(newest),
            "decision": newest.action,
            "report": dg.MetadataValue.url(newest.link),
            "verdicts": dg.MetadataValue.md(verdict_table(newest.report.verdicts)),
            "ledger_entry": newest.entry.serial if newest.entry else 0,
            "share": newest.rollout.steps[-1].share,
            **plots,
        },
        check_results=[check],
    )


def _compared_result(newest: "Compared") -> Result:
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
            "told": newest.summary,
            "report": dg.MetadataValue.url(newest.link),
            "verdicts": dg.MetadataValue.md(verdict_table(newest.report.verdicts)),
            "ledger_entry": newest.stopped.serial if newest.stopped else 0,
        },
        check_results=[check],
    )


def _title(judged: "Judged") -> str:
    from assets.traffic.judging.pages import ACTIONS

    rollout = judged.rollout
    return f"{rollout.pipeline}: rollout of bundle {rollout.bundle[:12]} {ACTIONS[judged.action]}"


def _sentence(judged: "Judged") -> str:
    """Where the newest rollout stands and what it does next, with the reason."""
    from assets.traffic.judging.pages import ACTIONS

    rollout = judged.rollout
    where = f"Bundle {rollout.bundle[:12]}, {rollout.summary}"
    return f"{where}, {ACTIONS[judged.action]}: {judged.why}"


def _read(pipeline: Pipeline, kind: Kind, asset: str) -> object:
    return pipeline.release, pipeline.experiments, pipeline.log, kind.outcome


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
