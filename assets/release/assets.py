"""The release stage: the bundle, the decision over it, and the ledger entry that makes it the champion."""

from collections.abc import Iterator, Sequence

import dagster as dg

from assets.kind import Kind
from assets.names import APPROVAL, BUNDLE, CANDIDATE, FEATURES, RELEASE, asset_key, asset_path
from assets.release.evidence import Examined, approvals_needed, examine
from assets.reporting.report import load_report
from assets.reporting.tables import markdown_table
from assets.stage import Stage, always
from assets.traffic import decisions, rollouts
from bundle.manifest import GOLDEN, MANIFEST, BundleError, Manifest
from declare.pipeline import Pipeline
from resources.artifacts import Artifacts
from resources.keys import Keys
from resources.lake import Lake
from resources.ledger import Entry, Ledger
from resources.reports import Reports
from resources.tracking import Tracking

GROUP = "release"
CHAMPION = "champion"
Decided = Iterator[dg.MaterializeResult[None] | dg.AssetObservation]
Metadata = dict[str, str | int | float | dg.MarkdownMetadataValue]


def build(pipeline: Pipeline, kind: Kind) -> list[dg.AssetsDefinition]:
    """The assets of a pipeline's release stage."""
    key = {name: asset_key(pipeline.name, name) for name in (BUNDLE, APPROVAL, RELEASE)}

    @dg.asset(
        key=key[BUNDLE],
        deps=[asset_key(pipeline.name, name) for name in (CANDIDATE, *kind.reports)],
        group_name=GROUP,
        kinds={"xgboost", "ed25519"},
        description="All that an endpoint needs, signed and named by its digest: features, model, golden rows, environment, evidence.",
        check_specs=[
            dg.AssetCheckSpec(
                "integrity",
                asset=key[BUNDLE],
                blocking=True,
                description="Loads back, is signed, and its golden rows are as expected.",
            )
        ],
    )
    def bundle(
        lake: Lake, artifacts: Artifacts, reports: Reports, ledger: Ledger, keys: Keys
    ) -> Iterator[dg.MaterializeResult[None]]:
        from assets.release.integrity import integrity, released_already

        candidate = candidate_of(pipeline, artifacts)
        digest = released_already(pipeline.name, candidate, artifacts, ledger, keys)
        released_before = digest is not None
        if digest is None:
            files = artifacts.get("candidates", candidate)
            day = kind.facts(files).as_of
            found = {
                name: load_report(reports, pipeline.name, name, day, candidate)
                for name in kind.reports
            }
            digest = artifacts.put(
                "bundles", kind.bundle(candidate, files, found, artifacts, lake, keys)
            )
        stored = artifacts.get("bundles", digest)
        loaded = integrity(stored, keys.public_pem(), digest)
        # A bundle that does not load is kept to be looked at; nothing is decided over it.
        if loaded.passed:
            artifacts.point(pipeline.name, BUNDLE, digest)
        check = dg.AssetCheckResult(
            passed=loaded.passed,
            check_name="integrity",
            description=loaded.description,
            metadata=dict(loaded.numbers),
        )
        yield dg.MaterializeResult(
            metadata={
                **bundle_metadata(digest, stored),
                "released_before": released_before,
                **loaded.numbers,
            },
            data_version=dg.DataVersion(digest),
            check_results=[check],
        )

    @dg.asset(
        key=key[APPROVAL],
        deps=[key[BUNDLE]],
        group_name=GROUP,
        kinds={"ed25519"},
        output_required=False,
        description=f"Enough signed approvals of exactly this bundle and its evidence ({approvals_needed(pipeline)} by people are needed).",
    )
    def approval(
        context: dg.AssetExecutionContext,
        artifacts: Artifacts,
        reports: Reports,
        ledger: Ledger,
        keys: Keys,
    ) -> Decided:
        examined = examined_bundle(kind, artifacts, reports, ledger, keys)
        needed = approvals_needed(pipeline)
        approvals = examined.standing
        if examined.released == examined.proposal.bundle:
            yield dg.MaterializeResult(metadata=approval_metadata(examined, "released already"))
            return
        if (
            needed == 0
            and approvals.refusal is None
            and approvals.policy is None
            and not examined.refusals
        ):
            decisions.approve_by_policy(
                ledger, examined.proposal, f"risk tier {pipeline.risk}: all gates passed"
            )
            approvals = decisions.standing(ledger.entries(pipeline.name), examined.proposal)
        if approvals.approved(needed):
            yield dg.MaterializeResult(
                metadata=approval_metadata(examined, approvals.explain(needed))
            )
            return
        why = (approvals.explain(needed), *examined.refusals)
        context.log.warning(
            f"bundle {examined.proposal.bundle} is not approved:\n" + "\n".join(why)
        )
        yield observation(key[APPROVAL], examined, "not approved", why)

    @dg.asset(
        key=key[RELEASE],
        deps=[key[APPROVAL]],
        group_name=GROUP,
        kinds={"sqlite", "mlflow"},
        output_required=False,
        pool="deploy",
        description="The signed ledger entry with which a bundle begins to take over: bundle, reports, gates and approvals are verified anew for it.",
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
        needed = approvals_needed(pipeline)
        entry: Entry | None = None
        held_up: list[str] = []
        if examined.released == examined.proposal.bundle:
            # Released before this run, or by one that died before its end: only what follows the entry is left to do.
            entry = ledger.newest(pipeline.name, "release", "rollback")
        elif not examined.refusals and examined.standing.approved(needed):
            payload = {
                "gates": examined.passed,
                "unjudged": examined.unjudged,
                "dagster_run": context.run_id,
            }
            try:
                today = max(lake.days(asset_path(pipeline.name, FEATURES)), default=None)
                entry = rollouts.start(
                    ledger, examined.proposal, needed, pipeline.release, payload, today
                )
            except PermissionError as refused:
                held_up.append(str(refused))
        if entry is None:
            why = [*examined.refusals, *held_up]
            if not examined.standing.approved(needed):
                why.append(f"not approved: {examined.standing.explain(needed)}")
            context.log.warning(
                f"bundle {examined.proposal.bundle} is not released:\n" + "\n".join(why)
            )
            yield observation(key[RELEASE], examined, "not released", why)
            return
        # On its way to the traffic the candidate is no champion yet; the endpoint moves the alias when it is.
        alias = "not moved: the rollout begins"
        if entry.kind != "rollout":
            alias = show_champion(context.log, tracking, pipeline.name, examined.proposal.candidate)
        yield dg.MaterializeResult(
            metadata={
                "digest": examined.proposal.bundle,
                "candidate": examined.proposal.candidate,
                "as_of": examined.proposal.day.isoformat(),
                "ledger_entry": entry.serial,
                "ledger_digest": entry.digest,
                "approval": examined.standing.explain(needed),
                "champion_before": examined.released or "none",
                "champion_alias": alias,
                "rollout": next(
                    (
                        each.told
                        for each in reversed(rollouts.rollouts(ledger.entries(pipeline.name)))
                    ),
                    "none",
                ),
                "gates": dg.MetadataValue.md(bullets(examined.passed)),
                "not_judged": dg.MetadataValue.md(bullets(examined.unjudged)),
            },
            data_version=dg.DataVersion(examined.proposal.bundle),
        )

    return [bundle, approval, release]


def candidate_of(pipeline: Pipeline, artifacts: Artifacts) -> str:
    """Digest of the newest candidate. Raises FileNotFoundError when there is none."""
    candidate = artifacts.pointed(pipeline.name, CANDIDATE)
    if candidate is None:
        raise FileNotFoundError(
            f"pipeline {pipeline.name!r} has no candidate; materialize {asset_path(pipeline.name, CANDIDATE)} first"
        )
    return candidate


def examined_bundle(
    kind: Kind, artifacts: Artifacts, reports: Reports, ledger: Ledger, keys: Keys
) -> Examined:
    """The newest bundle, examined. Raises dg.Failure for one that is gone or altered: that is no failing gate."""
    pipeline = kind.pipeline
    digest = artifacts.pointed(pipeline.name, BUNDLE)
    if digest is None:
        raise dg.Failure(
            f"pipeline {pipeline.name!r} has no bundle; materialize {asset_path(pipeline.name, BUNDLE)} first",
            allow_retries=False,
        )
    try:
        return examine(kind, digest, artifacts, reports, ledger, keys)
    except BundleError as error:
        raise dg.Failure(
            f"{error}. Nothing is released; materialize {asset_path(pipeline.name, BUNDLE)} again",
            allow_retries=False,
        ) from error


def show_champion(
    log: dg.DagsterLogManager, tracking: Tracking, pipeline: str, candidate: str
) -> str:
    """Move MLflow's alias to the released candidate, for people; says what became of it.

    The ledger has decided already: whatever MLflow does can neither undo that nor hold it up.
    """
    try:
        version = tracking.move_alias(pipeline, CHAMPION, candidate)
    except Exception as error:  # noqa: BLE001 (a view of any kind of brokenness)
        log.warning(
            f"MLflow's alias {CHAMPION!r} of {pipeline} was not moved: {error}. The release holds; run {asset_path(pipeline, RELEASE)} again to move it"
        )
        return f"not moved: {type(error).__name__}"
    if version is None:
        log.warning(
            f"MLflow has no version of candidate {candidate}; its alias {CHAMPION!r} was not moved. The release holds"
        )
        return "not moved: the candidate is not registered"
    return f"version {version}"


def bundle_metadata(digest: str, files: dict[str, bytes]) -> Metadata:
    """What people see of a bundle."""
    import msgspec

    manifest = msgspec.json.decode(files[MANIFEST], type=Manifest)
    sizes = [
        (name, len(content), manifest.files.get(name, "")[:12])
        for name, content in sorted(files.items())
    ]
    return {
        "digest": digest,
        "candidate": manifest.candidate,
        "training_set": manifest.training_set,
        "as_of": manifest.created_as_of,
        "program": manifest.program_digest,
        "bytes": sum(map(len, files.values())),
        "golden_bytes": len(files[GOLDEN]),
        "files": dg.MetadataValue.md(markdown_table(("file", "bytes", "SHA-256"), sizes)),
        "evidence": dg.MetadataValue.md(
            markdown_table(("report", "digest"), sorted(manifest.evidence.items()))
        ),
        "environment": dg.MetadataValue.md(
            markdown_table(("package", "version"), sorted(manifest.environment.packages.items()))
        ),
        **{
            name: value
            for name, value in manifest.metrics.items()
            if name.startswith("test_") and value is not None
        },
    }


def approval_metadata(examined: Examined, decision: str) -> Metadata:
    return {
        "digest": examined.proposal.bundle,
        "decision": decision,
        "approvals": len(examined.standing.people),
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


def _read(pipeline: Pipeline, kind: Kind, asset: str) -> object:
    return pipeline.owner, pipeline.purpose, pipeline.risk, pipeline.release, kind.bundled


STAGE = Stage(
    name="release",
    group=GROUP,
    build=build,
    reads=_read,
    assets=always({"retrained": (BUNDLE,), "released": (APPROVAL, RELEASE)}),
)
