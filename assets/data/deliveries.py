"""How a delivery is named: by one digest of the files that it consists of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def delivery_digest(files: Iterable[str]) -> str:
    """One name for the files of a delivery, from their SHA-256 digests in whatever order."""
    return hashlib.sha256("\n".join(sorted(files)).encode()).hexdigest()[:32]
