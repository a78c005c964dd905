"""Which bundles stay installed on an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from assets.traffic import decisions

if TYPE_CHECKING:
    from bundle.desired import Actual
    from resources.ledger import Entry

STEPS_BACK = 5
"""Bundles that stay beside those that serve: so many roll-backs need nothing but the endpoint. Older ones come from the artifacts."""


def kept(entries: Sequence[Entry], actual: Actual) -> frozenset[str]:
    """Digests of the bundles of a pipeline that stay installed: what is served, what a roll-back goes back to, and those that the
    ledger named last."""
    named = dict.fromkeys(
        entry.bundle
        for entry in reversed(entries)
        if entry.bundle is not None and entry.kind not in ("approval", "rejection")
    )
    newest = [bundle for bundle, _ in zip(named, range(STEPS_BACK + 1), strict=False)]
    before = decisions.before(entries)
    return frozenset([*actual.bundles, *actual.shadows, *newest, *([before] if before else [])])
