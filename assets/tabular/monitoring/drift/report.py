"""The daily drift reports: features of the day's predictions, and the predictions themselves.

Both are compared with the training reference that travels with the champion.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from assets.reporting.report import Measure, Verdict
from assets.tabular.monitoring.drift.comparison import Drift, drift, drifts
from assets.tabular.monitoring.drift.reference import (
    FALSE_ALARMS,
    NumberReference,
    Reference,
    numbers,
)
from declare.monitors import Monitors

if TYPE_CHECKING:
    import polars as pl

OUTPUT = "output"
KS_LEVEL = 0.05

Result = tuple[tuple[Measure, ...], tuple[Verdict, ...], tuple[str, ...]]


def compared(frame: pl.DataFrame, against: Reference, limits: Monitors) -> list[Drift]:
    """Every referenced feature of the day's predictions against the reference."""
    return drifts(
        frame,
        against.features,
        psi=limits.psi,
        jensen_shannon=limits.jensen_shannon,
        minimum_rows=limits.minimum_rows,
    )


def data_drift(frame: pl.DataFrame, against: Reference, limits: Monitors) -> Result:
    """Measures, verdicts and notes over the day's predictions (n rows with the model's features).

    Rules: `drift_share`, the share of features that drifted, and `missing_values`, the greatest
    rise of a feature's share of missing values, which speaks of a fault of the data.
    """
    features, n = compared(frame, against, limits), frame.height
    drifted = [each for each in features if each.drifted]
    share = len(drifted) / len(features) if features else None

    measures = list(chain.from_iterable(feature_measures(each) for each in features))
    measures.append(Measure(name="drift_share", value=share, n=n))
    verdicts = (_share(drifted, features, share, n, limits), _missing(features, n, limits))

    notes = [multiple_testing(features)]
    absent = [name for name in against.features if name not in frame.columns]
    if absent:
        notes.append(f"Not checked: the predictions carry no column {', '.join(absent)}.")
    return tuple(measures), verdicts, tuple(notes)


def prediction_drift(
    outputs: pl.DataFrame, against: NumberReference | None, limits: Monitors
) -> Result:
    """The same for the column `output`.

    Its reference is what the champion answered on the newest rows of its training set. Rule:
    `prediction_drift`.
    """
    n = outputs.height
    values = numbers(outputs, OUTPUT)
    mean = Measure(name="mean_output", value=float(values.mean()) if n else None, n=n)
    if against is None:
        verdict = Verdict(
            rule="prediction_drift",
            passed=None,
            value=None,
            limit=limits.prediction_psi,
            n=n,
            reason="the champion carries no reference of its outputs; it was bundled without one",
        )
        return (mean,), (verdict,), ()

    output = drift(
        OUTPUT,
        values,
        against,
        psi=limits.prediction_psi,
        jensen_shannon=1.0,
        minimum_rows=limits.minimum_rows,
    )
    reason = few(n, limits)
    if output.drifted is not None:
        word = "exceeds" if output.drifted else "keeps"
        reason = f"PSI {output.psi:.3f} of {n} outputs {word} the limit {output.limit:.3f}"

    verdict = Verdict(
        rule="prediction_drift",
        passed=None if output.drifted is None else not output.drifted,
        value=output.psi,
        limit=output.limit,
        n=n,
        reason=reason,
    )
    return (mean, *feature_measures(output)), (verdict,), ()


def feature_measures(feature: Drift) -> list[Measure]:
    """All statistics of a feature (`group`).

    `limit` is that of PSI for numbers and of the Jensen-Shannon distance for text.
    """
    values: dict[str, float | None] = {
        "psi": feature.psi,
        "jensen_shannon": feature.js,
        "kolmogorov_smirnov": feature.ks,
        "kolmogorov_smirnov_p": feature.ks_p,
        "wasserstein": feature.wasserstein,
        "null_share": feature.null_share,
        "null_share_reference": feature.reference_null_share,
        "limit": feature.limit,
        "drifted": None if feature.drifted is None else float(feature.drifted),
    }
    return [
        Measure(name=name, value=value, n=feature.n, group=feature.feature)
        for name, value in values.items()
    ]


def multiple_testing(features: Sequence[Drift]) -> str:
    """How many features chance alone would call drifted, and how many KS tests stand corrected."""
    p_values = [each.ks_p for each in features if each.ks_p is not None]
    significant = sum(p < KS_LEVEL / len(p_values) for p in p_values)
    return (
        f"{len(features)} features are judged at once; with limits that {FALSE_ALARMS:.0%} of the "
        f"reference's own days exceed, chance alone calls {len(features) * FALSE_ALARMS:.1f} of "
        f"them drifted on a day. Kolmogorov-Smirnov p-values are not judged: {significant} of "
        f"{len(p_values)} lie below {KS_LEVEL:g}/{len(p_values)} (Bonferroni), as they will for "
        "any real difference once rows are many."
    )


def few(n: int, limits: Monitors) -> str:
    """Why so few rows are not judged."""
    return f"{n} rows are too few to judge; the monitor asks for {limits.minimum_rows}"


def _share(
    drifted: Sequence[Drift],
    features: Sequence[Drift],
    share: float | None,
    n: int,
    limits: Monitors,
) -> Verdict:
    if share is None or all(each.drifted is None for each in features):
        return Verdict(
            rule="drift_share",
            passed=None,
            value=share,
            limit=limits.drift_share,
            n=n,
            reason=few(n, limits),
        )

    worst = sorted(drifted, key=lambda each: each.limit - each.judged)
    named = [
        f"{each.feature} ({each.judged_by} {each.judged:.2f} > {each.limit:.2f})"
        for each in worst[:5]
    ]
    reason = f"{len(drifted)} of {len(features)} features drifted (n={n})"
    if worst:
        reason += f": {', '.join(named)}{', …' if len(worst) > 5 else ''}"
    return Verdict(
        rule="drift_share",
        passed=share < limits.drift_share,
        value=share,
        limit=limits.drift_share,
        n=n,
        reason=reason,
    )


def _missing(features: Sequence[Drift], n: int, limits: Monitors) -> Verdict:
    rises = {each.feature: each.null_share - each.reference_null_share for each in features}
    if not rises or n < limits.minimum_rows:
        return Verdict(
            rule="missing_values",
            passed=None,
            value=None,
            limit=limits.null_jump,
            n=n,
            reason=few(n, limits),
        )

    worst = max(rises, key=lambda name: rises[name])
    reason = f"the share of missing values rose most in {worst}, by {rises[worst]:.1%}"
    broken = sorted(name for name, rise in rises.items() if rise > limits.null_jump)
    if broken:
        reason = f"values are missing in {', '.join(broken)}: {reason}"
    return Verdict(
        rule="missing_values",
        passed=not broken,
        value=rises[worst],
        limit=limits.null_jump,
        n=n,
        reason=reason,
    )
