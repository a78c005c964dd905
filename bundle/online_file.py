"""The online snapshot as it is published: one file with the snapshot's bytes and their signature.

Predictions depend on every byte of it, so an endpoint uses none before the signature was verified.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bundle import signing
from bundle.features.online import Snapshot


class SignedSnapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The exact bytes that were signed, and the 64-byte signature."""

    payload: bytes
    signature: bytes


def sealed(snapshot: Snapshot, sign: Callable[[bytes], bytes]) -> bytes:
    """The content of the file, signed by `sign` (such as `Keys.sign`).

    Equal snapshots and keys give equal bytes.
    """
    payload = snapshot.encode()
    return msgspec.msgpack.encode(SignedSnapshot(payload, sign(signing.ONLINE + payload)))


def unseal(content: bytes, public_key: bytes, pipeline: str) -> Snapshot:
    """The snapshot of a file, verified.

    Raises ValueError (SignatureError for a bad signature) for anything but a complete snapshot of
    this pipeline that the platform signed.
    """
    try:
        file = msgspec.msgpack.decode(content, type=SignedSnapshot)
    except msgspec.DecodeError as error:
        raise ValueError(f"not an online snapshot with its signature: {error}") from error

    signing.verify(public_key, signing.ONLINE + file.payload, file.signature)
    snapshot = Snapshot.decode(file.payload)
    if snapshot.pipeline != pipeline:
        raise ValueError(f"it is the snapshot of pipeline {snapshot.pipeline!r}, not {pipeline!r}")
    return snapshot
