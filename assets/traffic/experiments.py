"""Experiments: several bundles share the traffic for a while. Which one runs, its start, its stop.

What an experiment shows is in `judging.comparison`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from assets.traffic.entries import (
    ExperimentStart,
    ExperimentStop,
    LedgerEntry,
    entries as read,
    record,
)
from assets.traffic.moves import newest_move, released
from assets.traffic.rollouts import under_way
from assets.traffic.standing import approved

if TYPE_CHECKING:
    from declare.release import Experiment
    from resources.ledger import Ledger

CHAMPION, CANDIDATE = "champion", "candidate"


@dataclass(frozen=True)
class Running:
    """An experiment that has traffic: `arms` are (name, bundle), champion first."""

    entry: int
    name: str
    arms: tuple[tuple[str, str], ...]
    since: date

    @property
    def bundles(self) -> list[str]:
        return [bundle for _, bundle in self.arms]


def running(entries: Sequence[LedgerEntry]) -> Running | None:
    """The experiment that has traffic now.

    Any later move ends it. What it showed until then holds all the same.
    """
    move = newest_move(entries)
    return _running(move) if isinstance(move, ExperimentStart) else None


def started(entries: Sequence[LedgerEntry], name: str) -> Running | None:
    """The newest start of an experiment, whether it still runs or not."""
    for entry in reversed(entries):
        if isinstance(entry, ExperimentStart) and entry.name == name:
            return _running(entry)
    return None


def start(
    ledger: Ledger,
    pipeline: str,
    experiment: Experiment,
    candidate: str | None,
    actor: str,
    reason: str,
    day: date,
) -> LedgerEntry:
    """Give an experiment its traffic from data day `day` on; starting what runs makes no entry.

    `candidate` is the bundle that the arm "candidate" stands for. Raises ValueError for an arm that
    nobody approved, LookupError where nothing serves, PermissionError while a bundle is being
    rolled out: one change of the traffic at a time.
    """
    entries = read(ledger, pipeline)
    champion = released(entries)
    if champion is None:
        raise LookupError(
            f"pipeline {pipeline!r} has released nothing yet; an experiment compares with what "
            "serves"
        )
    arms = _arms(experiment, champion, candidate)
    _check_arms(experiment, arms, entries)

    def already(now: Sequence[LedgerEntry]) -> LedgerEntry | None:
        current = running(now)
        if current is not None and current.name == experiment.name:
            return newest_move(now)
        if (rollout := under_way(now)) is not None:
            raise PermissionError(
                f"bundle {rollout.bundle[:12]} is {rollout.summary}; an experiment may start when "
                "that has ended"
            )
        if released(now) != champion:
            raise ValueError(f"bundle {released(now)} is released now, not {champion}; try again")
        return None

    draft = ExperimentStart(
        pipeline=pipeline,
        bundle=champion,
        day=day,
        actor=actor,
        name=experiment.name,
        names=tuple(arms),
        arms=tuple((bundle, experiment.arms[arm]) for arm, bundle in arms.items()),
        key=experiment.split_by or "",
        salt=experiment.name,
        reason=reason,
    )
    return record(ledger, draft, unless=already)


def stop(
    ledger: Ledger,
    pipeline: str,
    current: Running,
    actor: str,
    reason: str,
    day: date,
    report: str | None = None,
) -> LedgerEntry:
    """Give all traffic back to the champion. `report` is the digest of what that rests on.

    Raises ValueError where the experiment does not run any more.
    """
    champion = current.bundles[0]

    def still(now: Sequence[LedgerEntry]) -> None:
        known = running(now)
        if known is None or known.entry != current.entry:
            raise ValueError(
                f"experiment {current.name!r} of entry {current.entry} does not run any more"
            )

    draft = ExperimentStop(
        pipeline=pipeline,
        bundle=champion,
        day=day,
        actor=actor,
        name=current.name,
        arms=((champion, 1.0),),
        reason=reason,
        report=report,
    )
    return record(ledger, draft, unless=still)


def _arms(experiment: Experiment, champion: str, candidate: str | None) -> dict[str, str]:
    """The bundle of each arm, champion first. An arm without a name of its own is a digest."""
    named = {CHAMPION: champion}
    if candidate is not None:
        named[CANDIDATE] = candidate
    ordered = [CHAMPION, *(arm for arm in experiment.arms if arm != CHAMPION)]

    return {arm: named.get(arm, arm) for arm in ordered}


def _check_arms(
    experiment: Experiment, arms: dict[str, str], entries: Sequence[LedgerEntry]
) -> None:
    """Raises ValueError for an arm that nobody approved, and for a bundle with two arms."""
    for arm, bundle in arms.items():
        if arm != CHAMPION and not approved(entries, bundle):
            raise ValueError(
                f"arm {arm!r} of experiment {experiment.name!r} is bundle {bundle[:64]!r}, which "
                "nobody approved, or somebody refused since"
            )

    if len(set(arms.values())) < len(arms):
        named = ", ".join(f"{arm} is {bundle[:12]}" for arm, bundle in arms.items())
        raise ValueError(f"experiment {experiment.name!r} names a bundle twice: {named}")


def _running(entry: ExperimentStart) -> Running:
    bundles = [bundle for bundle, _ in entry.arms]
    return Running(
        entry.serial, entry.name, tuple(zip(entry.names, bundles, strict=True)), entry.day
    )
