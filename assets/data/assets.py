"""Raw data as assets: one per source, with its contract checked inside."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from assets.kind import Kind
from assets.names import asset_key, days, keys_to_days, raw_name, raw_table
from assets.reporting.report import save_report
from assets.stage import Names, Stage, alone
from declare.pipeline import Pipeline
from declare.source import Source
from resources.lake import Lake
from resources.landing import Landing
from resources.reports import Reports

if TYPE_CHECKING:
    from assets.data.ingest import Examined, Figures

GROUP = "data"
LATE_SHARE = 0.2
"""Share of late rows in a day's delivery above which the lateness check warns.

A few stragglers are everyday business."""

Metadata = dict[str, dg.MetadataValue]


def build(pipeline: Pipeline) -> list[dg.AssetsDefinition]:
    """The `raw/<source>` assets of a pipeline."""
    return [_raw(pipeline, source) for source in pipeline.sources]


def _raw(pipeline: Pipeline, source: Source) -> dg.AssetsDefinition:
    key = asset_key(pipeline.name, raw_name(source.name))

    @dg.asset(
        key=key,
        group_name=GROUP,
        kinds={"deltalake", "polars", "greatexpectations"},
        description=source.description or f"Rows of {source.name}, as landed.",
        partitions_def=days(pipeline) if source.daily else None,
        backfill_policy=dg.BackfillPolicy.single_run() if source.daily else None,
        check_specs=_checks(source, key),
        metadata={
            "dagster/column_schema": _columns(source),
            "keys": list(source.keys),
            "lands": source.lands,
        },
    )
    def raw(
        context: dg.AssetExecutionContext, landing: Landing, lake: Lake, reports: Reports
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        from assets.data.ingest import collect, examine, store, with_history

        wanted = keys_to_days(context.partition_keys) if source.daily else []
        examined = examine(pipeline, source, collect(pipeline, source, wanted, landing), wanted)
        shown = _reported(pipeline, examined, reports)
        if examined.refused is not None:
            yield _refusal(key, examined.refused, shown)
            raise dg.Failure(examined.refused, metadata=shown, allow_retries=False)

        examined = with_history(pipeline, examined, lake)
        store(pipeline, examined, lake)
        metadata = _of_all(pipeline, source, lake, shown)
        for partition, told in _by_day(source, examined, shown).items():
            if partition is None:
                metadata |= told
            else:
                context.add_asset_metadata(told, partition_key=partition)
        yield dg.MaterializeResult(
            asset_key=key,
            data_version=dg.DataVersion(examined.digest),
            metadata=metadata,
            check_results=_verdicts(pipeline, source, examined, shown),
        )

    return raw


def _reported(pipeline: Pipeline, examined: "Examined", reports: Reports) -> Metadata:
    """Store the report with its pages, and say where they are."""
    from assets.data import docs

    result = docs.report(pipeline.name, examined, pipeline.start)
    link = save_report(reports, result, docs.pages(result, examined))
    return {
        "report": dg.MetadataValue.url(link),
        "result": dg.MetadataValue.md(docs.markdown(examined)),
        "data_docs": dg.MetadataValue.url(link + docs.DATA_DOCS),
    }


def _refusal(key: dg.AssetKey, reason: str, shown: Metadata) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=key, check_name="contract", passed=False, description=reason, metadata=shown
    )


def _of_all(pipeline: Pipeline, source: Source, lake: Lake, shown: Metadata) -> Metadata:
    """What every day's event says: where the rows and the report are."""
    table = raw_table(pipeline.name, source.name)
    return {
        "dagster/uri": dg.MetadataValue.text(lake.place(table)),
        "lake_version": dg.MetadataValue.int(lake.version(table)),
        "report": shown["report"],
    }


def _by_day(source: Source, examined: "Examined", shown: Metadata) -> dict[str | None, Metadata]:
    """What the event of each partition says of its day (None: of a source that lands once).

    A range writes an event a day. Only the last one says what holds for the whole range.
    """
    columns = dg.MetadataValue.table_schema(_columns(source))
    whole: Metadata = {**shown, "dagster/column_schema": columns}
    last = examined.figures[-1].day
    return {
        None if day.day is None else str(day.day): {
            **_figures(day),
            **(whole if day.day == last else {}),
        }
        for day in examined.figures
    }


def _checks(source: Source, key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    checks = [
        dg.AssetCheckSpec(
            "contract",
            asset=key,
            blocking=True,
            description="Landed rows keep the declared types, nulls, ranges, values and keys.",
        )
    ]
    if source.volume is not None:
        low, high = source.volume
        checks.append(
            dg.AssetCheckSpec(
                "volume", asset=key, description=f"A day brings {low:,} to {high:,} rows."
            )
        )
    if source.daily:
        checks.append(
            dg.AssetCheckSpec(
                "lateness",
                asset=key,
                description=f"At most {LATE_SHARE:.0%} of a day's rows come after they were due.",
            )
        )
    return checks


def _verdicts(
    pipeline: Pipeline, source: Source, examined: "Examined", shown: Metadata
) -> list[dg.AssetCheckResult]:
    rows = sum(day.rows for day in examined.figures)
    kept = f"{examined.broken.height:,} of {rows:,} rows break the contract and are in quarantine"
    verdicts = [
        dg.AssetCheckResult(
            check_name="contract",
            passed=True,
            description=kept,
            metadata={"n": rows, "quarantined": examined.broken.height, **shown},
        )
    ]
    # The first day of a pipeline also brings what was due before it: its volume and lateness say
    # nothing.
    ordinary = [day for day in examined.figures if day.day != pipeline.start]
    if source.volume is not None:
        low, high = source.volume
        odd = [
            f"{day.day or 'once'}: {day.rows:,}" for day in ordinary if not low <= day.rows <= high
        ]
        verdicts.append(_warning("volume", odd, f"{low:,} to {high:,} rows", len(ordinary)))
    if source.daily:
        late = [
            f"{day.day}: {day.late:,} of {day.stored:,} late, up to {day.latest} days"
            for day in ordinary
            if day.late > LATE_SHARE * day.stored
        ]
        verdicts.append(
            _warning("lateness", late, f"at most {LATE_SHARE:.0%} late rows", len(ordinary))
        )
    return verdicts


def _warning(name: str, odd: list[str], limit: str, days: int) -> dg.AssetCheckResult:
    listed = ": " + "; ".join(odd[:5]) if odd else ""
    more = " …" if len(odd) > 5 else ""
    return dg.AssetCheckResult(
        check_name=name,
        passed=not odd,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(odd)} of {days} days outside {limit}{listed}{more}",
        metadata={"days": days, "odd_days": len(odd)},
    )


def _figures(day: "Figures") -> Metadata:
    return {
        "dagster/row_count": dg.MetadataValue.int(day.stored),
        "content_digest": dg.MetadataValue.text(day.digest),
        "rows_quarantined": dg.MetadataValue.int(day.broken),
        "rows_late": dg.MetadataValue.int(day.late),
        "longest_delay_days": dg.MetadataValue.int(day.latest),
    }


def _columns(source: Source) -> dg.TableSchema:
    declared = [
        dg.TableColumn(
            name,
            column.kind,
            description=column.description or None,
            constraints=dg.TableColumnConstraints(nullable=column.nullable),
        )
        for name, column in source.columns.items()
    ]
    moments = [
        dg.TableColumn("event_time", "datetime", "when the fact happened (UTC)"),
        dg.TableColumn("known_at", "datetime", "when it could first be known (UTC)"),
    ]
    partition = [dg.TableColumn("date", "date", "day of delivery")] if source.daily else []
    return dg.TableSchema([*partition, *declared, *moments])


def _names(pipeline: Pipeline) -> Names:
    once = tuple(raw_name(source.name) for source in pipeline.sources if not source.daily)
    daily = tuple(raw_name(source.name) for source in pipeline.sources if source.daily)
    return {"landed_once": once, "ingested": daily}


def _contract(pipeline: Pipeline, kind: Kind, asset: str) -> object:
    """What a raw asset reads: the source that it holds, and the days of the pipeline."""
    source = next(each for each in pipeline.sources if raw_name(each.name) == asset)
    return source, pipeline.start, pipeline.end, pipeline.timezone


STAGE = Stage(
    name="data",
    group=GROUP,
    build=alone(build),
    reads=_contract,
    assets=_names,
)
