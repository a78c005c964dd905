"""The monitoring stage: the compacted prediction log and a daily report of each monitor.

Each rule of a monitor is a check that warns.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import chain
from typing import TYPE_CHECKING

import dagster as dg

from assets.kind import Kind
from assets.names import (
    ENDPOINT,
    PREDICTIONS,
    asset_key,
    asset_path,
    days as partitions,
    keys_to_days,
)
from assets.reporting.page import PAGE
from assets.reporting.plots import markdown_image
from assets.reporting.report import Report, Verdict, save_report
from assets.reporting.tables import markdown_table
from assets.stage import Stage, alone, always
from assets.tabular.features.moments import label_lag
from assets.tabular.monitoring import pages
from assets.tabular.monitoring.monitors import (
    EVIDENTLY_PAGE,
    MONITORS,
    Monitor,
)
from bundle.records import service
from declare.tabular import Tabular
from resources.artifacts import Artifacts
from resources.endpoint import EndpointTarget
from resources.lake import Lake
from resources.ledger import Ledger
from resources.reports import Reports

if TYPE_CHECKING:
    from assets.tabular.monitoring.daily import Days
    from assets.tabular.monitoring.predictions import Compacted


GROUP = "monitoring"


class MonitorConfig(dg.Config):
    """`drawn` draws the newest day in full, data drift with Evidently's page, on any weekday."""

    drawn: bool = False


def build(pipeline: Tabular) -> list[dg.AssetsDefinition]:
    """The assets of the stage."""
    return [
        _predictions(pipeline),
        *(_monitor(pipeline, monitor) for monitor in MONITORS),
    ]


def _predictions(pipeline: Tabular) -> dg.AssetsDefinition:
    key = asset_key(pipeline.name, PREDICTIONS)

    @dg.asset(
        key=key,
        deps=[asset_key(pipeline.name, ENDPOINT)],
        group_name=GROUP,
        kinds={"deltalake", "polars"},
        partitions_def=partitions(pipeline),
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=[
            dg.AssetCheckSpec(
                "log_is_intact",
                asset=key,
                description="No line of the prediction log was altered or lost.",
            )
        ],
        description="Every prediction that the endpoint answered, once, by the day of the event.",
    )
    def predictions(
        context: dg.AssetExecutionContext,
        lake: Lake,
        artifacts: Artifacts,
        endpoint: dg.ResourceParam[EndpointTarget],
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        from assets.tabular.monitoring.predictions import compact_days, prune

        wanted, logs = keys_to_days(context.partition_keys), endpoint.predictions(pipeline.name)
        done = compact_days(pipeline, wanted, lake, artifacts, logs)
        context.log.info(done.told)
        pruned = prune(pipeline, lake, logs, wanted[-1])
        if done.answered is not None:
            for folder in endpoint.samples():
                service.prune(folder, done.answered)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(done.digest),
            metadata={
                "dagster/row_count": done.rows,
                "dagster/uri": lake.place(asset_path(pipeline.name, PREDICTIONS)),
                "told": done.told,
                "new_predictions": done.new,
                "segments_read": done.segments,
                "segments_pruned": pruned.removed,
                "old_segments_kept": pruned.kept,
            },
            check_results=[_log_is_intact(done)],
        )

    return predictions


def _log_is_intact(done: "Compacted") -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="log_is_intact",
        passed=not done.altered,
        severity=dg.AssetCheckSeverity.WARN,
        description=done.damage,
        metadata={
            "number": done.altered,
            "limit": 0,
            "n": done.rows,
            "unfinished_ends": done.torn,
        },
    )


def _monitor(pipeline: Tabular, monitor: Monitor) -> dg.AssetsDefinition:
    key = asset_key(pipeline.name, monitor.name)
    title, question = pages.TITLES[monitor.name]
    rules = monitor.rules(pipeline)

    @dg.asset(
        key=key,
        deps=[_dep(pipeline, monitor, name) for name in monitor.reads(pipeline)],
        group_name=GROUP,
        kinds=set(monitor.kinds),
        partitions_def=partitions(pipeline),
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=[dg.AssetCheckSpec(rule, asset=key) for rule in rules],
        description=f"{title}: {question[0].lower()}{question[1:]}",
    )
    def report(
        context: dg.AssetExecutionContext,
        config: MonitorConfig,
        lake: Lake,
        artifacts: Artifacts,
        ledger: Ledger,
        reports: Reports,
        endpoint: dg.ResourceParam[EndpointTarget],
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        from assets.tabular.monitoring import daily

        wanted = keys_to_days(context.partition_keys)
        days = daily.Days(
            pipeline,
            wanted[0],
            wanted[-1],
            lake,
            artifacts,
            ledger,
            reports,
            endpoint.samples(),
            monitor.windowed,
        )
        found = [daily.monitor_day(monitor, days, day) for day in wanted]
        for earlier in found[:-1]:
            save_report(reports, earlier, {PAGE: pages.page(earlier)})
        again = _judged_again(monitor, days, wanted)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(
                hashlib.sha256("".join(each.digest for each in found).encode()).hexdigest()
            ),
            metadata={**_newest(found[-1], days, config), **_numbers(found), **again},
            check_results=[_check(rule, found) for rule in rules],
        )

    return report


def _dep(pipeline: Tabular, monitor: Monitor, name: str) -> dg.AssetDep:
    key = asset_key(pipeline.name, name)
    if monitor.windowed and name == PREDICTIONS:
        back = pipeline.monitors.performance_days - 1 + label_lag(pipeline)
        before = dg.TimeWindowPartitionMapping(
            start_offset=-back,
            end_offset=0,
            allow_nonexistent_upstream_partitions=True,
        )
        return dg.AssetDep(key, partition_mapping=before)
    return dg.AssetDep(key)


def _newest(report: Report, days: "Days", config: MonitorConfig) -> dict[str, dg.MetadataValue]:
    """Store the newest day's report, drawn in full where somebody will look, and say where."""
    from assets.tabular.monitoring import drawings

    why = "on request" if config.drawn else drawings.worth_a_look(report, days)
    if not why:
        link = save_report(days.reports, report, {PAGE: pages.page(report)})
        return {"report": dg.MetadataValue.url(f"{link}{PAGE}")}

    images, drawn = drawings.images(report, days), drawings.evidently(report, days)
    stored = {PAGE: pages.page(report, images, drawn)}
    if drawn is not None:
        stored[EVIDENTLY_PAGE] = drawn.html
    link = save_report(days.reports, report, stored)

    metadata: dict[str, dg.MetadataValue] = {
        f"plot_{n}": dg.MetadataValue.md(markdown_image(image.content))
        for n, image in enumerate(images, 1)
    }
    metadata["report"] = dg.MetadataValue.url(f"{link}{PAGE}")
    metadata["drawn"] = dg.MetadataValue.text(why)
    if drawn is not None:
        metadata["evidently"] = dg.MetadataValue.url(f"{link}{EVIDENTLY_PAGE}")
    return metadata


def _judged_again(
    monitor: Monitor, days: "Days", wanted: Sequence[date]
) -> dict[str, dg.MetadataValue]:
    """Judge earlier days again where labels came since, and say which."""
    from assets.tabular.monitoring import late_labels

    if not monitor.windowed:
        return {}
    found = list(chain.from_iterable(late_labels.judge_again(monitor, days, day) for day in wanted))
    if not found:
        return {}
    table = markdown_table(late_labels.HEADER, late_labels.table_rows(found))
    return {"judged_again": dg.MetadataValue.md(table)}


def _numbers(found: Sequence[Report]) -> Mapping[str, dg.MetadataValue]:
    newest = found[-1]
    told: dict[str, dg.MetadataValue] = {
        name: dg.MetadataValue.float(value)
        for name, value in pages.headline(newest.measures).items()
    }
    told["verdicts"] = dg.MetadataValue.md(pages.verdict_table(newest.verdicts))
    told["bundle"] = dg.MetadataValue.text(newest.subject)
    if newest.notes:
        told["notes"] = dg.MetadataValue.md("\n".join(f"- {note}" for note in newest.notes))
    if len(found) > 1:
        told["days"] = dg.MetadataValue.md(pages.day_table(found))
    return told


def _check(rule: str, found: Sequence[Report]) -> dg.AssetCheckResult:
    """A rule over the days of a run: it passes unless it failed on one of them.

    What was not judged says so.
    """
    verdicts: dict[date, Verdict] = {}
    for report in found:
        for each in report.verdicts:
            if each.rule == rule:
                verdicts[report.day] = each

    failed: list[date] = [day for day, verdict in verdicts.items() if verdict.passed is False]
    shown = max(failed, default=found[-1].day)
    verdict = verdicts[shown]
    words = verdict.reason if verdict.passed is not None else f"not judged: {verdict.reason}"
    numbers = {"number": verdict.value, "limit": verdict.limit, "n": verdict.n}
    return dg.AssetCheckResult(
        check_name=rule,
        passed=not failed,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{shown}: {words}"
        + (f" ({len(failed)} of {len(found)} days failed)" if len(found) > 1 else ""),
        metadata={
            "day": shown.isoformat(),
            "judged": verdict.passed is not None,
            **{k: v for k, v in numbers.items() if v is not None},
        },
    )


def _read(pipeline: Tabular, kind: Kind, asset: str) -> object:
    """What monitors read. Of the gates it is the limit that declared groups keep live as well."""
    judged = pipeline.monitors, pipeline.fairness, pipeline.gates.max_fairness_gap
    return judged, kind.outcome, list(pipeline.request_columns), pipeline.log


STAGE = Stage(
    name="monitoring",
    group=GROUP,
    build=alone(build),
    reads=_read,
    assets=always({"monitored": (PREDICTIONS, *(monitor.name for monitor in MONITORS))}),
)
