"""The weekly job that tidies the lake: small files merged, files that nobody reads deleted."""

import dagster as dg

from resources.lake import Lake

NAME = "lake_tidy"
WEEKLY = "30 3 * * 0"
"""Early on Sunday, when the night's deliveries are still to come."""


def build() -> dg.Definitions:
    """The job and its schedule; one for the platform, over the tables of all pipelines."""

    @dg.op(description="Compacts and vacuums every table of the lake.")
    def tidy_tables(context: dg.OpExecutionContext, lake: Lake) -> None:
        for tidied in lake.tidy():
            context.log.info(tidied.line)

    @dg.job(
        name=NAME,
        description="Merges small files of the lake's tables, and deletes files that no version of "
        "the last week reads.",
    )
    def tidy() -> None:
        tidy_tables()

    schedule = dg.ScheduleDefinition(
        name=f"{NAME}_schedule",
        job=tidy,
        cron_schedule=WEEKLY,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Tidies the lake once a week.",
    )
    return dg.Definitions(jobs=[tidy], schedules=[schedule])
