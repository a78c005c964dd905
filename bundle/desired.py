"""What an endpoint should serve, and what it reports serving.

`Desired` is written and signed by the platform; `Actual` is written by the endpoint. Both are small
JSON documents.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from bundle import signing

FORMAT = 1
CHAMPION, SHADOW = "champion", "shadow"
ALARM_FILE = "platform.json"
"""An `Alarm` beside the folders of the pipelines; without the file all is well."""
NOT_PIPELINES = frozenset({"bundles", "replicas", "service", "workers"})
"""Folders of an endpoint beside those of its pipelines; no pipeline may be called so."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Desired(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which bundles of a pipeline answer which share of the traffic.

    `arms` are (bundle digest, share), champion first; `shadows` are scored beside the answers and
    answer nothing themselves. Requests are divided by the value of the request's column `key`
    (empty: the entity); `salt` divides anew, so that one split says nothing about the next one.
    `serial` grows by every change and never goes back: an endpoint refuses a smaller one.
    `ledger_entry` names the entry that caused it, `issued` the moment of that entry.
    """

    pipeline: str
    serial: int
    arms: tuple[tuple[str, float], ...]
    shadows: tuple[str, ...] = ()
    key: str = ""
    salt: str = ""
    ledger_entry: str = ""
    issued: str = ""
    format: int = FORMAT

    @property
    def payload(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="sorted")

    @property
    def content(self) -> bytes:
        """What is signed."""
        return signing.DESIRED + self.payload

    def arm(self, value: str) -> int:
        """Index of the arm that answers for a value of the key, the same in every worker.

        Growing the share of a challenger moves values to it alone; those that it already had stay.
        """
        if len(self.arms) == 1:
            return 0
        digest = hashlib.blake2b(
            f"{self.pipeline}\n{self.salt}\n{value}".encode("utf-8", "surrogatepass"), digest_size=8
        ).digest()
        point = (int.from_bytes(digest, "big") >> 11) / 2**53  # in [0, 1), exact
        for index, (_, share) in enumerate(self.arms[1:], start=1):
            if point < share:
                return index
            point -= share
        return 0


class Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A signed document on disk: the exact text that was signed, and the signature (base64)."""

    payload: str
    signature: str


class ArmState(msgspec.Struct, frozen=True):
    """One arm that is being served."""

    name: str
    bundle: str
    share: float


class RefusedBundle(msgspec.Struct, frozen=True):
    """A bundle that an endpoint cannot serve, and in which desired state (`serial`) it stands."""

    serial: int
    bundle: str
    reason: str


class Alarm(msgspec.Struct, frozen=True):
    """Why the platform changes nothing any more; the endpoint serves on. `since` is ISO 8601."""

    reason: str
    since: str


class Actual(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint serves of one pipeline.

    `serial` is that of the desired state being served, `desired_serial` the newest valid one that
    the endpoint has seen. `error` says why they differ, `refused` which bundle is at fault, where
    one is. `shadows` are scored beside the answers. `snapshot_error` says why the online snapshot
    in use is not the newest. `golden_ms` is the mean time of one golden row. With several workers
    each writes its own state; the file and the route show the one furthest behind.
    """

    pipeline: str
    ready: bool
    serial: int = 0
    desired_serial: int = 0
    arms: tuple[ArmState, ...] = ()
    shadows: tuple[str, ...] = ()
    error: str | None = None
    refused: RefusedBundle | None = None
    snapshot_as_of: str | None = None
    snapshot_error: str | None = None
    golden_ms: float | None = None
    since: str = ""
    pid: int = 0
    workers: int = 1

    @property
    def bundles(self) -> tuple[str, ...]:
        """Bundles that answer, champion first."""
        return tuple(arm.bundle for arm in self.arms)

    def difference(self, desired: Desired) -> str | None:
        """What keeps this from being the desired state, in a few words; None where nothing does."""
        served = tuple((arm.bundle, arm.share) for arm in self.arms)
        if not self.ready:
            return f"nothing is served{f' ({self.error})' if self.error else ''}"
        if self.serial != desired.serial:
            why = f" ({self.error})" if self.error else ""
            return f"serial {self.serial} is served, {desired.serial} is desired{why}"
        if (served, self.shadows) != (desired.arms, desired.shadows):
            return f"serial {self.serial} is served with other arms than desired"
        if self.error is not None:
            return (
                f"serial {self.serial} is served, but what the endpoint finds as its desired "
                f"state is another one ({self.error})"
            )
        return None


def seal(desired: Desired, signature: bytes) -> bytes:
    """The file content of a signed desired state."""
    return msgspec.json.encode(
        Sealed(desired.payload.decode(), base64.b64encode(signature).decode())
    )


def signed(desired: Desired, sign: Callable[[bytes], bytes]) -> bytes:
    """The file content of a desired state, signed by `sign` (such as `Keys.sign`)."""
    return seal(desired, sign(desired.content))


def unseal(content: bytes, public_key: bytes, pipeline: str) -> Desired:
    """The desired state of a file, verified.

    Raises ValueError (SignatureError for a bad signature) saying what is wrong.
    """
    try:
        sealed = msgspec.json.decode(content, type=Sealed)
        signature = base64.b64decode(sealed.signature, validate=True)
    except (msgspec.DecodeError, ValueError) as error:
        raise ValueError(f"not a signed desired state: {error}") from error
    payload = sealed.payload.encode()
    signing.verify(public_key, signing.DESIRED + payload, signature)
    try:
        desired = msgspec.json.decode(payload, type=Desired)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a desired state of this release: {error}") from error
    check(desired)
    if desired.pipeline != pipeline:
        raise ValueError(
            f"the desired state is that of pipeline {desired.pipeline!r}, not of {pipeline!r}"
        )
    return desired


def check(desired: Desired) -> None:
    """Raises ValueError for a desired state that no endpoint could serve."""
    if desired.format != FORMAT:
        raise ValueError(
            f"desired state of format {desired.format}; this release reads format {FORMAT}"
        )
    if not _NAME.fullmatch(desired.pipeline):
        raise ValueError(f"pipeline {desired.pipeline!r} is no pipeline name")
    if desired.serial < 1:
        raise ValueError(f"serial={desired.serial}; serials start at 1")
    if not desired.arms:
        raise ValueError("a desired state needs at least one arm")
    digests = [*(digest for digest, _ in desired.arms), *desired.shadows]
    for digest in digests:
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"arm {digest[:80]!r} is no bundle digest (64 hexadecimal digits)")
        if digests.count(digest) > 1:
            raise ValueError(
                f"bundle {digest} has {digests.count(digest)} arms; one arm a bundle, "
                "shadows included"
            )
    shares = [share for _, share in desired.arms]
    if any(not 0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares {shares} must lie between 0 and 1 and add up to 1")


def alarm_in(root: Path) -> Alarm | None:
    """The alarm that the platform has left at an endpoint's folder; None without one.

    A file that cannot be read is an alarm too: its reason says so.
    """
    try:
        return msgspec.json.decode((root / ALARM_FILE).read_bytes(), type=Alarm)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        return Alarm(f"{ALARM_FILE} cannot be read: {error}", "")


def arm_name(index: int) -> str:
    """Arms are named by their place: champion, challenger, challenger-2, ..."""
    if index == 0:
        return CHAMPION
    return "challenger" if index == 1 else f"challenger-{index}"
