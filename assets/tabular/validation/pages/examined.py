"""The five validations of a candidate: each gives its report, the page for people, and small plots for the Dagster UI."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from assets.reporting import page as pages
from assets.reporting.page import Image, Section, Table
from assets.reporting.plots import png
from assets.reporting.report import Measure, Report
from assets.reporting.tables import estimate, number
from assets.tabular.tasks.metrics import BINS, HIGHER_IS_BETTER, NAMES, ROW_WISE, Array
from assets.tabular.training.cpus import threads
from assets.tabular.validation import bootstrap, gates
from assets.tabular.validation.evidence import Evidence
from assets.tabular.validation.examinations import (
    explainability as explaining,
    fairness as fairnesses,
    performance as performances,
    robustness as robustnesses,
    slices as slicing,
)
from assets.tabular.validation.pages import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_DAY_NOTE = (
    "Intervals draw whole days, since rows of one day are alike. "
    f"Fewer than {bootstrap.MIN_DAYS} test days give no interval, and gates are then unknown."
)
_DPI = 100  # sharp enough on a page, small enough for the Dagster UI: laying a figure out twice costs more than either


@dataclass(frozen=True)
class Examined:
    """A report with its page and plots (title to PNG)."""

    report: Report
    pages: dict[str, bytes]
    plots: dict[str, bytes]


def performance(
    evidence: Evidence,
    baseline: Array,
    champion: Array | None,
    champion_digest: str | None,
    notes: Sequence[str] = (),
) -> Examined:
    """The candidate against the baseline and the champion (None before the first release) on the same test rows."""
    predictions = {performances.CANDIDATE: evidence.p, performances.BASELINE: baseline}
    if champion is not None:
        predictions[performances.CHAMPION] = champion
    compared = bootstrap.compare(evidence.y, predictions, days=evidence.days)
    measures = performances.measures(compared, evidence.y, predictions, champion_digest)
    told = [
        f"{len(compared.samples[performances.CANDIDATE]):,} bootstrap resamples, the same for all models; calibration error over {BINS} bins of equal size.",
        _DAY_NOTE,
        *(
            []
            if champion is not None
            else ["No champion yet: there is nothing released to compare with."]
        ),
        *notes,
    ]
    report = _report(evidence, gates.PERFORMANCE, measures, told)
    drawn = _drawn(
        {
            "calibration": figures.calibration(evidence.y, predictions),
            "ROC and precision-recall": figures.ranking(evidence.y, predictions),
            "metrics": figures.metric_intervals(compared),
        }
    )
    rows = [
        [
            f"{figures.TITLES[metric]}, {'higher' if metric in HIGHER_IS_BETTER else 'lower'} is better",
            *(_shown(report.measure(metric, model)) for model in predictions),
        ]
        for metric in NAMES
    ]
    others = [model for model in predictions if model != performances.CANDIDATE]
    kinds = [(figures.TITLES[metric], f"{metric}_worse_by") for metric in NAMES]
    differences = [
        [title, *(_shown(report.measure(name, other), sign=True) for other in others)]
        for title, name in kinds
    ]
    tables = [
        Table(["metric", *predictions], rows),
        Table(
            ["candidate worse by (negative: better)", *(f"than the {other}" for other in others)],
            differences,
        ),
    ]
    sections = [
        Section("Metrics", f"All models on the same {evidence.n:,} test rows, with paired differences.",
                [Image(drawn["metrics"], "Every metric with its 95 % interval; the arrow says which way is better.", 900)], tables),
        Section("Calibration", "How often it happened where the model said so.",
                [Image(drawn["calibration"], "Bins of equal size with 95 % Wilson intervals, and where predictions lie.", 820)]),
        Section("Ranking", "", [Image(drawn["ROC and precision-recall"], f"ROC and precision-recall curves over {evidence.n:,} rows.", 820)]),
    ]  # fmt: skip
    facts = [
        ("Champion", champion_digest[:12] if champion_digest else "none yet"),
        ("Base rate", number(float(evidence.y.mean()) if evidence.n else None)),
    ]
    return _examined(
        evidence,
        report,
        "Performance",
        "Is the candidate good, and better than what there is?",
        facts,
        sections,
        drawn,
    )


def slices(evidence: Evidence) -> Examined:
    """The primary metric in every declared slice."""
    pipeline, options = evidence.pipeline, evidence.pipeline.gates
    primary = options.primary
    found = slicing.slices(
        evidence.y, evidence.p, _columns(evidence, pipeline.slices), evidence.days, primary
    )
    overall = bootstrap.compare(evidence.y, {"all": evidence.p}, resamples=0).value("all", primary)
    measures = [slicing.measure(primary, overall, evidence.n), *slicing.measures(found, primary)]
    notes = [f"Slices below {options.min_slice_rows} rows are shown hollow and not judged."]
    if not pipeline.slices:
        notes = [
            "No slices are declared: nothing below the overall figures was examined. Declare slices=[...] in the pipeline."
        ]
    if primary in ROW_WISE:
        notes.append(
            "A slice can be worse because it is harder, not because the model is worse there: compare base rate and mean prediction."
        )
    report = _report(evidence, gates.SLICES, measures, notes)
    drawn = _drawn(
        {
            f"slices of {column}": figures.forest(
                found, column, overall, primary, options.max_slice_gap, options.min_slice_rows
            )
            for column in pipeline.slices
        }
    )
    sections = []
    for column in pipeline.slices:
        own = sorted(
            (each for each in found if each.column == column),
            key=lambda each: (each.n < options.min_slice_rows, -each.gap),
        )
        rows = [
            [each.value, f"{each.n:,}", number(each.base_rate), number(each.predicted), estimate(each.metric, *each.interval),
             estimate(each.gap, *each.gap_interval, sign=True), "yes" if each.n >= options.min_slice_rows else "too few rows"]
            for each in own
        ]  # fmt: skip
        header = [
            "slice",
            "n",
            "base rate",
            "mean prediction",
            figures.TITLES[primary],
            "worse than overall by",
            "judged",
        ]
        caption = f"How much worse than overall each slice of {column} is; dashed is the limit."
        sections.append(
            Section(
                f"Slices of {column}",
                f"{len(own)} slices.",
                [Image(drawn[f"slices of {column}"], caption, 760)],
                [Table(header, rows)],
            )
        )
    facts = [
        ("Slices", f"{len(found)} of {len(pipeline.slices)} columns"),
        (figures.TITLES[primary], number(overall)),
    ]
    return _examined(
        evidence,
        report,
        "Slices",
        "Is there a part of the data where the candidate does much worse?",
        facts,
        sections,
        drawn,
    )


def fairness(evidence: Evidence) -> Examined:
    """Rates of the positive decision between declared groups."""
    options, declared = evidence.pipeline.gates, evidence.pipeline.fairness
    columns = _columns(evidence, tuple(group.column for group in declared))
    found = [
        fairnesses.fairness(
            evidence.y,
            evidence.p,
            slicing.grouping(columns[group.column]),
            evidence.days,
            group.column,
            group.threshold,
            options.min_slice_rows,
        )
        for group in declared
    ]
    notes = [
        f"Groups below {options.min_slice_rows} rows are shown hollow; rates resting on fewer than a tenth of that many rows enter no gap. Rates have Wilson intervals, gaps bootstrap intervals."
    ]
    if not declared:
        notes = [
            "NO GROUPS ARE DECLARED: fairness was not examined at all. Declare fairness=[Fairness(column=..., reason=...)] or say in the model card why not."
        ]
    elif options.max_fairness_gap is None:
        notes.append("No limit is declared (max_fairness_gap=None): gaps are shown but not judged.")
    report = _report(
        evidence,
        gates.FAIRNESS,
        [measure for each in found for measure in fairnesses.measures(each)],
        notes,
    )
    drawn = _drawn({f"rates by {each.column}": figures.group_rates(each) for each in found})
    sections = []
    for each, group in zip(found, declared, strict=True):
        gaps = [
            [
                gap.replace("_", " "),
                estimate(each.gaps[k], *each.intervals[k]),
                f"{each.n:,}",
                "yes" if gap in group.judged else "shown only",
            ]
            for k, gap in enumerate(fairnesses.GAPS)
        ]
        rows = [
            [g.name, f"{g.n:,}", f"{g.rows[1]:,}", *(estimate(g.rates[r], *g.intervals[r], digits=2) for r in range(len(fairnesses.RATES))),
             estimate(g.calibration, *g.calibration_interval, digits=2, sign=True), "yes" if g.judged else "too few rows"]
            for g in sorted(each.groups, key=lambda g: -g.n)
        ]  # fmt: skip
        tables = [
            Table(["gap between groups", "greatest difference", "n", "judged"], gaps),
            Table(
                [
                    "group",
                    "n",
                    "positives",
                    *(figures.TITLES[rate] for rate in fairnesses.RATES),
                    "prediction - outcome",
                    "judged",
                ],
                rows,
            ),
        ]
        text = (
            f"{group.reason} A probability of {group.threshold:g} or more is the positive decision."
        )
        caption = f"Rates by {each.column} with 95 % intervals, largest groups first."
        sections.append(
            Section(
                f"Groups of {each.column}",
                text,
                [Image(drawn[f"rates by {each.column}"], caption, 900)],
                tables,
            )
        )
    facts = [("Groups declared", ", ".join(group.column for group in declared) or "none")]
    return _examined(
        evidence,
        report,
        "Fairness",
        "Does the candidate treat the declared groups alike?",
        facts,
        sections,
        drawn,
    )


def explainability(evidence: Evidence) -> Examined:
    """SHAP contributions on a seeded sample of the test rows."""
    rows = explaining.sample_rows(evidence.n)
    values, program = evidence.matrix[rows], evidence.program
    parts, sums = evidence.model.contributions(values, program.categorical, threads())
    found = explaining.explain(
        parts, sums, values, program.names, evidence.days[rows], evidence.n, evidence.model.unit
    )
    # What is explained must be what the model answers: calibrated, it gives the probability again.
    again = evidence.model.probability(sums)
    difference = float(np.abs(again - evidence.p[rows]).max()) if found.n else np.nan
    measures = [
        *explaining.measures(found),
        slicing.measure("prediction_difference", difference, found.n),
    ]
    notes = [
        f"Exact {evidence.model.explained_by} on a seeded sample of {found.n:,} of {found.of:,} test rows, in {found.unit} before calibration.",
        "Calibrated, what is explained is exactly the model's probabilities."
        if difference == 0
        else f"Calibrated, what is explained is the model's probabilities within {difference:.1g}.",
        "Contributions describe the model, not the world: a cause cannot be read from them.",
    ]
    report = _report(evidence, gates.EXPLAINABILITY, measures, notes)
    drawn = _drawn(
        {"SHAP summary": figures.shap_summary(found), "SHAP dependence": figures.dependence(found)}
    )
    table = [
        [found.names[i], estimate(float(found.importance[i]), *found.intervals[i]), number(float(found.contributions[:, i].min()), 3, sign=True) if found.n else "–",
         number(float(found.contributions[:, i].max()), 3, sign=True) if found.n else "–", f"{int(np.isnan(found.values[:, i]).sum()):,}"]
        for i in found.ranking
    ]  # fmt: skip
    sections = [
        Section("Summary", "", [Image(drawn["SHAP summary"], f"Mean |SHAP| with 95 % intervals, and every row's contribution, {found.n:,} rows.", 900)]),
        Section("Dependence", "Contribution against value for the most important features; categories are codes of the vocabulary.",
                [Image(drawn["SHAP dependence"], "One dot is one row.", 980)]),
        Section("All features", "", (), [Table(["feature", "mean |SHAP|", "least", "greatest", "missing values"], table)]),
    ]  # fmt: skip
    facts = [
        ("Rows explained", f"{found.n:,} of {found.of:,}"),
        ("Bias", number(found.bias)),
        ("Greatest additivity error", f"{found.additivity_error:.2g}"),
    ]
    return _examined(
        evidence,
        report,
        "Explainability",
        "Which features move the prediction, and which way?",
        facts,
        sections,
        drawn,
    )


def robustness(evidence: Evidence) -> Examined:
    """Missing, noisy, unseen and extreme inputs."""
    options, program = evidence.pipeline.gates, evidence.program
    sources = gates.feature_sources(evidence.pipeline)
    found = robustnesses.robustness(
        evidence.model.predict,
        evidence.matrix,
        evidence.y,
        evidence.days,
        program.names,
        program.categorical,
        sources,
        options.primary,
    )
    notes = [
        f"Measured on a seeded sample of {found.n:,} of {found.of:,} test rows; loss is {figures.TITLES[found.loss].lower()}.",
        f"Noise is Gaussian with a standard deviation of {robustnesses.NOISE_SD:g} of the feature's own; extreme is ±{robustnesses.EXTREME:.0e}, by turns.",
        "Source groups: "
        + (
            "; ".join(f"{source}: {', '.join(names)}" for source, names in sources.items())
            or "no feature reads another source"
        )
        + ".",
    ]
    report = _report(evidence, gates.ROBUSTNESS, robustnesses.measures(found), notes)
    missing = [effect for effect in found.effects if effect.kind in ("missing", "unseen category")]
    lost = [effect for effect in found.effects if effect.kind == "missing source"]
    noise = [effect for effect in found.effects if effect.kind == "noise"]
    extreme = [effect for effect in found.effects if effect.kind == "extreme"]
    drawings = {
        "missing and unseen": figures.effects(
            missing, "Missing and unseen inputs", "loss increase", options.max_missing_loss
        ),
        "lost sources": figures.effects(
            lost, "Lost sources", "loss increase", options.max_outage_loss
        ),
        "noise": figures.effects(
            noise, "Noise", "mean change of the prediction", options.max_noise_shift, shift=True
        ),
    }
    drawn = _drawn(
        {name: figure for name, figure in drawings.items() if lost or name != "lost sources"}
    )
    header = ["perturbation", "loss increase", "mean change of prediction", "n"]

    def rows(effects: Sequence[robustnesses.Effect]) -> list[list[str]]:
        return [
            [
                effect.group,
                estimate(effect.loss_increase, *effect.loss_interval, sign=True),
                estimate(effect.shift, *effect.shift_interval),
                f"{effect.n:,}",
            ]
            for effect in sorted(effects, key=lambda effect: (-effect.loss_increase, effect.group))
        ]

    sections = [
        Section("Missing and unseen", "Each feature missing in turn, each category never seen before.",
                [Image(drawn["missing and unseen"], "Loss increase with 95 % intervals; dashed is the limit.", 760)], [Table(header, rows(missing))]),
        *([Section("Lost sources", "All features of a source missing together: the source stopped delivering, and what the endpoint knew of it is too old.",
                   [Image(drawn["lost sources"], "Loss increase with 95 % intervals; dashed is the limit.", 760)], [Table(header, rows(lost))])] if lost else []),
        Section("Noise", "Sensors drift and clocks round: how far do predictions move?",
                [Image(drawn["noise"], "Mean change of the prediction; dashed is the limit for all features together.", 760)], [Table(header, rows(noise))]),
        Section("Extreme values", "Absurd numbers must still give probabilities.", (), [Table(header, rows(extreme))]),
    ]  # fmt: skip
    facts = [
        ("Rows perturbed", f"{found.n:,} of {found.of:,}"),
        ("Perturbations", str(len(found.effects))),
        (figures.TITLES[found.loss], number(found.baseline_loss)),
    ]
    return _examined(
        evidence,
        report,
        "Robustness",
        "What happens when inputs are missing, noisy, unknown or absurd?",
        facts,
        sections,
        drawn,
    )


ALONE: Mapping[str, Callable[[Evidence], Examined]] = {
    gates.SLICES: slices,
    gates.FAIRNESS: fairness,
    gates.EXPLAINABILITY: explainability,
    gates.ROBUSTNESS: robustness,
}
"""Examinations by report that need the candidate's evidence alone."""


def _columns(evidence: Evidence, names: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: evidence.frame.get_column(name).to_numpy() for name in names}


def _report(
    evidence: Evidence, name: str, measures: Sequence[Measure], notes: Sequence[str]
) -> Report:
    return Report(
        pipeline=evidence.pipeline.name,
        name=name,
        subject=evidence.candidate,
        day=evidence.day,
        measures=tuple(measures),
        verdicts=gates.verdicts(evidence.pipeline, name, measures),
        notes=tuple(notes),
    )


def _examined(
    evidence: Evidence,
    report: Report,
    title: str,
    lead: str,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    drawn: Mapping[str, bytes],
) -> Examined:
    common = [
        ("Candidate", evidence.candidate[:12]),
        ("Test days", evidence.period),
        ("Test rows", f"{evidence.n:,}"),
    ]
    page = pages.render(report, title, lead, [*common, *facts], sections)
    return Examined(report, {pages.PAGE: page}, dict(drawn))


def _drawn(drawings: Mapping[str, Figure]) -> dict[str, bytes]:
    return {name: png(figure, dpi=_DPI) for name, figure in drawings.items()}


def _shown(measure: Measure | None, sign: bool = False) -> str:
    return estimate(measure.value, measure.low, measure.high, sign=sign) if measure else "–"
