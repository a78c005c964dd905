"""The page of the performance report: the candidate against the baseline and the champion."""

from __future__ import annotations

from collections.abc import Sequence

from assets.reporting.page import Image, Section, Table
from assets.reporting.report import Measure, Report
from assets.reporting.tables import estimate, number
from assets.tabular.tasks.metrics import BINS, HIGHER_IS_BETTER, NAMES, Array
from assets.tabular.validation import bootstrap, gates
from assets.tabular.validation.evidence import Evidence
from assets.tabular.validation.examinations import performance as examination
from assets.tabular.validation.pages import figures
from assets.tabular.validation.pages.examined import Examined, drawn, report_of, with_page

_DAY_NOTE = (
    "Intervals draw whole days, since rows of one day are alike. "
    f"Fewer than {bootstrap.MIN_DAYS} test days give no interval, and gates are then unknown."
)


def performance(
    evidence: Evidence,
    baseline: Array,
    champion: Array | None,
    champion_digest: str | None,
    notes: Sequence[str] = (),
) -> Examined:
    """The candidate against the baseline and the champion on the same test rows.

    `champion` and its digest are None before the first release.
    """
    predictions = {examination.CANDIDATE: evidence.p, examination.BASELINE: baseline}
    if champion is not None:
        predictions[examination.CHAMPION] = champion
    compared = bootstrap.compare(evidence.y, predictions, days=evidence.days)

    told = [
        f"{len(compared.samples[examination.CANDIDATE]):,} bootstrap resamples, the same for all "
        f"models; calibration error over {BINS} bins of equal size.",
        _DAY_NOTE,
        *notes,
    ]
    if champion is None:
        told.append("No champion yet: there is nothing released to compare with.")
    measures = examination.measures(compared, evidence.y, predictions, champion_digest)
    report = report_of(evidence, gates.PERFORMANCE, measures, told)

    plots = drawn(
        {
            "calibration": figures.calibration(evidence.y, predictions),
            "ROC and precision-recall": figures.ranking(evidence.y, predictions),
            "metrics": figures.metric_intervals(compared),
        }
    )
    facts = [
        ("Champion", champion_digest[:12] if champion_digest else "none yet"),
        ("Base rate", number(float(evidence.y.mean()) if evidence.n else None)),
    ]
    return with_page(
        evidence,
        report,
        "Performance",
        "Is the candidate good, and better than what there is?",
        facts,
        _sections(report, list(predictions), evidence.n, plots),
        plots,
    )


def _sections(
    report: Report, models: Sequence[str], n: int, plots: dict[str, bytes]
) -> list[Section]:
    metrics = Image(
        plots["metrics"],
        "Every metric with its 95 % interval; the arrow says which way is better.",
        900,
    )
    calibration = Image(
        plots["calibration"],
        "Bins of equal size with 95 % Wilson intervals, and where predictions lie.",
        820,
    )
    ranking = Image(
        plots["ROC and precision-recall"],
        f"ROC and precision-recall curves over {n:,} rows.",
        820,
    )
    return [
        Section(
            "Metrics",
            f"All models on the same {n:,} test rows, with paired differences.",
            [metrics],
            [_metrics(report, models), _differences(report, models)],
        ),
        Section("Calibration", "How often it happened where the model said so.", [calibration]),
        Section("Ranking", "", [ranking]),
    ]


def _metrics(report: Report, models: Sequence[str]) -> Table:
    rows = [
        [_title(metric), *(_shown(report.measure(metric, model)) for model in models)]
        for metric in NAMES
    ]
    return Table(["metric", *models], rows)


def _differences(report: Report, models: Sequence[str]) -> Table:
    others = [model for model in models if model != examination.CANDIDATE]
    rows = []
    for metric in NAMES:
        worse_by = [report.measure(f"{metric}_worse_by", other) for other in others]
        rows.append([figures.TITLES[metric], *(_shown(each, sign=True) for each in worse_by)])
    header = ["candidate worse by (negative: better)", *(f"than the {other}" for other in others)]
    return Table(header, rows)


def _title(metric: str) -> str:
    direction = "higher" if metric in HIGHER_IS_BETTER else "lower"
    return f"{figures.TITLES[metric]}, {direction} is better"


def _shown(measure: Measure | None, sign: bool = False) -> str:
    return estimate(measure.value, measure.low, measure.high, sign=sign) if measure else "–"
