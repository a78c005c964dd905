"""Alerts: failed runs, failed checks and requests whose tries are spent, told once through the notifier."""

import dagster as dg

from resources.instance import check_evaluations
from resources.notifier import Notifier
from sensors.requests import ATTEMPT, REQUEST

CHECKS_A_TICK = 200


def build() -> list[dg.SensorDefinition]:
    """The alert sensors of the platform; they watch every pipeline."""

    @dg.run_failure_sensor(
        name="failed_runs",
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells of every run that failed, and says so when the tries for a request are spent.",
    )
    def failed_runs(context: dg.RunFailureSensorContext, notifier: Notifier) -> None:
        run = context.dagster_run
        request = run.tags.get(REQUEST)
        attempt = f" (try {run.tags.get(ATTEMPT, '1')} of {request})" if request else ""
        notifier.notify(
            f"Run of {run.job_name} failed{attempt}",
            f"run {run.run_id}: {context.failure_event.message}",
        )

    @dg.sensor(
        name="failed_checks",
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells of every asset check that failed, warnings included: Dagster itself raises no alert for them.",
    )
    def failed_checks(context: dg.SensorEvaluationContext, notifier: Notifier) -> dg.SensorResult:
        records = check_evaluations(context.instance, int(context.cursor or 0), CHECKS_A_TICK)
        failed = []
        for record in records:
            event = record.event_log_entry.dagster_event
            evaluation = event.asset_check_evaluation_data if event else None
            if evaluation is not None and not evaluation.passed:
                failed.append(
                    f"{evaluation.asset_key.to_user_string()}: {evaluation.check_name} ({evaluation.severity.value.lower()})"
                )
        if failed:
            notifier.notify(f"{len(failed)} asset checks failed", "\n".join(failed))
        return dg.SensorResult(
            cursor=str(records[-1].storage_id) if records else context.cursor,
            skip_reason=dg.SkipReason(f"{len(records)} checks read, {len(failed)} failed"),
        )

    return [failed_runs, failed_checks]
