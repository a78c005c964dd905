"""Every number that the judgement of a rollout reads, each with its sample size.

`group` of a measure is the arm. Which numbers are good enough is decided in `verdicts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from assets.reporting.report import Measure
from assets.traffic.judging.evidence import Evidence, Floats
from assets.traffic.judging.losses import (
    arm_effects,
    bounded,
    entropy,
    labelled,
    mean_loss,
    paired_losses,
    shift_by_chance,
    split_measures,
    tuned_for,
)
from assets.traffic.judging.sequential import confidence_sequence
from assets.traffic.rollouts import Rollout
from declare.release import ReleasePolicy

if TYPE_CHECKING:
    from assets.kind import Kind

CHAMPION, CANDIDATE = "champion", "candidate"
WORSE_BY = "log_loss_worse_by"


class Arms(NamedTuple):
    """Values (n,) of champion and candidate; n may differ."""

    champion: Floats
    candidate: Floats

    @property
    def n(self) -> int:
        return len(self.champion) + len(self.candidate)

    def items(self) -> tuple[tuple[str, Floats], ...]:
        return (CHAMPION, self.champion), (CANDIDATE, self.candidate)


def outputs(evidence: Evidence, shadow: bool) -> Arms:
    """Outputs of the present step: in the shadow of requests that both computed."""
    if shadow:
        both = ~np.isnan(evidence.paired.candidate)
        return Arms(evidence.paired.champion[both], evidence.paired.candidate[both])
    step = evidence.step
    return Arms(step.output[step.arm == 0], step.output[step.arm == 1])


def latencies(evidence: Evidence, shadow: bool) -> Arms:
    """Milliseconds: in the shadow of the computation alone, afterwards of whole requests.

    In the shadow the same thread computes both arms.
    """
    if shadow:
        paired = evidence.paired
        timed = ~np.isnan(paired.champion_us)
        return Arms(paired.champion_us[timed] / 1_000, paired.candidate_us[timed] / 1_000)
    step = evidence.step
    return Arms(step.ms[step.arm == 0], step.ms[step.arm == 1])


def measures(kind: Kind, rollout: Rollout, evidence: Evidence) -> tuple[Measure, ...]:
    """The numbers of the present step that need no labels."""
    arms = outputs(evidence, rollout.in_shadow)
    return (
        *_progress(rollout, evidence, arms),
        *_failures(rollout, evidence),
        *_medians(latencies(evidence, rollout.in_shadow)),
        *_predictions(kind, arms),
        *split_measures(evidence.step),
    )


def quality(kind: Kind, evidence: Evidence, policy: ReleasePolicy) -> tuple[Measure, ...]:
    """How much worse the candidate's log loss is than the champion's on matured labels.

    Once on the same requests ("shadow") and once between requests that either answered ("canary"),
    with intervals that hold at every look. Each takes half of alpha.
    """
    compared = (
        ("shadow", paired_losses(kind, evidence.paired)),
        ("canary", arm_effects(kind, evidence.split, 1, "log_loss")),
    )
    found = []
    for group, observed in compared:
        bounds = confidence_sequence(observed.values, policy.alpha / 2, tuned_for(policy))
        found.append(bounded(WORSE_BY, bounds, group))

    for arm, name in enumerate((CHAMPION, CANDIDATE)):
        y, p = labelled(evidence, arm)
        found.append(Measure(name="log_loss", value=mean_loss(kind, y, p), n=len(y), group=name))
    return tuple(found)


def _progress(rollout: Rollout, evidence: Evidence, arms: Arms) -> list[Measure]:
    """How much has been seen, for how long, and whether the step is confirmed."""
    scored = len(evidence.paired)
    days = (evidence.day - rollout.steps[-1].day).days + 1
    found = [Measure(name="scored_in_shadow", value=float(scored), n=scored)]
    for name, values in arms.items():
        found.append(Measure(name="requests", value=float(len(values)), n=arms.n, group=name))

    found.append(Measure(name="days", value=float(days), n=1))
    found.append(Measure(name="confirmed", value=float(evidence.confirmed), n=1))
    return found


def _failures(rollout: Rollout, evidence: Evidence) -> list[Measure]:
    """Failures of the candidate, of all requests that it had to compute in the whole rollout."""
    answered = 0 if rollout.in_shadow else int((evidence.split.arm == 1).sum())
    tried = len(evidence.paired) + answered
    invalid, raised = evidence.failures.invalid, evidence.failures.raised
    share = raised / tried if tried else None

    return [
        Measure(name="invalid_outputs", value=float(invalid), n=tried, group=CANDIDATE),
        Measure(name="error_share", value=share, n=tried, group=CANDIDATE),
    ]


def _medians(times: Arms) -> list[Measure]:
    found = []
    for name, values in times.items():
        median = float(np.median(values)) if len(values) else None
        found.append(Measure(name="latency_ms_median", value=median, n=len(values), group=name))
    return found


def _predictions(kind: Kind, arms: Arms) -> list[Measure]:
    """Mean and estimated loss of each arm's outputs, and the shift between both."""
    found = []
    for name, values in arms.items():
        mean, n = float(values.mean()) if len(values) else None, len(values)
        found.append(Measure(name="mean_prediction", value=mean, n=n, group=name))
        found.append(Measure(name="estimated_log_loss", value=entropy(values), n=n, group=name))

    moved = kind.output_shift(arms.champion, arms.candidate)
    chance = shift_by_chance(len(arms.champion), len(arms.candidate))
    found.append(Measure(name="prediction_shift", value=moved, n=arms.n))
    found.append(Measure(name="shift_by_chance", value=chance, n=arms.n))
    return found
