"""Decisions over bundles: approve, reject, roll back, ask for a retrain. Each is one ledger entry.

People make them through the `evergreen` command; `approve_by_policy` is the platform's own. How
entries are read is in `standing`, `moves` and `rollouts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

from assets.traffic.entries import (
    Approval,
    LedgerEntry,
    Rejection,
    RetrainRequest,
    Rollback,
    entries as read,
    record,
)
from assets.traffic.moves import candidate_of, released, served, served_before
from assets.traffic.rollouts import under_way
from assets.traffic.standing import POLICY, Proposal, standing
from assets.traffic.steps import abort

if TYPE_CHECKING:
    from resources.ledger import Ledger


def approve(ledger: Ledger, proposal: Proposal, actor: str, reason: str) -> LedgerEntry:
    """A person approves a bundle on its evidence; approving twice makes one entry.

    Raises ValueError for an empty actor or reason, or the platform's own name.
    """
    _check_person(actor, reason)

    def already(now: Sequence[LedgerEntry]) -> LedgerEntry | None:
        return next((e for e in standing(now, proposal).people if e.actor == actor), None)

    return record(ledger, _approval(proposal, actor, reason), unless=already)


def approve_by_policy(ledger: Ledger, proposal: Proposal, reason: str) -> LedgerEntry:
    """The platform approves what passed all gates where no person is needed; once a bundle.

    Raises PermissionError where a person refused the bundle: only a person overrules a person.
    """

    def already(now: Sequence[LedgerEntry]) -> LedgerEntry | None:
        held = standing(now, proposal)
        if held.refusal is not None:
            raise PermissionError(
                f"bundle {proposal.bundle} was refused by {held.refusal.actor} "
                f"(entry {held.refusal.serial}); a person must approve it"
            )
        return held.policy

    return record(ledger, _approval(proposal, POLICY, reason), unless=already)


def reject(ledger: Ledger, proposal: Proposal, actor: str, reason: str) -> LedgerEntry:
    """A person rejects a bundle: approvals so far are void.

    Raises ValueError for a bundle that is released or being rolled out (roll back instead), and as
    `approve` does.
    """
    _check_person(actor, reason)

    def already(now: Sequence[LedgerEntry]) -> LedgerEntry | None:
        rollout = under_way(now)
        where = None
        if released(now) == proposal.bundle:
            where = "released"
        elif rollout is not None and rollout.bundle == proposal.bundle:
            where = "being rolled out"
        if where is not None:
            raise ValueError(
                f"bundle {proposal.bundle} is {where} now; a rejection would change nothing: "
                "roll back instead"
            )

        refusal = standing(now, proposal).refusal
        same = isinstance(refusal, Rejection) and refusal.actor == actor
        return refusal if same else None

    draft = Rejection(
        pipeline=proposal.pipeline,
        bundle=proposal.bundle,
        day=proposal.day,
        actor=actor,
        candidate=proposal.candidate,
        evidence=dict(proposal.evidence),
        reason=reason,
    )
    return record(ledger, draft, unless=already)


def rollback(
    ledger: Ledger,
    pipeline: str,
    actor: str,
    reason: str,
    to: str | None = None,
    day: date | None = None,
) -> LedgerEntry:
    """Go back to what served before, or to `to`, a bundle that once served.

    While a bundle is being rolled out, what served before is the champion: the rollout ends. `day`
    is the data day of the decision (default: that of the pipeline's newest entry). Raises
    LookupError where there is nothing to go back to, ValueError where `to` never served or is
    released now.
    """
    _check_person(actor, reason)
    entries = read(ledger, pipeline)
    current = released(entries)
    if current is None:
        raise LookupError(
            f"pipeline {pipeline!r} has released nothing yet; there is nothing to roll back"
        )

    rollout = under_way(entries)
    if rollout is not None and to in (None, rollout.champion):
        return abort(ledger, rollout, actor, reason, day or entries[-1].day)

    target = _target(entries, pipeline, current, to)

    def unchanged(now: Sequence[LedgerEntry]) -> None:
        if released(now) != current:
            raise ValueError(
                f"pipeline {pipeline!r} changed while rolling back: bundle {released(now)} is "
                f"released now, not {current}; decide again"
            )

    draft = Rollback(
        pipeline=pipeline,
        bundle=target,
        day=day or entries[-1].day,
        actor=actor,
        candidate=candidate_of(entries, target),
        left=current,
        left_candidate=candidate_of(entries, current),
        reason=reason,
    )
    return record(ledger, draft, unless=unchanged)


def request_retraining(
    ledger: Ledger, pipeline: str, actor: str, reason: str, day: date
) -> LedgerEntry:
    """A person asks for a retrain; `retraining_decision` reads the entry."""
    _check_person(actor, reason)
    return record(ledger, RetrainRequest(pipeline=pipeline, day=day, actor=actor, reason=reason))


def _approval(proposal: Proposal, actor: str, reason: str) -> Approval:
    return Approval(
        pipeline=proposal.pipeline,
        bundle=proposal.bundle,
        day=proposal.day,
        actor=actor,
        candidate=proposal.candidate,
        evidence=dict(proposal.evidence),
        reason=reason,
    )


def _target(entries: Sequence[LedgerEntry], pipeline: str, current: str, to: str | None) -> str:
    """The bundle to roll back to. Raises LookupError or ValueError, as `rollback` says."""
    target = to or served_before(entries)
    if target is None:
        raise LookupError(
            f"pipeline {pipeline!r} served nothing before bundle {current}; there is nothing to "
            "roll back to"
        )

    others = ", ".join(bundle for bundle in served(entries) if bundle != current) or "none"
    if target == current:
        raise ValueError(
            f"to={target} is released now; name a bundle that served before, one of {others}"
        )
    if target not in served(entries):
        raise ValueError(
            f"to={target} never served pipeline {pipeline!r}; one of {others} can be rolled back to"
        )
    return target


def _check_person(actor: str, reason: str) -> None:
    if not actor.strip() or actor == POLICY:
        raise ValueError(
            f"actor={actor!r} is no person; give the name or address of whoever decides"
        )
    if not reason.strip():
        raise ValueError(f"reason={reason!r} is empty; say why, for whoever reads the ledger later")
