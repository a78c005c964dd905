"""From what the ledger says to what the endpoint serves: the one place that changes traffic."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from bundle.desired import Actual, Desired
from bundle.manifest import BundleError, Manifest, verify
from bundle.model import TOLERANCE
from resources.endpoint import EndpointError

if TYPE_CHECKING:
    from resources.artifacts import Artifacts
    from resources.endpoint import EndpointTarget
    from resources.keys import Keys
    from resources.ledger import Entry, Ledger

ACTOR = "endpoint"


class Limits(NamedTuple):
    """Seconds until an endpoint must answer at all (a restart takes less), and until it must serve what it should."""

    answers: float = 15.0
    serves: float = 60.0


LIMITS = Limits()


@dataclass(frozen=True)
class Served:
    """What an endpoint was confirmed to serve. `http_ms` is one golden check over HTTP, `row_ms` one row within the server."""

    decision: Entry
    traffic: Entry
    manifest: Manifest
    actual: Actual
    golden_rows: int
    golden_difference: float
    row_ms: float
    http_ms: float

    @property
    def bundle(self) -> str:
        return self.traffic.bundle or ""


def reconcile(
    pipeline: str,
    ledger: Ledger,
    endpoint: EndpointTarget,
    artifacts: Artifacts,
    keys: Keys,
    limits: Limits = LIMITS,
) -> Served | None:
    """Make the endpoint serve what the newest release or roll-back in the ledger names, and record that it does.

    Nothing but the ledger is believed; what is served already is only confirmed, so calling this at any time, twice or after
    a kill ends in the same state. Returns None before the first release. Raises LedgerError for an altered ledger, BundleError
    for a bundle that is gone or altered, and EndpointError, naming the URL and the way out, when the endpoint does not follow.
    """
    ledger.verify()
    decision = ledger.newest(pipeline, "release", "rollback")
    if decision is None or decision.bundle is None:
        return None
    digest = decision.bundle
    try:
        files = artifacts.get("bundles", digest)
    except (FileNotFoundError, ValueError) as error:
        raise BundleError(f"bundle {digest}, which entry {decision.serial} of the ledger names, cannot be read: {error}") from error
    manifest = verify(files, keys.public_pem(), digest)
    if manifest.pipeline != pipeline:
        raise BundleError(f"bundle {digest} is one of pipeline {manifest.pipeline!r}, not of {pipeline!r}")
    endpoint.install(digest, files)
    desired = Desired(
        pipeline=pipeline,
        serial=decision.serial,
        arms=((digest, 1.0),),
        ledger_entry=decision.digest,
        issued=decision.moment.isoformat(timespec="microseconds"),
    )
    endpoint.desire(desired, keys.sign(desired.content))
    _answers(pipeline, endpoint, limits.answers)
    actual = endpoint.wait(pipeline, digest, timeout=limits.serves, serial=decision.serial)
    start = time.perf_counter()
    golden = next((found for found in endpoint.golden(pipeline)["bundles"] if found["bundle"] == digest), None)
    http_ms = (time.perf_counter() - start) * 1_000
    if golden is None or not golden["difference"] <= TOLERANCE:
        said = (
            "does not predict its golden rows"
            if golden is None
            else f"predicts its golden rows {golden['difference']:.3g} off the expected outputs"
        )
        raise EndpointError(f"the endpoint says that it serves bundle {digest} of {pipeline}, but {said} (limit {TOLERANCE:g}); restart it")
    payload = {
        "decision": decision.serial,
        "arms": [[arm.bundle, arm.share] for arm in actual.arms],
        "golden_rows": golden["rows"],
        "golden_difference": golden["difference"],
    }

    def confirmed(entries: Sequence[Entry]) -> Entry | None:
        newest = [entry for entry in entries if entry.kind in ("release", "rollback")][-1]
        if newest.serial != decision.serial:
            raise EndpointError(
                f"entry {newest.serial} of the ledger was made while bundle {digest} was brought to {pipeline}'s endpoint; try again"
            )
        return next((entry for entry in entries if entry.kind == "traffic" and entry.payload.get("decision") == decision.serial), None)

    traffic = ledger.append(pipeline, "traffic", bundle=digest, day=decision.day, actor=ACTOR, payload=payload, unless=confirmed)
    return Served(decision, traffic, manifest, actual, golden["rows"], golden["difference"], golden["row_ms"], http_ms)


def _answers(pipeline: str, endpoint: EndpointTarget, seconds: float) -> None:
    """Wait until the endpoint answers at all, which says sooner than the bundle's own time limit that nobody is there."""
    end = time.monotonic() + seconds
    while endpoint.actual(pipeline) is None:
        if time.monotonic() >= end:
            raise EndpointError(
                f"{getattr(endpoint, 'url', 'the endpoint')} does not answer for {seconds:g} s; start it with `evergreen up`. "
                f"The desired state of {pipeline} is written: the endpoint serves it as soon as it starts, and materializing "
                f"{pipeline}/endpoint again records that"
            )
        time.sleep(0.1)
