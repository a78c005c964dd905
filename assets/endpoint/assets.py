"""The endpoint stage: what is served. The work is done in `reconcile`."""

from collections.abc import Iterator

import dagster as dg

from assets.endpoint import delivery
from assets.endpoint.reconcile import Served, reconcile
from assets.kind import Kind
from assets.names import ENDPOINT, RELEASE, asset_key
from assets.release.alias import show_champion
from assets.reporting.tables import markdown_table
from assets.stage import Stage, alone, always
from assets.traffic.entries import Release, Rollback, entries as read
from assets.traffic.moves import kept
from bundle.desired import SHADOW
from bundle.manifest import BundleError
from declare.pipeline import Pipeline
from resources.artifacts import Artifacts
from resources.endpoint import EndpointError, EndpointTarget
from resources.keys import Keys
from resources.ledger import Ledger, LedgerError
from resources.tracking import Tracking

GROUP = "endpoint"
CHECK = "serves_desired"
RETRIES = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL)
NOTHING = "nothing is released yet, nothing is to be served"
Followed = Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]


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
        description="What the ledger says is served, brought to the endpoint, and confirmed by "
        "golden rows over HTTP.",
        check_specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset=key,
                description="The endpoint serves what the ledger says, predicts its golden rows, "
                "and the ledger verifies.",
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
    ) -> Followed:
        try:
            served = reconcile(pipeline.name, ledger, endpoint, artifacts, keys, delivery.LIMITS)
        except (EndpointError, BundleError, LedgerError) as error:
            yield _check(key, False, str(error), endpoint.url)
            raise _failure(error, endpoint.url) from error

        if served is None:
            context.log.info(NOTHING)
            yield _check(key, True, NOTHING, endpoint.url)
            return

        if served.went_back is not None:
            context.log.error(served_sentence(served))
        installed = kept(read(ledger, pipeline.name), served.actual)
        pruned = endpoint.prune(pipeline.name, installed)
        if becomes_champion(served):
            show_champion(context.log, tracking, pipeline.name, served.manifest.candidate)
        yield _result(key, served, endpoint.url, len(pruned))

    return [endpoint]


def becomes_champion(served: Served) -> bool:
    """Whether this move made the champion at the endpoint: `release` moved no alias for it."""
    match served.decision:
        case Rollback():
            return True
        case Release():
            return served.decision.first_step is not None
    return False


def served_sentence(served: Served) -> str:
    """What is served, for people; with the reason where a new bundle could not be served."""
    golden = served.golden
    said = (
        f"serves bundle {served.bundle[:12]}; {golden.rows} golden rows differ by "
        f"{golden.difference:.2g} at most"
    )
    back = served.went_back
    if back is None:
        return said
    return (
        f"bundle {back.left[:12]} could not be served and went back (entry {back.serial}): "
        f"{back.reason}. The endpoint {said}"
    )


def _result(key: dg.AssetKey, served: Served, url: str, pruned: int) -> dg.MaterializeResult[None]:
    split = [(arm.name, arm.bundle, f"{arm.share:.0%}") for arm in served.actual.arms]
    split += [(SHADOW, bundle, "0%") for bundle in served.actual.shadows]
    return dg.MaterializeResult(
        asset_key=key,
        metadata={
            "digest": served.bundle,
            "url": dg.MetadataValue.url(f"{url}/predict/{served.traffic.pipeline}"),
            "split": dg.MetadataValue.md(markdown_table(("arm", "bundle", "share"), split)),
            "decision": f"{served.decision.kind} (entry {served.decision.serial})",
            "ledger_entry": served.traffic.serial,
            "as_of": served.manifest.created_as_of,
            "bundles_pruned": pruned,
            "golden_rows": served.golden.rows,
            "golden_difference": served.golden.difference,
            "golden_row_ms": served.golden.row_ms,
            "golden_http_ms": served.http_ms,
        },
        data_version=dg.DataVersion(served.bundle),
        check_results=[_check(key, served.went_back is None, served_sentence(served), url)],
    )


def _check(key: dg.AssetKey, passed: bool, said: str, url: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=passed,
        check_name=CHECK,
        asset_key=key,
        description=said,
        metadata={"url": url},
    )


def _failure(error: Exception, url: str) -> dg.Failure:
    """The step's failure. Only an endpoint may do better the next time."""
    return dg.Failure(
        str(error), metadata={"url": url}, allow_retries=isinstance(error, EndpointError)
    )


def _read(pipeline: Pipeline, kind: Kind, asset: str) -> object:
    """What is served stands in the ledger. The declaration says nothing of it."""
    return None


STAGE = Stage(
    name="endpoint",
    group=GROUP,
    build=alone(build),
    assets=always({"released": (ENDPOINT,)}),
    reads=_read,
)
