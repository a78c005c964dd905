"""What an experiment shows: each arm against the champion, and whether its rule stops it.

The intervals hold at every look, so any day may be the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Literal

from assets.reporting.report import Measure, Verdict
from assets.traffic.experiments import Running
from assets.traffic.judging.evidence import Divided
from assets.traffic.judging.losses import arm_effects, bounded, split_measures
from assets.traffic.judging.sequential import confidence_sequence
from assets.traffic.judging.verdicts import split_verdict

if TYPE_CHECKING:
    from assets.kind import Kind
    from declare.release import Experiment

EFFECT = "worse_by"
Finding = Literal["better", "worse", "alike", "open"]

OBSERVATIONS = 100
"""With fewer, an asymptotic interval says nothing yet."""

_PASSED = {"better": True, "alike": True, "worse": False, "open": None}


def measures(
    kind: Kind, experiment: Experiment, current: Running, split: Divided
) -> tuple[Measure, ...]:
    """Requests, outputs and losses of each arm, and how much worse each is than the champion.

    Each of k comparisons takes alpha / k.
    """
    found = list(split_measures(split))
    alpha = experiment.alpha / (len(current.arms) - 1)

    for index, (name, _) in enumerate(current.arms):
        outputs = split.output[split.arm == index]
        n = len(outputs)
        mean = float(outputs.mean()) if n else None
        found.append(Measure(name="requests", value=float(n), n=len(split), group=name))
        found.append(Measure(name="mean_prediction", value=mean, n=n, group=name))
        if index > 0:
            observed = arm_effects(kind, split, index, experiment.metric)
            bounds = confidence_sequence(observed.values, alpha, 2_000)
            found.append(bounded(EFFECT, bounds, name))

    return tuple(found)


def verdicts(
    experiment: Experiment, current: Running, measures: Sequence[Measure]
) -> tuple[Verdict, ...]:
    """Whether the split is as declared, then for each arm whether it is no worse than the champion.

    An arm's verdict is unknown while its difference is open.
    """
    split = next((m for m in measures if m.name == "split_evidence"), None)
    judged = [split_verdict(split, "no request was divided")]
    for name, _ in current.arms[1:]:
        effect = next(m for m in measures if m.name == EFFECT and m.group == name)
        judged.append(_no_worse(experiment, name, effect))

    return tuple(judged)


def finding(effect: Measure, experiment: Experiment) -> Finding:
    """What an arm's interval says: too small a difference to matter, its sign, or nothing yet."""
    least = experiment.minimum_effect
    if effect.low is None or effect.high is None or effect.n < OBSERVATIONS:
        return "open"
    if -least < effect.low and effect.high < least:
        return "alike"
    if effect.low > 0:
        return "worse"
    return "better" if effect.high < 0 else "open"


def stops(
    experiment: Experiment,
    current: Running,
    judged: Sequence[Verdict],
    measures: Sequence[Measure],
    day: date,
) -> str | None:
    """Why the experiment ends with this day; None while it goes on."""
    if judged[0].passed is False:
        return (
            f"the split is not as declared, so nothing it says can be relied on: {judged[0].reason}"
        )

    effects = {m.group: finding(m, experiment) for m in measures if m.name == EFFECT}
    said = ", ".join(f"{name} is {known}" for name, known in effects.items())
    if "open" not in effects.values():
        return f"every arm is decided: {said}"
    if (day - current.since).days + 1 >= experiment.days:
        return f"its {experiment.days} days are over: {said}"
    return None


def _no_worse(experiment: Experiment, name: str, effect: Measure) -> Verdict:
    known = finding(effect, experiment)
    interval = "no labels have matured"
    if effect.value is not None:
        interval = f"{effect.value:+.4f} ({effect.low:+.4f} to {effect.high:+.4f}, n={effect.n})"
    reason = (
        f"{experiment.metric} worse by {interval} than the champion's: {known}, at a minimum "
        f"effect of {experiment.minimum_effect:g}"
    )
    return Verdict(
        rule=f"{name[:12]}_is_no_worse",
        passed=_PASSED[known],
        value=effect.value,
        limit=experiment.minimum_effect,
        n=effect.n,
        reason=reason,
    )
