"""Drift of features and outputs against a training reference: own statistics, in NumPy alone.

A reference is a small JSON document that travels with the bundle: for each feature the histogram of all training rows
and a row-wise sample of at most 2,000 of them. A day is compared by

- PSI, the population stability index (Siddiqi 2006, *Credit Risk Scorecards*): symmetric Kullback-Leibler divergence
  over the reference's decile bins, with a bin for missing values and one on either side of the reference's range;
- Jensen-Shannon distance, base 2, in [0, 1] (Endres and Schindelin 2003) over the same bins;
- for numbers also the two-sample Kolmogorov-Smirnov statistic with its asymptotic p-value (Stephens 1970) and the
  Wasserstein-1 distance in units of the reference's standard deviation, both against the sample.

A feature that cannot keep still within a day (the weekday, say) differs from its reference on *every* day. Its limit is
therefore calibrated on the reference's own days: the share of them that may exceed the limit is `FALSE_ALARMS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

SAMPLE = 2_000
BINS = 10
RARE = 0.01  # categories below this share of the reference are pooled: single rare ones say nothing about a day
FALSE_ALARMS = 0.01  # share of a feature's own reference days that may exceed its calibrated limit
HEADROOM = 1.1  # the farthest of a few dozen days is no bound for days to come; a tenth above it is exceeded by real shifts alone
CALIBRATION_DAYS = 10  # fewer reference days than this calibrate nothing
CALIBRATION_ROWS = 30  # a reference day with fewer rows is left out of the calibration
_SMOOTHING = (
    0.5  # pseudo-count of every bin (Jeffreys), so that an empty bin has a finite logarithm
)


class NumberReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="number"):
    """`counts` holds one count per bin of `edges` (len(edges) + 1 bins) and, last, the missing values. `sample` is row-wise."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    deviation: float
    sample: tuple[float | None, ...]
    psi_limit: float | None = None
    js_limit: float | None = None


class CategoryReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="category"):
    """`counts` holds one count per common value, then the pooled rare ones, then (never seen) unseen, then missing."""

    values: tuple[str, ...]
    rare: tuple[str, ...]
    counts: tuple[int, ...]
    sample: tuple[str | None, ...]
    psi_limit: float | None = None
    js_limit: float | None = None


FeatureReference = NumberReference | CategoryReference


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model was trained on, per feature, and what it answered on the newest of those rows (`output`)."""

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
                f"drift reference has version {found.version}, this platform reads version 1; train again"
            )
        return found


class Drift(msgspec.Struct, frozen=True):
    """Statistics of one feature on one day. `limit` is that of the judged statistic; `drifted` is None below the minimum."""

    feature: str
    n: int
    null_share: float
    reference_null_share: float
    psi: float
    js: float
    ks: float | None
    ks_p: float | None
    wasserstein: float | None
    judged_by: Literal["psi", "js"]
    limit: float
    drifted: bool | None

    @property
    def judged(self) -> float:
        return self.psi if self.judged_by == "psi" else self.js


def reference(
    frame: pl.DataFrame,
    features: Sequence[str],
    outputs: pl.DataFrame | None = None,
    *,
    day: str = "date",
) -> bytes:
    """`reference.json` of a bundle: the training rows of the feature table, and the outputs on (a part of) them.

    `frame` holds one row per training row with the columns `features` (numbers, text) and, for the calibration of limits,
    the `day` column; `outputs` holds a column `output` and, likewise, `day`. Raises ValueError for an empty frame or a
    missing column.
    """
    if frame.is_empty():
        raise ValueError(
            "drift reference of 0 rows; a reference needs the training rows of the feature table"
        )
    missing = [name for name in features if name not in frame.columns]
    if missing:
        raise ValueError(
            f"drift reference lacks columns {', '.join(missing)}; the frame has {', '.join(frame.columns)}"
        )
    days = day_codes(frame, day)
    rows = sampled_rows(frame.height)
    output = None
    if outputs is not None and outputs.height:
        output = number_reference(
            numbers(outputs, "output"), sampled_rows(outputs.height), day_codes(outputs, day)
        )
    found: dict[str, FeatureReference] = {
        name: (
            category_reference(texts(frame, name), rows, days)
            if is_text(frame, name)
            else number_reference(numbers(frame, name), rows, days)
        )
        for name in features
    }
    return Reference(1, frame.height, found, output).encode()


def is_text(frame: pl.DataFrame, name: str) -> bool:
    import polars as pl

    return frame.schema[name] in (pl.String, pl.Categorical, pl.Enum)


def numbers(frame: pl.DataFrame, name: str) -> Floats:
    """A column as float64 (n,), NaN where it is null or not finite."""
    import polars as pl

    values = frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return np.where(np.isfinite(values), values, np.nan)


def texts(frame: pl.DataFrame, name: str) -> list[str | None]:
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
    bins = _number_bins(values, edges)
    width = len(edges) + 2
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


def _edges(present: Floats) -> Floats:
    """Deciles, and the range around them: a value that training never reached is in a bin that holds no training row."""
    if not present.size:
        return np.empty(0)
    deciles = np.quantile(present, np.linspace(0, 1, BINS + 1)[1:-1], method="inverted_cdf")
    return np.unique([np.nextafter(present.min(), -np.inf), *deciles, present.max()])


def category_reference(
    values: Sequence[str | None], rows: Counts, days: Counts | None = None
) -> CategoryReference:
    """Reference of a text column (n,), None for missing."""
    tally: dict[str, int] = {}
    for value in values:
        if value is not None:
            tally[value] = tally.get(value, 0) + 1
    common = tuple(sorted(value for value, n in tally.items() if n >= RARE * len(values)))
    rare = tuple(sorted(set(tally) - set(common)))
    bins = _category_bins(values, common, rare)
    width = len(common) + 3
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


def drift(
    name: str,
    values: Floats | Sequence[str | None],
    against: FeatureReference,
    *,
    psi: float,
    jensen_shannon: float,
    minimum_rows: int,
) -> Drift:
    """Statistics of a day's values of one feature. Below `minimum_rows` rows they are reported and not judged.

    Numbers are judged by PSI, text by Jensen-Shannon distance: each against the declared limit or the feature's own
    calibrated one, whichever is greater.
    """
    n = len(values)
    expected = np.asarray(against.counts, dtype=np.int64)
    ks = ks_p = distance = None
    if isinstance(against, NumberReference):
        array = np.asarray(values, dtype=np.float64)
        actual = np.bincount(
            _number_bins(array, np.asarray(against.edges)), minlength=len(expected)
        )
        present = np.sort(array[~np.isnan(array)])
        sample = np.sort(
            np.asarray([value for value in against.sample if value is not None], dtype=np.float64)
        )
        if present.size and sample.size:
            ks, ks_p = kolmogorov_smirnov(sample, present)
            distance = (
                wasserstein(sample, present) / against.deviation if against.deviation > 0 else None
            )
        limit, calibrated = psi, against.psi_limit
    else:
        actual = np.bincount(
            _category_bins(list(values), against.values, against.rare), minlength=len(expected)
        )
        limit, calibrated = jensen_shannon, against.js_limit
    found_psi = population_stability_index(expected, actual)
    found_js = jensen_shannon_distance(expected, actual)
    limit = limit if calibrated is None else max(limit, calibrated)
    judged_by: Literal["psi", "js"] = "psi" if isinstance(against, NumberReference) else "js"
    judged = found_psi if judged_by == "psi" else found_js
    return Drift(
        feature=name,
        n=n,
        null_share=float(actual[-1]) / n if n else 0.0,
        reference_null_share=float(expected[-1] / max(expected.sum(), 1)),
        psi=found_psi,
        js=found_js,
        ks=ks,
        ks_p=ks_p,
        wasserstein=distance,
        judged_by=judged_by,
        limit=limit,
        drifted=None if n < minimum_rows else judged > limit,
    )


def drifts(
    frame: pl.DataFrame,
    against: Mapping[str, FeatureReference],
    *,
    psi: float,
    jensen_shannon: float,
    minimum_rows: int,
) -> list[Drift]:
    """`drift` of every referenced feature that the frame has, in the reference's order."""
    return [
        drift(
            name,
            numbers(frame, name) if isinstance(known, NumberReference) else texts(frame, name),
            known,
            psi=psi,
            jensen_shannon=jensen_shannon,
            minimum_rows=minimum_rows,
        )
        for name, known in against.items()
        if name in frame.columns
    ]


def population_stability_index(expected: Counts, actual: Counts) -> float:
    """PSI of two histograms over the same bins; 0 for equal shares, and 0 where one of them is empty."""
    if not expected.sum() or not actual.sum():
        return 0.0
    return float(_psi(_shares(expected), _shares(actual)))


def jensen_shannon_distance(expected: Counts, actual: Counts) -> float:
    """Jensen-Shannon distance (base 2) of two histograms over the same bins, in [0, 1]."""
    if not expected.sum() or not actual.sum():
        return 0.0
    return float(_js(expected / expected.sum(), actual / actual.sum()))


def kolmogorov_smirnov(first: Floats, second: Floats) -> tuple[float, float]:
    """Two-sample statistic and asymptotic p-value of sorted samples (n,), (m,) without NaN. With ties the p-value is conservative."""
    points = np.concatenate([first, second])
    gap = (
        np.searchsorted(first, points, side="right") / first.size
        - np.searchsorted(second, points, side="right") / second.size
    )
    statistic = float(np.abs(gap).max())
    size = math.sqrt(first.size * second.size / (first.size + second.size))
    scaled = (size + 0.12 + 0.11 / size) * statistic
    if scaled < 0.2:  # the series converges slowly there, and the p-value is 1 to eleven digits
        return statistic, 1.0
    terms = np.arange(1, 101)
    p = 2 * float(np.sum((-1.0) ** (terms - 1) * np.exp(-2 * (terms * scaled) ** 2)))
    return statistic, min(max(p, 0.0), 1.0)


def wasserstein(first: Floats, second: Floats) -> float:
    """Wasserstein-1 distance of sorted samples (n,), (m,) without NaN, in the unit of the values."""
    points = np.sort(np.concatenate([first, second]), kind="mergesort")
    gap = (
        np.searchsorted(first, points[:-1], side="right") / first.size
        - np.searchsorted(second, points[:-1], side="right") / second.size
    )
    return float(np.sum(np.abs(gap) * np.diff(points)))


def _short(value: float) -> float:
    """Nine digits identify a float32, and that is what models see; the document stays half as long."""
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
    return np.fromiter(
        (codes.get(value, len(common) + 1) for value in values), dtype=np.int64, count=len(values)
    )


def _shares(counts: NDArray[np.int64]) -> Floats:
    smoothed = counts + _SMOOTHING
    return np.asarray(smoothed / smoothed.sum(axis=-1, keepdims=True), dtype=np.float64)


def _psi(expected: Floats, actual: Floats) -> NDArray[np.float64]:
    return np.asarray(np.sum((actual - expected) * np.log(actual / expected), axis=-1))


def _js(expected: Floats, actual: Floats) -> NDArray[np.float64]:
    middle = (expected + actual) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(expected > 0, expected * np.log2(expected / middle), 0.0)
        right = np.where(actual > 0, actual * np.log2(actual / middle), 0.0)
    return np.asarray(
        np.sqrt(np.clip(np.sum((left + right) / 2, axis=-1), 0.0, 1.0)), dtype=np.float64
    )


def _calibrated(
    bins: Counts, counts: Counts, days: Counts | None, width: int
) -> tuple[float | None, float | None]:
    """The PSI and JS limits that all but `FALSE_ALARMS` of the reference's own days keep, with `HEADROOM`."""
    if days is None:
        return None, None
    daily = np.bincount(days * width + bins, minlength=(int(days.max()) + 1) * width).reshape(
        -1, width
    )
    daily = daily[daily.sum(axis=1) >= CALIBRATION_ROWS]
    if len(daily) < CALIBRATION_DAYS:
        return None, None
    psi = _psi(_shares(counts), _shares(daily))
    js = _js(counts / counts.sum(), daily / daily.sum(axis=1, keepdims=True))
    psi_limit, js_limit = (
        float(np.quantile(each, 1 - FALSE_ALARMS, method="higher")) * HEADROOM for each in (psi, js)
    )
    return psi_limit, js_limit
