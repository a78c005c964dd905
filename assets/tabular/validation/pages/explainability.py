"""The page of the explainability report: which features move the prediction, and which way."""

from __future__ import annotations

import numpy as np

from assets.reporting.page import Image, Section, Table
from assets.reporting.tables import estimate, number
from assets.tabular.training.cpus import threads
from assets.tabular.validation import gates
from assets.tabular.validation.evidence import Evidence
from assets.tabular.validation.examinations import explainability as examination
from assets.tabular.validation.examinations.explainability import Explanation
from assets.tabular.validation.examinations.slices import measure
from assets.tabular.validation.pages import figures
from assets.tabular.validation.pages.examined import Examined, drawn, report_of, with_page


def explainability(evidence: Evidence) -> Examined:
    """SHAP contributions on a seeded sample of the test rows."""
    rows = examination.sample_rows(evidence.n)
    values, program, model = evidence.matrix[rows], evidence.program, evidence.model
    parts, sums = model.contributions(values, program.categorical, threads())
    explained = examination.explain(
        parts, sums, values, program.names, evidence.days[rows], evidence.n, model.unit
    )

    # What is explained must be what the model answers: calibrated, it gives the probability again.
    again = model.probability(sums)
    difference = float(np.abs(again - evidence.p[rows]).max()) if explained.n else np.nan
    measures = [
        *examination.measures(explained),
        measure("prediction_difference", difference, explained.n),
    ]
    notes = _notes(explained, model.explained_by, difference)
    report = report_of(evidence, gates.EXPLAINABILITY, measures, notes)

    plots = drawn(
        {
            "SHAP summary": figures.shap_summary(explained),
            "SHAP dependence": figures.dependence(explained),
        }
    )
    facts = [
        ("Rows explained", f"{explained.n:,} of {explained.of:,}"),
        ("Bias", number(explained.bias)),
        ("Greatest additivity error", f"{explained.additivity_error:.2g}"),
    ]
    lead = "Which features move the prediction, and which way?"
    sections = _sections(explained, plots)
    return with_page(evidence, report, "Explainability", lead, facts, sections, plots)


def _notes(explained: Explanation, explained_by: str, difference: float) -> list[str]:
    agreement = f"the model's probabilities within {difference:.1g}"
    if difference == 0:
        agreement = "exactly the model's probabilities"
    return [
        f"Exact {explained_by} on a seeded sample of {explained.n:,} of {explained.of:,} test "
        f"rows, in {explained.unit} before calibration.",
        f"Calibrated, what is explained is {agreement}.",
        "Contributions describe the model, not the world: a cause cannot be read from them.",
    ]


def _sections(explained: Explanation, plots: dict[str, bytes]) -> list[Section]:
    summary = Image(
        plots["SHAP summary"],
        f"Mean |SHAP| with 95 % intervals, and every row's contribution, {explained.n:,} rows.",
        900,
    )
    dependence = Image(plots["SHAP dependence"], "One dot is one row.", 980)
    table = Table(
        ["feature", "mean |SHAP|", "least", "greatest", "missing values"],
        [_row(explained, index) for index in explained.ranking],
    )
    text = (
        "Contribution against value for the most important features; "
        "categories are codes of the vocabulary."
    )
    return [
        Section("Summary", "", [summary]),
        Section("Dependence", text, [dependence]),
        Section("All features", "", (), [table]),
    ]


def _row(explained: Explanation, index: int) -> list[str]:
    own = explained.contributions[:, index]
    least, greatest = ("–", "–")
    if explained.n:
        least, greatest = (number(float(end), 3, sign=True) for end in (own.min(), own.max()))
    return [
        explained.names[index],
        estimate(float(explained.importance[index]), *explained.intervals[index]),
        least,
        greatest,
        f"{int(np.isnan(explained.values[:, index]).sum()):,}",
    ]
