"""The demo's two figures: how good was what was served, and how good had the first champion been.

Both are taken on the same rows.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from assets.names import DAY, FEATURES, PREDICTIONS, asset_path
from cli.demo.facts import Comparison, Quality
from declare.tabular import Tabular
from resources.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from resources.lake import Lake
    from resources.ledger import Ledger


def compare(
    label: NDArray[np.float64], live: NDArray[np.float64], never_retrained: NDArray[np.float64]
) -> Comparison:
    """Log loss and ROC AUC of two predictions, each of shape (n,), of the same n labels (0 or 1).

    Raises ValueError for shapes that differ, for labels of one class alone, and for values that are
    no probabilities.
    """
    import numpy as np

    from assets.tabular.tasks.metrics import log_loss, roc_auc

    if not label.shape == live.shape == never_retrained.shape or label.ndim != 1:
        raise ValueError(
            f"shapes {label.shape}, {live.shape} and {never_retrained.shape} differ; "
            "give the same rows to all"
        )
    if len(np.unique(label)) != 2:
        raise ValueError(
            f"{len(label)} labels hold {len(np.unique(label))} classes; "
            "two are needed to compare on"
        )
    for name, predicted in (("live", live), ("never_retrained", never_retrained)):
        if not np.all((predicted >= 0) & (predicted <= 1)):
            raise ValueError(
                f"{name} holds values outside 0 to 1, or missing ones; give probabilities"
            )

    def quality(predicted: NDArray[np.float64]) -> Quality:
        return {
            "log_loss": round(float(log_loss(label, predicted)), 5),
            "roc_auc": round(float(roc_auc(label, predicted)), 5),
        }

    return {"rows": len(label), "live": quality(live), "never_retrained": quality(never_retrained)}


def measured(
    settings: Settings, name: str, ledger: Ledger, first: date, last: date
) -> Comparison | None:
    """Both figures over the days `first` to `last`; None where no row has a label.

    Predictions are those that were answered. The first champion's are made anew, over the stored
    feature rows of the same entities. Labels are those known by the day after `last`.
    """
    import polars as pl

    from assets.traffic.entries import Release, entries
    from pipelines.definitions import declared_pipelines
    from resources.lake import Lake

    releases = (entry.bundle for entry in entries(ledger, name) if isinstance(entry, Release))
    champion = next(releases, None)
    if champion is None:
        return None
    pipeline = next(
        each for each in declared_pipelines() if isinstance(each, Tabular) and each.name == name
    )
    lake, entity = Lake(uri=settings.lake_uri), pipeline.entity

    matched = (
        _labels(pipeline, lake, first, last)
        .join(_answered(pipeline, lake, first, last), on=entity)
        .join(_never_retrained(settings, pipeline, lake, champion, first, last), on=entity)
        .sort(entity)
    )
    if matched.is_empty():
        return None
    columns = (pipeline.label.name, "live", "never_retrained")
    return compare(*(matched[column].cast(pl.Float64).to_numpy() for column in columns))


def _labels(pipeline: Tabular, lake: Lake, first: date, last: date) -> pl.DataFrame:
    from assets.data.raw import reader
    from assets.tabular.features.point_in_time import labels

    label = pipeline.label.name
    known = labels(pipeline, reader(lake, pipeline.name), first, last, last + DAY)
    return known.drop_nulls(label).select(pipeline.entity, label)


def _answered(pipeline: Tabular, lake: Lake, first: date, last: date) -> pl.DataFrame:
    import polars as pl

    rows = lake.scan(asset_path(pipeline.name, PREDICTIONS), first, last)
    answered = rows.select(pipeline.entity, pl.col("output").alias("live")).collect()
    return answered.unique(pipeline.entity, keep="first")


def _never_retrained(
    settings: Settings, pipeline: Tabular, lake: Lake, champion: str, first: date, last: date
) -> pl.DataFrame:
    """What the first champion says of every stored feature row."""
    import polars as pl

    from bundle.manifest import load

    key = (settings.keys_path / "platform.pub").read_bytes()
    bundle = load(settings.endpoint_path / "bundles" / champion, key)
    rows = lake.scan(asset_path(pipeline.name, FEATURES), first, last).collect()
    rows = rows.sort("event_time", pipeline.entity)
    predicted = bundle.model.predict(bundle.program.matrix(rows))
    return rows.select(pipeline.entity).with_columns(never_retrained=pl.Series(predicted))
