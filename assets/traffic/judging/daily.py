"""One day of a rollout or an experiment: gather, judge, store the report, then act in the ledger.

Repeated, or after a kill, it acts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from assets.names import DAY, EXPERIMENT, ROLLOUT
from assets.reporting.page import PAGE, Image
from assets.reporting.report import Report, save_report
from assets.traffic import experiments, rollouts, steps
from assets.traffic.entries import LedgerEntry, entries as read
from assets.traffic.judging import comparison, measures, pages, verdicts
from assets.traffic.judging.evidence import answered, gather, windows
from assets.traffic.judging.verdicts import Action
from assets.traffic.moves import newest_move
from assets.traffic.rollouts import Rollout
from assets.traffic.standing import POLICY

if TYPE_CHECKING:
    from assets.kind import Kind
    from declare.pipeline import Pipeline
    from resources.lake import Lake
    from resources.ledger import Ledger
    from resources.reports import Reports

WENT_BACK_BEFORE = (
    "This bundle has gone back by itself before; whether it does again is for people to decide "
    "(`evergreen rollback`)."
)


@dataclass(frozen=True)
class Judged:
    """What became of a rollout on a day. `entry` is what was written to the ledger, if anything."""

    rollout: Rollout
    report: Report
    action: Action
    why: str
    link: str
    images: list[Image]
    entry: LedgerEntry | None


def judge_day(
    kind: Kind,
    day: date,
    lake: Lake,
    ledger: Ledger,
    reports: Reports,
    trials: Sequence[Path],
) -> Judged | None:
    """Judge the rollout that is under way on a data day, and take its step.

    Returns None where none is under way, or where it was judged before.
    """
    pipeline = kind.pipeline
    entries = read(ledger, pipeline.name)
    rollout = rollouts.under_way(entries)
    if rollout is None or not _is_due(rollout, entries, day):
        return None

    policy = pipeline.release
    evidence = gather(kind, rollout, entries, day, lake, trials)
    numbers = (
        *measures.measures(kind, rollout, evidence),
        *measures.quality(kind, evidence, policy),
    )
    judged = verdicts.verdicts(rollout, numbers, policy)
    action, why = verdicts.action(judged)
    notes: tuple[str, ...] = ()
    if action == "roll_back" and rollouts.went_back_before(entries, rollout.bundle):
        action, notes = "hold", (WENT_BACK_BEFORE,)

    report = Report(
        pipeline=pipeline.name,
        name=ROLLOUT,
        subject=rollout.bundle,
        day=day,
        measures=numbers,
        verdicts=judged,
        notes=notes,
    )
    page, images = pages.rollout_page(kind, report, rollout, evidence, action, why)
    # The report is stored before anything is decided on it: an entry never names evidence that is
    # not there.
    link = save_report(reports, report, {PAGE: page})

    entry = None
    if action == "advance":
        entry = steps.advance(ledger, rollout, policy, day + DAY, report.digest, why)
    elif action == "roll_back":
        entry = steps.abort(ledger, rollout, POLICY, why, day + DAY, report.digest)
    return Judged(rollout, report, action, why, f"{link}{PAGE}", images, entry)


def prune_trials(pipeline: Pipeline, day: date, trials: Sequence[Path]) -> int:
    """Remove trials older than the declared retention; what they showed is in the reports.

    Returns the number of segments that went.
    """
    from bundle.records.segments import closed_before, remove

    removed = 0
    for folder in trials:
        for path, _, _ in list(closed_before(folder, day - pipeline.log.retention)):
            remove(path)
            removed += 1
    return removed


@dataclass(frozen=True)
class Compared:
    """What an experiment said on a day. `stopped` is the entry that ended it, if it ended."""

    report: Report
    summary: str
    link: str
    stopped: LedgerEntry | None


def compare_day(
    kind: Kind, day: date, lake: Lake, ledger: Ledger, reports: Reports
) -> Compared | None:
    """Look at the experiment that has traffic on a data day, and stop it where its rule says so.

    Returns None where none runs, or where it is not declared any more.
    """
    pipeline = kind.pipeline
    entries = read(ledger, pipeline.name)
    current = experiments.running(entries)
    declared = {experiment.name: experiment for experiment in pipeline.experiments}
    if current is None or current.since > day or current.name not in declared:
        return None

    experiment = declared[current.name]
    served = windows(entries, [current.entry])
    key = experiment.split_by or kind.entity
    labels = kind.labels(lake, current.since, day)
    split = answered(kind, lake, current.since, day, served, current.bundles, key, labels)
    numbers = comparison.measures(kind, experiment, current, split)
    judged = comparison.verdicts(experiment, current, numbers)
    why = comparison.stops(experiment, current, judged, numbers, day)

    summary = f"Experiment {current.name!r} {f'ends: {why}' if why else 'goes on'}."
    report = Report(
        pipeline=pipeline.name,
        name=EXPERIMENT,
        subject=current.name,
        day=day,
        measures=numbers,
        verdicts=judged,
        notes=(summary,),
    )
    link = save_report(reports, report, {PAGE: pages.experiment_page(report, experiment, current)})

    stopped = None
    if why is not None:
        stopped = experiments.stop(
            ledger, pipeline.name, current, POLICY, why, day + DAY, report.digest
        )
    return Compared(report, summary, f"{link}{PAGE}", stopped)


def _is_due(rollout: Rollout, entries: Sequence[LedgerEntry], day: date) -> bool:
    """Whether a rollout's newest step has begun by a day and no later move replaced it."""
    step, moved = rollout.steps[-1], newest_move(entries)
    return step.day <= day and moved is not None and moved.serial == step.entry
