"""What people and the policy have decided over a bundle, as the ledger says it now.

Only reading: decisions are made in `decisions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, TypeGuard

import msgspec

from assets.traffic.entries import Approval, LedgerEntry, Rejection, Rollback

if TYPE_CHECKING:
    from bundle.manifest import Manifest

POLICY = "policy"
"""Actor of what the platform decides by itself. No person may use this name."""


class Proposal(msgspec.Struct, frozen=True):
    """What is decided over: a bundle and its evidence (report name to report digest)."""

    pipeline: str
    bundle: str
    candidate: str
    day: date
    evidence: Mapping[str, str]


def proposal(digest: str, manifest: Manifest) -> Proposal:
    """The proposal that a bundle's manifest makes."""
    return Proposal(
        manifest.pipeline,
        digest,
        manifest.candidate,
        date.fromisoformat(manifest.created_as_of),
        manifest.evidence,
    )


class Standing(msgspec.Struct, frozen=True):
    """What the ledger says of one bundle.

    `people` and `policy` are approvals of exactly its evidence that nothing has overruled since.
    `refusal` is the newest rejection of its candidate, or roll-back from it.
    """

    people: tuple[Approval, ...] = ()
    policy: Approval | None = None
    refusal: Rejection | Rollback | None = None

    def needed(self, approvals: int) -> int:
        """How many people must approve: as declared, and at least one to overrule a refusal."""
        return max(approvals, 1 if self.refusal else 0)

    def approved(self, approvals: int) -> bool:
        """Whether the approvals suffice where `approvals` by people are declared."""
        needed = self.needed(approvals)
        if len(self.people) < needed:
            return False
        return needed > 0 or self.policy is not None or len(self.people) > 0

    def explain(self, approvals: int) -> str:
        """One line for people: the approvals, who gave them, and what is missing."""
        needed = self.needed(approvals)
        given = ", ".join(entry.actor for entry in self.people) or "none"
        if needed == 0 and self.policy is not None:
            return "approved by policy"
        if needed == 0:
            return f"approved by {given}" if self.people else "not approved by policy yet"

        line = f"{len(self.people)} of {needed} approvals ({given})"
        refusal = self.refusal
        if refusal is None:
            return line

        what = "roll-back from it" if isinstance(refusal, Rollback) else "rejection"
        cause = f"entry {refusal.serial}: {refusal.reason}"
        return f"{line}; overrules the {what} by {refusal.actor} ({cause})"


def standing(entries: Sequence[LedgerEntry], proposal: Proposal) -> Standing:
    """What the entries say of a bundle.

    A refusal voids every approval before it, and the same person counts once. A refusal speaks of
    the model: the same candidate in another bundle (validated again, say) stays refused.
    """
    people: dict[str, Approval] = {}
    policy: Approval | None = None
    refusal: Rejection | Rollback | None = None

    for entry in entries:
        if entry.pipeline != proposal.pipeline:
            continue
        if refuses(entry, proposal.candidate):
            people, policy, refusal = {}, None, entry
        elif _approves(entry, proposal) and entry.actor == POLICY:
            policy = entry
        elif _approves(entry, proposal):
            people.setdefault(entry.actor, entry)

    return Standing(tuple(people.values()), policy, refusal)


def refuses(entry: LedgerEntry, candidate: str) -> TypeGuard[Rejection | Rollback]:
    """Whether an entry rejects a candidate or takes the traffic from it."""
    match entry:
        case Rejection():
            return entry.candidate == candidate
        case Rollback():
            return entry.left_candidate == candidate
    return False


def approved(entries: Sequence[LedgerEntry], bundle: str) -> bool:
    """Whether a bundle was approved, on any evidence, and nobody has refused its model since."""
    approval: Approval | None = None
    for entry in entries:
        if isinstance(entry, Approval) and entry.bundle == bundle:
            approval = entry
        elif approval is not None and refuses(entry, approval.candidate):
            approval = None

    return approval is not None


def _approves(entry: LedgerEntry, proposal: Proposal) -> TypeGuard[Approval]:
    return (
        isinstance(entry, Approval)
        and entry.bundle == proposal.bundle
        and entry.evidence == dict(proposal.evidence)
    )
