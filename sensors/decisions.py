"""What follows decisions: a retrain after a decision to retrain, a release after approvals, and an
endpoint that serves what the ledger says. Each reads the stored truth anew, so that nothing is lost
when a tick, a run or a process dies.
"""

import json
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

import dagster as dg
from dagster import RunsFilter

from assets.endpoint import reconcile
from assets.names import (
    BUNDLE,
    DAY,
    ENDPOINT,
    TRAINING_SET,
    asset_key,
    asset_op,
)
from assets.traffic.entries import Approval, LedgerEntry, Move, Rollback, entries as read_entries
from assets.traffic.moves import MOVES, newest_move, unconfirmed
from assets.traffic.standing import POLICY
from declare.pipeline import Pipeline
from resources.artifacts import Artifacts
from resources.endpoint import EndpointTarget
from resources.lake import Lake
from resources.landing import Landing
from resources.ledger import Ledger, LedgerError
from resources.reports import Reports
from sensors import jobs
from sensors.due import data_day
from sensors.progress import decided_days, deliveries, featured_days
from sensors.requests import AS_OF, CAUSE, REQUESTED_BY, UNFINISHED, overlapping, run_request

if TYPE_CHECKING:
    from assets.retraining.decide import Decision

# A decision to retrain that nobody acted on for this many data days is stale: a newer one speaks
# for the model by then.
DECISION_DAYS = 14


def build(pipeline: Pipeline) -> list[dg.SensorDefinition]:
    """The decision sensors of a pipeline."""
    return [_retraining(pipeline), _approvals(pipeline), _reconciler(pipeline)]


def _retraining(pipeline: Pipeline) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{pipeline.name}_retraining",
        job_name=jobs.retrain(pipeline),
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Retrains once for each decision to retrain, with the cause as run tags.",
    )
    def retraining(
        context: dg.SensorEvaluationContext, reports: Reports, landing: Landing, lake: Lake
    ) -> dg.RunRequest | dg.SkipReason:
        decision = newest_retrain(pipeline, reports, decided_days(pipeline, reports))
        if decision is None:
            return dg.SkipReason("no recent decision to retrain")

        request = retrain_request(context.instance, pipeline, decision)
        if isinstance(request, dg.RunRequest):
            as_of = decision.day + DAY
            missing = _not_ingested(context.instance, pipeline, landing, lake, as_of)
            if missing is not None:
                return dg.SkipReason(missing)
        return request

    return retraining


def _approvals(pipeline: Pipeline) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{pipeline.name}_approvals",
        job_name=jobs.release(pipeline),
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Releases a bundle when people have approved it, and serves what a release, a "
        "step of a rollout or a roll-back names.",
    )
    def approvals(
        context: dg.SensorEvaluationContext, artifacts: Artifacts, ledger: Ledger
    ) -> dg.RunRequest | dg.SkipReason:
        try:
            entries = read_entries(ledger, pipeline.name)
        except LedgerError as error:
            return dg.SkipReason(str(error))

        # What goes back does not wait for a retrain.
        retrains = RunsFilter(job_name=jobs.retrain(pipeline), statuses=UNFINISHED)
        going_back = isinstance(newest_move(entries), Rollback)
        if not going_back and context.instance.get_runs_count(retrains):
            return dg.SkipReason("a retrain is under way; it releases and serves by itself")

        if (move := unconfirmed(entries)) is not None:
            return run_request(
                context.instance,
                jobs.release(pipeline),
                f"{pipeline.name}:serve:{move.serial}",
                tags={CAUSE: move.kind},
                selection=[asset_key(pipeline.name, ENDPOINT)],
            )

        approval = _waiting_approval(entries, artifacts.pointed(pipeline.name, BUNDLE))
        if approval is None:
            return dg.SkipReason("no approval is waiting to be acted on")
        request = f"{pipeline.name}:release:{approval.serial}"
        return run_request(
            context.instance, jobs.release(pipeline), request, tags={CAUSE: "approval"}
        )

    return approvals


def _reconciler(pipeline: Pipeline) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{pipeline.name}_reconciler",
        job_name=jobs.release(pipeline),
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Brings an endpoint back to what the ledger says, whatever took it from there.",
    )
    def reconciler(
        context: dg.SensorEvaluationContext,
        ledger: Ledger,
        endpoint: dg.ResourceParam[EndpointTarget],
    ) -> dg.SensorResult:
        try:
            difference = reconcile.difference(pipeline.name, ledger, endpoint)
            broken = False
        except LedgerError as error:
            difference, broken = str(error), True

        seen = json.loads(context.cursor or "{}")
        same = difference is not None and difference == seen.get("difference")
        ticks = seen["ticks"] + 1 if same else 1
        cursor = json.dumps({"difference": difference, "ticks": ticks})
        if difference is None or not _is_tried(ticks, broken):
            why = difference or "the endpoint serves what the ledger says"
            return dg.SensorResult(skip_reason=why, cursor=cursor)

        request = dg.RunRequest(
            job_name=jobs.release(pipeline),
            asset_selection=[asset_key(pipeline.name, ENDPOINT)],
            tags={CAUSE: f"reconcile: {difference}"[:200]},
        )
        return dg.SensorResult(run_requests=[request], cursor=cursor)

    return reconciler


def _is_tried(ticks: int, broken: bool) -> bool:
    """Whether a difference that was seen `ticks` times in a row is worth a run now.

    What is seen once may be a step just being taken; what stays is tried at the 2nd, 4th, 8th, …
    look. A broken ledger heals by no run: one run at the first look makes the check fail.
    """
    if broken:
        return ticks == 1
    return ticks >= 2 and ticks & (ticks - 1) == 0


def _waiting_approval(entries: Sequence[LedgerEntry], bundle: str | None) -> Approval | None:
    """The newest approval of a bundle by a person that no move has acted on yet."""
    for entry in reversed(entries):
        if isinstance(entry, MOVES) and _concerns(entry, bundle):
            return None
        if isinstance(entry, Approval) and entry.bundle == bundle and entry.actor != POLICY:
            return entry
    return None


def _concerns(move: Move, bundle: str | None) -> bool:
    """Whether a move gives a bundle traffic or takes the traffic from it."""
    return bundle == move.bundle or (isinstance(move, Rollback) and bundle == move.left)


def _not_ingested(
    instance: dg.DagsterInstance, pipeline: Pipeline, landing: Landing, lake: Lake, as_of: date
) -> str | None:
    """What a model trained as of a day would miss: a delivery that is not processed yet."""
    kind = f"{pipeline.name}:ingest:"
    doing = overlapping(instance, jobs.nightly(pipeline), kind, pipeline.start, as_of)
    if doing is not None:
        return f"{doing} is under way; the training set waits for it"

    today = data_day(deliveries(pipeline, landing))
    if today is not None and as_of <= today and as_of not in featured_days(pipeline, lake):
        return f"{as_of} was delivered and has no features yet; the training set waits for them"
    return None


def newest_retrain(pipeline: Pipeline, reports: Reports, decided: set[date]) -> "Decision | None":
    """The newest decision to retrain of the last decided days."""
    from assets.retraining.decide import load_decision

    if not decided:
        return None
    for offset in range(DECISION_DAYS):
        day = max(decided) - DAY * offset
        decision = load_decision(reports, pipeline.name, day) if day in decided else None
        if decision is not None and decision.retrain:
            return decision
    return None


def retrain_request(
    instance: dg.DagsterInstance, pipeline: Pipeline, decision: "Decision"
) -> dg.RunRequest | dg.SkipReason:
    """The run that a decision asks for.

    It trains as of the next day's refresh: what the decided day brought is known then.
    """
    as_of = (decision.day + DAY).isoformat()
    asked = decision.evidence.request if decision.cause == "request" else None
    return run_request(
        instance,
        jobs.retrain(pipeline),
        f"{pipeline.name}:retrain:{decision.day}:{decision.cause}",
        tags={
            CAUSE: str(decision.cause),
            "evergreen/decision": decision.day.isoformat(),
            AS_OF: as_of,
            **({REQUESTED_BY: asked.by} if asked else {}),
        },
        run_config={"ops": {asset_op(pipeline.name, TRAINING_SET): {"config": {"as_of": as_of}}}},
    )
