"""Ed25519 signatures (RFC 8032) over manifests, desired states and online snapshots.

What is signed begins with words of its own kind (`MANIFEST`, `DESIRED`, `ONLINE`), so that a
signature over one kind of document is never valid for another. Signing is deterministic: equal
content and key give equal bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

MANIFEST = b"evergreen bundle manifest 1\n"
DESIRED = b"evergreen desired state 1\n"
ONLINE = b"evergreen online snapshot 1\n"
SIGNATURE_BYTES = 64


class SignatureError(ValueError):
    """A signature is missing, malformed, or not by the expected key over this content."""


def new_key() -> bytes:
    """A new private key: PKCS8 PEM, not encrypted."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )


def public_key(private: bytes) -> bytes:
    """The public key (PEM) of a private key (PEM)."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return (
        _private(private).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )


def sign(private: bytes, content: bytes) -> bytes:
    """The 64-byte signature of `content`."""
    return _private(private).sign(content)


def verify(public: bytes, content: bytes, signature: bytes) -> None:
    """Check a signature against a public key (PEM, or its 32 raw bytes). Raises SignatureError."""
    from cryptography.exceptions import InvalidSignature

    if len(signature) != SIGNATURE_BYTES:
        raise SignatureError(f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}")
    try:
        _public(public).verify(signature, content)
    except InvalidSignature as error:
        raise SignatureError(
            "the signature is not by the platform's key over this content"
        ) from error


def _private(pem: bytes) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(pem, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise TypeError(f"a {type(key).__name__} cannot sign here; use an Ed25519 private key")
    return key


def _public(content: bytes) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if len(content) == 32:
        return Ed25519PublicKey.from_public_bytes(content)
    key = load_pem_public_key(content)
    if not isinstance(key, Ed25519PublicKey):
        raise TypeError(f"a {type(key).__name__} cannot verify here; use an Ed25519 public key")
    return key
