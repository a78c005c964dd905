"""Where every bundle stands on its way to all traffic, computed from ledger entries alone.

    approved ── shadow ── canary 10 % ── canary 50 % ── full ── superseded
                  └──────────┴─────────────┴───────────── rolled back

Only reading. `steps` takes the steps, `judging` decides whether to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple

from assets.traffic.entries import LedgerEntry, Release, Rollback, RolloutStep
from assets.traffic.standing import POLICY

if TYPE_CHECKING:
    from declare.release import ReleasePolicy

Stage = Literal["shadow", "canary", "full"]
Outcome = Literal["shadow", "canary", "full", "superseded", "rolled_back"]


class Step(NamedTuple):
    """One step of a bundle: from data day `day` on it answered `share` of the traffic."""

    entry: int
    stage: Stage
    share: float
    day: date
    moment: datetime


@dataclass(frozen=True)
class Rollout:
    """One bundle on its way. `champion` is what served before it; `outcome` where it stands now.

    `automatic` says that it went back by itself, not by a person.
    """

    pipeline: str
    bundle: str
    candidate: str
    champion: str | None
    steps: tuple[Step, ...]
    outcome: Outcome
    reason: str = ""
    ended: date | None = None
    automatic: bool = False

    @property
    def under_way(self) -> bool:
        return self.outcome in ("shadow", "canary")

    @property
    def in_shadow(self) -> bool:
        """Whether its newest step is the shadow: it is scored and answers nothing."""
        return self.steps[-1].stage == "shadow"

    @property
    def summary(self) -> str:
        """Where it stands, for people: "canary 10 % since 2013-06-25"."""
        last = self.steps[-1]
        if self.outcome == "shadow":
            return f"in the shadow of the champion since {last.day}"
        if self.outcome == "canary":
            return f"canary {last.share:.0%} since {last.day}"

        line = self.outcome.replace("_", " ")
        if self.ended:
            line += f" on {self.ended}"
        return f"{line}: {self.reason}" if self.reason else line


def rollouts(entries: Sequence[LedgerEntry]) -> tuple[Rollout, ...]:
    """Every rollout of a pipeline, oldest first.

    At most the newest one is under way, and at most one serves in full.
    """
    history = _History()
    for entry in entries:
        match entry:
            case RolloutStep():
                history.step(entry)
            case Release():
                history.release(entry)
            case Rollback():
                history.rollback(entry)

    return tuple(history.rollouts)


def under_way(entries: Sequence[LedgerEntry]) -> Rollout | None:
    """The rollout that has not ended yet."""
    known = rollouts(entries)
    return known[-1] if known and known[-1].under_way else None


def next_share(policy: ReleasePolicy, step: Step) -> float:
    """The share of the traffic in the step after this one; 1 for everything."""
    if policy.strategy != "progressive":
        return 1.0
    return next((share for share in policy.canary if share > step.share), 1.0)


def resting_until(entries: Sequence[LedgerEntry], policy: ReleasePolicy) -> date | None:
    """The day until which no rollout begins because one went back by itself; None without one."""
    ends = [
        each.ended
        for each in rollouts(entries)
        if each.outcome == "rolled_back" and each.automatic and each.ended
    ]
    if not ends or not policy.cooldown_days:
        return None
    return max(ends) + timedelta(days=policy.cooldown_days)


def went_back_before(entries: Sequence[LedgerEntry], bundle: str) -> bool:
    """Whether a bundle went back by itself already. It does so once; then people decide."""
    return any(
        isinstance(entry, Rollback) and entry.actor == POLICY and entry.left == bundle
        for entry in entries
    )


class _History:
    """The rollouts as of the entries read so far."""

    def __init__(self) -> None:
        self.rollouts: list[Rollout] = []
        self._champion: str | None = None

    def step(self, entry: RolloutStep) -> None:
        """A step of the rollout under way, or the first step of a new one."""
        step = Step(entry.serial, entry.stage, entry.share, entry.day, entry.moment)
        if self._extends(entry.bundle):
            self._add(step, "canary")
            return

        self._close("superseded", f"the newer bundle {entry.bundle[:12]} took its place", entry)
        self._open(entry, entry.champion, step, "shadow")

    def release(self, entry: Release) -> None:
        """The bundle gets all traffic, at the end of its rollout or at once."""
        reason = f"bundle {entry.bundle[:12]} was released"
        for place, each in enumerate(self.rollouts):
            if each.outcome == "full":
                self.rollouts[place] = replace(
                    each, outcome="superseded", reason=reason, ended=entry.day
                )

        full = Step(entry.serial, "full", 1.0, entry.day, entry.moment)
        if self._extends(entry.bundle):
            self._add(full, "full")
        else:
            self._close("superseded", reason, entry)
            self._open(entry, self._champion, full, "full")

        self._champion = entry.bundle

    def rollback(self, entry: Rollback) -> None:
        """What is under way, and what serves in full, go back; the target serves in full again."""
        self._close("rolled_back", entry.reason, entry)

        for place, each in enumerate(self.rollouts):
            if each.outcome == "full" and each.bundle != entry.bundle:
                self.rollouts[place] = _went_back(each, entry)

        for place in reversed(range(len(self.rollouts))):
            if self.rollouts[place].bundle == entry.bundle:
                self.rollouts[place] = replace(
                    self.rollouts[place], outcome="full", reason="", ended=None
                )
                break

        self._champion = entry.bundle

    def _extends(self, bundle: str) -> bool:
        """Whether this bundle's rollout is the one under way."""
        newest = self.rollouts[-1] if self.rollouts else None
        return newest is not None and newest.under_way and newest.bundle == bundle

    def _add(self, step: Step, outcome: Outcome) -> None:
        newest = self.rollouts[-1]
        self.rollouts[-1] = replace(newest, steps=(*newest.steps, step), outcome=outcome)

    def _open(
        self, entry: RolloutStep | Release, champion: str | None, step: Step, outcome: Outcome
    ) -> None:
        self.rollouts.append(
            Rollout(entry.pipeline, entry.bundle, entry.candidate, champion, (step,), outcome)
        )

    def _close(
        self, outcome: Outcome, reason: str, entry: RolloutStep | Release | Rollback
    ) -> None:
        """End the rollout under way, if there is one."""
        if not self.rollouts or not self.rollouts[-1].under_way:
            return
        automatic = isinstance(entry, Rollback) and entry.actor == POLICY
        self.rollouts[-1] = replace(
            self.rollouts[-1], outcome=outcome, reason=reason, ended=entry.day, automatic=automatic
        )


def _went_back(rollout: Rollout, entry: Rollback) -> Rollout:
    return replace(
        rollout,
        outcome="rolled_back",
        reason=entry.reason,
        ended=entry.day,
        automatic=entry.actor == POLICY,
    )
