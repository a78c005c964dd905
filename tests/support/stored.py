"""The tiny pipeline's lake, filled by the same functions as the assets use, without Dagster."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from assets.names import raw_table
from declare.tabular import Tabular
from resources.lake import Lake
from resources.landing import Landing
from tests.support.tiny import land, tiny


def stored_lake(home: Path, days: Sequence[date], pipeline: Tabular = tiny) -> Lake:
    """Land, parse and store the days of the tiny pipeline below `home`, with their features."""
    from assets.data.ingest import collect
    from assets.data.parse import parse, schema

    lake, landing = Lake(uri=str(home / "lake")), Landing(uri=str(home / "landing"))
    land(landing, last=days[-1])
    for source in pipeline.sources:
        rows = parse(source, collect(pipeline, source, days, landing)).rows.select(
            list(schema(source))
        )
        place = raw_table(pipeline.name, source.name)
        lake.write(place, rows, days) if source.daily else lake.overwrite(place, rows)
    store_features(lake, days, pipeline)
    return lake


def store_features(lake: Lake, days: Sequence[date], pipeline: Tabular = tiny) -> None:
    """Compute and store the features of days."""
    from assets.data import raw
    from assets.tabular.features.point_in_time import features

    lake.write(
        f"{pipeline.name}/features", features(pipeline, days, raw.reader(lake, pipeline.name)), days
    )
