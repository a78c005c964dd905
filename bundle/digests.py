"""Digests: the names of contents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def sha256(content: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def sums(contents: Mapping[str, bytes]) -> bytes:
    """The sorted `digest  name` lines of a folder, as `sha256sum` writes them."""
    return "".join(
        f"{sha256(content)}  {name}\n" for name, content in sorted(contents.items())
    ).encode()


def folder_digest(contents: Mapping[str, bytes]) -> str:
    """SHA-256 over the `sums` of a folder: equal files give equal digests, whatever their order."""
    return sha256(sums(contents))


def canonical_json(document: Any) -> bytes:
    """JSON with sorted keys and no white space: equal documents give equal bytes.

    Raises ValueError for NaN and infinities.
    """
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()
