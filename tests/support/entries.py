"""Ledger entries for tests that need some history without a platform behind it."""

from __future__ import annotations

from datetime import date

from assets.traffic.entries import Confirmation, LedgerEntry, Release, entries, record
from assets.traffic.moves import desired_state, unconfirmed
from resources.ledger import Ledger


def released(
    ledger: Ledger, pipeline: str, bundle: str, day: date, candidate: str = "candidate"
) -> LedgerEntry:
    """Release a bundle, whatever anybody decided over it."""
    draft = Release(
        pipeline=pipeline,
        bundle=bundle,
        day=day,
        actor="policy",
        candidate=candidate,
        evidence={},
    )
    return record(ledger, draft)


def confirmed(ledger: Ledger, pipeline: str) -> Confirmation:
    """Confirm the newest move, as the reconciler does when the endpoint serves it."""
    move = unconfirmed(entries(ledger, pipeline))
    assert move is not None
    desired = desired_state(move)
    draft = Confirmation(
        pipeline=pipeline,
        bundle=desired.arms[0][0],
        day=move.day,
        actor="endpoint",
        decision=move.serial,
        arms=desired.arms,
        shadows=desired.shadows,
        golden_rows=3,
        golden_difference=0.0,
    )
    entry = record(ledger, draft)
    assert isinstance(entry, Confirmation)
    return entry
