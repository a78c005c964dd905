"""What a release rests on, read again from where it is stored. Fails closed.

That is the bundle, its reports, the gates and the ledger. What is decided on it is in `deciding`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assets.reporting.report import Report, load_report
from assets.traffic.entries import entries as read
from assets.traffic.moves import released as released_now
from assets.traffic.standing import Proposal, Standing, proposal, standing
from bundle.manifest import BundleError, Manifest, verify

if TYPE_CHECKING:
    from assets.kind import Kind
    from declare.pipeline import Pipeline
    from resources.artifacts import Artifacts
    from resources.keys import Keys
    from resources.ledger import Ledger
    from resources.reports import Reports


@dataclass(frozen=True)
class Examined:
    """A bundle with everything known about it.

    `refusals` says in sentences why its evidence carries no release. `unjudged` and `passed` are
    the rules that could not be judged and those that passed, each with its reason.
    """

    manifest: Manifest
    proposal: Proposal
    released: str | None
    standing: Standing
    refusals: tuple[str, ...]
    unjudged: tuple[str, ...]
    passed: tuple[str, ...]


def examine(
    kind: Kind,
    digest: str,
    artifacts: Artifacts,
    reports: Reports,
    ledger: Ledger,
    keys: Keys,
) -> Examined:
    """Examine a stored bundle for a release.

    Raises BundleError for a bundle that is gone, altered or not signed by the platform, LedgerError
    for a ledger that was altered.
    """
    ledger.verify()
    manifest = verified_manifest(kind.pipeline, digest, artifacts, keys)
    proposed = proposal(digest, manifest)
    entries = read(ledger, kind.pipeline.name)
    released = released_now(entries)
    stored, refusals = stored_reports(kind, proposed, reports)
    return Examined(
        manifest=manifest,
        proposal=proposed,
        released=released,
        standing=standing(entries, proposed),
        refusals=(*refusals, *gate_refusals(kind, stored, proposed, released)),
        unjudged=_reasons(stored, None),
        passed=_reasons(stored, True),
    )


def _reasons(stored: Mapping[str, Report | None], passed: bool | None) -> tuple[str, ...]:
    """The rules with this verdict, in all reports, each with its reason."""
    reasons: list[str] = []
    for name, report in stored.items():
        verdicts = report.verdicts if report is not None else ()
        reasons += [f"{name}: {v.rule}: {v.reason}" for v in verdicts if v.passed is passed]
    return tuple(reasons)


def verified_manifest(
    pipeline: Pipeline, digest: str, artifacts: Artifacts, keys: Keys
) -> Manifest:
    """The manifest of a stored bundle of this pipeline, all of it verified. Raises BundleError."""
    try:
        files = artifacts.get("bundles", digest)
    except (FileNotFoundError, ValueError) as error:
        raise BundleError(f"bundle {digest} cannot be read: {error}") from error
    manifest = verify(files, keys.public_pem(), digest)
    if manifest.pipeline != pipeline.name:
        raise BundleError(
            f"bundle {digest} is one of pipeline {manifest.pipeline!r}, not of {pipeline.name!r}"
        )
    return manifest


def stored_reports(
    kind: Kind, proposed: Proposal, reports: Reports
) -> tuple[dict[str, Report | None], list[str]]:
    """The stored validation reports by name, and why they refuse.

    A report refuses where it is not exactly the one that the bundle was made on.
    """
    pipeline, day, candidate = kind.pipeline.name, proposed.day, proposed.candidate
    stored: dict[str, Report | None] = {}
    refusals = []
    for name in kind.reports:
        stored[name] = None
        try:
            report = load_report(reports, pipeline, name, day, candidate)
        except ValueError as error:
            refusals.append(f"report {name} cannot be read: {error}; validate and bundle again")
            continue

        stored[name] = report
        expected = proposed.evidence.get(name, "none")
        if report is not None and report.digest != expected:
            refusals.append(
                f"report {name} has digest {report.digest[:12]}, but the bundle was made on "
                f"{expected[:12]}: it was altered, or validation ran again; validate and bundle "
                "again"
            )
    return stored, refusals


def gate_refusals(
    kind: Kind, found: Mapping[str, Report | None], proposed: Proposal, released: str | None
) -> list[str]:
    """Why the gates refuse, judged again from the reports' own numbers."""
    try:
        return kind.refusals(found, proposed.candidate, released)
    except ValueError as error:
        return [str(error)]


def approvals_needed(pipeline: Pipeline) -> int:
    """How many people must approve: as declared, and never none where the risk is high."""
    return max(pipeline.release.approvals, 1 if pipeline.risk == "high" else 0)
