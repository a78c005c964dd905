"""The feature stage: features by day, point in time, and the snapshot that the endpoint reads."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING

import dagster as dg

from assets.data.raw import reader
from assets.kind import Kind
from assets.names import (
    DAY,
    FEATURES,
    ONLINE_FEATURES,
    asset_key,
    asset_path,
    days,
    keys_to_days,
    raw_name,
)
from assets.reporting.tables import markdown_table
from assets.stage import Stage, alone, always
from assets.tabular.features.lineage import column_lineage, delivery_days
from declare.source import EVENT_TIME, KNOWN_AT, Source
from declare.tabular import Tabular
from resources.lake import Lake
from resources.online_store import OnlineStore

if TYPE_CHECKING:
    from assets.tabular.features.bounds import Figures
    from bundle.features.online import Snapshot

GROUP = "features"
NO_FUTURE, BOUNDS = "no_future", "feature_bounds"


def build(pipeline: Tabular) -> list[dg.AssetsDefinition]:
    """`features` and `online_features` of a pipeline."""
    return [_features(pipeline), _online_features(pipeline)]


def _features(pipeline: Tabular) -> dg.AssetsDefinition:
    key = asset_key(pipeline.name, FEATURES)
    table = asset_path(pipeline.name, FEATURES)

    @dg.asset(
        key=key,
        deps=_deliveries(pipeline),
        group_name=GROUP,
        kinds={"polars", "deltalake"},
        description=(
            f"One row per {pipeline.entity}, as it could be known when its prediction is made."
        ),
        partitions_def=days(pipeline),
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=_checks(key),
        metadata={
            "dagster/column_schema": _schema(pipeline),
            "dagster/column_lineage": _lineage(pipeline),
        },
    )
    def features(
        context: dg.AssetExecutionContext, lake: Lake
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        from assets.data.digest import combined_digest, digests_by_day
        from assets.tabular.features.bounds import Figures, from_the_future
        from assets.tabular.features.declared_program import program
        from assets.tabular.features.point_in_time import feature_blocks
        from assets.tabular.features.versions import late_requests

        wanted, read = keys_to_days(context.partition_keys), reader(lake, pipeline.name)
        figures = Figures(program(pipeline).names)
        for of, block in feature_blocks(pipeline, wanted, read):
            if future := from_the_future(block):
                refused = _refusal(future, block.height, of)
                yield _leaked(key, refused, future)
                raise dg.Failure(refused, allow_retries=False)
            lake.write(table, block, list(of), evolve=True)
            figures.add(of, block, digests_by_day(block, of))

        late = late_requests(pipeline, read, wanted[0], wanted[-1])
        for day in wanted:
            numbers = _of_day(figures, day, late.get(day, 0))
            context.add_asset_metadata(numbers, partition_key=str(day))

        yield dg.MaterializeResult(
            asset_key=key,
            data_version=dg.DataVersion(combined_digest([figures.digests[day] for day in wanted])),
            metadata={
                "dagster/uri": lake.place(table),
                "dagster/column_lineage": _lineage(pipeline),
                "rows": figures.total,
                "days": len(wanted),
                "lake_version": lake.version(table),
                "features": dg.MetadataValue.md(figures.markdown()),
            },
            check_results=_verdicts(figures, figures.faults(_young(pipeline, wanted[-1]))),
        )

    return features


def _checks(key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    return [
        dg.AssetCheckSpec(
            NO_FUTURE,
            asset=key,
            blocking=True,
            description="No input of a row was known later than its prediction.",
        ),
        dg.AssetCheckSpec(
            BOUNDS,
            asset=key,
            description="Features are finite, mostly present, and vary over a month.",
        ),
    ]


def _deliveries(pipeline: Tabular) -> list[dg.AssetDep]:
    """The raw data that a day's features read: for daily sources, from how many days before."""
    return [
        dg.AssetDep(
            _raw(pipeline, source), partition_mapping=None if back is None else _window(back)
        )
        for source, back in delivery_days(pipeline).items()
    ]


def _refusal(future: int, rows: int, of: Sequence[date]) -> str:
    return (
        f"{future} of {rows} rows of {of[0]} to {of[-1]} have an input known only after their "
        "prediction; these days were not written"
    )


def _leaked(key: dg.AssetKey, refused: str, future: int) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=NO_FUTURE,
        passed=False,
        description=refused,
        metadata={"rows": future},
    )


def _of_day(figures: "Figures", day: date, late: int) -> dict[str, str | int]:
    return {
        "dagster/row_count": figures.rows[day],
        "content_digest": figures.digests[day],
        "late_requests": late,
    }


def _verdicts(figures: "Figures", faults: Sequence[str]) -> list[dg.AssetCheckResult]:
    """Both checks of days that were written: nothing leaked, and what is odd about the features."""
    within = f"{len(figures.names)} features over {figures.total:,} rows"
    return [
        dg.AssetCheckResult(
            check_name=NO_FUTURE,
            passed=True,
            description=f"none of {figures.total:,} rows",
            metadata={"rows": 0, "n": figures.total},
        ),
        dg.AssetCheckResult(
            check_name=BOUNDS,
            passed=not faults,
            severity=dg.AssetCheckSeverity.WARN,
            description="; ".join(faults) or within,
            metadata={"faults": len(faults), "n": figures.total},
        ),
    ]


def _online_features(pipeline: Tabular) -> dg.AssetsDefinition:
    table = asset_path(pipeline.name, FEATURES)

    @dg.asset(
        key=asset_key(pipeline.name, ONLINE_FEATURES),
        deps=_newest(pipeline),
        group_name=GROUP,
        kinds={"polars"},
        description=(
            "What the endpoint looks up for a request: newest rows and aggregates by key, "
            "as of the newest day with features."
        ),
    )
    def online_features(lake: Lake, online: OnlineStore) -> dg.MaterializeResult[None]:
        from assets.tabular.features.snapshot import snapshot

        stored = lake.days(table)
        if not stored:
            raise dg.Failure(
                f"{table} has no day yet; materialize it first, then its snapshot",
                allow_retries=False,
            )

        made = snapshot(pipeline, stored[-1], reader(lake, pipeline.name))
        place = online.publish(made)
        rows = _rows(made)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(made.digest),
            metadata={
                "as_of": made.as_of.isoformat(),
                "refreshed_at": made.created.isoformat(),
                # In data time: when the last request of its day comes, the aggregates are this old.
                "age_hours": made.age(_end(pipeline, made.as_of)).total_seconds() / 3600,
                "dagster/row_count": sum(rows.values()),
                "tables": dg.MetadataValue.md(
                    markdown_table(("table", "rows"), list(rows.items()))
                ),
                "digest": made.digest,
                "size_bytes": place.stat().st_size,
                "dagster/uri": str(place),
            },
        )

    return online_features


def _newest(pipeline: Tabular) -> list[dg.AssetDep]:
    """What a snapshot reads. It is of the newest day: one partition, not all of history."""
    newest = dg.LastPartitionMapping()
    found = [dg.AssetDep(asset_key(pipeline.name, FEATURES), partition_mapping=newest)]
    read = delivery_days(pipeline)
    for source in pipeline.sources:
        if source.name in read:
            mapping = newest if source.daily else None
            found.append(dg.AssetDep(_raw(pipeline, source.name), partition_mapping=mapping))

    return found


def _rows(snapshot: "Snapshot") -> dict[str, int]:
    """Rows of each table of a snapshot. Aggregates have some for each refresh that is kept."""
    from bundle.features.online import AggregateTable

    rows: dict[str, int] = {}
    for name, table in snapshot.tables.items():
        if isinstance(table, AggregateTable):
            rows[name] = sum(len(refresh.rows) for refresh in table.refreshes)
        else:
            rows[name] = len(table.rows)

    return rows


def _raw(pipeline: Tabular, source: str) -> dg.AssetKey:
    return asset_key(pipeline.name, raw_name(source))


def _window(back: int) -> dg.TimeWindowPartitionMapping:
    """A day and the deliveries of the days before it that its windows reach.

    The first days have fewer.
    """
    return dg.TimeWindowPartitionMapping(
        start_offset=-back, allow_nonexistent_upstream_partitions=True
    )


def _young(pipeline: Tabular, last: date) -> list[str]:
    """Features whose window reaches before the first day, or that wait for the first facts."""
    from assets.tabular.features.declared_program import program
    from bundle.features.expression import Expression, Join, Rolling, walk

    def waits(node: Expression) -> bool:
        if not isinstance(node, (Rolling, Join)):
            return False
        needed = node.days if isinstance(node, Rolling) else 1
        return last < pipeline.start + (needed + 1) * DAY

    return [
        feature.name
        for feature in program(pipeline).features
        if any(waits(node) for node in walk(feature.expression))
    ]


def _end(pipeline: Tabular, day: date) -> datetime:
    from assets.tabular.features.moments import start

    return start(pipeline, day + DAY)


def _schema(pipeline: Tabular) -> dg.TableSchema:
    from assets.tabular.features.declared_program import program

    made = program(pipeline)
    features = [
        dg.TableColumn(name, "string" if categorical else "float")
        for name, categorical in zip(made.names, made.categorical, strict=True)
    ]
    request = [
        dg.TableColumn(name, column.kind)
        for name, column in pipeline.request_columns.items()
        if name not in {*made.names, pipeline.entity}
    ]
    return dg.TableSchema(
        [
            dg.TableColumn("date", "date", "day of the event"),
            dg.TableColumn(pipeline.entity, pipeline.request_columns[pipeline.entity].kind),
            dg.TableColumn(EVENT_TIME, "datetime", "when the event happens (UTC)"),
            dg.TableColumn(KNOWN_AT, "datetime", "when the prediction is made (UTC)"),
            dg.TableColumn("inputs_known_at", "datetime", "when the newest input was known (UTC)"),
            *request,
            *features,
        ]
    )


def _lineage(pipeline: Tabular) -> dg.TableColumnLineage:
    return dg.TableColumnLineage(
        {
            column: [
                dg.TableColumnDep(asset_key=_raw(pipeline, source), column_name=name)
                for source, name in pairs
            ]
            for column, pairs in column_lineage(pipeline).items()
            if pairs
        }
    )


def _read(pipeline: Tabular, kind: Kind, asset: str) -> object:
    """What features read. Of the sources it is what finds and types rows, not their contracts."""
    sources = [(each.name, each.keys, each.lands, _types(each)) for each in pipeline.sources]
    moments = pipeline.start, pipeline.end, pipeline.timezone, pipeline.lead, pipeline.refresh
    request = pipeline.request, pipeline.entity, list(pipeline.request_columns)
    return sources, moments, request, pipeline.label, pipeline.features, pipeline.log.omit


def _types(source: Source) -> list[tuple[str, str, bool]]:
    return [(name, column.kind, column.nullable) for name, column in source.columns.items()]


STAGE = Stage(
    name="features",
    group=GROUP,
    build=alone(build),
    reads=_read,
    assets=always({"ingested": (FEATURES, ONLINE_FEATURES)}),
)
