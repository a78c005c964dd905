"""A rollout for people: what was judged, the arms side by side, and the steps so far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date

import numpy as np

from assets.reporting.page import Image, Section, Table, render
from assets.reporting.report import Measure, Report
from assets.reporting.tables import estimate, number
from assets.traffic.evidence import Divided, Evidence
from assets.traffic.experiments import EFFECT, Running
from assets.traffic.judging import (
    CANDIDATE,
    CHAMPION,
    Action,
    Observed,
    arm_effects,
    paired_losses,
    tuned_for,
)
from assets.traffic.rollouts import Rollout, next_share
from assets.traffic.sequential import confidence_sequence
from declare.release import Experiment, ReleasePolicy

ACTIONS = {"advance": "takes the next step", "hold": "waits", "roll_back": "goes back"}
LEAD = "May the candidate take more of the traffic, must it wait, or must it go back to what served before?"


def page(
    report: Report,
    rollout: Rollout,
    evidence: Evidence,
    policy: ReleasePolicy,
    action: Action,
    why: str,
) -> tuple[bytes, list[Image]]:
    """The HTML page of a rollout's day, and its plots."""
    images = plots(rollout, evidence, policy)
    last = rollout.steps[-1]
    share = next_share(policy, last)
    facts = [
        ("candidate", rollout.bundle[:16]),
        ("champion", (rollout.champion or "none")[:16]),
        ("stage", "shadow" if last.stage == "shadow" else f"canary {last.share:.0%}"),
        (
            "decision",
            f"{ACTIONS[action]}{f': {_share(share)} from tomorrow' if action == 'advance' else ''}",
        ),
    ]
    sections = [
        Section("Why", why[:1].upper() + why[1:] + "."),
        Section("The arms", images=images, tables=[_by_arm(report.measures)]),
        Section(
            "Steps", tables=[Table(["step", "share", "from", "ledger entry"], _steps(rollout))]
        ),
        Section("Numbers", tables=[_plain(report.measures)]),
    ]
    return render(report, "Rollout", LEAD, facts, sections), images


def plots(rollout: Rollout, evidence: Evidence, policy: ReleasePolicy) -> list[Image]:
    """Outputs and latencies of both arms, and the difference in log loss as it was seen day by day."""
    return [*_distributions(rollout, evidence), *_differences(evidence, policy)]


def experiment_page(
    report: Report, experiment: Experiment, current: Running, split: Divided
) -> bytes:
    """The HTML page of an experiment's day: arms, shares, differences with intervals that hold at every look."""
    effects = {measure.group: measure for measure in report.measures if measure.name == EFFECT}
    counts = {measure.group: measure for measure in report.measures if measure.name == "requests"}
    rows = []
    for name, bundle in current.arms:
        effect, count = effects.get(name), counts[name]
        shown = (
            "–" if effect is None else estimate(effect.value, effect.low, effect.high, sign=True)
        )
        rows.append(
            [
                name[:16],
                bundle[:16],
                _share(experiment.arms[name]),
                f"{count.value or 0:,.0f}",
                shown,
                f"{effect.n if effect else 0:,}",
            ]
        )
    facts = [
        ("experiment", experiment.name),
        ("since", current.since.isoformat()),
        ("metric", experiment.metric.replace("_", " ")),
        ("minimum effect", f"{experiment.minimum_effect:g}"),
        ("alpha", f"{experiment.alpha:g} over all arms and looks"),
    ]
    header = [
        "arm",
        "bundle",
        "share",
        "requests",
        f"{experiment.metric.replace('_', ' ')} worse by",
        "labels",
    ]
    sections = [
        Section(
            "The arms", images=_effects(effects.values(), experiment), tables=[Table(header, rows)]
        )
    ]
    lead = "Is any arm better or worse than the champion, by as much as matters? The intervals hold at every look, so any day may be the last."
    return render(report, "Experiment", lead, facts, sections)


def _effects(effects: Iterable[Measure], experiment: Experiment) -> list[Image]:
    from assets.reporting.plots import ACCENT, INK, figure, label, png

    known = [m for m in effects if m.value is not None and m.low is not None and m.high is not None]
    if not known:
        return []
    drawn, (axes,) = figure(1, 7.0, 1.2 + 0.4 * len(known))
    for place, m in enumerate(known):
        assert m.value is not None
        assert m.low is not None
        assert m.high is not None
        axes.errorbar(
            [m.value],
            [place],
            xerr=[[m.value - m.low], [m.high - m.value]],
            fmt="o",
            capsize=4,
            color=ACCENT,
        )
    axes.set_yticks(range(len(known)), [str(m.group)[:16] for m in known])
    axes.axvline(0, color=INK, linewidth=0.8)
    for side in (-1, 1):
        axes.axvline(side * experiment.minimum_effect, color=INK, linewidth=0.8, linestyle="--")
    label(
        axes,
        f"Difference in {experiment.metric.replace('_', ' ')} to the champion",
        "below zero the arm is better; dashed: the minimum effect",
    )
    return [
        Image(
            png(drawn), "Differences to the champion with intervals that hold at every look.", 700
        )
    ]


def _distributions(rollout: Rollout, evidence: Evidence) -> list[Image]:
    from assets.reporting.plots import PALETTE, figure, label, png

    paired, step = evidence.paired, evidence.step
    shadow = rollout.steps[-1].stage == "shadow"
    if shadow:
        timed = ~np.isnan(paired.champion_us)
        outputs = {
            CHAMPION: paired.champion,
            CANDIDATE: paired.candidate[~np.isnan(paired.candidate)],
        }
        times = {
            CHAMPION: paired.champion_us[timed] / 1_000,
            CANDIDATE: paired.candidate_us / 1_000,
        }
    else:
        outputs = {
            name: step.output[step.arm == index] for index, name in enumerate((CHAMPION, CANDIDATE))
        }
        times = {
            name: step.ms[step.arm == index] for index, name in enumerate((CHAMPION, CANDIDATE))
        }
    if not all(len(values) for values in (*outputs.values(), *times.values())):
        return []
    drawn, (left, right) = figure(2, 4.6, 2.8)
    for colour, (name, values) in zip(PALETTE, outputs.items(), strict=False):
        left.hist(
            values,
            bins=np.linspace(0, 1, 31).tolist(),
            density=True,
            histtype="step",
            linewidth=1.6,
            color=colour,
            label=f"{name} (n={len(values):,})",
        )
    label(left, "Outputs", "probability", "density", legend=True)
    most = max(float(np.quantile(values, 0.99)) for values in times.values())
    for colour, (name, values) in zip(PALETTE, times.items(), strict=False):
        right.hist(
            np.minimum(values, most),
            bins=np.linspace(0, most, 31).tolist(),
            density=True,
            histtype="step",
            linewidth=1.6,
            color=colour,
            label=name,
        )
    label(right, "Computation" if shadow else "Latency", "milliseconds", "", legend=True)
    where = "on the same requests" if shadow else "on the requests that each answered"
    return [Image(png(drawn), f"Outputs and times of champion and candidate {where}.", 900)]


def _differences(evidence: Evidence, policy: ReleasePolicy) -> list[Image]:
    from assets.reporting.plots import INK, PALETTE, figure, label, png

    series = {
        "same requests (shadow)": paired_losses(evidence.paired),
        "between arms (canary)": arm_effects(evidence.split, 1, "log_loss"),
    }
    series = {
        name: observed
        for name, observed in series.items()
        if len(observed.values) >= policy.minimum_labels
    }
    if not series:
        return []
    drawn, (axes,) = figure(1, 7.0, 2.8)
    for shift, (colour, (name, observed)) in enumerate(zip(PALETTE, series.items(), strict=False)):
        looks = _looks(observed, policy)
        at = [date.fromordinal(_ordinal(day)).toordinal() + 0.12 * shift for day, *_ in looks]
        middle = [mean for _, mean, *_ in looks]
        errors = [
            [mean - low for _, mean, low, _ in looks],
            [high - mean for _, mean, _, high in looks],
        ]
        axes.errorbar(at, middle, yerr=errors, fmt="o", capsize=4, color=colour, label=name)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.axhline(policy.quality_margin, color=INK, linewidth=0.8, linestyle="--")
    ticks = sorted(
        {
            int(tick)
            for observed in series.values()
            for tick in (_ordinal(day) for day in np.unique(observed.days))
        }
    )
    axes.set_xticks(ticks, [date.fromordinal(tick).strftime("%d %b") for tick in ticks])
    label(
        axes, "Candidate's log loss minus champion's", "all labels up to", "difference", legend=True
    )
    return [
        Image(
            png(drawn),
            "Below zero the candidate is better; it goes back when a whole interval lies above the dashed line. The intervals hold at every look.",
            700,
        )
    ]


def _looks(observed: Observed, policy: ReleasePolicy) -> list[tuple[int, float, float, float]]:
    looks = []
    for day in np.unique(observed.days).tolist():
        bounds = confidence_sequence(
            observed.values[observed.days <= day], policy.alpha / 2, tuned_for(policy)
        )
        looks.append((int(day), bounds.mean, bounds.low, bounds.high))
    return looks


def _ordinal(day: int) -> int:
    """Days since 1970 as days of the calendar."""
    return int(day) + date(1970, 1, 1).toordinal()


def _by_arm(measures: Sequence[Measure]) -> Table:
    names = list(dict.fromkeys(m.name for m in measures if m.group in (CHAMPION, CANDIDATE)))
    found = {(m.name, m.group): m for m in measures}
    rows = []
    for name in names:
        cells = [found.get((name, arm)) for arm in (CHAMPION, CANDIDATE)]
        rows.append(
            [
                name.replace("_", " "),
                *(f"{number(m.value)} (n={m.n:,})" if m else "–" for m in cells),
            ]
        )
    return Table(["", CHAMPION, CANDIDATE], rows)


def _plain(measures: Sequence[Measure]) -> Table:
    rows = [
        [
            f"{m.name.replace('_', ' ')}{f' ({m.group})' if m.group else ''}",
            estimate(m.value, m.low, m.high),
            f"{m.n:,}",
        ]
        for m in measures
        if m.group not in (CHAMPION, CANDIDATE)
    ]
    return Table(["number", "value (interval at every look)", "n"], rows)


def _steps(rollout: Rollout) -> list[list[str]]:
    return [
        [step.stage, _share(step.share), step.day.isoformat(), str(step.entry)]
        for step in rollout.steps
    ]


def _share(share: float) -> str:
    return f"{share:.0%}"
