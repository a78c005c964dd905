"""Pages for people: requested once a drift report says that its day is worth a look, and drawn when nothing else waits for a worker."""

import dagster as dg
from dagster import AssetRecordsFilter

from assets.names import asset_key
from assets.tabular.monitoring.monitors import DATA_DRIFT, WORTH_A_LOOK
from declare.pipeline import Pipeline
from sensors import jobs
from sensors.requests import AS_OF, CAUSE, PRIORITY, RANGE_END, RANGE_START, run_request

REPORTS_A_TICK = 100


def build(pipeline: Pipeline) -> dg.SensorDefinition:
    """The sensor that requests a pipeline's pages."""
    drift = asset_key(pipeline.name, DATA_DRIFT)

    @dg.sensor(
        name=f"{pipeline.name}_pages",
        job_name=jobs.pages(pipeline),
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Draws Evidently's page weekly, when an alarm begins, and on request.",
    )
    def pages(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        seen = AssetRecordsFilter(drift, after_storage_id=int(context.cursor or 0))
        records = context.instance.fetch_materializations(
            seen, limit=REPORTS_A_TICK, ascending=True
        ).records
        days = {
            str(made.metadata[WORTH_A_LOOK].value): None
            for record in records
            if (made := record.asset_materialization) is not None and WORTH_A_LOOK in made.metadata
        }
        asked = [
            run_request(
                context.instance,
                jobs.pages(pipeline),
                f"{pipeline.name}:page:{day}",
                tags={
                    RANGE_START: day,
                    RANGE_END: day,
                    AS_OF: day,
                    CAUSE: "worth a look",
                    PRIORITY: "-1",
                },
            )
            for day in days
        ]
        return dg.SensorResult(
            run_requests=[each for each in asked if isinstance(each, dg.RunRequest)],
            cursor=str(records[-1].storage_id) if records else context.cursor,
        )

    return pages
