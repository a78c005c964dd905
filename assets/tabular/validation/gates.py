"""Gates: which rules a release needs, their verdicts, and why a release is refused.

A verdict is a pure function of a report's measures and the declared limits (`rules`). The
validation assets use it for their warn checks; the release stage applies it again to the stored
reports and refuses on anything missing, altered, failed or unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from functools import partial

from assets.reporting.report import Measure, Report, Verdict, load_report
from assets.tabular.validation import rules
from assets.tabular.validation.terms import NO_CHAMPION
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
    """The rules that each validation report of a pipeline must pass, in lifecycle order.

    A report without rules is required all the same.
    """
    return {report: tuple(_rules(pipeline, report)) for report in REPORTS}


def verdicts(pipeline: Tabular, report: str, measures: Sequence[Measure]) -> tuple[Verdict, ...]:
    """One verdict for each rule of a report, in order, and one for what nobody declared.

    Raises ValueError for an unknown report.
    """
    required = [rule(measures) for rule in _rules(pipeline, report).values()]
    return (*required, *_undeclared(pipeline, report))


def judged_gaps(pipeline: Tabular) -> dict[str, tuple[str, ...]]:
    """The fairness gaps that are judged, by column."""
    return {group.column: group.judged for group in pipeline.fairness}


def stored(
    reports: Reports, pipeline: Tabular, day: date, candidate: str
) -> dict[str, Report | None]:
    """The stored validation reports of a candidate by name.

    `day` is the `as_of` of its training set. Raises ValueError for a report that does not parse.
    """
    return {name: load_report(reports, pipeline.name, name, day, candidate) for name in REPORTS}


def refusals(
    pipeline: Tabular, reports: Mapping[str, Report | None], candidate: str, champion: str | None
) -> list[str]:
    """Why a release of `candidate` must be refused, in sentences; empty when every gate passes.

    `reports` holds the stored reports by name, `champion` is the digest released now. Fails closed:
    a missing report, one about another candidate or another champion, a missing rule, an unknown
    verdict, and a verdict that its own numbers do not bear out all refuse.
    """
    found: list[str] = []
    for name, required in required_gates(pipeline).items():
        report = reports.get(name)
        if report is None:
            found.append(f"report {name} is missing; materialize it for candidate {candidate[:12]}")
            continue
        if (report.pipeline, report.name, report.subject) != (pipeline.name, name, candidate):
            found.append(
                f"report {name} speaks of {report.pipeline}/{report.name} {report.subject[:12]}, "
                f"not of candidate {candidate[:12]}; validate again"
            )
            continue
        if name == PERFORMANCE:
            found += _champion_refusals(report, champion or NO_CHAMPION)
        found += _rule_refusals(pipeline, report, required)
    return found


def compared_champion(report: Report) -> str | None:
    """Digest of the bundle that a performance report compared with.

    "none" where nothing was released, None for a report that does not say.
    """
    return next((measure.group for measure in report.measures if measure.name == "champion"), None)


def feature_sources(pipeline: Tabular) -> dict[str, tuple[str, ...]]:
    """Features that vanish together when a source stops delivering.

    Requests themselves are left out: without one nothing is predicted.
    """
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


def _champion_refusals(report: Report, champion: str) -> Iterator[str]:
    compared = compared_champion(report)
    if compared != champion:
        yield (
            f"{report.name} compares with champion {_short(compared)}, but {_short(champion)} is "
            "released now; validate again"
        )


def _rule_refusals(pipeline: Tabular, report: Report, required: Sequence[str]) -> Iterator[str]:
    stored = {verdict.rule: verdict for verdict in report.verdicts}
    again = {each.rule: each for each in verdicts(pipeline, report.name, report.measures)}
    for rule in required:
        verdict = stored.get(rule)
        if verdict is None:
            yield f"{report.name} holds no verdict on {rule}; validate again"
        elif verdict != again[rule]:
            yield (
                f"{report.name}: the stored verdict on {rule} is not what its numbers and today's "
                f"limits give ({again[rule].reason}); validate again"
            )
        elif verdict.passed is None:
            yield f"{report.name}: {rule} is unknown: {verdict.reason}"
        elif not verdict.passed:
            yield f"{report.name}: {rule} failed: {verdict.reason}"


def _rules(pipeline: Tabular, report: str) -> dict[str, Rule]:
    if report not in _RULES:
        raise ValueError(f"{report!r} is no validation report; reports are {', '.join(REPORTS)}")
    return dict(_RULES[report](pipeline))


def _performance_rules(pipeline: Tabular) -> Iterator[tuple[str, Rule]]:
    gates = pipeline.gates
    yield (
        "beats_baseline",
        partial(rules.beats_baseline, primary=gates.primary, margin=gates.baseline_margin),
    )
    yield (
        "not_worse_than_champion",
        partial(rules.not_worse_than_champion, primary=gates.primary, margin=gates.champion_margin),
    )
    if (error := gates.max_calibration_error) is not None:
        yield "calibration_error_is_low", partial(rules.calibration_error_is_low, limit=error)
    if (auc := gates.min_roc_auc) is not None:
        yield "roc_auc_is_high", partial(rules.roc_auc_is_high, limit=auc)


def _slice_rules(pipeline: Tabular) -> Iterator[tuple[str, Rule]]:
    gates = pipeline.gates
    if (gap := gates.max_slice_gap) is not None and pipeline.slices:
        yield (
            "no_slice_much_worse",
            partial(
                rules.no_slice_much_worse,
                limit=gap,
                min_rows=gates.min_slice_rows,
                declared=pipeline.slices,
            ),
        )


def _fairness_rules(pipeline: Tabular) -> Iterator[tuple[str, Rule]]:
    if (gap := pipeline.gates.max_fairness_gap) is not None and pipeline.fairness:
        declared = judged_gaps(pipeline)
        yield (
            "groups_treated_alike",
            partial(rules.groups_treated_alike, limit=gap, declared=declared),
        )


def _explainability_rules(pipeline: Tabular) -> Iterator[tuple[str, Rule]]:
    yield "contributions_add_up", rules.contributions_add_up


def _robustness_rules(pipeline: Tabular) -> Iterator[tuple[str, Rule]]:
    gates = pipeline.gates
    yield "predictions_stay_probabilities", rules.predictions_stay_probabilities
    if (missing := gates.max_missing_loss) is not None:
        yield _loss_rule("missing_input_is_survived", "missing", missing)
        if any(isinstance(feature.expression, Category) for feature in pipeline.features):
            yield _loss_rule("unseen_category_is_survived", "unseen category", missing)
    if (outage := gates.max_outage_loss) is not None and feature_sources(pipeline):
        yield _loss_rule("lost_source_is_survived", "missing source", outage)
    if (shift := gates.max_noise_shift) is not None:
        yield "noise_moves_little", partial(rules.noise_moves_little, limit=shift)


def _loss_rule(rule: str, perturbation: str, limit: float) -> tuple[str, Rule]:
    return rule, partial(rules.loss_is_survived, rule=rule, perturbation=perturbation, limit=limit)


_RULES: Mapping[str, Callable[[Tabular], Iterator[tuple[str, Rule]]]] = {
    PERFORMANCE: _performance_rules,
    SLICES: _slice_rules,
    FAIRNESS: _fairness_rules,
    EXPLAINABILITY: _explainability_rules,
    ROBUSTNESS: _robustness_rules,
}


def _undeclared(pipeline: Tabular, report: str) -> Iterator[Verdict]:
    """What a limit is declared for and nothing to apply it to: no gate, and said loudly."""
    gates = pipeline.gates
    if report == SLICES and gates.max_slice_gap is not None and not pipeline.slices:
        reason = "no slices are declared: nothing below the overall figures was examined"
        yield _not_examined("no_slice_much_worse", gates.max_slice_gap, reason)
    if report == FAIRNESS and gates.max_fairness_gap is not None and not pipeline.fairness:
        reason = "no groups are declared: fairness was NOT examined"
        yield _not_examined("groups_treated_alike", gates.max_fairness_gap, reason)


def _not_examined(rule: str, limit: float, reason: str) -> Verdict:
    return Verdict(rule=rule, passed=None, value=None, limit=limit, n=0, reason=reason)


def _short(champion: str | None) -> str:
    if champion is None:
        return "(the report does not say which)"
    return champion if champion == NO_CHAMPION else champion[:12]
