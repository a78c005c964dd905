"""The plots of a rollout and of an experiment. The pages that show them are made in `pages`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from assets.reporting.page import Image
from assets.reporting.report import Measure
from assets.traffic.judging.evidence import Evidence
from assets.traffic.judging.losses import Observed, arm_effects, paired_losses, tuned_for
from assets.traffic.judging.measures import Arms, latencies, outputs
from assets.traffic.judging.sequential import confidence_sequence
from assets.traffic.rollouts import Rollout
from declare.release import Experiment, ReleasePolicy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from assets.kind import Kind

_EPOCH = date(1970, 1, 1).toordinal()


def rollout_plots(
    kind: Kind, rollout: Rollout, evidence: Evidence, policy: ReleasePolicy
) -> list[Image]:
    """Outputs and latencies of both arms, and the difference in log loss as seen day by day."""
    return [*_distributions(rollout, evidence), *_differences(kind, evidence, policy)]


def experiment_plots(effects: Iterable[Measure], experiment: Experiment) -> list[Image]:
    """The difference of each arm to the champion; no plot before the first one is known."""
    from assets.reporting.plots import ACCENT, INK, figure, label, png

    known = [
        (measure.group, measure.value, measure.low, measure.high)
        for measure in effects
        if measure.value is not None and measure.low is not None and measure.high is not None
    ]
    if not known:
        return []

    drawn, (axes,) = figure(1, 7.0, 1.2 + 0.4 * len(known))
    for place, (_, value, low, high) in enumerate(known):
        reach = [[value - low], [high - value]]
        axes.errorbar([value], [place], xerr=reach, fmt="o", capsize=4, color=ACCENT)

    axes.set_yticks(range(len(known)), [str(name)[:16] for name, *_ in known])
    axes.axvline(0, color=INK, linewidth=0.8)
    for side in (-1, 1):
        axes.axvline(side * experiment.minimum_effect, color=INK, linewidth=0.8, linestyle="--")
    label(
        axes,
        f"Difference in {experiment.metric.replace('_', ' ')} to the champion",
        "below zero the arm is better; dashed: the minimum effect",
    )
    caption = "Differences to the champion with intervals that hold at every look."
    return [Image(png(drawn), caption, 700)]


def _distributions(rollout: Rollout, evidence: Evidence) -> list[Image]:
    from assets.reporting.plots import PALETTE, figure, label, png

    shadow = rollout.in_shadow
    values, times = outputs(evidence, shadow), latencies(evidence, shadow)
    if not all(len(each) for each in (*values, *times)):
        return []

    drawn, (left, right) = figure(2, 4.6, 2.8)
    _outlines(left, values, 1.0, PALETTE)
    label(left, "Outputs", "probability", "density", legend=True)
    most = max(float(np.quantile(each, 0.99)) for each in times)
    _outlines(right, Arms(*(np.minimum(each, most) for each in times)), most, PALETTE)
    label(right, "Computation" if shadow else "Latency", "milliseconds", "", legend=True)

    where = "on the same requests" if shadow else "on the requests that each answered"
    caption = f"Outputs and times of champion and candidate {where}."
    return [Image(png(drawn), caption, 900)]


def _outlines(axes: Axes, arms: Arms, most: float, palette: Sequence[str]) -> None:
    """The outline of each arm's histogram over [0, `most`]."""
    for colour, (name, values) in zip(palette, arms.items(), strict=False):
        axes.hist(
            values,
            bins=np.linspace(0, most, 31).tolist(),
            density=True,
            histtype="step",
            linewidth=1.6,
            color=colour,
            label=f"{name} (n={len(values):,})",
        )


def _differences(kind: Kind, evidence: Evidence, policy: ReleasePolicy) -> list[Image]:
    from assets.reporting.plots import INK, PALETTE, figure, label, png

    compared = {
        "same requests (shadow)": paired_losses(kind, evidence.paired),
        "between arms (canary)": arm_effects(kind, evidence.split, 1, "log_loss"),
    }
    series = {
        name: _looks(observed, policy)
        for name, observed in compared.items()
        if len(observed.values) >= policy.minimum_labels
    }
    if not series:
        return []

    drawn, (axes,) = figure(1, 7.0, 2.8)
    for shift, (colour, (name, looks)) in enumerate(zip(PALETTE, series.items(), strict=False)):
        at = [day + 0.12 * shift for day, *_ in looks]
        middle = [mean for _, mean, *_ in looks]
        below = [mean - low for _, mean, low, _ in looks]
        above = [high - mean for _, mean, _, high in looks]
        axes.errorbar(at, middle, yerr=[below, above], fmt="o", capsize=4, color=colour, label=name)

    axes.axhline(0, color=INK, linewidth=0.8)
    axes.axhline(policy.quality_margin, color=INK, linewidth=0.8, linestyle="--")
    ticks = sorted({day for day, *_ in chain.from_iterable(series.values())})
    axes.set_xticks(ticks, [date.fromordinal(tick).strftime("%d %b") for tick in ticks])
    title = "Candidate's log loss minus champion's"
    label(axes, title, "all labels up to", "difference", legend=True)
    caption = (
        "Below zero the candidate is better; it goes back when a whole interval lies above the "
        "dashed line. The intervals hold at every look."
    )
    return [Image(png(drawn), caption, 700)]


def _looks(observed: Observed, policy: ReleasePolicy) -> list[tuple[int, float, float, float]]:
    """(calendar ordinal, mean, low, high) as seen at the end of each day."""
    looks = []
    for day in np.unique(observed.days).tolist():
        until = observed.values[observed.days <= day]
        bounds = confidence_sequence(until, policy.alpha / 2, tuned_for(policy))
        looks.append((int(day) + _EPOCH, bounds.mean, bounds.low, bounds.high))
    return looks
