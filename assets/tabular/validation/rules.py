"""The rules of the gates: each a pure function of a report's measures and a declared limit.

A rule over an estimate judges an end of its interval, never the point: the end that speaks against
the candidate, so that a release needs proof. Slices alone are judged by the other end, because of
many slices some look bad by chance. A number or interval that is missing is unknown (`passed` is
None), and unknown never passes a gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from assets.reporting.report import Measure, Verdict
from assets.tabular.validation.terms import ADDITIVITY_TOLERANCE, ALL_NUMBERS, NO_CHAMPION

End = Literal["low", "high"]


def beats_baseline(measures: Sequence[Measure], primary: str, margin: float) -> Verdict:
    """The candidate is better than the baseline by `margin`; a negative margin lets it be worse."""
    rule, limit = "beats_baseline", 0.0 - margin
    measure = _find(measures, f"{primary}_worse_by", "baseline")
    if measure is None or measure.value is None or measure.high is None:
        return unknown(rule, limit, measure, f"the difference in {primary} to the baseline")

    allowed = "the upper end must lie below 0"
    if margin < 0:
        allowed = f"up to {limit:.4f} worse is allowed, so the upper end must not exceed it"
    if margin > 0:
        allowed = (
            f"at least {margin:.4f} better is asked for, "
            f"so the upper end must not exceed {limit:+.4f}"
        )
    return Verdict(
        rule=rule,
        passed=measure.high <= limit if margin else measure.high < 0,
        value=measure.high,
        limit=limit,
        n=measure.n,
        reason=(
            f"{primary} is {_better(measure.value)} than the baseline's; "
            f"{interval_text(measure)}; {allowed}"
        ),
    )


def not_worse_than_champion(measures: Sequence[Measure], primary: str, margin: float) -> Verdict:
    """The candidate is worse than the champion by no more than `margin`."""
    rule = "not_worse_than_champion"
    champion = next((measure for measure in measures if measure.name == "champion"), None)
    if champion is not None and champion.group == NO_CHAMPION:
        return Verdict(
            rule=rule,
            passed=True,
            value=None,
            limit=margin,
            n=champion.n,
            reason="no champion yet: there is nothing that the candidate could be worse than",
        )

    measure = _find(measures, f"{primary}_worse_by", "champion")
    if measure is None or measure.value is None or measure.high is None:
        what = f"the difference in {primary} to the champion"
        return unknown(rule, margin, measure or champion, what)
    return Verdict(
        rule=rule,
        passed=measure.high <= margin,
        value=measure.high,
        limit=margin,
        n=measure.n,
        reason=(
            f"{primary} is {_better(measure.value)} than the champion's; "
            f"{interval_text(measure)}; the upper end must not exceed {margin:+.4f}"
        ),
    )


def calibration_error_is_low(measures: Sequence[Measure], limit: float) -> Verdict:
    """The upper end of the calibration error keeps the limit."""
    measure = _find(measures, "calibration_error", "candidate")
    return _at_most("calibration_error_is_low", measure, limit, "calibration error")


def roc_auc_is_high(measures: Sequence[Measure], limit: float) -> Verdict:
    """The lower end of ROC AUC reaches the limit."""
    rule, measure = "roc_auc_is_high", _find(measures, "roc_auc", "candidate")
    if measure is None or measure.value is None or measure.low is None:
        return unknown(rule, limit, measure, "ROC AUC")
    return Verdict(
        rule=rule,
        passed=measure.low >= limit,
        value=measure.low,
        limit=limit,
        n=measure.n,
        reason=(
            f"ROC AUC {measure.value:.4f}, {interval_text(measure)}; "
            f"the lower end must reach {limit:g}"
        ),
    )


def no_slice_much_worse(
    measures: Sequence[Measure], limit: float, min_rows: int, declared: Sequence[str]
) -> Verdict:
    """No slice is surely worse than overall by more than the limit: the lower end keeps it."""
    rule = "no_slice_much_worse"
    gaps = [measure for measure in measures if measure.name == "gap"]
    # A column that left no slice at all was not looked at, and that must not pass unnoticed.
    absent = [
        column
        for column in declared
        if not any((measure.group or "").startswith(f"{column}=") for measure in gaps)
    ]
    if absent:
        return unknown(rule, limit, None, f"slices of {', '.join(absent)}")

    large = [measure for measure in gaps if measure.n >= min_rows]
    if not large:
        return unknown(rule, limit, None, f"any of {len(gaps)} slices of {min_rows} rows or more")
    judged = [(measure.low, measure) for measure in large if measure.low is not None]
    if len(judged) < len(large):
        lost = next(measure for measure in large if measure.low is None)
        return unknown(rule, limit, lost, f"the interval of slice {lost.group}")

    low, worst = max(judged, key=lambda pair: pair[0])
    reason = (
        f"worst of {len(judged)} slices is {worst.group} (n={worst.n}): "
        f"worse than overall by {worst.value or 0.0:+.4f}, {interval_text(worst)}; "
        f"the lower end must not exceed {limit:g}"
    )
    small = len(gaps) - len(large)
    if small:
        reason += f"; {small} slices below {min_rows} rows were not judged"
    return Verdict(rule=rule, passed=low <= limit, value=low, limit=limit, n=worst.n, reason=reason)


def groups_treated_alike(
    measures: Sequence[Measure],
    limit: float,
    declared: Mapping[str, Sequence[str]],
    end: End = "high",
) -> Verdict:
    """No gap between declared groups exceeds the limit, by the `end` of its interval.

    `declared` names the judged gaps of each column. A release needs proof that the upper end keeps
    the limit; a monitor alarms where even the lower end exceeds it.
    """
    rule = "groups_treated_alike"
    judged: list[tuple[float, Measure]] = []
    for column, gaps in declared.items():
        for gap in gaps:
            measure = _find(measures, gap, column)
            bound = None if measure is None else getattr(measure, end)
            if measure is None or measure.value is None or bound is None:
                what = f"{gap} of {column} (it needs two groups with enough rows, and enough days)"
                return unknown(rule, limit, measure, what)
            judged.append((bound, measure))

    bound, worst = max(judged, key=lambda pair: pair[0])
    word = "upper" if end == "high" else "lower"
    return Verdict(
        rule=rule,
        passed=bound <= limit,
        value=bound,
        limit=limit,
        n=worst.n,
        reason=(
            f"greatest gap is {worst.name} of {worst.group}: {worst.value:.4f}, "
            f"{interval_text(worst)}; the {word} end must not exceed {limit:g}"
        ),
    )


def contributions_add_up(measures: Sequence[Measure]) -> Verdict:
    """Contributions and bias add up to the margin; rounding alone is allowed."""
    rule, measure = "contributions_add_up", _find(measures, "additivity_error")
    if measure is None or measure.value is None:
        return unknown(rule, ADDITIVITY_TOLERANCE, measure, "the sum of contributions")
    return Verdict(
        rule=rule,
        passed=measure.value <= ADDITIVITY_TOLERANCE,
        value=measure.value,
        limit=ADDITIVITY_TOLERANCE,
        n=measure.n,
        reason=(
            f"contributions and bias differ from the margin by at most {measure.value:.2g} "
            f"on {measure.n} rows; up to {ADDITIVITY_TOLERANCE:g} is rounding"
        ),
    )


def predictions_stay_probabilities(measures: Sequence[Measure]) -> Verdict:
    """Whatever the input, every prediction is a probability."""
    rule, measure = "predictions_stay_probabilities", _find(measures, "invalid_predictions")
    if measure is None or measure.value is None or not measure.n:
        return unknown(rule, 0.0, measure, "predictions under perturbation")
    return Verdict(
        rule=rule,
        passed=measure.value == 0,
        value=measure.value,
        limit=0.0,
        n=measure.n,
        reason=(
            f"{measure.value:.0f} of {measure.n} predictions from missing, noisy, unseen and "
            "extreme inputs were no probabilities"
        ),
    )


def loss_is_survived(
    measures: Sequence[Measure], rule: str, perturbation: str, limit: float
) -> Verdict:
    """No perturbation of a kind costs more than the limit: the upper end of each keeps it."""
    cases = [
        measure
        for measure in measures
        if measure.name == "loss_increase" and (measure.group or "").split(": ")[0] == perturbation
    ]
    judged = [(case.high, case) for case in cases if case.high is not None]
    if not judged or len(judged) < len(cases):
        first = cases[0] if cases else None
        return unknown(rule, limit, first, f"the loss under {perturbation}")

    high, worst = max(judged, key=lambda pair: pair[0])
    return Verdict(
        rule=rule,
        passed=high <= limit,
        value=high,
        limit=limit,
        n=worst.n,
        reason=(
            f"worst of {len(judged)} cases is {worst.group}: the loss rises by "
            f"{worst.value or 0.0:.4f}, {interval_text(worst)}; "
            f"the upper end must not exceed {limit:g}"
        ),
    )


def noise_moves_little(measures: Sequence[Measure], limit: float) -> Verdict:
    """Noise on all numeric features moves predictions by no more than the limit on average."""
    measure = _find(measures, "shift", f"noise: {ALL_NUMBERS}")
    what = "mean change of predictions under noise on all numeric features"
    return _at_most("noise_moves_little", measure, limit, what)


def unknown(rule: str, limit: float, measure: Measure | None, what: str) -> Verdict:
    """What a release needs to know and nobody could compute: silence is no proof."""
    n = measure.n if measure else 0
    return Verdict(
        rule=rule,
        passed=None,
        value=None,
        limit=limit,
        n=n,
        reason=f"{what} could not be computed on {n} rows; a release needs it",
    )


def interval_text(measure: Measure, digits: int = 4) -> str:
    """The interval of a measure in words."""
    if measure.low is None or measure.high is None:
        return "no interval"
    return f"95 % interval {measure.low:+.{digits}f} to {measure.high:+.{digits}f}"


def _at_most(rule: str, measure: Measure | None, limit: float, what: str) -> Verdict:
    """The upper end of an estimate keeps the limit."""
    if measure is None or measure.value is None or measure.high is None:
        return unknown(rule, limit, measure, f"the {what}")
    return Verdict(
        rule=rule,
        passed=measure.high <= limit,
        value=measure.high,
        limit=limit,
        n=measure.n,
        reason=(
            f"{what} {measure.value:.4f}, {interval_text(measure)}; "
            f"the upper end must not exceed {limit:g}"
        ),
    )


def _find(measures: Sequence[Measure], name: str, group: str | None = None) -> Measure | None:
    return next(
        (measure for measure in measures if measure.name == name and measure.group == group), None
    )


def _better(worse_by: float) -> str:
    return f"{abs(worse_by):.4f} {'worse' if worse_by > 0 else 'better'}"
