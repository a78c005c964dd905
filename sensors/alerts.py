"""Alerts: failed runs, failed checks and spent tries, each told once through the notifier."""

import dagster as dg

from assets.endpoint import alarm
from resources.endpoint import EndpointTarget
from resources.ledger import Ledger
from resources.notifier import Notifier
from sensors.event_log import events_of_run
from sensors.failures import step_errors
from sensors.requests import ATTEMPT, REQUEST, spent

SOUND = "sound"


def build() -> list[dg.SensorDefinition]:
    """The alert sensors of the platform; they watch every pipeline."""

    @dg.run_failure_sensor(
        name="failed_runs",
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells of every run that failed: what its step raised, the checks that failed "
        "in it, and whether it is tried again.",
    )
    def failed_runs(context: dg.RunFailureSensorContext, notifier: Notifier) -> None:
        run = context.dagster_run
        request = run.tags.get(REQUEST)
        attempt = f" (try {run.tags.get(ATTEMPT, '1')} of {request})" if request else ""
        errors = [error.line for error in step_errors(context.instance, run.run_id)]
        reasons = errors or [context.failure_event.message or "no reason is recorded"]
        lines = [f"run {run.run_id}: {reasons[0]}", *reasons[1:]]
        lines += failed_checks_of(context.instance, run.run_id)
        if any(each.request == request for each in spent(context.instance)):
            lines.append("It is not tried again. Mend the cause, then run `evergreen retry`.")
        notifier.notify(f"Run of {run.job_name} failed{attempt}", "\n".join(lines))

    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.SUCCESS,
        name="failed_checks",
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells of every asset check that failed in a run that went through: Dagster "
        "itself raises no alert for them.",
    )
    def failed_checks(context: dg.RunStatusSensorContext, notifier: Notifier) -> None:
        failed = failed_checks_of(context.instance, context.dagster_run.run_id)
        if failed:
            notifier.notify(f"{len(failed)} asset checks failed", "\n".join(failed))

    @dg.sensor(
        name="ledger_alarm",
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells at once that the ledger was altered, cut or lost, tells the endpoint's "
        "metric too, and tells when it is sound again. Nothing moves meanwhile.",
    )
    def ledger_alarm(
        context: dg.SensorEvaluationContext,
        ledger: Ledger,
        endpoint: dg.ResourceParam[EndpointTarget],
        notifier: Notifier,
    ) -> dg.SensorResult:
        looked = alarm.look(ledger, endpoint)
        state = looked.problem or SOUND
        # The cursor says what people were told, the endpoint's file what its metric says.
        if looked.problem is not None and state != context.cursor:
            notifier.notify("The ledger is broken", f"{looked.problem}. {alarm.WAY_OUT}.")
        elif looked.problem is None and context.cursor not in (None, SOUND):
            notifier.notify("The ledger is sound again", "Releases and rollouts go on.")
        return dg.SensorResult(cursor=state, skip_reason=looked.problem or "the ledger verifies")

    return [failed_runs, failed_checks, ledger_alarm]


def failed_checks_of(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """The checks that failed in a run, a line each."""
    return [
        f"{'/'.join(event.asset)}: {event.name} ({event.severity})"
        for event in events_of_run(instance, run_id)
        if event.kind == "check" and not event.passed
    ]
