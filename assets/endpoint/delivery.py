"""Bring a move to an endpoint: install its bundles, write the desired state, see that it follows.

Why a move is made, and what becomes of one that cannot be served, is decided in `reconcile`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from assets.names import ENDPOINT, asset_path
from bundle.desired import Actual, Desired
from bundle.manifest import BundleError, Manifest, verify
from bundle.models.model import TOLERANCE
from resources.endpoint import EndpointError

if TYPE_CHECKING:
    from resources.artifacts import Artifacts
    from resources.endpoint import EndpointTarget
    from resources.keys import Keys

Answer = TypeVar("Answer")

LOOK_SECONDS = 0.05
"""Between two looks at what an endpoint says while it is expected to follow."""


class Limits(NamedTuple):
    """How long an endpoint is waited for, in seconds.

    `answers`: until it must answer at all; a restart takes less. `serves`: until it must serve what
    it should. `refuses`: for how long it may say that it cannot before it is believed; it tries
    again every two seconds.
    """

    answers: float = 15.0
    serves: float = 60.0
    refuses: float = 5.0


LIMITS = Limits()


class UnusableBundleError(BundleError):
    """A bundle that a move names is gone, altered, or another pipeline's."""

    def __init__(self, bundle: str, reason: str) -> None:
        super().__init__(f"bundle {bundle} {reason}")
        self.bundle, self.reason = bundle, reason


class RefusedError(EndpointError):
    """The endpoint has seen the desired state and says that it cannot serve it.

    `bundle` is the bundle at fault, None where no single one is.
    """

    def __init__(self, message: str, bundle: str | None) -> None:
        super().__init__(message)
        self.bundle = bundle


class Golden(NamedTuple):
    """What an endpoint's golden rows said of one bundle."""

    rows: int
    difference: float
    row_ms: float


@dataclass(frozen=True)
class Delivered:
    """What an endpoint serves after a move, checked by its golden rows. `http_ms` is one check."""

    manifests: Mapping[str, Manifest]
    actual: Actual
    golden: Mapping[str, Golden]
    http_ms: float


def deliver(
    desired: Desired,
    endpoint: EndpointTarget,
    artifacts: Artifacts,
    keys: Keys,
    limits: Limits = LIMITS,
) -> Delivered:
    """Make an endpoint serve a desired state.

    Raises UnusableBundleError before anything changes, RefusedError where the endpoint says that it
    cannot serve it, and EndpointError, naming the URL and the way out, where it does not follow.
    """
    manifests = {}
    for digest in (*(digest for digest, _ in desired.arms), *desired.shadows):
        files = _stored(digest, desired, artifacts)
        manifests[digest] = _verified(digest, files, desired, keys)
        endpoint.install(digest, files)
    endpoint.desire(desired, keys.sign(desired.content))

    # That nobody answers is known sooner than that nobody serves what is desired.
    answered(endpoint.actual, desired.pipeline, endpoint, limits.answers)
    actual = follow(desired, endpoint, limits)
    answer, http_ms = answered(endpoint.golden, desired.pipeline, endpoint, limits.answers)
    golden = {
        found["bundle"]: Golden(found["rows"], found["difference"], found["row_ms"])
        for found in answer["bundles"]
    }
    for digest in manifests:
        _check_golden(desired.pipeline, digest, golden.get(digest))

    return Delivered(manifests, actual, golden, http_ms)


def follow(desired: Desired, endpoint: EndpointTarget, limits: Limits) -> Actual:
    """Wait until an endpoint serves a desired state.

    Raises RefusedError as soon as it has said for a while that it cannot.
    """
    said = (
        f"{_name(endpoint)} does not serve entry {desired.serial} of the ledger for "
        f"{desired.pipeline}"
    )
    end = time.monotonic() + limits.serves
    refused_since: float | None = None
    while True:
        actual, now = endpoint.actual(desired.pipeline), time.monotonic()
        difference = actual.difference(desired) if actual is not None else None
        if actual is not None and difference is None:
            return actual

        if actual is None or not _refuses(actual, desired):
            refused_since = None
        elif refused_since is None:
            refused_since = now
        elif now - refused_since >= limits.refuses:
            raise RefusedError(f"{said}: {actual.error}", _bundle_at_fault(actual, desired))

        if now >= end:
            why = difference or "it does not answer; start it with `evergreen up`"
            raise EndpointError(f"{said} after {limits.serves:g} s: {why}")
        time.sleep(LOOK_SECONDS)


def answered(
    ask: Callable[[str], Answer | None], pipeline: str, endpoint: EndpointTarget, seconds: float
) -> tuple[Answer, float]:
    """What an endpoint answers, and how many milliseconds that took.

    It is asked again until it answers: it may be starting, and a worker that is killed while it
    answers is replaced.
    """
    end = time.monotonic() + seconds
    while True:
        start = time.perf_counter()
        answer = ask(pipeline)
        if answer is not None:
            return answer, (time.perf_counter() - start) * 1_000
        if time.monotonic() >= end:
            raise EndpointError(
                f"{_name(endpoint)} does not answer for {seconds:g} s; start it with `evergreen "
                f"up`. The desired state of {pipeline} is written: the endpoint serves it as soon "
                f"as it starts, and materializing {asset_path(pipeline, ENDPOINT)} again records "
                "that"
            )
        time.sleep(2 * LOOK_SECONDS)


def _stored(digest: str, desired: Desired, artifacts: Artifacts) -> dict[str, bytes]:
    try:
        return artifacts.get("bundles", digest)
    except (FileNotFoundError, ValueError) as error:
        named = f"which entry {desired.serial} of the ledger names"
        raise UnusableBundleError(digest, f"({named}) cannot be read: {error}") from error


def _verified(digest: str, files: Mapping[str, bytes], desired: Desired, keys: Keys) -> Manifest:
    try:
        manifest = verify(files, keys.public_pem(), digest)
    except BundleError as error:
        raise UnusableBundleError(digest, f"cannot be served: {error}") from error

    if manifest.pipeline != desired.pipeline:
        raise UnusableBundleError(
            digest, f"is one of pipeline {manifest.pipeline!r}, not of {desired.pipeline!r}"
        )
    return manifest


def _refuses(actual: Actual, desired: Desired) -> bool:
    """Whether an endpoint has seen this very desired state and says that it cannot serve it."""
    return actual.error is not None and actual.desired_serial == desired.serial


def _bundle_at_fault(actual: Actual, desired: Desired) -> str | None:
    """The bundle that an endpoint refuses of this desired state; not one of an earlier state."""
    refused = actual.refused
    return refused.bundle if refused is not None and refused.serial == desired.serial else None


def _check_golden(pipeline: str, digest: str, golden: Golden | None) -> None:
    if golden is not None and golden.difference <= TOLERANCE:
        return
    said = "does not predict its golden rows"
    if golden is not None:
        said = f"predicts its golden rows {golden.difference:.3g} off the expected outputs"
    raise EndpointError(
        f"the endpoint says that it serves bundle {digest} of {pipeline}, but {said} "
        f"(limit {TOLERANCE:g}); restart it"
    )


def _name(endpoint: EndpointTarget) -> str:
    return str(getattr(endpoint, "url", "the endpoint"))
