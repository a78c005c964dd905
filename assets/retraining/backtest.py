"""What a policy would have done: the very same `decide` over the days of history."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date

from assets.retraining.decide import Decision, Evidence, decide
from declare.retraining import RetrainingPolicy

# Evidence of a day, given the decisions made before it: what is known of a day depends on what was
# retrained earlier.
EvidenceSource = Callable[[date, tuple[Decision, ...]], Evidence]


def backtest(
    days: Iterable[date], evidence: EvidenceSource, policy: RetrainingPolicy
) -> tuple[Decision, ...]:
    """Decisions of `days`, in order.

    Raises ValueError for evidence that speaks of another day than it was asked for.
    """
    made: tuple[Decision, ...] = ()
    for day in sorted(days):
        known = evidence(day, made)
        if known.day != day:
            raise ValueError(
                f"the evidence asked for {day} speaks of {known.day}; an evidence source answers "
                "for the day it is given"
            )
        made = (*made, decide(known, policy))
    return made


def retrains(decisions: Iterable[Decision]) -> tuple[Decision, ...]:
    """The decisions to retrain, in order."""
    return tuple(decision for decision in decisions if decision.retrain)
