"""The drift reference of a bundle: what its model was trained on, feature by feature.

A reference is a small JSON document that travels with the bundle. For each feature it holds the
histogram of all training rows and a row-wise sample of at most 2,000 of them. Numbers have decile
bins, a bin on either side of the reference's range and one for missing values; text has a bin for
each common value, one for rare, one for unseen and one for missing values.

A feature that cannot keep still within a day (the weekday, say) differs from its reference on
*every* day. Its limit is therefore calibrated on the reference's own days: the share of them that
may exceed the limit is `FALSE_ALARMS`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from assets.tabular.monitoring.drift.statistics import Counts, Floats, js_of_rows, psi_of_rows

if TYPE_CHECKING:
    import polars as pl

SAMPLE = 2_000
BINS = 10
# Categories below this share of the reference are pooled: single rare ones say nothing about a day.
RARE = 0.01
FALSE_ALARMS = 0.01
# The farthest of a few dozen days is no bound for days to come; a tenth above it is exceeded by
# real shifts alone.
HEADROOM = 1.1
CALIBRATION_DAYS = 10  # fewer reference days than this calibrate nothing
CALIBRATION_ROWS = 30  # a reference day with fewer rows is left out of the calibration


class NumberReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="number"):
    """`counts` holds one count per bin of `edges` (len(edges) + 1 bins) and, last, missing values.

    `sample` is row-wise.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    deviation: float
    sample: tuple[float | None, ...]
    psi_limit: float | None = None
    js_limit: float | None = None


class CategoryReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="category"):
    """`counts` holds one count per common value, then rare, (never seen) unseen, and missing."""

    values: tuple[str, ...]
    rare: tuple[str, ...]
    counts: tuple[int, ...]
    sample: tuple[str | None, ...]
    psi_limit: float | None = None
    js_limit: float | None = None


FeatureReference = NumberReference | CategoryReference


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model was trained on, per feature.

    `output` is what it answered on the newest of those rows.
    """

    version: int
    rows: int
    features: dict[str, FeatureReference]
    output: NumberReference | None = None

    def encode(self) -> bytes:
        return msgspec.json.encode(self, order="deterministic")

    @staticmethod
    def decode(content: bytes) -> Reference:
        """Raises msgspec.ValidationError for anything but a reference of version 1."""
        found = msgspec.json.decode(content, type=Reference)
        if found.version != 1:
            raise msgspec.ValidationError(
                f"drift reference has version {found.version}, this platform reads version 1; "
                "train again"
            )
        return found


def reference(
    frame: pl.DataFrame,
    features: Sequence[str],
    outputs: pl.DataFrame | None = None,
    *,
    day: str = "date",
) -> bytes:
    """`reference.json` of a bundle: the training rows of the feature table, and the outputs.

    `frame` holds one row per training row with the columns `features` (numbers, text) and, for the
    calibration of limits, the `day` column. `outputs` holds a column `output` for (a part of) those
    rows and, likewise, `day`. Raises ValueError for an empty frame or a missing column.
    """
    if frame.is_empty():
        raise ValueError(
            "drift reference of 0 rows; a reference needs the training rows of the feature table"
        )
    missing = [name for name in features if name not in frame.columns]
    if missing:
        raise ValueError(
            f"drift reference lacks columns {', '.join(missing)}; "
            f"the frame has {', '.join(frame.columns)}"
        )

    days, rows = day_codes(frame, day), sampled_rows(frame.height)
    references: dict[str, FeatureReference] = {
        name: (
            category_reference(texts(frame, name), rows, days)
            if is_text(frame, name)
            else number_reference(numbers(frame, name), rows, days)
        )
        for name in features
    }
    if outputs is None or not outputs.height:
        return Reference(1, frame.height, references).encode()

    output = number_reference(
        numbers(outputs, "output"), sampled_rows(outputs.height), day_codes(outputs, day)
    )
    return Reference(1, frame.height, references, output).encode()


def is_text(frame: pl.DataFrame, name: str) -> bool:
    """Whether a column holds text."""
    import polars as pl

    return frame.schema[name] in (pl.String, pl.Categorical, pl.Enum)


def numbers(frame: pl.DataFrame, name: str) -> Floats:
    """A column as float64 (n,), NaN where it is null or not finite."""
    import polars as pl

    values = frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return np.where(np.isfinite(values), values, np.nan)


def texts(frame: pl.DataFrame, name: str) -> list[str | None]:
    """A column as text, None where it is null."""
    import polars as pl

    return frame[name].cast(pl.String).to_list()


def day_codes(frame: pl.DataFrame, day: str) -> Counts | None:
    """The day of each row as a code 0, 1, …; None where the frame has no such column."""
    if day not in frame.columns:
        return None
    return np.asarray(frame[day].rank("dense").to_numpy(), dtype=np.int64) - 1


def sampled_rows(rows: int) -> Counts:
    """At most `SAMPLE` row numbers, evenly spread: the same rows for the same number of rows."""
    return np.unique(np.linspace(0, rows - 1, min(rows, SAMPLE)).round().astype(np.int64))


def number_reference(values: Floats, rows: Counts, days: Counts | None = None) -> NumberReference:
    """Reference of a numeric column (n,) float64, NaN for missing."""
    present = values[~np.isnan(values)]
    edges = _edges(present)
    bins, width = _number_bins(values, edges), len(edges) + 2
    counts = np.bincount(bins, minlength=width)
    psi_limit, js_limit = _calibrated(bins, counts, days, width)

    return NumberReference(
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        deviation=float(present.std()) if present.size else 0.0,
        sample=tuple(
            None if math.isnan(value) else _short(value) for value in values[rows].tolist()
        ),
        psi_limit=psi_limit,
        js_limit=js_limit,
    )


def category_reference(
    values: Sequence[str | None], rows: Counts, days: Counts | None = None
) -> CategoryReference:
    """Reference of a text column (n,), None for missing."""
    tally = Counter(value for value in values if value is not None)
    common = tuple(sorted(value for value, n in tally.items() if n >= RARE * len(values)))
    rare = tuple(sorted(set(tally) - set(common)))

    bins, width = _category_bins(values, common, rare), len(common) + 3
    counts = np.bincount(bins, minlength=width)
    psi_limit, js_limit = _calibrated(bins, counts, days, width)

    return CategoryReference(
        values=common,
        rare=rare,
        counts=tuple(counts.tolist()),
        sample=tuple(values[row] for row in rows.tolist()),
        psi_limit=psi_limit,
        js_limit=js_limit,
    )


def number_counts(values: Floats, against: NumberReference) -> Counts:
    """The histogram of a numeric column over the reference's bins."""
    bins = _number_bins(values, np.asarray(against.edges))
    return np.bincount(bins, minlength=len(against.counts))


def category_counts(values: Sequence[str | None], against: CategoryReference) -> Counts:
    """The histogram of a text column over the reference's bins."""
    bins = _category_bins(values, against.values, against.rare)
    return np.bincount(bins, minlength=len(against.counts))


def _edges(present: Floats) -> Floats:
    """Deciles, and the range around them.

    A value that training never reached is in a bin that holds no training row.
    """
    if not present.size:
        return np.empty(0)
    deciles = np.quantile(present, np.linspace(0, 1, BINS + 1)[1:-1], method="inverted_cdf")
    return np.unique([np.nextafter(present.min(), -np.inf), *deciles, present.max()])


def _short(value: float) -> float:
    """Nine digits identify a float32, which models see; the document stays half as long."""
    return float(f"{value:.9g}")


def _number_bins(values: Floats, edges: Floats) -> Counts:
    """Bin of each value: bin i holds edges[i-1] < value <= edges[i]; missing values come last."""
    bins = np.searchsorted(edges, values, side="left").astype(np.int64)
    bins[np.isnan(values)] = len(edges) + 1
    return bins


def _category_bins(
    values: Sequence[str | None], common: Sequence[str], rare: Sequence[str]
) -> Counts:
    codes: dict[str | None, int] = {value: code for code, value in enumerate(common)}
    codes.update((value, len(common)) for value in rare)
    codes[None] = len(common) + 2

    unseen = len(common) + 1
    return np.fromiter(
        (codes.get(value, unseen) for value in values), dtype=np.int64, count=len(values)
    )


def _calibrated(
    bins: Counts, counts: Counts, days: Counts | None, width: int
) -> tuple[float | None, float | None]:
    """The PSI and JS limits that all but `FALSE_ALARMS` of the days keep, with `HEADROOM`."""
    if days is None:
        return None, None

    cells = np.bincount(days * width + bins, minlength=(int(days.max()) + 1) * width)
    daily = cells.reshape(-1, width)
    daily = daily[daily.sum(axis=1) >= CALIBRATION_ROWS]
    if len(daily) < CALIBRATION_DAYS:
        return None, None

    psi, js = psi_of_rows(counts, daily), js_of_rows(counts, daily)
    psi_limit, js_limit = (
        float(np.quantile(each, 1 - FALSE_ALARMS, method="higher")) * HEADROOM for each in (psi, js)
    )
    return psi_limit, js_limit
