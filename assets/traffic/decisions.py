"""Decisions over bundles: approve, reject, roll back. Each is one ledger entry; what holds now is computed from entries alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from assets.traffic.rollouts import Rollout
    from bundle.manifest import Manifest
    from resources.ledger import Entry, Ledger

POLICY = "policy"
"""Actor of approvals that the platform gives itself; no person may use this name."""


class Proposal(msgspec.Struct, frozen=True):
    """What is decided over: a bundle and the evidence that its manifest names (report name to the report's digest)."""

    pipeline: str
    bundle: str
    candidate: str
    day: date
    evidence: Mapping[str, str]


def proposal(digest: str, manifest: Manifest) -> Proposal:
    """What a bundle's manifest proposes to decide over."""
    return Proposal(
        manifest.pipeline,
        digest,
        manifest.candidate,
        date.fromisoformat(manifest.created_as_of),
        manifest.evidence,
    )


class Standing(msgspec.Struct, frozen=True):
    """What the ledger says of one bundle. `people` and `policy` are approvals of exactly its evidence that nothing has
    overruled since; `refusal` is the newest rejection, or roll-back from it."""

    people: tuple[Entry, ...] = ()
    policy: Entry | None = None
    refusal: Entry | None = None

    def needed(self, approvals: int) -> int:
        """How many people must approve: as many as declared, and at least one to overrule a refusal."""
        return max(approvals, 1 if self.refusal else 0)

    def approved(self, approvals: int) -> bool:
        needed = self.needed(approvals)
        return len(self.people) >= needed and (
            needed > 0 or self.policy is not None or len(self.people) > 0
        )

    def explain(self, approvals: int) -> str:
        """One line for people: how many approvals there are, by whom, and what else is needed."""
        needed = self.needed(approvals)
        given = ", ".join(entry.actor for entry in self.people) or "none"
        if needed == 0:
            return (
                "approved by policy"
                if self.policy
                else f"approved by {given}"
                if self.people
                else "not approved by policy yet"
            )
        line = f"{len(self.people)} of {needed} approvals ({given})"
        if self.refusal is not None:
            line += f"; overrules the {_name(self.refusal)} by {self.refusal.actor} (entry {self.refusal.serial}: {_reason(self.refusal)})"
        return line


def standing(entries: Sequence[Entry], proposal: Proposal) -> Standing:
    """What a pipeline's entries say of a bundle. A refusal overrules every approval before it; the same person counts once.

    A refusal speaks of the model: the same candidate in another bundle (validated again, say) stays refused.
    """
    people: dict[str, Entry] = {}
    policy: Entry | None = None
    refusal: Entry | None = None
    for entry in entries:
        if entry.pipeline != proposal.pipeline:
            continue
        refused = (
            entry.payload.get("candidate")
            if entry.kind == "rejection"
            else entry.payload.get("from_candidate")
        )
        if entry.kind in ("rejection", "rollback") and refused == proposal.candidate:
            people, policy, refusal = {}, None, entry
        elif (
            entry.kind == "approval"
            and entry.bundle == proposal.bundle
            and _evidence(entry) == dict(proposal.evidence)
        ):
            if entry.actor == POLICY:
                policy = entry
            else:
                people.setdefault(entry.actor, entry)
    return Standing(tuple(people.values()), policy, refusal)


def approve(ledger: Ledger, proposal: Proposal, actor: str, reason: str) -> Entry:
    """A person approves a bundle on its evidence; approving twice makes one entry. Raises ValueError for an empty actor or
    reason, or the platform's own name."""
    _person(actor, reason)

    def already(entries: Sequence[Entry]) -> Entry | None:
        return next(
            (entry for entry in standing(entries, proposal).people if entry.actor == actor), None
        )

    return _append(ledger, "approval", proposal, actor, reason, already)


def approve_by_policy(ledger: Ledger, proposal: Proposal, reason: str) -> Entry:
    """The platform approves what passed all gates of a pipeline that needs no person; once for a bundle.

    Raises PermissionError where a person refused the bundle: only a person overrules a person.
    """

    def already(entries: Sequence[Entry]) -> Entry | None:
        held = standing(entries, proposal)
        if held.refusal is not None:
            raise PermissionError(
                f"bundle {proposal.bundle} was refused by {held.refusal.actor} (entry {held.refusal.serial}); a person must approve it"
            )
        return held.policy

    return _append(ledger, "approval", proposal, POLICY, reason, already)


def reject(ledger: Ledger, proposal: Proposal, actor: str, reason: str) -> Entry:
    """A person rejects a bundle: approvals so far are void. Raises ValueError for the bundle that is released now (roll back
    instead), and as `approve` does."""
    _person(actor, reason)

    def already(entries: Sequence[Entry]) -> Entry | None:
        if released(entries) == proposal.bundle:
            raise ValueError(
                f"bundle {proposal.bundle} is released now; a rejection would change nothing: roll back instead"
            )
        rollout = _under_way(entries)
        if rollout is not None and rollout.bundle == proposal.bundle:
            raise ValueError(
                f"bundle {proposal.bundle} is being rolled out now; a rejection would change nothing: roll back instead"
            )
        refusal = standing(entries, proposal).refusal
        return (
            refusal
            if refusal is not None and (refusal.kind, refusal.actor) == ("rejection", actor)
            else None
        )

    return _append(ledger, "rejection", proposal, actor, reason, already)


def release(
    ledger: Ledger, proposal: Proposal, approvals: int, payload: Mapping[str, object]
) -> Entry:
    """The release entry of an approved bundle; releasing what is released already makes no entry.

    Approvals are counted again under the ledger's write lock, so that a rejection in the last moment holds. Raises
    PermissionError where they do not suffice.
    """

    def already(entries: Sequence[Entry]) -> Entry | None:
        newest = next(
            (entry for entry in reversed(entries) if entry.kind in ("release", "rollback")), None
        )
        if newest is not None and newest.bundle == proposal.bundle:
            return newest
        held = standing(entries, proposal)
        if not held.approved(approvals):
            raise PermissionError(
                f"bundle {proposal.bundle} is not approved: {held.explain(approvals)}"
            )
        return None

    return ledger.append(
        proposal.pipeline,
        "release",
        bundle=proposal.bundle,
        day=proposal.day,
        actor=POLICY,
        payload={"candidate": proposal.candidate, "evidence": dict(proposal.evidence), **payload},  # type: ignore[dict-item]
        unless=already,
    )


def rollback(
    ledger: Ledger,
    pipeline: str,
    actor: str,
    reason: str,
    to: str | None = None,
    day: date | None = None,
) -> Entry:
    """Go back to what the ledger says served before, or to `to`, a bundle that once served. The endpoint follows the entry.
    While a bundle is being rolled out, what served before is the champion: the rollout ends.

    `day` is the data day of the decision (default: that of the pipeline's newest entry). Raises LookupError where there is
    nothing to go back to, ValueError where `to` never served or is released now.
    """
    _person(actor, reason)
    entries = ledger.entries(pipeline)
    current = released(entries)
    if current is None:
        raise LookupError(
            f"pipeline {pipeline!r} has released nothing yet; there is nothing to roll back"
        )
    rollout = _under_way(entries)
    if rollout is not None and to in (None, rollout.champion):
        from assets.traffic.rollouts import abort

        return abort(ledger, rollout, actor, reason, day or entries[-1].day)
    target = to or before(entries)
    if target is None:
        raise LookupError(
            f"pipeline {pipeline!r} served nothing before bundle {current}; there is nothing to roll back to"
        )
    if target == current:
        raise ValueError(
            f"to={target} is released now; name a bundle that served before, one of {_list(served(entries), current)}"
        )
    if target not in served(entries):
        raise ValueError(
            f"to={target} never served pipeline {pipeline!r}; one of {_list(served(entries), current)} can be rolled back to"
        )

    def unchanged(now: Sequence[Entry]) -> None:
        if released(now) != current:
            raise ValueError(
                f"pipeline {pipeline!r} changed while rolling back: bundle {released(now)} is released now, not {current}; decide again"
            )

    return ledger.append(
        pipeline,
        "rollback",
        bundle=target,
        day=day or entries[-1].day,
        actor=actor,
        payload={
            "from": current,
            "from_candidate": candidate_of(entries, current),
            "candidate": candidate_of(entries, target),
            "reason": reason,
        },
        unless=unchanged,
    )


def request_retraining(ledger: Ledger, pipeline: str, actor: str, reason: str, day: date) -> Entry:
    """A person asks for a retrain; `retraining_decision` reads the entry."""
    _person(actor, reason)
    return ledger.append(
        pipeline, "retrain_request", bundle=None, day=day, actor=actor, payload={"reason": reason}
    )


def released(entries: Sequence[Entry]) -> str | None:
    """The bundle that the newest release or roll-back names."""
    return next(
        (entry.bundle for entry in reversed(entries) if entry.kind in ("release", "rollback")), None
    )


def served(entries: Sequence[Entry]) -> list[str]:
    """Bundles that an endpoint confirmed to serve, in order of their first time."""
    return list(
        dict.fromkeys(entry.bundle for entry in entries if entry.kind == "traffic" and entry.bundle)
    )


def before(entries: Sequence[Entry]) -> str | None:
    """What served before the bundle released now. A roll-back undoes the releases after its target, so that rolling back
    twice goes back two steps instead of forth again."""
    confirmed = set(served(entries))
    history: list[str] = []
    for entry in entries:
        if entry.bundle is None or entry.kind not in ("release", "rollback"):
            continue
        if entry.kind == "rollback" and entry.bundle in history:
            del history[len(history) - history[::-1].index(entry.bundle) :]
        else:
            history.append(entry.bundle)
    return next(
        (
            bundle
            for bundle in reversed(history[:-1])
            if bundle in confirmed and bundle != history[-1]
        ),
        None,
    )


def candidate_of(entries: Sequence[Entry], bundle: str) -> str | None:
    """The candidate of a bundle that is or was on its way to the traffic, as its release or rollout says."""
    found = next(
        (
            entry
            for entry in reversed(entries)
            if entry.kind in ("release", "rollout") and entry.bundle == bundle
        ),
        None,
    )
    return str(found.payload["candidate"]) if found else None


def _under_way(entries: Sequence[Entry]) -> Rollout | None:
    from assets.traffic.rollouts import under_way  # which builds on the decisions here

    return under_way(entries)


def _append(
    ledger: Ledger,
    kind: Literal["approval", "rejection"],
    proposal: Proposal,
    actor: str,
    reason: str,
    already: Callable[[Sequence[Entry]], Entry | None],
) -> Entry:
    return ledger.append(
        proposal.pipeline,
        kind,
        bundle=proposal.bundle,
        day=proposal.day,
        actor=actor,
        payload={
            "candidate": proposal.candidate,
            "evidence": dict(proposal.evidence),
            "reason": reason,
        },
        unless=already,
    )


def _person(actor: str, reason: str) -> None:
    if not actor.strip() or actor == POLICY:
        raise ValueError(
            f"actor={actor!r} is no person; give the name or address of whoever decides"
        )
    if not reason.strip():
        raise ValueError(f"reason={reason!r} is empty; say why, for whoever reads the ledger later")


def _evidence(entry: Entry) -> object:
    return entry.payload.get("evidence")


def _reason(entry: Entry) -> str:
    return str(entry.payload.get("reason", "no reason given"))


def _name(entry: Entry) -> str:
    return "roll-back from it" if entry.kind == "rollback" else entry.kind


def _list(bundles: Sequence[str], current: str) -> str:
    return ", ".join(bundle for bundle in bundles if bundle != current) or "none"
