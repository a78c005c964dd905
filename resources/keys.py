"""The platform's own key: it signs bundles, desired states and ledger entries."""

from __future__ import annotations

import os
import stat
import uuid
from functools import lru_cache
from pathlib import Path

import dagster as dg

from bundle import signing
from bundle.files import sync_folder
from resources.files import write_atomically

PRIVATE, PUBLIC = "platform.key", "platform.pub"


class Keys(dg.ConfigurableResource):
    """An Ed25519 key pair in the folder `path`: `platform.key` (PKCS8 PEM, mode 0600) and
    `platform.pub` (PEM, for readers).

    The pair is made on first use, exactly once however many processes ask at the same moment. The
    private key never leaves this class; whoever only verifies (the endpoint server) reads the
    public file.
    """

    path: str

    @property
    def private_path(self) -> Path:
        return Path(self.path) / PRIVATE

    @property
    def public_path(self) -> Path:
        """Where the public key lies, made if need be."""
        place = Path(self.path) / PUBLIC
        if not place.exists():
            write_atomically(str(place), self.public_pem())
            place.chmod(0o644)
        return place

    def public_pem(self) -> bytes:
        """The public key as PEM.

        It is derived from the private key, never read back from the public file.
        """
        return signing.public_key(self._private())

    def sign(self, content: bytes) -> bytes:
        """The 64-byte Ed25519 signature of `content`: equal content gives an equal signature.

        Callers begin their content with words of its own kind, so that a signature over one kind of
        document is never valid for another.
        """
        return signing.sign(self._private(), content)

    def verifier(self) -> Verifier:
        """A verifier that has read the key once, for many signatures."""
        return Verifier(self.public_pem())

    def verify(self, content: bytes, signature: bytes) -> bool:
        """Whether `signature` is this platform's signature of `content`."""
        return self.verifier().valid(content, signature)

    def _private(self) -> bytes:
        try:
            mode = self.private_path.stat().st_mode
        except FileNotFoundError:
            self._create()
            mode = self.private_path.stat().st_mode
        if stat.S_IMODE(mode) & 0o077:
            raise PermissionError(
                f"{self.private_path} has mode {stat.S_IMODE(mode):04o}: others can read or write "
                "the platform's key; "
                f"make sure that nobody did, then run chmod 600 {self.private_path}"
            )
        return self.private_path.read_bytes()

    def _create(self) -> None:
        folder = Path(self.path)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{PRIVATE}.{uuid.uuid4().hex}"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:
                file.write(signing.new_key())
                file.flush()
                os.fsync(file.fileno())
            try:
                # A hard link appears whole or not at all and never replaces a key that another
                # process made first.
                os.link(temporary, self.private_path)
            except FileExistsError:
                return
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(folder)


class Verifier:
    """Verifies signatures of one public key (PEM)."""

    def __init__(self, public: bytes) -> None:
        self._public = public

    def valid(self, content: bytes, signature: bytes) -> bool:
        return _valid(self._public, content, signature)


# Who reads the ledger asks for every entry's signature, again and again.
@lru_cache(maxsize=10_000)
def _valid(public: bytes, content: bytes, signature: bytes) -> bool:
    try:
        signing.verify(public, content, signature)
    except signing.SignatureError:
        return False
    return True
