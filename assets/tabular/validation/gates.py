"""Gates: the rules over validation reports that a release must pass.

A verdict is a pure function of a report's measures and the declared limits. The validation assets use it for their warn
checks; the release stage applies it again to the stored reports and refuses on anything missing, altered or failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date

from assets.reporting.report import Measure, Report, Verdict, load_report
from assets.tabular.validation.terms import ADDITIVITY_TOLERANCE, ALL_NUMBERS, NO_CHAMPION
from bundle.features.expression import Category, Join, Rolling, walk
from declare.tabular import Tabular
from resources.reports import Reports

PERFORMANCE = "validation/performance"
SLICES = "validation/slices"
FAIRNESS = "validation/fairness"
EXPLAINABILITY = "validation/explainability"
ROBUSTNESS = "validation/robustness"
REPORTS = (PERFORMANCE, SLICES, FAIRNESS, EXPLAINABILITY, ROBUSTNESS)

Rule = Callable[[Sequence[Measure]], Verdict]


def required_gates(pipeline: Tabular) -> dict[str, tuple[str, ...]]:
    """The rules that each validation report of a pipeline must hold a verdict on. Report names in lifecycle order; a report
    without rules is required all the same."""
    return {report: tuple(_rules(pipeline, report)) for report in REPORTS}


def verdicts(pipeline: Tabular, report: str, measures: Sequence[Measure]) -> tuple[Verdict, ...]:
    """One verdict for each rule of a report, in order. Raises ValueError for an unknown report."""
    return tuple(rule(measures) for rule in _rules(pipeline, report).values())


def stored(
    reports: Reports, pipeline: Tabular, day: date, candidate: str
) -> dict[str, Report | None]:
    """The stored validation reports of a candidate by name; `day` is the `as_of` of its training set. Raises ValueError for a
    report that does not parse."""
    return {name: load_report(reports, pipeline.name, name, day, candidate) for name in REPORTS}


def refusals(
    pipeline: Tabular, reports: Mapping[str, Report | None], candidate: str, champion: str | None
) -> list[str]:
    """Why a release of `candidate` must be refused, in sentences; empty when every gate passes.

    `reports` holds the stored reports by name, `champion` is the digest released now. Fails closed: a missing report, one
    about another candidate or another champion, a missing rule, and a stored verdict that its own numbers do not bear out all refuse.
    """
    found: list[str] = []
    for name, rules in required_gates(pipeline).items():
        report = reports.get(name)
        if report is None:
            found.append(f"report {name} is missing; materialize it for candidate {candidate[:12]}")
            continue
        if (report.pipeline, report.name, report.subject) != (pipeline.name, name, candidate):
            found.append(
                f"report {name} speaks of {report.pipeline}/{report.name} {report.subject[:12]}, not of candidate {candidate[:12]}; validate again"
            )
            continue
        if name == PERFORMANCE and (compared := compared_champion(report)) != (
            champion or NO_CHAMPION
        ):
            found.append(
                f"{name} compares with champion {_short(compared)}, but {_short(champion or NO_CHAMPION)} is released now; validate again"
            )
        stored = {verdict.rule: verdict for verdict in report.verdicts}
        again = {verdict.rule: verdict for verdict in verdicts(pipeline, name, report.measures)}
        for rule in rules:
            if rule not in stored:
                found.append(f"{name} holds no verdict on {rule}; validate again")
            elif stored[rule] != again[rule]:
                found.append(
                    f"{name}: the stored verdict on {rule} is not what its numbers and today's limits give ({again[rule].reason}); validate again"
                )
            elif stored[rule].passed is False:
                found.append(f"{name}: {rule} failed: {stored[rule].reason}")
    return found


def compared_champion(report: Report) -> str | None:
    """Digest of the bundle that a performance report compared with, "none" where nothing was released, None for a report that does not say."""
    return next((measure.group for measure in report.measures if measure.name == "champion"), None)


def _rules(pipeline: Tabular, report: str) -> dict[str, Rule]:
    gates = pipeline.gates
    if report == PERFORMANCE:
        rules: dict[str, Rule] = {
            "beats_baseline": lambda measures: _beats_baseline(
                measures, gates.primary, gates.baseline_margin
            ),
            "not_worse_than_champion": lambda measures: _not_worse_than_champion(
                measures, gates.primary, gates.champion_margin
            ),
        }
        if (error := gates.max_calibration_error) is not None:
            rules["calibration_error_is_low"] = lambda measures: _calibration(measures, error)
        if (auc := gates.min_roc_auc) is not None:
            rules["roc_auc_is_high"] = lambda measures: _roc_auc(measures, auc)
        return rules
    if report == SLICES:
        if (gap := gates.max_slice_gap) is None:
            return {}
        return {
            "no_slice_much_worse": lambda measures: _slices(
                measures, gap, gates.min_slice_rows, pipeline.slices
            )
        }
    if report == FAIRNESS:
        if (limit := gates.max_fairness_gap) is None:
            return {}
        judged = {group.column: group.judged for group in pipeline.fairness}
        return {"groups_treated_alike": lambda measures: _fairness(measures, limit, judged)}
    if report == EXPLAINABILITY:
        return {"contributions_add_up": _contributions}
    if report == ROBUSTNESS:
        rules = {"predictions_stay_probabilities": _probabilities}
        if (missing := gates.max_missing_loss) is not None:
            rules["missing_input_is_survived"] = lambda measures: _loss(
                measures, "missing_input_is_survived", "missing", missing
            )
            if any(isinstance(feature.expression, Category) for feature in pipeline.features):
                rules["unseen_category_is_survived"] = lambda measures: _loss(
                    measures, "unseen_category_is_survived", "unseen category", missing
                )
        if (outage := gates.max_outage_loss) is not None and feature_sources(pipeline):
            rules["lost_source_is_survived"] = lambda measures: _loss(
                measures, "lost_source_is_survived", "missing source", outage
            )
        if (shift := gates.max_noise_shift) is not None:
            rules["noise_moves_little"] = lambda measures: _noise(measures, shift)
        return rules
    raise ValueError(f"{report!r} is no validation report; reports are {', '.join(REPORTS)}")


def feature_sources(pipeline: Tabular) -> dict[str, tuple[str, ...]]:
    """Features that vanish together when a source stops delivering. Requests themselves are left out: without one nothing is predicted."""
    found: dict[str, list[str]] = {}
    for feature in pipeline.features:
        read = {
            node.source or pipeline.label.source if isinstance(node, Rolling) else node.source
            for node in walk(feature.expression)
            if isinstance(node, Join | Rolling)
        }
        for source in sorted(read - {pipeline.request}):
            found.setdefault(source, []).append(feature.name)
    return {source: tuple(names) for source, names in sorted(found.items())}


def _find(measures: Sequence[Measure], name: str, group: str | None = None) -> Measure | None:
    return next(
        (measure for measure in measures if measure.name == name and measure.group == group), None
    )


def _unknown(rule: str, limit: float, measure: Measure | None, what: str) -> Verdict:
    """What a release needs to know and nobody could compute fails: silence is no proof."""
    n = measure.n if measure else 0
    return Verdict(
        rule=rule,
        passed=False,
        value=None,
        limit=limit,
        n=n,
        reason=f"{what} could not be computed on {n} rows; a release needs it",
    )


def _interval(measure: Measure, digits: int = 4) -> str:
    if measure.low is None or measure.high is None:
        return "no interval"
    return f"95 % interval {measure.low:+.{digits}f} to {measure.high:+.{digits}f}"


def _beats_baseline(measures: Sequence[Measure], primary: str, margin: float) -> Verdict:
    measure = _find(measures, f"{primary}_worse_by", "baseline")
    limit = 0.0 - margin
    if measure is None or measure.value is None or measure.high is None:
        return _unknown(
            "beats_baseline", limit, measure, f"the difference in {primary} to the baseline"
        )
    passed = measure.high <= limit if margin else measure.high < 0
    allowed = (
        f"up to {limit:.4f} worse is allowed, so the upper end must not exceed it"
        if margin < 0
        else "the upper end must lie below 0"
    )
    if margin > 0:
        allowed = f"at least {margin:.4f} better is asked for, so the upper end must not exceed {limit:+.4f}"
    reason = f"{primary} is {_better(measure.value)} than the baseline's; {_interval(measure)}; {allowed}"
    return Verdict(
        rule="beats_baseline",
        passed=passed,
        value=measure.high,
        limit=limit,
        n=measure.n,
        reason=reason,
    )


def _not_worse_than_champion(measures: Sequence[Measure], primary: str, margin: float) -> Verdict:
    rule = "not_worse_than_champion"
    said = next((measure for measure in measures if measure.name == "champion"), None)
    if said is not None and said.group == NO_CHAMPION:
        return Verdict(
            rule=rule,
            passed=None,
            value=None,
            limit=margin,
            n=said.n,
            reason="no champion yet: there is nothing to compare with",
        )
    measure = _find(measures, f"{primary}_worse_by", "champion")
    if measure is None or measure.value is None or measure.high is None:
        return _unknown(
            rule, margin, measure or said, f"the difference in {primary} to the champion"
        )
    reason = f"{primary} is {_better(measure.value)} than the champion's; {_interval(measure)}; the upper end must not exceed {margin:+.4f}"
    return Verdict(
        rule=rule,
        passed=measure.high <= margin,
        value=measure.high,
        limit=margin,
        n=measure.n,
        reason=reason,
    )


def _better(worse_by: float) -> str:
    return f"{abs(worse_by):.4f} {'worse' if worse_by > 0 else 'better'}"


def _calibration(measures: Sequence[Measure], limit: float) -> Verdict:
    rule, measure = "calibration_error_is_low", _find(measures, "calibration_error", "candidate")
    if measure is None or measure.value is None:
        return _unknown(rule, limit, measure, "the calibration error")
    reason = (
        f"calibration error {measure.value:.4f}, {_interval(measure)}; at most {limit:g} is allowed"
    )
    return Verdict(
        rule=rule,
        passed=measure.value <= limit,
        value=measure.value,
        limit=limit,
        n=measure.n,
        reason=reason,
    )


def _roc_auc(measures: Sequence[Measure], limit: float) -> Verdict:
    rule, measure = "roc_auc_is_high", _find(measures, "roc_auc", "candidate")
    if measure is None or measure.value is None:
        return _unknown(rule, limit, measure, "ROC AUC")
    reason = f"ROC AUC {measure.value:.4f}, {_interval(measure)}; at least {limit:g} is needed"
    return Verdict(
        rule=rule,
        passed=measure.value >= limit,
        value=measure.value,
        limit=limit,
        n=measure.n,
        reason=reason,
    )


def _slices(
    measures: Sequence[Measure], limit: float, min_rows: int, declared: Sequence[str]
) -> Verdict:
    rule = "no_slice_much_worse"
    if not declared:
        return Verdict(
            rule=rule,
            passed=None,
            value=None,
            limit=limit,
            n=0,
            reason="no slices are declared: nothing was judged",
        )
    gaps = [measure for measure in measures if measure.name == "gap"]
    # A column that left no slice at all was not looked at, and that must not pass unnoticed.
    absent = [
        column
        for column in declared
        if not any((measure.group or "").startswith(f"{column}=") for measure in gaps)
    ]
    if absent:
        return _unknown(rule, limit, None, f"slices of {', '.join(absent)}")
    judged = [
        (measure.low, measure)
        for measure in gaps
        if measure.n >= min_rows and measure.low is not None
    ]
    small = len(gaps) - len(judged)
    if not judged:
        return Verdict(
            rule=rule,
            passed=None,
            value=None,
            limit=limit,
            n=0,
            reason=f"none of {len(gaps)} slices has {min_rows} rows: nothing was judged",
        )
    low, worst = max(judged, key=lambda pair: pair[0])
    value = f"{worst.value:+.4f}" if worst.value is not None else "unknown"
    reason = (
        f"worst of {len(judged)} slices is {worst.group} (n={worst.n}): worse than overall by {value}, {_interval(worst)}; "
        f"the lower end must not exceed {limit:g}"
        + (f"; {small} slices below {min_rows} rows were not judged" if small else "")
    )
    return Verdict(rule=rule, passed=low <= limit, value=low, limit=limit, n=worst.n, reason=reason)


def _fairness(
    measures: Sequence[Measure], limit: float, declared: Mapping[str, Sequence[str]]
) -> Verdict:
    rule = "groups_treated_alike"
    if not declared:
        return Verdict(
            rule=rule,
            passed=None,
            value=None,
            limit=limit,
            n=0,
            reason="no groups are declared: fairness was NOT examined",
        )
    known: list[tuple[float, Measure]] = []
    unjudged: list[str] = []
    for column, gaps in declared.items():
        for gap in gaps:
            measure = _find(measures, gap, column)
            if measure is None:
                return _unknown(rule, limit, None, f"{gap} of {column}")
            if measure.value is None:
                unjudged.append(f"{gap} of {column}")
            else:
                known.append((measure.value, measure))
    rest = (
        f"; not judged, because fewer than two groups have enough rows: {', '.join(unjudged)}"
        if unjudged
        else ""
    )
    if not known:
        return Verdict(
            rule=rule,
            passed=None,
            value=None,
            limit=limit,
            n=0,
            reason=f"no gap could be judged{rest}",
        )
    value, worst = max(known, key=lambda pair: pair[0])
    reason = f"greatest gap is {worst.name} of {worst.group}: {value:.4f}, {_interval(worst)}; at most {limit:g} is allowed{rest}"
    return Verdict(
        rule=rule, passed=value <= limit, value=value, limit=limit, n=worst.n, reason=reason
    )


def _contributions(measures: Sequence[Measure]) -> Verdict:
    rule, measure = "contributions_add_up", _find(measures, "additivity_error")
    if measure is None or measure.value is None:
        return _unknown(rule, ADDITIVITY_TOLERANCE, measure, "the sum of contributions")
    reason = f"contributions and bias differ from the margin by at most {measure.value:.2g} on {measure.n} rows; up to {ADDITIVITY_TOLERANCE:g} is rounding"
    return Verdict(
        rule=rule,
        passed=measure.value <= ADDITIVITY_TOLERANCE,
        value=measure.value,
        limit=ADDITIVITY_TOLERANCE,
        n=measure.n,
        reason=reason,
    )


def _probabilities(measures: Sequence[Measure]) -> Verdict:
    rule, measure = "predictions_stay_probabilities", _find(measures, "invalid_predictions")
    if measure is None or measure.value is None or not measure.n:
        return _unknown(rule, 0.0, measure, "predictions under perturbation")
    reason = f"{measure.value:.0f} of {measure.n} predictions from missing, noisy, unseen and extreme inputs were no probabilities"
    return Verdict(
        rule=rule,
        passed=measure.value == 0,
        value=measure.value,
        limit=0.0,
        n=measure.n,
        reason=reason,
    )


def _loss(measures: Sequence[Measure], rule: str, kind: str, limit: float) -> Verdict:
    found = [
        measure
        for measure in measures
        if measure.name == "loss_increase" and (measure.group or "").split(": ")[0] == kind
    ]
    known = [(measure.value, measure) for measure in found if measure.value is not None]
    if not known or len(known) < len(found):
        return _unknown(rule, limit, found[0] if found else None, f"the loss under {kind}")
    value, worst = max(known, key=lambda pair: pair[0])
    reason = f"worst of {len(known)} cases is {worst.group}: the loss rises by {value:.4f}, {_interval(worst)}; at most {limit:g} is allowed"
    return Verdict(
        rule=rule, passed=value <= limit, value=value, limit=limit, n=worst.n, reason=reason
    )


def _noise(measures: Sequence[Measure], limit: float) -> Verdict:
    rule, measure = "noise_moves_little", _find(measures, "shift", f"noise: {ALL_NUMBERS}")
    if measure is None or measure.value is None:
        return _unknown(rule, limit, measure, "the shift under noise")
    reason = f"noise on all numeric features moves predictions by {measure.value:.4f} on average, {_interval(measure)}; at most {limit:g} is allowed"
    return Verdict(
        rule=rule,
        passed=measure.value <= limit,
        value=measure.value,
        limit=limit,
        n=measure.n,
        reason=reason,
    )


def _short(champion: str | None) -> str:
    return champion[:12] if champion else "(it does not say which)"
