"""The weekly job over the tables of the lake."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import dagster as dg
import polars as pl
from deltalake import DeltaTable, write_deltalake

from resources.lake import Lake
from sensors import tidy

DAY = date(2024, 1, 1)


def test_the_job_merges_small_files_and_runs_once_a_week(tmp_path: Path) -> None:
    lake = Lake(uri=str(tmp_path))
    frame = pl.DataFrame({"date": [DAY], "number": [1]})
    lake.write("toy/features", frame, [DAY])
    write_deltalake(lake.place("toy/features"), frame.to_arrow(), mode="append")
    assert files(lake) == 2

    definitions = dg.Definitions.merge(tidy.build(), dg.Definitions(resources={"lake": lake}))
    repository = definitions.get_repository_def()
    ended = repository.get_job("lake_tidy").execute_in_process()
    assert ended.success
    assert files(lake) == 1
    assert lake.read("toy/features")["number"].to_list() == [1, 1]

    schedule = repository.get_schedule_def("lake_tidy_schedule")
    assert schedule.cron_schedule == "30 3 * * 0"
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def files(lake: Lake) -> int:
    """How many files the newest version of the table reads."""
    return len(DeltaTable(lake.place("toy/features")).file_uris())
