"""What a release rests on, read again from where it is stored: the bundle, the reports, the gates, the ledger. Fails closed."""

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
    """A bundle with everything known about it. `refusals` says in sentences why its evidence does not carry a release; `unjudged`
    names the rules that could not be judged, with the reason."""

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

    Raises BundleError for a bundle that is gone, altered or not signed by the platform, LedgerError for a ledger that was altered.
    """
    ledger.verify()
    pipeline = kind.pipeline
    manifest = verified_manifest(pipeline, digest, artifacts, keys)
    proposed = proposal(digest, manifest)
    entries = read(ledger, pipeline.name)
    released = released_now(entries)
    found, refusals = stored_reports(kind, proposed, reports)
    verdicts = [
        (name, verdict) for name, report in found.items() if report for verdict in report.verdicts
    ]
    return Examined(
        manifest,
        proposed,
        released,
        standing(entries, proposed),
        (*refusals, *gate_refusals(kind, found, proposed, released)),
        tuple(
            f"{name}: {verdict.rule}: {verdict.reason}"
            for name, verdict in verdicts
            if verdict.passed is None
        ),
        tuple(
            f"{name}: {verdict.rule}: {verdict.reason}"
            for name, verdict in verdicts
            if verdict.passed
        ),
    )


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
    """The stored validation reports by name, and a refusal for each that is not exactly the one that the bundle was made on."""
    found: dict[str, Report | None] = {}
    refusals = []
    for name in kind.reports:
        try:
            report = load_report(
                reports, kind.pipeline.name, name, proposed.day, proposed.candidate
            )
        except ValueError as error:
            refusals.append(f"report {name} cannot be read: {error}; validate and bundle again")
            report = None
        found[name] = report
        expected = proposed.evidence.get(name)
        if report is not None and report.digest != expected:
            refusals.append(
                f"report {name} has digest {report.digest[:12]}, but the bundle was made on {expected[:12] if expected else 'none'}: it was altered, "
                "or validation ran again; validate and bundle again"
            )
    return found, refusals


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
