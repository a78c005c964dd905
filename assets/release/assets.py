"""The release stage: the bundle, the approval of it, and the entry with which it takes over.

`assemble` makes the bundle, `evidence` examines it, `deciding` decides; here that becomes assets.
What happens to the traffic afterwards is in `assets.traffic` and `assets.endpoint`.
"""

from collections.abc import Iterator, Sequence

import dagster as dg

from assets.kind import Kind
from assets.names import APPROVAL, BUNDLE, CANDIDATE, FEATURES, RELEASE, asset_key, asset_path
from assets.release.alias import show_champion
from assets.release.deciding import Begun, begin, decide
from assets.release.evidence import Examined, approvals_needed, examine
from assets.reporting.tables import markdown_table
from assets.stage import Stage, always
from bundle.manifest import GOLDEN, MANIFEST, BundleError, Manifest
from declare.pipeline import Pipeline
from resources.artifacts import Artifacts
from resources.keys import Keys
from resources.lake import Lake
from resources.ledger import Ledger
from resources.reports import Reports
from resources.tracking import Tracking

GROUP = "release"
INTEGRITY = "integrity"
Decided = Iterator[dg.MaterializeResult[None] | dg.AssetObservation]
Metadata = dict[str, str | int | float | dg.MarkdownMetadataValue]


def build(pipeline: Pipeline, kind: Kind) -> list[dg.AssetsDefinition]:
    """The assets of a pipeline's release stage."""
    return [_bundle(kind), _approval(kind), _release(kind)]


def _bundle(kind: Kind) -> dg.AssetsDefinition:
    pipeline = kind.pipeline
    key = asset_key(pipeline.name, BUNDLE)

    @dg.asset(
        key=key,
        deps=[asset_key(pipeline.name, name) for name in (CANDIDATE, *kind.reports)],
        group_name=GROUP,
        kinds={"xgboost", "ed25519"},
        description="All that an endpoint needs, signed and named by its digest: features, model, "
        "golden rows, environment, evidence.",
        check_specs=[
            dg.AssetCheckSpec(
                INTEGRITY,
                asset=key,
                blocking=True,
                description="Loads back, is signed, and its golden rows are as expected.",
            )
        ],
    )
    def bundle(
        lake: Lake, artifacts: Artifacts, reports: Reports, ledger: Ledger, keys: Keys
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster reads the bare class
        from assets.release.integrity import bundle_of

        candidate = newest_candidate(pipeline, artifacts)
        made = bundle_of(kind, candidate, artifacts, lake, reports, ledger, keys)
        # A bundle that does not load is kept to be looked at; nothing is decided over it.
        if made.integrity.passed:
            artifacts.point(pipeline.name, BUNDLE, made.digest)

        check = dg.AssetCheckResult(
            passed=made.integrity.passed,
            check_name=INTEGRITY,
            description=made.integrity.description,
            metadata=dict(made.integrity.numbers),
        )
        return dg.MaterializeResult(
            metadata={
                **bundle_metadata(made.digest, made.files),
                "released_before": made.released_before,
                **made.integrity.numbers,
            },
            data_version=dg.DataVersion(made.digest),
            check_results=[check],
        )

    return bundle


def _approval(kind: Kind) -> dg.AssetsDefinition:
    pipeline = kind.pipeline
    key = asset_key(pipeline.name, APPROVAL)

    @dg.asset(
        key=key,
        deps=[asset_key(pipeline.name, BUNDLE)],
        group_name=GROUP,
        kinds={"ed25519"},
        output_required=False,
        description="Enough signed approvals of exactly this bundle and its evidence "
        f"({approvals_needed(pipeline)} by people are needed).",
    )
    def approval(
        context: dg.AssetExecutionContext,
        artifacts: Artifacts,
        reports: Reports,
        ledger: Ledger,
        keys: Keys,
    ) -> Decided:
        examined = examined_bundle(kind, artifacts, reports, ledger, keys)
        decided = decide(pipeline, examined, ledger)
        if decided.approved:
            yield dg.MaterializeResult(
                metadata={
                    "digest": examined.proposal.bundle,
                    "decision": decided.decision,
                    "approvals": len(examined.standing.people),
                }
            )
            return

        context.log.warning(_refused(examined, decided.decision, decided.why))
        yield observation(key, examined, decided.decision, decided.why)

    return approval


def _release(kind: Kind) -> dg.AssetsDefinition:
    pipeline = kind.pipeline
    key = asset_key(pipeline.name, RELEASE)

    @dg.asset(
        key=key,
        deps=[asset_key(pipeline.name, APPROVAL)],
        group_name=GROUP,
        kinds={"sqlite", "mlflow"},
        output_required=False,
        pool="deploy",
        description="The signed ledger entry with which a bundle begins to take over: bundle, "
        "reports, gates and approvals are verified anew for it.",
    )
    def release(
        context: dg.AssetExecutionContext,
        lake: Lake,
        artifacts: Artifacts,
        reports: Reports,
        ledger: Ledger,
        keys: Keys,
        tracking: Tracking,
    ) -> Decided:
        examined = examined_bundle(kind, artifacts, reports, ledger, keys)
        today = max(lake.days(asset_path(pipeline.name, FEATURES)), default=None)
        begun = begin(pipeline, examined, ledger, context.run_id, today)
        if begun.entry is None:
            context.log.warning(_refused(examined, "not released", begun.why))
            yield observation(key, examined, "not released", begun.why)
            return

        # On its way to the traffic the candidate is no champion yet; the endpoint moves the alias
        # when it is.
        alias = "not moved: the rollout begins"
        if begun.champion:
            candidate = examined.proposal.candidate
            alias = show_champion(context.log, tracking, pipeline.name, candidate)
        yield dg.MaterializeResult(
            metadata={**release_metadata(pipeline, examined, begun), "champion_alias": alias},
            data_version=dg.DataVersion(examined.proposal.bundle),
        )

    return release


def newest_candidate(pipeline: Pipeline, artifacts: Artifacts) -> str:
    """Digest of the newest candidate. Raises FileNotFoundError when there is none."""
    candidate = artifacts.pointed(pipeline.name, CANDIDATE)
    if candidate is None:
        raise FileNotFoundError(
            f"pipeline {pipeline.name!r} has no candidate; materialize "
            f"{asset_path(pipeline.name, CANDIDATE)} first"
        )
    return candidate


def examined_bundle(
    kind: Kind, artifacts: Artifacts, reports: Reports, ledger: Ledger, keys: Keys
) -> Examined:
    """The newest bundle, examined.

    Raises dg.Failure for one that is gone or altered: that is no failing gate.
    """
    pipeline = kind.pipeline
    asset = asset_path(pipeline.name, BUNDLE)
    digest = artifacts.pointed(pipeline.name, BUNDLE)
    if digest is None:
        raise dg.Failure(
            f"pipeline {pipeline.name!r} has no bundle; materialize {asset} first",
            allow_retries=False,
        )

    try:
        return examine(kind, digest, artifacts, reports, ledger, keys)
    except BundleError as error:
        raise dg.Failure(
            f"{error}. Nothing is released; materialize {asset} again", allow_retries=False
        ) from error


def bundle_metadata(digest: str, files: dict[str, bytes]) -> Metadata:
    """What people see of a bundle."""
    import msgspec

    manifest = msgspec.json.decode(files[MANIFEST], type=Manifest)
    sizes = [
        (name, len(content), manifest.files.get(name, "")[:12])
        for name, content in sorted(files.items())
    ]
    evidence = sorted(manifest.evidence.items())
    packages = sorted(manifest.environment.packages.items())
    metrics = {
        name: value
        for name, value in manifest.metrics.items()
        if name.startswith("test_") and value is not None
    }
    return {
        "digest": digest,
        "candidate": manifest.candidate,
        "training_set": manifest.training_set,
        "as_of": manifest.created_as_of,
        "program": manifest.program_digest,
        "bytes": sum(map(len, files.values())),
        "golden_bytes": len(files[GOLDEN]),
        "files": _table(("file", "bytes", "SHA-256"), sizes),
        "evidence": _table(("report", "digest"), evidence),
        "environment": _table(("package", "version"), packages),
        **metrics,
    }


def release_metadata(pipeline: Pipeline, examined: Examined, begun: Begun) -> Metadata:
    """What people see of a release, or of the begin of a rollout."""
    proposal, entry = examined.proposal, begun.entry
    assert entry is not None
    return {
        "digest": proposal.bundle,
        "candidate": proposal.candidate,
        "as_of": proposal.day.isoformat(),
        "ledger_entry": entry.serial,
        "ledger_digest": entry.digest,
        "approval": examined.standing.explain(approvals_needed(pipeline)),
        "champion_before": examined.released or "none",
        "rollout": begun.rollout,
        "gates": dg.MetadataValue.md(bullets(examined.passed)),
        "not_judged": dg.MetadataValue.md(bullets(examined.unjudged)),
    }


def observation(
    key: dg.AssetKey, examined: Examined, decision: str, why: Sequence[str]
) -> dg.AssetObservation:
    """Why nothing came of a bundle, where people look for it."""
    return dg.AssetObservation(
        asset_key=key,
        description=f"{decision}: {'; '.join(why)}"[:1_000],
        metadata={
            "digest": examined.proposal.bundle,
            "decision": decision,
            "champion": examined.released or "none",
            "why": dg.MetadataValue.md(bullets(why)),
        },
    )


def bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) or "none"


def _refused(examined: Examined, decision: str, why: Sequence[str]) -> str:
    return f"bundle {examined.proposal.bundle} is {decision}:\n" + "\n".join(why)


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(markdown_table(header, rows))


def _read(pipeline: Pipeline, kind: Kind, asset: str) -> object:
    return pipeline.owner, pipeline.purpose, pipeline.risk, pipeline.release, kind.bundled


STAGE = Stage(
    name="release",
    group=GROUP,
    build=build,
    reads=_read,
    assets=always({"retrained": (BUNDLE,), "released": (APPROVAL, RELEASE)}),
)
