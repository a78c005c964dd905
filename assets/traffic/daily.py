"""A day of a rollout: gather, judge, store the report, then act in the ledger. Repeated, or after a kill, it acts once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from assets.names import DAY, EXPERIMENT, ROLLOUT
from assets.reporting.page import PAGE, Image
from assets.reporting.report import Report, save_report
from assets.traffic import experiments, judging, pages, rollouts
from assets.traffic.decisions import POLICY
from assets.traffic.evidence import answered, gather, labels_known, windows
from assets.traffic.judging import Action
from assets.traffic.rollouts import Rollout

if TYPE_CHECKING:
    from declare.pipeline import Pipeline
    from resources.lake import Lake
    from resources.ledger import Entry, Ledger
    from resources.reports import Reports


@dataclass(frozen=True)
class Judged:
    """What became of a rollout on a day. `entry` is what was written to the ledger, None where nothing was."""

    rollout: Rollout
    report: Report
    action: Action
    why: str
    link: str
    images: list[Image]
    entry: Entry | None


def judge_day(
    pipeline: Pipeline,
    day: date,
    lake: Lake,
    ledger: Ledger,
    reports: Reports,
    trials: Sequence[Path],
) -> Judged | None:
    """Judge the rollout that is under way on a data day, and take its step. None where none is, or where it was judged before."""
    entries = ledger.entries(pipeline.name)
    rollout = rollouts.under_way(entries)
    moved = rollouts.newest_move(entries)
    if (
        rollout is None
        or rollout.steps[-1].day > day
        or moved is None
        or moved.serial != rollout.steps[-1].entry
    ):
        return None
    policy = pipeline.release
    evidence = gather(pipeline, rollout, entries, day, lake, trials)
    measures = (*judging.measures(rollout, evidence), *judging.quality(evidence, policy))
    verdicts = judging.verdicts(rollout, measures, policy)
    action, why = judging.action(verdicts)
    notes: tuple[str, ...] = ()
    if action == "roll_back" and rollouts.went_back_before(entries, rollout.bundle):
        action, notes = (
            "hold",
            (
                "This bundle has gone back by itself before; whether it does again is for people to decide (`evergreen rollback`).",
            ),
        )
    report = Report(
        pipeline=pipeline.name,
        name=ROLLOUT,
        subject=rollout.bundle,
        day=day,
        measures=measures,
        verdicts=verdicts,
        notes=notes,
    )
    page, images = pages.page(report, rollout, evidence, policy, action, why)
    link = save_report(reports, report, {PAGE: page})
    # The report is stored before anything is decided on it: an entry never names evidence that is not there.
    entry = None
    if action == "advance":
        entry = rollouts.advance(
            ledger, rollout, policy, day + DAY, {"report": report.digest, "reason": why}
        )
    elif action == "roll_back":
        entry = rollouts.abort(ledger, rollout, POLICY, why, day + DAY, {"report": report.digest})
    return Judged(rollout, report, action, why, f"{link}{PAGE}", images, entry)


def prune_trials(pipeline: Pipeline, day: date, trials: Sequence[Path]) -> int:
    """Remove trials about events more than the log's declared retention before a day; what they showed is in the reports. The number
    of segments that went."""
    from bundle.records.log import closed_before, remove

    old = [
        path
        for folder in trials
        for path, _, _ in list(closed_before(folder, day - pipeline.log.retention))
    ]
    for path in old:
        remove(path)
    return len(old)


@dataclass(frozen=True)
class Compared:
    """What an experiment said on a day. `stopped` is the entry that ended it, None while it goes on."""

    report: Report
    told: str
    link: str
    stopped: Entry | None


def compare_day(
    pipeline: Pipeline, day: date, lake: Lake, ledger: Ledger, reports: Reports
) -> Compared | None:
    """Look at the experiment that has traffic on a data day, and stop it where its rule says so. None where none runs, or where the
    declaration knows it no more."""
    entries = ledger.entries(pipeline.name)
    current = experiments.running(entries)
    declared = {experiment.name: experiment for experiment in pipeline.experiments}
    if current is None or current.since > day or current.name not in declared:
        return None
    experiment = declared[current.name]
    served = windows(entries, [current.entry])
    key, known = (
        experiment.split_by or pipeline.entity,
        labels_known(pipeline, lake, current.since, day),
    )
    split = answered(pipeline, lake, current.since, day, served, current.bundles, key, known)
    measures = experiments.measures(experiment, current, split)
    verdicts = experiments.verdicts(experiment, current, measures)
    why = experiments.stops(experiment, current, verdicts, measures, day)
    notes = (f"Experiment {current.name!r} {f'ends: {why}' if why else 'goes on'}.",)
    report = Report(
        pipeline=pipeline.name,
        name=EXPERIMENT,
        subject=current.name,
        day=day,
        measures=measures,
        verdicts=verdicts,
        notes=notes,
    )
    link = save_report(
        reports, report, {PAGE: pages.experiment_page(report, experiment, current, split)}
    )
    stopped = None
    if why is not None:
        stopped = experiments.stop(
            ledger, pipeline.name, current, POLICY, why, day + DAY, {"report": report.digest}
        )
    return Compared(report, notes[0], f"{link}{PAGE}", stopped)
