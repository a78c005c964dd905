"""The daily drift reports: features of the day's predictions, and the predictions themselves, against the training reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from assets.reporting.report import Measure, Verdict
from assets.tabular.monitoring.drift import (
    FALSE_ALARMS,
    Drift,
    NumberReference,
    Reference,
    drift,
    drifts,
    numbers,
)
from declare.monitoring import Monitors

if TYPE_CHECKING:
    import polars as pl

OUTPUT = "output"
KS_LEVEL = 0.05


def data_drift(
    frame: pl.DataFrame, against: Reference, limits: Monitors
) -> tuple[tuple[Measure, ...], tuple[Verdict, ...], tuple[str, ...]]:
    """Measures, verdicts and notes over the day's predictions (n rows with the feature columns that the model used).

    Rules: `drift_share`, the share of features that drifted, and `missing_values`, the greatest rise of a feature's share of
    missing values, which speaks of a fault of the data.
    """
    found = drifts(
        frame,
        against.features,
        psi=limits.psi,
        jensen_shannon=limits.jensen_shannon,
        minimum_rows=limits.minimum_rows,
    )
    drifted = [each for each in found if each.drifted]
    n = frame.height
    share = len(drifted) / len(found) if found else None
    measures = [measure for each in found for measure in feature_measures(each)]
    measures.append(Measure(name="drift_share", value=share, n=n))
    absent = [name for name in against.features if name not in frame.columns]
    notes = [multiple_testing(found)]
    if absent:
        notes.append(
            f"Not checked, since the predictions carry no such column: {', '.join(absent)}."
        )
    return (
        tuple(measures),
        (_share(drifted, found, share, n, limits), _missing(found, n, limits)),
        tuple(notes),
    )


def prediction_drift(
    outputs: pl.DataFrame, against: NumberReference | None, limits: Monitors
) -> tuple[tuple[Measure, ...], tuple[Verdict, ...], tuple[str, ...]]:
    """The same for the column `output`, against the champion's answers on the newest rows of its training set. Rule: `prediction_drift`."""
    n = outputs.height
    values = numbers(outputs, OUTPUT)
    mean = Measure(name="mean_output", value=float(values.mean()) if n else None, n=n)
    if against is None:
        reason = "the champion carries no reference of its outputs; it was bundled without one"
        return (
            (mean,),
            (
                Verdict(
                    rule="prediction_drift",
                    passed=None,
                    value=None,
                    limit=limits.prediction_psi,
                    n=n,
                    reason=reason,
                ),
            ),
            (),
        )
    found = drift(
        OUTPUT,
        values,
        against,
        psi=limits.prediction_psi,
        jensen_shannon=1.0,
        minimum_rows=limits.minimum_rows,
    )
    if found.drifted is None:
        reason = few(n, limits)
    else:
        reason = f"PSI {found.psi:.3f} of {n} outputs {'exceeds' if found.drifted else 'keeps'} the limit {found.limit:.3f}"
    passed = None if found.drifted is None else not found.drifted
    verdict = Verdict(
        rule="prediction_drift",
        passed=passed,
        value=found.psi,
        limit=found.limit,
        n=n,
        reason=reason,
    )
    return (mean, *feature_measures(found)), (verdict,), ()


def feature_measures(found: Drift) -> list[Measure]:
    """All statistics of a feature (`group`); `limit` is that of PSI for numbers and of the Jensen-Shannon distance for text."""
    values: dict[str, float | None] = {
        "psi": found.psi,
        "jensen_shannon": found.js,
        "kolmogorov_smirnov": found.ks,
        "kolmogorov_smirnov_p": found.ks_p,
        "wasserstein": found.wasserstein,
        "null_share": found.null_share,
        "null_share_reference": found.reference_null_share,
        "limit": found.limit,
        "drifted": None if found.drifted is None else float(found.drifted),
    }
    return [
        Measure(name=name, value=value, n=found.n, group=found.feature)
        for name, value in values.items()
    ]


def multiple_testing(found: Sequence[Drift]) -> str:
    """How many of so many features chance alone would call drifted, and how many Kolmogorov-Smirnov tests stand after Bonferroni."""
    tested = [each for each in found if each.ks_p is not None]
    significant = sum(
        each.ks_p is not None and each.ks_p < KS_LEVEL / len(tested) for each in tested
    )
    return (
        f"{len(found)} features are judged at once; with limits that {FALSE_ALARMS:.0%} of the reference's own days exceed, chance alone calls "
        f"{len(found) * FALSE_ALARMS:.1f} of them drifted on a day. Kolmogorov-Smirnov p-values are not judged: {significant} of "
        f"{len(tested)} lie below {KS_LEVEL:g}/{len(tested)} (Bonferroni), as they will for any real difference once rows are many."
    )


def few(n: int, limits: Monitors) -> str:
    return f"{n} rows are too few to judge; the monitor asks for {limits.minimum_rows}"


def _share(
    drifted: Sequence[Drift], found: Sequence[Drift], share: float | None, n: int, limits: Monitors
) -> Verdict:
    judged = [each for each in found if each.drifted is not None]
    if not judged or share is None:
        return Verdict(
            rule="drift_share",
            passed=None,
            value=share,
            limit=limits.drift_share,
            n=n,
            reason=few(n, limits),
        )
    worst = sorted(drifted, key=lambda each: each.limit - each.judged)
    named = ", ".join(
        f"{each.feature} ({each.judged_by} {each.judged:.2f} > {each.limit:.2f})"
        for each in worst[:5]
    )
    reason = f"{len(drifted)} of {len(found)} features drifted (n={n})" + (
        f": {named}{', …' if len(worst) > 5 else ''}" if worst else ""
    )
    return Verdict(
        rule="drift_share",
        passed=share < limits.drift_share,
        value=share,
        limit=limits.drift_share,
        n=n,
        reason=reason,
    )


def _missing(found: Sequence[Drift], n: int, limits: Monitors) -> Verdict:
    rises = {each.feature: each.null_share - each.reference_null_share for each in found}
    worst = max(rises, key=lambda name: rises[name], default=None)
    if worst is None or n < limits.minimum_rows:
        return Verdict(
            rule="missing_values",
            passed=None,
            value=None,
            limit=limits.null_jump,
            n=n,
            reason=few(n, limits),
        )
    broken = sorted(name for name, rise in rises.items() if rise > limits.null_jump)
    reason = f"the share of missing values rose most in {worst}, by {rises[worst]:.1%}"
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
