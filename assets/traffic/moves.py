"""What is to be served, what was confirmed to be served, and what served before.

Only reading. A move is an entry that changes what an endpoint should serve; the steps of a rollout
are made in `steps`, roll-backs by people in `decisions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import get_args

from assets.traffic.entries import (
    Approval,
    Confirmation,
    ExperimentStart,
    LedgerEntry,
    Move,
    Rejection,
    Release,
    RetrainRequest,
    Rollback,
    RolloutStep,
)
from bundle.desired import Actual, Desired, check

MOVES: tuple[type[Move], ...] = get_args(Move)

STEPS_BACK = 5
"""Bundles that stay installed beside those that serve: so many roll-backs need nothing but the
endpoint. Older bundles come from the artifacts."""


def newest_move(entries: Sequence[LedgerEntry]) -> Move | None:
    """The entry that says what is to be served now."""
    return next((entry for entry in reversed(entries) if isinstance(entry, MOVES)), None)


def confirmation(entries: Sequence[LedgerEntry], serial: int) -> Confirmation | None:
    """The entry that confirms a move."""
    for entry in entries:
        if isinstance(entry, Confirmation) and entry.decision == serial:
            return entry
    return None


def confirmed_at(entries: Sequence[LedgerEntry], moment: datetime) -> Confirmation | None:
    """The confirmation that held at a moment. Raises ValueError for one without an offset."""
    if moment.tzinfo is None:
        raise ValueError(
            f"moment={moment.isoformat()} has no offset from UTC; give one, such as "
            f"{moment.isoformat()}+00:00"
        )

    for entry in reversed(entries):
        if isinstance(entry, Confirmation) and entry.moment <= moment:
            return entry
    return None


def unconfirmed(entries: Sequence[LedgerEntry]) -> Move | None:
    """The newest move, unless an endpoint was confirmed to serve so."""
    moved = newest_move(entries)
    return None if moved is None or confirmation(entries, moved.serial) is not None else moved


def desired_state(move: Move) -> Desired:
    """What an endpoint should serve after a move. It follows from the entry alone.

    Raises ValueError for an entry that says nothing that an endpoint could serve.
    """
    desired = Desired(
        pipeline=move.pipeline,
        serial=move.serial,
        arms=((move.bundle, 1.0),) if isinstance(move, (Release, Rollback)) else move.arms,
        shadows=move.shadows if isinstance(move, RolloutStep) else (),
        key=move.key if isinstance(move, (RolloutStep, ExperimentStart)) else "",
        salt=move.salt if isinstance(move, (RolloutStep, ExperimentStart)) else "",
        ledger_entry=move.digest,
        issued=move.moment.isoformat(timespec="microseconds"),
    )
    check(desired)
    return desired


def released(entries: Sequence[LedgerEntry]) -> str | None:
    """The champion: the bundle that the newest release or roll-back names."""
    newest = newest_release(entries)
    return None if newest is None else newest.bundle


def newest_release(entries: Sequence[LedgerEntry]) -> Release | Rollback | None:
    """The entry that made the champion the champion."""
    for entry in reversed(entries):
        if isinstance(entry, (Release, Rollback)):
            return entry
    return None


def served(entries: Sequence[LedgerEntry]) -> list[str]:
    """Champions that an endpoint was confirmed to serve, in order of their first time."""
    return list(dict.fromkeys(e.bundle for e in entries if isinstance(e, Confirmation)))


def served_before(entries: Sequence[LedgerEntry]) -> str | None:
    """What served before the champion.

    A roll-back undoes the releases after its target. So rolling back twice goes back two steps, not
    one back and one forth.
    """
    history: list[str] = []
    for entry in entries:
        if isinstance(entry, Rollback) and entry.bundle in history:
            del history[len(history) - history[::-1].index(entry.bundle) :]
        elif isinstance(entry, (Release, Rollback)):
            history.append(entry.bundle)

    confirmed = set(served(entries))
    for bundle in reversed(history[:-1]):
        if bundle in confirmed and bundle != history[-1]:
            return bundle
    return None


def candidate_of(entries: Sequence[LedgerEntry], bundle: str) -> str | None:
    """The candidate in a bundle that is, or was, on its way to the traffic."""
    for entry in reversed(entries):
        if isinstance(entry, (Release, RolloutStep)) and entry.bundle == bundle:
            return entry.candidate
    return None


def kept(entries: Sequence[LedgerEntry], actual: Actual) -> frozenset[str]:
    """Digests of the bundles that stay installed on an endpoint.

    These are the bundles that serve, the one that a roll-back goes back to, and those that moves
    named last.
    """
    named: dict[str, None] = {}
    for entry in reversed(entries):
        if not isinstance(entry, (Approval, Rejection, RetrainRequest)):
            named.setdefault(entry.bundle)
    newest = list(named)[: STEPS_BACK + 1]
    before = served_before(entries)

    return frozenset([*actual.bundles, *actual.shadows, *newest, *([before] if before else [])])
