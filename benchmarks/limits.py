"""Where the limits of `flight_delays` come from: candidates of January to March 2013, and no later day.

`python -m benchmarks.limits` lands these three months, trains a candidate for each of eight weeks,
and prints the number that each gate judges (an end of an interval) beside the declared limit. For
the monitor of drift it compares every day after a training set, up to 31 March, with that set. The
demo replays later months, so what they show is out of sample.

A limit follows from these numbers by rule: a quarter beyond the worst of them for a gate, and one
feature more than the worst day for the share of drifted features.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import date
from itertools import pairwise

import numpy as np

from assets.names import BUNDLE, CANDIDATE, DAY, FEATURES, TRAINING_SET, asset_key, asset_path
from assets.reporting.report import Measure
from assets.reporting.tables import markdown_table, number
from assets.tabular.validation import bootstrap, evidence as evidences, gates
from assets.tabular.validation.evidence import Evidence, Matrix
from assets.tabular.validation.examinations import performance
from benchmarks.lifecycle import FIRST, LAST, execute, landed
from bundle.models.model import Model
from pipelines.flight_delays import pipeline
from sensors import jobs
from tests.support.platform import Platform

WEEKS = tuple(date(2013, 2, 10) + 7 * DAY * week for week in range(8))
MARGIN = 0.25


def main() -> None:
    """Print the numbers behind every limit, and the limits that they give."""
    declared = pipeline.gates
    with landed() as running:
        whole = {
            "dagster/asset_partition_range_start": FIRST.isoformat(),
            "dagster/asset_partition_range_end": LAST.isoformat(),
        }
        execute(
            running,
            jobs.nightly(pipeline),
            jobs.keys(pipeline, "landed_once", "ingested"),
            whole,
        )
        trained = [train(running, as_of) for as_of in WEEKS]
        shares = [share for as_of in WEEKS for share in drift_shares(running, as_of)]

    candidates = [measures for measures, _ in trained]
    rows = []
    for rule, limit, read in (
        ("max_calibration_error", declared.max_calibration_error, calibration_error),
        ("max_slice_gap", declared.max_slice_gap, slice_gap),
        ("max_fairness_gap", declared.max_fairness_gap, fairness_gap),
        ("max_missing_loss", declared.max_missing_loss, missing_loss),
        ("max_outage_loss", declared.max_outage_loss, outage_loss),
        ("max_noise_shift", declared.max_noise_shift, noise_shift),
    ):
        judged = [read(measures) for measures in candidates]
        rows.append([rule, *map(number, judged), number(max(judged) * (1 + MARGIN)), number(limit)])
    worse = [worse_than_baseline(measures) for measures in candidates]
    margin = -max(worse) - MARGIN * abs(max(worse))
    baseline = number(declared.baseline_margin)
    rows.append(["baseline_margin", *map(number, worse), number(margin), baseline])
    # Each week's candidate against the one before, had that been the champion.
    followers = [
        bootstrapped(evidence, before.program.matrix(evidence.frame), before.model)
        for (_, before), (_, evidence) in pairwise(trained)
    ]
    allowed = number(max(followers) * (1 + MARGIN)), number(declared.champion_margin)
    rows.append(["champion_margin", "–", *map(number, followers), *allowed])
    areas = [roc_auc(measures) for measures in candidates]
    least = 0.5 + (min(areas) - 0.5) * (1 - MARGIN)
    rows.append(["min_roc_auc", *map(number, areas), number(least), number(declared.min_roc_auc)])
    print(markdown_table(["limit", *map(str, WEEKS), "by rule", "declared"], rows))

    worst, features = max(shares), len(pipeline.features)
    print(
        f"\ndrift_share: {len(shares)} comparisons of a day with an earlier training set; "
        f"median {np.median(shares):.3f}, greatest {worst:.3f} of {features} features; "
        f"by rule {worst + 1 / features:.3f}, declared {pipeline.monitors.drift_share:g}"
    )


def bootstrapped(evidence: Evidence, matrix: Matrix, champion: Model) -> float:
    """The upper end of how much worse a candidate is than a champion on its own test rows."""
    compared = bootstrap.compare(
        evidence.y,
        {"candidate": evidence.p, "champion": champion.predict(matrix)},
        days=evidence.days,
    )
    _, interval = performance.worse_by(compared, "champion", pipeline.gates.primary)
    return interval.high


def train(running: Platform, as_of: date) -> tuple[list[Measure], Evidence]:
    """A candidate that stands on `as_of`: all measures of its reports, and its evidence."""
    from assets.tabular.training.candidate import FACTS, CandidateFacts

    wanted = [
        key for key in jobs.keys(pipeline, "retrained") if key != asset_key(pipeline.name, BUNDLE)
    ]
    training_set = asset_key(pipeline.name, TRAINING_SET).to_python_identifier()
    execute(
        running,
        jobs.retrain(pipeline),
        wanted,
        {},
        {"ops": {training_set: {"config": {"as_of": as_of.isoformat()}}}},
    )
    digest = running.artifacts.pointed(pipeline.name, CANDIDATE)
    facts = CandidateFacts.decode(running.artifacts.get("candidates", digest)[FACTS])
    assert facts.as_of == as_of.isoformat()
    reports = gates.stored(running.reports, pipeline, as_of, digest)
    measures = [measure for report in reports.values() if report for measure in report.measures]
    return measures, evidences.load(pipeline, running.lake, running.artifacts)


def drift_shares(running: Platform, as_of: date) -> list[float]:
    """Shares of drifted features on the days from `as_of` to the end of March, out of sample."""
    from assets.tabular.monitoring.drift.reference import Reference, reference
    from assets.tabular.monitoring.drift.report import data_drift
    from assets.tabular.training.manifest import assemble

    names = [feature.name for feature in pipeline.features]
    rows = assemble(pipeline, running.lake, as_of)
    known = Reference.decode(reference(rows.frame, names))
    table = asset_path(pipeline.name, FEATURES)

    shares = []
    for offset in range((LAST - as_of).days + 1):
        day = as_of + DAY * offset
        frame = running.lake.scan(table, day, day).collect()
        measures, _, _ = data_drift(frame, known, pipeline.monitors)
        share = next(each.value for each in measures if each.name == "drift_share")
        shares.append(float(share or 0.0))
    return shares


def calibration_error(measures: Sequence[Measure]) -> float:
    return _worst(measures, lambda m: m.name == "calibration_error" and m.group == "candidate")


def fairness_gap(measures: Sequence[Measure]) -> float:
    judged = gates.judged_gaps(pipeline)
    return _worst(measures, lambda m: m.group in judged and m.name in judged[str(m.group)])


def missing_loss(measures: Sequence[Measure]) -> float:
    kinds = ("missing: ", "unseen category: ")
    return _worst(measures, lambda m: m.name == "loss_increase" and str(m.group).startswith(kinds))


def outage_loss(measures: Sequence[Measure]) -> float:
    return _worst(
        measures, lambda m: m.name == "loss_increase" and str(m.group).startswith("missing source")
    )


def noise_shift(measures: Sequence[Measure]) -> float:
    return _worst(
        measures, lambda m: m.name == "shift" and m.group == "noise: all numeric features"
    )


def slice_gap(measures: Sequence[Measure]) -> float:
    """Slices are judged by the lower end."""
    return max(
        each.low
        for each in measures
        if each.name == "gap" and each.n >= pipeline.gates.min_slice_rows and each.low is not None
    )


def worse_than_baseline(measures: Sequence[Measure]) -> float:
    """By how much the candidate may be worse than the baseline; negative is surely better."""
    return _worst(
        measures,
        lambda m: m.name == f"{pipeline.gates.primary}_worse_by" and m.group == "baseline",
    )


def roc_auc(measures: Sequence[Measure]) -> float:
    """ROC AUC is judged by the lower end."""
    (low,) = (m.low for m in measures if m.name == "roc_auc" and m.group == "candidate")
    assert low is not None
    return low


def _worst(measures: Sequence[Measure], judged: Callable[[Measure], bool]) -> float:
    """The greatest upper end of the measures that a gate judges."""
    return max(each.high for each in measures if judged(each) and each.high is not None)


if __name__ == "__main__":
    sys.exit(main())
