"""The steps of a rollout: begin, advance, go back, withdraw. Each is one ledger entry.

A step is appended under the ledger's write lock, and only while the step before it is the newest:
repeated, or after a kill, nothing happens twice. Whether to take a step is decided in `judging`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

import msgspec

from assets.traffic.entries import (
    LedgerEntry,
    Release,
    Rollback,
    RolloutStep,
    entries as read,
    record,
)
from assets.traffic.moves import candidate_of, newest_move, newest_release, released, served_before
from assets.traffic.rollouts import Rollout, next_share, resting_until, under_way
from assets.traffic.standing import POLICY, Proposal, standing

if TYPE_CHECKING:
    from declare.release import ReleasePolicy
    from resources.ledger import Ledger


class Grounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a release rests on: gates that passed, rules that could not be judged, the run."""

    gates: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()
    dagster_run: str = ""


def start(
    ledger: Ledger,
    proposal: Proposal,
    approvals: int,
    policy: ReleasePolicy,
    grounds: Grounds,
    today: date | None = None,
) -> LedgerEntry:
    """Let an approved bundle begin to take over: its shadow, or at once its release.

    It is released at once where nothing serves yet, or where that is the strategy. A bundle that is
    on its way or released makes no entry. `today` is the data day on which it begins, where that is
    later than the bundle's own. Raises PermissionError where approvals do not suffice, and during
    the cool-down after a rollout that went back by itself.
    """
    champion = released(read(ledger, proposal.pipeline))
    if champion is None or policy.strategy == "all_at_once":
        return release(ledger, proposal, approvals, grounds)

    day = max(proposal.day, today or proposal.day)

    def already(now: Sequence[LedgerEntry]) -> LedgerEntry | None:
        newest, current = newest_move(now), under_way(now)
        on_its_way = current is not None and current.bundle == proposal.bundle
        if newest is not None and (champion == proposal.bundle or on_its_way):
            return newest
        _check_approved(now, proposal, approvals)
        _check_rested(now, proposal, policy, day)
        _check_champion(now, champion)
        return None

    draft = RolloutStep(
        pipeline=proposal.pipeline,
        bundle=proposal.bundle,
        day=day,
        actor=POLICY,
        candidate=proposal.candidate,
        evidence=dict(proposal.evidence),
        stage="shadow",
        share=0.0,
        champion=champion,
        arms=((champion, 1.0),),
        shadows=(proposal.bundle,),
        key=policy.split_by or "",
        salt=_salt(proposal.bundle),
        gates=grounds.gates,
        unjudged=grounds.unjudged,
        dagster_run=grounds.dagster_run,
    )
    return record(ledger, draft, unless=already)


def release(ledger: Ledger, proposal: Proposal, approvals: int, grounds: Grounds) -> LedgerEntry:
    """Give an approved bundle all traffic at once; what is released already makes no entry.

    Approvals are counted again under the ledger's write lock, so that a rejection in the last
    moment holds. Raises PermissionError where they do not suffice.
    """

    def already(now: Sequence[LedgerEntry]) -> LedgerEntry | None:
        newest = newest_release(now)
        if newest is not None and newest.bundle == proposal.bundle:
            return newest
        _check_approved(now, proposal, approvals)
        return None

    draft = Release(
        pipeline=proposal.pipeline,
        bundle=proposal.bundle,
        day=proposal.day,
        actor=POLICY,
        candidate=proposal.candidate,
        evidence=dict(proposal.evidence),
        gates=grounds.gates,
        unjudged=grounds.unjudged,
        dagster_run=grounds.dagster_run,
    )
    return record(ledger, draft, unless=already)


def advance(
    ledger: Ledger,
    rollout: Rollout,
    policy: ReleasePolicy,
    day: date,
    report: str | None = None,
    reason: str | None = None,
) -> LedgerEntry:
    """Take the next step, from data day `day` on. `report` is the digest of what it rests on.

    Raises ValueError where the rollout has moved on or ended.
    """
    first = _first_step(ledger, rollout)
    share = next_share(policy, rollout.steps[-1])

    def still(now: Sequence[LedgerEntry]) -> None:
        _check_step(now, rollout)

    if share == 1.0:
        full = Release(
            pipeline=rollout.pipeline,
            bundle=rollout.bundle,
            day=day,
            actor=POLICY,
            candidate=rollout.candidate,
            evidence=first.evidence,
            first_step=first.serial,
            report=report,
            reason=reason,
        )
        return record(ledger, full, unless=still)

    canary = RolloutStep(
        pipeline=rollout.pipeline,
        bundle=rollout.bundle,
        day=day,
        actor=POLICY,
        candidate=rollout.candidate,
        evidence=first.evidence,
        stage="canary",
        share=share,
        champion=first.champion,
        arms=((first.champion, 1 - share), (rollout.bundle, share)),
        key=policy.split_by or "",
        salt=_salt(rollout.bundle),
        first_step=first.serial,
        report=report,
        reason=reason,
    )
    return record(ledger, canary, unless=still)


def abort(
    ledger: Ledger,
    rollout: Rollout,
    actor: str,
    reason: str,
    day: date,
    report: str | None = None,
) -> LedgerEntry:
    """Give all traffic back to what served before the rollout.

    Raises ValueError where the rollout has moved on or ended.
    """
    first = _first_step(ledger, rollout)

    def still(now: Sequence[LedgerEntry]) -> None:
        _check_step(now, rollout)

    draft = Rollback(
        pipeline=rollout.pipeline,
        bundle=first.champion,
        day=day,
        actor=actor,
        candidate=candidate_of(read(ledger, rollout.pipeline), first.champion),
        left=rollout.bundle,
        left_candidate=rollout.candidate,
        reason=reason,
        first_step=first.serial,
        report=report,
    )
    return record(ledger, draft, unless=still)


def withdraw(ledger: Ledger, release: Release, reason: str) -> LedgerEntry | None:
    """Take back a release that no endpoint can serve; None where nothing served before.

    Raises ValueError where the release is not the newest move any more.
    """
    entries = read(ledger, release.pipeline)
    target = served_before(entries)
    if target is None:
        return None

    def still(now: Sequence[LedgerEntry]) -> None:
        newest = newest_move(now)
        if newest is None or newest.serial != release.serial:
            raise ValueError(
                f"entry {release.serial} is not the newest move of {release.pipeline!r} any more; "
                "reconcile again"
            )

    draft = Rollback(
        pipeline=release.pipeline,
        bundle=target,
        day=release.day,
        actor=POLICY,
        candidate=candidate_of(entries, target),
        left=release.bundle,
        left_candidate=release.candidate,
        reason=reason,
    )
    return record(ledger, draft, unless=still)


def _first_step(ledger: Ledger, rollout: Rollout) -> RolloutStep:
    serial = rollout.steps[0].entry
    entry = next(e for e in read(ledger, rollout.pipeline) if e.serial == serial)
    if not isinstance(entry, RolloutStep):
        raise ValueError(
            f"entry {serial} of the ledger is a {entry.kind}: bundle {rollout.bundle} was released "
            "at once, so there is no step to take"
        )
    return entry


def _salt(bundle: str) -> str:
    """Each bundle divides the callers anew; the steps of its rollout divide them alike."""
    return bundle[:16]


def _check_approved(now: Sequence[LedgerEntry], proposal: Proposal, approvals: int) -> None:
    held = standing(now, proposal)
    if not held.approved(approvals):
        raise PermissionError(
            f"bundle {proposal.bundle} is not approved: {held.explain(approvals)}"
        )


def _check_rested(
    now: Sequence[LedgerEntry], proposal: Proposal, policy: ReleasePolicy, day: date
) -> None:
    rests = resting_until(now, policy)
    if rests is not None and day < rests and not standing(now, proposal).people:
        raise PermissionError(
            f"bundle {proposal.bundle} has to wait on {day}: a rollout went back by itself, and "
            f"the cool-down lasts until {rests}; a person may approve the bundle sooner"
        )


def _check_champion(now: Sequence[LedgerEntry], champion: str) -> None:
    if released(now) != champion:
        raise ValueError(f"bundle {released(now)} is released now, not {champion}; try again")


def _check_step(now: Sequence[LedgerEntry], rollout: Rollout) -> None:
    newest, step = newest_move(now), rollout.steps[-1].entry
    if newest is None or newest.serial != step:
        raise ValueError(
            f"the rollout of bundle {rollout.bundle} is not at entry {step} of the ledger any more;"
            " judge it again"
        )
