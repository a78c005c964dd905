"""The bundle of a candidate: made unless it is released already, and loaded back to check it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assets.reporting.report import load_report
from assets.traffic.entries import entries
from assets.traffic.moves import released as released_now
from bundle.assembly import environment
from bundle.manifest import BundleError, from_files, verify
from bundle.models.model import TOLERANCE

if TYPE_CHECKING:
    from assets.kind import Kind
    from resources.artifacts import Artifacts
    from resources.keys import Keys
    from resources.lake import Lake
    from resources.ledger import Ledger
    from resources.reports import Reports


@dataclass(frozen=True)
class Integrity:
    """What loading a stored bundle back said."""

    passed: bool
    description: str
    numbers: dict[str, float]


@dataclass(frozen=True)
class Bundled:
    """A stored bundle and what loading it back said.

    `released_before` says that it is the released bundle of this very candidate, used again.
    """

    digest: str
    files: dict[str, bytes]
    integrity: Integrity
    released_before: bool


def bundle_of(
    kind: Kind,
    candidate: str,
    artifacts: Artifacts,
    lake: Lake,
    reports: Reports,
    ledger: Ledger,
    keys: Keys,
) -> Bundled:
    """The stored bundle of a candidate, made unless it is released already, and loaded back."""
    name = kind.pipeline.name
    digest = released_already(name, candidate, artifacts, ledger, keys)
    released_before = digest is not None
    if digest is None:
        files = artifacts.get("candidates", candidate)
        day = kind.facts(files).as_of
        found = {each: load_report(reports, name, each, day, candidate) for each in kind.reports}
        made = kind.bundle(candidate, files, found, artifacts, lake, keys)
        digest = artifacts.put("bundles", made)

    stored = artifacts.get("bundles", digest)
    return Bundled(digest, stored, integrity(stored, keys.public_pem(), digest), released_before)


def integrity(files: Mapping[str, bytes], public_key: bytes, digest: str) -> Integrity:
    """Load a stored bundle as an endpoint would: signature, every digest, golden rows."""
    try:
        result = from_files(files, public_key, digest).check_golden()
    except BundleError as error:
        return Integrity(False, str(error), {})

    verified = f"loaded back, signature and {len(files)} files verified"
    golden = (
        f"{result.rows} golden rows differ by {result.difference:.2g} at most (limit {TOLERANCE:g})"
    )
    return Integrity(
        True,
        f"{verified}; {golden}",
        {
            "golden_rows": float(result.rows),
            "golden_difference": result.difference,
            "golden_row_ms": result.row_ms,
        },
    )


def released_already(
    pipeline: str, candidate: str, artifacts: Artifacts, ledger: Ledger, keys: Keys
) -> str | None:
    """The released bundle, if it holds this very candidate and was made by this very environment.

    A released candidate that is trained and validated again compares itself with itself. That is
    no new evidence, and to bundle it again would only put the same model behind another digest.
    """
    released = released_now(entries(ledger, pipeline))
    if released is None:
        return None
    try:
        manifest = verify(artifacts.get("bundles", released), keys.public_pem(), released)
    except (FileNotFoundError, ValueError):
        # What is gone or altered cannot be used again. The bundle is made anew.
        return None

    same = manifest.candidate == candidate and manifest.environment == environment()
    return released if same else None
