"""Whether a bundle is approved and whether it begins to take over, on evidence examined anew.

What the evidence says is read in `evidence`; the entries are made by `assets.traffic`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from assets.release.evidence import Examined, approvals_needed
from assets.traffic.decisions import approve_by_policy
from assets.traffic.entries import LedgerEntry, RolloutStep, entries as read
from assets.traffic.moves import newest_release
from assets.traffic.rollouts import rollouts
from assets.traffic.standing import Standing, standing
from assets.traffic.steps import Grounds, start

if TYPE_CHECKING:
    from declare.pipeline import Pipeline
    from resources.ledger import Ledger


@dataclass(frozen=True)
class Approved:
    """What is decided over a bundle: `decision` in words; `why` says what is missing, if it is."""

    decision: str
    why: tuple[str, ...] = ()

    @property
    def approved(self) -> bool:
        return not self.why


@dataclass(frozen=True)
class Begun:
    """The entry with which a bundle began to take over, or why there is none.

    `rollout` says in words where it stands.
    """

    entry: LedgerEntry | None
    why: tuple[str, ...] = ()
    rollout: str = "none"

    @property
    def champion(self) -> bool:
        """Whether the bundle has all traffic, not only a part or the shadow."""
        return self.entry is not None and not isinstance(self.entry, RolloutStep)


def decide(pipeline: Pipeline, examined: Examined, ledger: Ledger) -> Approved:
    """Approve by policy where no person is needed and all gates passed; say how it stands."""
    needed = approvals_needed(pipeline)
    held = examined.standing
    if examined.released == examined.proposal.bundle:
        return Approved("released already")

    if _policy_may_approve(needed, held, examined):
        reason = f"risk tier {pipeline.risk}: all gates passed"
        approve_by_policy(ledger, examined.proposal, reason)
        held = standing(read(ledger, pipeline.name), examined.proposal)

    if held.approved(needed):
        return Approved(held.explain(needed))
    return Approved("not approved", (held.explain(needed), *examined.refusals))


def begin(
    pipeline: Pipeline, examined: Examined, ledger: Ledger, run: str, today: date | None
) -> Begun:
    """Let an approved bundle whose evidence carries a release begin to take over.

    `today` is the newest data day. A bundle that is released already keeps its entry: a run that
    died before its end has only the rest left to do.
    """
    proposal, needed = examined.proposal, approvals_needed(pipeline)
    if examined.released == proposal.bundle:
        return _begun(ledger, newest_release(read(ledger, pipeline.name)), pipeline.name)

    why = list(examined.refusals)
    if not examined.standing.approved(needed):
        why.append(f"not approved: {examined.standing.explain(needed)}")
    if why:
        return Begun(None, tuple(why))

    grounds = Grounds(gates=examined.passed, unjudged=examined.unjudged, dagster_run=run)
    try:
        entry = start(ledger, proposal, needed, pipeline.release, grounds, today)
    except PermissionError as refused:
        return Begun(None, (str(refused),))
    return _begun(ledger, entry, pipeline.name)


def _policy_may_approve(needed: int, held: Standing, examined: Examined) -> bool:
    undecided = held.refusal is None and held.policy is None
    return needed == 0 and undecided and not examined.refusals


def _begun(ledger: Ledger, entry: LedgerEntry | None, pipeline: str) -> Begun:
    known = rollouts(read(ledger, pipeline))
    return Begun(entry, rollout=known[-1].summary if known else "none")
