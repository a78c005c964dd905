"""The pages of a rollout and of an experiment: the judgement, the arms side by side, the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from assets.reporting.page import Image, Section, Table, render
from assets.reporting.report import Measure, Report
from assets.reporting.tables import estimate, number
from assets.traffic.experiments import Running
from assets.traffic.judging.comparison import EFFECT
from assets.traffic.judging.evidence import Evidence
from assets.traffic.judging.measures import CANDIDATE, CHAMPION
from assets.traffic.judging.plots import experiment_plots, rollout_plots
from assets.traffic.judging.verdicts import Action
from assets.traffic.rollouts import Rollout, next_share
from declare.release import Experiment

if TYPE_CHECKING:
    from assets.kind import Kind

ACTIONS: dict[Action, str] = {
    "advance": "takes the next step",
    "hold": "waits",
    "roll_back": "goes back",
}
ROLLOUT_LEAD = (
    "May the candidate take more of the traffic, must it wait, or must it go back to what served "
    "before?"
)
EXPERIMENT_LEAD = (
    "Is any arm better or worse than the champion, by as much as matters? The intervals hold at "
    "every look, so any day may be the last."
)


def rollout_page(
    kind: Kind,
    report: Report,
    rollout: Rollout,
    evidence: Evidence,
    action: Action,
    why: str,
) -> tuple[bytes, list[Image]]:
    """The HTML page of a rollout's day, and its plots."""
    policy = kind.pipeline.release
    images = rollout_plots(kind, rollout, evidence, policy)
    last = rollout.steps[-1]
    decision = ACTIONS[action]
    if action == "advance":
        decision += f": {_percent(next_share(policy, last))} from tomorrow"

    facts = [
        ("candidate", rollout.bundle[:16]),
        ("champion", (rollout.champion or "none")[:16]),
        ("stage", "shadow" if rollout.in_shadow else f"canary {_percent(last.share)}"),
        ("decision", decision),
    ]
    sections = [
        Section("Why", why[:1].upper() + why[1:] + "."),
        Section("The arms", images=images, tables=[_by_arm(report.measures)]),
        Section("Steps", tables=[_steps(rollout)]),
        Section("Numbers", tables=[_plain(report.measures)]),
    ]
    return render(report, "Rollout", ROLLOUT_LEAD, facts, sections), images


def experiment_page(report: Report, experiment: Experiment, current: Running) -> bytes:
    """The HTML page of an experiment's day: arms, shares, differences to the champion."""
    effects = {measure.group: measure for measure in report.measures if measure.name == EFFECT}
    facts = [
        ("experiment", experiment.name),
        ("since", current.since.isoformat()),
        ("metric", experiment.metric.replace("_", " ")),
        ("minimum effect", f"{experiment.minimum_effect:g}"),
        ("alpha", f"{experiment.alpha:g} over all arms and looks"),
    ]
    images = experiment_plots(effects.values(), experiment)
    table = _experiment_arms(report.measures, experiment, current)
    sections = [Section("The arms", images=images, tables=[table])]

    return render(report, "Experiment", EXPERIMENT_LEAD, facts, sections)


def _experiment_arms(
    measures: Sequence[Measure], experiment: Experiment, current: Running
) -> Table:
    at = {(measure.name, measure.group): measure for measure in measures}
    worse_by = f"{experiment.metric.replace('_', ' ')} worse by"
    rows = []
    for name, bundle in current.arms:
        effect, requests = at.get((EFFECT, name)), at["requests", name].value or 0
        difference, labels = "–", 0
        if effect is not None:
            difference = estimate(effect.value, effect.low, effect.high, sign=True)
            labels = effect.n
        share = _percent(experiment.arms[name])
        rows.append([name[:16], bundle[:16], share, f"{requests:,.0f}", difference, f"{labels:,}"])

    return Table(["arm", "bundle", "share", "requests", worse_by, "labels"], rows)


def _by_arm(measures: Sequence[Measure]) -> Table:
    """One row a number, champion and candidate side by side."""
    at = {(measure.name, measure.group): measure for measure in measures}
    names = dict.fromkeys(m.name for m in measures if m.group in (CHAMPION, CANDIDATE))
    rows = []
    for name in names:
        cells = [_cell(at.get((name, arm))) for arm in (CHAMPION, CANDIDATE)]
        rows.append([name.replace("_", " "), *cells])

    return Table(["", CHAMPION, CANDIDATE], rows)


def _cell(measure: Measure | None) -> str:
    return "–" if measure is None else f"{number(measure.value)} (n={measure.n:,})"


def _plain(measures: Sequence[Measure]) -> Table:
    """Numbers that are not of one arm."""
    rows = []
    for measure in measures:
        if measure.group in (CHAMPION, CANDIDATE):
            continue
        name = measure.name.replace("_", " ")
        shown = f"{name} ({measure.group})" if measure.group else name
        value = estimate(measure.value, measure.low, measure.high)
        rows.append([shown, value, f"{measure.n:,}"])

    return Table(["number", "value (interval at every look)", "n"], rows)


def _steps(rollout: Rollout) -> Table:
    rows = [
        [step.stage, _percent(step.share), step.day.isoformat(), str(step.entry)]
        for step in rollout.steps
    ]
    return Table(["step", "share", "from", "ledger entry"], rows)


def _percent(share: float) -> str:
    return f"{share:.0%}"
