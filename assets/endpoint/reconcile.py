"""From what the ledger says to what the endpoint serves: the one place that changes traffic.

`delivery` brings a move to the endpoint. Here the move is read from the ledger, its confirmation is
recorded, and what cannot be served goes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from assets.endpoint.delivery import (
    LIMITS,
    Delivered,
    Golden,
    Limits,
    RefusedError,
    UnusableBundleError,
    deliver,
)
from assets.traffic.entries import (
    Confirmation,
    LedgerEntry,
    Move,
    Release,
    Rollback,
    entries as read,
    record,
)
from assets.traffic.moves import confirmation, desired_state, newest_move
from assets.traffic.rollouts import under_way
from assets.traffic.standing import POLICY
from assets.traffic.steps import abort, withdraw
from bundle.desired import Actual
from bundle.manifest import Manifest
from resources.endpoint import EndpointError

if TYPE_CHECKING:
    from resources.artifacts import Artifacts
    from resources.endpoint import EndpointTarget
    from resources.keys import Keys
    from resources.ledger import Ledger

ACTOR = "endpoint"


@dataclass(frozen=True)
class Served:
    """What an endpoint was confirmed to serve.

    `manifest` and `golden` are the champion's, `http_ms` is one golden check over HTTP. `went_back`
    is the roll-back that a bundle which could not be served led to.
    """

    decision: Move
    traffic: Confirmation
    manifest: Manifest
    actual: Actual
    golden: Golden
    http_ms: float
    went_back: Rollback | None = None

    @property
    def bundle(self) -> str:
        return self.traffic.bundle


def reconcile(
    pipeline: str,
    ledger: Ledger,
    endpoint: EndpointTarget,
    artifacts: Artifacts,
    keys: Keys,
    limits: Limits = LIMITS,
) -> Served | None:
    """Make the endpoint serve what the newest move in the ledger says, and record that it does.

    Nothing but the ledger is believed. What is served already is only confirmed, so calling this at
    any time, twice or after a kill ends in the same state. A new bundle that is gone or altered, or
    that the endpoint refuses, goes back by itself: the ledger says so, and what served before
    serves on. Returns None before the first release.

    Raises LedgerError for an altered ledger, BundleError for a champion that is gone or altered,
    and EndpointError, naming the URL and the way out, when the endpoint does not follow.
    """
    try:
        return _serve(pipeline, ledger, endpoint, artifacts, keys, limits)
    except (RefusedError, UnusableBundleError) as error:
        went_back = _go_back(pipeline, ledger, error.bundle, str(error))
        if went_back is None:
            raise

    served = _serve(pipeline, ledger, endpoint, artifacts, keys, limits)
    return None if served is None else replace(served, went_back=went_back)


def difference(pipeline: str, ledger: Ledger, endpoint: EndpointTarget) -> str | None:
    """What keeps the endpoint from serving what the ledger says, or the ledger from knowing it.

    None where nothing does. Raises LedgerError for an altered ledger.
    """
    entries = read(ledger, pipeline)
    move = newest_move(entries)
    if move is None:
        return None
    if confirmation(entries, move.serial) is None:
        return f"entry {move.serial} of the ledger has not been confirmed"

    actual = endpoint.actual(pipeline)
    if actual is None:
        return "the endpoint does not answer"
    return actual.difference(desired_state(move))


def _serve(
    pipeline: str,
    ledger: Ledger,
    endpoint: EndpointTarget,
    artifacts: Artifacts,
    keys: Keys,
    limits: Limits,
) -> Served | None:
    """Bring the newest move to the endpoint and confirm it."""
    ledger.verify()
    move = newest_move(read(ledger, pipeline))
    if move is None:
        return None

    delivered = deliver(desired_state(move), endpoint, artifacts, keys, limits)
    traffic = _confirm(ledger, move, delivered)
    return Served(
        decision=move,
        traffic=traffic,
        manifest=delivered.manifests[traffic.bundle],
        actual=delivered.actual,
        golden=delivered.golden[traffic.bundle],
        http_ms=delivered.http_ms,
    )


def _confirm(ledger: Ledger, move: Move, delivered: Delivered) -> Confirmation:
    """Record that a move is served, once.

    Raises EndpointError where a newer move came meanwhile.
    """
    champion = delivered.actual.arms[0].bundle

    def confirmed(now: Sequence[LedgerEntry]) -> Confirmation | None:
        newest = newest_move(now)
        if newest is None or newest.serial != move.serial:
            raise EndpointError(
                f"entry {newest.serial if newest else 0} of the ledger was made while entry "
                f"{move.serial} was brought to {move.pipeline}'s endpoint; try again"
            )
        return confirmation(now, move.serial)

    draft = Confirmation(
        pipeline=move.pipeline,
        bundle=champion,
        day=move.day,
        actor=ACTOR,
        decision=move.serial,
        arms=tuple((arm.bundle, arm.share) for arm in delivered.actual.arms),
        shadows=delivered.actual.shadows,
        golden_rows=delivered.golden[champion].rows,
        golden_difference=delivered.golden[champion].difference,
    )
    entry = record(ledger, draft, unless=confirmed)
    assert isinstance(entry, Confirmation)
    return entry


def _go_back(pipeline: str, ledger: Ledger, bundle: str | None, why: str) -> Rollback | None:
    """Give the traffic back to what served before, where a new bundle cannot be served at all.

    None where nothing served before, or where the bundle at fault is not the new one.
    """
    if bundle is None:
        return None
    entries = read(ledger, pipeline)
    move, rollout = newest_move(entries), under_way(entries)

    entry: LedgerEntry | None = None
    if rollout is not None and rollout.bundle == bundle:
        entry = abort(ledger, rollout, POLICY, why, rollout.steps[-1].day)
    elif isinstance(move, Release) and move.bundle == bundle:
        entry = withdraw(ledger, move, why)
    return entry if isinstance(entry, Rollback) else None
