"""From what the ledger says to what the endpoint serves: the one place that changes traffic."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from assets.names import ENDPOINT, asset_path
from assets.traffic import rollouts
from assets.traffic.decisions import POLICY
from bundle.desired import Actual, Desired, check
from bundle.manifest import BundleError, Manifest, verify
from bundle.models.model import TOLERANCE
from resources.endpoint import EndpointError

if TYPE_CHECKING:
    from resources.artifacts import Artifacts
    from resources.endpoint import EndpointTarget
    from resources.keys import Keys
    from resources.ledger import Entry, Ledger

ACTOR = "endpoint"

Answer = TypeVar("Answer")


class Limits(NamedTuple):
    """Seconds until an endpoint must answer at all (a restart takes less), until it must serve what it should, and for how long it may
    say that it cannot before it is believed (it tries again every two seconds)."""

    answers: float = 15.0
    serves: float = 60.0
    refuses: float = 5.0


LIMITS = Limits()


@dataclass(frozen=True)
class Served:
    """What an endpoint was confirmed to serve. `http_ms` is one golden check over HTTP, `row_ms` one row within the server; `manifest` is the
    champion's. `went_back` is the entry that a refused candidate led to."""

    decision: Entry
    traffic: Entry
    manifest: Manifest
    actual: Actual
    golden_rows: int
    golden_difference: float
    row_ms: float
    http_ms: float
    went_back: Entry | None = None

    @property
    def bundle(self) -> str:
        return self.traffic.bundle or ""


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What a move's payload says of the traffic: see `assets.traffic.rollouts`."""

    arms: tuple[tuple[str, float], ...]
    shadows: tuple[str, ...] = ()
    key: str = ""
    salt: str = ""


def desired_of(entry: Entry) -> Desired:
    """What an endpoint should serve after a move: it follows from the entry alone. Raises ValueError for an entry that says nothing
    that an endpoint could serve."""
    if entry.kind in ("release", "rollback"):
        traffic = Traffic(arms=((entry.bundle or "", 1.0),))
    else:
        traffic = msgspec.convert(entry.payload, Traffic)
    desired = Desired(
        pipeline=entry.pipeline,
        serial=entry.serial,
        arms=traffic.arms,
        shadows=traffic.shadows,
        key=traffic.key,
        salt=traffic.salt,
        ledger_entry=entry.digest,
        issued=entry.moment.isoformat(timespec="microseconds"),
    )
    check(desired)
    return desired


def reconcile(
    pipeline: str,
    ledger: Ledger,
    endpoint: EndpointTarget,
    artifacts: Artifacts,
    keys: Keys,
    limits: Limits = LIMITS,
) -> Served | None:
    """Make the endpoint serve what the newest move in the ledger says, and record that it does.

    Nothing but the ledger is believed; what is served already is only confirmed, so calling this at any time, twice or after
    a kill ends in the same state. A candidate that is gone or altered, or that the endpoint refuses, goes back by itself: the ledger
    says so, and what served before serves on. Returns None before the first release. Raises LedgerError for an altered ledger, BundleError
    for a champion that is gone or altered, and EndpointError, naming the URL and the way out, when the endpoint does not follow.
    """
    try:
        return _bring(pipeline, ledger, endpoint, artifacts, keys, limits)
    except (EndpointError, BundleError) as error:
        went_back = (
            _go_back(pipeline, ledger, str(error))
            if isinstance(error, (RefusedError, BundleError))
            else None
        )
        if went_back is None:
            raise
    served = _bring(pipeline, ledger, endpoint, artifacts, keys, limits)
    return None if served is None else replace(served, went_back=went_back)


def difference(pipeline: str, ledger: Ledger, endpoint: EndpointTarget) -> str | None:
    """What keeps an endpoint from serving what the ledger says, or the ledger from knowing that it does; None where nothing does."""
    entries = ledger.entries(pipeline)
    move = rollouts.newest_move(entries)
    if move is None:
        return None
    if rollouts.confirmation(entries, move.serial) is None:
        return f"entry {move.serial} of the ledger has not been confirmed"
    actual = endpoint.actual(pipeline)
    return "the endpoint does not answer" if actual is None else actual.difference(desired_of(move))


class RefusedError(EndpointError):
    """The endpoint has seen the desired state and says that it cannot serve it."""


def _bring(
    pipeline: str,
    ledger: Ledger,
    endpoint: EndpointTarget,
    artifacts: Artifacts,
    keys: Keys,
    limits: Limits,
) -> Served | None:
    ledger.verify()
    decision = rollouts.newest_move(ledger.entries(pipeline))
    if decision is None:
        return None
    desired = desired_of(decision)
    manifests = {}
    for digest in (*(digest for digest, _ in desired.arms), *desired.shadows):
        try:
            files = artifacts.get("bundles", digest)
        except (FileNotFoundError, ValueError) as error:
            raise BundleError(
                f"bundle {digest}, which entry {decision.serial} of the ledger names, cannot be read: {error}"
            ) from error
        try:
            manifests[digest] = verify(files, keys.public_pem(), digest)
        except BundleError as error:
            raise BundleError(f"bundle {digest}: {error}") from error
        if manifests[digest].pipeline != pipeline:
            raise BundleError(
                f"bundle {digest} is one of pipeline {manifests[digest].pipeline!r}, not of {pipeline!r}"
            )
        endpoint.install(digest, files)
    endpoint.desire(desired, keys.sign(desired.content))
    # That nobody is there is known sooner than that nobody serves what is desired.
    _answered(endpoint.actual, pipeline, endpoint, limits.answers)
    actual = _follows(desired, endpoint, limits)
    answer, http_ms = _answered(endpoint.golden, pipeline, endpoint, limits.answers)
    golden = {found["bundle"]: found for found in answer["bundles"]}
    for digest in manifests:
        found = golden.get(digest)
        if found is None or not found["difference"] <= TOLERANCE:
            said = (
                "does not predict its golden rows"
                if found is None
                else f"predicts its golden rows {found['difference']:.3g} off the expected outputs"
            )
            raise EndpointError(
                f"the endpoint says that it serves bundle {digest} of {pipeline}, but {said} (limit {TOLERANCE:g}); restart it"
            )
    champion = desired.arms[0][0]
    payload = {
        "decision": decision.serial,
        "arms": [[arm.bundle, arm.share] for arm in actual.arms],
        "shadows": list(actual.shadows),
        "golden_rows": golden[champion]["rows"],
        "golden_difference": golden[champion]["difference"],
    }

    def confirmed(entries: Sequence[Entry]) -> Entry | None:
        newest = rollouts.newest_move(entries)
        if newest is None or newest.serial != decision.serial:
            raise EndpointError(
                f"entry {newest.serial if newest else 0} of the ledger was made while entry {decision.serial} was brought to {pipeline}'s endpoint; try again"
            )
        return rollouts.confirmation(entries, decision.serial)

    traffic = ledger.append(
        pipeline,
        "traffic",
        bundle=champion,
        day=decision.day,
        actor=ACTOR,
        payload=payload,
        unless=confirmed,
    )
    shown = golden[champion]
    return Served(
        decision,
        traffic,
        manifests[champion],
        actual,
        shown["rows"],
        shown["difference"],
        shown["row_ms"],
        http_ms,
    )


def _follows(desired: Desired, endpoint: EndpointTarget, limits: Limits) -> Actual:
    """Wait until the endpoint serves the desired state. Raises RefusedError as soon as it has said for a while that it cannot."""
    end = time.monotonic() + limits.serves
    refused_since: float | None = None
    while True:
        actual = endpoint.actual(desired.pipeline)
        if (
            actual is not None
            and actual.serial == desired.serial
            and actual.difference(desired) is None
        ):
            return actual
        now = time.monotonic()
        refuses = (
            actual is not None
            and actual.error is not None
            and actual.desired_serial == desired.serial
        )
        refused_since = (refused_since or now) if refuses else None
        said = f"{_name(endpoint)} does not serve entry {desired.serial} of the ledger for {desired.pipeline}"
        if (
            refused_since is not None
            and now - refused_since >= limits.refuses
            and actual is not None
        ):
            raise RefusedError(f"{said}: {actual.error}")
        if now >= end:
            why = (
                "it does not answer; start it with `evergreen up`"
                if actual is None
                else actual.difference(desired)
            )
            raise EndpointError(f"{said} after {limits.serves:g} s: {why}")
        time.sleep(0.05)


def _go_back(pipeline: str, ledger: Ledger, why: str) -> Entry | None:
    """Give the traffic back to what served before, where a bundle cannot be served at all; None where nothing served before, or what
    cannot be served is not what is new."""
    entries = ledger.entries(pipeline)
    move, rollout = rollouts.newest_move(entries), rollouts.under_way(entries)
    if rollout is not None and rollout.bundle in why:
        return rollouts.abort(ledger, rollout, POLICY, why, rollout.steps[-1].day)
    if (
        move is not None
        and move.kind == "release"
        and move.bundle is not None
        and move.bundle in why
    ):
        return rollouts.withdraw(ledger, move, why)
    return None


def _name(endpoint: EndpointTarget) -> str:
    return str(getattr(endpoint, "url", "the endpoint"))


def _answered(
    ask: Callable[[str], Answer | None], pipeline: str, endpoint: EndpointTarget, seconds: float
) -> tuple[Answer, float]:
    """What the endpoint answers, and how many ms that took. It is asked again until it does: it may be starting, and a worker that is
    killed while it answers is replaced."""
    end = time.monotonic() + seconds
    while True:
        start = time.perf_counter()
        answer = ask(pipeline)
        if answer is not None:
            return answer, (time.perf_counter() - start) * 1_000
        if time.monotonic() >= end:
            raise EndpointError(
                f"{_name(endpoint)} does not answer for {seconds:g} s; start it with `evergreen up`. "
                f"The desired state of {pipeline} is written: the endpoint serves it as soon as it starts, and materializing "
                f"{asset_path(pipeline, ENDPOINT)} again records that"
            )
        time.sleep(0.1)
