"""Predictions in the lake: the endpoint's log, one row per prediction, by the day of the event.

The log is a write-ahead file of the endpoint, local and read a day at a time. The table is what
monitors and people query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from assets.names import PREDICTIONS, asset_path
from declare.source import DATE, EVENT_TIME, KNOWN_AT

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from bundle.features.program import FeatureProgram
    from bundle.records.record import Stored
    from declare.tabular import Tabular
    from resources.artifacts import Artifacts
    from resources.lake import Lake

# Features are stored under a prefix: one may share its name with a request column and hold
# something else, and a later release may turn a number into a text. `as_used` gives them their own
# names.
NUMBER, CATEGORY = "feature_", "category_"
UNSEEN = "(unseen)"


def columns(pipeline: Tabular) -> dict[str, Any]:
    """The columns that every stored prediction has, with their Polars types, in order.

    Features come after them. `ood` names the features that lay outside the range of the training
    set, separated by commas; null where none did.
    """
    import polars as pl

    moment = pl.Datetime("us", "UTC")
    kinds = {
        "string": pl.String,
        "float": pl.Float64,
        "integer": pl.Int64,
        "boolean": pl.Boolean,
        "datetime": moment,
    }
    fixed = {
        "prediction_id": pl.String,
        EVENT_TIME: moment,
        KNOWN_AT: moment,
        "wall_time": moment,
        "bundle": pl.String,
        "arm": pl.String,
        "caller": pl.String,
        "output": pl.Float64,
        "latency_ms": pl.Float64,
        "online_as_of": pl.String,
        "ood": pl.String,
        DATE: pl.Date,
    }
    return {
        **fixed,
        **{
            name: kinds[column.kind]
            for name, column in pipeline.request_columns.items()
            if name not in fixed
        },
    }


def empty(pipeline: Tabular) -> pl.DataFrame:
    """A day without predictions."""
    import polars as pl

    return pl.DataFrame(schema=columns(pipeline))


def compact(
    pipeline: Tabular, records: Sequence[Stored], program: Callable[[str], FeatureProgram]
) -> pl.DataFrame:
    """Records as rows, one per prediction id (the first of equal ids), by event, then by id.

    `program` gives the feature program of a bundle, which names and decodes the model's row.
    `known_at` is the moment in data time at which the prediction was due: the event less the
    program's lead. Raises ValueError for a row that does not fit its program.
    """
    import polars as pl

    first = {record.id: record for record in reversed(records)}
    frames = [empty(pipeline)]
    for bundle in sorted({record.bundle for record in first.values()}):
        own = sorted(
            (record for record in first.values() if record.bundle == bundle),
            key=lambda record: (record.event_time, record.id),
        )
        frames.append(_frame(pipeline, own, program(bundle)))
    return pl.concat(frames, how="diagonal").sort(EVENT_TIME, "prediction_id")


def merged(stored: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
    """What is stored already with what the log holds now, one row per prediction id.

    A log that was cleared away takes nothing out of the lake.
    """
    import polars as pl

    together = pl.concat([found, stored], how="diagonal")
    return together.unique("prediction_id", keep="first", maintain_order=True).sort(
        EVENT_TIME, "prediction_id"
    )


def as_used(predictions: pl.DataFrame, program: FeatureProgram) -> pl.DataFrame:
    """Predictions of one bundle with the features that it used under their own names.

    A feature replaces the request column of its name, as in the feature table. What the bundle
    keeps out of the log is left out.
    """
    stored = {
        name: (CATEGORY if categorical else NUMBER) + name
        for name, categorical in zip(program.names, program.categorical, strict=True)
    }
    left_out = program.unlogged | program.withheld
    stored = {
        name: column
        for name, column in stored.items()
        if column in predictions.columns and name not in left_out
    }
    kept = [
        name
        for name in predictions.columns
        if not name.startswith((NUMBER, CATEGORY)) and name not in {*stored, *left_out}
    ]
    return predictions.select(*kept, **stored)


def _frame(pipeline: Tabular, records: Sequence[Stored], program: FeatureProgram) -> pl.DataFrame:
    import polars as pl

    schema = columns(pipeline)
    width = len(program.names)
    for record in records:
        if len(record.row) != width:
            raise ValueError(
                f"prediction {record.id} has a row of {len(record.row)} values, but its bundle "
                f"{record.bundle} has {width} features"
            )
    lead = timedelta(seconds=program.lead_seconds)
    data: dict[str, list[Any]] = {
        "prediction_id": [record.id for record in records],
        EVENT_TIME: [record.event_time for record in records],
        KNOWN_AT: [record.event_time - lead for record in records],
        "wall_time": [record.at for record in records],
        "bundle": [record.bundle for record in records],
        "arm": [record.arm for record in records],
        "caller": [record.caller for record in records],
        "output": [record.output for record in records],
        "latency_ms": [record.latency_us / 1_000 for record in records],
        "online_as_of": [record.online_as_of for record in records],
        "ood": [",".join(record.ood) or None for record in records],
        DATE: [record.day for record in records],
    }
    texts = {DATE: pl.col(DATE).str.to_date()}
    for name, kind in schema.items():
        if name not in data:
            data[name] = [record.request.get(name) for record in records]
            if kind == pl.Datetime("us", "UTC"):
                texts[name] = (
                    pl.col(name).cast(pl.String).str.to_datetime(time_zone="UTC", time_unit="us")
                )
    plain = {name: kind for name, kind in schema.items() if name not in texts}
    frame = pl.DataFrame(
        data, schema_overrides={**plain, **dict.fromkeys(texts, pl.String)}, strict=False
    )
    matrix = np.array([record.row for record in records], dtype=np.float32)
    return frame.with_columns(**texts).select(*schema).with_columns(_features(matrix, program))


def _features(
    matrix: np.ndarray[Any, np.dtype[np.float32]], program: FeatureProgram
) -> list[pl.Series]:
    """The model's rows as columns. Withheld features have none.

    Numbers are as they were used (null where missing), categories are their text.
    """
    import polars as pl

    found = []
    withheld = program.withheld
    for index, (name, categorical) in enumerate(
        zip(program.names, program.categorical, strict=True)
    ):
        if name in withheld:
            continue
        values = matrix[:, index]
        if not categorical:
            found.append(pl.Series(NUMBER + name, values, dtype=pl.Float32).fill_nan(None))
            continue
        words = (UNSEEN, *program.vocabularies.get(name, ()))
        codes = [None if np.isnan(value) else int(value) for value in values]
        found.append(
            pl.Series(
                CATEGORY + name,
                [None if code is None else words[code] for code in codes],
                dtype=pl.String,
            )
        )
    return found


class Compacted(NamedTuple):
    """What a compaction of some days did.

    `altered` counts damaged lines of the log that are no torn ends: predictions lost. `answered` is
    the wall time of the newest prediction of these days.
    """

    days: dict[date, int]
    new: int
    torn: int
    altered: int
    segments: int
    digest: str
    answered: datetime | None

    @property
    def rows(self) -> int:
        return sum(self.days.values())

    @property
    def empty(self) -> list[date]:
        return [day for day, rows in self.days.items() if not rows]

    @property
    def told(self) -> str:
        """What happened, in a sentence or two."""
        words = (
            f"{self.rows} predictions on {len(self.days)} days, {self.new} of them new; "
            f"{self.segments} segments of the log were read."
        )
        if self.empty:
            words += f" No prediction was made for events of {_span(self.empty)}; stored empty."
        return words

    @property
    def damage(self) -> str:
        if self.altered:
            return (
                f"{self.altered} lines of the prediction log were altered after they were written: "
                "those predictions are lost"
            )
        return (
            f"every line of the log is as it was written; {self.torn} unfinished ends (nobody was "
            "answered from those)"
        )


def compact_days(
    pipeline: Tabular, days: Sequence[date], lake: Lake, artifacts: Artifacts, logs: Sequence[Path]
) -> Compacted:
    """Bring the prediction logs (one of each replica of the endpoint) of some days into the lake.

    Each prediction comes once, however often this runs. Raises FileNotFoundError for a prediction
    of a bundle whose files are gone, ValueError as `compact` does.
    """
    import polars as pl

    from assets.data.digest import content_digest
    from bundle.features.program import FeatureProgram
    from bundle.manifest import PROGRAM
    from bundle.records.reader import read

    programs: dict[str, FeatureProgram] = {}

    def program(bundle: str) -> FeatureProgram:
        if bundle not in programs:
            programs[bundle] = FeatureProgram.decode(artifacts.get("bundles", bundle)[PROGRAM])
        return programs[bundle]

    wanted = sorted(set(days))
    readings = [read(log, wanted[0], wanted[-1]) for log in logs]
    records = list(chain.from_iterable(reading.records for reading in readings))
    found = compact(pipeline, records, program).filter(pl.col(DATE).is_in(wanted))
    table = asset_path(pipeline.name, PREDICTIONS)
    try:
        stored = (
            lake.scan(table, wanted[0], wanted[-1]).filter(pl.col(DATE).is_in(wanted)).collect()
        )
    except FileNotFoundError:
        stored = empty(pipeline)
    together = merged(stored, found)
    new = together.height - stored.height
    # Nothing new is no commit: a run that is repeated leaves the table's version alone.
    if new or not set(wanted) <= set(lake.days(table)):
        lake.write(table, together, wanted, evolve=True)
    counted = dict(together.group_by(DATE).len().iter_rows())
    damaged = list(chain.from_iterable(reading.damage for reading in readings))
    torn = sum(damage.torn for damage in damaged)
    return Compacted(
        days={day: int(counted.get(day, 0)) for day in wanted},
        new=new,
        torn=torn,
        altered=len(damaged) - torn,
        segments=sum(reading.segments for reading in readings),
        digest=content_digest(together.select("prediction_id", "bundle", "output", EVENT_TIME)),
        answered=cast("datetime | None", together["wall_time"].max()),
    )


class Pruned(NamedTuple):
    """Segments of the log that went, and those that stay although they are old enough.

    They stay since the lake does not hold all of their predictions, or a line was altered.
    """

    removed: int
    kept: int


def prune(pipeline: Tabular, lake: Lake, logs: Sequence[Path], newest: date) -> Pruned:
    """Remove the segments whose predictions are all past their retention.

    That is, about events more than the declared retention before `newest`. A segment goes only if
    the lake holds each of its predictions.
    """
    import polars as pl

    from bundle.records.reader import contents
    from bundle.records.segments import closed_before, remove

    removed = kept = 0
    for log in logs:
        for path, first, last in list(closed_before(log, newest - pipeline.log.retention)):
            reading = contents(path)
            ids = {record.id for record in reading.records}
            try:
                stored = (
                    lake.scan(asset_path(pipeline.name, PREDICTIONS), first, last)
                    .select("prediction_id")
                    .collect()
                )
            except FileNotFoundError:
                stored = empty(pipeline)
            held = stored.filter(pl.col("prediction_id").is_in(list(ids))).height
            if held == len(ids) and all(damage.torn for damage in reading.damage):
                remove(path)
                removed += 1
            else:
                kept += 1
    return Pruned(removed, kept)


def _span(days: Sequence[date]) -> str:
    return str(days[0]) if len(days) == 1 else f"{len(days)} days from {days[0]} to {days[-1]}"
