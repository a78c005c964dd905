"""What validation reports draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from assets.reporting.plots import ACCENT, INK, PALETTE, figure, label
from assets.tabular.tasks.metrics import (
    HIGHER_IS_BETTER,
    NAMES,
    Array,
    Ranked,
    pr_curve,
    roc_curve,
    wilson,
)
from assets.tabular.validation.bootstrap import Bootstrap, Interval
from assets.tabular.validation.examinations.explainability import Explanation
from assets.tabular.validation.examinations.fairness import RATES, Fairness
from assets.tabular.validation.examinations.robustness import Effect
from assets.tabular.validation.examinations.slices import Slice

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

COLOURS = {"candidate": PALETTE[0], "baseline": PALETTE[1], "champion": PALETTE[2]}
FAILED = "#b91c1c"
TITLES = {
    "log_loss": "Log loss",
    "brier": "Brier score",
    "roc_auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "calibration_error": "Calibration error",
    "selection_rate": "Selection rate",
    "true_positive_rate": "True-positive rate",
    "false_positive_rate": "False-positive rate",
}
_MOST_POINTS = 400  # of a curve: more cannot be seen


def calibration(y: Array, predictions: Mapping[str, Array]) -> Figure:
    """Observed rate against mean prediction, and where predictions lie.

    In bins of equal size, with 95 % Wilson intervals.
    """
    drawn, (axes, histogram) = figure(2, width=4.4)
    upper = 0.05
    for model, p in predictions.items():
        curve = Ranked(y, p).curve()
        low, high = wilson(curve.observed * curve.n, curve.n)
        upper = max(upper, float(high.max(initial=0)), float(curve.predicted.max(initial=0)))
        reach = np.stack(
            [np.clip(curve.observed - low, 0, None), np.clip(high - curve.observed, 0, None)]
        )
        axes.errorbar(
            curve.predicted,
            curve.observed,
            yerr=reach,
            fmt="o-",
            ms=3.5,
            lw=1.3,
            elinewidth=0.9,
            color=_colour(model),
            label=model,
        )
        histogram.hist(
            p,
            bins=np.linspace(0, 1, 41).tolist(),
            histtype="step",
            lw=1.4,
            color=_colour(model),
            label=model,
        )
    axes.plot([0, upper], [0, upper], color=INK, lw=0.8, ls=":", label="ideal")
    axes.set_xlim(0, upper * 1.05)
    axes.set_ylim(0, upper * 1.05)
    label(axes, "Calibration", "mean prediction", "observed rate", legend=True)
    label(histogram, "Predictions", "predicted probability", "rows")
    return drawn


def ranking(y: Array, predictions: Mapping[str, Array]) -> Figure:
    """ROC and precision-recall curves."""
    drawn, (roc, precision) = figure(2, width=4.4)
    for model, p in predictions.items():
        false, true = _thinned(*roc_curve(y, p))
        roc.plot(false, true, lw=1.5, color=_colour(model), label=model)
        recall, exact = _thinned(*pr_curve(y, p))
        precision.plot(recall, exact, lw=1.5, color=_colour(model), label=model)
    roc.plot([0, 1], [0, 1], color=INK, lw=0.8, ls=":")
    precision.axhline(float(y.mean()) if len(y) else 0.0, color=INK, lw=0.8, ls=":")
    precision.set_ylim(0, 1.02)
    label(roc, "ROC", "false-positive rate", "true-positive rate", legend=True)
    label(precision, "Precision and recall (dotted: base rate)", "recall", "precision")
    return drawn


def metric_intervals(compared: Bootstrap) -> Figure:
    """Every metric of every model with its 95 % interval.

    An arrow in the title says which way is better.
    """
    models = list(compared.values)
    drawn, every = figure(len(NAMES), width=1.9, height=0.9 + 0.3 * len(models))
    for axes, metric in zip(every, NAMES, strict=True):
        for row, model in enumerate(reversed(models)):
            _point(
                axes,
                compared.value(model, metric),
                compared.interval(model, metric),
                row,
                _colour(model),
            )
        axes.set_yticks(
            range(len(models)), list(reversed(models)) if axes is every[0] else [""] * len(models)
        )
        axes.set_ylim(-0.6, len(models) - 0.4)
        axes.locator_params(axis="x", nbins=3)
        axes.grid(False, axis="y")
        label(axes, f"{TITLES[metric]} {'→' if metric in HIGHER_IS_BETTER else '←'}")
    return drawn


def forest(
    found: Sequence[Slice],
    column: str,
    overall: float,
    primary: str,
    limit: float | None,
    min_rows: int,
    most: int = 18,
) -> Figure:
    """How much worse than overall the slices of a column are, worst first, with intervals.

    Points are hollow where there are too few rows.
    """
    ranked = sorted(
        (each for each in found if each.column == column and np.isfinite(each.gap)),
        key=lambda each: (each.n < min_rows, -each.gap),
    )
    shown = ranked[:most]
    drawn, (axes,) = figure(width=6.4, height=0.85 + 0.2 * max(len(shown), 2))
    for row, each in enumerate(reversed(shown)):
        judged = each.n >= min_rows
        failed = judged and limit is not None and each.gap_interval.low > limit
        colour = ACCENT if judged else "#9ca3af"
        _point(
            axes,
            each.gap,
            each.gap_interval,
            row,
            FAILED if failed else colour,
            hollow=not judged,
        )
    axes.set_yticks(
        range(len(shown)), [f"{_short(each.value)}  (n={each.n:,})" for each in reversed(shown)]
    )
    axes.axvline(0, color=INK, lw=0.8)
    if limit is not None:
        axes.axvline(limit, color=FAILED, lw=0.8, ls="--")
    axes.grid(False, axis="y")
    axes.set_ylim(-0.7, max(len(shown), 2) - 0.3)
    rest = f", worst {len(shown)} of {len(ranked)}" if len(ranked) > len(shown) else ""
    label(
        axes,
        f"Slices of {_short(column)}{rest}",
        f"{TITLES.get(primary, primary)}: worse than overall ({overall:.4f}) by",
    )
    return drawn


def group_rates(found: Fairness, most: int = 18) -> Figure:
    """Selection, true-positive and false-positive rates by group, with intervals.

    Points are hollow where there are too few rows.
    """
    shown = sorted(found.groups, key=lambda group: -group.n)[:most]
    drawn, every = figure(len(RATES), width=2.9, height=0.85 + 0.22 * max(len(shown), 2))
    for k, axes in enumerate(every):
        for row, group in enumerate(reversed(shown)):
            _point(
                axes,
                group.rates[k],
                group.intervals[k],
                row,
                ACCENT if group.judged else "#9ca3af",
                hollow=not group.judged,
            )
        names = [f"{_short(group.name, 20)}  (n={group.n:,})" for group in reversed(shown)]
        axes.set_yticks(range(len(shown)), names if k == 0 else [""] * len(shown))
        axes.set_ylim(-0.7, max(len(shown), 2) - 0.3)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(False, axis="y")
        label(axes, TITLES[RATES[k]])
    return drawn


def shap_summary(found: Explanation, most: int = 15) -> Figure:
    """Mean |SHAP| with intervals, and each row's contribution coloured by the feature's value.

    The most important feature is on top.
    """
    shown = found.ranking[:most]
    drawn, (bars, swarm) = figure(2, width=4.6, height=1.0 + 0.26 * max(len(shown), 2))
    for row, index in enumerate(reversed(shown)):
        interval = found.intervals[index]
        bars.barh(row, found.importance[index], color=ACCENT, height=0.6, alpha=0.85)
        if np.isfinite(interval).all():
            bars.plot(interval, [row, row], color=INK, lw=1)
        parts = found.contributions[:, index]
        swarm.scatter(
            parts,
            row + _spread(parts),
            c=_ranks(found.values[:, index]),
            cmap=_colour_map(),
            vmin=0,
            vmax=1,
            s=4,
            lw=0,
            rasterized=True,
        )
    bars.set_yticks(range(len(shown)), [_short(found.names[index]) for index in reversed(shown)])
    swarm.set_yticks(range(len(shown)), [""] * len(shown))
    for axes in (bars, swarm):
        axes.set_ylim(-0.7, max(len(shown), 2) - 0.3)
        axes.grid(False, axis="y")
    swarm.axvline(0, color=INK, lw=0.8)
    label(bars, f"Importance ({found.n:,} rows)", f"mean |SHAP|, {found.unit}")
    label(swarm, "Contributions (blue low, red high value)", f"SHAP, {found.unit}")
    return drawn


def dependence(found: Explanation, most: int = 4) -> Figure:
    """Contribution against value for the most important features."""
    shown = found.ranking[:most]
    drawn, every = figure(max(len(shown), 1), width=2.7, height=2.5)
    for axes, index in zip(every, shown, strict=False):
        values, parts = found.values[:, index].astype(np.float64), found.contributions[:, index]
        known = np.isfinite(values)
        axes.scatter(values[known], parts[known], s=5, lw=0, color=ACCENT, alpha=0.5)
        axes.axhline(0, color=INK, lw=0.7)
        axes.locator_params(axis="x", nbins=4)
        missing = f"  ({int((~known).sum())} missing)" if not known.all() else ""
        label(
            axes,
            f"{_short(found.names[index])}{missing}",
            "value",
            f"SHAP, {found.unit}" if index == shown[0] else "",
        )
    return drawn


def effects(
    found: Sequence[Effect],
    title: str,
    x: str,
    limit: float | None,
    shift: bool = False,
    most: int = 16,
) -> Figure:
    """Loss increase (or shift) of perturbations with intervals, greatest first, and the limit."""

    def value(effect: Effect) -> float:
        return effect.shift if shift else effect.loss_increase

    shown = sorted(found, key=lambda effect: -value(effect))[:most]
    drawn, (axes,) = figure(width=6.4, height=0.85 + 0.2 * max(len(shown), 2))
    for row, effect in enumerate(reversed(shown)):
        failed = limit is not None and value(effect) > limit
        _point(
            axes,
            value(effect),
            effect.shift_interval if shift else effect.loss_interval,
            row,
            FAILED if failed else ACCENT,
        )
    axes.set_yticks(range(len(shown)), [_short(effect.group, 44) for effect in reversed(shown)])
    axes.axvline(0, color=INK, lw=0.8)
    if limit is not None:
        axes.axvline(limit, color=FAILED, lw=0.8, ls="--")
    axes.set_ylim(-0.7, max(len(shown), 2) - 0.3)
    axes.grid(False, axis="y")
    rest = f", greatest {len(shown)} of {len(found)}" if len(found) > len(shown) else ""
    label(axes, f"{title}{rest}", x)
    return drawn


def _colour(model: str) -> str:
    return COLOURS.get(model, PALETTE[4])


def _colour_map() -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("low_high", [PALETTE[2], "#c4b5d4", "#dc2626"])


def _point(
    axes: Axes, value: float, interval: Interval, row: int, colour: str, hollow: bool = False
) -> None:
    if np.isfinite(interval).all():
        axes.plot(interval, [row, row], color=colour, lw=1.6, solid_capstyle="round")
    if np.isfinite(value):
        axes.plot([value], [row], "o", ms=5, color=colour, mfc="white" if hollow else colour)


def _spread(parts: Array) -> Array:
    """Vertical offsets that keep points of equal contribution apart.

    By turns above and below, more where points crowd.
    """
    if not len(parts):
        return parts
    low, high = float(parts.min()), float(parts.max())
    bins = np.clip(((parts - low) / max(high - low, 1e-12) * 60).astype(int), 0, 59)
    order = np.argsort(bins, kind="stable")
    place = np.empty(len(parts))
    counts = np.bincount(bins, minlength=60)
    place[order] = np.concatenate([np.arange(count) for count in counts])
    side = np.where(place % 2 == 0, 1, -1) * ((place + 1) // 2)
    offset: Array = side / max(float(counts.max()), 1.0) * 0.72
    return offset


def _ranks(values: NDArray[np.float32]) -> Array:
    """Ranks of values between 0 and 1 (robust against outliers); missing values in the middle."""
    known = np.isfinite(values)
    ranks = np.full(len(values), 0.5)
    distinct, places = np.unique(values[known], return_inverse=True)
    if len(distinct) > 1:
        counts = np.cumsum(np.bincount(places))
        ranks[known] = counts[places] / counts[-1]
    return ranks


def _thinned(x: Array, y: Array) -> tuple[Array, Array]:
    if len(x) <= _MOST_POINTS:
        return x, y
    chosen = np.unique(np.linspace(0, len(x) - 1, _MOST_POINTS).astype(int))
    return x[chosen], y[chosen]


def _short(text: str, most: int = 28) -> str:
    # A dollar sign would start mathematical notation.
    text = text.replace("$", r"\$")
    return text if len(text) <= most else text[: most - 1] + "…"
