"""The endpoint stage: what is served."""

from collections.abc import Iterator

import dagster as dg

from assets.endpoint import reconcile as reconciling
from assets.names import ENDPOINT, RELEASE, asset_key
from assets.release.assets import show_champion
from assets.reporting.tables import markdown_table
from assets.stage import Stage, alone, always, fields
from assets.traffic.installed import kept
from bundle.desired import SHADOW
from bundle.manifest import BundleError
from declare.pipeline import Pipeline
from resources.artifacts import Artifacts
from resources.endpoint import EndpointError, EndpointTarget
from resources.keys import Keys
from resources.ledger import Ledger
from resources.tracking import Tracking

GROUP = "endpoint"
CHECK = "serves_desired"
RETRIES = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL)


def build(pipeline: Pipeline) -> list[dg.AssetsDefinition]:
    """The asset of a pipeline's endpoint."""
    key = asset_key(pipeline.name, ENDPOINT)

    @dg.asset(
        key=key,
        deps=[asset_key(pipeline.name, RELEASE)],
        group_name=GROUP,
        kinds={"uvicorn"},
        output_required=False,
        pool="deploy",
        retry_policy=RETRIES,
        description="What the ledger says is served, brought to the endpoint, and confirmed by golden rows over HTTP.",
        check_specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset=key,
                description="The endpoint serves what the ledger says, and predicts its golden rows.",
            )
        ],
    )
    def endpoint(
        context: dg.AssetExecutionContext,
        ledger: Ledger,
        keys: Keys,
        artifacts: Artifacts,
        endpoint: dg.ResourceParam[EndpointTarget],
        tracking: Tracking,
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult | dg.AssetObservation]:
        try:
            served = reconciling.reconcile(
                pipeline.name, ledger, endpoint, artifacts, keys, reconciling.LIMITS
            )
        except (EndpointError, BundleError) as error:
            yield dg.AssetCheckResult(
                passed=False,
                check_name=CHECK,
                asset_key=key,
                description=str(error),
                metadata={"url": endpoint.url},
            )
            raise dg.Failure(
                str(error),
                metadata={"url": endpoint.url},
                allow_retries=isinstance(error, EndpointError),
            ) from error
        if served is None:
            context.log.info(
                f"the ledger names no release of {pipeline.name} yet: nothing is to be served"
            )
            yield dg.AssetCheckResult(
                passed=True,
                check_name=CHECK,
                asset_key=key,
                description="nothing is released yet, nothing is to be served",
            )
            return
        if served.went_back is not None:
            context.log.error(
                f"a candidate of {pipeline.name} went back (entry {served.went_back.serial}): {served.went_back.payload['reason']}"
            )
        pruned = endpoint.prune(pipeline.name, kept(ledger.entries(pipeline.name), served.actual))
        if served.decision.kind == "rollback" or "rollout" in served.decision.payload:
            show_champion(context.log, tracking, pipeline.name, served.manifest.candidate)
        split = [(arm.name, arm.bundle, f"{arm.share:.0%}") for arm in served.actual.arms]
        split += [(SHADOW, bundle, "0%") for bundle in served.actual.shadows]
        told = f"serves bundle {served.bundle[:12]}; {served.golden_rows} golden rows differ by {served.golden_difference:.2g} at most"
        if served.went_back is not None:
            told = f"a candidate could not be served and went back: {served.went_back.payload['reason']}. The endpoint {told}"
        yield dg.MaterializeResult(
            asset_key=key,
            metadata={
                "digest": served.bundle,
                "url": dg.MetadataValue.url(f"{endpoint.url}/predict/{pipeline.name}"),
                "split": dg.MetadataValue.md(markdown_table(("arm", "bundle", "share"), split)),
                "decision": f"{served.decision.kind} (entry {served.decision.serial})",
                "ledger_entry": served.traffic.serial,
                "as_of": served.manifest.created_as_of,
                "bundles_pruned": len(pruned),
                "golden_rows": served.golden_rows,
                "golden_difference": served.golden_difference,
                "golden_row_ms": served.row_ms,
                "golden_http_ms": served.http_ms,
            },
            data_version=dg.DataVersion(served.bundle),
            check_results=[
                dg.AssetCheckResult(
                    passed=served.went_back is None,
                    check_name=CHECK,
                    description=told,
                )
            ],
        )

    return [endpoint]


STAGE = Stage(
    name="endpoint",
    group=GROUP,
    build=alone(build),
    assets=always({"released": (ENDPOINT,)}),
    reads=fields(),
)
