"""What a day knows of a rollout or an experiment.

These are the requests that a candidate scored in the shadow, the requests that either arm answered,
and the labels of both. What the numbers say is computed in `losses` and `measures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assets.names import PREDICTIONS, asset_path
from assets.traffic.moves import MOVES, confirmation
from assets.traffic.rollouts import Rollout

if TYPE_CHECKING:
    import polars as pl

    from assets.kind import Kind
    from assets.traffic.entries import LedgerEntry
    from resources.lake import Lake

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Paired:
    """Requests that champion and candidate both computed, row by row (n,).

    Outputs are NaN where the candidate failed, labels `y` NaN until they have matured, the
    champion's microseconds NaN where it was not timed. `day` is the data day as an ordinal.
    """

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
    """Requests that one of several arms answered, row by row (n,).

    `arm` is the arm's index (0: the champion), `shares` (n, arms) the share with which the
    request's key falls to each arm, `y` the label (NaN until it has matured), `ms` the
    milliseconds, `key` the caller as a code, `day` the data day as an ordinal.
    """

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
    """Requests that the candidate should have computed and could not.

    `invalid` counts outputs that are no probability, `raised` errors.
    """

    invalid: int = 0
    raised: int = 0

    @property
    def total(self) -> int:
        return self.invalid + self.raised


@dataclass(frozen=True)
class Evidence:
    """All that the judgement of a day rests on.

    `step` are the rows of the present step alone, `split` those of all canary steps. `confirmed`
    says whether an endpoint was confirmed to serve the present step.
    """

    day: date
    paired: Paired
    split: Divided
    step: Divided
    failures: Failures
    confirmed: bool


class Window(NamedTuple):
    """The wall time from a move's confirmation until the next move (None: still), and the shares.

    What was answered while the traffic moved belongs to no step.
    """

    begin: datetime
    end: datetime | None
    shares: Mapping[str, float]


def gather(
    kind: Kind,
    rollout: Rollout,
    entries: Sequence[LedgerEntry],
    day: date,
    lake: Lake,
    trials: Sequence[Path],
) -> Evidence:
    """The evidence on a rollout as known on the day after `day`, when the next step would begin.

    Rows are about events up to `day`, labels are those known by the next day's refresh.
    """
    begin, newest = rollout.steps[0], rollout.steps[-1]
    labels = kind.labels(lake, begin.day, day)
    served = windows(entries, [step.entry for step in rollout.steps])
    bundles = [rollout.champion or "", rollout.bundle]
    key = kind.pipeline.release.split_by or kind.entity
    split = answered(kind, lake, begin.day, day, served, bundles, key, labels)

    now = served.get(newest.entry)
    if now is not None and newest.stage == "canary":
        step = split.of(split.shares[:, 1] == now.shares[rollout.bundle])
    else:
        step = split.of(np.zeros(len(split), dtype=bool))

    scored = _trials(trials, rollout.bundle, begin.day, day, begin.moment)
    return Evidence(
        day=day,
        paired=paired(scored, labels, kind.entity),
        split=split,
        step=step,
        failures=_failures(scored),
        confirmed=now is not None,
    )


def windows(entries: Sequence[LedgerEntry], serials: Sequence[int]) -> dict[int, Window]:
    """The window of each of these moves that an endpoint confirmed."""
    found: dict[int, Window] = {}
    for serial in serials:
        confirmed = confirmation(entries, serial)
        if confirmed is None:
            continue
        later = (e.moment for e in entries if e.serial > serial and isinstance(e, MOVES))
        found[serial] = Window(confirmed.moment, next(later, None), dict(confirmed.arms))
    return found


def answered(
    kind: Kind,
    lake: Lake,
    first: date,
    last: date,
    served: Mapping[int, Window],
    bundles: Sequence[str],
    key: str,
    labels: pl.DataFrame,
) -> Divided:
    """Answers about events of [first, last] that `bundles` gave while all of them had a share.

    `bundles` are champion first; `key` is the column by whose value they were divided.
    """
    import polars as pl

    windowed = [w for w in served.values() if all(w.shares.get(bundle) for bundle in bundles)]
    try:
        rows = lake.scan(asset_path(kind.pipeline.name, PREDICTIONS), first, last)
    except FileNotFoundError:
        return _nothing_divided(len(bundles))
    if not windowed:
        return _nothing_divided(len(bundles))

    ours = rows.filter(pl.col("bundle").is_in(list(bundles)))
    found = (
        pl.concat([_inside(ours, window, bundles) for window in windowed], how="diagonal")
        .sort("wall_time", "prediction_id")
        .unique("prediction_id", keep="first", maintain_order=True)
    )
    keys = found[key].cast(pl.String).fill_null("").to_numpy()
    found = found.with_columns(pl.col(kind.entity).cast(pl.String)).join(
        labels, on=kind.entity, how="left", maintain_order="left"
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


def _inside(rows: pl.LazyFrame, window: Window, bundles: Sequence[str]) -> pl.DataFrame:
    """The rows that were answered within a window, with the share of each bundle in it."""
    import polars as pl

    moment = pl.col("wall_time")
    inside = moment >= window.begin
    if window.end is not None:
        inside &= moment < window.end
    shares = {
        f"share_{index}": pl.lit(window.shares[bundle]) for index, bundle in enumerate(bundles)
    }
    return rows.filter(inside).with_columns(**shares).collect()


def _nothing_divided(arms: int) -> Divided:
    floats, codes = np.zeros(0), np.zeros(0, np.int64)
    return Divided(codes, np.zeros((0, arms)), floats, floats, floats, codes, codes)


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
    """The logged trials of a bundle since a moment: all of the shadow, failures of any stage."""
    import polars as pl

    from bundle.records.reader import read_trials

    by_id = {
        each.id: each
        for each in read_trials(folders, first, last)
        if each.bundle == bundle and each.at >= since
    }
    schema = {
        "date": pl.String,
        "entity": pl.String,
        "output": pl.Float64,
        "champion_output": pl.Float64,
        "latency_us": pl.Float64,
        "champion_us": pl.Float64,
        "failure": pl.String,
    }
    rows = [
        (
            each.day,
            str(each.entity),
            each.output,
            each.champion_output,
            each.latency_us,
            each.champion_us,
            each.failure,
        )
        for each in sorted(by_id.values(), key=lambda each: (each.at, each.id))
    ]
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return frame.with_columns(pl.col("date").str.to_date())


def _failures(trials: pl.DataFrame) -> Failures:
    import polars as pl

    from bundle.records.record import NO_PROBABILITY

    failed = trials.filter(pl.col("failure").is_not_null())
    invalid = failed.filter(pl.col("failure") == NO_PROBABILITY).height
    return Failures(invalid, failed.height - invalid)


def _floats(series: pl.Series) -> Floats:
    import polars as pl

    return np.asarray(series.cast(pl.Float64).fill_null(float("nan")).to_numpy(), dtype=np.float64)


def _ordinals(series: pl.Series) -> NDArray[np.int64]:
    import polars as pl

    return np.asarray(series.cast(pl.Int32).to_numpy(), dtype=np.int64)
