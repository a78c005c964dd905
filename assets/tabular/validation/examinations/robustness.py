"""What happens to predictions when inputs are missing, noisy, unknown or absurd.

Each perturbation works on the same sample of rows of the model's matrix: float32 (n, k), NaN for
missing, integer codes with 0 for "never seen" in categorical columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from assets.reporting.report import Measure
from assets.tabular.tasks.metrics import ROW_WISE, Array, row_metric
from assets.tabular.validation import bootstrap
from assets.tabular.validation.bootstrap import Codes, Interval
from assets.tabular.validation.examinations.slices import measure
from assets.tabular.validation.terms import ALL_NUMBERS

Matrix = NDArray[np.float32]
Predict = Callable[[Matrix], Array]

ROWS = 3_000
NOISE_SD = 0.1  # standard deviation of the noise, in standard deviations of the feature
EXTREME = np.float32(1e30)


class Effect(NamedTuple):
    """One perturbation and what it does.

    How much the loss rises (positive is worse), how far predictions move (mean |change|), and how
    many predictions were no probability at all.
    """

    kind: str
    name: str
    n: int
    loss_increase: float
    loss_interval: Interval
    shift: float
    shift_interval: Interval
    invalid: int

    @property
    def group(self) -> str:
        return f"{self.kind}: {self.name}"


class Robustness(NamedTuple):
    """All effects on a sample of `n` of `of` rows, measured by the row-wise metric `loss`."""

    n: int
    of: int
    loss: str
    baseline_loss: float
    effects: tuple[Effect, ...]


def robustness(
    predict: Predict,
    matrix: Matrix,
    y: Array,
    days: Codes,
    names: Sequence[str],
    categorical: Sequence[bool],
    sources: Mapping[str, Sequence[str]],
    primary: str = "log_loss",
    rows: int = ROWS,
    noise_sd: float = NOISE_SD,
    seed: int = bootstrap.SEED,
) -> Robustness:
    """Perturb a seeded sample of at most `rows` rows in every way and measure what it does.

    `sources` names the features that vanish together when a source stops delivering. Losses are log
    loss unless the primary metric is another mean over rows.
    """
    if matrix.shape != (len(y), len(names)) or len(categorical) != len(names):
        raise ValueError(
            f"matrix has shape {matrix.shape} for {len(y)} labels, {len(names)} names and "
            f"{len(categorical)} kinds; they must fit"
        )
    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.permutation(len(y))[:rows])
    sample, labels = np.ascontiguousarray(matrix[chosen]), y[chosen]
    loss = primary if primary in ROW_WISE else "log_loss"
    original = predict(sample)
    before = row_metric(loss, labels, original)

    kinds: list[tuple[str, str]] = []
    columns: list[Array] = []
    invalid: list[int] = []
    for kind, name, changed in _perturbations(
        sample, names, categorical, sources, noise_sd, generator
    ):
        after = predict(changed)
        valid = np.isfinite(after) & (after >= 0) & (after <= 1)
        kept = np.where(valid, after, original)
        kinds.append((kind, name))
        invalid.append(int((~valid).sum()))
        columns += [row_metric(loss, labels, kept) - before, np.abs(kept - original)]

    table = np.stack(columns, axis=1) if columns else np.zeros((len(labels), 0))
    effects = _effects(kinds, table, invalid, bootstrap.number_days(days[chosen]), seed)
    overall = float(before.mean()) if len(labels) else np.nan
    return Robustness(len(labels), len(y), loss, overall, effects)


def _effects(
    kinds: Sequence[tuple[str, str]],
    table: Array,
    invalid: Sequence[int],
    days: Codes,
    seed: int,
) -> tuple[Effect, ...]:
    """One effect for each two columns of `table`: its rows' loss increases and shifts."""
    intervals = bootstrap.means(table, days, resamples=400, seed=seed)
    middle = table.mean(axis=0) if len(table) else np.full(table.shape[1], np.nan)
    return tuple(
        Effect(
            kind=kind,
            name=name,
            n=len(table),
            loss_increase=float(middle[2 * i]),
            loss_interval=intervals[2 * i],
            shift=float(middle[2 * i + 1]),
            shift_interval=intervals[2 * i + 1],
            invalid=invalid[i],
        )
        for i, (kind, name) in enumerate(kinds)
    )


def measures(found: Robustness) -> list[Measure]:
    """Loss increase and shift by perturbation, and the count of invalid predictions.

    `group` is "kind: name".
    """
    result = [measure(found.loss, found.baseline_loss, found.n)]
    for effect in found.effects:
        result.append(
            measure(
                "loss_increase", effect.loss_increase, effect.n, effect.loss_interval, effect.group
            )
        )
        result.append(measure("shift", effect.shift, effect.n, effect.shift_interval, effect.group))
    result.append(
        measure(
            "invalid_predictions",
            float(sum(effect.invalid for effect in found.effects)),
            found.n * len(found.effects),
        )
    )
    return result


def _perturbations(
    sample: Matrix,
    names: Sequence[str],
    categorical: Sequence[bool],
    sources: Mapping[str, Sequence[str]],
    noise_sd: float,
    generator: np.random.Generator,
) -> Iterator[tuple[str, str, Matrix]]:
    numeric = [index for index, is_category in enumerate(categorical) if not is_category]
    for index, name in enumerate(names):
        yield "missing", name, _replaced(sample, [index], np.float32(np.nan))
    for source, features in sources.items():
        yield (
            "missing source",
            source,
            _replaced(
                sample,
                [names.index(name) for name in features if name in names],
                np.float32(np.nan),
            ),
        )
    with np.errstate(invalid="ignore"):
        spread = np.array([_deviation(sample[:, index]) for index in numeric], dtype=np.float64)
    noise = generator.normal(size=(len(sample), len(numeric))) * spread * noise_sd
    noisy = sample.copy()
    noisy[:, numeric] += noise.astype(np.float32)
    yield "noise", ALL_NUMBERS, noisy
    for position, index in enumerate(numeric):
        one = sample.copy()
        one[:, index] += noise[:, position].astype(np.float32)
        yield "noise", names[index], one
    for index, name in enumerate(names):
        if categorical[index]:
            yield "unseen category", name, _replaced(sample, [index], np.float32(0))
    # Half of the rows absurdly high, half absurdly low: one prediction run instead of two for each
    # feature.
    signs = np.where(np.arange(len(sample)) % 2 == 0, EXTREME, -EXTREME)
    for index in numeric:
        yield "extreme", names[index], _replaced(sample, [index], signs[:, None])


def _replaced(sample: Matrix, columns: Sequence[int], value: np.float32 | Matrix) -> Matrix:
    changed = sample.copy()
    changed[:, list(columns)] = value
    return changed


def _deviation(column: Matrix) -> float:
    known = column[np.isfinite(column)].astype(np.float64)
    return float(known.std()) if len(known) > 1 else 0.0
