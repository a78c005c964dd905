"""What a day knows of a rollout: requests scored in the shadow, requests answered by either arm, and the labels of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from assets.names import DAY, PREDICTIONS, asset_path
from assets.tabular.features.moments import refresh
from assets.traffic.rollouts import MOVES, Rollout, confirmation

if TYPE_CHECKING:
    import polars as pl

    from declare.pipeline import Pipeline
    from resources.lake import Lake
    from resources.ledger import Entry

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Paired:
    """Requests that champion and candidate both computed, row by row (n,): outputs (candidate's NaN where it failed), labels (NaN while
    they have not matured), microseconds (champion's NaN where it was not timed), and the data day as an ordinal."""

    champion: Floats
    candidate: Floats
    y: Floats
    champion_us: Floats
    candidate_us: Floats
    day: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Divided:
    """Requests that one of several arms answered, row by row (n,): the arm's index (0 the champion's), the share with which its key falls to
    each arm (n, arms), output, label (NaN while it has not matured), milliseconds, key as a code, data day as an ordinal."""

    arm: NDArray[np.int64]
    shares: Floats
    output: Floats
    y: Floats
    ms: Floats
    key: NDArray[np.int64]
    day: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)

    def of(self, chosen: NDArray[np.bool_]) -> Divided:
        """The chosen rows."""
        return Divided(
            self.arm[chosen],
            self.shares[chosen],
            self.output[chosen],
            self.y[chosen],
            self.ms[chosen],
            self.key[chosen],
            self.day[chosen],
        )


@dataclass(frozen=True)
class Failures:
    """Requests that the candidate should have computed and could not, by why: `invalid` is an output that is no probability."""

    invalid: int = 0
    raised: int = 0

    @property
    def total(self) -> int:
        return self.invalid + self.raised


@dataclass(frozen=True)
class Evidence:
    """All that the judgement of a day rests on. `step` are the rows of the present step alone, `split` those of all canary steps.
    `confirmed` is whether an endpoint has said that it serves the present step."""

    day: date
    paired: Paired
    split: Divided
    step: Divided
    failures: Failures
    confirmed: bool


def gather(
    pipeline: Pipeline,
    rollout: Rollout,
    entries: Sequence[Entry],
    day: date,
    lake: Lake,
    trials: Sequence[Path],
) -> Evidence:
    """The evidence on a rollout as known on the day after `day`, when the next step would begin: rows about events up to `day`,
    labels known by that day's refresh."""
    first = rollout.steps[0].day
    labels = labels_known(pipeline, lake, first, day)
    served = windows(entries, [step.entry for step in rollout.steps])
    shadow = _trials(trials, rollout.bundle, first, day, rollout.steps[0].moment)
    key = pipeline.release.split_by or pipeline.entity
    rows = answered(
        pipeline, lake, first, day, served, [rollout.champion or "", rollout.bundle], key, labels
    )
    now = served.get(rollout.steps[-1].entry)
    step = rows.of(np.zeros(len(rows), dtype=bool))
    if now is not None and rollout.steps[-1].stage == "canary":
        step = rows.of(rows.shares[:, 1] == now[2][rollout.bundle])
    return Evidence(
        day, paired(shadow, labels, pipeline.entity), rows, step, _failures(shadow), now is not None
    )


Window = tuple[datetime, datetime | None, dict[str, float]]


def windows(entries: Sequence[Entry], serials: Sequence[int]) -> dict[int, Window]:
    """For each of these moves that an endpoint confirmed: the wall time from its confirmation until the next move, and the share of
    each bundle. What was answered while the traffic moved belongs to no step."""
    found: dict[int, Window] = {}
    for serial in serials:
        confirmed = confirmation(entries, serial)
        if confirmed is None:
            continue
        later = next(
            (entry.moment for entry in entries if entry.serial > serial and entry.kind in MOVES),
            None,
        )
        arms = confirmed.payload.get("arms")
        shares = {str(arm[0]): float(arm[1]) for arm in arms} if isinstance(arms, list) else {}
        found[serial] = (confirmed.moment, later, shares)
    return found


def answered(
    pipeline: Pipeline,
    lake: Lake,
    first: date,
    last: date,
    served: dict[int, Window],
    bundles: Sequence[str],
    key: str,
    labels: pl.DataFrame,
) -> Divided:
    """Answers about events of [first, last] that `bundles` (champion first) gave while all of them had a share; `key` is the column by
    whose value they were divided."""
    import polars as pl

    frames = []
    try:
        rows = lake.scan(asset_path(pipeline.name, PREDICTIONS), first, last).filter(
            pl.col("bundle").is_in(list(bundles))
        )
    except FileNotFoundError:
        rows = None
    for begun, ended, shares in served.values() if rows is not None else ():
        if any(shares.get(bundle, 0.0) == 0.0 for bundle in bundles):
            continue
        assert rows is not None
        inside = (
            pl.col("wall_time") >= begun
            if ended is None
            else pl.col("wall_time").is_between(begun, ended, closed="left")
        )
        weights = {f"share_{index}": pl.lit(shares[bundle]) for index, bundle in enumerate(bundles)}
        frames.append(rows.filter(inside).with_columns(**weights).collect())
    if not frames:
        none = np.zeros(0)
        return Divided(
            np.zeros(0, np.int64),
            np.zeros((0, len(bundles))),
            none,
            none,
            none,
            np.zeros(0, np.int64),
            np.zeros(0, np.int64),
        )
    found = (
        pl.concat(frames, how="diagonal")
        .sort("wall_time", "prediction_id")
        .unique("prediction_id", keep="first", maintain_order=True)
    )
    keys = found[key].cast(pl.String).fill_null("").to_numpy()
    found = found.with_columns(pl.col(pipeline.entity).cast(pl.String)).join(
        labels, on=pipeline.entity, how="left", maintain_order="left"
    )
    places = {bundle: index for index, bundle in enumerate(bundles)}
    return Divided(
        arm=found["bundle"].replace_strict(places, return_dtype=pl.Int64).to_numpy(),
        shares=found.select(f"share_{index}" for index in range(len(bundles))).to_numpy(),
        output=_floats(found["output"]),
        y=_floats(found["y"]),
        ms=_floats(found["latency_ms"]),
        key=np.unique(keys, return_inverse=True)[1].astype(np.int64),
        day=_ordinals(found["date"]),
    )


def paired(trials: pl.DataFrame, labels: pl.DataFrame, entity: str) -> Paired:
    """Trials of one bundle with their labels; one row per request."""
    rows = trials.join(labels, left_on="entity", right_on=entity, how="left", maintain_order="left")
    return Paired(
        champion=_floats(rows["champion_output"]),
        candidate=_floats(rows["output"]),
        y=_floats(rows["y"]),
        champion_us=_floats(rows["champion_us"]),
        candidate_us=_floats(rows["latency_us"]),
        day=_ordinals(rows["date"]),
    )


def _trials(
    folders: Sequence[Path], bundle: str, first: date, last: date, since: datetime
) -> pl.DataFrame:
    """What the log of trials holds of a bundle since a moment: of the shadow stage, and failures of every stage."""
    import polars as pl

    from bundle.records.log import read_trials

    found = {
        each.id: each
        for each in read_trials(folders, first, last)
        if each.bundle == bundle and each.at >= since
    }
    rows = sorted(found.values(), key=lambda each: (each.at, each.id))
    return pl.DataFrame(
        {
            "date": [each.day for each in rows],
            "entity": [str(each.entity) for each in rows],
            "output": [each.output for each in rows],
            "champion_output": [each.champion_output for each in rows],
            "latency_us": [each.latency_us for each in rows],
            "champion_us": [each.champion_us for each in rows],
            "failure": [each.failure for each in rows],
        },
        schema={
            "date": pl.String,
            "entity": pl.String,
            "output": pl.Float64,
            "champion_output": pl.Float64,
            "latency_us": pl.Float64,
            "champion_us": pl.Float64,
            "failure": pl.String,
        },
    ).with_columns(pl.col("date").str.to_date())


def _failures(trials: pl.DataFrame) -> Failures:
    import polars as pl

    failed = trials.filter(pl.col("failure").is_not_null())
    invalid = failed.filter(pl.col("failure") == "no probability").height
    return Failures(invalid, failed.height - invalid)


def labels_known(pipeline: Pipeline, lake: Lake, first: date, day: date) -> pl.DataFrame:
    """Entity (text) and label `y` of events of [first, day], as known by the refresh of the day after."""
    import polars as pl

    from assets.data.raw import reader
    from assets.tabular.features.point_in_time import labels

    moment = refresh(pipeline, day + DAY)
    known = labels(pipeline, reader(lake, pipeline.name), first, day, day + DAY).filter(
        pl.col("known_at") <= moment
    )
    return known.select(
        pl.col(pipeline.entity).cast(pl.String),
        pl.col(pipeline.label.name).cast(pl.Float64).alias("y"),
    )


def _floats(series: pl.Series) -> Floats:
    import polars as pl

    return np.asarray(series.cast(pl.Float64).fill_null(float("nan")).to_numpy(), dtype=np.float64)


def _ordinals(series: pl.Series) -> NDArray[np.int64]:
    import polars as pl

    return np.asarray(series.cast(pl.Int32).to_numpy(), dtype=np.int64)
