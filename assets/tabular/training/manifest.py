"""The training set.

A manifest that names rows by day and content digest, and the rows rebuilt from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from assets.data import raw
from assets.names import DAY, FEATURES, TRAINING_SET, asset_path, raw_table
from assets.tabular.features.moments import refresh
from assets.tabular.training.split import PARTS, Part, Parts, split
from declare.source import DATE, EVENT_TIME, KNOWN_AT

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from declare.tabular import Tabular
    from resources.lake import Lake

FILE = "manifest.json"
LABEL_KNOWN_AT = "label_known_at"


class DayRows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The labelled rows of one day.

    How many, how many of them positive, and the digest of their content.
    """

    rows: int
    positives: int
    digest: str


class TrainingManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a model was trained on: no copy of rows, but all that rebuilds exactly those rows.

    `as_of` stands for the moment `refresh` after its midnight: events before that day count, in the
    version known then. Lineage names the lake tables that the rows come from.
    """

    format: int = 1
    pipeline: str
    as_of: date
    moment: datetime
    entity: str
    label: str
    features: tuple[str, ...]
    program_digest: str
    split: Parts
    days: dict[str, DayRows]
    rows: dict[str, int]
    base_rate: dict[str, float]
    lineage: tuple[str, ...]

    def encode(self) -> bytes:
        """Canonical JSON: equal manifests have equal bytes."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=1)

    @classmethod
    def decode(cls, content: bytes) -> TrainingManifest:
        """Raises msgspec.ValidationError, a ValueError, for all but a manifest of this format."""
        manifest = msgspec.json.decode(content, type=cls)
        if manifest.format != 1:
            raise ValueError(
                f"training-set manifest of format {manifest.format}; this version reads format 1"
            )
        return manifest

    @property
    def total(self) -> int:
        return sum(self.rows.values())


@dataclass(frozen=True)
class TrainingRows:
    """The rows of a training set in canonical order (event time, then entity).

    Features, request columns and the label.
    """

    manifest: TrainingManifest
    frame: pl.DataFrame

    @cached_property
    def y(self) -> NDArray[np.float64]:
        """Labels, 0 or 1, of shape (n,)."""
        import numpy as np

        return self.frame.get_column(self.manifest.label).to_numpy().astype(np.float64)

    @cached_property
    def masks(self) -> dict[Part, NDArray[np.bool_]]:
        days = self.frame.get_column(DATE)
        return {
            part: days.is_between(
                self.manifest.split[part].first, self.manifest.split[part].last
            ).to_numpy()
            for part in PARTS
        }

    def part(self, *parts: Part) -> pl.DataFrame:
        """The rows of one or several parts, in canonical order."""
        return self.frame.filter(self._mask(parts))

    def labels(self, *parts: Part) -> NDArray[np.float64]:
        """Labels of one or several parts, in the order of `part`."""
        return self.y[self._mask(parts)]

    def _mask(self, parts: tuple[Part, ...]) -> NDArray[np.bool_]:
        import numpy as np

        chosen: NDArray[np.bool_] = np.any([self.masks[part] for part in parts], axis=0)
        return chosen


def window(pipeline: Tabular, as_of: date, stored: list[date]) -> tuple[date, date]:
    """First and last day with features that a training run as of a day may use.

    Raises ValueError where there is none.
    """
    history = pipeline.split.history_days
    earliest = as_of - DAY * history if history else date.min
    days = [day for day in stored if earliest <= day < as_of]
    if not days:
        known = f"{stored[0]} to {stored[-1]}" if stored else "no day at all"
        raise ValueError(
            f"training as of {as_of} needs features of earlier days, but the lake has {known}; "
            f"materialize {asset_path(pipeline.name, FEATURES)} first"
        )
    return days[0], days[-1]


def labelled_rows(
    pipeline: Tabular, lake: Lake, first: date, last: date, as_of: date
) -> pl.DataFrame:
    """Feature rows of days `first` to `last` with the label known at `as_of`, canonically ordered.

    Columns: those of the feature table, the label (0 or 1) and `label_known_at`. Rows without a
    mature label are left out. An event that was moved to another day after its prediction was
    predicted again: it happened once, and counts as it was predicted last.
    """
    from assets.tabular.features.point_in_time import labels
    from assets.tabular.features.versions import newest_known

    known = labels(pipeline, raw.reader(lake, pipeline.name), first, last, as_of)
    known = known.select(
        pipeline.entity, pipeline.label.name, known.get_column(KNOWN_AT).alias(LABEL_KNOWN_AT)
    ).drop_nulls(pipeline.label.name)
    rows = newest_known(
        lake.scan(asset_path(pipeline.name, FEATURES), first, last).collect(), [pipeline.entity]
    )
    return rows.join(known, on=pipeline.entity, how="inner", validate="1:1").sort(
        EVENT_TIME, pipeline.entity
    )


def day_digests(frame: pl.DataFrame, label: str) -> dict[str, DayRows]:
    """Per local day: number of rows, positives and content digest."""
    from assets.data.digest import content_digest

    return {
        str(day): DayRows(
            rows=part.height,
            positives=int(part.get_column(label).sum()),
            digest=content_digest(part),
        )
        for (day,), part in frame.partition_by(DATE, as_dict=True, maintain_order=True).items()
    }


def assemble(pipeline: Tabular, lake: Lake, as_of: date | None = None) -> TrainingRows:
    """Build the training set of a pipeline as of a day (None: the newest day that has features)."""
    from assets.tabular.features.declared_program import program

    global _loaded
    read = _versions(pipeline, lake)
    stored = lake.days(asset_path(pipeline.name, FEATURES))
    if as_of is None:
        if not stored:
            raise ValueError(
                f"the lake has no {asset_path(pipeline.name, FEATURES)}; materialize the features "
                "first"
            )
        as_of = stored[-1]
    first, last = window(pipeline, as_of, stored)
    frame = labelled_rows(pipeline, lake, first, last, as_of)
    parts = split(frame.get_column(DATE).unique().to_list(), pipeline.split)
    declared = program(pipeline)
    manifest = TrainingManifest(
        pipeline=pipeline.name,
        as_of=as_of,
        moment=refresh(pipeline, as_of),
        entity=pipeline.entity,
        label=pipeline.label.name,
        features=tuple(declared.names),
        program_digest=declared.digest,
        split=parts,
        days=day_digests(frame, pipeline.label.name),
        rows={},
        base_rate={},
        lineage=(
            asset_path(pipeline.name, FEATURES),
            raw_table(pipeline.name, pipeline.label.source),
        ),
    )
    rows = TrainingRows(manifest, frame)
    counted = {part: rows.labels(part) for part in PARTS}
    rates = {part: float(y.mean()) if len(y) else 0.0 for part, y in counted.items()}
    manifest = msgspec.structs.replace(
        manifest, rows={part: len(y) for part, y in counted.items()}, base_rate=rates
    )
    rows = TrainingRows(manifest, frame)
    _loaded = ((lake.uri, manifest, read), rows)
    return rows


# The rows of the last training set, by what they were read from: study, baseline, candidate and
# bundle of one run read the same ones.
_loaded: tuple[object, TrainingRows] | None = None


def _versions(pipeline: Tabular, lake: Lake) -> tuple[int, ...]:
    """Versions of the lake tables that the rows of a training set are read from.

    -1 for one that is not there.
    """
    tables = (
        asset_path(pipeline.name, FEATURES),
        *(raw_table(pipeline.name, source.name) for source in pipeline.sources),
    )
    return tuple(lake.version(table) if lake.exists(table) else -1 for table in tables)


def load_rows(pipeline: Tabular, manifest: TrainingManifest, lake: Lake) -> TrainingRows:
    """Rebuild exactly the rows of a training set, in canonical order, and verify them day by day.

    Raises ValueError naming the days whose rows are no longer those that the manifest speaks of.
    """
    global _loaded
    key = (lake.uri, manifest, _versions(pipeline, lake))
    if _loaded is not None and _loaded[0] == key:
        return _loaded[1]
    days = sorted(date.fromisoformat(day) for day in manifest.days)
    frame = labelled_rows(pipeline, lake, days[0], days[-1], manifest.as_of)
    verify(manifest, day_digests(frame, manifest.label))
    _loaded = (key, TrainingRows(manifest, frame))
    return _loaded[1]


def verify(manifest: TrainingManifest, found: Mapping[str, DayRows]) -> None:
    """Raise ValueError unless the days found are exactly those of the manifest."""
    changed = sorted(
        day
        for day in manifest.days.keys() | found.keys()
        if manifest.days.get(day) != found.get(day)
    )
    if changed:
        day = changed[0]
        expected, seen = manifest.days.get(day), found.get(day)
        told = f"{expected.rows} rows, {expected.digest[:12]}" if expected else "no rows"
        saw = f"{seen.rows} rows, {seen.digest[:12]}" if seen else "no rows"
        raise ValueError(
            f"{len(changed)} of {len(manifest.days)} days changed since the training set of "
            f"{manifest.pipeline} as of {manifest.as_of} was made; "
            f"the first is {day} (recorded {told}; now {saw}). Materialize "
            f"{asset_path(manifest.pipeline, TRAINING_SET)} again, or restore the day in the lake"
        )


class Finding(msgspec.Struct, frozen=True):
    """The result of one check: whether it passed, one sentence, and its numbers."""

    passed: bool
    description: str
    numbers: dict[str, float]


def label_maturity(rows: TrainingRows, matures_after: timedelta) -> Finding:
    """Every label was known and mature when training began, and every event lies before its day."""
    import polars as pl

    manifest = rows.manifest
    late = rows.frame.filter(pl.col(LABEL_KNOWN_AT) > manifest.moment).height
    young = rows.frame.filter(pl.col(EVENT_TIME) + matures_after > manifest.moment).height
    future = rows.frame.filter(pl.col(DATE) >= manifest.as_of).height
    newest = rows.frame.select(pl.col(LABEL_KNOWN_AT).max().dt.to_string("%Y-%m-%d %H:%M")).item()
    return Finding(
        passed=not late and not young and not future,
        description=(
            f"{late} of {rows.frame.height} labels became known after "
            f"{manifest.moment:%Y-%m-%d %H:%M} UTC, {young} were younger than {matures_after} "
            "then, "
            f"{future} rows are of {manifest.as_of} or later; newest label {newest} UTC"
        ),
        numbers={
            "immature": float(late + young),
            "future": float(future),
            "rows": float(rows.frame.height),
        },
    )


def minimum_rows(rows: TrainingRows, least: int) -> Finding:
    """There are enough labelled rows, and some in every part."""
    counts = rows.manifest.rows
    empty = [part for part in PARTS if not counts[part]]
    told = ", ".join(f"{part} {counts[part]}" for part in PARTS)
    return Finding(
        passed=rows.manifest.total >= least and not empty,
        description=f"{rows.manifest.total} labelled rows ({told}); at least {least} are needed"
        + (f", and some in {', '.join(empty)}" if empty else ""),
        numbers={"rows": float(rows.manifest.total), "minimum": float(least)},
    )


def numeric_stability(rows: TrainingRows) -> Finding:
    """Both classes to train and to stop on, finite numbers, at least one feature that varies."""
    import polars as pl
    import polars.selectors as cs

    problems = [
        f"every label of {part} is {rates:g}" for part, rates in rows.manifest.base_rate.items()
        if part != "test" and rows.manifest.rows[part] and not 0 < rates < 1
    ]  # fmt: skip
    features = rows.frame.select(rows.manifest.features)
    numbers = features.select(cs.numeric())
    infinite = (
        numbers.select(pl.all().is_nan().sum() + pl.all().is_infinite().sum()).row(0)
        if numbers.width
        else ()
    )
    problems += [
        f"feature {name} has {count} values that are not finite"
        for name, count in zip(numbers.columns, infinite, strict=True)
        if count
    ]
    train = rows.part("train").select(rows.manifest.features)
    constant = [name for name in train.columns if train.get_column(name).n_unique() <= 1]
    if len(constant) == len(rows.manifest.features):
        problems.append("no feature varies in the training rows")
    rate = float(rows.y.mean()) if len(rows.y) else 0.0
    told = "; ".join(problems) or f"base rate {rate:.4f}, all numbers finite"
    return Finding(
        passed=not problems and 0 < rate < 1,
        description=told + (f"; constant in training: {', '.join(constant)}" if constant else ""),
        numbers={
            "base_rate": rate,
            "not_finite": float(sum(infinite)),
            "constant_features": float(len(constant)),
        },
    )
